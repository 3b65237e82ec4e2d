"""Checks of lesson 13, "Audit your own model"."""

import math
from pathlib import Path

import torch
from torch import Tensor

from advlib import models
from advlib.audit import Audit
from advlib.evaluation import wilson
from advlib.lessons import (
    Answer,
    Mistake,
    check,
    close,
    expect_answer,
    expect_untouched,
    name_mistake,
)

_Z = 1.959964  # of a 95 % interval, as in `wilson`


@check
def worst_case(answer: Answer) -> str:
    """Exercise 13.1: robust accuracy in the worst case over an ensemble, image by image.

    ``answer(correct)`` takes a boolean table, shape (attacks, images): whether the model
    classifies the image correctly under the attack. It returns the share of images, in [0, 1],
    that are classified correctly under all of them.
    """
    # Three attacks on 200 images; each image is fooled by none, by one or by several.
    draws = torch.rand(3, 200, generator=torch.Generator().manual_seed(13))
    table = draws < torch.tensor([[0.9], [0.7], [0.8]])
    before = table.clone()
    given = _one_number(answer(table))
    expect_untouched(table, before)
    if not close(given, _share(table), atol=1e-5):
        name_mistake(given, _other_numbers(table), atol=1e-5)
        raise Mistake(
            f"your function returns {given:.4g}; {_share(table):.4g} is the share of columns of "
            "this table that are True in every row. correct has the shape (attacks, images)."
        )
    for other in (table[:1], table[:2, :7], torch.zeros(2, 5, dtype=torch.bool)):
        given, expected = _one_number(answer(other)), _share(other)
        if not close(given, expected, atol=1e-5):
            raise Mistake(
                f"correct for three attacks on 200 images, but {given:.4g} instead of "
                f"{expected:.4g} for a table of shape {tuple(other.shape)}. Use no fixed number."
            )
    return "an image counts only if it is classified correctly under every attack."


def _share(table: Tensor) -> float:
    return float(table.all(0).float().mean())


def _one_number(given: object) -> float:
    expect_answer(given)
    if isinstance(given, Tensor) and given.numel() != 1:
        raise Mistake(
            f"your function returns a tensor of shape {tuple(given.shape)}; one number is "
            "expected, the share of all images."
        )
    if isinstance(given, Tensor | int | float):
        return float(given)
    raise Mistake(f"your function returns {type(given).__name__}; one number is expected.")


def _other_numbers(table: Tensor) -> dict[str, float]:
    """What each misunderstanding of "worst case" gives on this table."""
    means = table.float().mean(1)
    return {
        "that is the smallest of the single accuracies: the worst *attack*. Other attacks fool "
        "other images. Take the worst case image by image, then the mean.": float(means.min()),
        "that is the mean of the single accuracies. An attacker does not choose an attack at "
        "random; one that succeeds is enough.": float(means.mean()),
        "that is the product of the single accuracies. It would be correct if the attacks fooled "
        "images independently; they tend to fool the same ones. Count.": float(means.prod()),
        "that counts the images that are correct under at least one attack: the best case. Ask "
        "for all of them, not any.": float(table.any(0).float().mean()),
        "that is the union bound, a lower bound of the worst case. Count instead.": float(
            (1 - (1 - means).sum()).clamp_min(0)
        ),
        "that is the share of images that are fooled. Robust accuracy counts the others.": 1
        - _share(table),
        "that is how many images remain correct. Divide by the number of images.": float(
            table.all(0).sum()
        ),
        "that is a share of the attacks, not of the images: correct has the shape (attacks, "
        "images), so all attacks are along dimension 0.": float(table.all(1).float().mean()),
    }


@check
def images_needed(answer: Answer) -> str:
    """Exercise 13.2: the fewest images for a 95 % interval of a given half-width.

    ``answer(half_width)`` returns the smallest whole number of images for which Wilson's interval
    reaches at most `half_width` to either side of its middle, whatever the measured share.
    """
    for half_width in (0.05, 0.02, 0.01, 0.1):
        given = _one_number(answer(half_width))
        if given not in _fewest(half_width):
            _name_number(given, half_width)
    return "half the width needs four times as many images: a narrow interval is expensive."


