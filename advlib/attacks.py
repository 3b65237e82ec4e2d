r"""Adversarial examples: random noise to compare with, one step (FGSM), many steps (PGD).

All of them return a new tensor `x_adv` with the shape, dtype and device of `x`, with
``norm(x_adv - x) <= eps`` exactly as computed in that dtype, and pixels in [0, 1]. They compute
where the tensors live and leave nothing behind: the caller's tensors, the model's mode, buffers
and gradients, and the global random state are as before, also after an error.
"""

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
    check_pictures,
    check_step_size,
    check_steps,
)
from advlib.errors import ModelOutputError, ThreatError
from advlib.gradients import Loss, all_finite, resolve_loss, undisturbed, value_and_gradient

OnStep = Callable[[int, int, Tensor, Tensor], None]
"""Called as ``on_step(restart, step, x_adv, loss)`` for every point that PGD visits."""


def noise(
    x: Tensor,
    eps: float = 8 / 255,
    *,
    norm: str = "linf",
    distribution: str = "uniform",
    generator: torch.Generator | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Random perturbation of the same size as an attack, which knows nothing of the model.

    Parameters
    ----------
    x
        Pictures, shape (n, c, h, w), floating point, pixels in [0, 1].
    eps
        Size of the perturbation in `norm`, in units of pixels.
    norm
        ``"linf"``, ``"l2"`` or ``"l1"``.
    distribution
        ``"uniform"``: drawn uniformly from the ball. ``"sign"``: from its corners, the largest
        noise there is; every pixel value moves by exactly `eps` up or down (``"linf"`` only).
    generator
        Source of randomness. None: a new one with seed 0, so that equal calls give equal noise.
    mask
        Which pixel values may change: None for all, or a tensor of booleans (or of 0 and 1) that
        broadcasts to `x`, for instance (n, 1, h, w). Elsewhere the result equals `x` exactly.

    Returns
    -------
    Tensor
        Noisy pictures, shape, dtype and device of `x`.

    Raises
    ------
    PixelError, DeviceError, ThreatError
        An argument cannot be used.
    """
    threats.check_norm(norm)
    eps = threats.check_eps(eps)
    if distribution not in ("uniform", "sign") or (distribution == "sign" and norm != "linf"):
        raise ThreatError(
            f'distribution is {distribution!r} with norm={norm!r}; "uniform", or "sign" with '
            'norm="linf", is expected.'
        )
    x = check_pictures(x)
    mask = threats.check_mask(mask, x)
    if len(x) == 0:
        return x.clone()
    eps = min(eps, threats.diameter(x, norm))  # the box ends there
    delta = threats.random_point(x, eps, norm, generator, mask=mask)
    if distribution == "sign":
        delta = threats.keep(torch.where(delta < 0, -eps, eps).to(x.dtype), mask)
    return threats.confine(x, delta, eps, norm)


def fgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float = 8 / 255,
    *,
    norm: str = "linf",
    targeted: bool = False,
    loss: str | Loss = "ce",
    mask: Tensor | None = None,
) -> Tensor:
    r"""Fast gradient sign method: the best single step for the linearised loss.

    .. math:: x_{adv} = x + \arg\max_{\|\delta\|\le\epsilon} \langle\nabla_x \ell(f(x), y),
              \delta\rangle

    over the perturbations that keep pixels in [0, 1]; for :math:`\ell_\infty` that is
    ``(x + eps * grad.sign()).clamp(0, 1)``.

    Parameters
    ----------
    model
        Classifier from pixels in [0, 1] to logits (n, classes); normalisation lives inside it.
    x
        Pictures, shape (n, c, h, w), floating point, pixels in [0, 1].
    y
        Classes, shape (n,), integer: the true ones, or the targets if `targeted`.
    eps
        Budget in `norm`, in units of pixels: four grey levels of 255 are ``4 / 255``.
    norm
        ``"linf"``, ``"l2"`` or ``"l1"``.
    targeted
        False: raise the loss of class `y`. True: lower it.
    loss
        ``"ce"``, ``"margin"``, or a function of (logits, y) that returns one value per picture.
    mask
        Which pixel values may change: None for all, or a tensor of booleans (or of 0 and 1) that
        broadcasts to `x`, for instance (n, 1, h, w). Elsewhere the result equals `x` exactly.

    Returns
    -------
    Tensor
        Adversarial pictures, shape, dtype and device of `x`.

    Raises
    ------
    PixelError, LabelError, DeviceError, ThreatError, ModelOutputError
        An argument, or what the model makes of it, cannot be used; nothing was changed.

    References
    ----------
    Goodfellow, Shlens & Szegedy 2015, "Explaining and Harnessing Adversarial Examples", section 4.
    """
    threats.check_norm(norm)
    eps = threats.check_eps(eps)
    loss = resolve_loss(loss)
    x = check_pictures(x)
    y = check_labels(y, x)
    check_device(model, x)
    mask = threats.check_mask(mask, x)
    if len(x) == 0:
        return x.clone()
    eps = min(eps, threats.diameter(x, norm))  # the box ends there
    with undisturbed(model, x.device):
        x, y = x.clone(), y.clone()
        grad = value_and_gradient(model, x, y, loss).grad
        if not all_finite(grad):
            raise ModelOutputError(_NOT_FINITE)
        ascent = -grad if targeted else grad
        if norm == "linf":  # a step of PGD across the ball: the box may cut it off afterwards
            return _Ball.around(x, eps, norm, eps, mask).step(x, ascent)
        delta = threats.steepest(ascent, eps, norm, x, mask=mask)
        return threats.confine(x, delta, eps, norm)


def pgd(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float = 8 / 255,
    *,
    norm: str = "linf",
    steps: int = 20,
    step_size: float | None = None,
    restarts: int = 1,
    random_start: bool = True,
    targeted: bool = False,
    loss: str | Loss = "ce",
    generator: torch.Generator | None = None,
    early_stop: bool = False,
    keep_best: bool = True,
    on_step: OnStep | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    r"""Projected gradient descent: many small steps, each put back into ball and box.

    .. math:: x^{t+1} = \Pi\left(x^t + \alpha\, d(\nabla_x \ell(f(x^t), y))\right)

    with the direction :math:`d` that is steepest for the norm: the sign for :math:`\ell_\infty`,
    the normalised gradient for :math:`\ell_2`, and for :math:`\ell_1` the pixel values with the
    largest derivatives, each moved as far as it has room until the step is used up.

    Of all points visited, over all restarts, the best one is returned: one that reaches the goal
    (another class than `y`, or `y` itself if `targeted`) before one that does not, then the one
    with the highest loss (the lowest, if `targeted`). That takes one forward pass for each restart
    beside the `steps` gradients, to measure its last point.

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
    step_size
        Length of a step in `norm`, in units of pixels. None: ``2.5 * eps / steps``, enough to
        cross the ball and turn round. With many steps a longer one can find more: lesson 4
        compares.
    restarts
        How often to begin anew, >= 1; more than one needs `random_start`.
    random_start
        True: begin at a random point of the ball. False: at `x`.
    targeted
        False: leave class `y`. True: reach it.
    loss
        ``"ce"``, ``"margin"``, or a function of (logits, y) that returns one value per picture.
    generator
        Source of randomness. None: a new one with seed 0, so that equal calls give equal results.
    early_stop
        Stop working on a picture once the goal is reached. The success is the same and the work
        is often a small part; the loss of the fooled pictures is not driven further.
    keep_best
        False: return the last point, not measured, as published PGD does: `steps` gradients and
        nothing else, for training. It can be worse than a point before it. Only with one restart.
    on_step
        Called as ``on_step(restart, step, x_adv, loss)`` for every point visited, the start
        (step 0) and the end included; with `early_stop` for the pictures still at work.
    mask
        Which pixel values may change: None for all, or a tensor of booleans (or of 0 and 1) that
        broadcasts to `x`, for instance (n, 1, h, w). Elsewhere the result equals `x` exactly.
        Random starts and steps are those of the smaller ball: uniform, and steepest, among the
        perturbations that leave the other pixel values alone.

    Returns
    -------
    Tensor
        Adversarial pictures, shape, dtype and device of `x`.

    Raises
    ------
    PixelError, LabelError, DeviceError, ThreatError, ModelOutputError
        An argument, or what the model makes of it, cannot be used; nothing was changed.

    References
    ----------
    Kurakin et al. 2017 (the iteration); Madry et al. 2018, section 2 (random start, projection);
    Croce & Hein 2021 (why the box belongs to :math:`\ell_1` steps and projections).
    """
    threats.check_norm(norm)
    eps = threats.check_eps(eps)
    steps, restarts = check_steps("steps", steps), check_steps("restarts", restarts)
    step_size = None if step_size is None else check_step_size(step_size)
    if restarts > 1 and not random_start:
        raise ThreatError(
            f"restarts is {restarts} with random_start=False; every restart would be the same. "
            "Use random_start=True, or restarts=1."
        )
    if restarts > 1 and not keep_best:
        raise ThreatError(
            f"restarts is {restarts} with keep_best=False; only the last restart would count. "
            "Use keep_best=True, or restarts=1."
        )
    goal = _Goal(resolve_loss(loss), targeted)
    x = check_pictures(x)
    y = check_labels(y, x)
    check_device(model, x)
    mask = threats.check_mask(mask, x)
    across = threats.diameter(x, norm)  # the box ends there
    eps = min(eps, across)
    if len(x) == 0 or eps == 0:
        return x.clone()
    step_size = 2.5 * eps / steps if step_size is None else min(step_size, 2 * across)
    generator = generator or torch.Generator(x.device).manual_seed(0)
    with undisturbed(model, x.device):
        y = y.clone()
        ball = _Ball.around(x.clone(), eps, norm, step_size, mask)
        best = _Best.none(ball.x, keep_best)
        for restart in range(restarts):
            start = ball.random_point(generator) if random_start else ball.x
            visit = _Visit(best, goal, restart, on_step)
            _climb(model, y, start, ball, visit, steps, early_stop)
        return best.result(ball)


_NOT_FINITE = (
    "the loss or its gradient is NaN or infinite; finite ones are expected. Look for a square "
    "root, logarithm or division by zero inside the model or the loss."
)


class _Goal(NamedTuple):
    """What the attacker wants of the logits."""

    loss: Loss
    targeted: bool

    def ascent(self, value: Tensor) -> Tensor:
        """Turn a loss, or its gradient, so that the attacker wants more of it."""
        return -value if self.targeted else value

    def reached(self, logits: Tensor, y: Tensor) -> Tensor:
        return (logits.argmax(1) == y) == self.targeted


@dataclass(frozen=True)
class _Ball:
    """Where PGD may go, and how far at a time."""

    x: Tensor
    low: Tensor
    high: Tensor
    eps: float
    norm: str
    step_size: float
    mask: Tensor | None

    @classmethod
    def around(
        cls, x: Tensor, eps: float, norm: str, step_size: float, mask: Tensor | None
    ) -> "_Ball":
        return cls(x, *threats.bounds(x, eps), eps, norm, step_size, mask)

    def of(self, rows: Tensor) -> "_Ball":
        """The balls around some of the pictures."""
        mask = None if self.mask is None else self.mask[rows]
        return replace(self, x=self.x[rows], low=self.low[rows], high=self.high[rows], mask=mask)

    def random_point(self, generator: torch.Generator) -> Tensor:
        delta = threats.random_point(self.x, self.eps, self.norm, generator, mask=self.mask)
        return threats.confine(self.x, delta, self.eps, self.norm, settle=False)

    def step(self, x_adv: Tensor, ascent: Tensor) -> Tensor:
        """One step from `x_adv` along `ascent`, and back into ball and box.

        Where the mask is false the ascent is 0, and what is 0 stays 0 in every step and projection.
        """
        ascent = threats.keep(ascent, self.mask)
        if self.norm == "linf":
            # As exact as threats.confine, whose bounds were computed once for all steps.
            moved = ascent.sign()
            # In its own place: new memory, asked for at every step, would cost more than the sum.
            place = moved if moved.stride() == x_adv.stride() else None
            moved = torch.add(x_adv, moved, alpha=self.step_size, out=place)
            return moved.clamp_(self.low, self.high)
        # In l1 the box belongs to the step: a pixel takes what it has room for, the next the rest.
        room = x_adv if self.norm == "l1" else None
        moved = (x_adv - self.x) + threats.steepest(ascent, self.step_size, self.norm, room)
        return threats.confine(self.x, moved, self.eps, self.norm, settle=False)


@dataclass
class _Best:
    """The best point visited so far, for each picture; or the newest, if not `compare`."""

    x_adv: Tensor
    score: Tensor
    success: Tensor
    finite: Tensor
    compare: bool

    @classmethod
    def none(cls, x: Tensor, compare: bool) -> "_Best":
        dtype = torch.promote_types(x.dtype, torch.float32)
        score = torch.full((len(x),), -torch.inf, device=x.device, dtype=dtype)
        success = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        finite = torch.ones((), dtype=torch.bool, device=x.device)
        return cls(x.clone(), score, success, finite, compare)

    def offer(self, rows: Tensor | None, x_adv: Tensor, score: Tensor, success: Tensor) -> None:
        """Take those of `x_adv`, points of the pictures `rows` (None: all), that are better."""
        at = slice(None) if rows is None else rows
        before, held = self.score[at], self.success[at]
        better = (success & ~held) | ((success == held) & (score > before))
        self.score[at] = torch.where(better, score.to(before.dtype), before)
        self.success[at] = success | held
        self.take(rows, x_adv, better if self.compare else None)

    def take(self, rows: Tensor | None, x_adv: Tensor, better: Tensor | None = None) -> None:
        """Take `x_adv` where `better` (None: everywhere), in place of what was held."""
        # Usually all points are better, and then nothing is copied: no step changes its point in
        # place. On a GPU to ask would be to wait.
        if better is not None and not (better.device.type == "cpu" and bool(better.all())):
            held = self.x_adv if rows is None else self.x_adv[rows]
            x_adv = torch.where(threats.per_picture(better, x_adv), x_adv, held)
        if rows is None:
            self.x_adv = x_adv
        else:
            self.x_adv[rows] = x_adv

    def result(self, ball: _Ball) -> Tensor:
        if not self.finite:
            raise ModelOutputError(_NOT_FINITE)
        if ball.norm == "linf":  # every step ended inside
            return self.x_adv
        return threats.settle(ball.x, self.x_adv, ball.eps, ball.norm)


class _Visit(NamedTuple):
    """What happens at every point of one restart."""

    best: _Best
    goal: _Goal
    restart: int
    on_step: OnStep | None

    @property
    def only_last(self) -> bool:
        """Whether nobody asks how good the points are."""
        return not self.best.compare and self.on_step is None

    def on_the_way(
        self, model: Model, x_adv: Tensor, y: Tensor, rows: Tensor | None, step: int
    ) -> tuple[Tensor, Tensor]:
        """Measure `x_adv`, keep what is better; return the direction of ascent and the success."""
        first = self.restart == 0 and step == 0
        grad, value, logits = value_and_gradient(model, x_adv, y, self.goal.loss, check=first)
        self.best.finite &= all_finite(grad)
        if self.only_last and rows is None:
            return self.goal.ascent(grad), self.best.success
        return self.goal.ascent(grad), self._note(x_adv, y, rows, step, value, logits)

    def at_the_end(
        self, model: Model, x_adv: Tensor, y: Tensor, rows: Tensor | None, step: int
    ) -> None:
        """The same without a gradient, because nothing follows."""
        if self.only_last:
            self.best.take(rows, x_adv)
            return
        with torch.no_grad():
            logits = model(x_adv)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            self._note(x_adv, y, rows, step, self.goal.loss(logits, y), logits)

    def _note(
        self,
        x_adv: Tensor,
        y: Tensor,
        rows: Tensor | None,
        step: int,
        value: Tensor,
        logits: Tensor,
    ) -> Tensor:
        self.best.finite &= ~value.isnan().any()
        reached = self.goal.reached(logits, y)
        self.best.offer(rows, x_adv, self.goal.ascent(value), reached)
        if self.on_step is not None:
            self.on_step(self.restart, step, x_adv.clone(), value)
        return reached


def _climb(
    model: Model,
    y: Tensor,
    x_adv: Tensor,
    ball: _Ball,
    visit: _Visit,
    steps: int,
    early_stop: bool,
) -> None:
    """One restart of PGD from `x_adv`; what it finds is kept by `visit.best`."""
    rows = None  # all pictures
    if early_stop:
        rows = (~visit.best.success).nonzero().squeeze(1)
        x_adv, y, ball = x_adv[rows], y[rows], ball.of(rows)
    for step in range(steps):
        if len(x_adv) == 0:
            return
        ascent, reached = visit.on_the_way(model, x_adv, y, rows, step)
        if rows is not None:
            keep = (~reached).nonzero().squeeze(1)
            rows, x_adv, y, ball = rows[keep], x_adv[keep], y[keep], ball.of(keep)
            ascent = ascent[keep]
        x_adv = ball.step(x_adv, ascent)
    if len(x_adv) > 0:
        visit.at_the_end(model, x_adv, y, rows, steps)
