"""What every attack asks of its arguments, checked before it starts, and what it leaves behind."""

import functools
import math
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from advlib.errors import (
    ArgumentError,
    DeviceError,
    LabelError,
    ModelOutputError,
    PixelError,
    ThreatError,
)

Model = Callable[[Tensor], Tensor]
"""A classifier: pixels in [0, 1], shape (n, c, h, w), to logits, shape (n, classes)."""

ROUNDING = 1e-6
"""How far a pixel may lie outside [0, 1] and still count as a rounded 0 or 1."""


OTHER_NAMES = {
    "eps": ("epsilon", "epsilons", "max_norm"),
    "step_size": ("alpha", "eps_iter", "eps_step", "abs_stepsize", "rel_stepsize"),
    "steps": ("nb_iter", "max_iter", "num_steps", "n_steps", "iters", "iterations"),
    "restarts": ("n_restarts", "nb_restarts", "num_restarts", "num_random_init"),
    "random_start": ("rand_init", "rand_start"),
    "norm": ("ord", "p"),
    "loss": ("loss_fn", "loss_func", "criterion"),
    "x": ("images", "inputs", "input"),
    "y": ("labels", "label", "target", "targets"),
}
"""Our name of an argument, and those of torchattacks, foolbox, ART, AutoAttack and CleverHans."""

Attack = TypeVar("Attack", bound=Callable[..., Any])


def teaches_names(attack: Attack) -> Attack:
    """Have `attack` name its own argument when it is given one by another library's name."""
    ours = {theirs: own for own, others in OTHER_NAMES.items() for theirs in others}

    @functools.wraps(attack)
    def taught(*args: Any, **kwargs: Any) -> Any:
        for name in kwargs.keys() & ours.keys():
            raise ArgumentError(
                f"{attack.__name__}() has no argument {name!r}; it is called {ours[name]!r} here. "
                "All budgets and steps are in units of pixels in [0, 1]."
            )
        return attack(*args, **kwargs)

    return cast(Attack, taught)


