r"""How linear is it? The exact worst case of a linear classifier, and how far others are from one.

A linear classifier needs no attack: Hölder's inequality says what the best one would do
(`worst_margin`). Any other network looks linear from close by. `linearise` compares its linear
approximation with the network at one point, `linearity_error` at the worst point of a ball, and
`gradient_alignment` asks how soon the gradient turns.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from advlib import threats
from advlib.contracts import (
    Model,
    check_batch,
    check_eps,
    check_images,
    check_labels,
    check_steps,
    undisturbed,
)
from advlib.errors import InputError, LabelError
from advlib.exact import per_image
from advlib.gradients import Loss, look, resolve_loss


def worst_margin(
    weight: Tensor,
    bias: Tensor,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    norm: str = "linf",
    box: bool = True,
) -> Tensor:
    r"""Smallest margin of a linear classifier that any perturbation within the budget can cause.

    For logits :math:`z(x) = W x + b` it is

    .. math:: \min_{\|\delta\| \le \epsilon} \min_{j \ne y}\,(z_y - z_j)(x + \delta)
              = \min_{j \ne y} \left[(z_y - z_j)(x) - \epsilon\,\|W_y - W_j\|_*\right]

    with the dual norm :math:`\|\cdot\|_*`: for :math:`\ell_\infty` the sum of absolute values. With
    the box the dual norm is replaced by what the best perturbation attains that keeps all pixels
    in [0, 1]. Both are exact for every norm.

    Parameters
    ----------
    weight
        One row for each class, shape (classes, d) or (classes, c, h, w), floating point.
    bias
        Shape (classes,).
    x, y, eps, norm
        As for `advlib.fgsm`, with the true classes; `x` may have shape (n, d).
    box
        True: pixels stay in [0, 1]. False: the ball alone, a smaller or equal margin.

    Returns
    -------
    Tensor
        Shape (n,). Positive: no perturbation within `eps` changes the prediction. Negative: one
        does.

    Raises
    ------
    PixelError, LabelError, ThreatError, InputError
        An argument cannot be used.

    References
    ----------
    Goodfellow, Shlens & Szegedy 2015, sections 3 and 5; Kolter & Madry 2018, "Adversarial
    Robustness: Theory and Practice", chapter 2.
    """
    threats.check_norm(norm)
    eps = check_eps(eps)
    x = check_images(x)
    y = check_labels(y, x)
    weight, bias = _check_classifier(weight, bias, x, y)
    rows = x.flatten(1)
    logits = rows @ weight.T + bias
    own = logits.gather(1, y[:, None]).squeeze(1)
    margins = []
    for j in range(len(weight)):
        against = weight[j] - weight[y]  # what raises logit j over logit y
        if box:
            most = (against * threats.steepest(against, eps, norm, rows)).sum(1)
        else:
            most = eps * threats.dual_norm(against, norm)
        margins.append(torch.where(y == j, torch.inf, own - logits[:, j] - most))
    return torch.stack(margins, 1).amin(1)


def _check_classifier(weight: Tensor, bias: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Detached weight (classes, d) and bias (classes,) that fit the images and labels."""
    weight, bias = weight.detach().flatten(1), bias.detach()
    width = x[:1].numel() if len(x) else weight.shape[1]
    if weight.shape[1] != width or len(weight) < 2 or bias.shape != weight.shape[:1]:
        raise InputError(
            f"weight has shape {tuple(weight.shape)} and bias {tuple(bias.shape)}; one row of "
            f"{width} weights and one bias are expected for each of two or more classes."
        )
    if weight.dtype != x.dtype or weight.device != x.device:
        raise InputError(
            f"weight is {weight.dtype} on {weight.device} and x is {x.dtype} on {x.device}; both "
            "are expected alike. Write x.to(weight)."
        )
    if len(y) and int(y.max()) >= len(weight):
        raise LabelError(
            f"y contains {int(y.max())}, but weight has rows for the classes 0 to "
            f"{len(weight) - 1} only."
        )
    return weight, bias


class Linearisation(NamedTuple):
    """How much the loss of each image changes, by linear approximation and in the network."""

    predicted: Tensor
    """Change of the loss to first order, the inner product of gradient and perturbation, (n,)."""
    actual: Tensor
    """Change of the loss that the network shows, shape (n,)."""


