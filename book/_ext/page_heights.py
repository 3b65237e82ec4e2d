"""The entries of the reference keep about the room that they need before a browser lays them out.

An entry far from the window is laid out when the reader comes near (book.css). Until then it takes
the lines that are counted here from its text, as a telephone shows it.
"""

import re
from html.parser import HTMLParser

from page_repairs import rewrite
from sphinx.application import Sphinx

COLUMNS = 36
"""Characters of a line on a telephone, where the entries are indented."""

_STYLED = re.compile(r'(<dl class="py[^"]*") style="--lines: \d+"')
_BLOCKS = {"dt", "p", "li", "tr"}


class _Entries(HTMLParser):
    """Finds the outermost entries of a page, and how many lines each takes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[tuple[int, int], int]] = []
        self._inside: list[bool] = []  # for each open list: is it an entry?
        self._place, self._lines = (0, 0), 0.0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "dl":
            entry = (dict(attrs).get("class") or "").split()[:1] == ["py"]
            if entry and not any(self._inside):
                self._place, self._lines = self.getpos(), 0.0
            self._inside.append(entry)
        # The space around a block, and its last line, which is not full.
        self._lines += tag in _BLOCKS

    def handle_endtag(self, tag: str) -> None:
        if tag == "dl" and self._inside.pop() and not any(self._inside):
            self.found.append((self._place, round(self._lines)))

    def handle_data(self, data: str) -> None:
        self._lines += len(data) / COLUMNS


def with_heights(page: str) -> str:
    """Return the page with the number of its lines on each of its entries."""
    if '<dl class="py' not in page:
        return page
    page = _STYLED.sub(r"\1", page)
    entries = _Entries()
    entries.feed(page)
    lines = page.split("\n")
    for (line, column), height in reversed(entries.found):
        text = lines[line - 1]
        at = text.index('"', text.index('class="', column) + len('class="')) + 1
        lines[line - 1] = f'{text[:at]} style="--lines: {height}"{text[at:]}'
    return "\n".join(lines)


def measure_all(app: Sphinx, error: Exception | None) -> None:
    """Measure the entries of every page of the finished book."""
    rewrite(app, error, lambda page, _: with_heights(page))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("build-finished", measure_all, priority=950)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
