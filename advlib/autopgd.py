r"""Auto-PGD: projected gradient descent that sets its own step size, picture by picture.

PGD needs a step size, and the best one differs between models, budgets and pictures. Auto-PGD
(Croce & Hein 2020) begins with steps of twice the budget, watches each picture at checkpoints, and
halves the step of a picture that no longer gains, which then goes on from its best point so far.

Pictures are worked on in a pool: one that is fooled, or out of steps, leaves it, and the next one
takes its place. No gradient is spent on a picture that has fallen, and batches stay full.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
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
from advlib.errors import ModelOutputError, ThreatError
from advlib.gradients import Loss, all_finite, margin, resolve_loss, undisturbed, value_and_gradient

MOMENTUM = 0.75
"""Weight of the new step; the rest goes to the step before (the paper's alpha)."""


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    r"""Difference of logits ratio of each picture, shape (n,).

    .. math:: -\frac{z_y - \max_{j \ne y} z_j}{z_{\pi_1} - z_{\pi_3}}

    with the logits sorted, :math:`z_{\pi_1} \ge z_{\pi_2} \ge \dots` It does not change when the
    logits are scaled or shifted, so a model cannot hide behind large ones.

    Parameters
    ----------
    logits
        Shape (n, classes), at least three classes.
    y
        Classes, shape (n,).

    Raises
    ------
    ThreatError
        Fewer than three classes.

    References
    ----------
    Croce & Hein 2020, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", section 4.
    """
    if logits.shape[1] < 3:
        raise ThreatError(
            f'the loss "dlr" needs at least three classes, and the model has {logits.shape[1]}. '
            'Use "margin".'
        )
    top = logits.topk(3, dim=1).values
    return margin(logits, y) / (top[:, 0] - top[:, 2]).clamp_min(_TINY)


def apgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float = 8 / 255,
    *,
    norm: str = "linf",
    steps: int = 50,
    restarts: int = 1,
    targeted: bool = False,
    loss: str | Loss = "ce",
    generator: torch.Generator | None = None,
    early_stop: bool = True,
    batch_size: int | None = None,
) -> Tensor:
    r"""Auto-PGD: momentum, and a step size that halves where a picture no longer gains.

    .. math:: z = \Pi\left(x^t + \eta^t d(\nabla_x \ell)\right), \qquad
              x^{t+1} = \Pi\left(x^t + \alpha (z - x^t) + (1 - \alpha)(x^t - x^{t-1})\right)

    with :math:`\alpha = 0.75` and :math:`\eta^0 = 2\epsilon`. The first restart begins at `x`, each
    further one at a random point of the ball.

    Parameters
    ----------
    model
        Classifier from pixels in [0, 1] to logits (n, classes); normalisation lives inside it.
    x
        Pictures, shape (n, c, h, w), floating point, pixels in [0, 1].
    y
        Classes, shape (n,), integer: the true ones, or the targets if `targeted`.
    eps
        Budget in `norm`, in units of pixels.
    norm
        ``"linf"``, ``"l2"`` or ``"l1"``.
    steps
        Gradient steps per restart, >= 1.
    restarts
        How often to begin anew, >= 1; only pictures that have not reached the goal do.
    targeted
        False: leave class `y`. True: reach it.
    loss
        ``"ce"``, ``"margin"``, ``"dlr"``, or a function of (logits, y) that returns one value per
        picture.
    generator
        Source of randomness. None: a new one with seed 0, so that equal calls give equal results.
    early_stop
        Stop working on a picture once the goal is reached. False: drive its loss further.
    batch_size
        Pictures in the pool at a time; the next ones enter as others leave. None: all.

    Returns
    -------
    Tensor
        Adversarial pictures, shape, dtype and device of `x`: of all points visited, one that
        reaches the goal before one that does not, then the one with the highest loss (the lowest,
        if `targeted`).

    Raises
    ------
    PixelError, LabelError, DeviceError, ThreatError, ModelOutputError
        An argument, or what the model makes of it, cannot be used; nothing was changed.

    References
    ----------
    Croce & Hein 2020, section 3 and algorithm 1.
    """
    wanted = dlr if loss == "dlr" else resolve_loss(loss)
    sign = -1.0 if targeted else 1.0

    def goal(logits: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        own = classes[:, 0]
        return sign * wanted(logits, own), (logits.argmax(1) == own) == targeted

    restarts = check_steps("restarts", restarts)
    search = _Search.prepare(model, x, y, eps, norm, steps, generator, early_stop, batch_size)
    with undisturbed(model, search.x.device):
        for restart in range(restarts):
            search.ascend(model, goal, search.y[:, None], random_start=restart > 0)
        return search.result()


def apgd_over_classes(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float = 8 / 255,
    *,
    norm: str = "linf",
    steps: int = 50,
    classes: int = 9,
    loss: str = "dlr",
    generator: torch.Generator | None = None,
    early_stop: bool = True,
    batch_size: int | None = None,
) -> Tensor:
    r"""Auto-PGD towards each of the likeliest wrong classes in turn.

    One run for each class: towards the wrong class with the highest logit at `x`, then the next.
    Any wrong class counts as a success. It finds what the untargeted attack misses where the
    nearest class at `x` is not the one that gives way.

    Parameters
    ----------
    model, x, y, eps, norm, steps, generator, early_stop, batch_size
        As for `apgd`; `y` are the true classes.
    classes
        How many wrong classes to try, >= 1; no more than there are.
    loss
        ``"margin"``: :math:`z_t - z_y` for the target :math:`t`. ``"dlr"``: the same divided by
        :math:`z_{\pi_1} - (z_{\pi_3} + z_{\pi_4}) / 2`, which no scale of the logits changes; it
        needs four classes.

    Returns
    -------
    Tensor
        As for `apgd`.

    Raises
    ------
    PixelError, LabelError, DeviceError, ThreatError, ModelOutputError
        An argument, or what the model makes of it, cannot be used; nothing was changed.

    References
    ----------
    Croce & Hein 2020, section 4 (the targeted DLR loss).
    """
    classes = check_steps("classes", classes)
    if loss not in ("margin", "dlr"):
        raise ThreatError(f'loss is {loss!r}; "margin" or "dlr" is expected.')

    def goal(logits: Tensor, pair: Tensor) -> tuple[Tensor, Tensor]:
        two = logits.gather(1, pair)
        ahead = two[:, 1] - two[:, 0]
        success = logits.argmax(1) != pair[:, 0]
        return ahead / _spread(logits) if loss == "dlr" else ahead, success

    search = _Search.prepare(model, x, y, eps, norm, steps, generator, early_stop, batch_size)
    with undisturbed(model, search.x.device):
        order = _wrong_classes(model, search, classes)
        for target in order.unbind(1):
            search.ascend(model, goal, torch.stack([search.y, target], 1), random_start=False)
        return search.result()


_TINY = 1e-12
Goal = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From logits and the classes that matter (n, k) to the value to raise and the success, (n,)."""


def _spread(logits: Tensor) -> Tensor:
    if logits.shape[1] < 4:
        raise ThreatError(
            f'the loss "dlr" towards a class needs at least four classes, and the model has '
            f'{logits.shape[1]}. Use "margin".'
        )
    top = logits.topk(4, dim=1).values
    return (top[:, 0] - (top[:, 2] + top[:, 3]) / 2).clamp_min(_TINY)


@torch.no_grad()
def _wrong_classes(model: Model, search: "_Search", classes: int) -> Tensor:
    """The likeliest wrong classes of each picture, shape (n, at most `classes`)."""
    if len(search.x) == 0:
        return search.y.new_zeros(0, 0)
    rows = []
    sizes = search.batch_size
    for part, classes_of in zip(search.x.split(sizes), search.y.split(sizes), strict=True):
        rows.append(model(part.clone()))
        check_logits(rows[-1], part, classes_of)
    logits = torch.cat(rows).scatter(1, search.y[:, None], -torch.inf)
    return logits.topk(min(classes, logits.shape[1] - 1), dim=1).indices


class _Checkpoints(NamedTuple):
    """When to look whether a picture still gains; both of length ``steps + 1``."""

    due: Tensor
    since: Tensor

    @classmethod
    def of(cls, steps: int, device: torch.device) -> "_Checkpoints":
        """The paper's periods: 22 % of the steps, then 3 % less each time, but at least 6 %."""
        places, before, now = [0], 0, 22  # per cent: whole numbers do not round
        while (place := -(-now * steps // 100)) < steps:
            places.append(place)
            before, now = now, now + max(now - before - 3, 6)
        due = torch.zeros(steps + 1, dtype=torch.bool)
        since = torch.zeros(steps + 1)
        for early, late in zip(places, places[1:], strict=False):
            due[late], since[late] = late > early, late - early
        return cls(due.to(device), since.to(device))


@dataclass
class _Pool:
    """The pictures at work, one row each; rows differ in how far they are."""

    row: Tensor
    """Which picture this is."""
    t: Tensor
    """Steps taken."""
    x: Tensor
    low: Tensor
    high: Tensor
    """The smallest and largest pixel values that an l-infinity ball allows."""
    x_adv: Tensor
    last: Tensor
    """The point before `x_adv`."""
    best_x: Tensor
    best_grad: Tensor
    best_value: Tensor
    value: Tensor
    """At the point before, to see whether a step gained."""
    gains: Tensor
    """Steps that gained since the last checkpoint."""
    best_then: Tensor
    """Best value at the last checkpoint."""
    step: Tensor
    halved: Tensor
    """Whether the last checkpoint halved the step."""

    @classmethod
    def enter(cls, rows: Tensor, x: Tensor, start: Tensor, eps: float) -> "_Pool":
        low, high = threats.bounds(x, eps)
        value = torch.full((len(x),), -torch.inf, device=x.device)
        zeros = torch.zeros(len(x), dtype=torch.long, device=x.device)
        return cls(
            row=rows,
            t=zeros,
            x=x,
            low=low,
            high=high,
            x_adv=start,
            last=start,
            best_x=start.clone(),
            best_grad=torch.zeros_like(start),
            best_value=value,
            value=-value,  # nothing gains over it: the start is no step
            gains=zeros.clone(),
            best_then=value.clone(),
            step=torch.full_like(value, 2 * eps),
            halved=torch.ones_like(zeros, dtype=torch.bool),
        )

    def of(self, keep: Tensor) -> "_Pool":
        return _Pool(*(getattr(self, field.name)[keep] for field in fields(self)))

    def join(self, other: "_Pool") -> "_Pool":
        names = [field.name for field in fields(self)]
        return _Pool(*(torch.cat([getattr(self, n), getattr(other, n)]) for n in names))

    def observe(self, value: Tensor, grad: Tensor) -> None:
        """Take note of the value and gradient at `x_adv`."""
        self.gains += value > self.value
        self.value = value
        better = value > self.best_value
        wide = threats.per_picture(better, self.x)
        self.best_value = torch.where(better, value, self.best_value)
        self.best_x = torch.where(wide, self.x_adv, self.best_x)
        self.best_grad = torch.where(wide, grad, self.best_grad)

    def look_back(self, checkpoints: _Checkpoints, grad: Tensor) -> Tensor:
        """At a checkpoint halve the steps that no longer gain; return the gradients to follow."""
        due = checkpoints.due[self.t]
        if not due.any():
            return grad
        few = self.gains < MOMENTUM * checkpoints.since[self.t]  # the paper's rho is 0.75 as well
        stuck = ~self.halved & (self.best_then >= self.best_value)
        halve = due & (few | stuck)
        wide = threats.per_picture(halve, self.x)
        self.step = torch.where(halve, self.step / 2, self.step)
        self.x_adv = torch.where(wide, self.best_x, self.x_adv)
        self.last = torch.where(wide, self.best_x, self.last)
        self.halved = torch.where(due, halve, self.halved)
        self.best_then = torch.where(due, self.best_value, self.best_then)
        self.gains = self.gains.masked_fill(due, 0)
        return torch.where(wide, self.best_grad, grad)

    def move(self, grad: Tensor, eps: float, norm: str) -> None:
        """One step along `grad` with momentum, back into ball and box."""
        z = stepped(self.x_adv, grad, self.step, norm)
        z = self._confined(z, eps, norm, last=False)
        first = threats.per_picture(self.t == 0, self.x)
        weight = torch.where(first, 1.0, MOMENTUM).to(self.x.dtype)
        momentum = (1 - weight) * (self.x_adv - self.last)
        moved = torch.addcmul(momentum, weight, z - self.x_adv).add_(self.x_adv)
        self.last, self.x_adv = self.x_adv, self._confined(moved, eps, norm, last=True)
        self.t += 1

    def _confined(self, moved: Tensor, eps: float, norm: str, last: bool) -> Tensor:
        """Put back into ball and box: exactly if it is the `last` word, else up to rounding."""
        if norm == "linf":  # as exact as threats.confine, whose bounds are computed once
            return torch.clamp(moved, self.low, self.high)
        delta = moved - self.x
        if not last:
            return self.x + threats.project(delta, eps, norm, self.x)
        return threats.confine(self.x, delta, eps, norm, settle=False)


def stepped(x_adv: Tensor, grad: Tensor, size: Tensor, norm: str) -> Tensor:
    """A step in the steepest direction, as long as each picture's own size; not yet put back.

    Parameters
    ----------
    x_adv
        Where the step begins, shape (n, ...), pixels in [0, 1].
    grad
        Gradients, shape of `x_adv`.
    size
        Length of each step in `norm`, shape (n,), >= 0.
    norm
        ``"linf"``, ``"l2"`` or ``"l1"``.

    Returns
    -------
    Tensor
        Shape of `x_adv`. It may lie outside ball and box.
    """
    wide = threats.per_picture(size, x_adv).to(x_adv.dtype)
    if norm == "linf":
        return torch.addcmul(x_adv, grad.sign(), wide)
    if norm == "l2":
        return x_adv + wide * threats.steepest(grad, 1.0, norm)
    return x_adv + _steepest_l1(grad, wide.flatten(1), x_adv)


def _steepest_l1(grad: Tensor, size: Tensor, x_adv: Tensor) -> Tensor:
    """`threats.steepest` for l1 in the box, with a budget of its own for each picture."""
    order = grad.abs().flatten(1).argsort(dim=1, descending=True)
    room = torch.where(grad > 0, 1 - x_adv, x_adv).flatten(1).gather(1, order)
    left = (size - (room.cumsum(1) - room)).clamp_min(0)
    spend = torch.zeros_like(room).scatter(1, order, torch.minimum(room, left))
    return grad.sign() * spend.view_as(grad)


@dataclass
class _Search:
    """The pictures, what the attacker may do with them, and the best points so far."""

    x: Tensor
    y: Tensor
    eps: float
    norm: str
    steps: int
    generator: torch.Generator
    early_stop: bool
    batch_size: int
    x_adv: Tensor
    value: Tensor
    success: Tensor
    checked: bool = False

    @classmethod
    def prepare(
        cls,
        model: Model,
        x: Tensor,
        y: Tensor,
        eps: float,
        norm: str,
        steps: int,
        generator: torch.Generator | None,
        early_stop: bool,
        batch_size: int | None,
    ) -> "_Search":
        """Check all arguments; nothing is computed yet."""
        threats.check_norm(norm)
        eps = threats.check_eps(eps)
        steps = check_steps("steps", steps)
        width = None if batch_size is None else check_steps("batch_size", batch_size)
        x = check_pictures(x)
        y = check_labels(y, x)
        check_device(model, x)
        with torch.inference_mode(False), torch.no_grad():
            x, y = x.clone(), y.clone()
            return cls(
                x=x,
                y=y,
                eps=min(eps, threats.diameter(x, norm)),  # the box ends there
                norm=norm,
                steps=steps,
                generator=generator or torch.Generator(x.device).manual_seed(0),
                early_stop=early_stop,
                batch_size=width or max(len(x), 1),
                x_adv=x.clone(),
                value=torch.full((len(x),), -torch.inf, device=x.device),
                success=torch.zeros(len(x), dtype=torch.bool, device=x.device),
            )

    def ascend(self, model: Model, goal: Goal, classes: Tensor, *, random_start: bool) -> None:
        """One run over all pictures that are not fooled, each from its own start."""
        if self.eps == 0:
            return
        checkpoints = _Checkpoints.of(self.steps, self.x.device)
        waiting = torch.arange(len(self.x), device=self.x.device)
        waiting = waiting[~self.success] if self.early_stop else waiting
        pool = self._enter(waiting[:0], random_start)
        while len(waiting) or len(pool.row):
            if len(waiting) and len(pool.row) < self.batch_size:
                free = self.batch_size - len(pool.row)
                pool = pool.join(self._enter(waiting[:free], random_start))
                waiting = waiting[free:]
            ended = pool.t == self.steps
            value, grad, success = self._ask(model, goal, pool.x_adv, classes[pool.row], ended)
            self._offer(pool.row, pool.x_adv, value, success)
            pool.observe(value, grad)
            leave = ended | success if self.early_stop else ended
            if leave.any():
                stay = (~leave).nonzero().squeeze(1)
                pool, grad = pool.of(stay), grad[stay]
            grad = pool.look_back(checkpoints, grad)
            pool.move(grad, self.eps, self.norm)

    def _enter(self, rows: Tensor, random_start: bool) -> _Pool:
        x = self.x[rows]
        start = x
        if random_start and len(x):
            delta = threats.random_point(x, self.eps, self.norm, self.generator)
            start = threats.confine(x, delta, self.eps, self.norm, settle=False)
        return _Pool.enter(rows, x, start, self.eps)

    def _ask(
        self, model: Model, goal: Goal, x_adv: Tensor, classes: Tensor, ended: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Value, gradient and success at `x_adv`; no gradient where no step follows."""
        if ended.all():
            with torch.no_grad():
                logits = model(x_adv.clone())
                logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
                value, grad = goal(logits, classes)[0], torch.zeros_like(x_adv)
        else:
            own = classes[:, 0]
            first, self.checked = not self.checked, True
            grad, value, logits = value_and_gradient(
                model, x_adv, own, lambda logits, _: goal(logits, classes)[0], check=first
            )
        if value.isnan().any() or not all_finite(grad):
            raise ModelOutputError(_NOT_FINITE)
        return value.detach().float(), grad, goal(logits, classes)[1]

    def _offer(self, rows: Tensor, x_adv: Tensor, value: Tensor, success: Tensor) -> None:
        """Keep those of `x_adv` that are better than what is kept: success first, then value."""
        held, before = self.success[rows], self.value[rows]
        better = (success & ~held) | ((success == held) & (value > before))
        taken = rows[better]
        self.x_adv[taken], self.value[taken] = x_adv[better], value[better]
        self.success[rows] = success | held

    def result(self) -> Tensor:
        return threats.settle(self.x, self.x_adv, self.eps, self.norm)


_NOT_FINITE = (
    "the loss or its gradient is NaN or infinite; finite ones are expected. Look for a square "
    "root, logarithm or division by zero inside the model or the loss."
)
