"""The directive ``{photo-lab}`` puts the Photo Lab into a page.

photo_lab.py writes its files into ``_static/photolab`` when the book is built. The page itself
holds little data, and an image with two sentences for readers without scripts. Where the network
or the photographs are not installed, the build and the page say so in a sentence.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx.util import logging

from course.explorers import json_for_html
from course.live_lab import digest

LOG = logging.getLogger(__name__)
FOLDER = "_static/photolab/"
SENTENCE = (
    "The Photo Lab computes in your browser and needs its script, which does not run here. This is "
    "the photograph that it shows first:"
)
MISSING = (
    "The network of the Photo Lab is not part of this build of the book. "
    "<code>pip install -r requirements.txt</code> brings it and its photographs to the next build."
)


class PhotoLab(nodes.General, nodes.Element):
    """The place of a Photo Lab in a page."""


class _PhotoLabDirective(Directive):
    def run(self) -> list[nodes.Node]:
        return [PhotoLab()]


def lab_html(opening: dict[str, Any], alt: str, folder: str, version: str) -> str:
    """Return a lab's element, followed by its script.

    Parameters
    ----------
    opening, alt
        What `photo_lab.write` returned.
    folder
        Where the page finds the lab's files, with a slash at its end.
    version
        A query that changes with the files, so that no browser mixes old ones with new ones.
    """
    folder, version = escape(folder), escape(version)
    return (
        '<div class="advlib advlib-lab advlib-photolab" '
        f'data-folder="{folder}" data-version="{version}">'
        f'<div class="lab-still"><p>{escape(SENTENCE)}</p>'
        f'<figure><img src="{folder}photolab.png" alt="{escape(alt)}" loading="lazy">'
        f"<figcaption>{escape(alt)}</figcaption></figure></div>"
        f'<script type="application/json">{json_for_html(opening)}</script></div>'
        f'<script src="{folder}photolab.js{version}"></script>'
    )


def _written(app: Any, out: Path) -> tuple[dict[str, Any], str] | None:
    """Write the lab's files; None, and a sentence in the build's log, without the network."""
    # With the network: only a page that has a lab needs it.
    from finish import vendor

    from advlib.errors import InputError, WeightsError
    from course import photo_lab

    kernel = vendor.kernel(Path(app.srcdir))
    if kernel is None:
        LOG.info("The Photo Lab's kernel is not compiled, so it computes in JavaScript: slower.")
    try:
        return photo_lab.write(out, kernel)
    except (WeightsError, InputError) as error:
        LOG.info("The Photo Lab is left out of the book: %s", error)
        return None


def _visit_html(translator: Any, _node: PhotoLab) -> None:
    builder = translator.builder
    out = Path(builder.outdir) / FOLDER
    if not hasattr(builder.app, "photo_lab"):
        builder.app.photo_lab = _written(builder.app, out)
    written = builder.app.photo_lab
    if written is None:
        translator.body.append(f'<p class="advlib">{MISSING}</p>')
    else:
        folder = builder.get_relative_uri(builder.current_docname, "index").rpartition("/")[0]
        opening, alt = written
        html = lab_html(opening, alt, f"{folder}/{FOLDER}".lstrip("/"), digest(out))
        translator.body.append(html)
    raise nodes.SkipNode


def _visit_other(_translator: Any, _node: PhotoLab) -> None:
    raise nodes.SkipNode


def register(app: Any) -> None:
    """Register with Sphinx."""
    other = (_visit_other, None)
    app.add_node(PhotoLab, html=(_visit_html, None), latex=other, text=other)
    app.add_directive("photo-lab", _PhotoLabDirective)
    app.add_css_file("photolab/photolab.css")
