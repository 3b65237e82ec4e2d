"""Figures as part of their page: their letters are the page's, their colours follow its theme.

A lesson stores a figure as a drawing on white (`advlib.plots.show`). As an image in a page it would
stay white in the dark. Here it becomes an element of the page, in which black is the colour of the
text, white that of the page, and each colour of the course changes to its partner in the dark.
Pixels in a drawing are images, and stay as they are.
"""

import posixpath
import re
from dataclasses import replace
from itertools import count
from pathlib import Path

from advlib.plots import palette
from finish.pages import Book, Page

MARK = '<svg class="drawing"'
"""How a drawing of `advlib.plots` begins."""

_IMAGE = re.compile(r'<img\b(?=[^>]*\balt="([^"]*)")[^>]*\bsrc="([^"]+\.svg)"[^>]*>')
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_TAG = re.compile(r"<[^>]*>")
_COLOUR = re.compile(r"#[0-9a-f]{6}\b")
_NAME = re.compile(r'(\bid="|\bhref="#|\burl\(#)')
_BETWEEN = re.compile(r"> ?<")

_FOLLOWING = {
    "#000000": "currentColor",
    "#ffffff": "var(--pst-color-background)",
    **{
        value.lower(): f"light-dark({value}, {dark})"
        for name, value in vars(palette).items()
        if (dark := getattr(palette, f"{name}_DARK", "")) and isinstance(value, str)
    },
}
"""What stands for a colour that is black, white, or the course's."""


def element(drawing: str, alt: str, prefix: str) -> str:
    """Return a drawing as an element of a page.

    Parameters
    ----------
    drawing
        As it was stored.
    alt
        What it shows, escaped as in an attribute.
    prefix
        What the names of its parts begin with; no other drawing of the page has it.
    """

    def follow(tag: re.Match[str]) -> str:
        text = _COLOUR.sub(lambda found: _FOLLOWING.get(found[0], found[0]), tag[0])
        return _NAME.sub(rf"\g<1>{prefix}", text)

    # Matplotlib notes each formula beside its drawing, as it was typed.
    drawing = _TAG.sub(follow, _COMMENT.sub("", drawing))
    drawing = drawing.replace(MARK, f'{MARK} role="img" aria-label="{alt}"', 1)
    return _BETWEEN.sub("><", " ".join(drawing.split()))


def inline(page: Page, book: Book) -> Page:
    """Return the page with its drawings in place of the images of them."""
    folder, number = posixpath.dirname(page.name), count(1)

    def drawn(image: re.Match[str]) -> str:
        path = book.out / posixpath.normpath(posixpath.join(folder, image[2]))
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        return element(text, image[1], f"d{next(number)}-") if text.startswith(MARK) else image[0]

    return replace(page, html=_IMAGE.sub(drawn, page.html))


def remove_inlined(out: Path) -> None:
    """Remove the files of drawings: they are in their pages now."""
    for file in (out / "_images").glob("*.svg"):
        if file.read_text(encoding="utf-8").startswith(MARK):
            file.unlink()
