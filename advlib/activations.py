r"""What happens between the pixels and the logits: record activations, replace them, compare them.

A layer is named as in ``model.named_modules()``, and its *output* is meant; ``"head.input"`` means
what goes *into* the layer ``head``. Activations are copies, and no hook stays behind, also after
an error: the model, its mode and its gradients are as before.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from advlib.contracts import check_device, check_logits, check_pictures, check_steps
from advlib.errors import InputError, ModelOutputError
from advlib.gradients import undisturbed

INPUT = ".input"
"""Ending of a name that means what goes into a layer instead of what comes out."""

_Act = Callable[[Tensor], Tensor | None]


def record(
    model: nn.Module, x: Tensor, layers: Iterable[str], *, batch_size: int = 256
) -> dict[str, Tensor]:
    """What the named layers say to the pictures.

    Parameters
    ----------
    model
        Classifier from pixels in [0, 1] to logits (n, classes); in eval mode for the while.
    x
        Pictures, shape (n, c, h, w), floating point, pixels in [0, 1].
    layers
        Names from ``model.named_modules()``; with ``".input"`` at the end, what goes into the
        layer: ``["blocks.3", "head.input", "head"]``.
    batch_size
        How many pictures at a time, >= 1.

    Returns
    -------
    dict
        For each name the activations, shape (n, channels, ...), copies without gradient: nothing
        the network does later in place can change them.

    Raises
    ------
    PixelError, DeviceError, ThreatError, ModelOutputError
        An argument, or what the model makes of it, cannot be used.
    InputError
        A layer that does not exist, is not used, is used more than once, or holds no tensor.

    Examples
    --------
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> {k: tuple(v.shape) for k, v in record(model, torch.rand(5, 1, 2, 2), ["1", "3"]).items()}
    {'1': (5, 3), '3': (5, 2)}
    """
    places = {name: _place(model, name) for name in layers}
    x = check_pictures(x)
    check_device(model, x)
    batch_size = check_steps("batch_size", batch_size)
    if len(x) == 0:
        raise InputError("x holds no picture; at least one is expected.")
    seen: dict[str, list[Tensor]] = {name: [] for name in places}

    def keep(name: str) -> _Act:
        # A copy: an in-place ReLU after the layer would overwrite the tensor itself.
        return lambda h: seen[name].append(h.detach().clone())

    with undisturbed(model, x.device), torch.no_grad():
        for done, part in enumerate(x.split(batch_size), start=1):
            with _hooks([(place, keep(name)) for name, place in places.items()]):
                check_logits(model(part.clone()), part)
            for name, found in seen.items():
                _check_calls(name, len(found) - (done - 1))
    return {name: torch.cat(found) for name, found in seen.items()}


def replace(
    model: nn.Module, x: Tensor, layer: str, value: Tensor, *, batch_size: int = 256
) -> Tensor:
    r"""Logits of the network when one layer says something else than it would.

    The pictures go in, the layer's activations are thrown away and `value` goes on in their place:
    an intervention, also called *activation patching*. What changes in the logits was caused by
    the difference.

    Parameters
    ----------
    model
        Classifier from pixels in [0, 1] to logits (n, classes); in eval mode for the while.
    x
        Pictures, shape (n, c, h, w), floating point, pixels in [0, 1].
    layer
        A name as for `record`.
    value
        Activations to put there, of the shape that `record` returns for `layer`.
    batch_size
        How many pictures at a time, >= 1.

    Returns
    -------
    Tensor
        Logits, shape (n, classes), without gradient.

    Raises
    ------
    PixelError, DeviceError, ThreatError, ModelOutputError
        An argument, or what the model makes of it, cannot be used.
    InputError
        `layer` as for `record`; a `value` of another shape, dtype or device than the layer's own.

    References
    ----------
    Vig et al. 2020, "Investigating gender bias in language models using causal mediation
    analysis", NeurIPS (interventions on single neurons).
    """
    place = _place(model, layer)
    x = check_pictures(x)
    check_device(model, x)
    batch_size = check_steps("batch_size", batch_size)
    if len(x) == 0 or len(value) != len(x):
        raise InputError(
            f"x holds {len(x)} pictures and value {len(value)} activations; one for each is "
            "expected."
        )
    rows, calls = [], 0

    with undisturbed(model, x.device), torch.no_grad():
        pairs = zip(x.split(batch_size), value.detach().split(batch_size), strict=True)
        for done, (part, new) in enumerate(pairs, start=1):

            def put(h: Tensor, new: Tensor = new) -> Tensor:
                nonlocal calls
                calls += 1
                _check_value(layer, new, h)
                return new.clone()

            with _hooks([(place, put)]):
                logits = model(part.clone())
            _check_calls(layer, calls - (done - 1))
            check_logits(logits, part)
            rows.append(logits.detach())
    return torch.cat(rows)


def relative_change(clean: Tensor, changed: Tensor) -> Tensor:
    r"""How far activations moved, measured by their own size.

    .. math:: \frac{\|h(x + \delta) - h(x)\|_2}{\|h(x)\|_2}

    Parameters
    ----------
    clean, changed
        Activations (or pictures) before and after, both of shape (n, ...).

    Returns
    -------
    Tensor
        One value >= 0 for each picture, shape (n,); infinite where `clean` is zero and `changed`
        is not, and NaN where both are.

    Raises
    ------
    InputError
        Two different shapes, or no dimension to take the norm over.
    """
    _check_pair(clean, changed)
    return (changed - clean).flatten(1).norm(dim=1) / clean.flatten(1).norm(dim=1)


def channel_change(clean: Tensor, changed: Tensor) -> Tensor:
    """How much each channel's mean activation changed: above 0 it was switched up.

    Parameters
    ----------
    clean, changed
        Activations before and after, both of shape (n, channels, ...).

    Returns
    -------
    Tensor
        Shape (n, channels).

    Raises
    ------
    InputError
        Two different shapes, or no channels.
    """
    _check_pair(clean, changed)
    return (changed - clean).flatten(2).mean(2) if clean.ndim > 2 else changed - clean


def largest(score: Tensor, k: int) -> Tensor:
    """Which `k` channels of each picture have the largest score.

    Parameters
    ----------
    score
        Shape (n, channels). For the size of a change pass its absolute value.
    k
        How many, from 0 to the number of channels.

    Returns
    -------
    Tensor
        Boolean, shape of `score`, with exactly `k` times True in each row.

    Raises
    ------
    InputError
        `score` is no table, or `k` is out of range.
    """
    if score.ndim != 2 or not 0 <= k <= score.shape[1]:
        raise InputError(
            f"score has shape {tuple(score.shape)} and k is {k}; (n, channels) and a k from 0 to "
            "the number of channels are expected."
        )
    chosen = torch.zeros_like(score, dtype=torch.bool)
    return chosen.scatter(1, score.topk(k, dim=1).indices, True)


def mix(base: Tensor, other: Tensor, chosen: Tensor) -> Tensor:
    """Activations `base`, with the chosen channels taken from `other`.

    Parameters
    ----------
    base, other
        Activations, both of shape (n, channels, ...).
    chosen
        Boolean, shape (n, channels): which channels come from `other`.

    Returns
    -------
    Tensor
        A new tensor of the shape of `base`.

    Raises
    ------
    InputError
        Shapes that do not belong together, or a `chosen` that is not boolean.
    """
    _check_pair(base, other)
    if chosen.dtype != torch.bool or chosen.shape != base.shape[:2]:
        raise InputError(
            f"chosen holds {chosen.dtype} of shape {tuple(chosen.shape)}; booleans of shape "
            f"{tuple(base.shape[:2])} are expected, one for each channel of each picture."
        )
    return torch.where(chosen.view(*chosen.shape, *[1] * (base.ndim - 2)), other, base)


def operator_norm(
    affine: Callable[[Tensor], Tensor],
    shape: Sequence[int],
    *,
    steps: int = 100,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> float:
    r"""Largest factor by which an affine map stretches a difference of two inputs.

    .. math:: \|A\| = \max_{v \ne 0} \frac{\|A v\|_2}{\|v\|_2} \qquad f(v) = A v + b

    by power iteration on :math:`A^T A`, which needs no matrix: :math:`A^T` is a backward pass.

    Parameters
    ----------
    affine
        The map, for instance a convolution followed by a batch norm in eval mode, for a batch of
        one.
    shape
        Shape of one input without the batch dimension: at the edges, padding depends on it.
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
    InputError
        The map is not affine: it fails :math:`f(v) + f(-v) = 2 f(0)`.
    ThreatError
        `steps` is no whole number >= 1.

    References
    ----------
    Golub & Van Loan 2013, Matrix Computations, section 8.2; Szegedy et al. 2014, section 4.3 (why
    one wants to know).
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


