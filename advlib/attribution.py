r"""Which pixels a decision rests on, and whether two such maps agree by more than chance.

A map of attribution gives one number to every pixel value: how much it supports class `y`. What
is explained is a *score* of the logits, by default the lead of `y` over the best other class.
Three methods use the gradient (`saliency`, `gradient_times_input`, `integrated_gradients`); one
asks only for answers (`occlusion`). `per_pixel`, `top_pixels`, `overlap` and `rank_correlation`
compare maps, and `permutation_test` says what of it chance would do as well.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from advlib.contracts import Model, check_device, check_labels, check_pictures, check_steps
from advlib.errors import InputError, PixelError
from advlib.gradients import Loss, margin, undisturbed, value_and_gradient

Statistic = Callable[[Tensor, Tensor], Tensor]
"""From two batches of maps (n, h, w) to one number per picture (n,)."""
Null = Callable[[Tensor, torch.Generator], Tensor]
"""From maps (n, h, w) to maps that tell nothing of their own picture, drawn by a generator."""


# -- what is explained -----------------------------------------------------------------------


def lead(logits: Tensor, y: Tensor) -> Tensor:
    r"""How far class `y` is ahead of the best other one, :math:`z_y - \max_{j \ne y} z_j`.

    Positive exactly when the picture is classified as `y`; minus `advlib.gradients.margin`.

    Parameters
    ----------
    logits
        Shape (n, classes).
    y
        Classes, shape (n,).
    """
    return -margin(logits, y)


def logit(logits: Tensor, y: Tensor) -> Tensor:
    """Logit of class `y`, shape (n,): what speaks for it, whatever speaks for the others."""
    return logits.gather(1, y[:, None]).squeeze(1)


def probability(logits: Tensor, y: Tensor) -> Tensor:
    """Probability of class `y`, shape (n,). Its gradient vanishes where the network is sure."""
    return logit(logits.softmax(1), y)


SCORES: dict[str, Loss] = {"lead": lead, "logit": logit, "probability": probability}


def resolve_score(score: str | Loss) -> Loss:
    """Return the score that `score` names, or `score` itself if it is a function.

    Raises
    ------
    InputError
        An unknown name.
    """
    if callable(score):
        return score
    if isinstance(score, str) and score in SCORES:
        return SCORES[score]
    raise InputError(
        f'score is {score!r}; "lead", "logit", "probability", or a function of (logits, y) that '
        "returns one value per picture is expected."
    )


# -- maps ------------------------------------------------------------------------------------


def saliency(model: Model, x: Tensor, y: Tensor, *, score: str | Loss = "lead") -> Tensor:
    r"""Size of the gradient: how strongly the score reacts to each pixel value.

    .. math:: S_i = \left| \frac{\partial F}{\partial x_i}(x) \right|

    Parameters
    ----------
    model
        Classifier from pixels in [0, 1] to logits (n, classes).
    x
        Pictures, shape (n, c, h, w), floating point, pixels in [0, 1].
    y
        Classes to explain, shape (n,), integer.
    score
        What is explained: ``"lead"`` (of `y` over the best other class), ``"logit"``,
        ``"probability"``, or a function of (logits, y) that returns one value per picture.

    Returns
    -------
    Tensor
        Shape of `x`, >= 0, in units of the score per unit of pixel.

    Raises
    ------
    PixelError, LabelError, DeviceError, InputError, ModelOutputError
        An argument, or what the model makes of it, cannot be used; nothing was changed.

    References
    ----------
    Simonyan, Vedaldi & Zisserman 2014, "Deep inside convolutional networks", section 3.
    """
    return _gradient(model, x, y, score).abs()


def gradient_times_input(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    baseline: Tensor | float = 0.0,
    score: str | Loss = "lead",
) -> Tensor:
    r"""First-order share of each pixel value in ``F(x) - F(baseline)``.

    .. math:: (x_i - x'_i)\, \frac{\partial F}{\partial x_i}(x)

    Parameters
    ----------
    model, x, y, score
        As for `saliency`.
    baseline
        The picture :math:`x'` in which nothing speaks for `y`: a number for all pixel values, or a
        tensor that broadcasts to `x`, in [0, 1]. 0 is black.

    Returns
    -------
    Tensor
        Shape of `x`, in units of the score; positive where it speaks for `y`.

    Raises
    ------
    PixelError, LabelError, DeviceError, InputError, ModelOutputError
        An argument, or what the model makes of it, cannot be used; nothing was changed.
    """
    start = _baseline(baseline, check_pictures(x))
    return (x.detach() - start) * _gradient(model, x, y, score)


def integrated_gradients(
    model: Model,
    x: Tensor,
    y: Tensor,
    baseline: Tensor | float = 0.0,
    steps: int = 32,
    *,
    score: str | Loss = "lead",
) -> Tensor:
    r"""Share of each pixel value in ``F(x) - F(baseline)``; the shares add up to it.

    .. math:: A_i = (x_i - x'_i) \int_0^1 \frac{\partial F}{\partial x_i}(x' + t (x - x'))\, dt

    The integral is taken by the midpoint rule at ``t = (k + 1/2) / steps``, whose error falls with
    ``1 / steps**2`` where the gradient is smooth.

    Parameters
    ----------
    model, x, y, score
        As for `saliency`.
    baseline
        Where the straight path begins: a number for all pixel values, or a tensor that broadcasts
        to `x`, in [0, 1]. 0 is black. With ``x=x_adv, baseline=x`` the map says which pixel values
        an attack owes its success to.
    steps
        Points on the path, >= 1; each costs one forward and one backward pass.

    Returns
    -------
    Tensor
        Shape of `x`, in units of the score; positive where a pixel value speaks for `y`. The sum
        over a picture is ``F(x) - F(baseline)`` up to the error of the sum.

    Raises
    ------
    PixelError, LabelError, DeviceError, InputError, ThreatError, ModelOutputError
        An argument, or what the model makes of it, cannot be used; nothing was changed.

    References
    ----------
    Sundararajan, Taly & Yan 2017, "Axiomatic attribution for deep networks", equation 1 and
    proposition 1 (completeness).
    """
    steps = check_steps("steps", steps)
    score = resolve_score(score)
    x = check_pictures(x)
    y = check_labels(y, x)
    check_device(model, x)
    start = _baseline(baseline, x)
    if len(x) == 0:
        return x.clone()
    with undisturbed(model, x.device):
        y = y.clone()
        # A sum of many small numbers: in float32 at least, whatever the pictures are in.
        total = torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))
        for k in range(steps):
            point = torch.lerp(start, x, (k + 0.5) / steps)
            total += value_and_gradient(model, point, y, score, check=k == 0).grad
        return ((x - start) * (total / steps)).to(x.dtype)


def occlusion(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    size: int = 8,
    stride: int = 4,
    fill: Tensor | float | None = None,
    score: str | Loss = "lead",
    batch_size: int = 256,
) -> Tensor:
    """How far the score falls when a window of the picture is covered. It takes no gradient.

    Parameters
    ----------
    model, x, y, score
        As for `saliency`; `x` must be pictures of shape (n, c, h, w).
    size, stride
        Side of the square window and its distance from the next, in pixels, >= 1, with
        ``stride <= size <= h, w``. The last window of a row or column ends at the edge.
    fill
        What covers the window: a number or a tensor that broadcasts to `x`, in [0, 1]. None: the
        mean colour of the picture.
    batch_size
        How many covered pictures at a time, >= 1.

    Returns
    -------
    Tensor
        Shape (n, h, w), in units of the score: the mean over all windows that cover a pixel.

    Raises
    ------
    PixelError, LabelError, DeviceError, InputError, ThreatError, ModelOutputError
        An argument, or what the model makes of it, cannot be used; nothing was changed.

    References
    ----------
    Zeiler & Fergus 2014, "Visualizing and understanding convolutional networks", section 4.2.
    """
    score = resolve_score(score)
    batch_size = check_steps("batch_size", batch_size)
    x = check_pictures(x)
    y = check_labels(y, x)
    check_device(model, x)
    rows, columns = _windows(x, size, stride)
    cover = x.mean((2, 3), keepdim=True) if fill is None else fill
    cover = _baseline(cover, x)
    drop, seen = x.new_zeros(len(x), *x.shape[2:]), x.new_zeros(x.shape[2:])
    with undisturbed(model, x.device), torch.no_grad():

        def measure(pictures: Tensor) -> Tensor:
            pairs = zip(pictures.split(batch_size), y.split(batch_size), strict=True)
            return torch.cat([score(model(part), labels) for part, labels in pairs])

        whole = measure(x.clone()) if len(x) else x.new_zeros(0)
        for top in rows if len(x) else ():
            for left in columns:
                window = (slice(top, top + size), slice(left, left + size))
                covered = x.clone()
                covered[:, :, *window] = cover[:, :, *window]
                drop[:, *window] += (whole - measure(covered)).to(x.dtype)[:, None, None]
                seen[window] += 1
    return drop / seen.clamp_min(1)


def _windows(x: Tensor, size: int, stride: int) -> tuple[list[int], list[int]]:
    """First rows and first columns of the windows; the last one ends at the edge."""
    if x.ndim != 4:
        raise PixelError(f"x has shape {tuple(x.shape)}; pictures (n, c, h, w) are expected.")
    size, stride = check_steps("size", size), check_steps("stride", stride)
    if not stride <= size <= min(x.shape[2:]):
        raise InputError(
            f"size is {size} and stride {stride} on pictures of {x.shape[2]} x {x.shape[3]}; "
            "stride <= size <= height and width is expected, so that every pixel is covered."
        )
    ends = [length - size for length in x.shape[2:]]
    return tuple([*range(0, end, stride), end] for end in ends)  # type: ignore[return-value]


def _gradient(model: Model, x: Tensor, y: Tensor, score: str | Loss) -> Tensor:
    score = resolve_score(score)
    x = check_pictures(x)
    y = check_labels(y, x)
    check_device(model, x)
    if len(x) == 0:
        return x.clone()
    with undisturbed(model, x.device):
        return value_and_gradient(model, x.clone(), y.clone(), score).grad


def _baseline(baseline: Tensor | float, x: Tensor) -> Tensor:
    """`baseline` in the shape, dtype and device of `x`."""
    if isinstance(baseline, (str, bool)):
        raise InputError(f"baseline is {baseline!r}; a number or a tensor in [0, 1] is expected.")
    start = torch.as_tensor(baseline, dtype=x.dtype, device=x.device).detach()
    try:
        start = start.expand(x.shape)
    except RuntimeError:
        raise InputError(
            f"the baseline has shape {tuple(start.shape)}, which does not broadcast to that of x, "
            f"{tuple(x.shape)}."
        ) from None
    return check_pictures(start)


def blurred(x: Tensor, size: int = 31) -> Tensor:
    """Each picture without its details: a baseline with its light and colours, and no sign.

    Parameters
    ----------
    x
        Pictures, shape (n, c, h, w), floating point, pixels in [0, 1].
    size
        Side of the square whose mean replaces each pixel; odd, and less than twice the picture.
        At the edges the picture is mirrored.

    Returns
    -------
    Tensor
        Shape, dtype and device of `x`, in [0, 1].

    Raises
    ------
    PixelError, ThreatError, InputError
        The pictures or the size cannot be used.
    """
    x, size = check_pictures(x), check_steps("size", size)
    if x.ndim != 4:
        raise PixelError(f"x has shape {tuple(x.shape)}; pictures (n, c, h, w) are expected.")
    if size % 2 == 0 or size // 2 >= min(x.shape[2:]):
        raise InputError(
            f"size is {size} on pictures of {x.shape[2]} x {x.shape[3]}; an odd number below twice "
            "the smaller side is expected."
        )
    wide = F.pad(x, (size // 2,) * 4, mode="reflect")
    return F.avg_pool2d(wide, size, stride=1).clamp(0, 1)


def template_correlation(delta: Tensor, templates: Tensor) -> Tensor:
    """Pearson correlation of each perturbation with each template: does it draw one of them?

    Parameters
    ----------
    delta
        Perturbations, shape (n, c, h, w).
    templates
        Shape (k, c, h, w), for instance the mean picture of each class minus the mean of all.

    Returns
    -------
    Tensor
        Shape (n, k), in [-1, 1]; 0 where one of the two is constant.

    Raises
    ------
    InputError
        Pictures of different sizes.
    """
    if delta.shape[1:] != templates.shape[1:]:
        raise InputError(
            f"perturbations of {tuple(delta.shape[1:])} and templates of "
            f"{tuple(templates.shape[1:])} do not fit together."
        )
    one, other = (values.flatten(1) for values in (delta, templates))
    one = F.normalize(one - one.mean(1, keepdim=True), dim=1)
    other = F.normalize(other - other.mean(1, keepdim=True), dim=1)
    return one @ other.T


# -- comparing maps --------------------------------------------------------------------------


def per_pixel(values: Tensor, how: str = "size") -> Tensor:
    """Add up the channels: one number for each pixel.

    Parameters
    ----------
    values
        Maps or perturbations, shape (n, c, h, w).
    how
        ``"size"``: the sum of absolute values, for a gradient or a perturbation. ``"signed"``: the
        plain sum, for shares that add up (integrated gradients). ``"support"``: the signed sum
        where it is positive, 0 elsewhere.

    Returns
    -------
    Tensor
        Shape (n, h, w).

    Raises
    ------
    InputError
        Another shape, or an unknown `how`.
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
    """Mark the pixels with the largest values of each map, the same number in every picture.

    Parameters
    ----------
    maps
        Shape (n, h, w).
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
    flat = _flat(maps)
    if not 0 <= share <= 1:
        raise InputError(f"share is {share}; a number in [0, 1] is expected (5 % is 0.05).")
    count = max(round(share * flat.shape[1]), 1) if share else 0
    order = flat.argsort(dim=1, descending=True, stable=True)[:, :count]
    marked = torch.zeros_like(flat, dtype=torch.bool).scatter(1, order, True)
    return marked.view(maps.shape)


def overlap(a: Tensor, b: Tensor, share: float = 0.1) -> Tensor:
    r"""Share of the top pixels of map `a` that are top pixels of map `b` too.

    .. math:: O(a, b) = |T_s(a) \cap T_s(b)| / |T_s(a)|

    Both sets have the same size, so the order of `a` and `b` does not matter. Two sets placed
    independently share :math:`s` of their pixels on average; equal sets share all.

    Parameters
    ----------
    a, b
        Maps, shape (n, h, w).
    share
        How many pixels count as top, as a share of all, in (0, 1].

    Returns
    -------
    Tensor
        Shape (n,), in [0, 1].

    Raises
    ------
    InputError
        Shapes that differ, NaN, or a share outside (0, 1].
    """
    _check_pair(a, b)
    if share == 0:
        raise InputError("share is 0; no pixel is left to compare. Take for instance 0.1.")
    return common(top_pixels(a, share), top_pixels(b, share))


def common(a: Tensor, b: Tensor) -> Tensor:
    """Share of the pixels marked in `a` that are marked in `b`: `overlap` of sets marked before.

    Nulls only move pixels about, so that ``permutation_test(top_pixels(a, share),
    top_pixels(b, share), common)`` equals the test with `overlap` and sorts each map once.

    Parameters
    ----------
    a, b
        Marked pixels, booleans, shape (n, h, w).

    Returns
    -------
    Tensor
        Shape (n,), in [0, 1]; NaN where `a` marks nothing.

    Raises
    ------
    InputError
        Shapes that differ, or not booleans.
    """
    _check_pair(a, b)
    if a.dtype != torch.bool or b.dtype != torch.bool:
        raise InputError("marked pixels are booleans; top_pixels marks them.")
    return (a & b).flatten(1).sum(1) / a.flatten(1).sum(1)


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rank correlation of two maps: 1 if they order the pixels alike, 0 by chance.

    Parameters
    ----------
    a, b
        Maps, shape (n, h, w). Equal values share their mean rank.

    Returns
    -------
    Tensor
        Shape (n,), float64 where the device has it, in [-1, 1]; 0 for a map that is constant.

    Raises
    ------
    InputError
        Shapes that differ, or NaN.
    """
    _check_pair(a, b)
    one, other = (_centred_ranks(_flat(maps)) for maps in (a, b))
    length = (one.square().sum(1) * other.square().sum(1)).sqrt()
    return torch.where(length > 0, (one * other).sum(1) / length, 0)


def _centred_ranks(flat: Tensor) -> Tensor:
    wide = torch.float32 if flat.device.type == "mps" else torch.float64
    ordered = flat.contiguous().sort(dim=1).values
    # How many are smaller, and how many are not larger: their mean is the shared rank.
    below = torch.searchsorted(ordered, flat.contiguous())
    upto = torch.searchsorted(ordered, flat.contiguous(), right=True)
    ranks = (below + upto).to(wide) / 2
    return ranks - ranks.mean(1, keepdim=True)


def _flat(maps: Tensor) -> Tensor:
    if maps.ndim != 3 or maps.shape[1:].numel() == 0:
        raise InputError(
            f"maps of shape (n, h, w) are expected, not {tuple(maps.shape)}. per_pixel adds up the "
            "channels."
        )
    if maps.isnan().any():
        raise InputError("a map holds NaN; its pixels have no order.")
    return maps.flatten(1)


def _check_pair(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise InputError(
            f"maps of equal shape are expected, not {tuple(a.shape)}, {tuple(b.shape)}."
        )


# -- chance ----------------------------------------------------------------------------------


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
    """Shift each map (n, h, w) by a random number of rows and columns; what leaves comes back.

    The map keeps its smoothness and its clusters, and loses its place.
    """
    n, height, width = maps.shape
    rows, columns = (
        torch.randint(size, (n, 1), generator=generator, device=generator.device).to(maps.device)
        for size in (height, width)
    )
    at_row = (torch.arange(height, device=maps.device) + rows) % height
    at_column = (torch.arange(width, device=maps.device) + columns) % width
    pictures = torch.arange(n, device=maps.device)[:, None, None]
    return maps[pictures, at_row[:, :, None], at_column[:, None, :]]


def exchanged(groups: Tensor | None = None) -> Null:
    """Give each picture the map of a random other one: a map of the right kind and place.

    Parameters
    ----------
    groups
        Shape (n,), integer: maps are exchanged within a group only, for instance within a class.
        None: among all.

    Returns
    -------
    Null
        Draws a uniformly random permutation, in which a map may also come back to its picture.
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
    """Mean of the statistic over the pictures, for the maps as they belong together."""
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
        Maps, shape (n, h, w), n >= 1: row i of both belongs to the same picture.
    statistic
        ``statistic(a, b)`` returns one number per picture, larger for more agreement: `overlap`,
        `rank_correlation`, or a function.
    null
        ``null(b, generator)`` returns maps as they might be if they told nothing of their picture:
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
    The pictures as observed are themselves one of the equally likely draws under the null
    hypothesis; counting them gives the 1 above and below, and a p that is never 0 (Davison &
    Hinkley 1997, section 4.2; Phipson & Smyth 2010).
    """
    draws = check_steps("draws", draws)
    _check_pair(a, b)
    if len(a) == 0:
        raise InputError("there are no maps to compare; at least one picture is expected.")
    generator = generator or torch.Generator().manual_seed(0)
    value = float(statistic(a, b).cpu().double().mean())
    means = tuple(
        float(statistic(a, null(b, generator)).cpu().double().mean()) for _ in range(draws)
    )
    # Means that are equal but for rounding count as reached.
    reached = sum(mean >= value - 1e-12 for mean in means)
    return PermutationTest(value, means, (1 + reached) / (1 + draws))
