r"""Attacks for the physical world: views, patches, expectation over transformation.

A camera sees a sign from somewhere: moved, turned, nearer or farther, brighter or darker. A `View`
holds those numbers, `transform` applies them to images and `apply_patch` to a patch on them;
both are differentiable. `train_patch` makes one patch for many images and many views; for attacks
on whole images average a model behind random views: `advlib.attacks.adaptive.averaged`.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from advlib.contracts import (
    Model,
    check_device,
    check_images,
    check_logits,
    check_steps,
    undisturbed,
)
from advlib.errors import InputError, LabelError, ModelOutputError, PixelError, ThreatError
from advlib.gradients import check_finite, cross_entropy

Range = tuple[float, float]
OnPatchStep = Callable[[int, Tensor, Tensor], None]
"""Called as ``on_step(step, patch, loss)`` after every step of `train_patch`."""

CAMERA: dict[str, Range] = {
    "shift_x": (-0.08, 0.08),
    "shift_y": (-0.08, 0.08),
    "turn": (-0.2, 0.2),
    "scale": (0.85, 1.15),
    "light": (0.65, 1.05),
}
"""How a camera moves: shifts in half widths of the image, the turn in radians, scale and light
as factors. Drawn uniformly between the two numbers."""

STICKER: dict[str, Range] = {
    "shift_x": (-0.1, 0.1),
    "shift_y": (-0.1, 0.1),
    "turn": (-0.2, 0.2),
    "scale": (0.25, 0.25),
    "light": (0.8, 1.0),
}
"""Where a patch is put: its centre, its turn, its half width in half widths of the image, and how
much of the light it reflects."""


class View(NamedTuple):
    """How each of `n` images, or patches, is seen; all of shape (n,)."""

    shift_x: Tensor
    """To the right, in half widths of the image."""
    shift_y: Tensor
    """Downward, in half heights of the image."""
    turn: Tensor
    """Clockwise as seen, in radians."""
    scale: Tensor
    """Factor of size, > 0."""
    light: Tensor
    """Factor of brightness, >= 0."""


def random_views(
    n: int,
    ranges: Mapping[str, Range] = CAMERA,
    *,
    generator: torch.Generator | None = None,
    device: torch.device | str = "cpu",
) -> View:
    """Draw `n` views, each number uniformly from its range.

    `ranges` holds the low and high end for each of ``shift_x``, ``shift_y``, ``turn``, ``scale``,
    ``light``, in the units of `View`; what is missing stays as it is (no shift, no turn, factors
    1). The `generator` is the source of randomness; None: a new one with seed 0. An unknown name,
    ends that are not finite and in order, a scale <= 0 or a negative light raise `InputError`.
    """
    _check_ranges(ranges)
    source = torch.device("cpu") if generator is None else generator.device
    generator = generator or torch.Generator().manual_seed(0)
    uniform = torch.rand(len(View._fields), n, generator=generator, device=source).to(device)
    ends = [ranges.get(name, _STILL[name]) for name in View._fields]
    columns = zip(ends, uniform, strict=True)
    return View(*(low + (high - low) * column for (low, high), column in columns))


_STILL: dict[str, Range] = dict.fromkeys(View._fields, (0.0, 0.0))
_STILL |= {"scale": (1.0, 1.0), "light": (1.0, 1.0)}


def _check_ranges(ranges: Mapping[str, Range]) -> None:
    for name, ends in ranges.items():
        if name not in View._fields:
            raise InputError(
                f"{name!r} is not a number of a view. Known: {', '.join(View._fields)}."
            )
        try:
            low, high = (float(end) for end in ends)
        except (TypeError, ValueError):
            low, high = math.nan, math.nan
        least = {"scale": 1e-6, "light": 0.0}.get(name, -math.inf)
        if not (math.isfinite(low) and math.isfinite(high) and least <= low <= high):
            raise InputError(
                f"the range of {name} is {ends!r}; a pair (low, high) of finite numbers is "
                "expected, with low <= high" + (" and above 0." if name == "scale" else ".")
            )


# -- the camera ------------------------------------------------------------------------------------


def transform(x: Tensor, view: View) -> Tensor:
    """Images as seen from another view: moved, turned, scaled about the centre, and lit.

    Differentiable in `x`, images (n, c, h, w) with pixels in [0, 1], with one `view` for each.
    Points that come from outside the image repeat its border. The result has the shape of `x`;
    what gets brighter than 1 is cut off, as a sensor does. Another number of views raises
    `InputError`, and what is not a batch of images `PixelError`.
    """
    _check_views(x, view)
    theta = _back(view, x)
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    seen = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    return (seen * view.light.to(x)[:, None, None, None]).clamp(0, 1)


def apply_patch(x: Tensor, patch: Tensor, view: View) -> Tensor:
    """Put a patch on each image. Differentiable in `x` and in `patch`.

    Parameters
    ----------
    x
        Images, shape (n, c, h, w), pixels in [0, 1].
    patch
        Shape (c, k, k), pixels in [0, 1]. It is cut out as a disc.
    view
        Where each patch goes: centre, turn, ``scale`` (its half width, in half widths of the
        image), and the light on it.

    Returns
    -------
    Tensor
        Shape of `x`, pixels in [0, 1]. A patch with other channels or not square, or another
        number of views, raises `PixelError` or `InputError`.
    """
    _check_views(x, view)
    if patch.ndim != 3 or patch.shape[0] != x.shape[1] or patch.shape[1] != patch.shape[2]:
        raise PixelError(
            f"patch has shape {tuple(patch.shape)} and x {tuple(x.shape)}; ({x.shape[1]}, k, k) "
            "is expected, a square with the channels of x."
        )
    n, k = len(x), patch.shape[1]
    grid = F.affine_grid(_back(view, x), list(x.shape), align_corners=False)
    both = torch.cat([patch, torch.ones_like(patch[:1])]).to(x)
    seen = F.grid_sample(both.expand(n, -1, k, k), grid, padding_mode="border", align_corners=False)
    # The rim of the disc fades over one pixel of the image, so that it has a derivative.
    pixel = 2 / (x.shape[-1] * view.scale.to(x))[:, None, None]
    disc = ((1 - grid.square().sum(-1).sqrt()) / pixel + 0.5).clamp(0, 1)[:, None]
    colour = (seen[:, :-1] * view.light.to(x)[:, None, None, None]).clamp(0, 1)
    return x + (colour - x) * disc


def _back(view: View, like: Tensor) -> Tensor:
    """Affine maps (n, 2, 3) from a point of the result to the point seen there.

    Turns are taken in pixels, so that an image wider than high is not sheared.
    """
    shift_x, shift_y, turn, scale, _ = (value.to(like) for value in view)
    ratio = like.shape[-1] / like.shape[-2]
    cos, sin = turn.cos() / scale, turn.sin() / scale
    first = torch.stack([cos, sin / ratio, -cos * shift_x - sin / ratio * shift_y], 1)
    second = torch.stack([-sin * ratio, cos, sin * ratio * shift_x - cos * shift_y], 1)
    return torch.stack([first, second], 1)


def _check_views(x: Tensor, view: View) -> None:
    if x.ndim != 4:
        raise PixelError(
            f"x has shape {tuple(x.shape)}; images of shape (n, c, h, w) are expected."
        )
    if any(value.shape != (len(x),) for value in view):
        raise InputError(
            f"the view holds shapes {[tuple(value.shape) for value in view]} for {len(x)} "
            f"images; one number per image is expected: random_views({len(x)})."
        )


# -- patches ---------------------------------------------------------------------------------------


def total_variation(patch: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels: high for what no printer can print.

    One number >= 0 for a `patch` (c, h, w) of at least 2 x 2 pixels. See Sharif et al. 2016,
    "Accessorize to a Crime" (there with squared differences).
    """
    down = (patch[:, 1:] - patch[:, :-1]).abs().mean()
    across = (patch[:, :, 1:] - patch[:, :, :-1]).abs().mean()
    return down + across


