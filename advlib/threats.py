r"""What the attacker may do: the :math:`\ell_\infty`, :math:`\ell_2` and :math:`\ell_1` balls.

An attacker who is given a picture `x` with pixels in [0, 1] may return any `x_adv = x + delta`
with ``norm(delta) <= eps`` and pixels in [0, 1]: a point of the *ball* and of the *box*.
This module knows those sets and nothing of networks: how long a perturbation is (`norm`), the
closest allowed one (`project`), a random one (`random_point`), the one that a linear function
likes best (`steepest`), and `confine`, which makes the promise exact in floating point.

Every function works on a batch, on the device and in the dtype of its tensors.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from advlib.errors import DeviceError, ThreatError

NORMS = ("linf", "l2", "l1")
_ORDER = {"linf": math.inf, "l2": 2, "l1": 1}
_DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}


def check_norm(norm: str) -> None:
    """Raise `ThreatError` unless `norm` is one of ``"linf"``, ``"l2"``, ``"l1"``."""
    if norm not in NORMS:
        raise ThreatError(
            f'norm is {norm!r}; advlib knows "linf", "l2" and "l1". For the largest change of any '
            'pixel use norm="linf".'
        )


def check_eps(eps: float) -> float:
    """Return `eps` as a float; raise `ThreatError` unless it is one finite number >= 0."""
    try:
        if isinstance(eps, (str, bool)):  # float() would accept both
            raise TypeError
        value = float(eps)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ThreatError(
            f"eps is {eps!r}; one number is expected, the same for the whole batch. "
            "For several budgets, attack once per budget."
        ) from None
    if not (math.isfinite(value) and value >= 0):
        raise ThreatError(
            f"eps is {value}; a finite number >= 0 is expected, in units of pixels in [0, 1]: "
            "for four grey levels of 255 write eps=4/255."
        )
    return value


def check_mask(mask: Tensor | None, x: Tensor) -> Tensor | None:
    """Return `mask` as booleans of the shape of `x` (a view, nothing is copied), or None.

    Parameters
    ----------
    mask
        Which pixel values may change: True or 1 where they may, False or 0 elsewhere. A shape
        that broadcasts to that of `x`: ``(h, w)`` and ``(c, h, w)`` hold for all pictures,
        ``(n, 1, h, w)`` is one mask per picture for all channels. None: all may change.
    x
        Pictures, shape (n, c, h, w) or (n, d).

    Raises
    ------
    ThreatError
        Not a tensor, values other than 0 and 1, or a shape that does not broadcast, or that
        could be meant in two ways.
    DeviceError
        `mask` and `x` on different devices.
    """
    if mask is None:
        return None
    if not isinstance(mask, Tensor):
        raise ThreatError(
            f"mask is a {type(mask).__name__}; a tensor of booleans that broadcasts to x is "
            "expected, True where a pixel value may change: torch.as_tensor(mask)."
        )
    if mask.device != x.device:
        raise DeviceError(
            f"x is on {x.device} and mask on {mask.device}; both are expected on one device. "
            f'Write mask = mask.to("{x.device}").'
        )
    if mask.ndim == x.ndim - 1 and len(mask) == len(x) > 1:
        raise ThreatError(
            f"mask has shape {tuple(mask.shape)} and x has {tuple(x.shape)}: that may be one mask "
            "per picture or one for all. Write mask[:, None] for the first, mask[None] for the "
            "second."
        )
    # Compared from the back, as broadcasting does; a mask must not make x larger.
    sizes = zip(reversed(mask.shape), reversed(x.shape), strict=False)
    if mask.ndim > x.ndim or any(size not in (1, wanted) for size, wanted in sizes):
        raise ThreatError(
            f"mask has shape {tuple(mask.shape)}, which does not broadcast to that of x, "
            f"{tuple(x.shape)}. For one mask per picture, the same in all channels, make it "
            "(n, 1, h, w): mask[:, None]."
        )
    if mask.dtype != torch.bool:
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise ThreatError(
                "mask holds other values than 0 and 1; a pixel value may change or it may not. "
                "From a map make one with a threshold: mask = importance > level."
            )
        mask = mask == 1
    return mask.expand(x.shape)


def keep(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return `values` where `mask` is true and exactly 0 elsewhere (all of them if it is None).

    Parameters
    ----------
    values
        Gradients or perturbations, shape (n, ...).
    mask
        What `check_mask` returned.
    """
    # Not a product: 0 times an infinite derivative is no number.
    return values if mask is None else torch.where(mask, values, 0)


