r"""What training minimises: cross-entropy, and three losses that ask for more than it.

An objective takes the model in train mode, a batch and its labels, and returns the logits of the
batch and the loss to descend:

.. math:: \min_\theta \; \mathbb{E}_{(x, y)} \; L(\theta, x, y)

`advlib.train` takes one as its argument. Settings are bound with `functools.partial`:
``train(model, x, y, objective=partial(trades, eps=4 / 255, beta=6))``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advlib.attacks import pgd
from advlib.errors import InputError
from advlib.gradients import undisturbed

Objective = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]
"""``objective(model, x, y) -> logits, loss``: shapes (n, classes) and ()."""


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    r"""The plain objective, :math:`-\log p_y(x)`, averaged over the batch.

    Parameters
    ----------
    model : nn.Module
        Pixels to logits (n, classes), as it is to be trained.
    x : Tensor (n, c, h, w)
        Pictures.
    y : Tensor (n,)
        True classes, int64.

    Returns
    -------
    logits : Tensor (n, classes)
    loss : Tensor ()
        Both with their graph.
    """
    logits = model(x)
    return logits, F.cross_entropy(logits, y)


def label_smoothing(
    model: nn.Module, x: Tensor, y: Tensor, *, share: float = 0.1
) -> tuple[Tensor, Tensor]:
    r"""Cross-entropy to labels that are never quite sure.

    .. math:: L = -\sum_k q_k \log p_k(x), \qquad q = (1 - \alpha)\, e_y + \alpha / K

    Parameters
    ----------
    model, x, y
        As for `cross_entropy`.
    share : float
        The part :math:`\alpha` in [0, 1] of the label that all K classes share equally.

    Returns
    -------
    logits : Tensor (n, classes)
    loss : Tensor ()

    Raises
    ------
    InputError
        `share` is outside [0, 1].

    References
    ----------
    Szegedy et al. (2016), Rethinking the Inception Architecture for Computer Vision, CVPR, sec. 7.
    """
    if not 0 <= share <= 1:
        raise InputError(f"`share` is the part of the label to give away, in [0, 1]; got {share}.")
    logits = model(x)
    return logits, F.cross_entropy(logits, y, label_smoothing=share)


def gradient_penalty(
    model: nn.Module, x: Tensor, y: Tensor, *, strength: float = 1.0
) -> tuple[Tensor, Tensor]:
    r"""Cross-entropy, plus the squared length of its gradient with respect to the pixels.

    .. math:: L = \ell(f(x), y) + \lambda\, \| \nabla_x\, \ell(f(x), y) \|_2^2

    A small input gradient means that a small step changes the loss little, where the loss is
    close to linear. The penalty is itself descended, so the backward pass is run twice.

    Parameters
    ----------
    model, x, y
        As for `cross_entropy`. In train mode batch norm lets each picture's loss depend on the
        whole batch; the gradient is that of the batch's summed loss.
    strength : float
        The factor :math:`\lambda \ge 0`; pixels are in [0, 1], so that it has no unit.

    Returns
    -------
    logits : Tensor (n, classes)
    loss : Tensor ()

    Raises
    ------
    InputError
        `strength` is negative.

    References
    ----------
    Ross & Doshi-Velez (2018), Improving the Adversarial Robustness and Interpretability of Deep
    Neural Networks by Regularizing their Input Gradients, AAAI.
    """
    _check_factor("strength", strength)
    x = x.detach().requires_grad_()  # a new tensor: the caller's stays as it is
    logits = model(x)
    total = F.cross_entropy(logits, y, reduction="sum")
    (grad,) = torch.autograd.grad(total, x, create_graph=True)
    penalty = grad.flatten(1).square().sum(1).mean()
    return logits, total / len(x) + strength * penalty


def trades(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    beta: float = 6.0,
    norm: str = "linf",
    steps: int = 10,
    step_size: float | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Be right on the picture, and say the same thing all around it.

    .. math:: L = \ell(f(x), y) + \beta \max_{\|x' - x\| \le \epsilon}
              \mathrm{KL}\left(p(x) \,\|\, p(x')\right)

    The first term asks for accuracy, the second for a decision that does not change in the ball,
    whatever it is; :math:`\beta` sets the price of one in the other. The maximum is searched by
    PGD on the divergence, with the model in eval mode.

    Parameters
    ----------
    model, x, y
        As for `cross_entropy`; `x` in [0, 1].
    eps : float
        Budget in `norm`, in units of pixels.
    beta : float
        Weight of the divergence, >= 0.
    norm : str
        ``"linf"``, ``"l2"`` or ``"l1"``.
    steps : int
        Steps of PGD, >= 1.
    step_size : float, optional
        Length of a step in `norm`; None: ``2.5 * eps / steps``.
    generator : torch.Generator, optional
        For PGD's random start: at `x` itself the divergence has no slope. Training passes one
        that goes on; None starts at the same place each time.

    Returns
    -------
    logits : Tensor (n, classes)
        Of the pictures as they are.
    loss : Tensor ()

    Raises
    ------
    InputError
        `beta` is negative.
    PixelError, LabelError, DeviceError, ThreatError, ModelOutputError
        As for `advlib.pgd`.

    References
    ----------
    Zhang et al. (2019), Theoretically Principled Trade-off between Robustness and Accuracy, ICML,
    algorithm 1. There the start is Gaussian noise and the last point is kept; here the start is
    uniform, and of the points visited the best one is kept, as always in `advlib.pgd`.
    """
    _check_factor("beta", beta)
    with undisturbed(model, x.device), torch.no_grad():
        there = model(x)
    divergence = divergence_from(there)
    said = there.argmax(1)
    x_adv = pgd(
        model,
        x,
        said,
        eps,
        norm=norm,
        steps=steps,
        step_size=step_size,
        loss=divergence,
        generator=generator,
    )
    logits = model(x)
    apart = divergence_from(logits)(model(x_adv), y).mean()
    return logits, F.cross_entropy(logits, y) + beta * apart


def divergence_from(there: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    r"""A loss for attacks: how far the answer has moved away from the logits `there`.

    .. math:: \mathrm{KL}(p \,\|\, q) = \sum_k p_k \log (p_k / q_k)

    with :math:`p` the softmax of `there`, (n, classes), and :math:`q` that of the logits it is
    called with; the labels are not looked at. One value >= 0 for each picture, in nats.
    """
    p = there.softmax(1)

    def divergence(logits: Tensor, _: Tensor) -> Tensor:
        return F.kl_div(logits.log_softmax(1), p, reduction="none").sum(1)

    return divergence


def _check_factor(name: str, value: float) -> None:
    if not value >= 0:
        raise InputError(f"`{name}` weighs a term of the loss and must be 0 or more; got {value}.")
