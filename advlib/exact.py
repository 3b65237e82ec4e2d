r"""Arithmetic in floating point with which ball and box hold exactly, not up to rounding.

A rounded ``x + delta`` may lie outside the ball around `x`; the functions here round the other way.
"""

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from advlib.contracts import check_eps


@torch.no_grad()
def bounds(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    r"""Smallest and largest pixel values that the :math:`\ell_\infty` ball and the box allow.

    A rounded ``x + eps`` may lie outside the ball. These bounds lie inside: for every
    ``low <= x_adv <= high`` the difference ``x_adv - x``, computed in the dtype of `x` or
    exactly, is at most `eps`. Both have the shape, dtype and device of `x`.
    """
    reach = round_down(min(check_eps(eps), 1.0), x.dtype)
    high = x + reach
    # Of two numbers, the difference between their sum and the larger one is exact (Dekker's
    # Fast2Sum): less the smaller one, it says whether rounding went too far. All in three tensors,
    # because memory that is touched for the first time takes longer than the arithmetic.
    low, spare = x.clamp_max(reach), x.clamp_min(reach)
    torch.sub(high, spare, out=spare).sub_(low)
    _bits(high).sub_(_positive(spare))
    torch.sub(x, reach, out=low)
    torch.sub(x, low, out=spare).sub_(reach)  # a smaller x ends at the box and needs no check
    _bits(low).add_(_positive(spare))
    return low.clamp_(0, 1), high.clamp_(0, 1)


@lru_cache
def round_down(value: float, dtype: torch.dtype) -> float:
    """Largest number of `dtype` that is at most `value` (>= 0)."""
    nearest = torch.tensor(value, dtype=dtype)
    if nearest.item() > value:
        nearest = torch.nextafter(nearest, torch.zeros_like(nearest))
    return nearest.item()


def add_towards(x: Tensor, delta: Tensor) -> Tensor:
    """``x + delta``, rounded towards `x` instead of to the nearest number.

    The rounding error of a sum is itself a floating-point number (Knuth's TwoSum), so whether the
    rounded sum went too far can be seen exactly. One step back along the floating-point numbers,
    which for positive ones are ordered like their bit patterns, mends it.
    """
    total = x + delta
    # In place, because the memory that a new tensor touches takes longer than the sum itself.
    part = total - x
    error = (total - part).neg_().add_(x).add_(part.neg_().add_(delta))
    above, below = (error < 0).logical_and_(delta > 0), (error > 0).logical_and_(delta < 0)
    _bits(total).add_(above, alpha=-1).add_(below)
    return total


def _bits(values: Tensor) -> Tensor:
    """The same memory as whole numbers: one more is the next floating-point number away from 0."""
    whole = {2: torch.int16, 4: torch.int32, 8: torch.int64}[values.dtype.itemsize]
    return values.view(whole)


def _positive(values: Tensor) -> Tensor:
    """1 where a value is positive, else 0, as whole numbers in the memory of `values`."""
    return _bits(values).clamp_(0, 1)  # a sign bit makes the whole number negative


def scale_into_box(
    direction: Tensor, low: Tensor, high: Tensor, eps: float | Tensor, at_most: float = math.inf
) -> Tensor:
    r"""``clamp(s * direction, low, high)`` with the largest ``s <= at_most`` of l2 length <= eps.

    The length grows with `s`. Each round solves for `s` as if no further pixel met the box; more
    pixels do, so the answer comes from below, stays in the ball, and is exact once the set of
    pixels at the box is found (usually after three or four rounds).
    """
    wide = torch.promote_types(direction.dtype, torch.float32)  # half precision cannot square
    flat, low, high = (part.flatten(1).to(wide) for part in (direction, low, high))
    energy = flat.square()
    scale = flat.new_full((len(flat), 1), at_most if math.isfinite(at_most) else 0.0)
    cut = torch.zeros_like(flat, dtype=torch.bool)
    for _ in range(8 if flat.is_cuda else 100):  # asking whether more are needed makes a GPU wait
        at_box = torch.where(flat > 0, high, low).square().masked_fill(~cut, 0).sum(1, keepdim=True)
        free = energy.masked_fill(cut, 0).sum(1, keepdim=True)
        step = (eps**2 - at_box).clamp_min(0).sqrt() / free.sqrt()  # the quotient could overflow
        # Nothing free: every pixel that matters is at the box, and any larger scale does the same.
        scale = torch.where(free > 0, step, scale).clamp_max(at_most)
        moved = scale * flat
        now = (moved > high) | (moved < low)
        if not flat.is_cuda and torch.equal(now, cut):
            break
        cut = now
    return (scale * flat).clamp(low, high).to(direction.dtype).view_as(direction)


def threshold(size: Tensor, room: Tensor | None, eps: float | Tensor) -> Tensor:
    r"""Level :math:`\lambda \ge 0` with
    :math:`\sum_i \min(\max(a_i - \lambda, 0), c_i) = \epsilon`.

    ``a = size`` (>= 0), ``c = room`` (None: unbounded). 0 where the sum is below `eps` anyway. The
    sum is piecewise linear in the level and bends where ``a`` or ``a - c`` is passed, so sorting
    those points finds the piece that crosses `eps` (Duchi et al. 2008; Croce & Hein 2021).
    """
    a = size.flatten(1)
    bends, slopes = a, torch.ones_like(a)
    if room is not None:
        bends = torch.cat([a, a - room.flatten(1)], 1)
        slopes = torch.cat([slopes, -slopes], 1)
    bends, order = bends.clamp_min(0).sort(dim=1, descending=True)
    slopes = slopes.gather(1, order)
    count = slopes.cumsum(1)
    weight = (slopes * bends).cumsum(1)
    # With the level at a bend, the sum over the pieces passed so far:
    reached = weight - bends * count
    crossed = (reached < eps).sum(1, keepdim=True)
    last = (crossed - 1).clamp_min(0)
    pieces = count.gather(1, last)
    level = ((weight.gather(1, last) - eps) / pieces).clamp_min(0)
    # Where every pixel passed has used up its room the sum is flat, and the bend itself will do.
    level = torch.where(pieces > 0, level, bends.gather(1, last))
    total = torch.minimum(a, room.flatten(1)).sum(1, keepdim=True) if room is not None else None
    fits = (a.sum(1, keepdim=True) if total is None else total) <= eps
    return torch.where(fits, 0, level).view(-1, *[1] * (size.ndim - 1))


def keep(values: Tensor, where: Tensor | None) -> Tensor:
    """Return `values` where `where` is true and exactly 0 elsewhere (all of them if it is None)."""
    # Not a product: 0 times an infinite derivative is no number.
    return values if where is None else torch.where(where, values, 0)


def per_image(values: float | Tensor, like: Tensor) -> Any:
    """Shape `values`, one for each image (n,), so that they broadcast over those of `like`."""
    return values.view(-1, *[1] * (like.ndim - 1)) if isinstance(values, Tensor) else values


def vector_norm(delta: Tensor, order: float) -> Tensor:
    flat = delta.flatten(1)
    return torch.linalg.vector_norm(flat, order, 1) if flat.numel() else flat.new_zeros(len(flat))
