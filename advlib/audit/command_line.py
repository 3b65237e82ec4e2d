"""The command ``python -m advlib audit``: which model, which images, and what is printed."""

import argparse
import datetime
import importlib.util
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advlib import models
from advlib.audit.plan import LEVELS
from advlib.audit.run import AuditInterrupted, audit
from advlib.audit.sources import Stream, stream
from advlib.contracts import Model, best_device
from advlib.data import classic, signs
from advlib.errors import InputError
from advlib.threats import NORMS

TIMEOUT = datetime.timedelta(minutes=30)
"""How long a process waits for another that neither answers nor disconnects."""

_BLOCK_SIZE = 256  # signs are rendered in blocks, each from a seed of its own
_FIRST_SEED = 4_000_000  # of the first block: no shipped model was trained on these signs


_MODEL = (
    "a lesson model (signs-standard, signs-robust, ...), efficientnet_lite0, torchvision:NAME, "
    "published:NAME, or FILE.py:FUNCTION, a function that returns a model"
)
_DATA = (
    "signs:N, mnist[:N], fashion-mnist[:N], cifar10[:N], a .safetensors or .npz file with x and y, "
    "or a folder: of photographs for an ImageNet model, else with one folder of images per class"
)
_OUT = (
    "folder for card.html, .md, .json, .png and finished pieces; the same command goes on after "
    "an interruption"
)


def add_parser(commands: Any) -> None:
    """Add ``audit`` to the commands of ``python -m advlib``."""
    words = "attack a classifier in every way there is here and write a robustness card"
    add = commands.add_parser("audit", help=words, description=words).add_argument
    add("--model", required=True, help=_MODEL)
    add("--data", required=True, help=_DATA)
    add("--eps", type=_number, default=8 / 255, help="budget in units of pixels: 4/255, 0.3")
    add("--norm", choices=tuple(NORMS), default="linf")
    add("--level", choices=LEVELS, default="standard")
    add("--out", type=Path, required=True, help=_OUT)
    add("--batch-size", type=int, help="images at once; 128, and 16 of large ones, by default")
    add("--piece-size", type=int, help="images lost at most by an interruption")
    add("--seed", type=int, default=0)
    add("--name", help="what the card calls the model")
    add("--jpeg", type=int, help="the model sees every image as a JPEG file of this quality, 1-100")
    add("--device", help="cpu, cuda, mps; the best there is by default")
    add("--threads", type=int, help="CPU threads")
    add("--progress", action=argparse.BooleanOptionalAction, help="by default on a terminal")


def run(options: argparse.Namespace) -> int:
    """Run the audit; 0 when it is complete, 130 after Ctrl-C."""
    device = torch.device(options.device) if options.device else best_device()
    with _team():
        if device.type == "cuda" and "LOCAL_RANK" in os.environ:
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        try:
            same = ("eps", "norm", "level", "batch_size", "piece_size", "seed", "jpeg", "progress")
            model = load_model(options.model, device)
            # What knows its classes by name knows what the folders of photographs may be called.
            photos = Path(options.data).is_dir() and bool(getattr(model, "categories", ()))
            result = audit(
                model,
                options.data if photos else load_data(options.data),
                name=options.name or options.model,
                report=options.out,
                **{name: getattr(options, name) for name in same},
            )
        except AuditInterrupted as interruption:
            print(f"advlib: {interruption}", file=sys.stderr)
            return 130
        except KeyboardInterrupt:
            print("advlib: interrupted outside the attacks; nothing is lost.", file=sys.stderr)
            return 130
        if os.environ.get("RANK", "0") == "0":
            print(result)
            print(f"wrote {options.out / 'card.html'}, card.md, card.json and card.png")
    return 0


