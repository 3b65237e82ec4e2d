"""Checks of lesson 7, "The same pixels"."""

from collections.abc import Callable

import torch
from torch import Tensor

from advlib.checks import Mistake, check, expect_answer, expect_tensor, expect_untouched

Gradient = Callable[[Tensor], Tensor]


@check
def integrated_gradients(answer: Callable[[Gradient, Tensor, Tensor, int], Tensor]) -> str:
    """Exercise 7.1: integrated gradients from a function that returns gradients.

    Parameters
    ----------
    answer
        ``answer(gradient, x, baseline, steps)`` returns the map, of the shape of `x`;
        ``gradient(points)`` is the gradient of the score at a batch of pictures.

    Returns
    -------
    Verdict
    """
    draw = torch.Generator().manual_seed(7)
    x, baseline, weight = torch.rand(3, 2, 3, 4, 4, generator=draw, dtype=torch.float64)
    weight = 2 * weight - 1
    steps = 50

    # The score is the sum of weight * pixel**3, so that every integral is known exactly.
    def gradient(points: Tensor) -> Tensor:
        # A path may also be asked for at once, as one long batch or with a dimension more.
        copies = max(1, len(points) // len(weight)) if points.ndim == weight.ndim else 1
        return 3 * weight.repeat(copies, 1, 1, 1) * points**2

    before = x.clone(), baseline.clone()
    given = answer(gradient, x, baseline, steps)
    expect_tensor(given, x.shape, "maps")
    expect_untouched(x, before[0])
    expect_untouched(baseline, before[1])
    exact = weight * (x**3 - baseline**3)
    if _near(given, exact):
        return _praise(float((given - exact).abs().max()), gradient, x, baseline, steps, exact)
    way = x - baseline
    middle = (torch.arange(steps, dtype=x.dtype) + 0.5) / steps

    def average(start: Tensor, step: Tensor) -> Tensor:
        return torch.stack([gradient(start + t * step) for t in middle]).mean(0)

    mean = average(baseline, way)
    for wrong, why in (
        (
            mean,
            "that is the mean gradient along the path. Each entry still has to be multiplied by "
            "how far its pixel value travels: x - baseline.",
        ),
        (
            steps * exact,
            "your map is too large by the factor `steps`. An integral over t from 0 to 1 is the "
            "mean of the gradients, not their sum.",
        ),
        (
            way * gradient(x),
            "you take the gradient at x only. Between baseline and x it changes: average it over "
            "points on the way.",
        ),
        (way * gradient(baseline), "you take the gradient at the baseline only. Move along t."),
        (
            way * average(torch.zeros_like(x), x),
            "your path begins at black, not at the baseline. The points are "
            "baseline + t * (x - baseline).",
        ),
        (
            way * average(x, way),
            "your path begins at x and goes on beyond it. The points are "
            "baseline + t * (x - baseline), with t from 0 to 1.",
        ),
        (
            way * average(x, x),
            "your path runs from x to 2x. The points are baseline + t * (x - baseline).",
        ),
        (
            x * mean,
            "you multiply by x. The path is x - baseline long; both agree only for black.",
        ),
        (-exact, "the sign is turned. It is x - baseline, not baseline - x."),
        (
            exact.abs(),
            "you take absolute values. Shares that speak against the class are negative, and only "
            "with them does the sum come out.",
        ),
    ):
        if _near(given, wrong):
            raise Mistake(why)
    raise Mistake(
        f"your map adds up to {float(given[0].sum()):.3f} for the first picture; "
        f"F(x) - F(baseline) is {float(exact[0].sum()):.3f}. Average gradient(baseline + t * "
        "(x - baseline)) over t, and multiply by x - baseline."
    )


def _near(given: Tensor, expected: Tensor) -> bool:
    """Agreement as good as any reasonable sum over the path gives."""
    return bool((given - expected).abs().max() < 0.02 * expected.abs().max())


def _praise(
    error: float, gradient: Gradient, x: Tensor, baseline: Tensor, steps: int, exact: Tensor
) -> str:
    left = torch.stack([gradient(baseline + k / steps * (x - baseline)) for k in range(steps)])
    crude = float(((x - baseline) * left.mean(0) - exact).abs().max())
    text = "the shares of each picture add up to F(x) - F(baseline)."
    if error < 0.1 * crude:
        return text
    return (
        f"{text} Your sum takes the end of each piece; its middle, t = (k + 0.5) / steps, is far "
        "closer for the same work."
    )


@check
def permutation_p(
    answer: Callable[
        [Tensor, Tensor, Callable[[Tensor, Tensor], float], Callable[[Tensor], Tensor], int], float
    ],
) -> str:
    """Exercise 7.2: the p-value of a permutation test.

    Parameters
    ----------
    answer
        ``answer(a, b, agreement, shuffle, draws)`` returns the p-value: ``agreement(a, b)`` is a
        number, larger for more agreement, and ``shuffle(b)`` a new shuffled copy at each call.

    Returns
    -------
    Verdict
    """
    a = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0])
    b = torch.tensor([1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0])
    trial = _Trial(a)
    draws = 60
    given = answer(a, b, trial.agreement, trial.shuffle, draws)
    expect_answer(given)
    value = float(given)
    if trial.touched_a:
        raise Mistake(
            "you shuffle a. Shuffle b alone and compare it with a as it is; two maps shuffled the "
            "same way agree as before."
        )
    if trial.shuffles != draws:
        raise Mistake(
            f"shuffle is called {trial.shuffles} times; {draws} draws are asked for, each with a "
            "call of its own."
        )
    # In how many the agreement of the real pair is exceeded, reached, ... among what was drawn.
    null = torch.tensor(trial.drawn)
    observed = float((a * b).sum())
    if len(null) != draws:
        raise Mistake(
            f"agreement is asked for {len(null)} shuffled maps; compare a with each of {draws}."
        )
    over, same = int((null > observed).sum()), int((null == observed).sum())
    centre = float(null.mean())
    far = int(((null - centre).abs() >= abs(observed - centre)).sum())
    for wrong, why in _p_mistakes(over, same, far, draws):
        if abs(value - wrong) < 1e-6:
            raise Mistake(why)
    right = (1 + over + same) / (1 + draws)
    if abs(value - right) > 1e-6:
        raise Mistake(
            f"you return {value:.4g}. Of {draws} draws {over + same} agree at least as well as the "
            f"real pair, so p is (1 + {over + same}) / (1 + {draws}) = {right:.4f}."
        )
    return "p counts the draws that reach what was observed, and what was observed itself."


