"""Checks of lesson 2, "The steep direction"."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from advlib.checks import Mistake, check, expect_answer, expect_untouched

LossAt = Callable[[Tensor], Tensor]
Place = tuple[int, int, int, int]


@check
def central_difference(answer: Callable[[LossAt, Tensor, Place, float], float]) -> str:
    """Exercise 2.1: the slope of the loss at one pixel value, from two losses.

    Parameters
    ----------
    answer
        ``answer(loss_at, x, place, h)`` returns the central difference of `loss_at` at ``x[place]``
        with step `h`; `x` has shape (1, c, h, w).

    Returns
    -------
    Verdict
    """
    weights = 1 + torch.arange(48, dtype=torch.float64).view(1, 3, 4, 4) / 10

    def loss_at(x: Tensor) -> Tensor:
        # A cubic, because its central difference is known by hand: a (3 x^2 + h^2).
        if x.shape != weights.shape:
            raise Mistake(
                f"you ask for the loss of shape {tuple(x.shape)}; the whole picture of shape "
                f"{tuple(weights.shape)} is wanted, with one value moved."
            )
        return (weights * x**3).sum()

    x = 0.3 + 0.4 * torch.rand(
        weights.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    for place, h in (((0, 2, 1, 3), 0.1), ((0, 0, 3, 2), 0.05)):
        before = x.clone()
        given = answer(loss_at, x, place, h)
        expect_untouched(x, before)
        _is_slope(given, loss_at, x, place, h)
    edge = x.clone()
    edge[0, 1, 2, 3] = 1.0
    given = float(answer(loss_at, edge, (0, 1, 2, 3), 0.1))
    if abs(given - _central(loss_at, edge, _one((0, 1, 2, 3), edge), 0.1)) > 1e-9:
        raise Mistake(
            "at a pixel value of 1 the result is wrong. Do not clamp: the loss has a slope at the "
            "edge of the box too, and a clamped step is shorter than h."
        )
    return "one step up, one step down, and the difference divided by 2h."


def _one(place: Place, x: Tensor) -> Tensor:
    unit = torch.zeros_like(x)
    unit[place] = 1
    return unit


def _central(loss_at: LossAt, x: Tensor, unit: Tensor, h: float) -> float:
    return float((loss_at(x + h * unit) - loss_at(x - h * unit)) / (2 * h))


def _is_slope(given: object, loss_at: LossAt, x: Tensor, place: Place, h: float) -> None:
    """Name what is wrong with a slope that should be the central difference."""
    expect_answer(given)
    if isinstance(given, Tensor) and given.numel() != 1:
        raise Mistake(f"you return shape {tuple(given.shape)}; one number is expected.")
    value, unit = float(given), _one(place, x)  # type: ignore[arg-type]
    right = _central(loss_at, x, unit, h)
    if abs(value - right) < 1e-9:
        return
    up, here, down = (float(loss_at(x + step * unit)) for step in (h, 0.0, -h))
    leaf = x.clone().requires_grad_()
    (exact,) = torch.autograd.grad(loss_at(leaf), leaf)
    mistakes = (
        (0.0, "the two losses are the same: does your step reach the picture you ask about?"),
        (
            (up - here) / h,
            "that is the forward difference. It is off by a multiple of h, the central one only by "
            "a multiple of h^2: step up and step down.",
        ),
        ((here - down) / h, "that is the backward difference. Step up as well as down."),
        (
            2 * right,
            "twice too much: the two places lie 2h apart, and you divide by h.",
        ),
        (up - down, "that is the difference of the losses. A slope is divided by the way, 2h."),
        ((up - down) / 2, "you divide by 2; the two places lie 2h apart."),
        (h * h * right, "you multiply by h where you should divide: write / (2 * h)."),
        (-right, "the sign is turned: the loss above minus the loss below."),
        (
            _central(loss_at, x, torch.ones_like(x), h),
            "you move all pixel values. Only x[place] moves.",
        ),
        (
            float(exact[place]),
            "that is the exact slope, from a gradient or with an h of your own. The point is to do "
            "without: use two losses, and the h you are given.",
        ),
    )
    for wrong, why in mistakes:
        if abs(value - wrong) < 1e-9:
            raise Mistake(why)
    raise Mistake(
        f"you return {value:.4g} where {right:.4g} is expected. Print the two losses and the step "
        "between the two pictures."
    )


@check
def boundary(answer: Callable[[Callable[[float], bool], float, int], float]) -> str:
    """Exercise 2.2: the distance to the boundary, by bisection.

    Parameters
    ----------
    answer
        ``answer(wrong, limit, rounds)`` returns the smallest step at which ``wrong(t)`` is known to
        be true, after halving the interval from 0 to `limit` `rounds` times; infinity where
        ``wrong(limit)`` is false.

    Returns
    -------
    Verdict
    """
    for place, limit, rounds in ((0.3, 1.0, 10), (0.7, 1.0, 10), (1.9, 8.0, 12), (0.01, 0.5, 9)):
        asked: list[float] = []
        given = answer(_question(place, asked), limit, rounds)
        expect_answer(given)
        _is_boundary(float(given), place, limit, rounds, asked)
    never = answer(_question(2.0, []), 1.0, 10)
    expect_answer(never)
    if float(never) != math.inf:
        raise Mistake(
            f"a network that is still right at the limit gives {float(never):.4g}. You do not know "
            "how far its boundary is, only that it is further: return math.inf."
        )
    return "the network is wrong at the step you return, and each question halves what is unknown."


def _question(place: float, asked: list[float]) -> Callable[[float], bool]:
    def wrong(t: float) -> bool:
        asked.append(float(t))
        if len(asked) > 10_000:
            raise Mistake("you ask and ask: 10,000 questions so far. Stop after `rounds` halvings.")
        return t >= place

    return wrong


def _is_boundary(value: float, place: float, limit: float, rounds: int, asked: list[float]) -> None:
    """Name what is wrong with a distance that should lie just above `place`."""
    width = limit / 2**rounds
    where = f"with the boundary at {place} and limit {limit:g}"
    if math.isinf(value) or math.isnan(value):
        raise Mistake(f"{where} you return {value}; there the network is wrong at the limit.")
    if len(asked) > rounds + 2:
        raise Mistake(
            f"you ask {len(asked)} times for {rounds} rounds. Each round asks once, in the middle; "
            "an even walk needs a question for every step."
        )
    if asked and max(asked) > limit * (1 + 1e-9):
        raise Mistake(f"you ask at t = {max(asked):g}, beyond the limit of {limit:g}.")
    if value < place and place - value <= 2 * width:
        raise Mistake(
            f"{where} you return {value:.4f}, where the network is still right. Return the upper "
            "end of the interval: there it is known to be wrong."
        )
    if abs(value - place) > 0.05 * limit and len(asked) >= rounds:
        raise Mistake(
            f"{where} you end at {value:.4g}: the half you keep does not hold the boundary. Where "
            "the middle is wrong the boundary lies below it, so the middle becomes the upper end."
        )
    if not place <= value <= place + width * (1 + 1e-9):
        raise Mistake(
            f"{where} you return {value:.4g}; after {rounds} halvings the interval is only "
            f"{width:.2g} wide, and you asked {len(asked)} times. Halve it `rounds` times."
        )
