"""Sizes that a browser must know in time: of images, and of text that is too wide for its column.

An image keeps its place before it arrives; one behind the first section waits until the reader
comes near it. Stored text a little too wide for a telephone says how wide it is: the style shrinks
its letters until it fits. Wider text keeps its letters and is broken, as code is; each line is an
element of its own, so that what is broken off stands indented below its beginning.
"""

import posixpath
import re
import struct
from dataclasses import replace
from html import unescape
from pathlib import Path

from finish.pages import Book, Page

FITS, SHRINKS = 50, 68
"""Columns that fit a telephone, and that still do in letters of 9 pixels."""

_IMAGE = re.compile(r"<img\b[^>]*>")
_SOURCE = re.compile(r'\bsrc="([^"]+)"')
_SVG_SIZE = re.compile(r'<svg\b[^>]*\bwidth="(\d+)"[^>]*\bheight="(\d+)"')
_OUTPUT = re.compile(
    r'(<div class="output [^"]*"><div class="highlight"><pre)(>)((?:(?!</pre>).)*)(?=</pre>)',
    re.DOTALL,
)
_PRE = re.compile(
    r'(<div class="highlight"><pre[^>]*>)((?:<span></span>)?)((?:(?!</pre>).)*)(?=</pre>)',
    re.DOTALL,
)
_LINE = '<span class="line">'
_TAG = re.compile(r"<[^>]*>")


def size(path: Path) -> tuple[int, int] | None:
    """Return width and height of a PNG or SVG file in pixels, or None."""
    if path.suffix == ".png":
        width, height = struct.unpack(">II", path.read_bytes()[16:24])
        return width, height
    if path.suffix == ".svg" and (found := _SVG_SIZE.search(path.read_text(encoding="utf-8"))):
        return int(found[1]), int(found[2])
    return None


def size_images(page: Page, book: Book) -> Page:
    """Give each image of a page its size; one that has a size keeps it."""
    # Of the article: the frame around it has a heading of its own.
    first_section = page.html.find("<h2", max(page.html.find("<article"), 0))
    folder = posixpath.dirname(page.name)

    def sized(match: re.Match[str]) -> str:
        tag, extra = match[0], ""
        source = _SOURCE.search(tag)
        path = book.out / posixpath.normpath(posixpath.join(folder, source[1] if source else ""))
        if "width=" not in tag and path.is_file() and (found := size(path)):
            extra += ' width="{}" height="{}"'.format(*found)
        if "loading=" not in tag and 0 <= first_section < match.start():
            extra += ' loading="lazy"'
        return re.sub(r"\s*/?>$", f"{extra}>", tag)

    return replace(page, html=_IMAGE.sub(sized, page.html))


def count_columns(html: str) -> str:
    """Return the page with the columns of its stored text, where they matter."""

    def counted(match: re.Match[str]) -> str:
        start, end, text = match.groups()
        lines = unescape(_TAG.sub("", text)).splitlines() or [""]
        columns = max(map(len, lines))
        style = f' style="--columns: {columns}"' if FITS < columns <= SHRINKS else ""
        return f"{start}{style}{end}{text}"

    return _OUTPUT.sub(counted, html)


def split_lines(html: str) -> str:
    """Return the page with each line of code and of stored text in an element.

    Pygments closes at the end of each line what it has opened there.
    """

    def split(match: re.Match[str]) -> str:
        start, mark, text = match.groups()
        if _LINE in text:
            return match[0]
        lines = (line and f"{_LINE}{line}</span>" for line in text.split("\n"))
        return start + mark + "\n".join(lines)

    return _PRE.sub(split, html)