class _Trial:
    """Hands out shuffled maps and writes down what is done with them."""

    def __init__(self, a: Tensor) -> None:
        self.a = a.clone()
        self.generator = torch.Generator().manual_seed(11)
        self.shuffles = 0
        self.issued: list[Tensor] = []
        self.drawn: list[float] = []
        self.touched_a = False

    def shuffle(self, values: Tensor) -> Tensor:
        self.shuffles += 1
        self.touched_a |= values is not None and values.equal(self.a)
        mixed = values[torch.randperm(len(values), generator=self.generator)]
        self.issued.append(mixed)
        return mixed

    def agreement(self, a: Tensor, b: Tensor) -> float:
        value = float((a * b).sum())
        if any(b is one for one in self.issued):
            self.drawn.append(value)
        return value


def _p_mistakes(over: int, same: int, far: int, draws: int) -> list[tuple[float, str]]:
    reached, under = over + same, draws - over - same
    return [
        (
            reached / draws,
            "you leave out the real pair itself. It is one of the equally likely draws: add 1 "
            "above and below, or p can be 0.",
        ),
        (
            (1 + reached) / draws,
            "you add 1 above the line only. The real pair is one more among all: divide by "
            "1 + draws.",
        ),
        (
            reached / (1 + draws),
            "you add 1 below the line only; above it the real pair counts too.",
        ),
        (
            (1 + over) / (1 + draws),
            "you count draws that exceed the real pair. A draw that agrees just as well speaks "
            "for chance too: >= and not >.",
        ),
        (over / draws, "count draws that are equal as well (>=), and add 1 above and below."),
        (
            (1 + under + same) / (1 + draws),
            "you count draws that agree *less*. Small p has to mean that chance seldom does as "
            "well: count null >= observed.",
        ),
        (
            (1 + under) / (1 + draws),
            "you count draws that agree *less*: null >= observed is meant.",
        ),
        (under / draws, "that is the share of draws that agree less. p is about the others."),
        (
            (1 + far) / (1 + draws),
            "that is a two-sided p: it counts draws that agree unusually *little* too. The claim "
            "is that the maps agree more than by chance, one side.",
        ),
        (
            2 * (1 + reached) / (1 + draws),
            "you double p. The claim has one side: the maps agree more than by chance.",
        ),
        (1 + reached, "that is a number of draws, not a share. Divide by 1 + draws."),
    ]
