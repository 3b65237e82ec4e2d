"""Checks of lesson 5, "Linear is enough"."""

from collections.abc import Callable

import torch
from torch import Tensor

from advlib.checks import Mistake, check, expect_answer, expect_tensor


@check
def robust_accuracy(answer: Callable[[Tensor, Tensor, Tensor, Tensor, float], float]) -> str:
    """Exercise 5.1: the share of pictures that no perturbation within `eps` can turn.

    Parameters
    ----------
    answer
        ``answer(w, b, x, y, eps)`` returns the exact robust accuracy of the classifier with the
        score ``x @ w + b``, for pictures (n, d) and classes -1 or +1, shape (n,).

    Returns
    -------
    Verdict
    """
    w, b, x, y, eps = _one_picture_for_each_mistake()
    given = answer(w, b, x, y, eps)
    expect_answer(given)
    value = float(given)
    right, mistakes = _robust_shares(w, b, x, y, eps)
    for wrong, why in mistakes:
        if abs(value - wrong) < 1e-6:
            raise Mistake(why)
    if abs(value - right) > 1e-6:
        raise Mistake(
            f"you return {value:.4g}, and {right:.4g} is expected. The smallest margin that an "
            "attacker can cause is y * (x @ w + b) - eps * w.abs().sum()."
        )
    if abs(float(answer(w, b, x, y, 0.0)) - _share(y * (x @ w + b) > 0)) > 1e-6:
        raise Mistake("with eps = 0 the robust accuracy must be the plain accuracy.")
    return "a picture counts if its margin is still positive after the worst step."


def _one_picture_for_each_mistake() -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
    """Margins, in 16ths, for which every plausible mistake counts another number of pictures.

    All numbers are multiples of powers of two, so that the margin of exactly 0 is exact.
    """
    positive = torch.tensor([13, 13, 10, 9, 5, 3, 3, 3, 3, -7, -9, -11, -13, -15])
    negative = torch.tensor([15, 15, 13, 11, 9, 7, 7, 5, 3, 3, 1, -1, -3, -5, -13])
    y = torch.cat([torch.ones(len(positive)), -torch.ones(len(negative))])
    score = torch.cat([positive, -negative]) / 16
    w, b = torch.tensor([2.0, -2.0, 1.0]), torch.tensor(-1.0)
    fixed = torch.tensor([0.25, 0.5]).expand(len(y), 2)
    return w, b, torch.cat([(score[:, None] + 1) / 2, fixed], 1), y, 0.125


def _share(kept: Tensor) -> float:
    return float(kept.double().mean())


def _robust_shares(
    w: Tensor, b: Tensor, x: Tensor, y: Tensor, eps: float
) -> tuple[float, list[tuple[float, str]]]:
    """The right share, and what each plausible mistake would return."""
    score = x @ w + b
    reach = eps * w.abs().sum()
    right = _share(y * score > reach)
    return right, [
        (
            _share(y * (reach - score) < 0),
            "the sign of y is lost. In y * (eps * ||w||_1 - score) the class -1 turns the budget "
            "round, as if the attacker helped. Only the score is multiplied by y: "
            "y * score - eps * ||w||_1.",
        ),
        (
            _share(score > reach),
            "y is missing: for the class -1 a right score is negative. Look at y * score.",
        ),
        (
            _share(score.abs() > reach),
            "abs(score) forgets who was wrong from the start: a picture that is misread with a "
            "wide margin counts as robust. Use y * score.",
        ),
        (
            _share(y * score > eps * w.norm()),
            "you subtract eps * ||w||_2. That is the worst case in the l2 ball. For the linf ball "
            "the dual norm is the sum of absolute values, w.abs().sum().",
        ),
        (
            _share(y * score > eps * w.abs().max()),
            "you subtract eps * max|w|: that is the worst case in the l1 ball. For the linf ball "
            "all pixel values move, so their effects add up: w.abs().sum().",
        ),
        (
            _share(y * score > eps * w.sum()),
            "you subtract eps * w.sum(). Negative weights help the attacker too, who turns those "
            "pixels the other way: take w.abs().sum().",
        ),
        (
            _share(y * (x @ w) > reach),
            "the bias b is forgotten: the score is x @ w + b.",
        ),
        (
            _share(y * score > 0),
            "that is the plain accuracy: eps is missing.",
        ),
        (
            _share(y * score > w.abs().sum()),
            "eps is missing: the attacker moves the score by eps * ||w||_1, not by ||w||_1.",
        ),
        (
            _share(y * score >= reach),
            "one picture has a worst margin of exactly 0. There the classes tie, and a tie is not "
            "robust: compare with >, not >=.",
        ),
        (
            _share(y * score > -reach),
            "you add eps * ||w||_1: that is the best case. An attacker lowers the margin.",
        ),
        (1 - right, "that is the share that falls. The robust accuracy is the rest."),
        (right * len(y), "that is a number of pictures. Divide it by how many there are."),
        (100 * right, "a share lies in [0, 1]: leave out the factor 100."),
    ]