def per_picture(values: Tensor, like: Tensor) -> Tensor:
    """Shape `values`, one for each picture (n,), so that they broadcast over those of `like`."""
    return values.view(-1, *[1] * (like.ndim - 1))


def norm(delta: Tensor, norm: str = "linf") -> Tensor:
    r"""Length of each perturbation of a batch.

    Parameters
    ----------
    delta
        Perturbations, shape (n, ...), in units of pixels.
    norm
        ``"linf"``: the largest change of any pixel value. ``"l2"``: Euclidean length.
        ``"l1"``: the sum of all changes.

    Returns
    -------
    Tensor
        Shape (n,), dtype of `delta`.

    Raises
    ------
    ThreatError
        Unknown `norm`.
    """
    check_norm(norm)
    return _length(delta, norm)


def _length(delta: Tensor, norm: str) -> Tensor:
    flat = delta.flatten(1)
    if flat.numel() == 0:
        return flat.new_zeros(len(flat))
    return torch.linalg.vector_norm(flat, ord=_ORDER[norm], dim=1)


def dual_norm(grad: Tensor, norm: str = "linf") -> Tensor:
    r"""Largest value of :math:`\langle g, \delta\rangle` over the unit ball of `norm`.

    The dual of :math:`\ell_\infty` is :math:`\ell_1` and the other way round; :math:`\ell_2` is
    its own dual (Hölder's inequality). So ``eps * dual_norm(grad, norm)`` is the most that a
    loss with gradient `grad` can rise, to first order, under a budget `eps`.

    Parameters
    ----------
    grad
        Gradients, shape (n, ...).
    norm
        The norm of the *ball*: ``"linf"``, ``"l2"`` or ``"l1"``.

    Returns
    -------
    Tensor
        Shape (n,), dtype of `grad`.

    Raises
    ------
    ThreatError
        Unknown `norm`.
    """
    check_norm(norm)
    return _length(grad, _DUAL[norm])


def diameter(x: Tensor, norm: str = "linf") -> float:
    """Largest distance between two pictures of the shape of `x`: no ball need be wider.

    Parameters
    ----------
    x
        Pictures, shape (n, ...): only the shape is used.
    norm
        ``"linf"``, ``"l2"`` or ``"l1"``.

    Returns
    -------
    float
        1, the square root of the number of pixel values, or their number.

    Raises
    ------
    ThreatError
        Unknown `norm`.
    """
    check_norm(norm)
    values = math.prod(x.shape[1:])
    return {"linf": float(values > 0), "l2": math.sqrt(values), "l1": float(values)}[norm]


def project(delta: Tensor, eps: float, norm: str = "linf", x: Tensor | None = None) -> Tensor:
    r"""Closest allowed perturbation, in Euclidean distance.

    Without `x`: the closest point of the ball. With `x`: the closest point of the ball that also
    keeps the pixels of ``x + delta`` in [0, 1]. For :math:`\ell_1` the difference matters:
    clipping after projecting wastes most of the budget (Croce & Hein 2021, "Mind the box").

    Parameters
    ----------
    delta
        Perturbations, shape (n, ...).
    eps
        Radius of the ball, in units of pixels, >= 0.
    norm
        ``"linf"``, ``"l2"`` or ``"l1"``.
    x
        The pictures that `delta` is added to, shape of `delta`, pixels in [0, 1].

    Returns
    -------
    Tensor
        Shape of `delta`. Its length is at most `eps` up to rounding; `confine` removes the rest.

    Raises
    ------
    ThreatError
        Unknown `norm`, or an `eps` that is not one finite number >= 0.

    References
    ----------
    Duchi et al. 2008 (the :math:`\ell_1` ball); Croce & Hein 2021, section 3 (ball and box).
    """
    check_norm(norm)
    eps = check_eps(eps)
    if delta.numel() == 0 or eps == 0:
        return torch.zeros_like(delta)
    if x is None:
        return _project_ball(delta, eps, norm)
    eps = min(eps, diameter(x, norm))  # an eps that overflows when squared is no use
    if norm == "linf":
        return delta.clamp(-eps, eps).clamp(-x, 1 - x)
    if norm == "l2":
        # Scaling towards 0 and cutting at the box is the solution of the optimality conditions.
        return _scale_into_box(delta, -x, 1 - x, eps, at_most=1.0)
    room = torch.where(delta > 0, 1 - x, x)
    shrunk = (delta.abs() - _threshold(delta.abs(), room, eps)).clamp_min(0)
    return delta.sign() * torch.minimum(shrunk, room)


