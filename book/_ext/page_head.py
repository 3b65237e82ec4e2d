"""What a page says of itself in its head, each thing once.

The theme sets the size of the window two or three times, and the first page's title twice. What a
link to a page shows elsewhere is the description that the page itself gives, if it gives one; one
taken from its text ends with a whole word. Without the book's address there is no address to name.
"""

import re

from page_repairs import rewrite
from sphinx.application import Sphinx

_WINDOW = re.compile(r'[^\S\n]*<meta name="viewport"[^>]*>\n?')
_TITLE = re.compile(r"<title>(.+) &#8212; \1</title>")
_RELATIVE = re.compile(r'<meta property="og:url" content="(?!https?:)[^"]*"[^>]*>\n?')
_OWN = re.compile(r'<meta content="([^"]*)" name="description"')
_SHOWN = re.compile(r'(<meta property="og:description" content=")[^"]*(")')
_CUT = re.compile(r'(<meta (?:property|name)="(?:og:)?description" content="[^"]*?)\s+\S*\.\.\."')


def tidy(page: str) -> str:
    """Return the page with a tidy head; a tidy page comes back as it is."""
    head, end, body = page.partition("</head>")
    windows = list(_WINDOW.finditer(head))
    for window in reversed(windows[1:]):
        head = head[: window.start()] + head[window.end() :]
    head = _TITLE.sub(r"<title>\1</title>", head)
    head = _RELATIVE.sub("", head)
    own = _OWN.search(head)
    if own:
        head = _SHOWN.sub(lambda match: f"{match[1]}{own[1]}{match[2]}", head)
    return _CUT.sub(r'\1 …"', head) + end + body


def tidy_all(app: Sphinx, error: Exception | None) -> None:
    """Tidy the head of every page of the finished book."""
    rewrite(app, error, lambda page, _: tidy(page))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    # Before the policies are written into all pages (990).
    app.connect("build-finished", tidy_all, priority=945)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
