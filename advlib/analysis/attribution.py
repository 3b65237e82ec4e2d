r"""Which pixels a prediction rests on: maps of attribution.

A map of attribution gives one number to every pixel value: how much it supports class `y`. What
is explained is a *score* of the logits, by default the lead of `y` over the best other class.
`saliency` and `integrated_gradients` use the gradient; `occlusion` needs predictions only.
`advlib.analysis.map_comparison` compares such maps.
"""

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from advlib.contracts import Model, check_batch, check_images, check_steps, undisturbed
from advlib.errors import InputError, PixelError
from advlib.gradients import Loss, input_gradient, look, margin

# -- what is explained -----------------------------------------------------------------------------


def lead(logits: Tensor, y: Tensor) -> Tensor:
    r"""How far class `y` is ahead of the best other one, :math:`z_y - \max_{j \ne y} z_j`.

    Shape (n,). Positive exactly when the image is classified as `y`; minus
    `advlib.gradients.margin`.
    """
    return -margin(logits, y)


def logit(logits: Tensor, y: Tensor) -> Tensor:
    """Logit of class `y`, shape (n,), whatever the other logits are."""
    return logits.gather(1, y[:, None]).squeeze(1)


def probability(logits: Tensor, y: Tensor) -> Tensor:
    """Probability of class `y`, shape (n,). Its gradient vanishes where the network is sure."""
    return logit(logits.softmax(1), y)


SCORES: dict[str, Loss] = {"lead": lead, "logit": logit, "probability": probability}


def _resolve_score(score: str | Loss) -> Loss:
    if callable(score):
        return score
    if isinstance(score, str) and score in SCORES:
        return SCORES[score]
    raise InputError(
        f'score is {score!r}; "lead", "logit", "probability", or a function of (logits, y) that '
        "returns one value per image is expected."
    )


# -- maps ------------------------------------------------------------------------------------------


def saliency(model: Model, x: Tensor, y: Tensor, *, score: str | Loss = "lead") -> Tensor:
    r"""Size of the gradient: how strongly the score reacts to each pixel value.

    .. math:: S_i = \left| \frac{\partial F}{\partial x_i}(x) \right|

    Parameters
    ----------
    model, x
        As for `advlib.fgsm`.
    y
        Classes to explain, shape (n,), integer.
    score
        What is explained: ``"lead"`` (of `y` over the best other class), ``"logit"``,
        ``"probability"``, or a function of (logits, y) that returns one value per image.

    Returns
    -------
    Tensor
        Shape of `x`, >= 0, in units of the score per unit of pixel.

    Raises
    ------
    PixelError, LabelError, DeviceError, InputError, ModelOutputError
        An argument, or what the model makes of it, cannot be used; nothing was changed.

    References
    ----------
    Simonyan, Vedaldi & Zisserman 2014, "Deep inside convolutional networks", section 3.
    """
    return input_gradient(model, x, y, loss=_resolve_score(score)).grad.abs()


def integrated_gradients(
    model: Model,
    x: Tensor,
    y: Tensor,
    baseline: Tensor | float = 0.0,
    steps: int = 32,
    *,
    score: str | Loss = "lead",
) -> Tensor:
    r"""Share of each pixel value in ``F(x) - F(baseline)``; the shares add up to it.

    .. math:: A_i = (x_i - x'_i) \int_0^1 \frac{\partial F}{\partial x_i}(x' + t (x - x'))\, dt

    The integral is taken by the midpoint rule at ``t = (k + 1/2) / steps``, whose error falls with
    ``1 / steps**2`` where the gradient is smooth.

    Parameters
    ----------
    model, x, y, score
        As for `saliency`.
    baseline
        Where the straight path begins: a number for all pixel values, or a tensor that broadcasts
        to `x`, in [0, 1]. 0 is black. With ``x=x_adv, baseline=x`` the map says which pixel values
        an attack owes its success to.
    steps
        Points on the path, >= 1; each costs one forward and one backward pass.

    Returns
    -------
    Tensor
        Shape of `x`, in units of the score; positive where a pixel value supports `y`. The sum
        over an image is ``F(x) - F(baseline)`` up to the error of the midpoint rule.

    Raises
    ------
    PixelError, LabelError, DeviceError, InputError, ThreatError, ModelOutputError
        As for `saliency`.

    References
    ----------
    Sundararajan, Taly & Yan 2017, "Axiomatic attribution for deep networks", equation 1 and
    proposition 1 (completeness).
    """
    steps = check_steps("steps", steps)
    score = _resolve_score(score)
    x, y = check_batch(model, x, y)
    start = _check_pixels("baseline", baseline, x)
    if len(x) == 0:
        return x.clone()
    with undisturbed(model, x.device):
        y = y.clone()
        # A sum of many small numbers: in float32 at least, whatever the dtype of the images.
        total = torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))
        for k in range(steps):
            point = torch.lerp(start, x, (k + 0.5) / steps)
            total += look(model, point, y, score, check=k == 0).grad
        return ((x - start) * (total / steps)).to(x.dtype)