@check
def smallest_eps(answer: Callable[[Tensor, Tensor, Tensor], Tensor]) -> str:
    r"""Exercise 5.2: the smallest budget that brings each picture to the decision boundary.

    Parameters
    ----------
    answer
        ``answer(w, b, x)`` returns, for pictures (n, d), the smallest linf budget with which an
        attacker can make the score ``x @ w + b`` zero, shape (n,).

    Returns
    -------
    Verdict
    """
    w, b = torch.tensor([2.0, -3.0, 6.0, 0.0]), torch.tensor(-1.5)
    x = torch.tensor([[0.3, 0.6, 0.2, 0.9], [0.7, 0.2, 0.9, 0.1], [0.4, 0.5, 0.5, 0.5]])
    given = expect_tensor(answer(w, b, x), (3,), "budgets").to(x.dtype)
    score = x @ w + b
    right = score.abs() / w.abs().sum()
    for wrong, why in _wrong_budgets(w, b, x):
        if torch.allclose(given, wrong, rtol=1e-4):
            raise Mistake(why)
    if not torch.allclose(given, right, rtol=1e-4):
        raise Mistake(
            f"for a picture with score {score[1]:.2f} and ||w||_1 = {w.abs().sum():.0f} you return "
            f"{given[1]:.4g}, and {right[1]:.4g} is expected. A budget eps moves the score by "
            "eps * ||w||_1; how much is needed to reach 0?"
        )
    return "a budget eps moves the score by eps * ||w||_1, and |score| is what has to be moved."


def _wrong_budgets(w: Tensor, b: Tensor, x: Tensor) -> list[tuple[Tensor, str]]:
    """What each plausible mistake would return."""
    score, l1 = x @ w + b, w.abs().sum()
    return [
        (
            score / l1,
            "some of your budgets are negative. A picture on the other side of the boundary has as "
            "far to go: take the absolute value of the score.",
        ),
        (
            -score / l1,
            "some of your budgets are negative. How far it is does not depend on the side: take "
            "the absolute value of the score.",
        ),
        (
            score.abs() / w.norm(),
            "you divide by ||w||_2. That is the smallest step in the l2 norm, straight along w. "
            "Where all pixel values move by the same amount, divide by the sum of |w|.",
        ),
        (
            score.abs() / w.square().sum(),
            "you divide by ||w||_2 squared. That is the factor before w in the l2 projection, and "
            "not a budget.",
        ),
        (
            score.abs() / w.abs().max(),
            "you divide by max|w|: that is the budget where a single pixel value moves (l1). Here "
            "all of them do, and their effects add up.",
        ),
        (
            score.abs() / w.sum().abs(),
            "you divide by w.sum(), where weights of different sign cancel. The attacker turns "
            "each pixel value with the sign of its weight: w.abs().sum().",
        ),
        (
            score.abs() / w.abs().mean(),
            "you divide by the mean of |w|. Every pixel value moves, so the effects add up: the "
            "sum, not the mean.",
        ),
        (
            (x @ w).abs() / l1,
            "the bias b is forgotten: the boundary is where x @ w + b is 0.",
        ),
        (score.abs(), "that is how far the score must move. Which eps moves it so far?"),
        (
            score.abs() * l1,
            "you multiply by ||w||_1. The steeper the score, the smaller a budget is enough: "
            "divide.",
        ),
        (255 * score.abs() / l1, "that is in grey levels. Pixels are in [0, 1]: no factor 255."),
    ]
