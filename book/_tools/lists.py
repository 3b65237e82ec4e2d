"""Write what the pages "What we claim" and "The networks" list: claims.json and networks.json.

python book/_tools/lists.py     both, from the executed lessons and the model cards

Nothing in these files is typed by hand. `execute.py` renews a lesson's claims when it executes it.
"""

import json
import re
from pathlib import Path
from typing import Any

from advlib.lessons.claims import MIME, Claim
from advlib.models import shipped

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
CLAIMS = ROOT / "book" / "claims.json"
NETWORKS = ROOT / "book" / "networks.json"
ROBUST = "accuracy under PGD-20, 4/255"
"""What the page calls robust accuracy, in the words of the cards."""


def claims_in(lesson: Path) -> list[dict[str, Any]]:
    """The claims that an executed lesson shows, each with its lesson and cell."""
    cells = json.loads(lesson.read_text(encoding="utf-8"))["cells"]
    return [
        {**Claim(**output["data"][MIME]).data(), "cell": cell["id"]}
        for cell in cells
        for output in cell.get("outputs", [])
        if MIME in output.get("data", {})
    ]


def renew_claims(lesson: Path, file: Path = CLAIMS) -> None:
    """Keep the claims of the lesson just executed; forget those of lessons that are gone."""
    numbers = {int(path.name[:2]) for path in lesson.parent.glob("[0-9][0-9]-*.ipynb")}
    kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    here = int(lesson.name[:2])
    others = [each for each in kept if each["lesson"] in numbers - {here}]
    write(file, sorted(others + claims_in(lesson), key=lambda each: each["lesson"]))


def network(name: str) -> dict[str, Any]:
    """One shipped network, as its model card describes it."""
    text = shipped.card(name)
    rows = dict(re.findall(r"(?m)^\| (.+?) \| (.+?) \|", text))
    parent, _, how = rows["parent"].partition(": ")
    purpose = text.split("\n\n")[2]
    found = re.search(r"## Network\n\n`(\w+)`: (\S+) parameters", text)
    assert found, f"the card of {name} does not name its architecture"
    return {
        "name": name,
        "architecture": f"{found[1]}, {found[2]} parameters",
        "parent": None if parent == "none" else parent,
        "parent_gives": how,
        "recipe": f"{purpose} {rows['epochs']} epochs of {int(rows['images']):,} images.",
        "training_eps": rows["training budget"],
        "seed": int(rows["seed"]),
        "clean": float(rows["clean accuracy"]),
        "robust": float(rows[ROBUST]),
    }


def write(file: Path, entries: list[dict[str, Any]]) -> None:
    """Write one of the two files."""
    text = json.dumps(entries, indent=1, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Write both files."""
    lessons = sorted(NOTEBOOKS.glob("*.ipynb"))
    write(CLAIMS, [each for lesson in lessons for each in claims_in(lesson)])
    write(NETWORKS, [network(name) for name in shipped.NAMES])


if __name__ == "__main__":
    main()
