r"""Other views of the same images, drawn anew for each batch of `advlib.train`.

What may be changed is a statement about the task: a sign a little to the left is the same sign, a
mirrored arrow is another one. So nothing here mirrors an image, and nothing turns it far: a setting
out of its range is an `InputError`.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from advlib.errors import InputError


def gaussian(x: Tensor, generator: torch.Generator, *, sigma: float = 0.25) -> Tensor:
    r"""Gaussian noise on every pixel value, as the base classifier of randomised smoothing needs.

    .. math:: x' = x + \xi, \qquad \xi \sim \mathcal{N}(0, \sigma^2 I)

    Pixels may leave [0, 1]: clipping would change the distribution that the certificate is about.

    Parameters
    ----------
    x
        Images, shape (n, c, h, w).
    generator
        Source of randomness, on any device.
    sigma
        Standard deviation in units of pixels, >= 0.

    References
    ----------
    Cohen, Rosenfeld & Kolter 2019, "Certified Adversarial Robustness via Randomized Smoothing".
    """
    if not sigma >= 0:
        raise InputError(f"`sigma` is a standard deviation, 0 or more; got {sigma}.")
    drawn = torch.randn(x.shape, generator=generator, device=generator.device, dtype=x.dtype)
    return x + sigma * drawn.to(x.device)


def views(
    x: Tensor,
    generator: torch.Generator,
    *,
    shift: float = 0.1,
    turn: float = 10.0,
    zoom: float = 0.1,
    light: float = 0.2,
    contrast: float = 0.2,
) -> Tensor:
    """Each image moved, turned, scaled and lit at random, uniformly in the ranges below.

    The result lies in [0, 1]; what comes in from outside repeats the border.

    Parameters
    ----------
    x, generator
        As for `gaussian`; `x` in [0, 1].
    shift
        Largest shift each way, as a part of the image's size.
    turn
        Largest turn either way, in degrees; at most 45.
    zoom, light, contrast
        Largest relative change of size, brightness and contrast, in [0, 1).
    """
    for name, value, most in (("shift", shift, 0.5), ("turn", turn, 45.0)):
        if not 0 <= value <= most:
            raise InputError(f"`{name}` must lie in [0, {most:g}]; got {value}.")
    for name, value in (("zoom", zoom), ("light", light), ("contrast", contrast)):
        if not 0 <= value < 1:
            raise InputError(f"`{name}` is a relative change and must lie in [0, 1); got {value}.")
    u = torch.rand(6, len(x), generator=generator, device=generator.device, dtype=x.dtype)
    across, down, angle, size, bright, strong = (2 * u - 1).to(x.device)
    angle, size = math.radians(turn) * angle, 1 + zoom * size
    cos, sin = angle.cos() / size, angle.sin() / size
    moved = torch.stack([cos, -sin, 2 * shift * across, sin, cos, 2 * shift * down], 1)
    grid = F.affine_grid(moved.view(-1, 2, 3), list(x.shape), align_corners=False)
    seen = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    mean = seen.mean((1, 2, 3), keepdim=True)
    factor = (1 + contrast * strong).view(-1, 1, 1, 1)
    return (((seen - mean) * factor + mean) * (1 + light * bright).view(-1, 1, 1, 1)).clamp(0, 1)
