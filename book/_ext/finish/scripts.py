"""The pages' scripts: only those that a page needs, none before the page is shown.

Jupyter Book 1 loads sphinx-thebe for every book. It declares the same constants twice, which
throws on each page, and names a third-party host. The course does not use it.

Sphinx's search fetches each page that it finds, to quote from it. A browser forbids that to a page
opened from disk, so there the search lists titles only.

The theme loads the search's index on every page, for a search as you type that this book does not
use, and most scripts before it shows anything. Here the index belongs to the search page, and every
script of a file waits for the page, in the order in which they stand. Whether the page is light or
dark is known before it is painted, also where storage is forbidden.

The theme asks each code block and each output whether it scrolls, so that keys can scroll it. That
lays out all that is folded. Here it asks only what shows, and again when a fold opens.
"""

import re
from dataclasses import replace
from functools import cache
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

from finish.pages import Book, Page

TITLES_ONLY = (
    'if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;'
)

_INDEX = re.compile(
    r'[^\S\n]*<script src="[^"]*(?:searchtools|language_data|searchindex)\.js[^"]*"></script>\n?'
)
_PRELOAD = re.compile(r'[^\S\n]*<link rel="preload" as="script"[^>]*>\n?')
_FILE = re.compile(r'<script\b(?![^>]*\b(?:defer|async|type)\b)([^>]*\bsrc="[^"]*"[^>]*)></script>')
_THEME = re.compile(
    r"(document\.documentElement\.dataset\.mode = localStorage.*?)"
    r'localStorage\.getItem\("theme"\) \|\| "auto"',
    re.DOTALL,
)
# Where a browser forbids storage, its very name throws, and with it the theme's scripts: here, at
# each switch, and where the side bar was. The substitute lasts as long as the page.
STORAGE = """for (const kind of ["localStorage", "sessionStorage"]) {
      try {
        window[kind].getItem("mode");
      } catch {
        const methods = {
          getItem(name) { return Object.hasOwn(this, name) ? this[name] : null; },
          setItem(name, value) { this[name] = `${value}`; },
          removeItem(name) { delete this[name]; },
        };
        Object.defineProperty(window, kind, { value: Object.create(methods) });
      }
    }
    """
# The theme finds out after the first paint whether the system is light or dark, and its letters
# then change their size with their colour: everything would move.
_SYSTEM = (
    '["light", "dark"].find((mode) => mode === localStorage.getItem("mode")) || '
    '(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")'
)
_ASKS = (
    (
        "{e.tabIndex=e.scrollWidth>e.clientWidth||e.scrollHeight>e.clientHeight?0:-1}",
        "{e.checkVisibility()&&"
        "(e.tabIndex=e.scrollWidth>e.clientWidth||e.scrollHeight>e.clientHeight?0:-1)}",
    ),
    (
        'window.addEventListener("resize",t),new MutationObserver',
        'window.addEventListener("resize",t),window.addEventListener("toggle",t,!0),'
        "new MutationObserver",
    ),
)
_OPTIONS = re.compile(r'<script src="[^"]*documentation_options\.js[^"]*"></script>')


def drop_thebe(app: Sphinx) -> None:
    """Disconnect what sphinx-thebe has connected, and unlist its style sheet."""
    app.setup_extension("sphinx_thebe")  # loaded now, it cannot come back later
    for listeners in app.events.listeners.values():
        for listener in list(listeners):
            if listener.handler.__module__.split(".")[0] == "sphinx_thebe":
                listeners.remove(listener)
    app.registry.css_files[:] = [
        entry for entry in app.registry.css_files if entry[0] != "sphinx-thebe.css"
    ]


def ask_what_shows(out: Path) -> None:
    """Let the theme's script ask only what shows whether it scrolls."""
    for path in (out / "_static" / "scripts").glob("pydata-sphinx-theme.js"):
        script = path.read_text(encoding="utf-8")
        for asks, less in _ASKS:
            if less not in script:
                if script.count(asks) != 1:
                    raise ExtensionError(f"{path.name} of the theme has no longer: {asks}")
                script = script.replace(asks, less)
        path.write_text(script, encoding="utf-8")


def lean(html: str, options: str) -> str:
    """Return the page with its scripts deferred.

    Parameters
    ----------
    html
        The page.
    options
        The text of documentation_options.js, to which the scripts in the page refer: it becomes one
        of them.
    """
    head, end, body = html.partition("</head>")
    if not end:
        return html
    if 'id="search-results"' in body:
        options += f"\n{TITLES_ONLY}"
    else:
        head = _INDEX.sub("", head)
    head = _THEME.sub(lambda match: f"{STORAGE}{match[1]}{_SYSTEM}", head)
    # Without scripts nothing settles it, and the theme has no colours for "auto".
    head = head.replace(' data-theme="auto"', ' data-theme="light"', 1)
    head = _OPTIONS.sub(lambda _: f"<script>{options.strip()}</script>", head)
    head = _FILE.sub(r"<script defer\1></script>", _PRELOAD.sub("", head))
    return head + end + body


@cache
def _options(book: Book) -> str:
    return (book.out / "_static" / "documentation_options.js").read_text(encoding="utf-8")


def defer(page: Page, book: Book) -> Page:
    """Defer the scripts of a page."""
    return replace(page, html=lean(page.html, _options(book)))
