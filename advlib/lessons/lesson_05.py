"""Checks of lesson 5, "Linear is enough"."""

from functools import cache

import torch
from torch import Tensor, nn

from advlib.analysis.least_budget import least_budget
from advlib.attacks.pgd import pgd
from advlib.data import signs
from advlib.evaluation import predict
from advlib.fast import accelerated
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


@check
def robust_accuracy(answer: Answer) -> str:
    """Exercise 5.1: the share of images that no perturbation within `eps` can fool.

    ``answer(w, b, x, y, eps)`` returns the exact robust accuracy of the classifier with the score
    ``x @ w + b``, for images (n, d) and classes -1 or +1, shape (n,).
    """
    w, b, x, y, eps = _one_image_for_each_mistake()
    value = expect_number(answer(w, b, x, y, eps))
    correct, mistakes = _robust_shares(w, b, x, y, eps)
    name_mistake(value, mistakes)
    if not close(value, correct):
        raise Mistake(
            f"you return {value:.4g}, and {correct:.4g} is expected. The smallest margin that an "
            "attacker can cause is y * (x @ w + b) - eps * w.abs().sum()."
        )
    if not close(float(answer(w, b, x, y, 0.0)), _share(y * (x @ w + b) > 0)):
        raise Mistake("with eps = 0 the robust accuracy must be the plain accuracy.")
    return "an image counts if its margin is still positive after the worst step."


def _one_image_for_each_mistake() -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    """Margins, in 16ths, for which every plausible mistake counts another number of images.

    All numbers are multiples of powers of two, so that the margin of exactly 0 is exact.
    """
    positive = torch.tensor([13, 13, 10, 9, 5, 3, 3, 3, 3, -7, -9, -11, -13, -15])
    negative = torch.tensor([15, 15, 13, 11, 9, 7, 7, 5, 3, 3, 1, -1, -3, -5, -13])
    y = torch.cat([torch.ones(len(positive)), -torch.ones(len(negative))])
    score = torch.cat([positive, -negative]) / 16
    w, b = torch.tensor([2.0, -2.0, 1.0]), torch.tensor(-1.0)
    fixed = torch.tensor([0.25, 0.5]).expand(len(y), 2)
    return w, b, torch.cat([(score[:, None] + 1) / 2, fixed], 1), y, 0.125


def _share(robust: Tensor) -> float:
    return float(robust.double().mean())


def _robust_shares(
    w: Tensor, b: Tensor, x: Tensor, y: Tensor, eps: float
) -> tuple[float, dict[str, float]]:
    """The correct share, and what each plausible mistake would return."""
    score = x @ w + b
    reach = eps * w.abs().sum()
    correct = _share(y * score > reach)
    return correct, {
        "the sign of y is lost. In y * (eps * ||w||_1 - score) the budget helps the class -1, as "
        "if the attacker were on its side. Only the score is multiplied by y: "
        "y * score - eps * ||w||_1.": _share(y * (reach - score) < 0),
        "y is missing: for the class -1 a correct score is negative. Look at y * score.": _share(
            score > reach
        ),
        "abs(score) forgets which images were misclassified from the start: one that is "
        "misclassified with a wide margin counts as robust. Use y * score.": _share(
            score.abs() > reach
        ),
        "you subtract eps * ||w||_2. That is the worst case in the l2 ball. For the linf ball the "
        "dual norm is the sum of absolute values, w.abs().sum().": _share(
            y * score > eps * w.norm()
        ),
        "you subtract eps * max|w|: that is the worst case in the l1 ball. For the linf ball all "
        "pixel values move, so their effects add up: w.abs().sum().": _share(
            y * score > eps * w.abs().max()
        ),
        "you subtract eps * w.sum(). Negative weights help the attacker too, who moves those "
        "pixels in the other direction: take w.abs().sum().": _share(y * score > eps * w.sum()),
        "the bias b is forgotten: the score is x @ w + b.": _share(y * (x @ w) > reach),
        "that is the plain accuracy: eps is missing.": _share(y * score > 0),
        "eps is missing: the attacker moves the score by eps * ||w||_1, not by ||w||_1.": _share(
            y * score > w.abs().sum()
        ),
        "one image has a worst margin of exactly 0. There the classes tie, and a tie is not "
        "robust: compare with >, not >=.": _share(y * score >= reach),
        "you add eps * ||w||_1: that is the best case. An attacker lowers the margin.": _share(
            y * score > -reach
        ),
        "that is the share of fooled images. The robust accuracy is the rest.": 1 - correct,
        "that is a number of images. Divide it by how many there are.": correct * len(y),
        "a share lies in [0, 1]: leave out the factor 100.": 100 * correct,
    }


