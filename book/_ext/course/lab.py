"""Write what the Live Lab needs: networks, images, its opening state, scripts.

Everything comes from the shipped weights and the renderer, so none
of it is committed. All of it is the same each time.

    weights.bin    both networks, float32: length of the header, header (JSON), numbers
    weights.js     the same as a script, for a page opened from disk, which may not fetch
    images.js      the images to choose from, as a script
    lab.js         the modules of book/assets/lab as one classic script
    lab.png        what readers without scripts see

The brush of lesson 7 is part of the same script and uses the same files.
"""

from __future__ import annotations

import json
import re
import struct
from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import advlib
from advlib import gradients, plots
from advlib.analysis import attribution
from advlib.analysis.map_comparison import per_pixel
from advlib.data import signs
from advlib.evaluation import predict
from advlib.models.architectures import PIXEL_MEAN, PIXEL_SCALE, Block, SignNet

MODULES = Path(__file__).resolve().parents[2] / "assets" / "lab"
PROGRESS = Path(__file__).resolve().parents[3] / "advlib" / "widgets" / "progress.js"
"""What the browser keeps of the reader's scores; the widgets use it, too."""
IN_WORKER = ("layers", "network", "attacks", "engine")
IN_PAGE = (
    *("settings", "upload", "files", "ports", "load", "view", "address", "figure", "panel"),
    *("round", "brush", "lab"),
)
"""The modules, each behind those that it imports. The engine's run in a Worker."""

NETWORKS = {"standard": "signs-standard", "robust": "signs-robust"}
SEED = 81
IMAGES_PER_CLASS = 2
OPENING_CLASS, OPENING_VARIANT, OPENING_STOP = "stop", 1, 4
"""What the lab shows first: which image, and epsilon in 255ths."""
EPS = [i / 255 for i in range(13)]
"""The stops of the slider in L-infinity; `settings.mjs` has the same."""
BRUSH_CLASS, BRUSH_VARIANT = "speed limit 130", 1
"""What the brush shows first."""
BRUSH_MOST = 409
"""How many pixels the reader may choose: a tenth of the image."""


class Packed:
    """Numbers one after the other, and the place where each array begins."""

    def __init__(self, dtype: str = "<f4") -> None:
        self.dtype = dtype
        self.parts: list[np.ndarray] = []
        self.count = 0

    def put(self, values: Tensor) -> int:
        """Append the values; return their place."""
        self.parts.append(values.detach().cpu().numpy().astype(self.dtype).ravel())
        self.count += values.numel()
        return self.count - values.numel()

    def file(self, header: dict[str, Any]) -> bytes:
        """Length of the header in four bytes, header (JSON), numbers: all little-endian."""
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)  # numbers begin at a multiple of four bytes
        return b"".join((struct.pack("<I", len(text)), text, *(p.tobytes() for p in self.parts)))


def weights() -> bytes:
    """Both networks in one file that `load.mjs` reads.

    Returns
    -------
    bytes
        What `Packed.file` returns. The header describes the layers and counts the numbers: a file
        that was cut short is noticed.
    """
    packed = Packed()
    networks = {
        name: describe(advlib.models.load(model), packed) for name, model in NETWORKS.items()
    }
    header = {"networks": networks, "numbers": packed.count, "shape": [64, 64, 3]}
    return packed.file(header)


def describe(model: nn.Module, packed: Packed) -> list[dict[str, Any]]:
    """The layers of a `SignNet` as data; its numbers go into `packed`.

    Raises
    ------
    TypeError
        Another network: `network.mjs` knows only these layers.
    """
    if not isinstance(model, SignNet):
        raise TypeError(f"The lab runs a SignNet; {type(model).__name__} has other layers.")
    layers = [{"op": "centre", "mean": PIXEL_MEAN, "scale": PIXEL_SCALE}]
    layers += [_conv(model.stem, model.norm, packed), {"op": "relu"}]
    for block in model.blocks:
        layers += _block(block, packed)
    return [*layers, {"op": "average"}, _linear(model.head, packed)]


def _block(block: nn.Module, packed: Packed) -> list[dict[str, Any]]:
    assert isinstance(block, Block)
    main = [
        _conv(block.conv1, block.norm1, packed),
        {"op": "relu"},
        _conv(block.conv2, block.norm2, packed),
    ]
    shortcut: list[dict[str, Any]] = []
    if isinstance(block.shortcut, nn.Sequential):
        pool, conv = block.shortcut
        assert isinstance(pool, nn.AvgPool2d) and isinstance(conv, nn.Conv2d)
        shortcut = [{"op": "average", "side": pool.kernel_size}, _conv(conv, None, packed)]
    return [{"op": "sum", "branches": [main, shortcut]}, {"op": "relu"}]


