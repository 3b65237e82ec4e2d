r"""Other views of the same pictures, drawn anew for each batch: the data lever of a defence.

Each function takes pictures and a generator and is an argument of `advlib.train`. What may be
changed is a statement about the task: a sign seen a little to the left is the same sign, a
mirrored arrow is another one. So nothing here mirrors, and nothing turns far.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from advlib.errors import InputError


def gaussian(x: Tensor, generator: torch.Generator, *, sigma: float = 0.25) -> Tensor:
    r"""Gaussian noise on every pixel value, as randomised smoothing wants to see in training.

    .. math:: x' = x + \xi, \qquad \xi \sim \mathcal{N}(0, \sigma^2 I)

    Pixels may leave [0, 1]: clipping would change the distribution that the certificate is about.

    Parameters
    ----------
    x : Tensor (n, c, h, w)
        Pictures.
    generator : torch.Generator
        Source of the noise, on any device.
    sigma : float
        Standard deviation in units of pixels, >= 0.

    Returns
    -------
    Tensor (n, c, h, w)
        New pictures.

    Raises
    ------
    InputError
        A negative `sigma`.

    References
    ----------
    Cohen, Rosenfeld & Kolter (2019), Certified Adversarial Robustness via Randomized Smoothing,
    ICML.
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
    """The same sign from elsewhere and in another light: moved, turned, scaled, dimmed.

    Each picture gets its own draw, uniform in the ranges below. Nothing is mirrored.

    Parameters
    ----------
    x : Tensor (n, c, h, w)
        Pictures in [0, 1].
    generator : torch.Generator
        Source of the draws, on any device.
    shift : float
        Largest shift each way, as a part of the picture's size.
    turn : float
        Largest turn either way, in degrees; at most 45.
    zoom, light, contrast : float
        Largest relative change of size, brightness and contrast, in [0, 1).

    Returns
    -------
    Tensor (n, c, h, w)
        New pictures in [0, 1]; what comes in from outside repeats the border.

    Raises
    ------
    InputError
        A range that would change what the sign says, or is none.
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
