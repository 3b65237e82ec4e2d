"""Checks of lesson 13, "Audit your own model"."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from advlib.checks import Mistake, check, expect_answer, expect_untouched
from advlib.evaluation import wilson

_Z = 1.959964  # of a 95 % interval, as in `wilson`


def _table() -> Tensor:
    """Three attacks on 200 pictures; each picture is fooled by none, by one or by several."""
    generator = torch.Generator().manual_seed(13)
    draws = torch.rand(3, 200, generator=generator)
    return draws < torch.tensor([[0.9], [0.7], [0.8]])


@check
def worst_case(answer: Callable[[Tensor], object]) -> str:
    """Exercise 13.1: robust accuracy in the worst case over an ensemble, picture by picture.

    Parameters
    ----------
    answer
        ``answer(right)`` takes a boolean table, shape (attacks, pictures): whether the model is
        right on the picture under the attack. Returns the share of pictures, in [0, 1], on which
        it is right under all of them.

    Returns
    -------
    Verdict
    """
    right = _table()
    before = right.clone()
    given = _one_number(answer(right))
    expect_untouched(right, before)
    expected = _share(right)
    if math.isclose(given, expected, abs_tol=1e-5):
        _same_on_others(answer)
        return "a picture counts only if it stands against every attack."
    for wrong, words in _readings(right):
        if math.isclose(given, wrong, abs_tol=1e-5):
            raise Mistake(words)
    raise Mistake(
        f"your function returns {given:.4g}; {expected:.4g} is the share of columns of this table "
        "that are True from top to bottom. right has the shape (attacks, pictures)."
    )


def _share(right: Tensor) -> float:
    return float(right.all(0).float().mean())


def _one_number(given: object) -> float:
    expect_answer(given)
    if isinstance(given, Tensor) and given.numel() != 1:
        raise Mistake(
            f"your function returns a tensor of shape {tuple(given.shape)}; one number is "
            "expected, the share of all pictures."
        )
    if isinstance(given, Tensor | int | float):
        return float(given)
    raise Mistake(f"your function returns {type(given).__name__}; one number is expected.")


def _readings(right: Tensor) -> list[tuple[float, str]]:
    """What a wrong reading of "worst case" gives on this table, and what to say about it."""
    means = right.float().mean(1)
    return [
        (
            float(means.min()),
            "that is the smallest of the single accuracies: the worst *attack*. Other attacks "
            "fool other pictures. Take the worst case picture by picture, then the mean.",
        ),
        (
            float(means.mean()),
            "that is the mean of the single accuracies. An attacker does not draw an attack by "
            "lot; one that succeeds is enough.",
        ),
        (
            float(means.prod()),
            "that is the product of the single accuracies. It would be right if the attacks "
            "fooled pictures independently; they tend to fool the same ones. Count.",
        ),
        (
            float(right.any(0).float().mean()),
            "that counts the pictures that stand against at least one attack: the best case. "
            "Ask for all of them, not any.",
        ),
        (
            float((1 - (1 - means).sum()).clamp_min(0)),
            "that is the union bound, a lower bound of the worst case. Count instead.",
        ),
        (
            1 - _share(right),
            "that is the share of pictures that are fooled. Robust accuracy counts the others.",
        ),
        (
            float(right.all(0).sum()),
            "that is how many pictures stand. Divide by the number of pictures.",
        ),
        (
            float(right.all(1).float().mean()),
            "that is a share of the attacks, not of the pictures: right has the shape (attacks, "
            "pictures), so all attacks are along dimension 0.",
        ),
    ]


def _same_on_others(answer: Callable[[Tensor], object]) -> None:
    """The rule must hold for other numbers of attacks and pictures."""
    for other in (_table()[:1], _table()[:2, :7], torch.zeros(2, 5, dtype=torch.bool)):
        given, expected = _one_number(answer(other)), _share(other)
        if not math.isclose(given, expected, abs_tol=1e-5):
            raise Mistake(
                f"right for three attacks on 200 pictures, but {given:.4g} instead of "
                f"{expected:.4g} for a table of shape {tuple(other.shape)}. Use no fixed number."
            )


@check
def pictures_needed(answer: Callable[[float], object]) -> str:
    """Exercise 13.2: the fewest pictures for a 95 % interval of a given half-width.

    Parameters
    ----------
    answer
        ``answer(half_width)`` returns the smallest whole number of pictures for which Wilson's
        interval reaches at most `half_width` to either side of its middle, whatever is counted.

    Returns
    -------
    Verdict
    """
    for half_width in (0.05, 0.02, 0.01, 0.1):
        given = _one_number(answer(half_width))
        if given in _fewest(half_width):
            continue
        _name_the_number(given, half_width)
    return "four times the pictures for half the width: a narrow interval has its price."


def _fewest(half_width: float) -> set[float]:
    """Proposition 13.2's number; also with z = 1.96, and one less if no count is half."""
    number, rounded = (math.ceil(z**2 * (1 / (4 * half_width**2) - 1)) for z in (_Z, 1.96))
    before = number - 1
    middle = wilson(before // 2, before)
    fits = (middle.high - middle.low) / 2 <= half_width
    return {number, rounded, before} if fits else {number, rounded}


def _name_the_number(given: float, half_width: float) -> None:
    """Raise the mistake behind a wrong number of pictures."""
    exact = _Z**2 * (1 / (4 * half_width**2) - 1)
    where = f"for a half-width of {half_width} you return {given:.6g}"
    if given != int(given) and math.isclose(given, exact, rel_tol=0.01):
        raise Mistake(f"{where}, a fraction of a picture. Round up: math.ceil.")
    if given == math.floor(exact):
        raise Mistake(f"{where}: rounded down, the interval is a little too wide. Round up.")
    wald = _Z**2 / (4 * half_width**2)
    if abs(given - wald) <= 1:
        raise Mistake(
            f"{where}. That is the number for the textbook interval p +- z sqrt(p (1 - p) / n); "
            "Wilson's needs z^2 pictures fewer. See proposition 13.2."
        )
    whole = _Z**2 * (1 / half_width**2 - 1)
    if abs(given - whole) <= 4:
        raise Mistake(
            f"{where}. You took half_width for the whole width of the interval; it is the distance "
            "from its middle to an end."
        )
    for z, level in ((1.0, "68 %"), (1.644854, "90 %"), (2.575829, "99 %")):
        if abs(given - z**2 * (1 / (4 * half_width**2) - 1)) <= 1:
            raise Mistake(f"{where}. That is right for an interval of {level}; for 95 % z is 1.96.")
    if abs(given - _Z * (1 / (4 * half_width**2) - 1)) <= 1:
        raise Mistake(f"{where}. z comes squared: n + z^2 stands under a root.")
    raise Mistake(f"{where}; {math.ceil(exact)} is right. See proposition 13.2, solved for n.")
