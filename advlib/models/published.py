"""Networks that papers released: robust MNIST classifiers.

Nothing is downloaded and nothing is shipped. The authors publish the weights; `published` loads a
file of theirs from ``$ADVLIB_DATA/models``, so that the paper's numbers can be measured again.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from advlib.errors import DownloadError, InputError
from advlib.models.files import built, fill


class Release(NamedTuple):
    """Where a network comes from."""

    build: Callable[[], nn.Module]
    files: tuple[str, ...]
    """Names of the file, in the order in which they are tried."""
    paper: str
    address: str
    """Where the authors publish it."""


class SmallCNN(nn.Module):
    """The MNIST network of TRADES (Zhang et al. 2019, section 5) and of Carlini & Wagner 2017."""

    def __init__(self) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for i, (before, after) in enumerate(pairwise((1, 32, 32, 64, 64)), start=1):
            layers[f"conv{i}"] = nn.Conv2d(before, after, 3)
            layers[f"relu{i}"] = nn.ReLU()
            if i % 2 == 0:
                layers[f"pool{i}"] = nn.MaxPool2d(2)
        self.feature_extractor = nn.Sequential(layers)
        full = OrderedDict(fc1=nn.Linear(1024, 200), relu1=nn.ReLU(), fc2=nn.Linear(200, 200))
        self.classifier = nn.Sequential(full | OrderedDict(relu2=nn.ReLU(), fc3=nn.Linear(200, 10)))

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, 10) of images (n, 1, 28, 28) with pixels in [0, 1]."""
        return self.classifier(self.feature_extractor(x).flatten(1))


def _wong() -> nn.Module:
    """The MNIST network of Wong et al. 2020: two strided convolutions, two full layers."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )


RELEASES: dict[str, Release] = {
    "trades-mnist": Release(
        SmallCNN,
        ("trades_model_mnist_smallcnn.pt", "model_mnist_smallcnn.pt"),
        "Zhang et al. 2019",
        "https://github.com/yaodongyu/TRADES",
    ),
    "wong-mnist": Release(
        _wong,
        ("fast_adversarial_mnist_pgd_madry.pth", "pgd_madry.pth"),
        "Wong et al. 2020",
        "https://github.com/locuslab/fast_adversarial",
    ),
}
"""What `published` knows.

``trades-mnist`` was trained with TRADES against l-infinity changes of 0.3; ``wong-mnist`` with PGD
adversarial training and the settings of Madry et al. (2018), as a baseline of Wong et al. (2020).
"""


def published(
    name: str,
    root: str | os.PathLike | None = None,
    device: torch.device | str | None = None,
) -> nn.Module:
    """A network that a paper released, ready to be attacked.

    Parameters
    ----------
    name
        ``"trades-mnist"`` or ``"wong-mnist"``.
    root
        Folder that holds the file. None: ``$ADVLIB_DATA/models``, or ``~/.cache/advlib/models``.
    device
        Where to put it. None: the CPU.

    Returns
    -------
    nn.Module
        Pixels (n, 1, 28, 28) in [0, 1] to logits (n, 10); in eval mode, and frozen.

    Raises
    ------
    InputError, DownloadError, WeightsError
        Unknown name; no file there; a file that is damaged or of another network.

    References
    ----------
    Zhang et al. 2019, "Theoretically Principled Trade-off between Robustness and Accuracy"; Wong,
    Rice & Kolter 2020, "Fast is better than free: Revisiting adversarial training".
    """
    path = published_path(name, root)
    model = built(RELEASES[name].build)
    fill(model, path, name, f"fetch the file again from {RELEASES[name].address}.")
    return model.to("cpu" if device is None else device).eval().requires_grad_(False)


def published_path(name: str, root: str | os.PathLike | None = None) -> Path:
    """Where the file of a released network lies; the same arguments and errors as `published`."""
    if name not in RELEASES:
        raise InputError(
            f"there is no released network {name!r}; one of {sorted(RELEASES)} is expected."
        )
    release = RELEASES[name]
    cache = Path(os.environ.get("ADVLIB_DATA") or Path.home() / ".cache" / "advlib")
    folder = cache / "models" if root is None else Path(root)
    for file in release.files:
        if (folder / file).is_file():
            return folder / file
    raise DownloadError(
        f"{name} ({release.paper}) is not in {folder}. Its authors publish it at "
        f"{release.address}: put their file there as {' or '.join(release.files)}, or name the "
        "folder that holds it with root=... (or ADVLIB_DATA, whose folder models is searched)."
    )
