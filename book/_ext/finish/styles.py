"""One style sheet for all pages, without the rules that none of them can use.

The theme and the extensions bring a dozen sheets, and a browser paints nothing before it has read
them all. Most of their rules are for parts that this book does not have. Here the sheets become one
file, in their order. Of a large sheet, a rule goes if each of its selectors names a class or an id
that stands in no page and in no script of the book.
"""

import hashlib
import posixpath
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

from finish.large import FOLDER as STATES
from finish.pages import Book, Page

FOLDER, TARGET = "_static", "styles.css"
LARGE = 20_000
"""Characters of a sheet that is worth reading rule by rule."""
COMPOSED = ("bs-",)
"""Beginnings of names that the theme's scripts compose, so that they stand nowhere in full."""

_LINK = re.compile(
    r'[^\S\n]*<link\b(?=[^>]*\brel="stylesheet")[^>]*\bhref="((?:\.\./)*)'
    rf'{FOLDER}/([^"?]+\.css)(?:\?[^"]*)?"[^>]*>\n?'
)
_OF = re.compile(r'data-of="([^"]*)"')
_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_IMPORT = re.compile(r'@import\s+(?:url\()?["\']?([\w./-]+)["\']?\)?\s*;')
_ADDRESS = re.compile(r'url\(\s*(["\']?)(?!data:|\w+:|[/#])([^"\')]+)\1\s*\)')
_PIECE = re.compile(
    r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|url\([^"\')]*\)|[{};]|[^{};"\'u]+|.', re.DOTALL
)
_WORD = re.compile(r"[\w-]+")
_NAME = re.compile(r"[.#]([\w-]+)")
_ASIDE = re.compile(r"\([^()]*\)|\[[^\]]*\]")
_GROUP = ("@media", "@supports", "@layer", "@container")


def statements(sheet: str) -> Iterator[tuple[str, str | None]]:
    """Yield each statement: its head, and what stands in its braces or None if it has none."""
    head, body, depth = "", "", 0
    for piece in _PIECE.findall(sheet):
        if piece == "}" and depth == 1:
            yield head.strip(), body
            head, body, depth = "", "", 0
        elif depth:
            depth += (piece == "{") - (piece == "}")
            body += piece
        elif piece == "{":
            depth = 1
        elif piece == ";":
            yield head.strip(), None
            head = ""
        else:
            head += piece


def usable(selectors: str, words: set[str]) -> bool:
    """Whether all names of one of the `selectors` are among the `words`, as far as is plain.

    What stands in brackets, as in ``:is(...)`` or ``[class*=...]``, counts as usable.
    """
    while _ASIDE.search(selectors):
        selectors = _ASIDE.sub("", selectors)
    return any(
        all(name in words or name.startswith(COMPOSED) for name in _NAME.findall(selector))
        for selector in selectors.split(",")
    )


def lean(sheet: str, words: set[str]) -> str:
    """Return the sheet without the rules that no page can use, and without comments."""
    kept = []
    for head, body in statements(_COMMENT.sub("", sheet)):
        if body is None:
            kept.append(f"{head};")
        elif head.startswith(_GROUP):
            inside = lean(body, words)
            kept += [f"{head}{{{inside}}}"] if inside else []
        elif head.startswith("@") or usable(head, words):
            kept.append(f"{head}{{{body}}}")
    return "".join(kept)


def read(static: Path, name: str) -> str:
    """Return a sheet with what it imports, its addresses as seen from the folder `static`."""
    folder = posixpath.dirname(name)

    def imported(match: re.Match[str]) -> str:
        return read(static, posixpath.normpath(posixpath.join(folder, match[1])))

    def moved(match: re.Match[str]) -> str:
        return f"url({match[1]}{posixpath.normpath(posixpath.join(folder, match[2]))}{match[1]})"

    text = (static / name).read_text(encoding="utf-8").replace('@charset "UTF-8";', "")
    # First the addresses of this sheet, then those that come from others and are right already.
    return _IMPORT.sub(imported, _ADDRESS.sub(moved, text))


def sheets(html: str) -> list[str]:
    """Return the sheets of a page in their order, as seen from the folder of sheets."""
    names: list[str] = []
    for link in _LINK.finditer(html):
        of = _OF.search(link[0])
        names += of[1].split() if of else [link[2]]
    return names


def linked(html: str, version: str) -> str:
    """Return the page with one link in place of all; the link says what it replaces."""
    links = list(_LINK.finditer(html))
    if not links:
        return html
    first = links[0]
    link = (
        f'    <link rel="stylesheet" href="{first[1]}{FOLDER}/{TARGET}?v={version}" '
        f'data-of="{" ".join(sheets(html))}">\n'
    )
    return html[: first.start()] + link + _LINK.sub("", html[first.end() :])


@cache
def _merged(book: Book) -> str:
    """Return the one sheet: every page has the same sheets, in the same order."""
    scripts = [path for kind in ("js", "mjs") for path in book.out.glob(f"**/*.{kind}")]
    code = [path for path in scripts if path.parent != book.out / STATES]  # those hold data
    texts = [page.html for page in book.pages] + [path.read_text("utf-8") for path in code]
    words = {word for text in texts for word in _WORD.findall(text)}
    merged = '@charset "UTF-8";\n'
    for name in dict.fromkeys(name for page in book.pages for name in sheets(page.html)):
        sheet = read(book.out / FOLDER, name)
        merged += lean(sheet, words) if len(sheet) > LARGE else sheet
    return merged


def link(page: Page, book: Book) -> Page:
    """Link the page to the one sheet."""
    content = _merged(book).encode("utf-8")
    version = hashlib.sha256(content).hexdigest()[:8]
    files = {**page.files, f"{FOLDER}/{TARGET}": content}
    return replace(page, html=linked(page.html, version), files=files)
