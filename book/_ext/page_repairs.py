"""Small repairs of the theme's frame, after the pages are written.

The theme (sphinx-book-theme 1.3.0 on pydata-sphinx-theme 0.17.1) offers no option for these. Each
line says what axe-core finds without it.
"""

import re
from collections.abc import Callable
from pathlib import Path

from sphinx.application import Sphinx

REPAIRS = (
    # label-content-name-mismatch: a button that shows "Search Ctrl+K" is not named "Search".
    (r'(<button class="btn search-button-field[^>]*?)\s+title="Search" aria-label="Search"', r"\1"),
    # label-content-name-mismatch: the icons' titles become text in a button named "Color mode".
    (r'(<i class="theme-switch [^>]*?)\s+title="[^"]*"', r"\1"),
    # label-content-name-mismatch: "Show code cell source" is the name of what unfolds it.
    (r'(<summary) aria-label="Toggle hidden content"', r"\1"),
    # region: the logo and the search of the side bar lie in no landmark.
    (
        r'<div id="pst-primary-sidebar" class',
        r'<div id="pst-primary-sidebar" role="complementary" aria-label="Book" class',
    ),
    # The front door forwards to the first page. Without an icon of its own some browsers ask the
    # server for /favicon.ico before they go, and complain that there is none.
    (
        r'\A\s*(<meta http-equiv="Refresh"[^>]*>)\s*\Z',
        r'<!DOCTYPE html>\n<html lang="en">\n<title>Adversarial Examples, Hands On</title>\n'
        r'<link rel="icon" href="data:,">\n\1\n</html>\n',
    ),
    # aria-deprecated-role, aria-allowed-role, aria-required-children: the items of a list.
    (r'role="doc-biblioentry"', r'role="listitem"'),
)


def repair(page: str) -> str:
    """Return the page with every repair; a repaired page comes back as it is."""
    for pattern, replacement in REPAIRS:
        page = re.sub(pattern, replacement, page)
    return page


def rewrite(app: Sphinx, error: Exception | None, change: Callable[[str, str], str]) -> None:
    """Rewrite every page of the finished book.

    Parameters
    ----------
    app, error
        What Sphinx gives when it has finished; after an error nothing is rewritten.
    change
        It gets a page's HTML and its path in the book, with slashes, and returns the new HTML.
    """
    if error is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    for path in out.glob("**/*.html"):
        before = path.read_text(encoding="utf-8")
        after = change(before, path.relative_to(out).as_posix())
        if after != before:
            path.write_text(after, encoding="utf-8")


def repair_all(app: Sphinx, error: Exception | None) -> None:
    """Repair every page of the finished book."""
    rewrite(app, error, lambda page, _: repair(page))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    # After the table of contents has written the front door (500).
    app.connect("build-finished", repair_all, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
