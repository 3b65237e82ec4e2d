"""Photographs for the ImageNet networks: cut to size, float32 in [0, 1]."""

import os
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from advlib.errors import InputError

_BUNDLED = {"cat": "chelsea", "coffee": "coffee"}


def photograph(
    source: str | os.PathLike,
    *,
    resize: int = 256,
    crop: int = 224,
    device: torch.device | str | None = None,
) -> Tensor:
    """Photograph as a batch of one, the way ImageNet networks expect it.

    The shorter side is scaled to `resize` pixels, and a square of `crop` pixels is cut from the
    middle, as torchvision does for its own accuracy figures. Nothing is normalised: that belongs
    into the model.

    Parameters
    ----------
    source
        ``"cat"`` or ``"coffee"``, two CC0 photographs inside the package scikit-image (ImageNet
        classes 285, Egyptian cat, and 967, espresso), or the path of a picture file of your own.
    resize
        Length of the shorter side before cutting, in pixels, >= `crop`.
    crop
        Side of the square, in pixels, >= 1.
    device
        Where to put it. None: the CPU.

    Returns
    -------
    Tensor
        Shape (1, 3, crop, crop), float32, pixels in [0, 1].

    Raises
    ------
    InputError
        No such photograph, not a picture, or sizes that do not fit.
    """
    if not 1 <= crop <= resize:
        raise InputError(f"crop is {crop} and resize {resize}; 1 <= crop <= resize is expected.")
    pixels = torch.from_numpy(_read(source)).permute(2, 0, 1)[None].float() / 255
    height, width = pixels.shape[2:]
    scale = resize / min(height, width)
    size = (max(resize, int(height * scale)), max(resize, int(width * scale)))
    pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True, align_corners=False)
    top, left = (round((side - crop) / 2) for side in size)
    return pixels[..., top : top + crop, left : left + crop].clamp(0, 1).contiguous().to(device)


def _read(source: str | os.PathLike) -> np.ndarray:
    """8-bit RGB pixels, shape (h, w, 3)."""
    if source in _BUNDLED:
        from skimage import data

        return np.array(getattr(data, _BUNDLED[source])())
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = Path(source)
    if not path.is_file():
        raise InputError(
            f'there is no photograph {str(source)!r}; "cat", "coffee" or the path of a picture '
            f"file is expected. The current folder is {Path.cwd().name!r}."
        )
    try:
        with Image.open(path) as picture:
            # Cameras store how they were held; transparent pixels become white paper.
            upright = ImageOps.exif_transpose(picture).convert("RGBA")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path} cannot be read as a picture ({error}). A whole JPEG or PNG file is expected."
        ) from error
    paper = Image.new("RGBA", upright.size, "white")
    return np.array(Image.alpha_composite(paper, upright).convert("RGB"))
