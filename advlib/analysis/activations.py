r"""What happens between the pixels and the logits: record, replace and compare activations.

Layers are named as in ``model.named_modules()``. The name of a layer stands for its *output*;
``"head.input"`` stands for the *input* of the layer ``head``. Activations are copies. No hook
stays behind, even after an error, and the model, its mode and its gradients are as before.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from advlib.contracts import check_device, check_images, check_logits, check_steps, undisturbed
from advlib.errors import InputError, ModelOutputError

INPUT = ".input"
"""Ending of a name that stands for the input of a layer instead of its output."""


def record(
    model: nn.Module, x: Tensor, layers: Iterable[str], *, batch_size: int = 256
) -> dict[str, Tensor]:
    """Activations of the named layers.

    Parameters
    ----------
    model, x, batch_size
        As for `advlib.evaluation.predict`; `model` is a module, and `x` holds at least one image.
    layers
        Names from ``model.named_modules()``, with ``".input"`` at the end for the input of a
        layer: ``["blocks.3", "head.input", "head"]``.

    Returns
    -------
    dict
        The activations of each name, shape (n, channels, ...), copied and without gradient:
        nothing that the network does later in place can change them.

    Raises
    ------
    PixelError, DeviceError, ThreatError, ModelOutputError
        As for `advlib.evaluation.predict`.
    InputError
        No image, or a layer that does not exist, is not used exactly once, or holds no tensor.

    Examples
    --------
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> {k: tuple(v.shape) for k, v in record(model, torch.rand(5, 1, 2, 2), ["1", "3"]).items()}
    {'1': (5, 3), '3': (5, 2)}
    """
    batches: dict[str, list[Tensor]] = {name: [] for name in layers}

    def keep(name: str, _rows: slice, activation: Tensor) -> None:
        # A copy: an in-place ReLU after the layer would overwrite the tensor itself.
        batches[name].append(activation.detach().clone())

    _forward(model, x, batches, keep, batch_size)
    return {name: torch.cat(parts) for name, parts in batches.items()}


def replace(
    model: nn.Module, x: Tensor, layer: str, value: Tensor, *, batch_size: int = 256
) -> Tensor:
    r"""Logits of the network when the activations of one layer are replaced by others.

    The layer computes as usual, and `value` goes on in place of its result: an intervention, also
    called *activation patching*. The difference in activations causes whatever changes in the
    logits.

    Parameters
    ----------
    model, x, batch_size
        As for `record`.
    layer
        A name as for `record`.
    value
        The new activations, of the shape that `record` returns for `layer`.

    Returns
    -------
    Tensor
        Logits, shape (n, classes), without gradient.

    Raises
    ------
    PixelError, DeviceError, ThreatError, ModelOutputError, InputError
        As for `record`; also if `value` differs from the layer's own in shape, dtype or device.

    References
    ----------
    Vig et al. 2020, "Investigating gender bias in language models using causal mediation
    analysis", NeurIPS (interventions on single neurons).
    """
    if len(value) != len(check_images(x)):
        raise InputError(
            f"x holds {len(x)} images and value {len(value)} activations; one for each is expected."
        )

    def put(_name: str, rows: slice, own: Tensor) -> Tensor:
        new = value[rows].detach().clone()
        given, wanted = ((tuple(t.shape), t.dtype, t.device) for t in (new, own))
        if given != wanted:
            raise InputError(
                f"value for {layer!r} is {given}; {wanted} is expected, as the layer computes it."
            )
        return new

    return _forward(model, x, [layer], put, batch_size)


def relative_change(clean: Tensor, changed: Tensor) -> Tensor:
    r"""Size of the change relative to the size of the activations, shape (n,).

    .. math:: \frac{\|h(x + \delta) - h(x)\|_2}{\|h(x)\|_2}

    `clean` and `changed` hold the activations (or images) before and after, both of shape (n, ...);
    other shapes raise `InputError`. The ratio is infinite where `clean` is zero and `changed` is
    not, and NaN where both are.
    """
    _check_pair(clean, changed)
    return (changed - clean).flatten(1).norm(dim=1) / clean.flatten(1).norm(dim=1)


def largest(score: Tensor, k: int) -> Tensor:
    """Mark the `k` channels of each image with the largest `score`, shape (n, channels).

    The result is boolean, with exactly `k` times True in each row. For the size of a change pass
    its absolute value as `score`. Another shape, or a `k` out of range, raises `InputError`.
    """
    if score.ndim != 2 or not 0 <= k <= score.shape[1]:
        raise InputError(
            f"score has shape {tuple(score.shape)} and k is {k}; (n, channels) and a k from 0 to "
            "the number of channels are expected."
        )
    chosen = torch.zeros_like(score, dtype=torch.bool)
    return chosen.scatter(1, score.topk(k, dim=1).indices, True)


def along(change: Tensor, direction: Tensor) -> Tensor:
    r"""The part of a change of activations that lies along one direction of the channels.

    .. math:: \langle \Delta, u \rangle\, u \qquad u = v / \|v\|_2

    Parameters
    ----------
    change
        Shape (n, channels, ...).
    direction
        The direction :math:`v` of each image, shape (n, channels), of any length above zero. At
        every place of the maps it is the same.

    Returns
    -------
    Tensor
        The part, of the shape of `change`: a single number at each place, times the direction.

    Raises
    ------
    InputError
        Other shapes, or a direction of length zero.
    """
    size = direction.norm(dim=-1, keepdim=True)
    if change.ndim < 2 or direction.shape != change.shape[:2] or not (size > 0).all():
        raise InputError(
            f"change has shape {tuple(change.shape)} and direction {tuple(direction.shape)}; (n, "
            "channels, ...) and (n, channels) are expected, each direction longer than zero."
        )
    u = (direction / size).view(*direction.shape, *[1] * (change.ndim - 2))
    return (change * u).sum(1, keepdim=True) * u


def convolution_bound(weight: Tensor, size: int, stride: int = 1) -> float:
    r"""An upper bound on the operator norm of a convolution with zero padding.

    On a torus, so large that nothing wraps round, the convolution computes the same numbers and
    some more, so its norm is at least as large. There the Fourier transform splits it into one
    matrix for each frequency. The largest norm of these is computed in float64.

    Parameters
    ----------
    weight
        Shape (channels out, channels in, k, k).
    size
        Side of the square maps that go in. The padding is at most k - 1 on each side.
    stride
        Every `stride`-th result is kept, in both directions.

    References
    ----------
    Sedghi, Gupta, Long (2019), The singular values of convolutional layers, ICLR (circular
    convolutions).
    """
    side = stride * math.ceil((size + weight.shape[-1] - 1) / stride)
    spectrum = torch.fft.fft2(weight.detach().double(), s=(side, side))
    # Frequencies that a stride makes equal act on the same result: one matrix holds them all.
    rows, columns = spectrum.shape[:2]
    folded = spectrum.view(rows, columns, stride, side // stride, stride, side // stride)
    matrices = folded.permute(3, 5, 0, 1, 2, 4).flatten(3) / stride
    return float(torch.linalg.matrix_norm(matrices, ord=2).max())


def operator_norm(
    affine: Callable[[Tensor], Tensor],
    shape: Sequence[int],
    *,
    steps: int = 100,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> float:
    r"""Largest factor by which an affine map stretches the difference of two inputs.

    .. math:: \|A\| = \max_{v \ne 0} \frac{\|A v\|_2}{\|v\|_2} \qquad f(v) = A v + b

    It is found by power iteration on :math:`A^T A`, which needs no matrix: :math:`A^T` is a
    backward pass.

    Parameters
    ----------
    affine
        The map on a batch of one, for instance a convolution followed by a batch norm in eval
        mode.
    shape
        Shape of one input without the batch dimension; the norm depends on it through the padding.
    steps
        Iterations, >= 1. The value approaches the norm from below.
    device, dtype
        Where the map computes, and in what.

    Returns
    -------
    float
        The factor, >= 0.

    Raises
    ------
    InputError, ThreatError
        The map fails :math:`f(v) + f(-v) = 2 f(0)`, so it is not affine; `steps` is below 1.

    References
    ----------
    Golub & Van Loan 2013, Matrix Computations, section 8.2; Szegedy et al. 2014, section 4.3 (norms
    of layers as a bound on instability).
    """
    steps = check_steps("steps", steps)
    generator = torch.Generator().manual_seed(0)
    size = 0.0
    with torch.inference_mode(False), torch.enable_grad():
        v = torch.randn(1, *shape, generator=generator).to(device=device or "cpu", dtype=dtype)
        v = v / v.norm()
        offset = affine(torch.zeros_like(v)).detach()
        _check_affine(affine, v, offset)
        for _ in range(steps):
            v = v.detach().requires_grad_()
            image = affine(v) - offset
            size = float(image.detach().norm())
            if size == 0:
                return 0.0
            (back,) = torch.autograd.grad(image, v, image.detach())
            v = back / back.norm()
    return size


def _forward(
    model: nn.Module,
    x: Tensor,
    layers: Iterable[str],
    act: Callable[[str, slice, Tensor], Tensor | None],
    batch_size: int,
) -> Tensor:
    """Logits of all images, with ``act(layer, rows, activation)`` called once a batch and layer.

    If `act` returns a tensor, it goes on in place of the activation.
    """
    x = check_images(x)
    check_device(model, x)
    batch_size = check_steps("batch_size", batch_size)
    if len(x) == 0:
        raise InputError("x holds no image; at least one is expected.")
    logits, calls, rows = [], Counter[str](), slice(0)

    def counted(name: str, activation: Tensor) -> Tensor | None:
        calls[name] += 1
        return act(name, rows, activation)

    with undisturbed(model, x.device), torch.no_grad(), ExitStack() as hooks:
        for name in layers:
            hooks.enter_context(_hook(model, name, counted))
        for start in range(0, len(x), batch_size):
            calls.clear()
            rows = slice(start, start + batch_size)
            logits.append(model(x[rows].clone()))
            check_logits(logits[-1], x[rows])
            for name in layers:
                if calls[name] != 1:
                    raise InputError(
                        f"the model uses layer {name!r} {calls[name]} times for one batch; exactly "
                        "once is expected, so that it has one activation for each image."
                    )
    return torch.cat(logits)


def _hook(
    model: nn.Module, name: str, act: Callable[[str, Tensor], Tensor | None]
) -> RemovableHandle:
    """Register `act` on the activation called `name`; what it returns replaces the activation."""
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model is a {type(model).__name__}; a torch.nn.Module with named layers is expected."
        )
    modules = dict(model.named_modules())

    def on_output(_module: nn.Module, _given: tuple, out: object) -> Tensor | None:
        return act(name, _check_tensor(out))

    def on_input(_module: nn.Module, given: tuple) -> tuple | None:
        new = act(name, _check_tensor(given[0] if given else None))
        return None if new is None else (new, *given[1:])

    if name and name in modules:
        return modules[name].register_forward_hook(on_output)
    if (inner := name.removesuffix(INPUT)) in modules and inner != name:
        return modules[inner].register_forward_pre_hook(on_input)
    known = ", ".join(layer for layer in modules if layer)
    raise InputError(f"no layer is called {name!r}. Known: {known}; or one of them with {INPUT!r}.")


def _check_tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    raise ModelOutputError(
        f"a layer passes on a {type(value).__name__}; a tensor is expected. Name a layer inside it."
    )


def _check_pair(clean: Tensor, changed: Tensor) -> None:
    if clean.shape != changed.shape or clean.ndim < 2:
        raise InputError(
            f"activations have shapes {tuple(clean.shape)} and {tuple(changed.shape)}; twice the "
            "same (n, channels, ...) is expected."
        )


def _check_affine(affine: Callable[[Tensor], Tensor], v: Tensor, offset: Tensor) -> None:
    with torch.no_grad():
        up, down = affine(v) - offset, affine(-v) - offset
        scale = float(up.norm() + offset.norm()) + 1e-12
        bent = float((up + down).norm()) > 1e-3 * scale
    if bent:
        raise InputError(
            "the map is not affine: f(v) + f(-v) differs from 2 f(0). Leave out the ReLU, and "
            "put batch norms in eval mode."
        )
