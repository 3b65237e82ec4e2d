"""How often a model is right, with and without an attacker, and how sure that number is."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from advlib import threats
from advlib.contracts import (
    Model,
    check_device,
    check_labels,
    check_logits,
    check_pictures,
    check_steps,
)
from advlib.errors import InputError
from advlib.gradients import undisturbed

Attack = Callable[[Any, Tensor, Tensor], Tensor]
"""From a model, pictures and their true classes to perturbed pictures."""

BudgetAttack = Callable[[Any, Tensor, Tensor, float], Tensor]
"""The same with a budget `eps` as fourth argument."""


@dataclass(frozen=True)
class Proportion:
    """A measured share and the interval that its sample size allows.

    Attributes
    ----------
    count, total
        How many of how many.
    low, high
        Wilson interval, 95 % unless asked otherwise, in [0, 1].
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

    Parameters
    ----------
    count
        Successes, 0 <= count <= total.
    total
        Trials, >= 0. No trials: the interval is all of [0, 1].
    confidence
        Probability that the interval covers the truth, in (0, 1). `Proportion` prints itself as a
        95 % interval, the default.

    Returns
    -------
    Proportion

    Raises
    ------
    InputError
        Counts that cannot be, or a confidence outside (0, 1).

    References
    ----------
    Wilson 1927; Brown, Cai & DasGupta 2001, section 3.1.1.
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
    """Logits of all pictures, computed in batches with the model in eval mode.

    Parameters
    ----------
    model
        Classifier from pixels in [0, 1] to logits (n, classes).
    x
        Pictures, shape (n, c, h, w), floating point, pixels in [0, 1].
    batch_size
        How many pictures at a time, >= 1.

    Returns
    -------
    Tensor
        Logits, shape (n, classes), on the device of `x`, without gradient.

    Raises
    ------
    PixelError, DeviceError, ModelOutputError, ThreatError
        An argument, or what the model makes of it, cannot be used.
    """
    batch_size = check_steps("batch_size", batch_size)
    x = check_pictures(x)
    check_device(model, x)
    if len(x) == 0:
        return x.new_zeros(0, 0)
    with undisturbed(model, x.device), torch.no_grad():
        rows = []
        for part in x.split(batch_size):
            logits = model(part.clone())  # a model may normalise in place
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
    """Share of pictures that the model classifies correctly, under an attack if one is given.

    Parameters
    ----------
    model
        Classifier from pixels in [0, 1] to logits (n, classes).
    x
        Pictures, shape (n, c, h, w), floating point, pixels in [0, 1].
    y
        True classes, shape (n,), integer.
    attack
        Called as ``attack(model, x, y)`` on each batch, with the true classes; the pictures it
        returns are classified. None: the pictures as they are.
    batch_size
        How many pictures at a time, >= 1.
    progress
        Show a progress bar on standard error, which is removed at the end.

    Returns
    -------
    Proportion
        ``value``, ``low``, ``high`` in [0, 1], and ``count`` of ``total``.

    Raises
    ------
    PixelError, LabelError, DeviceError, ModelOutputError, ThreatError
        An argument, or what the model makes of it, cannot be used.

    Examples
    --------
    Robust accuracy against PGD, and accuracy under the largest noise of the same size::

        accuracy(model, x, y, lambda model, x, y: pgd(model, x, y, eps=4 / 255))
        accuracy(model, x, y, lambda model, x, y: noise(x, 4 / 255, distribution="sign"))
    """
    return _share(_right(model, x, y, attack, batch_size, progress))


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
    r"""Accuracy under an attack, for each of several budgets.

    Parameters
    ----------
    model
        Classifier from pixels in [0, 1] to logits (n, classes).
    x
        Pictures, shape (n, c, h, w), floating point, pixels in [0, 1].
    y
        True classes, shape (n,), integer.
    budgets
        The values of `eps`, each >= 0, in units of pixels.
    attack
        Called as ``attack(model, x, y, eps)`` on each batch.
    cumulative
        False: what the attack achieves *at* each budget. True: what it achieves *up to* each
        budget; a picture counts as right only if it was right at all smaller budgets too. Balls
        are nested, so an attacker who may spend more may also spend less: this curve never rises,
        where that of a single step can. It needs budgets in ascending order.
    batch_size
        How many pictures at a time, >= 1.

    Returns
    -------
    list of Proportion
        One for each budget.

    Raises
    ------
    ThreatError
        A budget that is not one finite number >= 0, before anything is computed.
    InputError
        `cumulative` with budgets that do not ascend.
    PixelError, LabelError, DeviceError, ModelOutputError
        Another argument, or what the model makes of it, cannot be used.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    >>> x, y = torch.rand(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    >>> shares = accuracy_curve(model, x, y, [0, 0.1], lambda model, x, y, eps: x)
    >>> [share.total for share in shares]
    [5, 5]
    """
    budgets = [threats.check_eps(eps) for eps in budgets]
    if cumulative and budgets != sorted(budgets):
        raise InputError(f"cumulative needs budgets in ascending order; {budgets} was given.")
    shares: list[Proportion] = []
    so_far = None
    for eps in budgets:

        def at_eps(model: Any, x: Tensor, y: Tensor, eps: float = eps) -> Tensor:
            return attack(model, x, y, eps)

        right = _right(model, x, y, at_eps, batch_size)
        so_far = right if so_far is None or not cumulative else so_far & right
        shares.append(_share(so_far))
    return shares


def _right(
    model: Model,
    x: Tensor,
    y: Tensor,
    attack: Attack | None,
    batch_size: int,
    progress: bool = False,
) -> Tensor:
    """Whether each picture is classified correctly under `attack`: shape (n,), boolean."""
    batch_size = check_steps("batch_size", batch_size)
    x = check_pictures(x)
    y = check_labels(y, x)
    right = [torch.zeros(0, dtype=torch.bool, device=x.device)]
    batches = list(zip(x.split(batch_size), y.split(batch_size), strict=True)) if len(x) else []
    for part, labels in _progress(batches, progress):
        shown = part if attack is None else attack(model, part, labels)
        logits = predict(model, shown, batch_size=batch_size)
        check_logits(logits, part, labels)
        right.append(logits.argmax(1) == labels)
    return torch.cat(right)


def _share(right: Tensor) -> Proportion:
    return wilson(int(right.sum()), len(right))


def _progress(batches: list, show: bool) -> list:
    if not show:
        return batches
    from tqdm.auto import tqdm

    return tqdm(batches, desc="measuring", unit="batch", leave=False)
