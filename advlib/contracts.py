"""What every attack asks of its arguments, checked before anything is computed."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from advlib.errors import DeviceError, LabelError, ModelOutputError, PixelError, ThreatError

Model = Callable[[Tensor], Tensor]
"""A classifier: pixels in [0, 1], shape (n, c, h, w), to logits, shape (n, classes)."""

ROUNDING = 1e-6
"""How far a pixel may lie outside [0, 1] and still count as a rounded 0 or 1."""


def check_pictures(x: Tensor) -> Tensor:
    """Return `x` detached, with pixels that rounding put outside [0, 1] set to 0 or 1.

    Parameters
    ----------
    x
        Pictures, shape (n, c, h, w), floating point, pixels in [0, 1]. Rows of features,
        shape (n, d), are accepted as well.

    Raises
    ------
    PixelError
        Not a tensor, not floating point, no batch dimension, NaN or infinite values, or pixels
        outside [0, 1] by more than 1e-6.
    """
    if not isinstance(x, Tensor):
        raise PixelError(
            f"x is a {type(x).__name__}; a torch tensor of shape (n, c, h, w) is expected. "
            "Convert an array with torch.from_numpy(x)."
        )
    if not x.is_floating_point():
        raise PixelError(
            f"x holds {x.dtype}; floating-point pixels in [0, 1] are expected. "
            "For 8-bit pictures write x.float() / 255."
        )
    if x.ndim in (0, 1, 3):
        raise PixelError(
            f"x has shape {tuple(x.shape)}; (n, c, h, w) is expected, a batch even for one "
            "picture. Add the batch dimension with x[None] (and y[None])."
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
        The pictures they belong to.

    Raises
    ------
    LabelError
        Not integers, not one per picture, or negative.
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
            f"y has shape {tuple(y.shape)} and x has {tuple(x.shape)}; one class per picture is "
            f"expected, shape ({x.shape[0]},). For one picture write y[None]."
        )
    if y.device != x.device:
        raise DeviceError(
            f"x is on {x.device} and y on {y.device}; both are expected on one device. "
            f'Write y = y.to("{x.device}").'
        )
    y = y.detach().long()
    if y.numel() and int(y.min()) < 0:
        raise LabelError(
            f"y contains {int(y.min())}; classes count from 0. Pictures to be ignored must be "
            "left out of x and y."
        )
    return y


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
    """Raise unless `logits` has one row per picture, a column for every label, and no NaN.

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
            f"the model returned {logits.shape[1]} logit per picture; at least 2 classes are "
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
