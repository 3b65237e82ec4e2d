r"""Auto-PGD: projected gradient descent that sets its own step size, image by image.

PGD needs a step size, and the best one differs between models, budgets and images. Auto-PGD
(Croce & Hein 2020) begins with steps of twice the budget, watches each image at checkpoints, and
halves the step of an image that no longer gains, which then goes on from its best point so far.

Images are worked on in a pool (`advlib.attacks.pool`): one that is fooled, or out of steps, leaves
it, and the next one takes its place.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from advlib.attacks.best import Best
from advlib.attacks.pool import Pool, work
from advlib.contracts import Model, check_batch, check_logits, check_steps, undisturbed
from advlib.errors import ThreatError
from advlib.evaluation import predict
from advlib.gradients import Loss, check_finite, look, margin, resolve_loss
from advlib.threats import Ball, per_image

MOMENTUM = 0.75
"""Weight of the new step; the rest goes to the step before (the paper's alpha)."""


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    r"""Difference of logits ratio of each image, shape (n,).

    .. math:: -\frac{z_y - \max_{j \ne y} z_j}{z_{\pi_1} - z_{\pi_3}}

    with the logits sorted, :math:`z_{\pi_1} \ge z_{\pi_2} \ge \dots` It does not change when the
    logits are scaled or shifted, so a model cannot hide behind large ones.

    With fewer than three classes `ThreatError` is raised. See Croce & Hein 2020, "Reliable
    evaluation of adversarial robustness with an ensemble of diverse parameter-free attacks",
    section 4.
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
    r"""Auto-PGD: momentum, and a step size that halves where an image no longer gains.

    .. math:: z = \Pi\left(x^t + \eta^t d(\nabla_x \ell)\right), \qquad
              x^{t+1} = \Pi\left(x^t + \alpha (z - x^t) + (1 - \alpha)(x^t - x^{t-1})\right)

    with :math:`\alpha = 0.75` and :math:`\eta^0 = 2\epsilon`. The first restart begins at `x`, each
    further one at a random point of the ball.

    Parameters
    ----------
    model, x, y, eps, norm, targeted, generator
        As for `advlib.pgd`, and so are the result and the errors.
    steps
        Gradient steps per restart, >= 1.
    restarts
        Number of runs, >= 1; a further one works on the images that are not fooled yet.
    loss
        ``"ce"``, ``"margin"``, ``"dlr"``, or a function of (logits, y) that returns one value per
        image.
    early_stop
        Stop working on an image once the goal is reached. False: drive its loss further.
    batch_size
        Images in the pool at a time; the next ones enter as others leave. None: all.

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
    x, y = check_batch(model, x, y)
    search = _Search(x, y, eps, norm, steps, generator, early_stop, batch_size)
    with undisturbed(model, x.device):
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

    x, y = check_batch(model, x, y)
    search = _Search(x, y, eps, norm, steps, generator, early_stop, batch_size)
    with undisturbed(model, x.device):
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


def _wrong_classes(model: Model, search: "_Search", classes: int) -> Tensor:
    """The likeliest wrong classes of each image, shape (n, at most `classes`)."""
    if len(search.y) == 0:
        return search.y.new_zeros(0, 0)
    logits = predict(model, search.ball.x, batch_size=search.batch_size)
    check_logits(logits, search.ball.x, search.y)
    wrong = logits.scatter(1, search.y[:, None], -torch.inf)
    return wrong.topk(min(classes, logits.shape[1] - 1), dim=1).indices


class _Checkpoints(NamedTuple):
    """When to look whether an image still gains; both of length ``steps + 1``."""

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
class _Pool(Pool):
    """Images at work, and what Auto-PGD remembers of each."""

    t: Tensor
    """Steps taken."""
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
    def enter(cls, rows: Tensor, ball: Ball, start: Tensor) -> "_Pool":
        value = torch.full((len(rows),), -torch.inf, device=rows.device)
        zeros = torch.zeros_like(rows)
        return cls(
            row=rows,
            ball=ball,
            x_adv=start,
            t=zeros,
            last=start,
            best_x=start.clone(),
            best_grad=torch.zeros_like(start),
            best_value=value,
            value=-value,  # nothing gains over it: the start is no step
            gains=zeros.clone(),
            best_then=value.clone(),
            step=torch.full_like(value, 2 * ball.eps),
            halved=torch.ones_like(zeros, dtype=torch.bool),
        )

    def observe(self, value: Tensor, grad: Tensor) -> None:
        """Take note of the value and gradient at `x_adv`."""
        self.gains += value > self.value
        self.value = value
        better = value > self.best_value
        wide = per_image(better, grad)
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
        wide = per_image(halve, grad)
        self.step = torch.where(halve, self.step / 2, self.step)
        self.x_adv = torch.where(wide, self.best_x, self.x_adv)
        self.last = torch.where(wide, self.best_x, self.last)
        self.halved = torch.where(due, halve, self.halved)
        self.best_then = torch.where(due, self.best_value, self.best_then)
        self.gains = self.gains.masked_fill(due, 0)
        return torch.where(wide, self.best_grad, grad)

    def move(self, grad: Tensor) -> None:
        """One step along `grad` with momentum, back into ball and box."""
        z = self.ball.step(self.x_adv, grad, self.step)
        weight = per_image(torch.where(self.t == 0, 1.0, MOMENTUM).to(z.dtype), z)
        momentum = (1 - weight) * (self.x_adv - self.last)
        moved = torch.addcmul(momentum, weight, z - self.x_adv).add_(self.x_adv)
        self.last, self.x_adv = self.x_adv, _put_back(self.ball, moved)
        self.t += 1


def _put_back(ball: Ball, moved: Tensor) -> Tensor:
    if ball.limits:
        return moved.clamp_(*ball.limits)
    return ball.norm.confine(ball.x, moved - ball.x, ball.eps, settle=False)


class _Search:
    """The images, what the attacker may do with them, and the best points so far."""

    def __init__(
        self,
        x: Tensor,
        y: Tensor,
        eps: float,
        norm: str,
        steps: int,
        generator: torch.Generator | None,
        early_stop: bool,
        batch_size: int | None,
    ) -> None:
        self.steps, self.early_stop, self.checked = check_steps("steps", steps), early_stop, False
        width = None if batch_size is None else check_steps("batch_size", batch_size)
        self.batch_size = width or max(len(x), 1)
        self.generator = generator or torch.Generator(x.device).manual_seed(0)
        with torch.inference_mode(False), torch.no_grad():
            self.ball, self.y = Ball(x.clone(), eps, norm), y.clone()
            self.best = Best(self.ball.x)

    def ascend(self, model: Model, goal: Goal, classes: Tensor, *, random_start: bool) -> None:
        """One run over all images that are not fooled, each from its own start."""
        if self.ball.eps == 0:
            return
        checkpoints = _Checkpoints.of(self.steps, self.y.device)

        def enter(rows: Tensor) -> _Pool:
            ball = self.ball[rows]
            start = ball.random_point(self.generator) if random_start and len(rows) else ball.x
            return _Pool.enter(rows, ball, start)

        def advance(pool: _Pool) -> _Pool:
            ended = pool.t == self.steps
            value, grad, fooled = self._ask(model, goal, pool.x_adv, classes[pool.row], ended)
            self.best.offer(pool.row, pool.x_adv, value, fooled)
            pool.observe(value, grad)
            leave = ended | fooled if self.early_stop else ended
            if leave.any():
                stay = (~leave).nonzero().squeeze(1)
                pool, grad = pool[stay], grad[stay]
            pool.move(pool.look_back(checkpoints, grad))
            return pool

        everyone = torch.arange(len(self.y), device=self.y.device)
        waiting = self.best.remaining() if self.early_stop else everyone
        work(waiting, enter, advance, self.batch_size)

    def _ask(
        self, model: Model, goal: Goal, x_adv: Tensor, classes: Tensor, ended: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Value, gradient and success at `x_adv`; no gradient where no step follows."""

        def value(logits: Tensor, _: Tensor) -> Tensor:
            return goal(logits, classes)[0]

        first, self.checked = not self.checked, True
        seen = look(model, x_adv, classes[:, 0], value, gradient=not ended.all(), check=first)
        check_finite(seen.finite())
        return seen.loss.float(), seen.grad, goal(seen.logits, classes)[1]

    def result(self) -> Tensor:
        return self.ball.settle(self.best.x_adv)