def check_batch(model: Model, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return `x` and `y` as `check_images` and `check_labels` do, on the model's device."""
    x = check_images(x)
    y = check_labels(y, x)
    check_device(model, x)
    return x, y


def check_images(x: Tensor) -> Tensor:
    """Return `x` detached, with pixels that rounding put outside [0, 1] set to 0 or 1.

    Parameters
    ----------
    x
        Images, shape (n, c, h, w), floating point, pixels in [0, 1]. Rows of features,
        shape (n, d), are accepted as well.

    Raises
    ------
    PixelError
        Not a tensor, not floating point, no batch dimension, NaN or infinite values, or pixels
        outside [0, 1] by more than 1e-6.
    """
    if not isinstance(x, Tensor):
        loader = isinstance(x, torch.utils.data.DataLoader)
        mend = "Attack batch by batch: for x, y in loader." if loader else "See torch.from_numpy."
        raise PixelError(
            f"x is a {type(x).__name__}; a torch tensor of shape (n, c, h, w) is expected. {mend}"
        )
    if not x.is_floating_point():
        raise PixelError(
            f"x holds {x.dtype}; floating-point pixels in [0, 1] are expected. "
            "For 8-bit images write x.float() / 255."
        )
    if x.ndim in (0, 1, 3):
        raise PixelError(
            f"x has shape {tuple(x.shape)}; (n, c, h, w) is expected, a batch even for one "
            "image. Add the batch dimension with x[None] (and y[None])."
        )
    x = x.detach()
    if x.numel() == 0:
        return x
    low, high = (bound.item() for bound in torch.aminmax(x))
    if not (-float("inf") < low and high < float("inf")):
        raise PixelError(
            "x holds NaN or infinite values; finite pixels in [0, 1] are expected. "
            "Find them with (~x.isfinite()).nonzero()."
        )
    if low < -ROUNDING or high > 1 + ROUNDING:
        raise PixelError(
            f"x has pixels from {low:.4g} to {high:.4g}; [0, 1] is expected. If x is normalised "
            "(mean subtracted, divided by the standard deviation), undo that and move the "
            "normalisation into the model, where eps keeps its meaning; if x counts grey levels, "
            "divide by 255."
        )
    return x.clamp(0, 1) if low < 0 or high > 1 else x


def check_labels(y: Tensor, x: Tensor) -> Tensor:
    """Return `y` as int64.

    Parameters
    ----------
    y
        Classes, shape (n,), integer, >= 0: the true ones, or the targets.
    x
        The images they belong to.

    Raises
    ------
    LabelError
        Not integers, not one per image, or negative.
    DeviceError
        `y` and `x` on different devices.
    """
    if not isinstance(y, Tensor):
        raise LabelError(
            f"y is a {type(y).__name__}; a tensor of integer classes of shape (n,) is expected: "
            "torch.tensor([3, 1, 4])."
        )
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise LabelError(
            f"y holds {y.dtype}; integer class numbers are expected. "
            "For one-hot or soft labels use y.argmax(1); for whole numbers in floats y.long()."
        )
    if y.shape != x.shape[:1]:
        raise LabelError(
            f"y has shape {tuple(y.shape)} and x has {tuple(x.shape)}; one class per image is "
            f"expected, shape ({x.shape[0]},). For one image write y[None]."
        )
    if y.device != x.device:
        raise DeviceError(
            f"x is on {x.device} and y on {y.device}; both are expected on one device. "
            f'Write y = y.to("{x.device}").'
        )
    y = y.detach().long()
    if y.numel() and int(y.min()) < 0:
        raise LabelError(
            f"y contains {int(y.min())}; classes count from 0. Images to be ignored must be "
            "left out of x and y."
        )
    return y


def best_device() -> torch.device:
    """Return the fastest device that this machine offers: CUDA, then Apple's MPS, then the CPU.

    `advlib` computes wherever its tensors live. Lessons call this once and put model and
    images there.
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def check_device(model: Model, x: Tensor) -> None:
    """Raise `DeviceError` unless the parameters of `model` are where `x` is."""
    if not isinstance(model, nn.Module):
        return
    weight = next(model.parameters(), None)
    # A network split over several devices moves its input itself; only the plain case is judged.
    if weight is None or weight.device == x.device:
        return
    if len({parameter.device for parameter in model.parameters()}) > 1:
        return
    raise DeviceError(
        f"the model is on {weight.device} and x on {x.device}; both are expected on one device. "
        f'Write x, y = x.to("{weight.device}"), y.to("{weight.device}").'
    )


def check_eps(eps: float) -> float:
    """Return `eps` as a float; raise `ThreatError` unless it is one finite number >= 0."""
    try:
        if isinstance(eps, (str, bool)):  # float() would accept both
            raise TypeError
        value = float(eps)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ThreatError(
            f"eps is {eps!r}; one number is expected, the same for the whole batch. "
            "For several budgets, attack once per budget."
        ) from None
    if not (math.isfinite(value) and value >= 0):
        raise ThreatError(
            f"eps is {value}; a finite number >= 0 is expected, in units of pixels in [0, 1]: "
            "for four grey levels of 255 write eps=4/255."
        )
    return value


def check_reach(eps: float, diameter: float) -> float:
    """Return `eps` as `check_eps` does, at most the `diameter` of the box; warn if it is more."""
    value = check_eps(eps)
    if value > diameter > 0:
        _warn(
            f"eps is {value:g}, and no two images are further apart than {diameter:g}: every image "
            "may become any other. Budgets are in units of pixels in [0, 1]: for eight grey levels "
            "of 255 write eps=8/255."
        )
    return min(value, diameter)


def check_where(where: Tensor | None, x: Tensor) -> Tensor | None:
    """Return `where` as booleans of the shape of `x` (a view, nothing is copied), or None.

    Parameters
    ----------
    where
        Which pixel values may change: True or 1 where they may, False or 0 elsewhere. A shape
        that broadcasts to that of `x`: ``(h, w)`` and ``(c, h, w)`` hold for all images,
        ``(n, 1, h, w)`` is one region per image for all channels. None: all may change.
    x
        Images, shape (n, c, h, w) or (n, d).

    Raises
    ------
    ThreatError
        Not a tensor, values other than 0 and 1, or a shape that does not broadcast, or that
        could be meant in two ways.
    DeviceError
        `where` and `x` on different devices.
    """
    if where is None:
        return None
    if not isinstance(where, Tensor):
        raise ThreatError(
            f"where is a {type(where).__name__}; a tensor of booleans that broadcasts to x is "
            "expected, True where a pixel value may change: torch.as_tensor(where)."
        )
    if where.device != x.device:
        raise DeviceError(
            f"x is on {x.device} and where on {where.device}; both are expected on one device. "
            f'Write where = where.to("{x.device}").'
        )
    if where.ndim == x.ndim - 1 and len(where) == len(x) > 1:
        raise ThreatError(
            f"where has shape {tuple(where.shape)} and x has {tuple(x.shape)}: that may be one "
            "region per image or one for all. Write where[:, None] for the first, where[None] for "
            "the second."
        )
    # Compared from the back, as broadcasting does; it must not make x larger.
    sizes = zip(reversed(where.shape), reversed(x.shape), strict=False)
    if where.ndim > x.ndim or any(size not in (1, wanted) for size, wanted in sizes):
        raise ThreatError(
            f"where has shape {tuple(where.shape)}, which does not broadcast to that of x, "
            f"{tuple(x.shape)}. For one region per image, the same in all channels, make it "
            "(n, 1, h, w): where[:, None]."
        )
    if where.dtype != torch.bool:
        if not bool(((where == 0) | (where == 1)).all()):
            raise ThreatError(
                "where holds other values than 0 and 1; a pixel value may change or it may not. "
                "From a map make it with a threshold: where = importance > level."
            )
        where = where == 1
    return where.expand(x.shape)


def check_steps(name: str, value: int) -> int:
    """Return `value` as an int; raise `ThreatError` unless it is a whole number >= 1."""
    whole = hasattr(value, "__index__") and not isinstance(value, (bool, Tensor))
    if not whole or int(value) < 1:
        raise ThreatError(f"{name} is {value!r}; a whole number >= 1 is expected.")
    return int(value)


def check_step_size(value: float) -> float:
    """Return `value` as a float; raise `ThreatError` unless it is finite and > 0."""
    try:
        if isinstance(value, (str, bool)):  # float() would accept both
            raise TypeError
        size = float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        size = float("nan")
    if not 0 < size < float("inf"):
        raise ThreatError(
            f"step_size is {value!r}; one finite number > 0 is expected, in units of pixels. "
            "Leave it out for 2.5 * eps / steps."
        )
    return size


def check_logits(logits: Tensor, x: Tensor, y: Tensor | None = None) -> None:
    """Raise unless `logits` has one row per image, a column for every label, and no NaN.

    Raises
    ------
    ModelOutputError
        The model returned something else than finite logits of shape (n, classes).
    LabelError
        A label has no logit.
    """
    expected = f"logits of shape ({len(x)}, classes) are expected"
    if not isinstance(logits, Tensor):
        raise ModelOutputError(
            f"the model returned a {type(logits).__name__}; {expected}. "
            "Wrap it: lambda x: model(x)[0], or model(x).logits."
        )
    if logits.ndim != 2 or len(logits) != len(x):
        raise ModelOutputError(
            f"the model returned shape {tuple(logits.shape)} for x of shape {tuple(x.shape)}; "
            f"{expected}. Flatten or pool the last layer's output."
        )
    if logits.shape[1] < 2:
        raise ModelOutputError(
            f"the model returned {logits.shape[1]} logit per image; at least 2 classes are "
            "expected. From one logit z of class 1 make two: torch.cat([-z, z], 1) / 2."
        )
    if not logits.is_floating_point():
        raise ModelOutputError(
            f"the model returned {logits.dtype}; {expected}, in floating point. "
            "Return the scores, not the predicted classes."
        )
    if logits.isnan().any():
        raise ModelOutputError(
            "the model returned NaN; finite logits are expected. "
            "Look at model(x) for the same x: weights or normalisation are damaged."
        )
    if y is not None and int(y.max()) >= logits.shape[1]:
        raise LabelError(
            f"y contains {int(y.max())}, but the model knows the classes 0 to "
            f"{logits.shape[1] - 1}. Do labels and model belong to the same data set?"
        )


def check_attacked(logits: Tensor, x: Tensor, y: Tensor) -> None:
    """What `check_logits` does; and warn of probabilities, whose gradients mislead an attack."""
    check_logits(logits, x, y)
    if are_probabilities(logits):
        _warn(
            "the model returns probabilities (no value below 0, rows that sum to 1); logits are "
            "expected. A softmax at the end hides the gradient, and the attack finds less. Remove "
            "it, or undo it: lambda x: model(x).clamp_min(1e-30).log()."
        )


def are_probabilities(logits: Tensor) -> bool:
    """Whether no value is below 0 and every row sums to 1."""
    sums = logits.float().sum(1)
    return bool((logits >= 0).all() and ((sums - 1).abs() < 1e-3).all())


def forward(model: Model, x: Tensor) -> Tensor:
    """``model(x)``; where torch would only say which layer failed, what is wrong with `x`.

    Raises
    ------
    PixelError
        Another dtype than the weights have, or another number of channels.
    """
    try:
        return model(x)
    except RuntimeError as error:
        mend = _mend(model, x, str(error))
        if mend is None:
            raise
        raise PixelError(mend) from error


_CHANNELS = re.compile(r"expected input\[.*\] to have (\d+) channels, but got (\d+) channels")


def _mend(model: Model, x: Tensor, said: str) -> str | None:
    if found := _CHANNELS.search(said):
        wanted, given = map(int, found.groups())
        if x.ndim == 4 and given == x.shape[1] and x.shape[3] == wanted:
            mend = "x looks like (n, h, w, c): x.permute(0, 3, 1, 2)."
        elif given == x.shape[1] == 1:
            mend = f"For grey images repeat the channel: x.expand(-1, {wanted}, -1, -1)."
        else:
            mend = "Does x have the shape (n, c, h, w), and is it what the model was trained on?"
        return f"x has shape {tuple(x.shape)}, and a layer expects {wanted} channels. {mend}"
    weight = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    if weight is not None and weight.is_floating_point() and weight.dtype != x.dtype:
        return (
            f"x holds {x.dtype} and the model's weights are {weight.dtype}; one dtype is expected. "
            f"Write x = x.to({weight.dtype})."
        )
    return None


def _warn(message: str) -> None:
    """Warn at the line outside this package that led here."""
    frame, level = sys._getframe(1), 2
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == "advlib":
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)


# -- what is left behind: nothing ------------------------------------------------------------------


@contextmanager
def undisturbed(model: Model, device: torch.device) -> Iterator[None]:
    """Freeze `model` temporarily in eval mode, with gradients on, and leave no trace.

    Training flags of every submodule, ``requires_grad`` of every parameter, buffers, and the
    global random state of the CPU and of `device` are as they were afterwards, also after an
    error. It works inside ``torch.no_grad()`` and ``torch.inference_mode()``. A `model` that is
    no module, but any function from images to logits, has nothing to freeze.
    """
    gpu = [device] if device.type == "cuda" else []
    random_state = torch.random.fork_rng(gpu, device_type="cuda")
    frozen = _frozen(model) if isinstance(model, nn.Module) else nullcontext()
    with torch.inference_mode(False), torch.enable_grad(), random_state, frozen:
        yield


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    modules, flags, places = [], [], []
    seen, waiting = set[nn.Module](), [model]
    while waiting:  # what model.modules() does, without the names: they would take longer
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        waiting += [child for child in module._modules.values() if child is not None]
        modules.append((module, module.training))
        for name, weight in module._parameters.items():
            # `nn.MultiheadAttention` multiplies a transposed view by this weight. Frozen, torch
            # copies it for each token (`should_fold` of matmul) and takes 1.6 times as long.
            wanted = name == "in_proj_weight"
            if weight is not None and weight.requires_grad != wanted and not weight.is_inference():
                flags.append((weight, wanted))
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
        for weight, wanted in flags:
            weight.requires_grad_(wanted)
        yield
    finally:
        for module, training in modules:
            if module.training != training:  # to set it costs more than to look
                module.training = training
        for weight, wanted in flags:
            weight.requires_grad_(not wanted)
        for place, held in places:  # a model may also put a new tensor in the place of a buffer
            place.update(held)
        with torch.no_grad():
            for buffer, version, before in buffers:
                if buffer._version != version:
                    buffer.copy_(before)


def progress_bar(
    items: Iterable | None = None,
    *,
    show: bool,
    unit: str,
    desc: str = "",
    total: int | None = None,
) -> Any:
    """`items` behind a progress bar on standard error, which is removed at the end.

    Without `items` the bar is a context, whose ``update(n)`` moves it on. Nothing is drawn unless
    `show`.
    """
    if show:
        from tqdm.auto import tqdm
    else:  # loads nothing that draws
        from tqdm import tqdm
    scaled = unit == "B"  # bytes as kB, MB
    return tqdm(
        items, desc=desc, unit=unit, unit_scale=scaled, total=total, leave=False, disable=not show
    )
