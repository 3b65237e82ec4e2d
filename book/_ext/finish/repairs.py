"""Small repairs of the theme's frame and of what a page says of itself in its head.

The theme (sphinx-book-theme 1.3.0 on pydata-sphinx-theme 0.17.1) offers no option for these.
"""

import re

REPAIRS = (
    # What axe-core finds without them.
    # label-content-name-mismatch: a button that shows "Search Ctrl+K" is not named "Search".
    (r'(<button class="btn search-button-field[^>]*?)\s+title="Search" aria-label="Search"', r"\1"),
    # label-content-name-mismatch: the icons' titles become text in a button named "Color mode".
    (r'(<i class="theme-switch [^>]*?)\s+title="[^"]*"', r"\1"),
    # label-content-name-mismatch: "Show code cell source" is the name of what unfolds it.
    (r'(<summary) aria-label="Toggle hidden content"', r"\1"),
    # region: the logo and the search of the side bar lie in no landmark.
    (
        r'<div id="pst-primary-sidebar" class',
        r'<div id="pst-primary-sidebar" role="complementary" aria-label="Book" class',
    ),
    # The front door forwards to the first page. Without an icon of its own some browsers ask the
    # server for /favicon.ico before they go, and complain that there is none.
    (
        r'\A\s*(<meta http-equiv="Refresh"[^>]*>)\s*\Z',
        r'<!DOCTYPE html>\n<html lang="en">\n<title>Adversarial Examples, Hands On</title>\n'
        r'<link rel="icon" href="data:,">\n\1\n</html>\n',
    ),
    # aria-deprecated-role, aria-allowed-role, aria-required-children: the items of a list.
    (r'role="doc-biblioentry"', r'role="listitem"'),
)

_WINDOW = re.compile(r'[^\S\n]*<meta name="viewport"[^>]*>\n?')
_TITLE = re.compile(r"<title>(.+) &#8212; \1</title>")
_RELATIVE = re.compile(r'<meta property="og:url" content="(?!https?:)[^"]*"[^>]*>\n?')
_OWN = re.compile(r'<meta content="([^"]*)" name="description"')
_SHOWN = re.compile(r'(<meta property="og:description" content=")[^"]*(")')
_CUT = re.compile(r'(<meta (?:property|name)="(?:og:)?description" content="[^"]*?)\s+\S*\.\.\."')


def repair(html: str) -> str:
    """Return the page with every repair."""
    for pattern, replacement in REPAIRS:
        html = re.sub(pattern, replacement, html)
    return html


def tidy_head(html: str) -> str:
    """Return the page with each thing once in its head.

    The theme sets the size of the window two or three times, and the first page's title twice. The
    preview of a link shows the description that the page gives, if it gives one; one taken from its
    text ends with a whole word. Without the book's address there is none to name.
    """
    head, end, body = html.partition("</head>")
    windows = list(_WINDOW.finditer(head))
    for window in reversed(windows[1:]):
        head = head[: window.start()] + head[window.end() :]
    head = _TITLE.sub(r"<title>\1</title>", head)
    head = _RELATIVE.sub("", head)
    own = _OWN.search(head)
    if own:
        head = _SHOWN.sub(lambda match: f"{match[1]}{own[1]}{match[2]}", head)
    return _CUT.sub(r'\1 …"', head) + end + body
