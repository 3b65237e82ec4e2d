r"""The one place where an input gradient is taken.

Training asks how the loss changes with the *weights*. An attacker asks how it changes with the
*pixels*. Both come from the same backward pass; here only the pixels' half is computed, with the
model temporarily frozen and in eval mode, and nothing left behind.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from advlib.contracts import Model, check_attacked, check_batch, forward, undisturbed
from advlib.errors import ModelOutputError, ThreatError

Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits (n, classes) and classes (n,) to one value per image (n,); more is worse."""


class InputGradient(NamedTuple):
    """What one backward pass tells an attacker."""

    grad: Tensor
    """Derivative of each image's loss with respect to its pixels, shape of `x`."""
    loss: Tensor
    """Loss of each image, shape (n,)."""
    logits: Tensor
    """Logits, shape (n, classes)."""

    def finite(self) -> Tensor:
        """Whether no loss is NaN and no derivative NaN or infinite: a boolean on their device."""
        if self.grad.numel() == 0:
            return ~self.loss.isnan().any()
        low, high = torch.aminmax(self.grad)  # NaN, if one is there; a sum could overflow
        return (low > -torch.inf) & (high < torch.inf) & ~self.loss.isnan().any()


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    r"""Cross-entropy of each image, :math:`-\log p_y`: (n, classes) and (n,) to shape (n,)."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    r"""How far the best other class is ahead, :math:`\max_{j \ne y} z_j - z_y`, shape (n,).

    Positive exactly when the image is misclassified. Its gradient does not vanish on images that
    the model is sure of, where that of the cross-entropy does (Carlini & Wagner 2017, section V-A,
    objective f6).
    """
    own = y[:, None]
    others = logits.scatter(1, own, -torch.inf).amax(1)
    return others - logits.gather(1, own).squeeze(1)


LOSSES: dict[str, Loss] = {"ce": cross_entropy, "margin": margin}


def resolve_loss(loss: str | Loss) -> Loss:
    """Return the loss that `loss` names, or `loss` itself if it is a function."""
    if callable(loss):
        return loss
    if isinstance(loss, str) and loss in LOSSES:
        return LOSSES[loss]
    raise ThreatError(
        f'loss is {loss!r}; "ce" (cross-entropy), "margin", or a function of (logits, y) that '
        "returns one value per image is expected."
    )


def input_gradient(model: Model, x: Tensor, y: Tensor, *, loss: str | Loss = "ce") -> InputGradient:
    r"""Gradient of each image's loss with respect to its own pixels.

    .. math:: g = \nabla_x\, \ell(f_\theta(x), y)

    Parameters
    ----------
    model, x, y, loss
        As for `advlib.fgsm`, and so are the errors.

    Returns
    -------
    InputGradient
        ``grad`` (shape of `x`), ``loss`` (n,), ``logits`` (n, classes); all detached.

    Examples
    --------
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> input_gradient(model, torch.rand(2, 1, 2, 2), torch.tensor([0, 2])).grad.shape
    torch.Size([2, 1, 2, 2])
    """
    loss = resolve_loss(loss)
    x, y = check_batch(model, x, y)
    if len(x) == 0:
        return InputGradient(x.clone(), x.new_zeros(0), x.new_zeros(0, 0))
    with undisturbed(model, x.device):
        return look(model, x.clone(), y.clone(), loss)


def look(
    model: Model, x: Tensor, y: Tensor, loss: Loss, *, gradient: bool = True, check: bool = True
) -> InputGradient:
    """Logits, loss and the gradient of the loss with respect to `x`: the inner step of attacks.

    For checked arguments inside `undisturbed`; elsewhere use `input_gradient`. Without `gradient`
    it is 0. ``check=False`` spares a GPU the wait for a look at the logits, once one was good.
    """
    x = x.detach().requires_grad_(gradient)
    with torch.set_grad_enabled(gradient):
        logits = forward(model, x)
        if check:
            check_attacked(logits, x, y)
        # Half precision rounds away what a loss needs: small differences of logits.
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        value = loss(logits, y)
    if check:
        check_values(value, y)
    grad = None if gradient else x.new_zeros(()).expand_as(x)
    if value.requires_grad:
        (grad,) = torch.autograd.grad(value.sum(), x, allow_unused=True)
    if grad is None:
        raise ModelOutputError(
            "no gradient reaches x: the model does not depend on it, or leaves torch's graph on "
            "the path (no_grad, detach, numpy, argmax). Remove that step; if it belongs to the "
            "defence, attack a differentiable stand-in, or use an attack that only asks queries."
        )
    return InputGradient(grad, value.detach(), logits.detach())


def check_values(value: Tensor, y: Tensor) -> Tensor:
    """Return what a loss returned, if it is one value for each of the classes `y`."""
    if value.shape != y.shape:
        raise ThreatError(
            f"the loss returned shape {tuple(value.shape)}; one value per image is expected, "
            f'shape {tuple(y.shape)}. Do not average: reduction="none".'
        )
    return value


def check_finite(finite: Tensor) -> None:
    """Raise `ModelOutputError` unless what `InputGradient.finite` said was true."""
    if not finite:
        raise ModelOutputError(
            "the loss or its gradient is NaN or infinite; finite ones are expected. Look for a "
            "square root, logarithm or division by zero inside the model or the loss."
        )
