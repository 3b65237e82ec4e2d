"""Images in files of 8 bits, and back, without a change."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from advlib.contracts import check_images
from advlib.errors import InputError, PixelError

LEVELS = 255
"""Steps between black and white."""


def on_grid(x: Tensor) -> Tensor:
    """The nearest image that a file of 8 bits can hold, pixels in [0, 1]; shape and dtype of `x`.

    Equal, bit by bit, to what ``bytes / 255`` gives when the file is read.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide.mul(LEVELS).round() / LEVELS).to(x.dtype)


def save_images(x: Tensor, folder: str | Path) -> list[Path]:
    """Write images as PNG files, from which `load_images` reads them back bit by bit.

    Parameters
    ----------
    x
        Images, shape (n, c, h, w) with 1 or 3 channels, multiples of 1/255 in [0, 1].
    folder
        Where; made if it is missing. Files of the same names are replaced.

    Returns
    -------
    list of Path
        One file for each image, in order: ``0000.png`` and so on.

    Raises
    ------
    PixelError
        No images, or pixels between the levels of 8 bits, which a file cannot hold.
    """
    from PIL import Image

    x = check_images(x)
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise PixelError(f"x has shape {tuple(x.shape)}; (n, 1, h, w) or (n, 3, h, w) is expected.")
    if x.dtype == torch.bfloat16 or not torch.equal(on_grid(x), x):
        raise PixelError(
            "x holds pixels between the levels of 8 bits, and a file would round them; what an "
            "attack achieved may be lost. Attack with advlib.attacks.eight_bit, or round first: "
            "advlib.data.on_grid(x)."
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    levels = x.cpu().float().mul(LEVELS).round().to(torch.uint8)
    pixels = levels.permute(0, 2, 3, 1).squeeze(3).numpy()
    paths = [folder / f"{number:04d}.png" for number in range(len(x))]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    return paths


def load_images(paths: Iterable[str | Path] | str | Path) -> Tensor:
    """Read images of one size as float32, shape (n, c, h, w), pixels in [0, 1].

    Parameters
    ----------
    paths
        Files, in order; or a folder, whose PNG files are read in the order of their names.

    Raises
    ------
    InputError
        No file, or images of several sizes or kinds.
    """
    from PIL import Image

    found = [Path(paths)] if isinstance(paths, (str, Path)) else [Path(path) for path in paths]
    if len(found) == 1 and found[0].is_dir():
        found = sorted(found[0].glob("*.png"))
    if not found:
        raise InputError(
            f"there are no images in {paths}; files, or a folder of them, are expected."
        )
    arrays = []
    for path in found:
        with Image.open(path) as image:
            arrays.append(
                np.atleast_3d(np.array(image if image.mode == "L" else image.convert("RGB")))
            )
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise InputError(
            f"the images have the shapes {sorted(shapes)}; one is expected. Read them one by one, "
            "or bring them to one size first."
        )
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous().float() / LEVELS
