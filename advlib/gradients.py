r"""The one place where an input gradient is taken.

Training asks how the loss changes with the *weights*. An attacker asks how it changes with the
*pixels*. Both come from the same backward pass; here only the pixels' half is computed, with the
model frozen and in eval mode for the while and nothing left behind.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advlib.contracts import (
    Model,
    check_device,
    check_labels,
    check_logits,
    check_pictures,
)
from advlib.errors import ModelOutputError, ThreatError

Loss = Callable[[Tensor, Tensor], Tensor]
"""From logits (n, classes) and classes (n,) to one value per picture (n,); more is worse."""


class InputGradient(NamedTuple):
    """What one backward pass tells an attacker."""

    grad: Tensor
    """Derivative of each picture's loss with respect to its pixels, shape of `x`."""
    loss: Tensor
    """Loss of each picture, shape (n,)."""
    logits: Tensor
    """Logits, shape (n, classes)."""


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    r"""Cross-entropy of each picture, :math:`-\log p_y`, shape (n,).

    Parameters
    ----------
    logits
        Shape (n, classes).
    y
        Classes, shape (n,).
    """
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    r"""How far the best other class is ahead, :math:`\max_{j \ne y} z_j - z_y`, shape (n,).

    Positive exactly when the picture is misclassified. Its gradient does not vanish on pictures
    that the model is sure of, where that of the cross-entropy does.

    Parameters
    ----------
    logits
        Shape (n, classes).
    y
        Classes, shape (n,).

    References
    ----------
    Carlini & Wagner 2017, section V-A, objective f6.
    """
    own = y[:, None]
    others = logits.scatter(1, own, -torch.inf).amax(1)
    return others - logits.gather(1, own).squeeze(1)


LOSSES: dict[str, Loss] = {"ce": cross_entropy, "margin": margin}


def resolve_loss(loss: str | Loss) -> Loss:
    """Return the loss function that `loss` names, or `loss` itself if it is a function.

    Raises
    ------
    ThreatError
        An unknown name.
    """
    if callable(loss):
        return loss
    if isinstance(loss, str) and loss in LOSSES:
        return LOSSES[loss]
    raise ThreatError(
        f'loss is {loss!r}; "ce" (cross-entropy), "margin", or a function of (logits, y) that '
        "returns one value per picture is expected."
    )


def check_values(value: Tensor, y: Tensor) -> Tensor:
    """Return what a loss returned, if it is one value for each of the classes `y`.

    Raises
    ------
    ThreatError
        Another shape.
    """
    if value.shape != y.shape:
        raise ThreatError(
            f"the loss returned shape {tuple(value.shape)}; one value per picture is expected, "
            f'shape {tuple(y.shape)}. Do not average: reduction="none".'
        )
    return value


@contextmanager
def undisturbed(model: Model, device: torch.device) -> Iterator[None]:
    """Freeze `model` in eval mode for the while, with gradients on, and leave no trace.

    Training flags of every submodule, ``requires_grad`` of every parameter, buffers, and the
    global random state of the CPU and of `device` are as they were afterwards, also after an
    error. It works inside ``torch.no_grad()`` and ``torch.inference_mode()``.

    Parameters
    ----------
    model
        A module, or any function from pictures to logits (then there is nothing to freeze).
    device
        Where the pictures live.
    """
    gpu = [device] if device.type == "cuda" else []
    chance = torch.random.fork_rng(gpu, device_type="cuda")
    frozen = _frozen(model) if isinstance(model, nn.Module) else nullcontext()
    with torch.inference_mode(False), torch.enable_grad(), chance, frozen:
        yield


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    modules, parameters, places = [], [], []
    seen, waiting = set[nn.Module](), [model]
    while waiting:  # what model.modules() does, without the names: they would take longer
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        waiting += [child for child in module._modules.values() if child is not None]
        modules.append((module, module.training))
        parameters += [p for p in module._parameters.values() if p is not None and p.requires_grad]
        if module._buffers:
            places.append((module._buffers, dict(module._buffers)))
    # Changes of those made in inference mode cannot be seen: they do not count versions.
    buffers = [
        (buffer, buffer._version, buffer.clone())
        for _, held in places
        for buffer in held.values()
        if buffer is not None and not buffer.is_inference()
    ]
    try:
        # The flag itself, not model.eval(): modules that override train() would act on it.
        for module, training in modules:
            if training:
                module.training = False
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, training in modules:
            if module.training != training:  # to set it costs more than to look
                module.training = training
        for parameter in parameters:
            parameter.requires_grad_(True)
        for place, held in places:  # a model may also put a new tensor in the place of a buffer
            place.update(held)
        with torch.no_grad():
            for buffer, version, before in buffers:
                if buffer._version != version:
                    buffer.copy_(before)


