"""What is large leaves the page for files of its own, so that the text comes before it.

An explorer's stored states take up to 1.5 MB between a reader and the text behind it. The page
keeps their address and the first state without its images, so that the explorer has its place and
its height from the start. The others are loaded once the page is read: as scripts, because a page
opened from a disk may load those and no data. Without scripts the explorer's still is shown. Stills
become images, so that only a reader without scripts loads them.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from finish.pages import Book, Page

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
_STILL = re.compile(r'(<img\b[^>]*\bsrc=")data:image/png;base64,([^"]+)')


def move_out(page: Page, _book: Book) -> Page:
    """Return the page without its stills and large states, which become its files."""
    files: dict[str, bytes] = {}

    def image(match: re.Match[str]) -> str:
        content = base64.b64decode(match[2])
        target = f"_images/{hashlib.sha256(content).hexdigest()}.png"
        files[target] = content
        return match[1] + page.path_to(target)

    def waiting(match: re.Match[str]) -> str:
        before, state, after, draw = match.groups()
        if len(state) < SMALL or (first := _first_alone(state)) is None:
            return match[0]
        digest = hashlib.sha256(state.encode("utf-8")).hexdigest()[:16]
        target = f"{FOLDER}/{digest}.js"
        files[target] = _FILL.format(digest=digest, state=json.dumps(state)).encode("utf-8")
        return (
            f'{_WAITING.format(digest=digest)}{before}{first}{after}<script src="{draw}"></script>'
            f'<script defer src="{page.path_to(target)}"></script>'
            f'<script defer src="{draw}"></script>'
        )

    html = _STATE.sub(waiting, _STILL.sub(image, page.html))
    return replace(page, html=html, files={**page.files, **files})


def _first_alone(state: str) -> str | None:
    """Return an explorer's state with its first scene, lines in place and no image, as JSON."""
    widget = json.loads(state)
    if widget["kind"] != "explorer":
        return None
    data = widget["data"]
    at = ",".join(map(str, data["initial"]))
    scene = data["states"][at]
    table = data.pop("series")
    for chart in scene["lines"]:
        chart["series"] = [table[number] for number in chart["series"]]
    data |= {"images": None, "states": {at: scene}}
    return json.dumps(widget, separators=(",", ":")).replace("<", "\\u003c")


def remove_unused(out: Path, pages: Iterable[Page]) -> None:
    """Remove the files of states that no page shows any more."""
    used = {digest for page in pages for digest in _WAITS_FOR.findall(page.html)}
    for file in (out / FOLDER).glob("*.js"):
        if file.stem not in used:
            file.unlink()
