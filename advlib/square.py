r"""Square Attack: adversarial examples from the model's answers alone, without a gradient.

A random search. Propose a change of a small square of the picture, ask the model, keep the change
if the loss rose. What makes it strong is where it looks: every proposal lies on the surface of the
ball, the changes are square because convolutions answer to squares, and the squares shrink on a
fixed schedule (Andriushchenko et al. 2020).

`square` returns the pictures, `square_with_queries` also how often the model was asked.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

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
from advlib.errors import ThreatError
from advlib.gradients import cross_entropy, margin, undisturbed

OnQuery = Callable[[int, Tensor, Tensor], None]
"""Called as ``on_query(query, rows, fooled)`` after every question to the model."""

P_INIT = 0.8
"""Share of the picture that the first squares cover, if none is given: large squares pay where
questions are few. The paper's 0.05 (linf) and 0.1 (l2) were chosen for 10,000 questions."""


class SquareResult(NamedTuple):
    """What Square Attack found, and what it cost."""

    x_adv: Tensor
    """Adversarial pictures, shape, dtype and device of `x`."""
    queries: Tensor
    """How often the model was asked about each picture, shape (n,), integer."""
    fooled: Tensor
    """Whether the goal was reached, shape (n,), boolean."""


def square(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float = 8 / 255,
    *,
    norm: str = "linf",
    queries: int = 1000,
    targeted: bool = False,
    p_init: float | None = None,
    generator: torch.Generator | None = None,
    on_query: OnQuery | None = None,
    batch_size: int = 256,
) -> Tensor:
    r"""Square Attack: random search with square-shaped changes; it only asks for logits.

    Query 1 is the picture itself, query 2 a first perturbation (:math:`\ell_\infty`: vertical
    stripes of :math:`\pm\epsilon`), every later one the best so far with a random square changed.
    A proposal is kept if its loss is no lower: the margin, :math:`\max_{j \ne y} z_j - z_y`, or
    with `targeted` the negative cross-entropy of the target. A picture that is fooled is asked
    about no more. No gradient is taken; the model may round, draw or decide as it likes.

    Parameters
    ----------
    model
        Classifier from pixels in [0, 1] to logits (n, classes); any strictly rising function of
        the logits that keeps their differences comparable, such as log-probabilities, will do.
    x
        Pictures, shape (n, c, h, w), floating point, pixels in [0, 1].
    y
        Classes, shape (n,), integer: the true ones, or the targets if `targeted`.
    eps
        Budget in `norm`, in units of pixels.
    norm
        ``"linf"``, ``"l2"`` or ``"l1"``.
    queries
        How often the model may be asked about each picture, >= 1.
    targeted
        False: leave class `y`. True: reach it.
    p_init
        Share of the picture that the first squares cover, in (0, 1]. None: `P_INIT`. It is halved
        on the schedule of the paper, whose 10,000 queries are scaled to `queries`, or to 3,000 if
        that is more.
    generator
        Source of randomness. None: a new one with seed 0, so that equal calls give equal results.
    on_query
        Called as ``on_query(query, rows, fooled)`` after every query, from 1 to `queries`: the
        indices of the pictures that were asked about, shape (k,), and which of them are fooled
        now. With more pictures than `batch_size`, one batch after the other.
    batch_size
        How many pictures are put to the model at once, >= 1. The draws of a picture depend on its
        index and `generator` alone, not on `batch_size` and not on what becomes of the others. They
        belong to the place: permuting the pictures does not permute the results.

    Returns
    -------
    Tensor
        Adversarial pictures, shape, dtype and device of `x`. Where the goal was not reached, the
        point with the highest loss that was found.

    Raises
    ------
    PixelError, LabelError, DeviceError, ThreatError, ModelOutputError
        An argument, or what the model makes of it, cannot be used; nothing was changed.

    References
    ----------
    Andriushchenko, Croce, Flammarion & Hein 2020, "Square Attack: a query-efficient black-box
    adversarial attack via random search", algorithms 1 to 3; Croce & Hein 2021, "Mind the box",
    for :math:`\ell_1`. Unlike there, a proposal that would change nothing is replaced, equal losses
    are accepted (which crosses the plateaus of rounded logits), and the first query is `x` itself.
    """
    return square_with_queries(
        model, x, y, eps, norm=norm, queries=queries, targeted=targeted, p_init=p_init,
        generator=generator, on_query=on_query, batch_size=batch_size,
    ).x_adv  # fmt: skip


