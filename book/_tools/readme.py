"""List the lessons in README.md, in the order of _toc.yml: python book/_tools/readme.py

Beside each, and below the title of its notebook, stands a link that opens it in Colab, if the
address of this repository is known and is on GitHub (book/_ext/address.py). Neither can find that
out by itself, so they hold no such link until this has run in a clone.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

import address  # noqa: E402

COLAB = "https://colab.research.google.com"
BADGE = f"{COLAB}/assets/colab-badge.svg"
LIST = re.compile(r"(?m)(?:^\d+\. \[.*\n)+")


def title(path: Path) -> str:
    """Return the title of a notebook."""
    first = json.loads(path.read_text(encoding="utf-8"))["cells"][0]
    return "".join(first["source"]).splitlines()[0].removeprefix("# ")


def badges(root: Path, url: str, branch: str = "main") -> dict[str, str]:
    """Return each lesson's link to Colab, for a repository at `url`; "" where there is none."""
    options = {}
    if url.startswith("https://github.com/"):
        options = {
            "launch_buttons": {"colab_url": COLAB},
            "repository_url": url,
            "repository_branch": branch,
        }
    names = re.findall(r"file: (notebooks/\S+)", (root / "_toc.yml").read_text(encoding="utf-8"))
    colab = {name: address.in_colab(options, name) for name in names}
    return {name: f"[![Open in Colab]({BADGE})]({at})" if at else "" for name, at in colab.items()}


def lessons(root: Path, links: dict[str, str]) -> str:
    """Return the list of lessons, each with its link."""
    lines = [
        f"{number}. [{title(root / f'{name}.ipynb')}]({name}.ipynb) {link}".rstrip()
        for number, (name, link) in enumerate(links.items(), 1)
    ]
    return "".join(f"{line}\n" for line in lines)


def with_badge(notebook: str, link: str) -> str:
    """Return the text of a notebook's file with `link` below its title, and no other one."""
    content = json.loads(notebook)
    title, _, rest = "".join(content["cells"][0]["source"]).partition("\n\n")
    parts = [title, link, re.sub(r"\A\[!\[Open in Colab\].*\n+", "", rest)]
    content["cells"][0]["source"] = "\n\n".join(filter(None, parts)).splitlines(keepends=True)
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def main() -> None:
    """Run the command line."""
    links = badges(ROOT, address.repository(ROOT), address.branch(ROOT))
    readme, found = ROOT / "README.md", lessons(ROOT, links)
    for path, change in (
        (readme, lambda text: LIST.sub(lambda _: found, text, count=1)),
        *((ROOT / f"{n}.ipynb", lambda text, n=n: with_badge(text, links[n])) for n in links),
    ):
        path.write_text(change(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
