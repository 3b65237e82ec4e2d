"""How long a lesson takes to read, computed from its words and its lines of code.

The role ``{lesson-time}`` names a lesson and shows its minutes. Prose counts 180 words a minute and
code 20 lines a minute, as slow as both are read with care. What is folded, and the exercises, are
not counted. The lessons name the same minutes in their own words; a test compares the two.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxRole

WORDS, LINES = 180, 20
"""Words of prose and lines of code that are read in a minute."""

STEP = 5
"""Minutes are rounded to a multiple of this: nobody reads to the minute."""

_FOLDED = {"hide-cell", "hide-input", "remove-cell", "remove-input"}
_FORMULA = re.compile(r"\$\$.+?\$\$|\$[^$\n]+\$", re.DOTALL)
_ADDRESS = re.compile(r"(?<=\])\([^)\s]*\)|<[^>]*>")
_WORD = re.compile(r"\w[\w'’.,/-]*")


def words(markdown: str) -> int:
    """Count the words of a text; a formula is one of them, an address none."""
    return len(_WORD.findall(_ADDRESS.sub(" ", _FORMULA.sub(" x ", markdown))))


def minutes(cells: Sequence[Mapping[str, Any]]) -> int:
    """Return the minutes that it takes to read the cells of a notebook, at least `STEP`."""
    prose = code = 0
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            prose += words(source)
        elif cell["cell_type"] == "code" and not _FOLDED & set(cell["metadata"].get("tags", [])):
            code += sum(1 for line in source.splitlines() if line.strip())
    return max(1, round((prose / WORDS + code / LINES) / STEP)) * STEP


def of_lesson(path: Path) -> int:
    """Return the minutes that it takes to read the notebook at `path`."""
    return minutes(json.loads(path.read_text(encoding="utf-8"))["cells"])


class LessonTime(SphinxRole):
    """The minutes of the lesson named, as in ``{lesson-time}`01-see-it-happen` ``."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return the text, or a message of what is missing."""
        path = Path(self.env.srcdir) / "notebooks" / f"{self.text}.ipynb"
        if not path.exists():
            message = self.inliner.reporter.warning(f"there is no lesson {self.text!r}")
            return [], [message]
        self.env.note_dependency(str(path))
        text = f"{of_lesson(path)} min"
        return [nodes.inline("", text, classes=["lesson-time"])], []


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_role("lesson-time", LessonTime())
    return {"parallel_read_safe": True, "parallel_write_safe": True}
