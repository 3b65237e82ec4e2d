"""Two measurements on the same images or seeds: how far apart are they, and is it luck?

They are compared pair by pair, because what makes an image hard for one attack makes it hard for
another. That finds differences which two intervals, each by itself, would hide.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from advlib.errors import InputError
from advlib.evaluation import Proportion, wilson

FEWEST = 6
"""Pairs that a sign test at 5 % needs: five that all point one way have p = 1/16."""


@dataclass(frozen=True)
class Median:
    """The median of `total` numbers; `low` and `high` are the ends of its 95 % interval."""

    value: float
    total: int
    low: float
    high: float

    def __str__(self) -> str:
        low, high = rounded(self.low), rounded(self.high)
        return f"{rounded(self.value)} (median of {self.total}; 95 % interval {low} to {high})"


@dataclass(frozen=True)
class Difference:
    """How far the first of two paired samples lies above the second.

    `value` is the difference of the shares, or the median of the differences; `low` and `high` are
    the ends of its 95 % interval, and `p` is the two-sided p-value of the exact sign test.
    """

    value: float
    low: float
    high: float
    p: float

    @property
    def sign(self) -> int:
        """1 or -1 if the first is larger or smaller: p < 0.05 and an interval without 0; else 0."""
        if self.p >= 0.05 or self.low <= 0 <= self.high:
            return 0
        return 1 if self.value > 0 else -1


def rounded(value: float) -> str:
    """Three digits, on which machines agree."""
    three = float(f"{value:.3g}") + 0.0  # no negative zero
    return f"{three:,.0f}" if abs(three) >= 100 else f"{three:g}"


def summary(values: Tensor) -> Proportion | Median:
    """The share of a boolean sample (n,) with Wilson's interval; the median of any other.

    The ends of the median's interval are two of the numbers, by the binomial distribution, so
    nothing is assumed of how the numbers spread. Errors are as for `paired`.
    """
    values = _sample(values)
    if values.dtype == torch.bool:
        return wilson(int(values.sum()), len(values))
    ordered, n = values.double().sort().values.tolist(), len(values)
    rank = 1
    while sign_test(rank, n - rank) <= 0.05:
        rank += 1
    middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    return Median(middle, n, ordered[rank - 1], ordered[n - rank])


def paired(first: Tensor, second: Tensor) -> Difference:
    r"""Compare two samples whose i-th values were measured on the same image or seed.

    For booleans the test is McNemar's, exact. If luck alone decided, each of the :math:`m` images
    on which the two disagree would fall to either side with probability 1/2:

    .. math:: p = \min\Bigl(1,\; 2 \sum_{i=0}^{\min(b, c)} \binom{m}{i} 2^{-m}\Bigr)

    with :math:`m = b + c`, :math:`b` images true only in the first and :math:`c` only in the
    second. The interval of :math:`(b - c) / n` is Newcombe's. Numbers are compared by the same test
    on the signs of their differences, with the interval of the median difference.

    Parameters
    ----------
    first, second
        Shape (n,), n >= 6, both boolean or both finite numbers.

    Raises
    ------
    InputError
        Anything else; two lengths.

    References
    ----------
    McNemar (1947), Note on the sampling error of the difference between correlated proportions or
    percentages, Psychometrika 12. Newcombe (1998), Improved confidence intervals for the difference
    between binomial proportions based on paired data, Statistics in Medicine 17, method 10.
    """
    first, second = _sample(first), _sample(second)
    if len(first) != len(second):
        raise InputError(
            f"{len(first)} values stand beside {len(second)}. Measure both on the same images, in "
            "the same order."
        )
    boolean = first.dtype == torch.bool
    if boolean != (second.dtype == torch.bool):
        raise InputError("One sample is boolean, the other holds numbers. Measure both alike.")
    gap = first.double() - second.double()
    p = sign_test(int((gap > 0).sum()), int((gap < 0).sum()))
    if boolean:
        return Difference(*_newcombe(first, second), p)
    median = summary(gap)
    return Difference(median.value, median.low, median.high, p)


def sign_test(wins: int, losses: int) -> float:
    """The two-sided p-value of `wins` against `losses`, if each were as likely as the other."""
    total = wins + losses
    tail = sum(math.comb(total, i) for i in range(min(wins, losses) + 1))
    return min(1.0, 2 * tail / 2**total)


def _sample(values: Tensor) -> Tensor:
    if not isinstance(values, Tensor) or values.ndim != 1:
        given = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise InputError(f"{given} was given; one value for each image is expected, shape (n,).")
    if len(values) < FEWEST:
        raise InputError(
            f"{len(values)} values cannot be told from luck. Measure at least {FEWEST} images or "
            "seeds."
        )
    if not values.isfinite().all():
        raise InputError("A sample holds values that are not finite.")
    return values.detach().cpu()


def _newcombe(first: Tensor, second: Tensor) -> tuple[float, float, float]:
    """The difference of two paired shares and the ends of its interval."""
    n, both = len(first), int((first & second).sum())
    only, other = int(first.sum()) - both, int(second.sum()) - both
    neither = n - both - only - other
    product: float = both * neither - only * other
    if product > 0:
        product = max(product - n / 2, 0)  # continuity correction
    norm = (both + only) * (other + neither) * (both + other) * (only + neither)
    phi = product / math.sqrt(norm) if norm else 0.0
    a, b = wilson(both + only, n), wilson(both + other, n)

    def reach(one: float, two: float) -> float:
        return math.sqrt(max(0.0, one**2 - 2 * phi * one * two + two**2))

    value = (only - other) / n
    low = value - reach(a.value - a.low, b.high - b.value)
    return value, low, value + reach(a.high - a.value, b.value - b.low)