def square_with_queries(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float = 8 / 255,
    *,
    norm: str = "linf",
    queries: int = 1000,
    targeted: bool = False,
    p_init: float | None = None,
    generator: torch.Generator | None = None,
    on_query: OnQuery | None = None,
    batch_size: int = 256,
) -> SquareResult:
    """`square`, with the number of queries that each picture took.

    Parameters
    ----------
    model, x, y, eps, norm, queries, targeted, p_init, generator, on_query, batch_size
        As for `square`.

    Returns
    -------
    SquareResult
        ``x_adv``, ``queries`` (n,) and ``fooled`` (n,).

    Raises
    ------
    PixelError, LabelError, DeviceError, ThreatError, ModelOutputError
        An argument, or what the model makes of it, cannot be used; nothing was changed.
    """
    threats.check_norm(norm)
    eps = threats.check_eps(eps)
    queries, batch_size = check_steps("queries", queries), check_steps("batch_size", batch_size)
    p_init = P_INIT if p_init is None else _check_share(p_init)
    x = check_pictures(x)
    y = check_labels(y, x)
    check_device(model, x)
    eps = min(eps, threats.diameter(x, norm))  # the box ends there
    # Without room there is one point to ask about.
    plan = _Plan(eps, norm, queries if eps > 0 else 1, targeted, p_init)
    device = "cpu" if generator is None else generator.device
    generator = generator or torch.Generator().manual_seed(0)
    seeds = torch.randint(2**31, (len(x),), generator=generator, device=device).tolist()
    with undisturbed(model, x.device), torch.no_grad():
        x, y = x.clone(), y.clone()
        fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        found = SquareResult(x.clone(), torch.zeros_like(y), fooled)
        for start in range(0, len(x), batch_size):
            rows = torch.arange(start, min(start + batch_size, len(x)), device=x.device)
            state = _State.start(rows, x[rows], y[rows], [seeds[i] for i in rows.tolist()])
            _search(model, state, plan, found, on_query)
        if norm == "linf":
            return found
        return found._replace(x_adv=threats.settle(x, found.x_adv, eps, norm))


def _check_share(p_init: float) -> float:
    if isinstance(p_init, bool) or not isinstance(p_init, (int, float)) or not 0 < p_init <= 1:
        raise ThreatError(
            f"p_init is {p_init!r}; the share of the picture that the first squares cover is "
            "expected, a number in (0, 1]."
        )
    return float(p_init)


# -- the search ------------------------------------------------------------------------------------


class _Plan(NamedTuple):
    """What the attacker may do and wants."""

    eps: float
    norm: str
    queries: int
    targeted: bool
    p_init: float

    def value(self, logits: Tensor, y: Tensor) -> Tensor:
        """What the attacker wants more of."""
        return -cross_entropy(logits, y) if self.targeted else margin(logits, y)


@dataclass(frozen=True)
class _State:
    """The pictures that are still at work."""

    rows: Tensor  # their indices among all pictures
    x: Tensor
    y: Tensor
    best: Tensor  # the best point so far
    value: Tensor  # what the attacker got there
    seeds: list[int]  # where each picture's own chance begins

    @classmethod
    def start(cls, rows: Tensor, x: Tensor, y: Tensor, seeds: list[int]) -> "_State":
        value = torch.full((len(x),), -torch.inf, dtype=torch.float64, device=x.device)
        if x.device.type == "mps":  # which has no float64
            value = value.float()
        return cls(rows, x, y, x.clone(), value, seeds)

    def keep(self, which: Tensor) -> "_State":
        seeds = [seed for seed, stays in zip(self.seeds, which.tolist(), strict=True) if stays]
        rows, x, y, best = self.rows[which], self.x[which], self.y[which], self.best[which]
        return _State(rows, x, y, best, self.value[which], seeds)


def _search(
    model: Model, state: _State, plan: _Plan, found: SquareResult, on_query: OnQuery | None
) -> None:
    """Ask about the pictures of `state` until they are fooled or the queries are used up."""
    for query in range(1, plan.queries + 1):
        proposal = _propose(state, plan, query)
        logits = model(proposal.clone())  # a model may normalise in place
        check_logits(logits, proposal, state.y)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        value = plan.value(logits, state.y).to(state.value.dtype)
        fooled = (logits.argmax(1) == state.y) == plan.targeted
        better = fooled | (value >= state.value)
        state = replace(
            state,
            best=torch.where(threats.per_picture(better, state.x), proposal, state.best),
            value=torch.where(better, value, state.value),
        )
        found.queries[state.rows] = query
        if on_query is not None:
            on_query(query, state.rows.clone(), fooled.clone())
        if fooled.any():
            done = state.rows[fooled]
            found.x_adv[done], found.fooled[done] = state.best[fooled], True
            state = state.keep(~fooled)
            if len(state.rows) == 0:
                return
    found.x_adv[state.rows] = state.best