def load_model(name: str, device: torch.device | str = "cpu") -> Model:
    """The model that ``--model`` names, on `device`. A ``FILE.py`` is run: give only your own."""
    kind, _, rest = name.rpartition(":")
    if name in models.NAMES:
        return models.load(name, device)
    if kind == "torchvision" or name == "efficientnet_lite0":
        return models.imagenet(rest, device=device, progress=sys.stderr.isatty())
    if kind == "published":
        from advlib.models.published import published

        return published(rest, device=device)
    if name.lower().endswith(".onnx"):
        raise InputError(
            f"{name!r} is an ONNX file, which a runtime can only run forward: there is no gradient "
            "to attack. Give the PyTorch model it was exported from, as FILE.py:FUNCTION."
        )
    if kind.endswith(".py"):
        model = _from_file(Path(kind), rest)
        return model.to(device).eval() if isinstance(model, nn.Module) else model
    raise InputError(f"there is no model {name!r}. Expected: {_MODEL}.")


def load_data(name: str) -> Stream:
    """The images that ``--data`` names, read or rendered piece by piece where that saves memory."""
    kind, _, rest = name.partition(":")
    path = Path(name)
    if kind in ("signs", "signs-american"):
        style = "american" if kind == "signs-american" else "vienna"
        return _signs(_count(rest, name) or 1000, style)
    if kind in ("mnist", "fashion-mnist", "cifar10"):
        return replace(stream(*classic(kind, n=_count(rest, name))), name=name)
    if path.suffix in (".safetensors", ".npz"):
        return replace(stream(*_from_tensors(path)), name=path.name)
    if path.is_dir():
        return _folder(path)
    raise InputError(f"there is no data {name!r}. Expected: {_DATA}.")


def _number(text: str) -> float:
    """A number or a fraction, as in ``8/255``."""
    try:
        top, _, bottom = text.partition("/")
        return float(Fraction(top) / Fraction(bottom)) if bottom else float(text)
    except (ValueError, ZeroDivisionError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number; 8/255 or 0.03 is expected"
        ) from None


def _count(text: str, name: str) -> int | None:
    if text and not (text.isascii() and text.isdigit() and int(text) > 0):
        raise InputError(f"{name!r} does not end in a number of images; signs:500 does.")
    return int(text) if text else None


@contextmanager
def _team() -> Iterator[None]:
    """Join the other processes if this one was started by torchrun."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=TIMEOUT)
    try:
        yield
    finally:  # threads that still wait for a lost process would abort this one as it ends
        dist.destroy_process_group()


def _from_file(path: Path, function: str) -> Model:
    if not path.is_file():
        raise InputError(f"there is no file {str(path)!r}; --model FILE.py:FUNCTION names one.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    make = getattr(module, function, None)
    if isinstance(make, nn.Module):
        return make
    if not callable(make):
        raise InputError(f"{str(path)!r} has no function {function!r} that returns a model.")
    return make()


def _from_tensors(path: Path) -> tuple[Tensor, Tensor]:
    """`x` and `y` of a file; neither kind of file can run anything when it is read."""
    from safetensors import SafetensorError, safe_open

    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return torch.from_numpy(arrays["x"]), torch.from_numpy(arrays["y"])
        with safe_open(path, framework="pt") as file:
            return file.get_tensor("x"), file.get_tensor("y")
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(
            f"{str(path)!r} cannot be read ({error}); a file with the arrays x (n, c, h, w), "
            "floating point in [0, 1], and y (n,), integer, is expected."
        ) from None


def _signs(count: int, style: str) -> Stream:
    def read(start: int, stop: int) -> tuple[Tensor, Tensor]:
        blocks = range(start // _BLOCK_SIZE, -(-stop // _BLOCK_SIZE))
        seeds = [_FIRST_SEED + block for block in blocks]
        drawn = [signs.render(_BLOCK_SIZE, seed=seed, style=style) for seed in seeds]
        skip = start - blocks[0] * _BLOCK_SIZE
        x, y = (torch.cat(parts)[skip : skip + stop - start] for parts in zip(*drawn, strict=True))
        return x, y

    return Stream(read, count, f"signs ({style}), rendered from seed {_FIRST_SEED}")


def _folder(path: Path) -> Stream:
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import ToTensor

    try:
        data = ImageFolder(str(path), transform=ToTensor())
    except (FileNotFoundError, RuntimeError) as error:
        raise InputError(
            f"{str(path)!r} holds no images: {str(error).splitlines()[0]} One folder of "
            "images per class, named so that their order is the model's, is expected."
        ) from None
    return replace(stream(data, None), name=path.name)
