r"""Do two maps of the same image agree, and by more than chance?

Maps give one number to every pixel: an attribution, or the size of a perturbation. `overlap`
compares two of them, `permutation_test` says how much of the agreement unrelated maps would show as
well, and `matched_halves` chooses pixels that are alike in one map and differ in the other.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from advlib.contracts import check_steps
from advlib.errors import InputError

Statistic = Callable[[Tensor, Tensor], Tensor]
"""From two batches of maps (n, h, w) to one number per image (n,)."""
Null = Callable[[Tensor, torch.Generator], Tensor]
"""From maps (n, h, w) to random maps that are unrelated to their image."""


def per_pixel(values: Tensor, how: str = "size") -> Tensor:
    """Add up the channels of maps or perturbations: shape (n, c, h, w) to (n, h, w).

    Parameters
    ----------
    values
        Maps or perturbations, shape (n, c, h, w); another one raises `InputError`.
    how
        ``"size"``: the sum of absolute values, for a gradient or a perturbation. ``"signed"``: the
        plain sum, for shares that add up (integrated gradients). ``"support"``: the signed sum
        where it is positive, 0 elsewhere.
    """
    if values.ndim != 4:
        raise InputError(f"maps of shape (n, c, h, w) are expected, not {tuple(values.shape)}.")
    if how == "size":
        return values.abs().sum(1)
    if how == "signed":
        return values.sum(1)
    if how == "support":
        return values.sum(1).clamp_min(0)
    raise InputError(f'how is {how!r}; "size", "signed" or "support" is expected.')


def top_pixels(maps: Tensor, share: float) -> Tensor:
    """Mark the pixels with the largest values of each map, the same number in every image.

    Parameters
    ----------
    maps
        Shape (n, h, w), without NaN.
    share
        How many, as a share of all pixels, in [0, 1]; rounded to the nearest whole number, and at
        least one pixel for a share above 0.

    Returns
    -------
    Tensor
        Booleans, shape (n, h, w). Among equal values those that come first are taken.

    Raises
    ------
    InputError
        Another shape, NaN, or a share outside [0, 1].
    """
    if maps.ndim != 3 or maps.shape[1:].numel() == 0:
        raise InputError(
            f"maps of shape (n, h, w) are expected, not {tuple(maps.shape)}. per_pixel adds up the "
            "channels."
        )
    if maps.isnan().any():
        raise InputError("a map holds NaN; its pixels have no order.")
    if not 0 <= share <= 1:
        raise InputError(f"share is {share}; a number in [0, 1] is expected (5 % is 0.05).")
    flat = maps.flatten(1)
    count = max(round(share * flat.shape[1]), 1) if share else 0
    order = flat.argsort(dim=1, descending=True, stable=True)[:, :count]
    marked = torch.zeros_like(flat, dtype=torch.bool).scatter(1, order, True)
    return marked.view(maps.shape)


def overlap(a: Tensor, b: Tensor, share: float = 0.1) -> Tensor:
    r"""Share of the top pixels of map `a` that are top pixels of map `b` too.

    .. math:: O(a, b) = |T_s(a) \cap T_s(b)| / |T_s(a)|

    Both sets have the same size, so the order of `a` and `b` does not matter. Two sets placed
    independently share :math:`s` of their pixels on average; equal sets share all. The maps have
    shape (n, h, w), the result shape (n,). `share` is the :math:`s` of `top_pixels`, above 0.
    """
    if share == 0:
        raise InputError("share is 0; no pixel is left to compare. Take for instance 0.1.")
    return common(top_pixels(a, share), top_pixels(b, share))


def common(a: Tensor, b: Tensor) -> Tensor:
    """Share of the pixels marked in `a` that are marked in `b`: `overlap` of given sets.

    Both are boolean, of shape (n, h, w); the result has shape (n,) and is NaN where `a` marks
    nothing. Nulls only move pixels about, so ``permutation_test(top_pixels(a, share),
    top_pixels(b, share), common)`` equals the test with `overlap` and sorts each map once.
    """
    _check_pair(a, b)
    if a.dtype != torch.bool or b.dtype != torch.bool:
        raise InputError("marked pixels are booleans; top_pixels marks them.")
    return (a & b).flatten(1).sum(1) / a.flatten(1).sum(1)


def matched_halves(
    match: Tensor, by: Tensor, share: float, *, group: int = 4
) -> tuple[Tensor, Tensor]:
    """Choose two sets of pixels that are alike in one map and differ in another.

    The top ``2 * share`` pixels of `match` are taken in order, `group` neighbours at a time. The
    half of each group with the larger values of `by` goes to the first set, the rest to the second.

    Parameters
    ----------
    match, by
        Maps, shape (n, h, w), without NaN.
    share
        Size of each set, as a share of all pixels, above 0 and at most 0.5; what does not fill a
        group is left out.
    group
        Even number >= 2. A large one sets the two apart in `by`, a small one keeps them alike in
        `match`.

    Returns
    -------
    more, less : Tensor
        Booleans, shape (n, h, w), as many in both.

    Raises
    ------
    InputError
        Maps, a share or a group that cannot be used.
    """
    _check_pair(match, by)
    if match.ndim != 3 or match.isnan().any() or by.isnan().any():
        raise InputError("two maps of shape (n, h, w), without NaN, are expected.")
    groups = round(2 * share * match[:1].numel()) // group if group > 0 else 0
    if group % 2 or not 0 < share <= 0.5 or groups == 0:
        raise InputError(
            f"share is {share} and group {group}; a share of at most 0.5 that fills at least one "
            "group, and an even group, are expected."
        )
    order = match.flatten(1).argsort(dim=1, descending=True, stable=True)[:, : groups * group]
    order = order.view(len(match), groups, group)
    values = by.flatten(1).gather(1, order.flatten(1)).view_as(order)
    order = order.gather(2, values.argsort(dim=2, descending=True, stable=True))
    nothing = torch.zeros_like(match.flatten(1), dtype=torch.bool)
    more, less = (
        nothing.scatter(1, half.flatten(1), True).view(match.shape)
        for half in order.split(group // 2, 2)
    )
    return more, less


def _check_pair(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise InputError(
            f"maps of equal shape are expected, not {tuple(a.shape)}, {tuple(b.shape)}."
        )


# -- null distributions ----------------------------------------------------------------------------


def shuffled(maps: Tensor, generator: torch.Generator) -> Tensor:
    """Put the pixels of each map (n, h, w) in random order: same values, no shape left."""
    values = maps.flatten(1)
    # One permutation after the other: sorting random numbers for all takes ten times longer.
    orders = [
        torch.randperm(values.shape[1], generator=generator, device=generator.device)
        for _ in range(len(values))
    ]
    if not orders:
        return maps.clone()
    return values.gather(1, torch.stack(orders).to(maps.device)).view(maps.shape)


def shifted(maps: Tensor, generator: torch.Generator) -> Tensor:
    """Shift each map (n, h, w) by a random number of rows and columns, round the edges.

    The map keeps its smoothness and its clusters, and loses its place.
    """
    n, height, width = maps.shape
    rows, columns = (
        torch.randint(size, (n, 1), generator=generator, device=generator.device).to(maps.device)
        for size in (height, width)
    )
    at_row = (torch.arange(height, device=maps.device) + rows) % height
    at_column = (torch.arange(width, device=maps.device) + columns) % width
    images = torch.arange(n, device=maps.device)[:, None, None]
    return maps[images, at_row[:, :, None], at_column[:, None, :]]


def exchanged(groups: Tensor | None = None) -> Null:
    """Null that gives each image the map of another one: a map of the right kind and place.

    It draws a uniformly random permutation, in which a map may also return to its image. With
    `groups`, integers of shape (n,), maps are exchanged within a group only, for instance within a
    class.
    """

    def null(maps: Tensor, generator: torch.Generator) -> Tensor:
        draw = torch.rand(len(maps), generator=generator, device=generator.device).to(maps.device)
        if groups is None:
            return maps[draw.argsort()]
        if groups.shape != maps.shape[:1]:
            raise InputError(
                f"groups has shape {tuple(groups.shape)}; one number per map is expected, "
                f"({len(maps)},)."
            )
        # Both orders list the groups one after the other; the second mixes within each.
        places = groups.argsort(stable=True)
        mixed = draw.argsort()
        mixed = mixed[groups[mixed].argsort(stable=True)]
        source = torch.empty_like(places).scatter(0, places, mixed)
        return maps[source]

    return null


class PermutationTest(NamedTuple):
    """What a permutation test found."""

    value: float
    """Mean of the statistic over the images, for the maps as they belong together."""
    null: tuple[float, ...]
    """The same mean for each draw of the null."""
    p: float
    """(1 + draws that reach `value`) / (1 + draws), one-sided."""

    @property
    def expected(self) -> float:
        """Mean over the draws of the null."""
        return math.fsum(self.null) / len(self.null)

    @property
    def effect(self) -> float:
        """Effect size, in units of the statistic: `value` minus what the null gives."""
        return self.value - self.expected

    def __str__(self) -> str:
        return (
            f"{self.value:.3f} against {self.expected:.3f} by chance "
            f"(p {'=' if self.p > 1 / (1 + len(self.null)) else '<='} {self.p:.2g})"
        )


def permutation_test(
    a: Tensor,
    b: Tensor,
    statistic: Statistic = overlap,
    null: Null = shuffled,
    draws: int = 199,
    *,
    generator: torch.Generator | None = None,
) -> PermutationTest:
    """Test whether maps `a` and `b` agree by more than a null of `b` does.

    Parameters
    ----------
    a, b
        Maps, shape (n, h, w), n >= 1: row i of both belongs to the same image.
    statistic
        ``statistic(a, b)`` returns one number per image, larger for more agreement: `overlap`,
        `common`, or a function.
    null
        ``null(b, generator)`` returns maps as they might be if they were unrelated to their image:
        `shuffled`, `shifted`, ``exchanged()``, ``exchanged(y)``, or a function.
    draws
        How many times to draw, >= 1. The smallest p that can come out is ``1 / (1 + draws)``.
    generator
        Source of randomness. None: a new one with seed 0.

    Returns
    -------
    PermutationTest
        ``value``, ``null``, ``p``, and from them ``expected`` and ``effect``.

    Raises
    ------
    InputError, ThreatError
        Maps that do not fit together, or no draws.

    Notes
    -----
    The images as observed are themselves one of the equally likely draws under the null
    hypothesis; counting them gives the 1 above and below, and a p that is never 0 (Davison &
    Hinkley 1997, section 4.2; Phipson & Smyth 2010).
    """
    draws = check_steps("draws", draws)
    _check_pair(a, b)
    if len(a) == 0:
        raise InputError("there are no maps to compare; at least one image is expected.")
    generator = generator or torch.Generator().manual_seed(0)

    def mean(other: Tensor) -> float:
        return float(statistic(a, other).cpu().double().mean())

    value = mean(b)
    means = tuple(mean(null(b, generator)) for _ in range(draws))
    # Means that are equal but for rounding count as reached.
    reached = sum(mean >= value - 1e-12 for mean in means)
    return PermutationTest(value, means, (1 + reached) / (1 + draws))
