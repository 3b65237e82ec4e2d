r"""What training can minimise beside the cross-entropy: objectives that ask for more.

An objective takes the model in train mode, a batch and its labels, and returns the logits of the
batch, (n, classes), and the loss :math:`L` to descend, (), both with their graph:

.. math:: \min_\theta \; \mathbb{E}_{(x, y)} \; L(\theta, x, y)

`advlib.train` takes one as its argument. Settings are bound with `functools.partial`:
``train(model, x, y, objective=partial(trades, eps=4 / 255, beta=6))``. A setting out of its range
is an `InputError`.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advlib.attacks import pgd
from advlib.contracts import undisturbed
from advlib.errors import InputError


def gradient_penalty(
    model: nn.Module, x: Tensor, y: Tensor, *, strength: float = 1.0
) -> tuple[Tensor, Tensor]:
    r"""Cross-entropy plus the squared length of its input gradient.

    .. math:: L = \ell(f(x), y) + \lambda\, \| \nabla_x\, \ell(f(x), y) \|_2^2

    Where the loss is close to linear, a small gradient means that a small step changes it little.
    The penalty is itself descended, so the backward pass runs twice.

    Parameters
    ----------
    model
        Pixels to logits (n, classes), in train mode.
    x, y
        Images, shape (n, c, h, w), and true classes, shape (n,), int64. In train mode batch norm
        lets each image's loss depend on the whole batch; the gradient is that of the summed loss.
    strength
        The factor :math:`\lambda \ge 0`; pixels are in [0, 1], so it has no unit.

    References
    ----------
    Ross & Doshi-Velez 2018, "Improving the Adversarial Robustness and Interpretability of Deep
    Neural Networks by Regularizing their Input Gradients".
    """
    _check_weight("strength", strength)
    x = x.detach().requires_grad_()  # a new tensor: the caller's is not changed
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
    r"""TRADES: cross-entropy on the image, plus the largest divergence in the ball around it.

    .. math:: L = \ell(f(x), y) + \beta \max_{\|x' - x\| \le \epsilon}
              \mathrm{KL}\left(p(x) \,\|\, p(x')\right)

    The first term asks for accuracy, the second for predictions that do not change in the ball,
    right or wrong; :math:`\beta` sets the trade-off. PGD searches the maximum, with the model in
    eval mode.

    Parameters
    ----------
    model, x, y
        As for `gradient_penalty`; `x` in [0, 1].
    beta
        Weight of the divergence, >= 0.
    eps, norm, steps, step_size
        As for `advlib.pgd`.
    generator
        Of PGD's random start: at `x` itself the divergence has no slope. Training passes one
        generator to all calls; None draws the same start in every call.

    Raises
    ------
    InputError, PixelError, LabelError, DeviceError, ThreatError, ModelOutputError
        As for `advlib.pgd`; a negative `beta`.

    References
    ----------
    Zhang et al. 2019, "Theoretically Principled Trade-off between Robustness and Accuracy",
    algorithm 1. There the start is Gaussian noise and the last point is kept; here the start is
    uniform, and the best point of the path is kept, as always in `advlib.pgd`.
    """
    _check_weight("beta", beta)
    with undisturbed(model, x.device), torch.no_grad():
        clean = model(x)
    x_adv = pgd(
        model,
        x,
        clean.argmax(1),
        eps,
        norm=norm,
        steps=steps,
        step_size=step_size,
        loss=divergence_from(clean),
        generator=generator,
    )
    logits = model(x)
    divergence = divergence_from(logits)(model(x_adv), y).mean()
    return logits, F.cross_entropy(logits, y) + beta * divergence


def divergence_from(clean: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    r"""A loss for attacks: how far the prediction has moved from the logits `clean`.

    .. math:: \mathrm{KL}(p \,\|\, q) = \sum_k p_k \log (p_k / q_k)

    with :math:`p` the softmax of `clean`, (n, classes), and :math:`q` that of the logits it is
    called with; it ignores the labels. One value >= 0 for each image, in nats.
    """
    p = clean.softmax(1)

    def divergence(logits: Tensor, _: Tensor) -> Tensor:
        return F.kl_div(logits.log_softmax(1), p, reduction="none").sum(1)

    return divergence


def denoising(
    model: nn.Module, x: Tensor, _: Tensor, *, sigma: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mean squared error of images from which `model` has removed Gaussian noise.

    The noise of each image has a standard deviation drawn between 0 and `sigma`. There are no
    logits: the pixels returned in their place make `train`'s accuracy meaningless.
    """
    level = sigma * torch.rand(len(x), 1, 1, 1, generator=generator)
    noisy = x + level * torch.randn(x.shape, generator=generator)
    cleaned = model(noisy.clamp(0, 1))
    return cleaned.flatten(1), F.mse_loss(cleaned, x)


def _check_weight(name: str, value: float) -> None:
    if not value >= 0:
        raise InputError(f"`{name}` weighs a term of the loss and must be 0 or more; got {value}.")