# -- small tools -----------------------------------------------------------------------------------


def _place(model: nn.Module, name: str) -> tuple[nn.Module, bool]:
    """The module that `name` means, and whether its input is meant."""
    if not isinstance(model, nn.Module):
        raise InputError(
            f"model is a {type(model).__name__}; a torch.nn.Module with named layers is expected."
        )
    modules = dict(model.named_modules())
    if name in modules and name:
        return modules[name], False
    if (inner := name.removesuffix(INPUT)) in modules and inner != name:
        return modules[inner], True
    known = ", ".join(layer for layer in modules if layer)
    raise InputError(f"no layer is called {name!r}. Known: {known}; or one of them with {INPUT!r}.")


@contextmanager
def _hooks(places: Sequence[tuple[tuple[nn.Module, bool], _Act]]) -> Iterator[None]:
    """Call each function on what passes its place; what it returns goes on instead."""
    handles = []
    try:
        for (module, is_input), act in places:
            if is_input:
                handles.append(module.register_forward_pre_hook(_on_input(act)))
            else:
                handles.append(module.register_forward_hook(_on_output(act)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _on_input(act: _Act) -> Callable[..., Any]:
    def hook(_module: nn.Module, given: tuple) -> tuple | None:
        new = act(_tensor(given[0] if given else None))
        return None if new is None else (new, *given[1:])

    return hook


def _on_output(act: _Act) -> Callable[..., Any]:
    def hook(_module: nn.Module, _given: tuple, out: object) -> Tensor | None:
        return act(_tensor(out))

    return hook


def _tensor(value: object) -> Tensor:
    if isinstance(value, Tensor):
        return value
    raise ModelOutputError(
        f"a layer passes on a {type(value).__name__}; a tensor is expected. Name a layer inside it."
    )


def _check_calls(name: str, calls: int) -> None:
    if calls != 1:
        raise InputError(
            f"the model uses layer {name!r} {calls} times for one batch; exactly once is expected, "
            "so that it has one activation for each picture."
        )


def _check_value(layer: str, value: Tensor, own: Tensor) -> None:
    given, wanted = ((tuple(t.shape), t.dtype, t.device) for t in (value, own))
    if given != wanted:
        raise InputError(
            f"value for {layer!r} is {given}; {wanted} is expected, as the layer itself says it."
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