@check
def smallest_eps(answer: Answer) -> str:
    r"""Exercise 5.2: the smallest budget that brings each image to the decision boundary.

    ``answer(w, b, x)`` returns, for images (n, d), the smallest linf budget with which an attacker
    can make the score ``x @ w + b`` zero, shape (n,).
    """
    w, b = torch.tensor([2.0, -3.0, 6.0, 0.0]), torch.tensor(-1.5)
    x = torch.tensor([[0.3, 0.6, 0.2, 0.9], [0.7, 0.2, 0.9, 0.1], [0.4, 0.5, 0.5, 0.5]])
    given = expect_tensor(answer(w, b, x), (3,), "budgets")
    score, l1 = x @ w + b, w.abs().sum()
    size, correct = score.abs(), score.abs() / l1
    mistakes = {
        "some of your budgets are negative. An image on the other side of the boundary has as far "
        "to go: take the absolute value of the score.": score / l1,
        "some of your budgets are negative. The distance does not depend on the side: take the "
        "absolute value of the score.": -score / l1,
        "you divide by ||w||_2. That is the smallest step in the l2 norm, straight along w. Where "
        "all pixel values move by the same amount, divide by the sum of |w|.": size / w.norm(),
        "you divide by ||w||_2 squared. That is the factor before w in the l2 projection, and not "
        "a budget.": size / w.square().sum(),
        "you divide by max|w|: that is the budget where a single pixel value moves (l1). Here all "
        "of them do, and their effects add up.": size / w.abs().max(),
        "you divide by w.sum(), where weights of different sign cancel. The attacker moves each "
        "pixel value with the sign of its weight: w.abs().sum().": size / w.sum().abs(),
        "you divide by the mean of |w|. Every pixel value moves, so the effects add up: the sum, "
        "not the mean.": size / w.abs().mean(),
        "the bias b is forgotten: the boundary is where x @ w + b is 0.": (x @ w).abs() / l1,
        "that is how far the score must move. Which eps moves it that far?": size,
        "you multiply by ||w||_1. The steeper the score, the smaller the budget: divide.": size
        * l1,
        "that is in grey levels. Pixels are in [0, 1]: no factor 255.": 255 * correct,
    }
    name_mistake(given, mistakes, rtol=1e-4, atol=1e-8)
    if not close(given, correct, rtol=1e-4):
        raise Mistake(
            f"for an image with score {score[1]:.2f} and ||w||_1 = {l1:.0f} you return "
            f"{given[1]:.4g}, and {correct[1]:.4g} is expected. A budget eps moves the score by "
            "eps * ||w||_1; how much is needed to reach 0?"
        )
    return "a budget eps moves the score by eps * ||w||_1, and |score| is what has to be moved."


@check
def budget_forecast(answer: Answer) -> str:
    r"""Exercise 5.3: with four gradients an image, forecast the budget that PGD needs.

    ``answer(model, x, y)`` returns, for images that the model classifies correctly, the smallest
    linf budget of a PGD attack that fools it, shape (n,). It has to come closer than the
    linearisation does, even when that is multiplied by the constant that suits it best.
    """
    network, drawn, y, needed = _needed()
    before, x, model = drawn, drawn.clone(), Counted(network)
    given = expect_tensor(answer(model, x, y), (len(x),), "budgets").detach()
    expect_untouched(x, before)
    for count, what in ((model.gradients, "gradients"), (model.looks, "calls without a gradient")):
        if count > 4 * len(x):
            raise Mistake(
                f"you use {count / len(x):.1f} {what} for each image; four are allowed. With "
                "more it is an attack, not a forecast."
            )
    if not (given > 0).all():
        raise Mistake(
            "some of your budgets are not positive. These images are classified correctly."
        )
    if (given > 1).any():
        raise Mistake("some of your budgets exceed 1. Pixels are in [0, 1]: no factor 255.")
    linear = _linearisation(network, x, y)
    rival = min(_off(c / 100 * linear, needed) for c in range(40, 121))
    yours = _off(given, needed)
    if yours >= rival:
        raise Mistake(
            f"your forecast is off by a factor of {yours:.3f} (median), the linearisation by "
            f"{_off(linear, needed):.3f}, and by {rival:.3f} times its best constant. What does a "
            "second gradient, part of the way, say about the rest of it?"
        )
    return (
        f"off by a factor of {yours:.3f}; the linearisation times its best constant, {rival:.3f}."
    )


def _off(forecast: Tensor, needed: Tensor) -> float:
    return float((forecast / needed).log().abs().median().exp())


def _linearisation(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    here = input_gradient(model, x, y, loss="margin")
    return -here.loss / here.grad.flatten(1).abs().sum(1)


@cache
def _needed() -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """The standard network, 16 signs that it classifies correctly, and the budgets PGD needs."""
    x, y = signs.render(24, seed=5_306)
    model = accelerated(load("signs-standard"), x[:8], threads=1)
    correct = predict(model, x).argmax(1) == y
    x, y = x[correct][:16], y[correct][:16]
    budgets = [0.2 * 1.05**k / 255 for k in range(80)]
    needed = least_budget(
        model,
        x,
        y,
        budgets,
        lambda model, x, y, eps: pgd(
            model, x, y, eps, steps=10, step_size=eps / 2, loss="margin", early_stop=True
        ),
    )
    return model, x, y, needed.float()
