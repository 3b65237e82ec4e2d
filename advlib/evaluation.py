"""How often a model is right, with and without an attacker, and how sure that number is."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from advlib.contracts import (
    Model,
    check_device,
    check_eps,
    check_images,
    check_labels,
    check_logits,
    check_steps,
    forward,
    progress_bar,
    undisturbed,
)
from advlib.errors import InputError

Attack = Callable[[Any, Tensor, Tensor], Tensor]
"""From a model, images and their true classes to perturbed images."""

BudgetAttack = Callable[[Any, Tensor, Tensor, float], Tensor]
"""The same with a budget `eps` as fourth argument."""


@dataclass(frozen=True)
class Proportion:
    """A measured share, `count` of `total`, and the interval that its sample size allows.

    `low` and `high`, in [0, 1], are the ends of a Wilson interval, 95 % unless asked otherwise.
    """

    count: int
    total: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share itself, ``count / total``, in [0, 1]; NaN of nothing."""
        return self.count / self.total if self.total else math.nan

    def __str__(self) -> str:
        if not self.total:
            return "nothing measured"
        return (
            f"{100 * self.value:.1f} % ({self.count} of {self.total}; "
            f"95 % interval {100 * self.low:.1f} to {100 * self.high:.1f} %)"
        )


def wilson(count: int, total: int, *, confidence: float = 0.95) -> Proportion:
    r"""Wilson's score interval for a proportion.

    It stays inside [0, 1] and keeps its promise for few samples and for shares near 0 or 1, where
    the usual ``p +- 1.96 * sqrt(p * (1 - p) / n)`` collapses: for 0 of 200 it gives 0 to 1.9 %.

    `count` are the successes among `total` trials, 0 <= count <= total; with no trials the interval
    is all of [0, 1]. `confidence`, in (0, 1), is the probability that it covers the truth; a
    `Proportion` prints itself as a 95 % interval. See Wilson 1927; Brown, Cai & DasGupta 2001,
    section 3.1.1.
    """
    if not 0 <= count <= total:
        raise InputError(f"{count} of {total} was given; 0 <= count <= total is expected.")
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}; a number between 0 and 1 is expected.")
    if total == 0:
        return Proportion(0, 0, 0.0, 1.0)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = count / total
    centre = (share + z**2 / (2 * total)) / (1 + z**2 / total)
    half = z / (1 + z**2 / total) * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    # At the ends the formula gives 0 and 1 exactly; rounding does not.
    low = 0.0 if count == 0 else centre - half
    high = 1.0 if count == total else centre + half
    return Proportion(int(count), int(total), low, high)


def predict(model: Model, x: Tensor, *, batch_size: int = 256) -> Tensor:
    """Logits of all images (n, classes), computed in batches with the model in eval mode.

    `model`, `x` and errors are as for `advlib.fgsm`; `batch_size` images, >= 1, are classified at a
    time. The logits are on the device of `x`, without gradient.
    """
    batch_size = check_steps("batch_size", batch_size)
    x = check_images(x)
    check_device(model, x)
    if len(x) == 0:
        return x.new_zeros(0, 0)
    with undisturbed(model, x.device), torch.no_grad():
        rows = []
        for part in x.split(batch_size):
            logits = forward(model, part.clone())  # a model may normalise in place
            check_logits(logits, part)
            rows.append(logits)
        return torch.cat(rows)


def accuracy(
    model: Model,
    x: Tensor,
    y: Tensor,
    attack: Attack | None = None,
    *,
    batch_size: int = 256,
    progress: bool = False,
) -> Proportion:
    """Share of images that the model classifies correctly, under an attack if one is given.

    Parameters
    ----------
    model, x, y
        As for `advlib.fgsm`, and so are the errors; `y` are the true classes.
    attack
        Called as ``attack(model, x, y)`` on each batch; the images it returns are classified.
        None: the images as they are.
    batch_size, progress
        How many images at a time, >= 1; whether a progress bar stands on standard error meanwhile.

    Examples
    --------
    Robust accuracy against PGD, and accuracy under the largest noise of the same size::

        accuracy(model, x, y, lambda model, x, y: pgd(model, x, y, eps=4 / 255))
        accuracy(model, x, y, lambda model, x, y: noise(x, 4 / 255, distribution="sign"))
    """
    return _share(_correct(model, x, y, attack, batch_size, progress))


def accuracy_curve(
    model: Model,
    x: Tensor,
    y: Tensor,
    budgets: Sequence[float],
    attack: BudgetAttack,
    *,
    cumulative: bool = False,
    batch_size: int = 256,
) -> list[Proportion]:
    """Accuracy under an attack, for each of several budgets.

    Parameters
    ----------
    model, x, y, batch_size
        As for `accuracy`.
    budgets, attack
        The values of `eps`, and what is called as ``attack(model, x, y, eps)`` on each batch.
    cumulative
        False: what the attack achieves *at* each budget. True: *up to* each budget, in ascending
        order: only what is correct at all smaller budgets too counts as correct. Balls are nested,
        so whoever may spend more may also spend less; a single step alone can do worse with more.
    """
    budgets = [check_eps(eps) for eps in budgets]
    if cumulative and budgets != sorted(budgets):
        raise InputError(f"cumulative needs budgets in ascending order; {budgets} was given.")
    shares: list[Proportion] = []
    so_far = None
    for eps in budgets:
        at_eps = lambda m, x, y, eps=eps: attack(m, x, y, eps)  # noqa: E731
        correct = _correct(model, x, y, at_eps, batch_size)
        so_far = correct if so_far is None or not cumulative else so_far & correct
        shares.append(_share(so_far))
    return shares


def _correct(
    model: Model, x: Tensor, y: Tensor, attack: Attack | None, batch_size: int, show: bool = False
) -> Tensor:
    """Whether each image is classified correctly under `attack`: shape (n,), boolean."""
    batch_size = check_steps("batch_size", batch_size)
    x = check_images(x)
    y = check_labels(y, x)
    correct = [torch.zeros(0, dtype=torch.bool, device=x.device)]
    batches = list(zip(x.split(batch_size), y.split(batch_size), strict=True)) if len(x) else []
    for part, labels in progress_bar(batches, show=show, unit="batch", desc="measuring"):
        shown = part if attack is None else attack(model, part, labels)
        logits = predict(model, shown, batch_size=batch_size)
        check_logits(logits, part, labels)
        correct.append(logits.argmax(1) == labels)
    return torch.cat(correct)


def _share(correct: Tensor) -> Proportion:
    return wilson(int(correct.sum()), len(correct))
