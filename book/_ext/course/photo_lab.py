"""Write the Photo Lab's network, EfficientNet-Lite0, and the scripts that run it.

The weights come from an installed package, so none of it is committed. All of it is the same each
time.

    photo.bin    the network: length of the header, header (JSON), numbers in half precision
    photo.js     the same as a script, for a page opened from disk, which may not fetch
"""

from __future__ import annotations

import copy
import hashlib
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advlib.models.efficientnet import PIXEL_MEAN, PIXEL_STD, Block, EfficientNetLite0
from course import lab
from course.lab import Packed

MODULES = Path(__file__).resolve().parents[2] / "assets" / "photolab"
IN_WORKER = (
    *("lab/layers", "photolab/halves", "photolab/slow", "photolab/kernel", "photolab/network"),
    *("photolab/open", "lab/attacks", "lab/engine"),
)
IN_PAGE = ("lab/files", "lab/ports", "photolab/load")
"""The modules, each behind those that it imports. The engine's run in a Worker."""
SIDE = 224
"""Images are square and have this many pixels a side."""


def halved(net: EfficientNetLite0) -> EfficientNetLite0:
    """A copy of the network as the page has it.

    Its batch norms are folded into the convolutions before them, and its weights rounded to half
    precision. What is left of a batch norm adds the bias.
    """
    net = copy.deepcopy(net).eval()
    with torch.no_grad():
        for conv, norm in _convolutions(net):
            assert norm.running_mean is not None and norm.running_var is not None
            factor = norm.weight / (norm.running_var + norm.eps).sqrt()
            conv.weight.copy_((conv.weight * factor[:, None, None, None]).half())
            norm.bias.copy_((norm.bias - norm.running_mean * factor).half())
            norm.weight.fill_(1)
            norm.running_mean.zero_()
            norm.running_var.fill_(1)
            norm.eps = 0
        for values in net.classifier.parameters():
            values.copy_(values.half())
    return net


def _convolutions(net: nn.Module) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Every convolution, with the batch norm behind it."""
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    return zip(convolutions, norms, strict=True)


def weights(net: EfficientNetLite0) -> bytes:
    """A network that `halved` returned, as the file that `halves.mjs` reads."""
    packed = Packed("<f2")
    layers = describe(net, packed)
    header = {"layers": layers, "count": packed.count, "shape": [SIDE, SIDE, 3]}
    return packed.file(header)


def describe(net: EfficientNetLite0, packed: Packed) -> list[dict[str, Any]]:
    """The layers as data; their numbers go into `packed`."""
    layers = [{"op": "centre", "mean": PIXEL_MEAN[0], "scale": 1 / PIXEL_STD[0]}]
    layers += _sequence(net.stem, packed)
    for block in net.blocks:
        assert isinstance(block, Block)
        inside = _sequence(block.layers, packed)
        layers += [{"op": "sum", "branches": [inside, []]}] if block.residual else inside
    layers += [*_sequence(net.head, packed), {"op": "mean"}]
    linear = net.classifier
    return [*layers, _conv(linear.weight[..., None, None], linear.bias, packed)]


def _sequence(modules: Iterable[nn.Module], packed: Packed) -> list[dict[str, Any]]:
    layers: list[dict[str, Any]] = []
    for module in modules:
        if isinstance(module, nn.Conv2d):
            conv = module
        elif isinstance(module, nn.BatchNorm2d):
            layers.append(_conv(conv.weight, module.bias, packed, conv.stride[0], conv.groups))
        elif isinstance(module, nn.ReLU6):
            layers[-1]["relu6"] = True
    return layers


def _conv(
    weight: Tensor, bias: Tensor, packed: Packed, stride: int = 1, groups: int = 1
) -> dict[str, Any]:
    # Channels last, as the pixels of a canvas; where each has a kernel of its own, tap by tap.
    order = (0, 2, 3, 1) if groups == 1 else (2, 3, 0, 1)
    return {
        "op": "conv" if groups == 1 else "depthwise",
        "out": len(weight),
        "kernel": weight.shape[2],
        "stride": stride,
        "weight": packed.put(weight.permute(order)),
        "bias": packed.put(bias),
    }


def write_weights(folder: Path, net: EfficientNetLite0) -> str:
    """Write the network that `halved` returned into `folder`; return the SHA-256 of its file."""
    folder.mkdir(parents=True, exist_ok=True)
    file = weights(net)
    (folder / "photo.bin").write_bytes(file)
    (folder / "photo.js").write_text(lab.assignment("photo", b64encode(file).decode()))
    return hashlib.sha256(file).hexdigest()


def script(kernel: Path | None, interface: Sequence[str]) -> str:
    """The engine and the modules of its interface, one of which has `start`, as one script.

    Parameters
    ----------
    kernel
        The compiled kernel. None: the page computes in JavaScript.
    interface
        The source of each module.
    """
    code = "null" if kernel is None else f'base64Bytes("{b64encode(kernel.read_bytes()).decode()}")'
    worker, page = (
        [(MODULES.parent / f"{name}.mjs").read_text(encoding="utf-8") for name in names]
        for names in (IN_WORKER, IN_PAGE)
    )
    progress = lab.PROGRESS.read_text(encoding="utf-8")
    return lab.bundle(worker, [progress, *page, f"const KERNEL = {code};", *interface])
