"""Torchvision's ImageNet networks, wrapped to take pixels in [0, 1]."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from advlib.download import fetch
from advlib.errors import InputError, WeightsError

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

# These two were trained with extra outputs and on differently scaled pixels; torchvision's own
# loader sets the same.
_SETTINGS = {
    "googlenet": {"aux_logits": True, "transform_input": True, "init_weights": False},
    "inception_v3": {"aux_logits": True, "transform_input": True, "init_weights": False},
}


class Normalised(nn.Module):
    r"""A network behind its own normalisation, so that the attacker works on pixels in [0, 1].

    .. math:: f(x) = \mathrm{net}\left(\frac{x - \mathrm{mean}}{\mathrm{std}}\right)

    Normalisation outside the model is the classic way to get epsilon wrong: a step of 0.01 in
    normalised units is 0.0022 to 0.0023 in ImageNet's pixels.

    Parameters
    ----------
    net
        Takes normalised pictures (n, channels, h, w), returns logits (n, classes).
    mean, std
        One value per channel, in units of pixels in [0, 1].
    categories
        Names of the classes, or nothing.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        categories: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.net = net
        self.categories = tuple(categories)
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of pictures (n, channels, h, w) with pixels in [0, 1]."""
        return self.net((x - self.mean) / self.std)


def imagenet(
    name: str = "squeezenet1_1",
    *,
    weights: str = "IMAGENET1K_V1",
    device: torch.device | str | None = None,
    progress: bool = True,
) -> Normalised:
    """Pretrained ImageNet network of torchvision, in eval mode, for pixels in [0, 1].

    The weights are looked for where torch keeps them (``$TORCH_HOME/hub/checkpoints``, by default
    ``~/.cache/torch/hub/checkpoints``), and downloaded to there if they are not.

    Parameters
    ----------
    name
        One of torchvision's classification networks: ``"squeezenet1_1"`` (5 MB),
        ``"mobilenet_v2"``, ``"resnet50"``, ``"vit_b_16"``, ...
    weights
        Which of the network's weights.
    device
        Where to put it. None: the CPU.
    progress
        Show a progress bar while downloading.

    Returns
    -------
    Normalised
        Logits (n, 1000) from pictures (n, 3, h, w); `categories` holds the names of the classes.
        Photographs are prepared by `advlib.data.photograph`.

    Raises
    ------
    InputError
        No such network or weights.
    DownloadError
        The weights are not at hand and cannot be had.
    WeightsError
        The file is damaged, or belongs to another network.
    """
    choice = _weights(name, weights)
    file = choice.url.rsplit("/", 1)[-1]
    path = fetch(choice.url, cache_folder() / file, _digits(file), progress=progress)
    state = _read(path)
    # Building a network draws its first weights; the caller's random state must not notice.
    with torch.random.fork_rng(devices=[]):
        from torchvision.models import get_model

        net = get_model(name, weights=None, **_SETTINGS.get(name, {}))
    try:
        net.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise WeightsError(
            f"{path} does not hold weights of {name}: {str(error)[:200]} "
            "Delete the file; it will be fetched again."
        ) from error
    transform = choice.transforms()
    model = Normalised(net, transform.mean, transform.std, choice.meta["categories"])
    return model.to(device).eval() if device is not None else model.eval()


def cache_folder() -> Path:
    """Where torch keeps pretrained weights: ``$TORCH_HOME/hub/checkpoints``."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def _weights(name: str, weights: str) -> "WeightsEnum":
    """Torchvision's entry for the pretrained weights, which knows address, classes and pixels."""
    import torchvision.models as zoo

    known = zoo.list_models(module=zoo)
    if name not in known:
        raise InputError(
            f"{name!r} is not a classification network of torchvision; for example "
            f'"squeezenet1_1", "mobilenet_v2" or one of {len(known)} others is expected, see '
            "torchvision.models.list_models(module=torchvision.models)."
        )
    choices = zoo.get_model_weights(name)
    if weights not in choices.__members__:
        raise InputError(
            f"{name} has no weights {weights!r}; one of {sorted(choices.__members__)} is expected."
        )
    return choices[weights]


def _digits(file: str) -> str:
    """First digits of the SHA-256, which torchvision writes into the name: name-b8a52dc0.pth."""
    return os.path.splitext(file)[0].rsplit("-", 1)[-1]


def _read(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, pickle and torch each have their own for damaged bytes
        raise WeightsError(
            f"{path} cannot be read as weights ({type(error).__name__}: {str(error)[:120]}). "
            "It is damaged or cut short: delete the file; it will be fetched again."
        ) from error
    if not isinstance(state, dict):
        raise WeightsError(
            f"{path} holds a {type(state).__name__} instead of named weights. "
            "Delete the file; it will be fetched again."
        )
    return state
