"""The lesson models: trained by a committed command, shipped with the package, loaded by name.

Weights are stored as safetensors: numbers and text, no code. The networks themselves are those of
`advlib.models.architectures`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from advlib.errors import InputError, WeightsError
from advlib.models.architectures import MLP, Denoiser, Linear, PlainCNN, SignNet, SignViT
from advlib.models.files import built

_small = partial(SignNet, widths=(8, 16, 32), depths=(1, 1, 1))
_mlp = partial(MLP, hidden=(64, 64), pool=2)

WEIGHTS = Path(__file__).parent / "weights"
"""Folder of the shipped weights and their model cards."""

STUDENTS = {"rand": 10, "noise": 10, "hidden": 3, "det": 10, "det-noise": 10}
"""How many networks of lesson 8 there are of each kind."""

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "signs-standard": SignNet,
    "signs-robust": SignNet,
    "signs-linear": Linear,
    "signs-mlp": _mlp,
    "signs-cnn": PlainCNN,
    "signs-vit": partial(SignViT, depth=3),
    "signs-american": partial(_small, widths=(12, 24, 48)),
    "signs-american-cnn": PlainCNN,
    **{
        f"signs-student-{kind}-{seed}": _small
        for kind, count in STUDENTS.items()
        for seed in range(1, count + 1)
    },
    "signs-small-standard": _small,
    "signs-small-wide": partial(_small, widths=(16, 32, 64)),
    "signs-small-deep": partial(_small, depths=(2, 2, 2)),
    "signs-small-smooth": partial(_small, activation=nn.functional.silu),
    **{f"signs-small-{how}": _small for how in ("augmented", "noise", "more-data", "decay")},
    **{f"signs-small-{how}": _small for how in ("smoothed-labels", "gradient-penalty")},
    **{f"signs-small-{how}": _small for how in ("fgsm", "fast", "pgd", "pgd7", "trades")},
    **{f"signs-small-standard-{seed}": _small for seed in (1, 2)},
    **{f"signs-small-child-{seed}": _small for seed in range(3)},
    "signs-small-pgd-1": _small,
    **{f"signs-mlp-{how}": _mlp for how in ("pgd", "pgd-early", "pgd-more-data", "interval")},
    "signs-fgsm-overfit": SignNet,
    "signs-fgsm-mended": SignNet,
    "signs-denoiser": Denoiser,
}
"""The network of each lesson model, untrained."""

NAMES: tuple[str, ...] = tuple(NETWORKS)
"""What `load` knows.

``signs-standard`` and ``signs-robust`` are the same residual network, trained on clean images and
against PGD. ``signs-linear``, ``signs-mlp``, ``signs-cnn`` and ``signs-vit`` are other
architectures, trained on clean images. ``signs-american`` and ``signs-american-cnn`` classify signs
drawn in the other style (lesson 11). ``signs-student-...`` were trained on perturbed images with
the attacker's labels only, or on noisy ones (lesson 8). ``signs-small-...`` are the rows of lesson
9's table, but ``signs-small-standard-1`` and ``-2`` and ``signs-small-child-0`` to ``-2``, the
families of lesson 11. Also in lesson 9: ``signs-mlp-pgd``, its best epoch ``-early``, and
``-more-data``; ``signs-mlp-interval``, which has certificates; ``signs-fgsm-overfit``, which
overfits to FGSM, and ``signs-fgsm-mended``. ``signs-denoiser`` takes images to images.
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
        Pixels (n, 3, 64, 64) in [0, 1] to logits (n, 16). In eval mode, and frozen: attacks need no
        gradients of its parameters. Call ``model.requires_grad_(True)`` before training it further.

    Raises
    ------
    InputError, WeightsError
        Unknown name; weights that are missing, damaged, or do not fit the network.
    """
    model = build(name)
    load_weights(model, weights_path(name))
    return model.to("cpu" if device is None else device).eval().requires_grad_(False)


def build(name: str, seed: int = 0) -> nn.Module:
    """The network of a lesson model, untrained; global random state is left alone."""
    _check_name(name)
    return built(NETWORKS[name], seed)


def weights_path(name: str) -> Path:
    """Where the weights of a lesson model lie."""
    return WEIGHTS / f"{name}.safetensors"


def card(name: str) -> str:
    """The model card: how the model was trained and how good it is, in Markdown."""
    _check_name(name)
    return weights_path(name).with_suffix(".md").read_text(encoding="utf-8")


def save_weights(model: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Write the weights of `model`, and `metadata` about them, as safetensors."""
    from safetensors.torch import save_file

    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path, metadata={"architecture": type(model).__name__, **metadata})


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata in a file of `save_weights`: recipe, versions, duration."""
    return _read(path)[1]


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a safetensors file into `model`, or raise `WeightsError` and leave `model` as it is."""
    state, _ = _read(path)
    expected = model.state_dict()
    faults = [f"{name} is missing" for name in expected.keys() - state.keys()]
    faults += [f"{name} is unknown" for name in state.keys() - expected.keys()]
    for name in expected.keys() & state.keys():
        given, wanted = tuple(state[name].shape), tuple(expected[name].shape)
        if given != wanted:
            faults.append(f"{name} has shape {given} instead of {wanted}")
        elif not state[name].isfinite().all():
            faults.append(f"{name} holds values that are not finite")
    if faults:
        shown = "; ".join(sorted(faults)[:3]) + ("; ..." if len(faults) > 3 else "")
        raise WeightsError(
            f"The weights in {path} do not fit {type(model).__name__}: {shown}. {_advice(path)}"
        )
    model.load_state_dict(state)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise WeightsError(f"The weights file {path} does not exist. {_advice(path)}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return state, dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"The weights file {path} cannot be read as safetensors ({error}); it may be cut "
            f"short or damaged. {_advice(path)}"
        ) from error


def _advice(path: Path) -> str:
    """How to get a shipped file back."""
    if path.stem not in NAMES:
        return f"Lesson models are: {', '.join(NAMES)}."
    return f"Install advlib again, or train the model with: python -m advlib train {path.stem}"


def _check_name(name: str) -> None:
    if name not in NAMES:
        raise InputError(f"No lesson model is called {name!r}. Known: {', '.join(NAMES)}.")