def linearise(
    model: Model, x: Tensor, y: Tensor, x_adv: Tensor, *, loss: str | Loss = "margin"
) -> Linearisation:
    r"""Predict the loss at `x_adv` from the gradient at `x`, and compare.

    .. math:: \ell(x_{adv}) - \ell(x) \approx \langle \nabla\ell(x), x_{adv} - x\rangle

    Parameters
    ----------
    model, x, y
        As for `advlib.fgsm`, with the true classes.
    x_adv
        Where to compare, shape of `x`, pixels in [0, 1].
    loss
        As for `advlib.fgsm`. The margin is linear in the logits; the cross-entropy is curved even
        for a linear model.

    Returns
    -------
    Linearisation
        ``predicted`` (n,) and ``actual`` (n,), in units of the loss.

    Raises
    ------
    PixelError, LabelError, DeviceError, ThreatError, ModelOutputError, InputError
        An argument, or what the model makes of it, cannot be used.
    """
    loss = resolve_loss(loss)
    x, y = check_batch(model, x, y)
    x_adv = check_images(x_adv)
    if x_adv.shape != x.shape:
        raise InputError(
            f"x_adv has shape {tuple(x_adv.shape)} and x {tuple(x.shape)}; the same is expected."
        )
    if len(x) == 0:
        return Linearisation(x.new_zeros(0), x.new_zeros(0))
    with undisturbed(model, x.device):
        here = look(model, x.clone(), y, loss)
        there = look(model, x_adv.clone(), y, loss, gradient=False)
    return Linearisation(_inner(here.grad, x_adv - x), there.loss - here.loss)


def linearity_error(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    steps: int = 10,
    loss: str | Loss = "margin",
    relative: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Largest error of the linear approximation in the :math:`\ell_\infty` ball that ascent finds.

    .. math:: \gamma(\epsilon, x) = \max_{\|\delta\|_\infty \le \epsilon}
              \left|\ell(x + \delta) - \ell(x) - \langle \nabla\ell(x), \delta\rangle\right|

    over the perturbations that keep pixels in [0, 1]. The search starts at FGSM's point and at a
    random one and follows signed gradient steps; what it finds is a lower bound of the maximum.

    Parameters
    ----------
    model, x, y, eps, loss, generator
        As for `advlib.pgd` in the norm linf, with the true classes.
    steps
        Gradient steps of each of the two searches, >= 1; each is ``2.5 * eps / steps`` long.
    relative
        True: divide by the most that the linear approximation itself can rise in the ball, about
        ``eps * norm(gradient, "l1")``. 0: linear; 1: the error is as large as the effect.

    Returns
    -------
    Tensor
        Shape (n,), >= 0. At ``eps=0``, and relative to a gradient that is 0, it is 0 where the
        error is 0.

    Raises
    ------
    PixelError, LabelError, DeviceError, ThreatError, ModelOutputError
        As for `advlib.pgd`.

    References
    ----------
    Qin et al. 2019, "Adversarial Robustness through Local Linearization", section 4: the local
    linearity measure (there for the cross-entropy, and not relative).
    """
    eps = check_eps(eps)
    steps = check_steps("steps", steps)
    loss = resolve_loss(loss)
    x, y = check_batch(model, x, y)
    if len(x) == 0 or eps == 0:
        return x.new_zeros(len(x))
    ball = threats.Ball(x, eps)
    generator = generator or torch.Generator(x.device).manual_seed(0)
    with undisturbed(model, x.device):
        here = look(model, x.clone(), y, loss)
        found = torch.zeros_like(here.loss)
        for x_adv in (ball.maximiser(here.grad), ball.random_point(generator)):
            for step in range(steps + 1):
                there = look(model, x_adv, y, loss, gradient=step < steps, check=False)
                error = there.loss - here.loss - _inner(here.grad, x_adv - x)
                found = torch.maximum(found, error.abs())
                if step < steps:
                    ascent = (there.grad - here.grad) * per_image(error.sign(), x)
                    x_adv = ball.step(x_adv, ascent, 2.5 * eps / steps)
    if not relative:
        return found
    rise = _inner(here.grad, threats.steepest(here.grad, eps, "linf", x))
    return torch.where(found > 0, found / rise, 0)


def gradient_alignment(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    loss: str | Loss = "ce",
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Cosine between the input gradient at an image and at a random point close to it.

    .. math:: \cos\left(\nabla\ell(x), \nabla\ell(x + \eta)\right), \qquad
              \eta \sim U([-\epsilon, \epsilon]^d)

    where ``x + eta`` is clamped to [0, 1]. 1: the gradient keeps its direction, as that of a linear
    function does. 0: it says nothing about the gradient close by.

    Parameters
    ----------
    model, x, y, eps, loss, generator
        As for `linearity_error`.

    Returns
    -------
    Tensor
        Shape (n,), in [-1, 1]; 0 where one of the two gradients is 0.

    Raises
    ------
    PixelError, LabelError, DeviceError, ThreatError, ModelOutputError
        As for `advlib.pgd`.

    References
    ----------
    Andriushchenko & Flammarion 2020, "Understanding and Improving Fast Adversarial Training".
    """
    eps = check_eps(eps)
    loss = resolve_loss(loss)
    x, y = check_batch(model, x, y)
    if len(x) == 0:
        return x.new_zeros(0)
    generator = generator or torch.Generator(x.device).manual_seed(0)
    near = threats.Ball(x, eps).random_point(generator)
    with undisturbed(model, x.device):
        # Unit length first: the product of tiny gradients would underflow.
        here, there = (
            threats.steepest(look(model, point, y, loss).grad, 1.0, "l2")
            for point in (x.clone(), near)
        )
    return _inner(here, there).clamp(-1, 1)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Inner product of each image's rows, shape (n,)."""
    return (a * b).flatten(1).sum(1)
