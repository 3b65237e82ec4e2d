"""The frame's icons as drawings in the page, in place of a script of 1.5 MB that draws them.

The theme writes `<i class="fa-solid fa-sun">` and loads all of Font Awesome to replace a dozen such
elements, on every page, after it is shown. Here each becomes the same drawing, taken from the same
file, when the book is built.
"""

import re
from functools import cache
from pathlib import Path

import pydata_sphinx_theme  # type: ignore[import-untyped]
from page_repairs import rewrite
from sphinx.application import Sphinx
from sphinx.util import logging

LOG = logging.getLogger(__name__)
SCRIPT = "scripts/fontawesome.js"

_ICON = re.compile(r'<(i|span)\b([^>]*?)\bclass="([^"]*\bfa-[^"]*)"([^>]*)></\1>')
_LOADED = re.compile(r"[^\S\n]*<script[^>]*/fontawesome\.js[^>]*></script>\n?")
_BRANDS = {"fab", "fa-brands"}
_NO_NAME = {"fa-solid", "fa-regular", "fa-brands", "fa-lg", "fa-fw"}


@cache
def drawings(script: str, name: str) -> list[tuple[str, str, str]]:
    """Return width, height and path of an icon, in the order brands, regular, solid."""
    key = rf'[{{,]"?{re.escape(name)}"?:\[(\d+),(\d+),\[[^\]]*\],"[0-9a-f]+","([^"]+)"\]'
    return re.findall(key, script)


def drawn(page: str, script: str) -> str:
    """Return the page with its icons drawn; one that the script does not hold is warned of."""

    def svg(match: re.Match[str]) -> str:
        _, before, classes, after = match.groups()
        names = classes.split()
        (name,) = [n[3:] for n in names if n.startswith("fa-") and n not in _NO_NAME] or [""]
        found = drawings(script, name)
        if not found:
            LOG.warning("the icon %r is not among the theme's drawings", classes)
            return match[0]
        width, height, path = found[0 if _BRANDS & set(names) else -1]
        kept = [n for n in names if n == "fa-lg" or not re.match(r"fa(s|b|r)?$|fa-", n)]
        return (
            f'<svg class="{" ".join(["svg-inline--fa", *kept])}"{before.rstrip()}{after}'
            f' aria-hidden="true" focusable="false" viewBox="0 0 {width} {height}">'
            f'<path fill="currentColor" d="{path}"/></svg>'
        )

    return _LOADED.sub("", _ICON.sub(svg, page))


def draw_all(app: Sphinx, error: Exception | None) -> None:
    """Draw the icons of every page of the finished book, and leave the script out of it."""
    # The theme's own copy: that of an earlier build is gone from the book.
    theme = Path(pydata_sphinx_theme.__file__).parent / "theme" / "pydata_sphinx_theme"
    script = (theme / "static" / SCRIPT).read_text(encoding="utf-8")
    rewrite(app, error, lambda page, _: drawn(page, script))
    for file in (Path(app.outdir) / "_static").glob(f"{SCRIPT}*"):
        file.unlink()


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    # Before the policies are written into all pages (990).
    app.connect("build-finished", draw_all, priority=920)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
