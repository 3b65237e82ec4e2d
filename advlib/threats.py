r"""What the attacker may do: the :math:`\ell_\infty`, :math:`\ell_2` and :math:`\ell_1` balls.

An attacker who is given an image `x` with pixels in [0, 1] may return any `x_adv = x + delta`
with ``norm(delta) <= eps`` and pixels in [0, 1]: a point of the *ball* and of the *box*.
This module knows those sets and nothing of networks. Each norm is one class and one row of `NORMS`;
the functions below look it up by name; `Ball` is the set around a batch of images, exact in
floating point, in which iterative attacks move.

Every function works on a batch, on the device and in the dtype of its tensors.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection
from copy import copy

import torch
from torch import Generator, Tensor

from advlib.contracts import check_eps, check_reach, check_where
from advlib.errors import ThreatError
from advlib.exact import (
    add_towards,
    bounds,
    keep,
    per_image,
    round_down,
    scale_into_box,
    threshold,
    vector_norm,
)

Where = Tensor | None
"""Which pixel values may change: booleans that broadcast to the images, or None for all."""

# -- the norms -------------------------------------------------------------------------------------


class Norm(ABC):
    """What attacks ask of a norm; a new one defines the abstract methods and joins `NORMS`.

    `delta`, `grad` and `x` have the shape (n, ...), with one perturbation, gradient or image in
    each row. An `eps` is a radius in units of pixels; `project` takes one a row (n, d) too, (n, 1).
    """

    @abstractmethod
    def length(self, delta: Tensor) -> Tensor:
        """Length of each perturbation, shape (n,)."""

    @abstractmethod
    def dual(self, grad: Tensor) -> Tensor:
        """Largest inner product of each gradient with a perturbation of length 1, shape (n,)."""

    @abstractmethod
    def diameter(self, x: Tensor) -> float:
        """Largest distance between two images of the shape of `x`."""

    @abstractmethod
    def project(self, delta: Tensor, eps: float | Tensor, x: Tensor | None = None) -> Tensor:
        """Closest perturbation in the ball; with `x`, among those that keep pixels in [0, 1]."""

    @abstractmethod
    def steepest(self, grad: Tensor, eps: float | Tensor, x: Tensor | None = None) -> Tensor:
        """Maximiser of the inner product with `grad` over the ball; with `x`, over the box too.

        Without `x`, `eps` may hold one radius for each image, shape (n,).
        """

    @abstractmethod
    def random_point(self, draw: Tensor, eps: float, generator: Generator, where: Where) -> Tensor:
        """Perturbation uniform in the ball of the coordinates `where`, in the memory `draw`."""

    def confine(self, x: Tensor, delta: Tensor, eps: float, settle: bool = True) -> Tensor:
        """``x + delta``, put inside ball and box exactly; up to rounding if not `settle`."""
        # Norms are sums, and sums round: aim a little inside.
        wide = torch.promote_types(x.dtype, torch.float32)
        inside = round_down(eps, x.dtype) * (1 - 32 * torch.finfo(wide).eps)
        delta = _projected(self, delta.to(wide), inside, x.to(wide)).to(x.dtype)
        x_adv = add_towards(x, delta)
        return self.settle(x, x_adv, eps) if settle else x_adv

    def settle(self, x: Tensor, x_adv: Tensor, eps: float) -> Tensor:
        """Shrink what rounding left outside the ball; everything inside is returned as it is."""
        shrink = 2 * torch.finfo(x.dtype).eps
        while (outside := self.outside(x_adv - x, eps)).any():
            shorter = add_towards(x, (x_adv - x) * max(0.0, 1 - shrink))
            x_adv = torch.where(per_image(outside, x), shorter, x_adv)
            shrink *= 2
        return x_adv

    def outside(self, delta: Tensor, eps: float) -> Tensor:
        """Whether each perturbation is longer than `eps`, in whatever order and dtype one sums."""
        # A long sum in the dtype of `delta` may itself be too small: compute the exact one as well.
        # MPS has no float64.
        exact = self.plain_length(delta.to(torch.float32 if delta.is_mps else torch.float64))
        margin = 4 * torch.finfo(torch.promote_types(delta.dtype, torch.float32)).eps
        too_long = self.length(delta) > round_down(eps, delta.dtype)
        return too_long | (exact > eps * (1 - margin))

    def plain_length(self, delta: Tensor) -> Tensor:
        """The length as somebody else would sum it up, in another order."""
        return self.length(delta)

    def limits(self, x: Tensor, eps: float) -> tuple[Tensor, ...]:
        """What is computed once for a ball and used in each of its steps: nothing, in general."""
        return ()

    def step(self, ball: "Ball", x_adv: Tensor, ascent: Tensor, size: float | Tensor) -> Tensor:
        """A step of length `size` along `ascent`, and back into ball and box up to rounding."""
        delta = (x_adv - ball.x) + self.steepest(ascent, size)
        return self.confine(ball.x, delta, ball.eps, settle=False)

    def maximiser(self, ball: "Ball", grad: Tensor) -> Tensor:
        """The point of ball and box where a linear function with gradient `grad` is largest."""
        return self.confine(ball.x, self.steepest(grad, ball.eps, ball.x), ball.eps)


class Lp(Norm):
    r"""What :math:`\ell_p` norms share: `order` is p, and `dual_order` is q with 1/p + 1/q = 1."""

    order: float
    dual_order: float

    def length(self, delta: Tensor) -> Tensor:
        return vector_norm(delta, self.order)

    def dual(self, grad: Tensor) -> Tensor:
        return vector_norm(grad, self.dual_order)

    def diameter(self, x: Tensor) -> float:
        count = math.prod(x.shape[1:])
        return count ** (1 / self.order) if count else 0.0


class Linf(Lp):
    """The largest change of any pixel value."""

    order, dual_order = math.inf, 1

    def project(self, delta: Tensor, eps: float | Tensor, x: Tensor | None = None) -> Tensor:
        delta = delta.clamp(-per_image(eps, delta), per_image(eps, delta))
        return delta if x is None else delta.clamp(-x, 1 - x)

    def steepest(self, grad: Tensor, eps: float | Tensor, x: Tensor | None = None) -> Tensor:
        delta = per_image(eps, grad) * grad.sign()
        return delta if x is None else delta.clamp(-x, 1 - x)

    def random_point(self, draw: Tensor, eps: float, generator: Generator, where: Where) -> Tensor:
        return keep(draw.uniform_(-eps, eps, generator=generator), where)

    def confine(self, x: Tensor, delta: Tensor, eps: float, settle: bool = True) -> Tensor:
        return (x + delta).clamp_(*bounds(x, eps))

    def outside(self, delta: Tensor, eps: float) -> Tensor:
        return self.length(delta) > round_down(eps, delta.dtype)  # a maximum does not round

    def limits(self, x: Tensor, eps: float) -> tuple[Tensor, ...]:
        return bounds(x, eps)

    def step(self, ball: "Ball", x_adv: Tensor, ascent: Tensor, size: float | Tensor) -> Tensor:
        sign = ascent.sign()
        if isinstance(size, Tensor):
            return torch.addcmul(x_adv, sign, per_image(size, sign)).clamp_(*ball.limits)
        # In place: to ask for new memory at every step would cost more than the sum.
        place = sign if sign.stride() == x_adv.stride() else None
        return torch.add(x_adv, sign, alpha=size, out=place).clamp_(*ball.limits)

    def maximiser(self, ball: "Ball", grad: Tensor) -> Tensor:
        return self.step(ball, ball.x, grad, ball.eps)  # the box may cut it off afterwards


class L2(Lp):
    """The Euclidean length."""

    order, dual_order = 2, 2

    def plain_length(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).square().sum(1).sqrt()

    def project(self, delta: Tensor, eps: float | Tensor, x: Tensor | None = None) -> Tensor:
        if x is not None:  # scaled towards 0 and cut at the box: the optimality conditions
            return scale_into_box(delta, -x, 1 - x, eps, at_most=1.0)
        length = per_image(self.length(delta), delta)
        return torch.where(length > eps, delta * (eps / length), delta)

    def steepest(self, grad: Tensor, eps: float | Tensor, x: Tensor | None = None) -> Tensor:
        # Dividing by the largest entry first keeps tiny gradients from underflowing when squared.
        largest = per_image(grad.flatten(1).abs().amax(1), grad)
        unit = torch.where(largest > 0, grad / largest, 0)
        if x is not None:
            return scale_into_box(unit, -x, 1 - x, float(eps))
        length = per_image(self.length(unit), grad)
        return torch.where(length > 0, unit * (per_image(eps, grad) / length), 0)

    def random_point(self, draw: Tensor, eps: float, generator: Generator, where: Where) -> Tensor:
        # Normal coordinates, divided by the length of the vector that has one exponential more.
        draw = keep(draw.normal_(generator=generator), where)
        extra = draw.new_empty(len(draw)).exponential_(generator=generator)
        length = (draw.flatten(1).square().sum(1) + 2 * extra).sqrt()
        return draw.mul_(per_image(eps / length, draw))


class L1(Lp):
    """The sum of all changes."""

    order, dual_order = 1, math.inf

    def plain_length(self, delta: Tensor) -> Tensor:
        return delta.flatten(1).abs().sum(1)

    def project(self, delta: Tensor, eps: float | Tensor, x: Tensor | None = None) -> Tensor:
        size = delta.abs()
        room = None if x is None else torch.where(delta > 0, 1 - x, x)
        shrunk = (size - threshold(size, room, eps)).clamp_min(0)
        return delta.sign() * (shrunk if room is None else torch.minimum(shrunk, room))

    def steepest(self, grad: Tensor, eps: float | Tensor, x: Tensor | None = None) -> Tensor:
        size = grad.abs().flatten(1)
        order = size.argsort(dim=1, descending=True)
        eps = per_image(eps, size)
        if x is None:  # all of it to the pixel value with the largest derivative
            spend = torch.zeros_like(size).scatter(1, order[:, :1], 1) * eps
        else:  # a pixel takes what it has room for, the next one the rest
            room = torch.where(grad > 0, 1 - x, x).flatten(1).gather(1, order)
            left = (eps - (room.cumsum(1) - room)).clamp_min(0)
            spend = torch.zeros_like(size).scatter(1, order, torch.minimum(room, left))
        return grad.sign() * spend.view_as(grad)

    def random_point(self, draw: Tensor, eps: float, generator: Generator, where: Where) -> Tensor:
        draw = keep(draw.exponential_(generator=generator), where)
        extra = draw.new_empty(len(draw)).exponential_(generator=generator)
        total = draw.flatten(1).sum(1) + extra
        sign = torch.empty_like(draw).uniform_(-1, 1, generator=generator).sign()
        return draw.mul_(sign * per_image(eps / total, draw))

    def step(self, ball: "Ball", x_adv: Tensor, ascent: Tensor, size: float | Tensor) -> Tensor:
        # In l1 the box belongs to the step (Croce & Hein 2021, "Mind the box").
        delta = (x_adv - ball.x) + self.steepest(ascent, size, x_adv)
        return self.confine(ball.x, delta, ball.eps, settle=False)


NORMS: dict[str, Norm] = {"linf": Linf(), "l2": L2(), "l1": L1()}
"""The norms by name."""


def check_norm(norm: str, known: Collection[str] | None = None) -> Norm:
    """Return the norm of that name; raise `ThreatError` unless it is among `known` (None: all)."""
    names = list(NORMS) if known is None else list(known)
    if norm in names:
        return NORMS[norm]
    whose = "advlib knows" if known is None else "known here are"
    listed = " and ".join([", ".join(f'"{name}"' for name in names[:-1]), f'"{names[-1]}"'])
    raise ThreatError(
        f'norm is {norm!r}; {whose} {listed}. For the largest change of any pixel use norm="linf".'
    )


# -- perturbations ---------------------------------------------------------------------------------


def norm(delta: Tensor, norm: str = "linf") -> Tensor:
    r"""Length of each perturbation: `delta` (n, ...) in units of pixels to shape (n,).

    ``"linf"``: the largest change of any pixel value. ``"l2"``: Euclidean length. ``"l1"``: the sum
    of all changes. An unknown `norm` raises `ThreatError`, as in every function of this module.
    """
    return check_norm(norm).length(delta)


def dual_norm(grad: Tensor, norm: str = "linf") -> Tensor:
    r"""Largest value of :math:`\langle g, \delta\rangle` over the unit ball of `norm`, shape (n,).

    The dual of :math:`\ell_\infty` is :math:`\ell_1` and the other way round; :math:`\ell_2` is
    its own dual (Hölder's inequality). So ``eps * dual_norm(grad, norm)`` is the most that a
    loss with gradient `grad`, shape (n, ...), can rise, to first order, under a budget `eps`.
    """
    return check_norm(norm).dual(grad)


def project(delta: Tensor, eps: float, norm: str = "linf", x: Tensor | None = None) -> Tensor:
    r"""Closest allowed perturbation to `delta` (n, ...), in Euclidean distance.

    Without `x`: the closest point of the ball of radius `eps` >= 0, in units of pixels. With `x`,
    images of the shape of `delta` with pixels in [0, 1]: the closest point of the ball that also
    keeps the pixels of ``x + delta`` in [0, 1]. For :math:`\ell_1` the difference matters: clipping
    after projecting wastes most of the budget. The length of the result is at most `eps` up to
    rounding; `confine` removes the rest.

    See Duchi et al. 2008 (the :math:`\ell_1` ball); Croce & Hein 2021, section 3 (ball and box).
    """
    return _projected(check_norm(norm), delta, check_eps(eps), x)


def random_point(
    x: Tensor,
    eps: float,
    norm: str = "linf",
    generator: Generator | None = None,
    *,
    where: Where = None,
) -> Tensor:
    r"""Perturbation drawn uniformly from the ball, with shape, dtype and device of `x`.

    With `where`, see `advlib.contracts.check_where`, the point is uniform in the ball of those
    coordinates alone, and exactly 0 in the others. The `generator` is the source of randomness,
    never the global one. None: a new one with seed 0, so that equal calls give equal points.

    See Barthe et al. 2005: coordinates of density :math:`\exp(-|t|^p)`, divided by the norm of the
    vector that has one exponential variable more.
    """
    return _drawn(check_norm(norm), x, check_eps(eps), generator, check_where(where, x))


def steepest(
    grad: Tensor, eps: float, norm: str = "linf", x: Tensor | None = None, *, where: Where = None
) -> Tensor:
    r"""Perturbation that raises a linear function with gradient `grad` (n, ...) the most.

    Solves :math:`\max_\delta \langle g, \delta\rangle` subject to :math:`\|\delta\| \le \epsilon`.
    For :math:`\ell_\infty` that is ``eps * sign(grad)``, the fast gradient sign (Goodfellow et al.
    2015, section 4); for :math:`\ell_2` it is ``eps * grad / ||grad||``; for :math:`\ell_1` the
    whole budget goes to the pixel value with the largest derivative. The value attained is
    ``eps * dual_norm(grad, norm)``. Where the gradient is 0, so is the perturbation.

    With images `x` the pixels of ``x + delta`` must also stay in [0, 1], and the result is the
    exact maximiser over ball *and* box: what one pixel cannot use is spent on others. With `where`
    it is the maximiser among the perturbations that are 0 elsewhere.
    """
    found, eps, where = check_norm(norm), check_eps(eps), check_where(where, grad)
    if grad.numel() == 0:
        return grad.clone()
    # An eps that overflows, here or when squared, is no use.
    eps = min(eps, torch.finfo(grad.dtype).max if x is None else found.diameter(x))
    # In every ball no budget goes where the gradient is 0.
    return found.steepest(keep(grad, where), eps, x)


@torch.no_grad()
def confine(x: Tensor, delta: Tensor, eps: float, norm: str = "linf") -> Tensor:
    """Return ``x + delta``, put exactly inside ball and box as computed in the dtype of `x`.

    Rounding pushes a projected point out of the ball again: with ``eps=0.1`` in float32 the plain
    ``x + delta`` is too far away for nearly every image. Here ``norm(x_adv - x) <= eps`` holds
    as a comparison of floating-point numbers. Perturbations that are too long are projected.
    """
    return check_norm(norm).confine(x, delta, check_eps(eps))


class Ball:
    """The points that an attack may return for the images `x`, and the moves inside.

    `x` (n, ...) holds pixels in [0, 1]; `eps`, `norm` and `where` are as for `random_point`. An
    `eps` beyond the diameter of the box is cut to it. Points are exactly in ball and box once
    `settle` has seen them; before, up to rounding.
    """

    def __init__(self, x: Tensor, eps: float, norm: str = "linf", where: Where = None) -> None:
        self.norm = check_norm(norm)
        self.x, self.where = x, check_where(where, x)
        self.eps = check_reach(eps, self.norm.diameter(x))
        self.limits = self.norm.limits(x, self.eps)

    def __getitem__(self, rows: Tensor | slice) -> "Ball":
        """The ball around some of the images."""
        part = copy(self)
        part.x = self.x[rows]
        part.where = None if self.where is None else self.where[rows]
        part.limits = tuple(limit[rows] for limit in self.limits)
        return part

    def random_point(self, generator: Generator) -> Tensor:
        """A point for each image: uniform in the ball, then put into the box."""
        delta = _drawn(self.norm, self.x, self.eps, generator, self.where)
        return self.norm.confine(self.x, delta, self.eps, settle=False)

    def step(self, x_adv: Tensor, ascent: Tensor, size: float | Tensor) -> Tensor:
        """One step of steepest ascent from `x_adv`, and back into ball and box.

        `size` is the length of the step, one for all images or one for each, shape (n,). Where
        pixels may not change the ascent is 0, and what is 0 stays 0 in every step and projection.
        """
        size = size.to(x_adv.dtype) if isinstance(size, Tensor) else size
        return self.norm.step(self, x_adv, keep(ascent, self.where), size)

    def maximiser(self, grad: Tensor) -> Tensor:
        """The point at which the linear function with gradient `grad` is largest."""
        return self.norm.maximiser(self, keep(grad, self.where))

    def settle(self, x_adv: Tensor) -> Tensor:
        """Put points that `step` and `random_point` returned inside, exactly."""
        # Between limits every point is inside.
        return x_adv if self.limits else self.norm.settle(self.x, x_adv, self.eps)


def _projected(norm: Norm, delta: Tensor, eps: float, x: Tensor | None) -> Tensor:
    if delta.numel() == 0 or eps == 0:
        return torch.zeros_like(delta)
    # With a box, an eps that overflows when squared is no use.
    return norm.project(delta, eps if x is None else min(eps, norm.diameter(x)), x)


def _drawn(norm: Norm, x: Tensor, eps: float, generator: Generator | None, where: Where) -> Tensor:
    generator = generator or Generator(x.device).manual_seed(0)
    # Half precision has too few random values near 0: draw in float32 and round afterwards.
    dtype = torch.promote_types(x.dtype, torch.float32)
    draw = torch.empty(x.shape, dtype=dtype, device=generator.device)
    where = None if where is None else where.to(generator.device)
    return norm.random_point(draw, eps, generator, where).to(x.device, x.dtype)