def _needed(half_width: float, z: float = _Z) -> float:
    """Proposition 13.2, solved for the number of images."""
    return z**2 * (1 / (4 * half_width**2) - 1)


def _fewest(half_width: float) -> set[float]:
    """The number of images; also with z = 1.96, and one fewer if no count is exactly half."""
    number, rounded = (math.ceil(_needed(half_width, z)) for z in (_Z, 1.96))
    fewer = number - 1
    middle = wilson(fewer // 2, fewer)
    fits = (middle.high - middle.low) / 2 <= half_width
    return {number, rounded, fewer} if fits else {number, rounded}


def _name_number(given: float, half_width: float) -> None:
    """Raise the mistake behind a wrong number of images."""
    exact = _needed(half_width)
    case = f"for a half-width of {half_width} you return {given:.6g}"
    if given != int(given) and math.isclose(given, exact, rel_tol=0.01):
        raise Mistake(f"{case}, a fraction of an image. Round up: math.ceil.")
    if given == math.floor(exact):
        raise Mistake(f"{case}: rounded down, the interval is a little too wide. Round up.")
    if abs(given - _Z**2 / (4 * half_width**2)) <= 1:
        raise Mistake(
            f"{case}. That is the number for the textbook interval p +- z sqrt(p (1 - p) / n); "
            "Wilson's needs z^2 images fewer. See proposition 13.2."
        )
    if abs(given - _needed(half_width / 2)) <= 4:
        raise Mistake(
            f"{case}. You took half_width for the whole width of the interval; it is the distance "
            "from its middle to an end."
        )
    for z, level in ((1.0, "68 %"), (1.644854, "90 %"), (2.575829, "99 %")):
        if abs(given - _needed(half_width, z)) <= 1:
            raise Mistake(f"{case}. That is correct for {level}; for 95 % z is 1.96.")
    if abs(given - _needed(half_width, math.sqrt(_Z))) <= 1:
        raise Mistake(f"{case}. z has to be squared: n + z^2 is under a root.")
    raise Mistake(f"{case}; {math.ceil(exact)} is correct. See proposition 13.2, solved for n.")


HALF_WIDTH = 0.05
"""How far the interval of a card may reach to either side."""


@check
def own_card(answer: Answer) -> str:
    """Exercise 13.3: a robustness card of the reader's own network, and its warnings explained.

    ``answer()`` returns the path of a ``card.json``, and a dictionary: for the name of each warning
    on the card a sentence that says why the number may be believed nevertheless.
    """
    given = answer()
    expect_answer(given)
    if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], dict)):
        raise Mistake(
            "two things are expected: the path of card.json, and a dictionary from the name of "
            "each warning to your sentence, {} if there is none."
        )
    try:
        card = Audit.from_json(Path(given[0]).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Mistake(f"this is no card.json of an audit: {error}") from None
    names = {warning.name for warning in card.warnings}
    silent = sorted(n for n in names if len(str(given[1].get(n, "")).split()) < 5)
    hopeless = sorted(names & {"chance", "no-gradient"})
    half = (card.robust.high - card.robust.low) / 2
    mistakes = {
        "the audit was interrupted. The same call goes on.": not card.complete,
        f"{card.name} comes with this course. Audit a network of your own.": card.name
        in models.NAMES,
        "no threat model is declared: an attacker who may do nothing, or anything, is none. "
        "Choose eps.": bool(names & {"no-budget", "whole-box", "large-budget"}),
        "the level is quick, a first look. Take standard or thorough.": card.level == "quick",
        f"{card.robust.total} images leave an interval of ±{100 * half:.1f} points. At most "
        f"{100 * HALF_WIDTH:.0f} are expected: {math.ceil(_needed(HALF_WIDTH))} images are always "
        "enough.": half > HALF_WIDTH,
        f"no sentence helps against the warning {' and '.join(hopeless)}: "
        "the numbers mean nothing. Do what it says, and audit again.": bool(hopeless),
        f"the card warns of {', '.join(silent)}. Say in a sentence each why the number may be "
        "believed nevertheless, or audit again.": bool(silent),
    }
    for sentence, wrong in mistakes.items():
        if wrong:
            raise Mistake(sentence)
    return f"{card.robust} under {card.threat}. Publish the card with the number."
