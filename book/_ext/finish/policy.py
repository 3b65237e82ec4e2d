"""A content security policy in every page: what it may load and run, and nothing else.

A static host sends no headers of ours, so the policy is a meta element (Content Security Policy
Level 3, section 3.3). Scripts come from the book itself. The few that the theme writes into the
page are named by their hashes; a script that somebody else put there would not run.
"""

import base64
import hashlib
import re
from html import unescape
from urllib.parse import urlsplit

_SCRIPT = re.compile(r"<script\b([^>]*)>(.*?)</script>", re.DOTALL | re.IGNORECASE)
_SOURCE = re.compile(r"""\bsrc\s*=\s*["']([^"']+)["']""", re.IGNORECASE)
_KIND = re.compile(r"""\btype\s*=\s*["']([^"']+)["']""", re.IGNORECASE)
_HANDLER = re.compile(r"""\son[a-z]+\s*=\s*(?:"([^"]*)"|'([^']*)')""", re.IGNORECASE)
_TAG = re.compile(r"<[a-z][^<>]*>", re.IGNORECASE)
_POLICY = re.compile(r'\s*<meta http-equiv="Content-Security-Policy"[^>]*>')
_RUNS = {"", "module", "text/javascript", "application/javascript"}
"""Types of a script element that a browser executes; others hold data."""
_SEARCH, _PRINT = "searchtools.js", "window.print()"
_COMPILES = "advlib-photolab"
"""The class of what runs a compiled kernel."""


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def scripts(html: str) -> tuple[set[str], set[str], set[str]]:
    """What a page runs: hosts elsewhere, hashes of scripts in the page, hashes of handlers."""
    hosts, inside = set(), set()
    for attributes, body in _SCRIPT.findall(html):
        source, kind = _SOURCE.search(attributes), _KIND.search(attributes)
        if source:
            parts = urlsplit(source[1])
            if parts.netloc:  # MathJax, where the build found no npm to fetch it
                hosts.add(f"https://{parts.netloc}")
        elif body.strip() and (kind[1].lower() if kind else "") in _RUNS:
            # The parser reads each line end as one line feed before the browser hashes.
            inside.add(_hash(body.replace("\r\n", "\n")))
    markup = _SCRIPT.sub("", html)
    found = (handler for tag in _TAG.findall(markup) for handler in _HANDLER.findall(tag))
    handlers = {_hash(unescape(double or single)) for double, single in found}
    if _SEARCH in html:  # it parses the pages that it finds, with the theme's print button
        handlers.add(_hash(_PRINT))
    return hosts, inside, handlers


def policy(html: str) -> str:
    """The policy of one page, as the content of its meta element."""
    hosts, inside, handlers = scripts(html)
    elsewhere = sorted(hosts)
    # A worker begins from a blob, so that it also begins in a page opened from a disk.
    code = ["'self'", "blob:", *elsewhere, *sorted(inside | handlers)]
    if handlers:
        code.append("'unsafe-hashes'")
    if _COMPILES in html:
        code.append("'wasm-unsafe-eval'")
    rules = {
        "default-src": ["'self'"],
        "script-src": code,
        # Formulas and the theme set styles on single elements.
        "style-src": ["'self'", "'unsafe-inline'"],
        "img-src": ["'self'", "data:", "blob:"],
        "font-src": ["'self'", "data:", *elsewhere],
        "connect-src": ["'self'"],
        "worker-src": ["'self'", "blob:"],
        "object-src": ["'none'"],
        "base-uri": ["'self'"],
        "form-action": ["'self'"],
    }
    return "; ".join(" ".join([name, *values]) for name, values in rules.items())


def guard(html: str) -> str:
    """Return the page with its policy, in place of one that an earlier build has written."""
    if "<head>" not in html:
        return html
    html = _POLICY.sub("", html)
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy(html)}">'
    # The character set must stand in the first bytes, so the policy follows it.
    place = re.search(r"<meta charset=[^>]*>", html)
    at = place.end() if place else html.index("<head>") + len("<head>")
    return f"{html[:at]}\n    {meta}{html[at:]}"
