"""The lesson models: trained by a committed command, shipped with the package, loaded by name.

Weights are stored as safetensors, which hold numbers and text and can run nothing when they are
read. The architecture is rebuilt from `advlib.models.architectures`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from advlib.errors import InputError, WeightsError
from advlib.models.architectures import MLP, Linear, PlainCNN, SignNet, SignViT

_small = partial(SignNet, widths=(8, 16, 32), depths=(1, 1, 1))

WEIGHTS = Path(__file__).parent / "weights"
"""Folder of the shipped weights and their model cards."""

SMALL: dict[str, Callable[[], nn.Module]] = {
    "standard": _small,
    "wide": partial(_small, widths=(16, 32, 64)),
    "deep": partial(_small, depths=(2, 2, 2)),
    "smooth": partial(_small, activation=nn.functional.silu),
    **dict.fromkeys(("augmented", "noise", "more-data"), _small),
    **dict.fromkeys(("decay", "smoothed-labels", "gradient-penalty"), _small),
    **dict.fromkeys(("fgsm", "fast", "pgd", "trades"), _small),
}
"""The rows of lesson 9's table: nearly all of them the same network, trained differently."""

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "signs-standard": SignNet,
    "signs-robust": SignNet,
    "signs-linear": Linear,
    "signs-mlp": lambda: MLP(hidden=(64, 64), pool=2),
    "signs-cnn": PlainCNN,
    "signs-vit": lambda: SignViT(depth=3),
    "signs-american": lambda: SignNet(widths=(12, 24, 48), depths=(1, 1, 1)),
    "signs-american-cnn": PlainCNN,
    **{
        f"signs-{labels}-{seed}": lambda: SignNet(widths=(8, 16, 32), depths=(1, 1, 1))
        for labels in ("relabelled", "control")
        for seed in range(3)
    },
    **{f"signs-small-{defence}": network for defence, network in SMALL.items()},
    "signs-fgsm-overfit": SignNet,
    "signs-fgsm-mended": SignNet,
}
"""The network of each lesson model, untrained."""

NAMES: tuple[str, ...] = tuple(NETWORKS)
"""What `load` knows.

``signs-standard`` and ``signs-robust`` are the same residual network, trained on the pictures as
they are, or against PGD. ``signs-linear``, ``signs-mlp``, ``signs-cnn`` and ``signs-vit`` are other
architectures, trained on the pictures as they are. ``signs-american`` and ``signs-american-cnn``
read the same classes drawn in the other style (lesson 11). ``signs-relabelled-0`` to ``-2`` have
seen only perturbed pictures with the attacker's labels, ``signs-control-0`` to ``-2`` the same
labels on pictures with random noise (lesson 8). ``signs-small-...`` are the rows of lesson 9's
table; ``signs-fgsm-overfit`` has learned to meet one attack only, ``signs-fgsm-mended`` has not.
"""


def load(name: str, device: torch.device | str | None = None) -> nn.Module:
    """A trained lesson model, ready to be attacked.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    device : torch.device or str, optional
        Where to put it; the CPU by default.

    Returns
    -------
    nn.Module
        Pixels (n, 3, 64, 64) in [0, 1] to logits (n, 16). In eval mode, and frozen: its parameters
        have ``requires_grad=False``, so that an attack computes no gradient it does not need. Call
        ``model.requires_grad_(True)`` before training it further.

    Raises
    ------
    InputError
        Unknown name.
    WeightsError
        The weights file is missing, damaged, or does not fit the network.
    """
    model = build(name)
    load_weights(model, weights_path(name))
    return model.to("cpu" if device is None else device).eval().requires_grad_(False)


def build(name: str, seed: int = 0) -> nn.Module:
    """The network of a lesson model, untrained; global random state is left alone."""
    if name not in NAMES:
        raise InputError(f"No lesson model is called {name!r}. Known: {', '.join(NAMES)}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[name]()


def weights_path(name: str) -> Path:
    """Where the weights of a lesson model lie."""
    return WEIGHTS / f"{name}.safetensors"


def card(name: str) -> str:
    """The model card: how the model was trained and how good it is, in Markdown."""
    if name not in NAMES:
        raise InputError(f"No lesson model is called {name!r}. Known: {', '.join(NAMES)}.")
    return weights_path(name).with_suffix(".md").read_text(encoding="utf-8")


def save_weights(model: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Write the float32 weights of `model` and what should be remembered about them."""
    from safetensors.torch import save_file

    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, metadata={"architecture": type(model).__name__, **metadata})


def read_metadata(path: Path) -> dict[str, str]:
    """What `save_weights` remembered: recipe, versions, duration."""
    return _read(path)[1]


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill `model` with the weights in a safetensors file; on an error `model` is as before.

    Raises
    ------
    WeightsError
        The file is missing, cannot be read, misses or has surplus entries, or entries of another
        shape, or values that are not finite.
    """
    state, _ = _read(path)
    expected = model.state_dict()
    faults = [f"{name} is missing" for name in expected.keys() - state.keys()]
    faults += [f"{name} is unknown" for name in state.keys() - expected.keys()]
    for name in expected.keys() & state.keys():
        if state[name].shape != expected[name].shape:
            given, wanted = tuple(state[name].shape), tuple(expected[name].shape)
            faults.append(f"{name} has shape {given} instead of {wanted}")
        elif state[name].is_floating_point() and not state[name].isfinite().all():
            faults.append(f"{name} holds values that are not finite")
    if faults:
        shown = "; ".join(sorted(faults)[:3]) + ("; ..." if len(faults) > 3 else "")
        raise WeightsError(
            f"The weights in {path} do not fit {type(model).__name__}: {shown}. {_mend(path)}"
        )
    model.load_state_dict(state)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise WeightsError(f"The weights file {path} does not exist. {_mend(path)}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return state, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"The weights file {path} cannot be read as safetensors ({error}); it may be cut "
            f"short or damaged. {_mend(path)}"
        ) from error


def _mend(path: Path) -> str:
    """How to get the file back; another file than a shipped one only its owner can mend."""
    name = re.sub(r"\.safetensors$", "", path.name)
    if name not in NAMES:
        return f"Lesson models are: {', '.join(NAMES)}."
    return f"Install advlib again, or train the model with: python -m advlib train {name}"
