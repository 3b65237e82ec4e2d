"""Stored text that is a little too wide for a telephone says how wide it is.

The style then shrinks its letters until it fits. Wider text keeps its letters and scrolls.
"""

import html
import re

from page_repairs import rewrite
from sphinx.application import Sphinx

FITS, SHRINKS = 50, 68
"""Columns that fit a telephone, and that still do in letters of 9 pixels."""

_OUTPUT = re.compile(
    r'(<div class="output [^"]*"><div class="highlight"><pre)(>)((?:(?!</pre>).)*)(?=</pre>)',
    re.DOTALL,
)
_TAG = re.compile(r"<[^>]*>")


def measured(page: str) -> str:
    """Return the page with the columns of its stored text, where they matter."""

    def with_columns(match: re.Match[str]) -> str:
        start, end, text = match.groups()
        lines = html.unescape(_TAG.sub("", text)).splitlines() or [""]
        columns = max(map(len, lines))
        style = f' style="--columns: {columns}"' if FITS < columns <= SHRINKS else ""
        return f"{start}{style}{end}{text}"

    return _OUTPUT.sub(with_columns, page)


def measure_all(app: Sphinx, error: Exception | None) -> None:
    """Measure the stored text of every page of the finished book."""
    rewrite(app, error, lambda page, _: measured(page))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("build-finished", measure_all, priority=925)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
