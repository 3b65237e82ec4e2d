"""The stored states of the explorers as files of their own: the text comes before them.

An explorer's states, up to 1.5 MB, would stand between a reader and the text behind it. The page
keeps only their address, and loads them once it is read. As scripts and not as data: a page opened
from a disk may load those. Until then, and without scripts, the explorer's still stands there.
"""

import hashlib
import json
import posixpath
import re
from pathlib import Path

from page_repairs import rewrite
from sphinx.application import Sphinx

FOLDER = "_static/states"
SMALL = 8_000
"""States of so few characters stay in the page: a file of their own would cost more."""

_STATE = re.compile(
    r'<div class="advlib-widget">((?:(?!<script).)*<script type="application/json">)([^<]*)'
    r'(</script></div>)<script src="([^"]*)"></script>',
    re.DOTALL,
)
# Explorers with the same states share their file. While the mark is there, nothing draws them.
_WAITING = '<div class="advlib-widget" data-waiting="{digest}">'
_FILL = """for (const place of document.querySelectorAll('[data-waiting="{digest}"]')) {{
  place.querySelector('script[type="application/json"]').textContent = {state};
  place.removeAttribute("data-waiting");
}}
"""
_WAITS_FOR = re.compile(_WAITING.format(digest="([0-9a-f]+)"))


def without_states(page: str, name: str, out: Path) -> str:
    """Return the page without its large states, which are written below `out`.

    Parameters
    ----------
    page
        Its HTML.
    name
        Its path in the book, with slashes.
    out
        The book's folder.
    """
    folder = posixpath.dirname(name) or "."

    def file_of(match: re.Match[str]) -> str:
        before, state, after, draw = match.groups()
        if len(state) < SMALL:
            return match[0]
        digest = hashlib.sha256(state.encode("utf-8")).hexdigest()[:16]
        target = f"{FOLDER}/{digest}.js"
        (out / target).parent.mkdir(parents=True, exist_ok=True)
        script = _FILL.format(digest=digest, state=json.dumps(state))
        (out / target).write_text(script, encoding="utf-8")
        address = posixpath.relpath(target, folder)
        return (
            f"{_WAITING.format(digest=digest)}{before}{after}"
            f'<script defer src="{address}"></script><script defer src="{draw}"></script>'
        )

    return _STATE.sub(file_of, page)


def take_states_out(app: Sphinx, error: Exception | None) -> None:
    """Take the large states out of every page of the finished book, and remove outdated ones."""
    out = Path(app.outdir)
    used: set[str] = set()

    def change(page: str, name: str) -> str:
        page = without_states(page, name, out)
        used.update(_WAITS_FOR.findall(page))
        return page

    rewrite(app, error, change)
    if error is None:
        for file in (out / FOLDER).glob("*.js"):
            if file.stem not in used:
                file.unlink()


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    # Before the policies are written into all pages (990).
    app.connect("build-finished", take_states_out, priority=940)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
