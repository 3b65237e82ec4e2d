"""The classic data sets of torchvision as tensors: MNIST, Fashion-MNIST, CIFAR-10."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advlib.data.download import fetch
from advlib.errors import DownloadError, InputError


@dataclass(frozen=True)
class Source:
    """Where a data set comes from; torchvision has some only at addresses without https."""

    kind: str
    """Its class in torchvision."""
    folder: str
    """Where torchvision looks for its archives."""
    address: str
    files: tuple[str, ...]
    """The archives there."""
    sha256: tuple[str, ...]
    """The hash of each archive."""


_IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)

SOURCES = {
    "mnist": Source(
        "MNIST",
        "MNIST/raw",
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        _IDX_FILES,
        (
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    ),
    "fashion-mnist": Source(
        "FashionMNIST",
        "FashionMNIST/raw",
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion",
        _IDX_FILES,
        (
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
    "cifar10": Source(
        "CIFAR10",
        "",
        "https://www.cs.toronto.edu/~kriz",
        ("cifar-10-python.tar.gz",),
        ("6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",),
    ),
}


def classic(
    name: str,
    *,
    train: bool = False,
    n: int | None = None,
    root: str | os.PathLike | None = None,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Images and classes of a data set that many papers measure on.

    Parameters
    ----------
    name
        ``"mnist"``, ``"fashion-mnist"`` or ``"cifar10"``.
    train, n
        The training images instead of the test images; only the first `n` (None: all).
    root
        Folder where torchvision keeps the data set. What is missing is downloaded to it, over https
        and checked by its SHA-256. None: ``$ADVLIB_DATA``, or ``~/.cache/advlib``.
    device
        Where to put the tensors. None: the CPU.

    Returns
    -------
    (x, y) : tuple of Tensor
        `x` (n, 1, 28, 28) or (n, 3, 32, 32), float32 in [0, 1]; `y` (n,), int64.

    Raises
    ------
    InputError, DownloadError
        There is no such data set; it is not in `root` and cannot be downloaded.
    """
    if name not in SOURCES:
        raise InputError(f"there is no data set {name!r}; one of {sorted(SOURCES)} is expected.")
    source = SOURCES[name]
    folder = Path(root or os.environ.get("ADVLIB_DATA") or Path.home() / ".cache" / "advlib")
    try:
        data = _open(source, folder, train)
    except (OSError, RuntimeError) as error:
        raise DownloadError(
            f"{source.kind} is not in {folder} and could not be fetched "
            f"({error.__cause__ or error}). Connect to the network, or name a folder that holds "
            "it with root=... or ADVLIB_DATA."
        ) from error
    x = torch.as_tensor(np.asarray(data.data))[:n]
    x = x[:, None] if x.ndim == 3 else x.permute(0, 3, 1, 2)
    y = torch.as_tensor(data.targets)[:n].long()
    return x.to(device).float().div(255).contiguous(), y.to(device)


def _open(source: Source, folder: Path, train: bool) -> Any:
    """Open a data set with torchvision; fetch and unpack its archives first if need be."""
    from torchvision import datasets
    from torchvision.datasets.utils import extract_archive

    kind = getattr(datasets, source.kind)
    try:
        return kind(str(folder), train=train)
    except RuntimeError:  # not there, or not whole
        where = folder / source.folder
        for file, sha256 in zip(source.files, source.sha256, strict=True):
            fetch(f"{source.address}/{file}", where / file, sha256, check=True)
            extract_archive(str(where / file), str(where))
    return kind(str(folder), train=train)
