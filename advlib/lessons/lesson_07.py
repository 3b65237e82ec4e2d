"""Checks of lesson 7, "The same pixels"."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from advlib.analysis.map_comparison import per_pixel, top_pixels
from advlib.attacks.pgd import pgd
from advlib.data import signs
from advlib.evaluation import predict
from advlib.gradients import input_gradient
from advlib.lessons import (
    Answer,
    Counted,
    Mistake,
    check,
    close,
    expect_number,
    expect_tensor,
    expect_untouched,
    name_mistake,
)
from advlib.models import load

PIXELS, GRADIENTS = 205, 8
"""What exercise 7.3 allows for each image: pixels, and gradients to choose them."""


@check
def integrated_gradients(answer: Answer) -> str:
    """Exercise 7.1: integrated gradients from a function that returns gradients.

    ``answer(gradient, x, baseline, steps)`` returns the map, of the shape of `x`;
    ``gradient(points)`` is the gradient of the score at a batch of images.
    """
    generator = torch.Generator().manual_seed(7)
    x, baseline, weight = torch.rand(3, 2, 3, 4, 4, generator=generator, dtype=torch.float64)
    weight, steps = 2 * weight - 1, 50

    # The score is the sum of weight * pixel**3, so that every integral is known exactly.
    def gradient(points: Tensor) -> Tensor:
        # The whole path may come as one long batch or with an additional dimension.
        copies = max(1, len(points) // len(weight)) if points.ndim == weight.ndim else 1
        return 3 * weight.repeat(copies, 1, 1, 1) * points**2

    before = x.clone(), baseline.clone()
    given = expect_tensor(answer(gradient, x, baseline, steps), x.shape, "maps")
    expect_untouched(x, before[0])
    expect_untouched(baseline, before[1])
    exact, path = weight * (x**3 - baseline**3), x - baseline

    def mean(start: Tensor, direction: Tensor, at: float = 0.5) -> Tensor:
        t = (torch.arange(steps, dtype=x.dtype) + at) / steps
        return torch.stack([gradient(start + k * direction) for k in t]).mean(0)

    # As close as any reasonable sum over the path comes.
    tolerance = 0.02 * float(exact.abs().max())
    if close(given, exact, atol=tolerance):
        praise = "the shares of each image add up to F(x) - F(baseline)."
        left_end = float((path * mean(baseline, path, at=0.0) - exact).abs().max())
        if float((given - exact).abs().max()) < 0.1 * left_end:
            return praise
        return (
            f"{praise} Your sum takes the end of each piece; its middle, t = (k + 0.5) / steps, is "
            "far closer at the same cost."
        )
    mistakes = {
        "that is the mean gradient along the path. Each entry still has to be multiplied by how "
        "far its pixel value moves: x - baseline.": mean(baseline, path),
        "your map is too large by the factor `steps`. An integral over t from 0 to 1 is the mean "
        "of the gradients, not their sum.": steps * exact,
        "you take the gradient at x only. Between baseline and x it changes: average it over "
        "points on the path.": path * gradient(x),
        "you take the gradient at the baseline only. Vary t.": path * gradient(baseline),
        "your path begins at black, not at the baseline. The points are "
        "baseline + t * (x - baseline).": path * mean(torch.zeros_like(x), x),
        "your path begins at x and continues beyond it. The points are "
        "baseline + t * (x - baseline), with t from 0 to 1.": path * mean(x, path),
        "your path runs from x to 2x. The points are baseline + t * (x - baseline).": path
        * mean(x, x),
        "you multiply by x. The path is x - baseline; both agree only for black.": x
        * mean(baseline, path),
        "the sign is reversed. It is x - baseline, not baseline - x.": -exact,
        "you take absolute values. Shares against the class are negative, and the sum is correct "
        "only with them.": exact.abs(),
    }
    name_mistake(given, mistakes, atol=tolerance)
    raise Mistake(
        f"your map adds up to {float(given[0].sum()):.3f} for the first image; "
        f"F(x) - F(baseline) is {float(exact[0].sum()):.3f}. Average gradient(baseline + t * "
        "(x - baseline)) over t, and multiply by x - baseline."
    )


@check
def permutation_p(answer: Answer) -> str:
    """Exercise 7.2: the p-value of a permutation test.

    ``answer(a, b, agreement, shuffle, draws)`` returns the p-value: ``agreement(a, b)`` is a
    number, larger for more agreement, and ``shuffle(b)`` a new shuffled copy at each call.
    """
    a = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0])
    b = torch.tensor([1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0])
    trial, draws = _Trial(a), 60
    value = expect_number(answer(a, b, trial.agreement, trial.shuffle, draws))
    if trial.shuffled_a:
        raise Mistake(
            "you shuffle a. Shuffle b alone and compare it with a as it is; two maps shuffled the "
            "same way agree as before."
        )
    if trial.shuffles != draws:
        raise Mistake(
            f"shuffle is called {trial.shuffles} times; {draws} draws are needed, each with its "
            "own call."
        )
    if len(trial.null) != draws:
        raise Mistake(
            f"agreement is called for {len(trial.null)} shuffled maps; compare a with each of "
            f"{draws}."
        )
    null, observed = torch.tensor(trial.null), float((a * b).sum())
    greater, equal = int((null > observed).sum()), int((null == observed).sum())
    far = (null - null.mean()).abs() >= abs(observed - float(null.mean()))
    name_mistake(value, _p_values(greater, equal, int(far.sum()), draws))
    reached = greater + equal
    correct = (1 + reached) / (1 + draws)
    if not close(value, correct):
        raise Mistake(
            f"you return {value:.4g}. Of {draws} draws {reached} agree at least as well as the "
            f"real pair, so p is (1 + {reached}) / (1 + {draws}) = {correct:.4f}."
        )
    return "p counts the draws that reach the observed agreement, and the observation itself."


class _Trial:
    """Returns shuffled maps and records how they are used."""

    def __init__(self, a: Tensor) -> None:
        self.a = a.clone()
        self.generator = torch.Generator().manual_seed(11)
        self.shuffles = 0
        self.issued: list[Tensor] = []
        self.null: list[float] = []
        self.shuffled_a = False

    def shuffle(self, values: Tensor) -> Tensor:
        self.shuffles += 1
        self.shuffled_a |= values is not None and values.equal(self.a)
        shuffled = values[torch.randperm(len(values), generator=self.generator)]
        self.issued.append(shuffled)
        return shuffled

    def agreement(self, a: Tensor, b: Tensor) -> float:
        value = float((a * b).sum())
        if any(b is one for one in self.issued):
            self.null.append(value)
        return value


def _p_values(greater: int, equal: int, far: int, draws: int) -> dict[str, Any]:
    """What each plausible mistake returns, from how many draws exceed or equal the real pair."""
    reached, less = greater + equal, draws - greater - equal
    return {
        "you leave out the real pair itself. It is one of the equally likely draws: add 1 to "
        "numerator and denominator, or p can be 0.": reached / draws,
        "you add 1 to the numerator only. The real pair is one more draw: divide by 1 + draws.": (
            1 + reached
        )
        / draws,
        "you add 1 to the denominator only; the real pair counts in the numerator too.": reached
        / (1 + draws),
        "you count draws that exceed the real pair. A draw that agrees just as well also supports "
        "the null hypothesis: >= and not >.": (1 + greater) / (1 + draws),
        "count draws that are equal as well (>=), and add 1 to numerator and denominator.": greater
        / draws,
        "you count draws that agree *less*. A small p has to mean that few draws agree as well: "
        "count null >= observed.": ((1 + less + equal) / (1 + draws), (1 + less) / (1 + draws)),
        "that is the share of draws that agree less. p is about the others.": less / draws,
        "that is a two-sided p: it counts draws that agree unusually *little* too. The claim "
        "is that the maps agree more than by chance, one side.": (1 + far) / (1 + draws),
        "you double p. The claim has one side: the maps agree more than by chance.": 2
        * (1 + reached)
        / (1 + draws),
        "that is a number of draws, not a share. Divide by 1 + draws.": 1 + reached,
    }


@check
def pixel_choice(answer: Answer) -> str:
    """Exercise 7.3: choose 205 pixels of each sign that flip more answers than the steepest do.

    ``answer(model, x, y)`` returns booleans, shape (n, 64, 64), from at most eight gradients for
    each image. PGD may then change these pixels by at most 4/255.
    """
    network, x, y, steepest = _to_choose()
    given, model = x.clone(), Counted(network)
    chosen = expect_tensor(answer(model, given, y), (len(x), *x.shape[2:]), "pixels").detach()
    expect_untouched(given, x)
    if chosen.dtype != torch.bool:
        raise Mistake(f"your pixels are {chosen.dtype}; booleans are expected: True may change.")
    counts = chosen.flatten(1).sum(1)
    if not (counts == PIXELS).all():
        raise Mistake(
            f"you choose {int(counts.min())} to {int(counts.max())} pixels of a sign; {PIXELS} of "
            "each are expected. top_pixels(values, 0.05) marks them, image by image."
        )
    for count, what in ((model.gradients, "gradients"), (model.looks, "calls without a gradient")):
        if count > GRADIENTS * len(x):
            raise Mistake(
                f"you use {count / len(x):.1f} {what} for each image; {GRADIENTS} are allowed."
            )
    yours, theirs = (_flipped(network, x, y, pixels) for pixels in (chosen, steepest))
    if yours <= theirs:
        raise Mistake(
            f"your pixels flip {yours} of {len(x)} signs, the steepest ones {theirs}. The gradient "
            "at x says where the attack begins. Where does it do its work on the way?"
        )
    return f"your pixels flip {yours} of {len(x)} signs, the steepest ones {theirs}."


def _flipped(model: nn.Module, x: Tensor, y: Tensor, pixels: Tensor) -> int:
    x_adv = pgd(
        model,
        x,
        y,
        4 / 255,
        steps=8,
        random_start=False,
        loss="margin",
        early_stop=True,
        where=pixels[:, None],
    )
    return int((predict(model, x_adv).argmax(1) != y).sum())


@cache
def _to_choose() -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """The standard network, 24 signs that it classifies correctly, and their steepest pixels."""
    model = load("signs-standard")
    x, y = signs.render(30, seed=7_306)
    correct = predict(model, x).argmax(1) == y
    x, y = x[correct][:24], y[correct][:24]
    gradient = input_gradient(model, x, y, loss="margin").grad
    return model, x, y, top_pixels(per_pixel(gradient), PIXELS / 4096)
