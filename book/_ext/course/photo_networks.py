"""The networks of the Photo Lab: what the page has of them, as PyTorch modules and as files."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from sphinx.util import logging
from torch import Tensor, nn

import advlib
from advlib.errors import WeightsError
from advlib.models.efficientnet import PIXEL_MEAN, PIXEL_STD, Block, EfficientNetLite0
from advlib.models.imagenet import Normalised, cache_folder
from course.lab import Packed

LOG = logging.getLogger(__name__)
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


def lite0() -> Normalised:
    """EfficientNet-Lite0 as the page has it, for pixels in [0, 1]."""
    model = advlib.models.imagenet("efficientnet_lite0")
    assert isinstance(model.net, EfficientNetLite0)
    model.net = halved(model.net)
    return model


def squeezenet() -> Normalised | None:
    """SqueezeNet 1.1 as the page has it; None where its weights are not at hand.

    Nothing is downloaded for it. The normalisation is folded into the first convolution, which
    pads nothing, and the weights are rounded to half precision.
    """
    from torchvision.models import SqueezeNet1_1_Weights

    address = SqueezeNet1_1_Weights.IMAGENET1K_V1.url
    if not (cache_folder() / address.rsplit("/", 1)[-1]).exists():
        return None
    try:
        model = advlib.models.imagenet("squeezenet1_1", progress=False)
    except WeightsError as error:
        LOG.info("SqueezeNet is left out of the Photo Lab: %s", error)
        return None
    first = model.net.get_submodule("features.0")
    assert isinstance(first, nn.Conv2d) and first.padding == (0, 0) and first.bias is not None
    with torch.no_grad():
        first.bias -= (first.weight * model.mean / model.std).sum((1, 2, 3))
        first.weight /= model.std
        for values in model.net.parameters():
            values.copy_(values.half())
    return Normalised(model.net, (0, 0, 0), (1, 1, 1), model.categories)


def _convolutions(net: nn.Module) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Every convolution, with the batch norm behind it."""
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    return zip(convolutions, norms, strict=True)


def weights(net: nn.Module) -> bytes:
    """The network inside `lite0` or `squeezenet`, as the file that `halves.mjs` reads."""
    packed = Packed("<f2")
    layers = describe(net, packed) if isinstance(net, EfficientNetLite0) else _squeeze(net, packed)
    header = {"layers": layers, "count": packed.count, "shape": [SIDE, SIDE, 3]}
    return packed.file(header)


def describe(net: EfficientNetLite0, packed: Packed) -> list[dict[str, Any]]:
    """The layers of EfficientNet-Lite0 as data; their numbers go into `packed`."""
    layers = [{"op": "centre", "mean": PIXEL_MEAN[0], "scale": 1 / PIXEL_STD[0]}]
    layers += _sequence(net.stem, packed)
    for block in net.blocks:
        assert isinstance(block, Block)
        inside = _sequence(block.layers, packed)
        layers += [{"op": "sum", "branches": [inside, []]}] if block.residual else inside
    layers += [*_sequence(net.head, packed), {"op": "mean"}]
    linear = net.classifier
    return [*layers, _conv(linear.weight[..., None, None], linear.bias, packed)]


def _squeeze(net: nn.Module, packed: Packed) -> list[dict[str, Any]]:
    """The layers of SqueezeNet."""
    from torchvision.models.squeezenet import Fire

    layers: list[dict[str, Any]] = []

    def conv(module: nn.Module) -> dict[str, Any]:
        assert isinstance(module, nn.Conv2d) and module.bias is not None
        described = _conv(module.weight, module.bias, packed, module.stride[0])
        return described | {"padding": int(module.padding[0])}

    parts = [*net.get_submodule("features").children(), *net.get_submodule("classifier").children()]
    for module in parts:
        if isinstance(module, nn.Conv2d):
            layers.append(conv(module))
        elif isinstance(module, nn.ReLU):
            layers[-1]["relu"] = True
        elif isinstance(module, nn.MaxPool2d):
            assert module.ceil_mode and not module.padding
            layers.append({"op": "maximum", "kernel": module.kernel_size, "stride": module.stride})
        elif isinstance(module, Fire):
            wide = [[conv(each) | {"relu": True}] for each in (module.expand1x1, module.expand3x3)]
            layers += [conv(module.squeeze) | {"relu": True}, {"op": "beside", "branches": wide}]
        elif isinstance(module, nn.AdaptiveAvgPool2d):
            layers.append({"op": "mean"})
        elif not isinstance(module, nn.Dropout):
            raise TypeError(f"The Photo Lab has no layer for {type(module).__name__}.")
    return layers


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