def train_patch(
    model: Model,
    x: Tensor,
    target: int,
    *,
    size: int = 16,
    steps: int = 100,
    batch_size: int = 16,
    learning_rate: float = 0.05,
    smoothness: float = 0.1,
    ink: Range = (0.05, 0.95),
    sticker: Mapping[str, Range] = STICKER,
    camera: Mapping[str, Range] = CAMERA,
    generator: torch.Generator | None = None,
    on_step: OnPatchStep | None = None,
) -> Tensor:
    r"""One patch that makes the model predict `target`, for many images and many views.

    .. math:: \min_p \; \mathbb{E}_{x, s, t}\left[-\log p_\theta(\mathrm{target} \mid
              t(\mathrm{apply}(x, p, s)))\right] + \lambda\, \mathrm{TV}(p)

    over images :math:`x`, places of the patch :math:`s` and views :math:`t`, all drawn anew in
    each of the `steps` steps of Adam; pixels stay in the range `ink` that a printer can print.

    Parameters
    ----------
    model, x
        As for `advlib.fgsm`, and so are the errors; at least one image to train on.
    target
        The class that the attacker wants.
    size
        Width and height of the patch in its own pixels, >= 2.
    steps, batch_size
        Steps, and images per step, each >= 1.
    learning_rate
        Adam's, > 0, in units of pixels.
    smoothness
        Weight of `total_variation`, >= 0.
    ink
        Darkest and brightest pixel that can be printed, in [0, 1].
    sticker, camera
        What places and views are drawn from, see `random_views`.
    generator
        Source of randomness. None: a new one with seed 0.
    on_step
        Called as ``on_step(step, patch, loss)`` after every step, from 1.

    Returns
    -------
    Tensor
        The patch, shape (c, size, size), dtype and device of `x`, pixels in the range `ink`.

    References
    ----------
    Brown et al. 2017, "Adversarial Patch", section 2; Athalye et al. 2018, section 2.
    """
    x = check_images(x)
    if x.ndim != 4 or len(x) == 0:
        raise PixelError(f"x has shape {tuple(x.shape)}; at least one image is expected.")
    if isinstance(target, bool) or not isinstance(target, int) or target < 0:
        raise LabelError(f"target is {target!r}; the number of one class is expected, from 0.")
    check_device(model, x)
    steps, batch_size = check_steps("steps", steps), check_steps("batch_size", batch_size)
    size = check_steps("size", size)
    _check_printing(size, learning_rate, smoothness, ink)
    _check_ranges(sticker)
    _check_ranges(camera)
    generator = generator or torch.Generator().manual_seed(0)

    def views(ranges: Mapping[str, Range]) -> View:
        return random_views(batch_size, ranges, generator=generator, device=x.device)

    with undisturbed(model, x.device):
        x = x.clone()
        start = torch.rand(x.shape[1], size, size, generator=generator, device=generator.device)
        patch = (ink[0] + (ink[1] - ink[0]) * start).to(x).requires_grad_()
        adam = torch.optim.Adam([patch], lr=learning_rate)
        for step in range(1, steps + 1):
            which = torch.randint(
                len(x), (batch_size,), generator=generator, device=generator.device
            )
            scene = apply_patch(x[which.to(x.device)], patch, views(sticker))
            seen = transform(scene, views(camera))
            loss = _log_loss(model, seen, target) + smoothness * total_variation(patch)
            (patch.grad,) = torch.autograd.grad(loss, patch)
            check_finite(patch.grad.isfinite().all())
            adam.step()
            with torch.no_grad():
                patch.clamp_(*ink)
            if on_step is not None:
                on_step(step, patch.detach().clone(), loss.detach())
    return patch.detach()


def _log_loss(model: Model, seen: Tensor, target: int) -> Tensor:
    """Mean cross-entropy of `target` on images as seen, which a gradient has to reach."""
    logits = model(seen)
    y = torch.full((len(seen),), target, device=seen.device)
    check_logits(logits, seen, y)
    if not logits.requires_grad:
        raise ModelOutputError(
            "no gradient reaches the patch: the model leaves torch's graph on the path (no_grad, "
            "detach, numpy, argmax). Train the patch on a differentiable stand-in."
        )
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return cross_entropy(logits, y).mean()


def _check_printing(size: int, learning_rate: float, smoothness: float, ink: Range) -> None:
    if size < 2:
        raise ThreatError(f"size is {size}; a patch has at least 2 x 2 pixels.")
    if not 0 < learning_rate < math.inf or not 0 <= smoothness < math.inf:
        raise ThreatError(
            f"learning_rate is {learning_rate!r} and smoothness {smoothness!r}; finite numbers "
            "are expected, the first > 0, the second >= 0."
        )
    if not 0 <= ink[0] < ink[1] <= 1:
        raise ThreatError(f"ink is {ink!r}; two pixel values 0 <= low < high <= 1 are expected.")
