"""The Live Lab: the directive ``{live-lab}`` puts it into a page.

lab.py writes its files into ``_static/lab`` when the book is built. The page itself holds
the opening state as data, and an image with one sentence for readers without scripts. The script
is loaded right behind it, so that what follows does not move.
"""

from __future__ import annotations

import hashlib
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive

from course.explorers import json_for_html

FOLDER = "_static/lab/"
SENTENCE = (
    "The Live Lab computes in your browser and needs its script, which does not run here. This is "
    "what it shows first:"
)


class LiveLab(nodes.General, nodes.Element):
    """The place of a lab in a page."""


class _LiveLabDirective(Directive):
    def run(self) -> list[nodes.Node]:
        return [LiveLab()]


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


def digest(folder: Path) -> str:
    """Return a query that changes with any of the lab's files."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".js", ".bin"))
    together = hashlib.sha256(b"".join(path.read_bytes() for path in files))
    return f"?v={together.hexdigest()[:8]}"


def _visit_html(translator: Any, _node: LiveLab) -> None:
    from course import lab  # with the networks: only a page that has a lab needs it

    builder = translator.builder
    out = Path(builder.outdir) / FOLDER
    if not hasattr(builder.app, "live_lab"):
        builder.app.live_lab = (lab.opening(), lab.write(out), digest(out))
    opening, alt, version = builder.app.live_lab
    folder = builder.get_relative_uri(builder.current_docname, "index").rpartition("/")[0]
    translator.body.append(lab_html(opening, alt, f"{folder}/{FOLDER}".lstrip("/"), version))
    raise nodes.SkipNode


def _visit_other(_translator: Any, _node: LiveLab) -> None:
    raise nodes.SkipNode


def register(app: Any) -> None:
    """Register with Sphinx."""
    other = (_visit_other, None)
    app.add_node(LiveLab, html=(_visit_html, None), latex=other, text=other)
    app.add_directive("live-lab", _LiveLabDirective)
    app.add_css_file("lab/lab.css")