def _propose(state: _State, plan: _Plan, query: int) -> Tensor:
    """The points to ask about in query `query`, one for each picture, inside ball and box."""
    if query == 1:
        return state.x
    shape = state.x.shape
    # Rows of features are pictures of height 1.
    x, best = (p if p.ndim == 4 else p.flatten(1)[:, None, None] for p in (state.x, state.best))
    if query == 2:
        chance = _chance(state.seeds, 0, (max(x.shape[1] * x.shape[3], 25 * x.shape[1]),), x)
        return _start(x, chance, plan).view(shape)
    block, place = divmod(query - 3, _BLOCK)
    chance = _chance(state.seeds, 1 + block, (_BLOCK, 5 + x.shape[1]), x)[:, place]
    part = share(query - 3, plan.queries - 2, plan.p_init)
    step = _linf_step if plan.norm == "linf" else _window_step
    return step(x, best, chance, part, plan).view(shape)


def share(query: int, queries: int, p_init: float) -> float:
    """Share of the picture that a square covers: `p_init`, halved nine times on the way.

    Parameters
    ----------
    query
        Squares tried so far, from 0.
    queries
        Squares to be tried in all, >= 1.
    p_init
        The first share, in (0, 1].

    Returns
    -------
    float
        In (0, 1].

    References
    ----------
    Andriushchenko et al. 2020 (the schedule for 10,000 queries, scaled to others). With fewer than
    3,000 it is that of 3,000, so that a small budget finds what a larger one finds at first.
    """
    now = 10_000 * query / max(queries, _SHORTEST)
    return p_init / 2 ** sum(now > mark for mark in _HALVED_AFTER)


_SHORTEST = 3_000  # fewer queries are the beginning of a longer search: better than to hurry
_HALVED_AFTER = (10, 50, 200, 500, 1_000, 2_000, 4_000, 6_000, 8_000)
_BLOCK = 64  # queries whose chance is drawn together


# -- proposals -------------------------------------------------------------------------------------


