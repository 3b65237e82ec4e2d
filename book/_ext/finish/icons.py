"""The frame's icons as drawings in the page, in place of a script of 1.5 MB that draws them.

The theme writes `<i class="fa-solid fa-sun">` and loads all of Font Awesome to replace a dozen such
elements, on every page, after it is shown. Here each becomes the same drawing, taken from the same
file, when the book is built.
"""

import re
from functools import cache
from pathlib import Path

import pydata_sphinx_theme  # type: ignore[import-untyped]
from sphinx.util import logging

LOG = logging.getLogger(__name__)
SCRIPT = "static/scripts/fontawesome.js"
"""Where the theme keeps its drawings; in the book, below ``_static``."""

_ICON = re.compile(r'<(i|span)\b([^>]*?)\bclass="([^"]*\bfa-[^"]*)"([^>]*)></\1>')
_LOADED = re.compile(r"[^\S\n]*<script[^>]*/fontawesome\.js[^>]*></script>\n?")
_BRANDS = {"fab", "fa-brands"}
_NO_NAME = {"fa-solid", "fa-regular", "fa-brands", "fa-lg", "fa-fw"}


@cache
def drawings(script: str, name: str) -> list[tuple[str, str, str]]:
    """Return width, height and path of an icon, in the order brands, regular, solid."""
    key = rf'[{{,]"?{re.escape(name)}"?:\[(\d+),(\d+),\[[^\]]*\],"[0-9a-f]+","([^"]+)"\]'
    return re.findall(key, script)


@cache
def _script() -> str:
    theme = Path(pydata_sphinx_theme.__file__).parent / "theme" / "pydata_sphinx_theme"
    return (theme / SCRIPT).read_text(encoding="utf-8")


def draw(html: str, script: str | None = None) -> str:
    """Return the page with its icons drawn; warn of an icon that the script does not hold.

    Parameters
    ----------
    html
        The page.
    script
        The text of the script that holds the drawings; the theme's own by default.
    """

    def svg(match: re.Match[str]) -> str:
        _, before, classes, after = match.groups()
        names = classes.split()
        (name,) = [n[3:] for n in names if n.startswith("fa-") and n not in _NO_NAME] or [""]
        found = drawings(script or _script(), name)
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

    return _LOADED.sub("", _ICON.sub(svg, html))


def remove_script(out: Path) -> None:
    """Leave the script that draws icons out of the book."""
    for file in (out / "_static" / "scripts").glob(f"{Path(SCRIPT).name}*"):
        file.unlink()