def _conv(conv: nn.Conv2d, norm: nn.BatchNorm2d | None, packed: Packed) -> dict[str, Any]:
    layer: dict[str, Any] = {
        "op": "conv",
        "out": conv.out_channels,
        "kernel": conv.kernel_size[0],
        "stride": conv.stride[0],
        "padding": int(conv.padding[0]),
        # Channels last, as the pixels of a canvas.
        "weight": packed.put(conv.weight.permute(0, 2, 3, 1)),
    }
    if conv.bias is not None:
        layer["bias"] = packed.put(conv.bias)
    if norm is not None:
        parts = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        layer["norm"] = {
            "eps": norm.eps,
            "places": [packed.put(part) for part in parts if part is not None],
        }
    return layer


def _linear(linear: nn.Linear, packed: Packed) -> dict[str, Any]:
    return {
        "op": "linear",
        "out": linear.out_features,
        "weight": packed.put(linear.weight),
        "bias": packed.put(linear.bias),
    }


# -- images --------------------------------------------------------------------------------------


@cache
def images() -> tuple[Tensor, Tensor]:
    """The images to choose from, rounded to 8 bits as the page has them, class by class.

    Returns
    -------
    x : Tensor (n, 3, 64, 64), float32, multiples of 1/255
    y : Tensor (n,)
    """
    classes = range(len(signs.CLASS_NAMES))
    labels = [y for y in classes for _ in range(IMAGES_PER_CLASS)]
    x, y = signs.render(len(labels), seed=SEED, labels=labels)
    return (x * 255).round() / 255, y


def pixels(x: Tensor) -> str:
    """Images (n, 3, h, w) as base64 of their bytes, pixel by pixel, red, green, blue."""
    values = (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    return b64encode(values.numpy().tobytes()).decode()


# -- opening state ---------------------------------------------------------------------------------


def opening() -> dict[str, Any]:
    """What the lab shows before its networks are there: FGSM on one image, for every epsilon.

    FGSM's direction is the same for every epsilon. So the page itself draws ``x + eps * direction``
    and needs from here only the direction and what the networks make of it.
    """
    x, y = images()
    place = _opening_place()
    x, y = x[place : place + 1], y[place : place + 1]
    return {
        "image": place,
        "y": int(y),
        "eps": OPENING_STOP,
        "pixels": pixels(x),
        "classes": list(signs.CLASS_NAMES),
        "variants": IMAGES_PER_CLASS,
        "networks": {
            name: _stored(advlib.models.load(model), x, y) for name, model in NETWORKS.items()
        },
    }


def _opening_place() -> int:
    return signs.CLASS_NAMES.index(OPENING_CLASS) * IMAGES_PER_CLASS + OPENING_VARIANT


def _stored(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Any]:
    # In double precision, as the page computes: the gradient of a very small loss needs it.
    model, x = model.double(), x.double()
    grad = gradients.input_gradient(model, x, y).grad
    direction = grad.sign().to(torch.int8).permute(0, 2, 3, 1).contiguous()
    moved = torch.cat([advlib.fgsm(model, x, y, eps) for eps in EPS])
    logits = predict(model, moved)
    losses = nn.functional.cross_entropy(logits, y.expand(len(EPS)), reduction="none")
    return {
        "direction": b64encode(direction.numpy().tobytes()).decode(),
        "probabilities": [[round(p, 6) for p in row] for row in logits.softmax(1).tolist()],
        "losses": [round(loss, 5) for loss in losses.tolist()],
    }


def still(path: Path) -> str:
    """Draw the opening state for readers without scripts; return its alternative text."""
    x, y = images()
    place, eps = _opening_place(), EPS[OPENING_STOP]
    x, y = x[place : place + 1], y[place : place + 1]
    x = x.double()
    columns: list[plots.Column] = []
    predicted = []
    for name, title in NETWORKS.items():
        model = advlib.models.load(title).double()
        x_adv = advlib.fgsm(model, x, y, eps)
        probabilities = predict(model, x_adv).softmax(1)[0]
        predicted.append(signs.CLASS_NAMES[int(probabilities.argmax())])
        columns.append((f"{name} network", x_adv, probabilities, "adversarial"))
    figure = plots.story(columns, signs.CLASS_NAMES, original=x, factor=10)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    return (
        f"A {OPENING_CLASS} sign after FGSM within {OPENING_STOP}/255. "
        f"The standard network classifies it as {predicted[0]}, the robust one as {predicted[1]}."
    )


# -- the brush of lesson 7 -------------------------------------------------------------------------


def brush() -> dict[str, Any]:
    """What the brush needs besides network and images: choices of pixels, the best ones first.

    Those that support the answer are chosen for each image. One choice for all images are the
    pixels that are steep on average over other signs, a disc in the middle, and random ones.
    """
    x, y = images()
    model = advlib.models.load(NETWORKS["standard"])
    blurred = attribution.blurred(x, 31)
    shares = attribution.integrated_gradients(model, x, y, blurred, 16)
    others, labels = signs.render(128, seed=SEED + 1)
    steep = per_pixel(attribution.saliency(model, others, labels)).mean(0)
    at = torch.arange(64) - 31.5
    maps = {
        "support": per_pixel(shares, "signed"),
        "steep": steep,
        "disc": -(at[:, None] ** 2 + at**2),
        "random": torch.rand(64, 64, generator=torch.Generator().manual_seed(SEED)),
    }
    place = signs.CLASS_NAMES.index(BRUSH_CLASS) * IMAGES_PER_CLASS + BRUSH_VARIANT
    return {
        "image": place,
        "pixels": pixels(x[place : place + 1]),
        "classes": list(signs.CLASS_NAMES),
        "variants": IMAGES_PER_CLASS,
        "most": BRUSH_MOST,
        "orders": {name: _order(values) for name, values in maps.items()},
    }


def _order(maps: Tensor) -> str:
    """The first pixels of one map or several, as base64 of two bytes each."""
    order = maps.reshape(-1, 64 * 64).sort(dim=1, descending=True, stable=True).indices
    return b64encode(order[:, :BRUSH_MOST].numpy().astype("<u2").tobytes()).decode()


# -- scripts ---------------------------------------------------------------------------------------

_IMPORT = re.compile(r'^import \{[^}]*\} from "\.[./a-z]*/[a-z]+\.mjs";\n', re.MULTILINE)
_NAME = re.compile(r"^(?:async )?(?:function\*?|const|let|class) (\w+)", re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:async )?(?:function|const|class)\b)", re.MULTILINE)
_COMMENT = re.compile(r"^ *(?://.*|/\*\*(?:[^*]|\*(?!/))*\*/)\n", re.MULTILINE)
"""Whole lines; readers of the code find them in the book's repository."""


