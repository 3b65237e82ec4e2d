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

from sphinx.application import Sphinx

FOLDER = "_static/states"
SMALL = 8_000
"""States of so few characters stay in the page: a file of their own would cost more."""

_STATE = re.compile(
    r'<div class="advlib-widget">((?:(?!<script).)*<script type="application/json">)([^<]*)'
    r'(</script></div>)<script src="([^"]*)"></script>',
    re.DOTALL,
)
# The mark keeps scripts before this one from drawing the explorer without its states.
_WAITING = '<div class="advlib-widget" data-drawn id="{name}">'
_FILL = """{{
  const place = document.getElementById("{name}");
  place.querySelector('script[type="application/json"]').textContent = {state};
  place.removeAttribute("data-drawn");
}}
"""


def moved(page: str, name: str, out: Path) -> str:
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
        script = _FILL.format(name=f"states-{digest}", state=json.dumps(state))
        (out / target).write_text(script, encoding="utf-8")
        address = posixpath.relpath(target, folder)
        return (
            f"{_WAITING.format(name=f'states-{digest}')}{before}{after}"
            f'<script defer src="{address}"></script><script defer src="{draw}"></script>'
        )

    return _STATE.sub(file_of, page)


def move_all(app: Sphinx, error: Exception | None) -> None:
    """Move the large states of every page of the finished book."""
    out = Path(app.outdir)
    if error is not None or app.builder.format != "html":
        return
    for path in sorted(out.glob("**/*.html")):
        before = path.read_text(encoding="utf-8")
        after = moved(before, path.relative_to(out).as_posix(), out)
        if after != before:
            path.write_text(after, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    # Before the policies are written into all pages (990).
    app.connect("build-finished", move_all, priority=940)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
