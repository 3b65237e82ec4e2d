"""Photographs for the ImageNet networks: cut to size, float32 in [0, 1]."""

import os
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from advlib.errors import InputError


class Installed(NamedTuple):
    """A photograph that the package scikit-image installs."""

    file: str
    credit: str
    """Title, photographer and licence, to be shown beside it."""


PHOTOGRAPHS: dict[str, Installed] = {
    "cat": Installed("chelsea.png", "Chelsea, by Stefan van der Walt, CC0"),
    "coffee": Installed("coffee.png", "Coffee, by Rachel Michetti, CC0"),
    "camera": Installed("camera.png", "Camera, by Lav Varshney, CC0"),
    "rocket": Installed("rocket.jpg", "Launch of DSCOVR, by SpaceX, public domain"),
}
"""What `photograph` knows by name, and whose work it is."""


def photograph(
    source: str | os.PathLike,
    *,
    resize: int = 256,
    crop: int = 224,
    mode: str = "bilinear",
    device: torch.device | str | None = None,
) -> Tensor:
    """Photograph as a batch of one, the way ImageNet networks expect it.

    The shorter side is scaled to `resize` pixels, and a square of `crop` pixels is cut from the
    middle, as torchvision does for its own accuracy figures. Nothing is normalised: normalisation
    belongs in the model.

    Parameters
    ----------
    source
        One of `PHOTOGRAPHS`: ``"cat"``, ``"coffee"``, ``"camera"`` (a man with a camera on a
        tripod, in grey) or ``"rocket"``. Or the path of an image file of your own.
    resize, crop
        Length of the shorter side before cutting and side of the square, in pixels, with
        ``1 <= crop <= resize``.
    mode
        ``"bilinear"`` or ``"bicubic"``: how it is scaled, with antialiasing.
    device
        Where to put it. None: the CPU.

    Returns
    -------
    Tensor
        Shape (1, 3, crop, crop), float32, pixels in [0, 1].

    Raises
    ------
    InputError
        No such photograph, not an image, or sizes that do not fit.
    """
    if not 1 <= crop <= resize:
        raise InputError(f"crop is {crop} and resize {resize}; 1 <= crop <= resize is expected.")
    pixels = torch.from_numpy(_read(source)).permute(2, 0, 1)[None].float() / 255
    height, width = pixels.shape[2:]
    scale = resize / min(height, width)
    size = (max(resize, int(height * scale)), max(resize, int(width * scale)))
    pixels = F.interpolate(pixels, size, mode=mode, antialias=True, align_corners=False)
    top, left = (round((side - crop) / 2) for side in size)
    return pixels[..., top : top + crop, left : left + crop].clamp(0, 1).contiguous().to(device)


def _read(source: str | os.PathLike) -> np.ndarray:
    """8-bit RGB pixels, shape (h, w, 3)."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = _installed(PHOTOGRAPHS[str(source)].file) if source in PHOTOGRAPHS else Path(source)
    if not path.is_file():
        raise InputError(
            f"there is no photograph {str(source)!r}; one of {', '.join(PHOTOGRAPHS)} or the path "
            f"of an image file is expected. The current folder is {Path.cwd().name!r}."
        )
    try:
        with Image.open(path) as image:
            # Cameras store how they were held; what is transparent becomes white.
            upright = ImageOps.exif_transpose(image).convert("RGBA")
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise InputError(
            f"{path} cannot be read as an image ({error}). A whole JPEG or PNG file is expected."
        ) from error
    white = Image.new("RGBA", upright.size, "white")
    return np.array(Image.alpha_composite(white, upright).convert("RGB"))


def _installed(file: str) -> Path:
    """Where scikit-image has put a file, found without importing it: that takes a second."""
    try:
        return Path(str(metadata.distribution("scikit-image").locate_file(f"skimage/data/{file}")))
    except metadata.PackageNotFoundError:
        raise InputError(
            f"{file} comes with scikit-image, which is not installed: pip install scikit-image"
        ) from None
