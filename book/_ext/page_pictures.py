"""Pictures that keep their place: each page knows their sizes before they arrive.

A picture behind the first section waits until the reader comes near it. The stills of the
explorers, which only a reader without scripts sees, become files, so that nobody else loads them.
"""

import base64
import hashlib
import posixpath
import re
import struct
from pathlib import Path

from page_repairs import rewrite
from sphinx.application import Sphinx

_IMAGE = re.compile(r"<img\b[^>]*>")
_SOURCE = re.compile(r'\bsrc="([^"]+)"')
_EMBEDDED = re.compile(r'\bsrc="data:image/png;base64,([^"]+)"')
_SVG_SIZE = re.compile(r'<svg\b[^>]*\bwidth="(\d+)"[^>]*\bheight="(\d+)"')


def size(path: Path) -> tuple[int, int] | None:
    """Return width and height of a PNG or SVG file in pixels, or None."""
    if path.suffix == ".png":
        width, height = struct.unpack(">II", path.read_bytes()[16:24])
        return width, height
    if path.suffix == ".svg" and (found := _SVG_SIZE.search(path.read_text(encoding="utf-8"))):
        return int(found[1]), int(found[2])
    return None


def placed(page: str, name: str, out: Path) -> str:
    """Return the page with sizes on its pictures; one that has sizes keeps them.

    Parameters
    ----------
    page
        Its HTML.
    name
        Its path in the book, with slashes.
    out
        The book's folder; embedded pictures are written there.
    """
    # Of the article: the frame around it has a heading of its own.
    first_section = page.find("<h2", max(page.find("<article"), 0))
    folder = posixpath.dirname(name) or "."

    def file_of(match: re.Match[str]) -> str:
        content = base64.b64decode(match[1])
        target = f"_images/{hashlib.sha256(content).hexdigest()}.png"
        (out / target).parent.mkdir(parents=True, exist_ok=True)
        (out / target).write_bytes(content)
        return f'src="{posixpath.relpath(target, folder)}"'

    def known(match: re.Match[str]) -> str:
        tag = _EMBEDDED.sub(file_of, match[0])
        source = _SOURCE.search(tag)
        path = out / posixpath.normpath(posixpath.join(folder, source[1])) if source else out
        extra = ""
        if "width=" not in tag and path.is_file() and (found := size(path)):
            extra += ' width="{}" height="{}"'.format(*found)
        if "loading=" not in tag and 0 <= first_section < match.start():
            extra += ' loading="lazy"'
        return re.sub(r"\s*/?>$", f"{extra}>", tag)

    return _IMAGE.sub(known, page)


def place_all(app: Sphinx, error: Exception | None) -> None:
    """Give the pictures of every page of the finished book their sizes."""
    rewrite(app, error, lambda page, name: placed(page, name, Path(app.outdir)))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("build-finished", place_all, priority=930)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
