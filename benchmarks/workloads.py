"""What is attacked: networks of several sizes, with images and classes drawn from a seed."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from advlib.models.architectures import SignNet
from advlib.models.published import RELEASES


class Workload(NamedTuple):
    """A model and a batch; weights are random, because only the time is measured."""

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    eps: float
    steps: int


def resnet(layers: int, classes: int) -> Callable[[], nn.Module]:
    """What builds torchvision's ResNet of so many layers, untrained."""
    from torchvision import models

    build = {18: models.resnet18, 50: models.resnet50}[layers]
    return lambda: build(weights=None, num_classes=classes)


def transformer(name: str) -> Callable[[], nn.Module]:
    """What builds torchvision's network of that name, untrained, for images of 224x224."""
    from torchvision import models

    return lambda: models.get_model(name, weights=None, num_classes=100)


def _make(
    name: str,
    build: Callable[[], nn.Module],
    shape: tuple[int, ...],
    steps: int,
    classes: int,
    device: torch.device,
) -> Workload:
    torch.manual_seed(0)
    model, x = build().eval().to(device), torch.rand(shape).to(device)
    y = torch.arange(len(x), device=device) % classes
    return Workload(name, model, x, y, 8 / 255, steps)


def workloads(device: torch.device | str = "cpu") -> list[Workload]:
    """Small, middle and large; on CUDA batches of many sizes and a larger network beside them."""
    device = torch.device(device)
    mnist = RELEASES["wong-mnist"]  # its layers; the weights are drawn anew
    loads = [
        ("small CNN, 256 images of 1x28x28", mnist.build, (256, 1, 28, 28), 40, 10),
        ("sign network, 32 images of 3x64x64", SignNet, (32, 3, 64, 64), 10, 16),
        ("ResNet-18, 64 images of 3x32x32", resnet(18, 10), (64, 3, 32, 32), 10, 10),
        ("ResNet-18, 8 images of 3x224x224", resnet(18, 100), (8, 3, 224, 224), 10, 100),
        ("ViT-B/32, 8 images of 3x224x224", transformer("vit_b_32"), (8, 3, 224, 224), 10, 100),
        ("Swin-T, 4 images of 3x224x224", transformer("swin_t"), (4, 3, 224, 224), 10, 100),
        (
            "ConvNeXt-T, 4 images of 3x224x224",
            transformer("convnext_tiny"),
            (4, 3, 224, 224),
            10,
            100,
        ),
    ]
    if device.type == "cuda":
        loads += [
            (f"ResNet-18, {n} images of 3x32x32", resnet(18, 10), (n, 3, 32, 32), 10, 10)
            for n in (1, 8, 512, 4096)
        ]
        loads.append(
            ("ResNet-50, 64 images of 3x224x224", resnet(50, 1000), (64, 3, 224, 224), 10, 1000)
        )
    return [_make(*load, device) for load in loads]
