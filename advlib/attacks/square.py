r"""Square Attack: adversarial examples from the model's logits alone, without a gradient.

A random search. Propose a change of a small square of the image, classify the proposal, keep the
change if the loss rose. What makes it strong is where it searches: every proposal lies on the
surface of the ball, the changes are square because convolutions respond to squares, and the squares
shrink on a fixed schedule (Andriushchenko et al. 2020).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from advlib import threats
from advlib.attacks.pool import Pool
from advlib.contracts import Model, check_batch, check_logits, check_steps, undisturbed
from advlib.errors import ThreatError
from advlib.gradients import cross_entropy, margin
from advlib.threats import Ball, per_image

OnQuery = Callable[[int, Tensor, Tensor], None]
"""Called as ``on_query(query, rows, fooled)`` after every query of the model."""

P_INIT = 0.8
"""Share of the image that the first squares cover, if none is given: large squares pay where
queries are few, and AutoAttack takes as many for its 5,000. The paper's 0.05 (linf) and 0.1 (l2)
were chosen for 10,000 queries."""


class SquareResult(NamedTuple):
    """What Square Attack found: images like `x`; for each its queries, and whether it is fooled."""

    x_adv: Tensor
    queries: Tensor
    fooled: Tensor


def square(model: Model, x: Tensor, y: Tensor, eps: float = 8 / 255, **settings: Any) -> Tensor:
    """The adversarial images of `square_with_queries`: all parameters are as there."""
    return square_with_queries(model, x, y, eps, **settings).x_adv


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
    r"""Square Attack: random search with square-shaped changes; it only asks for logits.

    Query 1 is the image itself, query 2 a first perturbation (:math:`\ell_\infty`: vertical
    stripes of :math:`\pm\epsilon`), every later one the best so far with a random square changed.
    A proposal is kept if its loss is no lower: the margin, :math:`\max_{j \ne y} z_j - z_y`, or
    with `targeted` the negative cross-entropy of the target. An image that is fooled is not queried
    again. No gradient is taken; the model may round, draw or decide as it likes.

    Parameters
    ----------
    model, x, y, eps, norm, targeted, generator
        As for `advlib.pgd`, and so are the errors. Any strictly increasing function of the logits
        that keeps their differences comparable, such as log-probabilities, will do.
    queries
        Queries of the model for each image, at most, >= 1.
    p_init
        Share of the image that the first squares cover, in (0, 1]. None: `P_INIT`. It is halved
        on the schedule of the paper, whose 10,000 queries are scaled to `queries`, or to 3,000 if
        that is more.
    on_query
        Called as ``on_query(query, rows, fooled)`` after every query, from 1 to `queries`: the
        indices of the images that were queried, shape (k,), and which of them are fooled
        now. With more images than `batch_size`, one batch after the other.
    batch_size
        How many images are classified at once, >= 1. The draws of an image depend on its
        index and `generator` alone, not on `batch_size` and not on what becomes of the others. They
        belong to the place: permuting the images does not permute the results.

    Returns
    -------
    SquareResult
        The images, their queries, and which are fooled. Where the goal was not reached, the image
        is the point with the highest loss that was found.

    Notes
    -----
    Unlike the paper and its authors' code (``github.com/max-andr/square-attack``), equal losses are
    accepted, not only better ones, so that the search crosses the plateaus of rounded logits; the
    first query is `x` itself, and the schedule starts after the stripes; squares may touch the last
    row and column and cover the whole image; the schedule is that of 10,000 queries only where so
    many are allowed. A proposal that would change nothing gets the opposite signs; there they are
    drawn again. AutoAttack's version keeps the strict rule, and takes `p_init` 0.8.

    References
    ----------
    Andriushchenko, Croce, Flammarion & Hein 2020, "Square Attack: a query-efficient black-box
    adversarial attack via random search", algorithms 1 to 3; Croce & Hein 2021, "Mind the box",
    for :math:`\ell_1`.
    """
    threats.check_norm(norm, known=("linf", "l2", "l1"))
    queries, batch_size = check_steps("queries", queries), check_steps("batch_size", batch_size)
    p_init = P_INIT if p_init is None else _check_share(p_init)
    x, y = check_batch(model, x, y)
    device = "cpu" if generator is None else generator.device
    generator = generator or torch.Generator().manual_seed(0)
    seeds = torch.randint(2**31, (len(x),), generator=generator, device=device)
    with undisturbed(model, x.device), torch.no_grad():
        ball, y = Ball(x.clone(), eps, norm), y.clone()
        # Without room there is one point to query.
        plan = _Plan(norm, queries if ball.eps > 0 else 1, targeted, p_init)
        fooled = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        found = SquareResult(ball.x.clone(), torch.zeros_like(y), fooled)
        for rows in torch.arange(len(x), device=x.device).split(batch_size) if len(x) else ():
            _search(model, _State.start(rows, ball[rows], y[rows], seeds), plan, found, on_query)
        return found._replace(x_adv=ball.settle(found.x_adv))


def _check_share(p_init: float) -> float:
    if isinstance(p_init, bool) or not isinstance(p_init, (int, float)) or not 0 < p_init <= 1:
        raise ThreatError(
            f"p_init is {p_init!r}; the share of the image that the first squares cover is "
            "expected, a number in (0, 1]."
        )
    return float(p_init)


# -- the search ------------------------------------------------------------------------------------


class _Plan(NamedTuple):
    """What the attacker may do and wants."""

    norm: str
    queries: int
    targeted: bool
    p_init: float

    def value(self, logits: Tensor, y: Tensor) -> Tensor:
        """What the attacker wants more of."""
        return -cross_entropy(logits, y) if self.targeted else margin(logits, y)


@dataclass
class _State(Pool):
    """The images still at work; `x_adv` is the best point so far."""

    y: Tensor
    value: Tensor
    """What the attacker reached at `x_adv`."""
    seed: Tensor
    """Where the randomness of each image begins."""

    @classmethod
    def start(cls, rows: Tensor, ball: Ball, y: Tensor, seeds: Tensor) -> "_State":
        # MPS has no float64.
        dtype = torch.float32 if ball.x.is_mps else torch.float64
        value = torch.full((len(rows),), -torch.inf, dtype=dtype, device=rows.device)
        return cls(rows, ball, ball.x.clone(), y, value, seeds[rows.to(seeds.device)])


def _search(
    model: Model, state: _State, plan: _Plan, found: SquareResult, on_query: OnQuery | None
) -> None:
    """Query the images of `state` until they are fooled or the queries are used up."""
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
            x_adv=torch.where(per_image(better, proposal), proposal, state.x_adv),
            value=torch.where(better, value, state.value),
        )
        found.queries[state.row] = query
        if on_query is not None:
            on_query(query, state.row.clone(), fooled.clone())
        if fooled.any():
            done = state.row[fooled]
            found.x_adv[done], found.fooled[done] = state.x_adv[fooled], True
            state = state[(~fooled).nonzero().squeeze(1)]
            if len(state) == 0:
                return
    found.x_adv[state.row] = state.x_adv


def _propose(state: _State, plan: _Plan, query: int) -> Tensor:
    """The points of query `query`, one for each image, inside ball and box."""
    ball = state.ball
    if query == 1:
        return ball.x
    if ball.x.ndim != 4:  # rows of features are images of height 1
        ball = Ball(ball.x.flatten(1)[:, None, None], ball.eps, plan.norm)
    shape, best = state.x_adv.shape, state.x_adv.view(ball.x.shape)
    _, channels, _, width = ball.x.shape
    if query == 2:
        draws = _draws(state, 0, (max(channels * width, 25 * channels),))
        return _start(ball, draws, plan.norm).view(shape)
    block, place = divmod(query - 3, _BLOCK)
    draws = _draws(state, 1 + block, (_BLOCK, 5 + channels))[:, place]
    part = share(query - 3, plan.queries - 2, plan.p_init)
    if plan.norm == "linf":
        return _linf_step(ball, best, draws, part).view(shape)
    return _window_step(ball, best, draws, part, plan.norm).view(shape)


def share(query: int, queries: int, p_init: float) -> float:
    """Share of the image that a square covers, in (0, 1]: `p_init`, halved nine times.

    `query` squares were tried so far, from 0; `queries` are to be tried in all. The schedule is
    that of Andriushchenko et al. 2020 for 10,000 queries, scaled to others. With fewer than 3,000
    it is that of 3,000, so that a small budget finds what a larger one finds at first.
    """
    now = 10_000 * query / max(queries, _SHORTEST)
    return p_init / 2 ** sum(now > mark for mark in _HALVED_AFTER)


_SHORTEST = 3_000  # fewer queries are the beginning of a longer search: better than hurrying
_HALVED_AFTER = (10, 50, 200, 500, 1_000, 2_000, 4_000, 6_000, 8_000)
_BLOCK = 64  # queries whose random numbers are drawn together


# -- proposals -------------------------------------------------------------------------------------


def _draws(state: _State, block: int, shape: tuple[int, ...]) -> Tensor:
    """Uniform numbers in [0, 1) for each image, from its own seed: shape (n, *shape).

    Drawn on the CPU, so that every device tries the same squares.
    """
    generator, seeds = torch.Generator(), state.seed.tolist()
    draws = [torch.rand(shape, generator=generator.manual_seed(seed + block)) for seed in seeds]
    return torch.stack(draws).to(state.row.device)


def _start(ball: Ball, draws: Tensor, norm: str) -> Tensor:
    """The first perturbation: stripes for linf, a grid of 5 x 5 bumps for l2 and l1."""
    n, channels, height, width = ball.x.shape
    if norm == "linf":
        up = draws[:, : channels * width].view(n, channels, 1, width) < 0.5
        low, high = ball.limits
        return torch.where(up, high, low)
    tile_h, tile_w = -(-height // 5), -(-width // 5)
    signs = torch.where(draws[:, : 25 * channels] < 0.5, -1.0, 1.0).view(n, channels, 5, 5)
    bumps = _bump(tile_h, tile_w, ball.x).repeat(5, 5)
    tiled = signs.repeat_interleave(tile_h, 2).repeat_interleave(tile_w, 3) * bumps
    return _on_the_sphere(ball, tiled[..., :height, :width].to(ball.x.dtype), norm)


def _linf_step(ball: Ball, best: Tensor, draws: Tensor, part: float) -> Tensor:
    """A window in which each channel goes to ``x + eps`` or ``x - eps`` (algorithm 2)."""
    low, high = ball.limits
    window, _, _ = _window(draws[:, :2], part, best)
    up = (draws[:, 5:] < 0.5)[:, :, None, None]
    proposal = torch.where(window, torch.where(up, high, low), best)
    # A query whose result is known would be wasted: try the opposite.
    idle = per_image((proposal == best).flatten(1).all(1), best)
    if not idle.any():
        return proposal
    opposite = torch.where(window, torch.where(up, low, high), best)
    return torch.where(idle, opposite, proposal)


def _window_step(ball: Ball, best: Tensor, draws: Tensor, part: float, norm: str) -> Tensor:
    """Budget moves from one window to another, which gets a new bump (algorithm 3)."""
    x, delta = ball.x, best - ball.x
    part = max(part, 9 / delta[0, 0].numel())  # smaller bumps than 3 x 3 have no shape
    to, (high, wide), corner = _window(draws[:, 0:2], part, x)
    off = _window(draws[:, 2:4], part, x)[0]
    upright, lying = _two_bumps(high, wide, x)
    bump = torch.where(
        (draws[:, 4] < 0.5)[:, None, None], _placed(upright, corner, x), _placed(lying, corner, x)
    )[:, None]
    signs = torch.where(draws[:, 5:] < 0.5, -1.0, 1.0).to(x.dtype)[:, :, None, None]
    own = torch.where(to, delta, 0)
    new = torch.where(to, bump * signs, 0) + _unit(own, norm)
    # What the two windows hold, and a share of what is not spent at all.
    held = _per_channel(torch.where(to | off, delta, 0), norm)
    power = 2 if norm == "l2" else 1
    unspent = ball.eps**power - ball.norm.length(delta) ** power
    unspent = per_image(unspent.clamp_min(0), x) / x.shape[1]
    budget = (held**power + unspent) ** (1 / power)
    moved = torch.where(to, _unit(new, norm) * budget, torch.where(off, 0, delta))
    return _on_the_sphere(ball, moved, norm)


def _on_the_sphere(ball: Ball, delta: Tensor, norm: str) -> Tensor:
    """``x + delta`` with `delta` brought to length `eps`, as far as the box allows."""
    if norm == "l2":
        delta = ball.norm.steepest(delta, ball.eps, ball.x)
    return ball.norm.confine(ball.x, delta, ball.eps, settle=False)


def _window(
    draws: Tensor, part: float, x: Tensor
) -> tuple[Tensor, tuple[int, int], tuple[Tensor, Tensor]]:
    """A window that covers the share `part`: where (n, 1, h, w), its sides, its upper left corner.

    A square, unless the image is too narrow for it.
    """
    height, width = x.shape[2:]
    wanted = max(1.0, part * height * width)
    high = min(height, max(1, round(math.sqrt(wanted))))
    wide = min(width, max(1, round(wanted / high)))
    high = min(height, max(1, round(wanted / wide)))
    room = torch.tensor([height - high + 1, width - wide + 1], device=x.device)
    corner = torch.minimum((draws * room).long(), room - 1)
    rows = torch.arange(height, device=x.device) - corner[:, :1]
    columns = torch.arange(width, device=x.device) - corner[:, 1:]
    in_rows, in_columns = (rows >= 0) & (rows < high), (columns >= 0) & (columns < wide)
    window = (in_rows[:, :, None] & in_columns[:, None, :])[:, None]
    return window, (high, wide), (rows, columns)


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
