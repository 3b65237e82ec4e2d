"""The Photo Lab in a page, and its first answer, with which the welcome page opens.

The directive ``{photo-lab}`` puts the lab into a page, ``{photo-answer}`` a photograph that is
shown clean, with noise and after a gradient step, and what the network predicts on each. That needs
no script. photo_lab.py writes the files into ``_static/photolab`` when the book is built. Where the
network or the photographs are not installed, the build and the page say so in a sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from html import escape
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

from course import labs
from course.explorers import json_for_html

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
CHANGES = {
    "clean": "The photograph as it is",
    "noise": "Random noise of {eps}",
    "gradient": "One gradient step of {eps}",
}
"""What is shown, by the names of the images."""


def lab_html(opening: dict[str, Any], folder: str, version: str) -> str:
    """Return a lab's element with what `photo_lab.write` returned, followed by its script."""
    folder, version = escape(folder), escape(version)
    data = {key: value for key, value in opening.items() if key != "first"}
    alt = escape(_told(opening["first"]))
    return (
        '<div class="advlib advlib-lab advlib-photolab" '
        f'data-folder="{folder}" data-version="{version}">'
        f'<div class="lab-still"><p>{escape(SENTENCE)}</p>'
        f'<figure><img src="{folder}clean.png" alt="{alt}" loading="lazy">'
        f"<figcaption>{alt}</figcaption></figure></div>"
        f'<script type="application/json">{json_for_html(data)}</script></div>'
        f'<script src="{folder}photolab.js{version}"></script>'
    )


def _told(first: dict[str, Any]) -> str:
    """The opening state in words."""
    eps = first["eps"]
    clean, noise, gradient = (
        f"{named} ({_percent(share)})" for _, named, share in first["readings"]
    )
    return (
        f"The photograph {first['credit']}. The network predicts {clean}; "
        f"with random noise of {eps}, {noise}; after FGSM within {eps}, {gradient}."
    )


def _percent(share: float) -> str:
    """A share of 1 in per cent, never rounded up to certainty."""
    return "> 99.9 %" if 0.999 < share < 1 else f"{100 * share:.1f} %"


def answer_html(opening: dict[str, Any], folder: str, version: str) -> str:
    """Return the first answer: one image of three, and a radio button for each with its reading."""
    first = opening["first"]
    choices, images = [], []
    (_, right, _), *_ = first["readings"]
    for name, predicted, share in first["readings"]:
        what = CHANGES[name].format(eps=first["eps"])
        checked = " checked" if name == "clean" else ""
        wrong = "" if predicted == right else ' class="answer-wrong"'
        choices.append(
            f'<input type="radio" name="photo-answer" id="photo-answer-{name}"{checked}>'
            f'<label for="photo-answer-{name}"><span>{escape(what)}</span> '
            f"<strong{wrong}>{escape(predicted)}</strong> <span>{_percent(share)}</span></label>"
        )
        said = escape(f"{what}. The network predicts {predicted}, {_percent(share)}.")
        images.append(
            f'<img src="{escape(folder)}{name}.png{escape(version)}" alt="{said}" '
            f'width="224" height="224" class="answer-{name}">'
        )
    return (
        '<div class="advlib photo-answer"><fieldset>'
        "<legend>What does an ImageNet network predict?</legend>"
        f"{''.join(choices)}<figure>{''.join(images)}"
        f"<figcaption>{escape(first['credit'])}. Network: EfficientNet-Lite0.</figcaption></figure>"
        "</fieldset></div>"
    )


@cache
def _written(app: Sphinx, out: Path) -> dict[str, Any] | None:
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


def _write(html: Callable[..., str], app: Sphinx, out: Path) -> labs.Html:
    opening = _written(app, out)
    return partial(html, opening) if opening else lambda *_: f'<p class="advlib">{MISSING}</p>'


def register(app: Sphinx) -> None:
    """Register with Sphinx."""
    labs.add(app, "photo-lab", labs.Kind(FOLDER, partial(_write, lab_html)))
    labs.add(app, "photo-answer", labs.Kind(FOLDER, partial(_write, answer_html)))