def _chance(seeds: list[int], block: int, shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Uniform numbers in [0, 1) for each picture, from its own seed: shape (n, *shape).

    Drawn on the CPU, so that every device tries the same squares.
    """
    generator = torch.Generator()
    draws = [torch.rand(shape, generator=generator.manual_seed(seed + block)) for seed in seeds]
    return torch.stack(draws).to(like.device)


def _start(x: Tensor, chance: Tensor, plan: _Plan) -> Tensor:
    """The first perturbation: stripes for linf, a grid of 5 x 5 bumps for l2 and l1."""
    n, channels, height, width = x.shape
    if plan.norm == "linf":
        up = chance[:, : channels * width].view(n, channels, 1, width) < 0.5
        return _corners(x, up, plan.eps)
    tile_h, tile_w = -(-height // 5), -(-width // 5)
    signs = torch.where(chance[:, : 25 * channels] < 0.5, -1.0, 1.0).view(n, channels, 5, 5)
    bumps = _bump(tile_h, tile_w, x).repeat(5, 5)
    tiled = signs.repeat_interleave(tile_h, 2).repeat_interleave(tile_w, 3) * bumps
    return _on_the_sphere(x, tiled[..., :height, :width].to(x.dtype), plan)


def _linf_step(x: Tensor, best: Tensor, chance: Tensor, part: float, plan: _Plan) -> Tensor:
    """A window in which each channel goes to ``x + eps`` or ``x - eps`` (algorithm 2)."""
    window, _, _ = _window(chance[:, :2], part, x)
    up = (chance[:, 5:] < 0.5)[:, :, None, None]
    proposal = torch.where(window, _corners(x, up, plan.eps), best)
    # A question whose answer is known would be wasted: ask about the opposite.
    idle = threats.per_picture((proposal == best).flatten(1).all(1), x)
    if not idle.any():
        return proposal
    opposite = torch.where(window, _corners(x, ~up, plan.eps), best)
    return torch.where(idle, opposite, proposal)


def _window_step(x: Tensor, best: Tensor, chance: Tensor, part: float, plan: _Plan) -> Tensor:
    """Budget moves from one window to another, which gets a new bump (algorithm 3)."""
    delta = best - x
    part = max(part, 9 / delta[0, 0].numel())  # smaller bumps than 3 x 3 have no shape
    to, (high, wide), corner = _window(chance[:, 0:2], part, x)
    off = _window(chance[:, 2:4], part, x)[0]
    upright, lying = _two_bumps(high, wide, x)
    bump = torch.where(
        (chance[:, 4] < 0.5)[:, None, None], _placed(upright, corner, x), _placed(lying, corner, x)
    )[:, None]
    signs = torch.where(chance[:, 5:] < 0.5, -1.0, 1.0).to(x.dtype)[:, :, None, None]
    own = torch.where(to, delta, 0)
    new = torch.where(to, bump * signs, 0) + _unit(own, plan.norm)
    # What the two windows hold, and a share of what is not spent at all.
    at_hand = _per_channel(torch.where(to | off, delta, 0), plan.norm)
    power = 2 if plan.norm == "l2" else 1
    unspent = plan.eps**power - threats.norm(delta, plan.norm) ** power
    unspent = threats.per_picture(unspent.clamp_min(0), x) / x.shape[1]
    budget = (at_hand**power + unspent) ** (1 / power)
    moved = torch.where(to, _unit(new, plan.norm) * budget, torch.where(off, 0, delta))
    return _on_the_sphere(x, moved, plan)


def _corners(x: Tensor, up: Tensor, eps: float) -> Tensor:
    """The farthest the ball and the box allow, upward where `up`, downward elsewhere."""
    low, high = threats.bounds(x, eps)
    return torch.where(up, high, low)


def _on_the_sphere(x: Tensor, delta: Tensor, plan: _Plan) -> Tensor:
    """``x + delta`` with `delta` brought to length `eps`, as far as the box allows."""
    if plan.norm == "l2":
        delta = threats.steepest(delta, plan.eps, "l2", x)
    return threats.confine(x, delta, plan.eps, plan.norm, settle=False)


def _window(
    chance: Tensor, part: float, x: Tensor
) -> tuple[Tensor, tuple[int, int], tuple[Tensor, Tensor]]:
    """A window that covers the share `part`: mask (n, 1, h, w), its sides, its upper left corner.

    A square, unless the picture is too narrow for it.
    """
    height, width = x.shape[2:]
    wanted = max(1.0, part * height * width)
    high = min(height, max(1, round(math.sqrt(wanted))))
    wide = min(width, max(1, round(wanted / high)))
    high = min(height, max(1, round(wanted / wide)))
    room = torch.tensor([height - high + 1, width - wide + 1], device=x.device)
    corner = torch.minimum((chance * room).long(), room - 1)
    rows = torch.arange(height, device=x.device) - corner[:, :1]
    columns = torch.arange(width, device=x.device) - corner[:, 1:]
    in_rows, in_columns = (rows >= 0) & (rows < high), (columns >= 0) & (columns < wide)
    mask = (in_rows[:, :, None] & in_columns[:, None, :])[:, None]
    return mask, (high, wide), (rows, columns)


def _placed(patch: Tensor, corner: tuple[Tensor, Tensor], like: Tensor) -> Tensor:
    """A small patch (high, wide) put where each window is, repeated outside it: (n, h, w)."""
    rows = corner[0].clamp(0, patch.shape[0] - 1)[:, :, None]
    columns = corner[1].clamp(0, patch.shape[1] - 1)[:, None, :]
    return patch[rows, columns].to(like.dtype)


def _bump(high: int, wide: int, like: Tensor) -> Tensor:
    """A peak in the middle of a rectangle, in rings that fall as 1/1, 1/4, 1/9, ... do."""
    down = (torch.arange(high, device=like.device) - high // 2).abs()
    across = (torch.arange(wide, device=like.device) - wide // 2).abs()
    ring = torch.maximum(down[:, None], across[None, :])
    steps = 1 / torch.arange(1, max(high, wide) + 2, device=like.device).float().square()
    return steps.flip(0).cumsum(0).flip(0)[ring]


def _two_bumps(high: int, wide: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """One bump up and one down, one above the other, and side by side."""
    upper = high // 2
    upright = torch.cat([_bump(upper, wide, like), -_bump(high - upper, wide, like)])
    left = wide // 2
    lying = torch.cat([_bump(high, left, like), -_bump(high, wide - left, like)], 1)
    return upright, lying


def _per_channel(values: Tensor, norm: str) -> Tensor:
    """Length of each channel: (n, c, 1, 1)."""
    order = 2 if norm == "l2" else 1
    return torch.linalg.vector_norm(values, ord=order, dim=(2, 3), keepdim=True)


def _unit(values: Tensor, norm: str) -> Tensor:
    """Each channel brought to length 1, or left at 0."""
    length = _per_channel(values, norm)
    return torch.where(length > 0, values / length, 0)
