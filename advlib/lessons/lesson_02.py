"""Checks of lesson 2, "The steep direction"."""

import math
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor, nn

from advlib import models
from advlib.analysis.loss_landscape import boundary_distance
from advlib.data import signs
from advlib.fast import accelerated
from advlib.gradients import input_gradient, margin
from advlib.lessons import (
    Answer,
    Mistake,
    check,
    close,
    expect_answer,
    expect_number,
    expect_tensor,
    expect_untouched,
    name_mistake,
)

LossAt = Callable[[Tensor], Tensor]
Place = tuple[int, int, int, int]

QUERIES, SIGNS, ENOUGH, STEP = 250, 8, 5, 2 / 255


@check
def central_difference(answer: Answer) -> str:
    """Exercise 2.1: the slope of the loss at one pixel value, from two losses.

    ``answer(loss_at, x, place, h)`` returns the central difference of `loss_at` at ``x[place]``
    with step `h`; `x` has shape (1, c, h, w).
    """
    weights = 1 + torch.arange(48, dtype=torch.float64).view(1, 3, 4, 4) / 10

    def loss_at(x: Tensor) -> Tensor:
        # A cubic, because its central difference is known by hand: a (3 x^2 + h^2).
        if x.shape != weights.shape:
            raise Mistake(
                f"you ask for the loss of shape {tuple(x.shape)}; the whole image of shape "
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
        _expect_slope(given, loss_at, x, place, h)
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


def _expect_slope(given: object, loss_at: LossAt, x: Tensor, place: Place, h: float) -> None:
    """Name what is wrong with a slope that should be the central difference."""
    expect_answer(given)
    if isinstance(given, Tensor) and given.numel() != 1:
        raise Mistake(f"you return shape {tuple(given.shape)}; one number is expected.")
    value, unit = expect_number(given), _one(place, x)
    correct = _central(loss_at, x, unit, h)
    if close(value, correct, atol=1e-9):
        return
    up, here, down = (float(loss_at(x + step * unit)) for step in (h, 0.0, -h))
    leaf = x.clone().requires_grad_()
    (exact,) = torch.autograd.grad(loss_at(leaf), leaf)
    mistakes = {
        "the two losses are the same: does your step reach the image you evaluate?": 0.0,
        "that is the forward difference. It is off by a multiple of h, the central one only by a "
        "multiple of h^2: step up and step down.": (up - here) / h,
        "that is the backward difference. Step up as well as down.": (here - down) / h,
        "twice too much: the two images lie 2h apart, and you divide by h.": 2 * correct,
        "that is the difference of the losses. A slope is divided by the distance, 2h.": up - down,
        "you divide by 2; the two images lie 2h apart.": (up - down) / 2,
        "you multiply by h where you should divide: write / (2 * h).": h * h * correct,
        "the sign is reversed: take the loss above minus the loss below.": -correct,
        "you move all pixel values. Only x[place] moves.": _central(
            loss_at, x, torch.ones_like(x), h
        ),
        "that is the exact slope, from a gradient or with an h of your own. Do without: use two "
        "losses, and the h you are given.": float(exact[place]),
    }
    name_mistake(value, mistakes, atol=1e-9)
    raise Mistake(
        f"you return {value:.4g} where {correct:.4g} is expected. Print the two losses and the "
        "step between the two images."
    )


@check
def boundary(answer: Answer) -> str:
    """Exercise 2.2: the distance to the boundary, by bisection.

    ``answer(fooled, limit, rounds)`` returns the smallest step at which ``fooled(t)`` is known to
    be true, after halving the interval from 0 to `limit` `rounds` times; infinity where
    ``fooled(limit)`` is false.
    """
    for place, limit, rounds in ((0.3, 1.0, 10), (0.7, 1.0, 10), (1.9, 8.0, 12), (0.01, 0.5, 9)):
        steps: list[float] = []
        value = expect_number(answer(_fooled_from(place, steps), limit, rounds))
        _expect_boundary(value, place, limit, rounds, steps)
    never = expect_number(answer(_fooled_from(2.0, []), 1.0, 10))
    if never != math.inf:
        raise Mistake(
            f"a network that is not fooled at the limit gives {never:.4g}. You do not know how far "
            "its boundary is, only that it is further: return math.inf."
        )
    return "the network is fooled at the step you return, and each call halves the interval."


def _fooled_from(place: float, steps: list[float]) -> Callable[[float], bool]:
    """A network with its boundary at `place`, which notes the `steps` it is called with."""

    def fooled(t: float) -> bool:
        steps.append(float(t))
        if len(steps) > 10_000:
            raise Mistake("10,000 calls so far, and no end. Stop after `rounds` halvings.")
        return t >= place

    return fooled


def _expect_boundary(
    value: float, place: float, limit: float, rounds: int, steps: list[float]
) -> None:
    """Name what is wrong with a distance that should lie just above `place`."""
    width = limit / 2**rounds
    where = f"with the boundary at {place} and limit {limit:g}"
    if math.isinf(value) or math.isnan(value):
        raise Mistake(f"{where} you return {value}; the network is fooled at the limit.")
    if len(steps) > rounds + 2:
        raise Mistake(
            f"you call fooled {len(steps)} times in {rounds} rounds. Each round needs one call, in "
            "the middle; equal steps need a call for every step."
        )
    if steps and max(steps) > limit * (1 + 1e-9):
        raise Mistake(f"you call fooled at t = {max(steps):g}, beyond the limit of {limit:g}.")
    if value < place and place - value <= 2 * width:
        raise Mistake(
            f"{where} you return {value:.4f}, where the network is not fooled yet. Return the "
            "upper end of the interval: there it is known to be fooled."
        )
    if abs(value - place) > 0.05 * limit and len(steps) >= rounds:
        raise Mistake(
            f"{where} you end at {value:.4g}: the half you keep does not contain the boundary. "
            "Where the network is fooled in the middle, the boundary lies below, so the middle "
            "becomes the upper end."
        )
    if not place <= value <= place + width * (1 + 1e-9):
        raise Mistake(
            f"{where} you return {value:.4g}; after {rounds} halvings the interval is only "
            f"{width:.2g} wide, and you made {len(steps)} calls. Halve it `rounds` times."
        )


@check
def without_gradient(answer: Answer) -> str:
    """Exercise 2.3: a direction of signs, found by queries alone, nearer than any colour cast.

    ``answer(margin_at, shape)`` returns a direction of `shape` (3, 64, 64), each value 1 or -1.
    ``margin_at(directions)`` takes (n, 3, 64, 64) and returns the n margins after a step of
    2/255 along each; it may be asked for 250 directions.
    """
    model, x, y, casts, gradients = _baseline()
    found = torch.stack([_direction(answer, model, x[i], y[i]) for i in range(SIGNS)])
    reach = boundary_distance(model, x, y, found, 0.5, bisections=6)
    wins = int((reach < casts).sum())
    medians = (f"{255 * float(each.median()):.1f}" for each in (reach, casts, gradients))
    score = "yours {}, best colour cast {}, gradient's sign {}".format(*medians)
    if wins < ENOUGH:
        raise Mistake(
            f"your direction is nearer than the best colour cast on {wins} of {SIGNS} signs; "
            f"{ENOUGH} are wanted. Median steps in 255ths: {score}. Start at the best cast, "
            "reverse one part of the image at a time, and keep what raises the margin."
        )
    return f"nearer on {wins} of {SIGNS} signs. Median steps in 255ths: {score}."


def _direction(answer: Answer, model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The direction that an answer finds for one sign, or what is wrong with it."""
    asked = 0

    def margin_at(directions: Tensor) -> Tensor:
        nonlocal asked
        if directions.shape[1:] != x.shape:
            raise Mistake(
                f"you ask for the margins of shape {tuple(directions.shape)}; a batch of "
                f"directions is expected, (n, {', '.join(map(str, x.shape))}). For one: d[None]."
            )
        asked += len(directions)
        if asked > QUERIES:
            raise Mistake(
                f"you ask for more than {QUERIES} margins. Try larger parts of the image."
            )
        with torch.no_grad():
            return margin(model((x + STEP * directions).clamp(0, 1)), y.expand(len(directions)))

    given = expect_tensor(answer(margin_at, tuple(x.shape)), tuple(x.shape), "signs")
    if not bool((given.abs() == 1).all()):
        raise Mistake("your direction holds values other than 1 and -1; a step is one of signs.")
    return given.detach().to(x)


@cache
def _baseline() -> tuple[nn.Module, Tensor, Tensor, Tensor, Tensor]:
    """The network, eight signs, their classes, and how far the casts and the gradient need go."""
    x, y = signs.render(SIGNS, seed=4)
    model = accelerated(models.load("signs-standard", "cpu"), x, threads=1)
    casts = torch.cartesian_prod(*3 * [torch.tensor([-1.0, 1.0])]).view(8, 1, 3, 1, 1)
    casts = casts.expand(8, *x.shape).flatten(0, 1)  # each for all signs, in one batch
    reach = partial(boundary_distance, model, limit=0.125, scan=20, bisections=6)
    nearest = reach(x.repeat(8, 1, 1, 1), y.repeat(8), casts).view(8, SIGNS).amin(0)
    return model, x, y, nearest, reach(x, y, input_gradient(model, x, y).grad.sign())
