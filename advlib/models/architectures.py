"""Small classifiers that are read in one sitting and attacked in seconds.

Every network takes pixels in [0, 1] and returns logits; centring the pixels is its own business.
The layers are few on purpose (convolution, batch norm, ReLU, average pooling, linear, addition):
each has one unambiguous gradient, and all of them run in a web page in plain JavaScript.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

PIXEL_MEAN = 0.5
PIXEL_SCALE = 4.0


class Block(nn.Module):
    """Two 3 x 3 convolutions around a shortcut (He et al. 2016).

    Where the block halves the picture, the shortcut is a 2 x 2 average and a 1 x 1 convolution.
    """

    def __init__(self, channels_in: int, channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(stride), nn.Conv2d(channels_in, channels, 1, bias=True)
            )

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.norm1(self.conv1(x)))
        return torch.relu(self.norm2(self.conv2(h)) + self.shortcut(x))


class SignNet(nn.Module):
    """Residual network for 64 x 64 signs: 151,000 parameters, 17 million multiply-adds a picture.

    Parameters
    ----------
    classes : int
        Number of logits.
    widths : tuple of int
        Channels at half, a quarter and an eighth of the picture's size.
    depths : tuple of int
        Residual blocks at each of these sizes.

    References
    ----------
    He, Zhang, Ren, Sun (2016), Deep Residual Learning for Image Recognition, CVPR.
    """

    def __init__(
        self,
        classes: int = 16,
        widths: tuple[int, ...] = (16, 32, 64),
        depths: tuple[int, ...] = (1, 1, 2),
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        blocks: list[nn.Module] = []
        channels = widths[0]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            for i in range(depth):
                halve = stage > 0 and i == 0
                blocks.append(Block(channels, width, stride=2 if halve else 1))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of pictures (n, 3, h, w) in [0, 1]."""
        h = torch.relu(self.norm(self.stem(_centre(x))))
        return self.head(self.blocks(h).mean((2, 3)))


class Linear(nn.Module):
    """Softmax regression on pixels: the model whose worst case is known exactly.

    Parameters
    ----------
    shape : tuple of int
        Channels, height and width of a picture.
    classes : int
        Number of logits.
    """

    def __init__(self, shape: tuple[int, int, int] = (3, 64, 64), classes: int = 16) -> None:
        super().__init__()
        self.head = nn.Linear(shape[0] * shape[1] * shape[2], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of pictures (n, *shape) in [0, 1]; affine in `x`."""
        return self.head(x.flatten(1))


class MLP(nn.Module):
    """Fully connected network with ReLUs.

    Parameters
    ----------
    shape : tuple of int
        Channels, height and width of a picture.
    classes : int
        Number of logits.
    hidden : tuple of int
        Width of each hidden layer.
    """

    def __init__(
        self,
        shape: tuple[int, int, int] = (3, 64, 64),
        classes: int = 16,
        hidden: tuple[int, ...] = (256, 128),
    ) -> None:
        super().__init__()
        widths = [shape[0] * shape[1] * shape[2], *hidden]
        layers: list[nn.Module] = []
        for width_in, width in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(width_in, width), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of pictures (n, *shape) in [0, 1]."""
        return self.head(self.layers(_centre(x).flatten(1)))


def _centre(x: Tensor) -> Tensor:
    return (x - PIXEL_MEAN) * PIXEL_SCALE


def multiply_adds(model: nn.Module, shape: tuple[int, ...] = (3, 64, 64)) -> int:
    """Multiply-adds of convolutions and linear layers for one picture of the given shape."""
    total = 0

    def count(layer: nn.Module, _: object, out: Tensor) -> None:
        nonlocal total
        total += out.numel() * next(layer.parameters())[0].numel()

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    was_training = model.training
    try:
        device = next(model.parameters()).device
        with torch.no_grad():
            model.eval()(torch.zeros(1, *shape, device=device))
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return total
