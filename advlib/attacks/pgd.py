"""Projected gradient descent: many small steps, each put back into ball and box."""

from collections.abc import Callable

import torch
from torch import Tensor

from advlib.attacks.best import Best
from advlib.contracts import Model, check_batch, check_step_size, check_steps, teaches_names
from advlib.errors import ThreatError
from advlib.gradients import Loss, check_finite, look, resolve_loss, undisturbed
from advlib.threats import Ball, Where

OnStep = Callable[[int, int, Tensor, Tensor], None]
"""Called as ``on_step(restart, step, x_adv, loss)`` for every point that PGD visits."""


@teaches_names
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
    on_step: OnStep | None = None,
    where: Where = None,
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
    model, x, y, eps, norm, targeted, loss, where
        As for `advlib.fgsm`.
    steps
        Gradient steps per restart, >= 1.
    step_size
        Length of a step in `norm`, in units of pixels. None: ``2.5 * eps / steps``, enough to
        cross the ball and turn round. With many steps a longer one can find more: lesson 4
        compares.
    restarts
        Number of runs, >= 1, each from a start of its own; more than one needs `random_start`.
    random_start
        True: begin at a random point of the ball. False: at `x`.
    generator
        Source of randomness. None: a new one with seed 0, so that equal calls give equal results.
    early_stop
        Stop working on an image once the goal is reached. The success is the same and the work
        is often a small part; the loss of the fooled images is not driven further.
    on_step
        Called as ``on_step(restart, step, x_adv, loss)`` for every point visited, the start
        (step 0) and the end included; with `early_stop` for the images still at work.

    Returns
    -------
    Tensor
        As for `advlib.fgsm`, and so are the errors.

    References
    ----------
    Kurakin et al. 2017 (the iteration); Madry et al. 2018, section 2 (random start, projection);
    Croce & Hein 2021 (why the box belongs to :math:`\ell_1` steps and projections).
    """
    steps, restarts = check_steps("steps", steps), check_steps("restarts", restarts)
    step_size = None if step_size is None else check_step_size(step_size)
    loss = resolve_loss(loss)
    if restarts > 1 and not random_start:
        raise ThreatError(
            f"restarts is {restarts} with random_start=False; every restart would be the same. "
            "Use random_start=True, or restarts=1."
        )
    x, y = check_batch(model, x, y)
    generator = generator or torch.Generator(x.device).manual_seed(0)
    sign = -1 if targeted else 1

    with undisturbed(model, x.device):
        ball, y = Ball(x.clone(), eps, norm, where), y.clone()
        if len(x) == 0 or ball.eps == 0:
            return ball.x
        if step_size is None:
            step_size = 2.5 * ball.eps / steps
        step_size = min(step_size, 2 * ball.norm.diameter(x))  # no step leads further
        best, finite = Best(ball.x), torch.tensor(True, device=x.device)
        for restart in range(restarts):
            x_adv = ball.random_point(generator) if random_start else ball.x
            rows = best.remaining() if early_stop else slice(None)
            x_adv, labels, here = x_adv[rows], y[rows], ball[rows]
            for step in range(steps + 1):
                if len(x_adv) == 0:
                    break
                first, last = restart == step == 0, step == steps
                seen = look(model, x_adv, labels, loss, gradient=not last, check=first)
                finite &= seen.finite()
                fooled = (seen.logits.argmax(1) == labels) == targeted
                best.offer(rows, x_adv, sign * seen.loss, fooled)
                if on_step is not None:
                    on_step(restart, step, x_adv.clone(), seen.loss)
                if last:
                    break
                ascent = sign * seen.grad
                if isinstance(rows, Tensor):  # early_stop: go on with the images not yet fooled
                    go_on = (~fooled).nonzero().squeeze(1)
                    rows, x_adv, labels = rows[go_on], x_adv[go_on], labels[go_on]
                    here, ascent = here[go_on], ascent[go_on]
                x_adv = here.step(x_adv, ascent, step_size)
        check_finite(finite)
        return ball.settle(best.x_adv)
