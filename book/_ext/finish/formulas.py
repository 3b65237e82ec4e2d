"""Formulas typeset when the book is built: a page needs no script, and nothing moves on load.

MathJax runs once, in Node.js, over the formulas of all pages (typeset.cjs). Each page gets the
glyphs of its own formulas as a style; the fonts lie in ``_static/mathjax``. For screen readers
each formula is also there as MathML. Where npm could not fetch MathJax, the pages load it.
"""

import json
import re
import subprocess
from dataclasses import replace
from functools import cache
from html import unescape
from pathlib import Path
from typing import Any

from sphinx.util import logging

from finish.pages import Book, Page

LOG = logging.getLogger(__name__)
TYPESET = Path(__file__).with_name("typeset.cjs")
FONTS = "_static/mathjax/output/chtml/fonts/woff-v2"

_FORMULA = re.compile(
    r'(<(span|div) class="[^"]*\bmath notranslate nohighlight"[^>]*>)'
    r"\s*(\\\(|\\\[)([^<]*?)(?:\\\)|\\\])\s*(</\2>)"
)
_MATHJAX = re.compile(
    r'\s*<script>window\.MathJax = .*?</script>|\s*<script[^>]*\bsrc="[^"]*mathjax[^"]*"></script>'
)


def formulas(html: str) -> list[dict[str, Any]]:
    """Return the formulas of a page that are not typeset: their TeX, and whether in a display."""
    return [
        {"tex": unescape(tex), "display": opening == r"\["}
        for _, _, opening, tex, _ in _FORMULA.findall(html)
    ]


def typeset(mathjax: Path, pages: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Let MathJax typeset the formulas of some pages.

    Parameters
    ----------
    mathjax
        MathJax for Node.js.
    pages
        For each page its ``formulas``, and where it finds the ``fonts``.

    Returns
    -------
    dict
        For each page the ``style`` of its glyphs, and each formula as ``html``.

    Raises
    ------
    subprocess.CalledProcessError
        MathJax does not understand a formula.
    """
    command = ["node", str(TYPESET), str(mathjax)]
    done = subprocess.run(
        command, input=json.dumps(pages), capture_output=True, encoding="utf-8", check=True
    )
    return json.loads(done.stdout)


def with_formulas(html: str, style: str, typeset_formulas: list[str]) -> str:
    """Return the page with its formulas typeset, in their order."""
    rest = iter(typeset_formulas)
    html = _FORMULA.sub(lambda match: match[1] + next(rest) + match[5], html)
    return html.replace("</head>", f"<style>{style}</style>\n  </head>", 1)


@cache
def _of_all_pages(book: Book) -> dict[str, dict[str, Any]]:
    work = {
        page.name: {"formulas": found, "fonts": page.path_to(FONTS)}
        for page in book.pages
        if (found := formulas(page.html))
    }
    if book.mathjax is None or not work:
        return {}
    try:
        return typeset(book.mathjax, work)
    except (OSError, subprocess.CalledProcessError) as problem:
        LOG.warning("formulas could not be typeset: %s", getattr(problem, "stderr", problem))
        return {}


def typeset_formulas(page: Page, book: Book) -> Page:
    """Typeset the formulas of a page; one without formulas left to typeset loads no MathJax."""
    html = page.html
    if done := _of_all_pages(book).get(page.name):
        html = with_formulas(html, done["style"], done["html"])
    if not formulas(html):
        html = _MATHJAX.sub("", html)
    return replace(page, html=html)
