"""The Live Lab and its brush: ``{live-lab}`` and ``{brush-lab}`` put them into a page.

lab.py writes its files into ``_static/lab`` when the book is built. The page itself holds
the opening state as data, and an image with one sentence for readers without scripts. The script
is loaded right behind it, so that what follows does not move.
"""

from __future__ import annotations

from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

from course import labs
from course.explorers import json_for_html

NAME, BRUSH = "live-lab", "brush-lab"
FOLDER = "_static/lab/"
SENTENCE = (
    "The Live Lab computes in your browser and needs its script, which does not run here. This is "
    "what it shows first:"
)
BRUSH_SENTENCE = "The brush computes in your browser and needs its script, which does not run here."


def lab_html(opening: dict[str, Any], alt: str, folder: str, version: str) -> str:
    """Return a lab's element, followed by its script.

    Parameters
    ----------
    opening
        What `lab.opening` returned.
    alt
        What the still image shows.
    folder
        Where the page finds the lab's files, with a slash at its end.
    version
        A query that changes with the files, so that no browser mixes old ones with new ones.
    """
    folder, version = escape(folder), escape(version)
    return (
        '<div class="advlib advlib-lab advlib-livelab" '
        f'data-folder="{folder}" data-version="{version}">'
        # Where scripts run, the style hides the image, and a lazy one is then not fetched.
        f'<div class="lab-still"><p>{escape(SENTENCE)}</p>'
        f'<img src="{folder}lab.png" alt="{escape(alt)}" loading="lazy"></div>'
        f'<script type="application/json">{json_for_html(opening)}</script></div>'
        f'<script src="{folder}lab.js{version}"></script>'
    )


def brush_html(opening: dict[str, Any], folder: str, version: str) -> str:
    """Return the brush's element, followed by the script; arguments as for `lab_html`."""
    folder, version = escape(folder), escape(version)
    return (
        '<div class="advlib advlib-lab advlib-brush" '
        f'data-folder="{folder}" data-version="{version}">'
        f'<div class="lab-still"><p>{escape(BRUSH_SENTENCE)}</p></div>'
        f'<script type="application/json">{json_for_html(opening)}</script></div>'
        f'<script src="{folder}lab.js{version}"></script>'
    )


def _write(_app: Sphinx, out: Path) -> labs.Html:
    from course import lab  # with the networks: only a page that has a lab needs it

    return partial(lab_html, lab.opening(), lab.write(out))


def _write_brush(_app: Sphinx, out: Path) -> labs.Html:
    from course import lab

    lab.write(out)
    return partial(brush_html, lab.brush())


def register(app: Sphinx) -> None:
    """Register with Sphinx."""
    labs.add(app, BRUSH, labs.Kind(FOLDER, _write_brush))
    labs.add(app, NAME, labs.Kind(FOLDER, _write))
