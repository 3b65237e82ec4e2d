"""Exit with 1 if the lessons or the scoreboard left out what the network alone would have brought.

python book/_tools/left_out.py

A lesson whose data cannot be fetched says so in one sentence and goes on; so does the scoreboard.
That is right without a network. Where there is one, it hides that nothing was measured.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
EMPTY = "not at hand, so this part stays empty"
"""What a lesson prints in place of the part."""
NOT_FETCHED = "could not be fetched"
"""What the reason of a row says. (Rows that wait for a file of the reader's own say otherwise.)"""


def from_lesson(notebook: dict) -> list[str]:
    """The lines of its stored outputs that say that a part stays empty."""
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", [])]
    texts = ["".join(output.get("text", "")) for output in outputs]
    return [line for text in texts for line in text.splitlines() if EMPTY in line]


def from_scoreboard(stored: dict) -> list[str]:
    """The reasons of rows that were not run because something could not be fetched."""
    return [row["reason"] for row in stored["rows"] if NOT_FETCHED in row["reason"]]


def main() -> int:
    """Run the command line."""
    found = from_scoreboard(json.loads((HERE / "scoreboard.json").read_text("utf-8")))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        said = from_lesson(json.loads(path.read_text(encoding="utf-8")))
        found += [f"{path.name}: {line}" for line in said]
    print("\n".join(found) or "Nothing that the network brings was left out.")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