def value_and_gradient(
    model: Model, x: Tensor, y: Tensor, loss: Loss, *, check: bool = True
) -> InputGradient:
    """Loss and its gradient with respect to `x`: the inner step of every attack.

    To be called inside `undisturbed`, with arguments that were checked; everyone else calls
    `input_gradient`. ``check=False`` skips the look at the logits, which makes a GPU wait, once
    the first one was good.

    Raises
    ------
    ModelOutputError
        The logits are not usable, or no gradient reaches `x`.
    """
    x = x.detach().requires_grad_()
    logits = model(x)
    if check:
        check_logits(logits, x, y)
    # Half precision rounds away what a loss needs: small differences of logits.
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    value = loss(logits, y)
    if check:
        check_values(value, y)
    grad = None
    if value.requires_grad:
        (grad,) = torch.autograd.grad(value.sum(), x, allow_unused=True)
    if grad is None:
        raise ModelOutputError(
            "no gradient reaches x: the model does not depend on it, or leaves torch's graph on "
            "the way (no_grad, detach, numpy, argmax). Remove that step; if it belongs to the "
            "defence, attack a differentiable stand-in, or use an attack that only asks queries."
        )
    return InputGradient(grad, value.detach(), logits.detach())


def all_finite(grad: Tensor) -> Tensor:
    """Whether no value is NaN or infinite: one boolean, left on the device of `grad`."""
    if grad.numel() == 0:
        return torch.ones((), dtype=torch.bool, device=grad.device)
    low, high = torch.aminmax(grad)  # NaN, if one is there; a sum could overflow
    return (low > -torch.inf) & (high < torch.inf)


def input_gradient(model: Model, x: Tensor, y: Tensor, *, loss: str | Loss = "ce") -> InputGradient:
    r"""Gradient of each picture's loss with respect to its own pixels.

    .. math:: g = \nabla_x\, \ell(f_\theta(x), y)

    Parameters
    ----------
    model
        Classifier from pixels in [0, 1] to logits (n, classes). It is frozen and in eval mode
        for the while.
    x
        Pictures, shape (n, c, h, w), floating point, pixels in [0, 1].
    y
        Classes, shape (n,), integer.
    loss
        ``"ce"`` (cross-entropy), ``"margin"``, or a function of (logits, y) that returns one value
        per picture.

    Returns
    -------
    InputGradient
        ``grad`` (shape of `x`), ``loss`` (n,), ``logits`` (n, classes); all detached.

    Raises
    ------
    PixelError, LabelError, DeviceError, ThreatError, ModelOutputError
        An argument, or what the model makes of it, cannot be used; nothing was changed.

    Examples
    --------
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> input_gradient(model, torch.rand(2, 1, 2, 2), torch.tensor([0, 2])).grad.shape
    torch.Size([2, 1, 2, 2])
    """
    loss = resolve_loss(loss)
    x = check_pictures(x)
    y = check_labels(y, x)
    check_device(model, x)
    if len(x) == 0:
        return InputGradient(x.clone(), x.new_zeros(0), x.new_zeros(0, 0))
    with undisturbed(model, x.device):
        return value_and_gradient(model, x.clone(), y.clone(), loss)
