"""The pages' scripts: no sphinx-thebe, MathJax only for formulas, and the search works from disk.

Jupyter Book 1 loads sphinx-thebe for every book. It declares the same constants twice, which
throws on each page, and names a third-party host. The course does not use it.

Sphinx's search fetches each page that it finds, to quote from it. A browser forbids that to a page
opened from disk, so there the search lists titles only.
"""

import re
from typing import Any

from sphinx.application import Sphinx

TITLES_ONLY = (
    'if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;'
)

_FORMULA = re.compile(r'class="[^"]*\bmath\b')


def drop_thebe(app: Sphinx) -> None:
    """Disconnect what sphinx-thebe has connected, and unlist its style sheet."""
    for listeners in app.events.listeners.values():
        for listener in list(listeners):
            if listener.handler.__module__.split(".")[0] == "sphinx_thebe":
                listeners.remove(listener)
    app.registry.css_files[:] = [
        entry for entry in app.registry.css_files if entry[0] != "sphinx-thebe.css"
    ]


def search_from_disk(
    app: Sphinx, pagename: str, _template: str, _context: dict[str, Any], _doctree: Any
) -> None:
    """Let the search page fetch nothing when it is opened from disk."""
    if pagename == "search":
        app.add_js_file(None, body=TITLES_ONLY, priority=300)


def mathjax_for_formulas(
    _app: Sphinx, _pagename: str, _template: str, context: dict[str, Any], _doctree: Any
) -> None:
    """Take MathJax, a quarter of a megabyte, off a page that has no formula."""
    if not _FORMULA.search(context.get("body", "")):
        context["script_files"][:] = [
            script
            for script in context.get("script_files", [])
            if "mathjax" not in str(getattr(script, "filename", script)).lower()
        ]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    # Loaded here, it cannot come back after us.
    app.setup_extension("sphinx_thebe")
    drop_thebe(app)
    app.connect("html-page-context", search_from_disk)
    # After Sphinx has added it.
    app.connect("html-page-context", mathjax_for_formulas, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