def occlusion(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    size: int = 8,
    stride: int = 4,
    fill: Tensor | float | None = None,
    score: str | Loss = "lead",
    batch_size: int = 256,
) -> Tensor:
    """How far the score falls when a window of the image is covered, without any gradient.

    Parameters
    ----------
    model, x, y, score
        As for `saliency`; `x` must be images of shape (n, c, h, w).
    size, stride
        Side of the square window and its distance from the next, in pixels, >= 1, with
        ``stride <= size <= h, w``. The last window of a row or column ends at the edge.
    fill
        What covers the window: a number or a tensor that broadcasts to `x`, in [0, 1]. None: the
        mean colour of the image.
    batch_size
        Covered images per batch, >= 1.

    Returns
    -------
    Tensor
        Shape (n, h, w), in units of the score: the mean over all windows that cover a pixel.

    Raises
    ------
    PixelError, LabelError, DeviceError, InputError, ThreatError, ModelOutputError
        As for `saliency`.

    References
    ----------
    Zeiler & Fergus 2014, "Visualizing and understanding convolutional networks", section 4.2.
    """
    score = _resolve_score(score)
    batch_size = check_steps("batch_size", batch_size)
    x, y = check_batch(model, x, y)
    windows = _windows(x, size, stride)
    cover = _check_pixels("fill", x.mean((2, 3), keepdim=True) if fill is None else fill, x)
    drop, seen = x.new_zeros(len(x), *x.shape[2:]), x.new_zeros(x.shape[2:])
    if len(x) == 0:
        return drop
    with undisturbed(model, x.device):

        def measure(images: Tensor) -> Tensor:
            pairs = zip(images.split(batch_size), y.split(batch_size), strict=True)
            parts = [look(model, part, labels, score, gradient=False) for part, labels in pairs]
            return torch.cat([part.loss for part in parts])

        whole = measure(x.clone())
        for window in windows:
            covered = x.clone()
            covered[:, :, *window] = cover[:, :, *window]
            drop[:, *window] += (whole - measure(covered)).to(x.dtype)[:, None, None]
            seen[window] += 1
    return drop / seen


def blurred(x: Tensor, size: int = 31) -> Tensor:
    """Each image without its details: a baseline that keeps light and colours, and shows no object.

    `x` has shape (n, c, h, w), with pixels in [0, 1]. Each pixel is replaced by the mean of a
    square around it; its side `size`, in pixels, is odd and less than twice that of the image. At
    the edges the image is mirrored.
    """
    x, size = _check_planes(check_images(x)), check_steps("size", size)
    if size % 2 == 0 or size // 2 >= min(x.shape[2:]):
        raise InputError(
            f"size is {size} on images of {x.shape[2]} x {x.shape[3]}; an odd number below twice "
            "the smaller side is expected."
        )
    wide = F.pad(x, (size // 2,) * 4, mode="reflect")
    return F.avg_pool2d(wide, size, stride=1).clamp(0, 1)


def _windows(x: Tensor, size: int, stride: int) -> list[tuple[slice, slice]]:
    """Rows and columns of all windows; the last of a row or column ends at the edge."""
    height, width = _check_planes(x).shape[2:]
    size, stride = check_steps("size", size), check_steps("stride", stride)
    if not stride <= size <= min(height, width):
        raise InputError(
            f"size is {size} and stride {stride} on images of {height} x {width}; "
            "stride <= size <= height and width is expected, so that every pixel is covered."
        )
    tops, lefts = ([*range(0, side - size, stride), side - size] for side in (height, width))
    return [(slice(i, i + size), slice(j, j + size)) for i, j in product(tops, lefts)]


def _check_planes(x: Tensor) -> Tensor:
    if x.ndim != 4:
        raise PixelError(f"x has shape {tuple(x.shape)}; images (n, c, h, w) are expected.")
    return x


def _check_pixels(name: str, values: Tensor | float, x: Tensor) -> Tensor:
    """Pixel values in [0, 1], in the shape, dtype and device of `x`."""
    if isinstance(values, (str, bool)):
        raise InputError(f"{name} is {values!r}; a number or a tensor in [0, 1] is expected.")
    pixels = torch.as_tensor(values, dtype=x.dtype, device=x.device).detach()
    try:
        return check_images(pixels.expand(x.shape))
    except RuntimeError:
        raise InputError(
            f"{name} has shape {tuple(pixels.shape)}, which does not broadcast to that of x, "
            f"{tuple(x.shape)}."
        ) from None