def bundle(worker: Sequence[str], page: Sequence[str]) -> str:
    """The modules as one classic script: a page opened from disk may not load modules.

    Those of the worker stand in a function of their own, whose text is also what a Worker runs.

    Raises
    ------
    ValueError
        A module imports or exports in a way that this cannot rewrite, or two of them use one name.
    """
    return (
        '"use strict";\n(() => {\n'
        f"function engineScope(port) {{\n{_joined(worker)}\nserve(port, openNetwork);\n}}\n"
        f"{_joined(page)}\nstart(engineScope, progress);\n}})();\n"
    )


def _joined(modules: Sequence[str]) -> str:
    """The modules in one scope."""
    scope = "\n".join(_EXPORT.sub("", _IMPORT.sub("", text)) for text in modules)
    scope = _COMMENT.sub("", scope)
    left = re.search(r"^(?:import|export)\b.*", scope, re.MULTILINE)
    if left:
        raise ValueError(f"The lab's modules cannot be joined: {left[0]!r}")
    names = _NAME.findall(scope)
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"Two of the lab's modules use the same name: {', '.join(twice)}")
    return scope


def write(folder: Path) -> str:
    """Write the lab's files into `folder`; return the alternative text of its still image."""
    folder.mkdir(parents=True, exist_ok=True)
    network = weights()
    (folder / "weights.bin").write_bytes(network)
    (folder / "weights.js").write_text(assignment("weights", b64encode(network).decode()))
    (folder / "images.js").write_text(assignment("images", pixels(images()[0])))
    (folder / "lab.js").write_text(_script(), encoding="utf-8")
    return still(folder / "lab.png")


def _script() -> str:
    worker, page = (
        [(MODULES / f"{name}.mjs").read_text(encoding="utf-8") for name in names]
        for names in (IN_WORKER, IN_PAGE)
    )
    return bundle(worker, [PROGRESS.read_text(encoding="utf-8"), *page])


def assignment(name: str, value: Any) -> str:
    """A script that leaves `value` where `files.mjs` looks for it."""
    return f"(window.advlibLab ??= {{}}).{name} = {json.dumps(value, separators=(',', ':'))};\n"
