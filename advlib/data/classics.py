"""The classic data sets of torchvision as tensors: MNIST, Fashion-MNIST, CIFAR-10."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from advlib.errors import DownloadError, InputError

_NAMES = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "cifar10": "CIFAR10"}


def classic(
    name: str,
    *,
    train: bool = False,
    n: int | None = None,
    root: str | os.PathLike | None = None,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Pictures and classes of a data set that many papers measure on.

    Parameters
    ----------
    name
        ``"mnist"``, ``"fashion-mnist"`` or ``"cifar10"``.
    train
        The training pictures instead of the test pictures.
    n
        Only the first `n`. None: all.
    root
        Folder where torchvision keeps the data set; what is missing is downloaded to there and
        checked. None: ``$ADVLIB_DATA``, or ``~/.cache/advlib``.
    device
        Where to put the tensors. None: the CPU.

    Returns
    -------
    (x, y) : tuple of Tensor
        `x` (n, 1, 28, 28) or (n, 3, 32, 32), float32 in [0, 1]; `y` (n,), int64.

    Raises
    ------
    InputError
        No such data set.
    DownloadError
        It is not at hand and cannot be had.
    """
    if name not in _NAMES:
        raise InputError(f"there is no data set {name!r}; one of {sorted(_NAMES)} is expected.")
    from torchvision import datasets

    folder = Path(root or os.environ.get("ADVLIB_DATA") or Path.home() / ".cache" / "advlib")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        data = getattr(datasets, _NAMES[name])(str(folder), train=train, download=True)
    except (OSError, RuntimeError) as error:
        raise DownloadError(
            f"{_NAMES[name]} is not in {folder} and could not be fetched ({error}). Connect to "
            "the network, or name a folder that holds it with root=... or ADVLIB_DATA."
        ) from error
    x = torch.as_tensor(np.asarray(data.data))[:n]
    x = x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2)
    y = torch.as_tensor(data.targets)[:n].long()
    return x.to(device).float().div(255).contiguous(), y.to(device)
