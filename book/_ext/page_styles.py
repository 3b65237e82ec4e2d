"""One style sheet for all pages, without the rules that none of them can use.

The theme and the extensions bring a dozen sheets, and a browser paints nothing before it has read
them all. Most of their rules are for parts that this book does not have. Here the sheets become one
file, in their order. Of a large sheet, a rule goes if each of its selectors names a class or an id
that stands in no page and in no script of the book.
"""

import hashlib
import posixpath
import re
from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from page_repairs import rewrite
from sphinx.application import Sphinx

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


def sheets(page: str) -> list[str]:
    """Return the sheets of a page in their order, as seen from the folder of sheets."""
    names: list[str] = []
    for link in _LINK.finditer(page):
        of = _OF.search(link[0])
        names += of[1].split() if of else [link[2]]
    return names


def linked(page: str, version: str) -> str:
    """Return the page with one link in place of all; the link says what it stands for."""
    links = list(_LINK.finditer(page))
    if not links:
        return page
    first = links[0]
    link = (
        f'    <link rel="stylesheet" href="{first[1]}{FOLDER}/{TARGET}?v={version}" '
        f'data-of="{" ".join(sheets(page))}">\n'
    )
    return page[: first.start()] + link + _LINK.sub("", page[first.end() :])


def in_order(lists: Iterable[list[str]]) -> list[str]:
    """Return all names once, each after those that it follows in one of the lists."""
    before: TopologicalSorter[str] = TopologicalSorter()
    for names in lists:
        for name in names:
            before.add(name)
        for first, second in zip(names, names[1:], strict=False):
            before.add(second, first)
    return list(before.static_order())


def merge_all(app: Sphinx, error: Exception | None) -> None:
    """Write the one sheet, and link every page of the finished book to it."""
    if error is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    files = [path for kind in ("html", "js", "mjs") for path in sorted(out.glob(f"**/*.{kind}"))]
    texts = {path: path.read_text(encoding="utf-8") for path in files}
    words = {word for text in texts.values() for word in _WORD.findall(text)}
    names = in_order(sheets(text) for path, text in texts.items() if path.suffix == ".html")
    merged = ""
    for name in names:
        sheet = read(out / FOLDER, name)
        merged += lean(sheet, words) if len(sheet) > LARGE else sheet
    content = f'@charset "UTF-8";\n{merged}'
    (out / FOLDER / TARGET).write_text(content, encoding="utf-8")
    version = hashlib.sha256(content.encode("utf-8")).hexdigest()[:8]
    rewrite(app, error, lambda page, _name: linked(page, version))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    # After what draws and moves parts of the pages (920 to 930), before their policies (990).
    app.connect("build-finished", merge_all, priority=960)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
