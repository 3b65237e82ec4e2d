"""What is attacked: three networks of three sizes, with pictures and classes drawn from a seed."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from advlib.models.published import RELEASES


class Workload(NamedTuple):
    """A model and a batch; weights are random, because only the time is measured."""

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    eps: float
    steps: int


def resnet18(classes: int) -> nn.Module:
    """Torchvision's ResNet-18, untrained."""
    from torchvision import models

    return models.resnet18(weights=None, num_classes=classes)


def _make(
    name: str, build: Callable[[], nn.Module], shape: tuple[int, ...], steps: int, classes: int
) -> Workload:
    torch.manual_seed(0)
    model = build().eval()
    x = torch.rand(shape)
    return Workload(name, model, x, torch.arange(len(x)) % classes, 8 / 255, steps)


def workloads() -> list[Workload]:
    """Small, middle and large."""
    mnist = RELEASES["wong-mnist"]  # its layers; the weights are drawn anew
    return [
        _make("small CNN, 256 pictures of 1x28x28", mnist.build, (256, 1, 28, 28), 40, 10),
        _make("ResNet-18, 64 pictures of 3x32x32", lambda: resnet18(10), (64, 3, 32, 32), 10, 10),
        _make(
            "ResNet-18, 8 pictures of 3x224x224", lambda: resnet18(100), (8, 3, 224, 224), 10, 100
        ),
    ]
