"""Formulas set when the book is built: a page needs no script for them, and nothing moves on load.

MathJax runs once, in Node.js, over the formulas of all pages (typeset.cjs). Each page gets the
glyphs of its own formulas as a style; the fonts lie in ``_static/mathjax``. For screen readers
each formula also stands there as MathML. Where npm could not fetch MathJax, the pages load it.
"""

import html
import json
import posixpath
import re
import subprocess
from pathlib import Path
from typing import Any

from page_assets import setter
from sphinx.application import Sphinx
from sphinx.util import logging

LOG = logging.getLogger(__name__)
TYPESET = Path(__file__).with_name("typeset.cjs")
FONTS = "_static/mathjax/output/chtml/fonts/woff-v2"

_FORMULA = re.compile(
    r'(<(span|div) class="[^"]*\bmath notranslate nohighlight"[^>]*>)'
    r"\s*(\\\(|\\\[)([^<]*?)(?:\\\)|\\\])\s*(</\2>)"
)
_SCRIPT = re.compile(r"\s*<script>window\.MathJax = .*?</script>")


def formulas(page: str) -> list[dict[str, Any]]:
    """Return the formulas of a page that are not set: their TeX, and whether they stand alone."""
    return [
        {"tex": html.unescape(tex), "display": opening == r"\["}
        for _, _, opening, tex, _ in _FORMULA.findall(page)
    ]


def typeset(mathjax: Path, pages: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Let MathJax set the formulas of some pages.

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


def with_formulas(page: str, style: str, set_formulas: list[str]) -> str:
    """Return the page with its formulas set, in their order."""
    rest = iter(set_formulas)
    page = _FORMULA.sub(lambda match: match[1] + next(rest) + match[5], page)
    return _SCRIPT.sub("", page).replace("</head>", f"<style>{style}</style>\n  </head>", 1)


def set_all(app: Sphinx, error: Exception | None) -> None:
    """Set the formulas of every page of the finished book."""
    mathjax = setter(Path(app.srcdir))
    if error is not None or app.builder.format != "html" or mathjax is None:
        return
    out = Path(app.outdir)
    work = {}
    for path in sorted(out.glob("**/*.html")):
        found = formulas(path.read_text(encoding="utf-8"))
        name = path.relative_to(out).as_posix()
        fonts = posixpath.relpath(FONTS, posixpath.dirname(name) or ".")
        if found:
            work[name] = {"formulas": found, "fonts": fonts}
    try:
        done = typeset(mathjax, work) if work else {}
    except (OSError, subprocess.CalledProcessError) as problem:
        LOG.warning("formulas could not be set: %s", getattr(problem, "stderr", problem))
        return
    for name, page in done.items():
        path = out / name
        before = path.read_text(encoding="utf-8")
        path.write_text(with_formulas(before, page["style"], page["html"]), encoding="utf-8")


def no_script(
    app: Sphinx, _pagename: str, _template: str, context: dict[str, Any], _doctree: Any
) -> None:
    """Take MathJax off a page whose formulas are set here, or that has none."""
    has_formulas = re.search(r'class="[^"]*\bmath\b', context.get("body", ""))
    if setter(Path(app.srcdir)) is not None or not has_formulas:
        context["script_files"][:] = [
            script
            for script in context.get("script_files", [])
            if "mathjax" not in str(getattr(script, "filename", script)).lower()
        ]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    # After Sphinx has added it.
    app.connect("html-page-context", no_script, priority=900)
    # Before the policies are written into all pages (990).
    app.connect("build-finished", set_all, priority=700)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