def _project_ball(delta: Tensor, eps: float, norm: str) -> Tensor:
    if norm == "linf":
        return delta.clamp(-eps, eps)
    if norm == "l2":
        length = per_picture(_length(delta, "l2"), delta)
        return torch.where(length > eps, delta * (eps / length), delta)
    return delta.sign() * (delta.abs() - _threshold(delta.abs(), None, eps)).clamp_min(0)


def random_point(
    x: Tensor,
    eps: float,
    norm: str = "linf",
    generator: torch.Generator | None = None,
    *,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Perturbation drawn uniformly from the ball, one for each picture.

    Parameters
    ----------
    x
        Pictures, shape (n, ...): only shape, dtype and device are used.
    eps
        Radius, in units of pixels, >= 0.
    norm
        ``"linf"``, ``"l2"`` or ``"l1"``.
    generator
        Source of randomness. None: a new one with seed 0, so that equal calls give equal points.
        The global random state is never used.
    mask
        Which pixel values may change (see `check_mask`). The point is then uniform in the ball of
        those coordinates alone, and exactly 0 in the others.

    Returns
    -------
    Tensor
        Shape, dtype and device of `x`.

    Raises
    ------
    ThreatError, DeviceError
        Unknown `norm`, an `eps` that is not one finite number >= 0, or a `mask` that does not fit.

    Notes
    -----
    Uniform in the :math:`\ell_p` ball: coordinates of density :math:`\exp(-|t|^p)`, divided by
    the norm of the vector that has one exponential variable more (Barthe et al. 2005).
    """
    check_norm(norm)
    eps = check_eps(eps)
    mask = check_mask(mask, x)
    # Half precision has too few random values near 0; draw in float32 and round afterwards.
    dtype = torch.promote_types(x.dtype, torch.float32)
    device = x.device if generator is None else generator.device
    generator = generator or torch.Generator(device).manual_seed(0)
    draw = torch.empty(x.shape, dtype=dtype, device=device)
    inside = None if mask is None else mask.to(device)
    if norm == "linf":
        draw = keep(draw.uniform_(-eps, eps, generator=generator), inside)
    elif norm == "l2":
        draw = keep(draw.normal_(generator=generator), inside)
        extra = draw.new_empty(len(x)).exponential_(generator=generator)
        length = (draw.flatten(1).square().sum(1) + 2 * extra).sqrt()
        draw *= per_picture(eps / length, draw)
    else:
        draw = keep(draw.exponential_(generator=generator), inside)
        extra = draw.new_empty(len(x)).exponential_(generator=generator)
        total = draw.flatten(1).sum(1) + extra
        sign = torch.empty_like(draw).uniform_(-1, 1, generator=generator).sign()
        draw *= sign * per_picture(eps / total, draw)
    return draw.to(x.device, x.dtype)


def steepest(
    grad: Tensor,
    eps: float,
    norm: str = "linf",
    x: Tensor | None = None,
    *,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Perturbation that raises a linear function the most.

    Solves :math:`\max_\delta \langle g, \delta\rangle` subject to :math:`\|\delta\| \le \epsilon`.
    For :math:`\ell_\infty` that is ``eps * sign(grad)``, the fast gradient sign (Goodfellow et al.
    2015, section 4); for :math:`\ell_2` it is ``eps * grad / ||grad||``; for :math:`\ell_1` the
    whole budget goes to the pixel value with the largest derivative. The value attained is
    ``eps * dual_norm(grad, norm)``.

    With `x` the pixels of ``x + delta`` must also stay in [0, 1], and the answer is the exact
    maximiser over ball *and* box: what one pixel cannot use is spent on others.

    Parameters
    ----------
    grad
        Gradients, shape (n, ...).
    eps
        Budget, in units of pixels, >= 0.
    norm
        ``"linf"``, ``"l2"`` or ``"l1"``.
    x
        Pictures, shape of `grad`, pixels in [0, 1], or None for the ball alone.
    mask
        Which pixel values may change (see `check_mask`): the answer is the maximiser among the
        perturbations that are 0 everywhere else.

    Returns
    -------
    Tensor
        Shape of `grad`. Where the gradient is 0, so is the answer.

    Raises
    ------
    ThreatError, DeviceError
        Unknown `norm`, an `eps` that is not one finite number >= 0, or a `mask` that does not fit.
    """
    check_norm(norm)
    eps = check_eps(eps)
    mask = check_mask(mask, grad)
    if grad.numel() == 0:
        return grad.clone()
    grad = keep(grad, mask)  # in all three balls no budget goes where the gradient is 0
    # An eps that overflows, here or when squared, is no use.
    eps = min(eps, torch.finfo(grad.dtype).max if x is None else diameter(x, norm))
    if norm == "linf":
        delta = eps * grad.sign()
        return delta if x is None else delta.clamp(-x, 1 - x)
    if norm == "l2":
        # Dividing by the largest entry first keeps tiny gradients from underflowing when squared.
        largest = per_picture(grad.flatten(1).abs().amax(1), grad)
        unit = torch.where(largest > 0, grad / largest, 0)
        if x is not None:
            return _scale_into_box(unit, -x, 1 - x, eps)
        length = per_picture(_length(unit, "l2"), grad)
        return torch.where(length > 0, unit * (eps / length), 0)
    size = grad.abs().flatten(1)
    order = size.argsort(dim=1, descending=True)
    if x is None:
        spend = torch.zeros_like(size).scatter(1, order[:, :1], eps)
    else:
        room = torch.where(grad > 0, 1 - x, x).flatten(1).gather(1, order)
        left = (eps - (room.cumsum(1) - room)).clamp_min(0)
        spend = torch.zeros_like(size).scatter(1, order, torch.minimum(room, left))
    return grad.sign() * spend.view_as(grad)


@torch.no_grad()
def bounds(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    r"""Smallest and largest pixel values that the :math:`\ell_\infty` ball and the box allow.

    A rounded ``x + eps`` may lie outside the ball. These bounds lie inside: for every
    ``low <= x_adv <= high`` the difference ``x_adv - x``, computed in the dtype of `x` or
    exactly, is at most `eps`.

    Parameters
    ----------
    x
        Pictures, shape (n, ...), pixels in [0, 1].
    eps
        Radius, in units of pixels, >= 0.

    Returns
    -------
    (low, high) : tuple of Tensor
        Both of the shape, dtype and device of `x`.

    Raises
    ------
    ThreatError
        An `eps` that is not one finite number >= 0.
    """
    reach = _round_down(min(check_eps(eps), 1.0), x.dtype)
    high = x + reach
    # Of two numbers, the difference between their sum and the larger one is exact (Dekker's
    # Fast2Sum): less the smaller one, it says whether rounding went too far. All in three tensors,
    # because memory that is touched for the first time takes longer than the arithmetic.
    low, spare = x.clamp_max(reach), x.clamp_min(reach)
    torch.sub(high, spare, out=spare).sub_(low)
    _bits(high).sub_(_positive(spare))
    torch.sub(x, reach, out=low)
    torch.sub(x, low, out=spare).sub_(reach)  # a smaller x ends at the box and need not be asked
    _bits(low).add_(_positive(spare))
    return low.clamp_(0, 1), high.clamp_(0, 1)


@torch.no_grad()
def confine(
    x: Tensor, delta: Tensor, eps: float, norm: str = "linf", *, settle: bool = True
) -> Tensor:
    """Return ``x + delta``, put exactly inside ball and box as computed in the dtype of `x`.

    Rounding pushes a projected point out of the ball again: with ``eps=0.1`` in float32 the plain
    ``x + delta`` is too far away for nearly every picture. Here ``norm(x_adv - x) <= eps`` holds
    as a comparison of floating-point numbers.

    Parameters
    ----------
    x
        Pictures, shape (n, ...), pixels in [0, 1].
    delta
        Perturbations, shape of `x`; those too long are projected.
    eps
        Radius, in units of pixels, >= 0.
    norm
        ``"linf"``, ``"l2"`` or ``"l1"``.
    settle
        False leaves out the last look at the l2 or l1 norm (see `settle`), for inner loops.

    Returns
    -------
    Tensor
        `x_adv`: shape, dtype and device of `x`, pixels in [0, 1].

    Raises
    ------
    ThreatError
        Unknown `norm`, or an `eps` that is not one finite number >= 0.
    """
    check_norm(norm)
    eps = check_eps(eps)
    if norm == "linf":
        low, high = bounds(x, eps)
        return (x + delta).clamp_(low, high)
    # Norms are sums, and sums round: aim a little inside.
    wide = torch.promote_types(x.dtype, torch.float32)
    inside = _round_down(eps, x.dtype) * (1 - 32 * torch.finfo(wide).eps)
    delta = project(delta.to(wide), inside, norm, x.to(wide)).to(x.dtype)
    x_adv = _add_towards(x, delta)
    return _settle(x, x_adv, eps, norm) if settle else x_adv


@torch.no_grad()
def settle(x: Tensor, x_adv: Tensor, eps: float, norm: str = "linf") -> Tensor:
    """Shrink what rounding left outside the ball; everything inside is returned as it is.

    Parameters
    ----------
    x
        Pictures, shape (n, ...), pixels in [0, 1].
    x_adv
        Perturbed pictures that lie in the ball up to rounding.
    eps
        Radius, in units of pixels, >= 0.
    norm
        ``"linf"``, ``"l2"`` or ``"l1"``.

    Returns
    -------
    Tensor
        Shape, dtype and device of `x`; ``norm(x_adv - x) <= eps`` as computed there.

    Raises
    ------
    ThreatError
        Unknown `norm`, or an `eps` that is not one finite number >= 0.
    """
    check_norm(norm)
    return _settle(x, x_adv, check_eps(eps), norm)


def _settle(x: Tensor, x_adv: Tensor, eps: float, norm: str) -> Tensor:
    shrink = 2 * torch.finfo(x.dtype).eps
    while (outside := _too_long(x_adv - x, eps, norm)).any():
        shorter = _add_towards(x, (x_adv - x) * max(0.0, 1 - shrink))
        x_adv = torch.where(per_picture(outside, x), shorter, x_adv)
        shrink *= 2
    return x_adv


def _too_long(delta: Tensor, eps: float, norm: str) -> Tensor:
    """Whether each perturbation is longer than `eps`, in whatever order and dtype one sums."""
    outside = _length(delta, norm) > _round_down(eps, delta.dtype)
    if norm == "linf":  # a maximum does not round
        return outside
    # A long sum in the dtype of `delta` may itself be too small: look at the exact one as well.
    wide = torch.float32 if delta.device.type == "mps" else torch.float64  # MPS has no float64
    flat = delta.flatten(1).to(wide)
    exact = flat.abs().sum(1) if norm == "l1" else flat.square().sum(1).sqrt()
    margin = 4 * torch.finfo(torch.promote_types(delta.dtype, torch.float32)).eps
    return outside | (exact > eps * (1 - margin))


@lru_cache
def _round_down(value: float, dtype: torch.dtype) -> float:
    """Largest number of `dtype` that is at most `value` (>= 0)."""
    nearest = torch.tensor(value, dtype=dtype)
    if nearest.item() > value:
        nearest = torch.nextafter(nearest, torch.zeros_like(nearest))
    return nearest.item()


def _add_towards(x: Tensor, delta: Tensor) -> Tensor:
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


def _scale_into_box(
    direction: Tensor, low: Tensor, high: Tensor, eps: float, at_most: float = math.inf
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
    for _ in range(8 if flat.is_cuda else 100):  # to ask whether more are needed would be to wait
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


def _threshold(size: Tensor, room: Tensor | None, eps: float) -> Tensor:
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
    return per_picture(torch.where(fits, 0, level).squeeze(1), size)
