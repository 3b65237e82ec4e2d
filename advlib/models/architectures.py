"""Small classifiers that are read in one sitting and attacked in seconds.

Every network takes pixels in [0, 1] and returns logits; centring the pixels is its own business.
The layers are few on purpose (convolution, batch norm, ReLU, average pooling, linear, addition):
each has one unambiguous gradient, and all of them run in a web page in plain JavaScript. Only
`SignViT` needs more: layer norm, softmax attention and GELU.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor]
"""A function of each number on its own, such as `torch.relu`."""

PIXEL_MEAN = 0.5
PIXEL_SCALE = 4.0


class Block(nn.Module):
    """Two 3 x 3 convolutions around a shortcut (He et al. 2016).

    Where the block halves the picture, the shortcut is a 2 x 2 average and a 1 x 1 convolution.
    """

    def __init__(
        self, channels_in: int, channels: int, stride: int = 1, activation: Activation = torch.relu
    ) -> None:
        super().__init__()
        self.activation = activation
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
        h = self.activation(self.norm1(self.conv1(x)))
        return self.activation(self.norm2(self.conv2(h)) + self.shortcut(x))


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
    activation : callable
        What follows each normalisation; a smooth one such as `torch.nn.functional.silu` has a
        gradient that changes gradually too (Xie et al. 2020, Smooth Adversarial Training).

    References
    ----------
    He, Zhang, Ren, Sun (2016), Deep Residual Learning for Image Recognition, CVPR.
    """

    def __init__(
        self,
        classes: int = 16,
        widths: tuple[int, ...] = (16, 32, 64),
        depths: tuple[int, ...] = (1, 1, 2),
        activation: Activation = torch.relu,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.stem = nn.Conv2d(3, widths[0], 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(widths[0])
        blocks: list[nn.Module] = []
        channels = widths[0]
        for stage, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            for i in range(depth):
                halve = stage > 0 and i == 0
                blocks.append(Block(channels, width, 2 if halve else 1, activation))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of pictures (n, 3, h, w) in [0, 1]."""
        h = self.activation(self.norm(self.stem(_centre(x))))
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
    pool : int
        The picture is first averaged over squares of this many pixels, which saves weights.
    """

    def __init__(
        self,
        shape: tuple[int, int, int] = (3, 64, 64),
        classes: int = 16,
        hidden: tuple[int, ...] = (256, 128),
        pool: int = 1,
    ) -> None:
        super().__init__()
        self.pool = nn.AvgPool2d(pool) if pool > 1 else nn.Identity()
        widths = [shape[0] * (shape[1] // pool) * (shape[2] // pool), *hidden]
        layers: list[nn.Module] = []
        for width_in, width in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(width_in, width), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of pictures (n, *shape) in [0, 1]."""
        return self.head(self.layers(self.pool(_centre(x)).flatten(1)))


class PlainCNN(nn.Module):
    """Convolutions, ReLUs and averages in a row, as in 1998: no shortcut, no batch norm.

    Parameters
    ----------
    classes : int
        Number of logits.
    widths : tuple of int
        Channels of each convolution. The first halves a 64 x 64 picture, and after each the
        picture is averaged over 2 x 2: three of them leave 4 x 4.

    References
    ----------
    LeCun, Bottou, Bengio, Haffner (1998), Gradient-based learning applied to document recognition,
    Proceedings of the IEEE.
    """

    def __init__(self, classes: int = 16, widths: tuple[int, ...] = (24, 48, 64)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for stage, (channels, width) in enumerate(zip((3, *widths[:-1]), widths, strict=True)):
            kernel, stride = (3, 1) if stage else (5, 2)
            layers += [nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2)]
            layers += [nn.ReLU(), nn.AvgPool2d(2)]
        self.layers = nn.Sequential(*layers)
        side = 64 // 2 ** (1 + len(widths))
        self.head = nn.Linear(widths[-1] * side * side, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of pictures (n, 3, 64, 64) in [0, 1]."""
        return self.head(self.layers(_centre(x)).flatten(1))


class Attention(nn.Module):
    """Every patch asks every other one what it sees (Vaswani et al. 2017, section 3.2).

    Parameters
    ----------
    width : int
        Numbers that describe a patch.
    heads : int
        How many questions are asked at a time; divides `width`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ask = nn.Linear(width, 3 * width)
        self.answer = nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        """Mixed descriptions (n, patches, width) of descriptions of the same shape."""
        n, patches, width = h.shape
        parts = self.ask(h).view(n, patches, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (n, heads, patches, per head)
        scores = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
        mixed = scores.softmax(3) @ value
        return self.answer(mixed.transpose(1, 2).reshape(n, patches, width))


class TransformerBlock(nn.Module):
    """Attention between patches, then a small network on each, both around a shortcut."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, h: Tensor) -> Tensor:
        h = h + self.attention(self.norm1(h))
        return h + self.mlp(self.norm2(h))


class SignViT(nn.Module):
    """Vision transformer: the picture is cut into patches, and attention relates them.

    Parameters
    ----------
    classes : int
        Number of logits.
    size, patch : int
        Sides of the picture and of a patch in pixels; `patch` divides `size`.
    width : int
        Numbers that describe a patch.
    depth, heads : int
        Transformer blocks, and heads of attention in each.

    References
    ----------
    Dosovitskiy et al. (2021), An Image is Worth 16x16 Words: Transformers for Image Recognition at
    Scale, ICLR. Here the descriptions are averaged, without a class token.
    """

    def __init__(
        self,
        classes: int = 16,
        size: int = 64,
        patch: int = 8,
        width: int = 64,
        depth: int = 4,
        heads: int = 4,
    ) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, stride=patch)
        self.position = nn.Parameter(0.02 * torch.randn(1, (size // patch) ** 2, width))
        self.blocks = nn.Sequential(
            *(TransformerBlock(width, heads, 2 * width) for _ in range(depth))
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of pictures (n, 3, size, size) in [0, 1]."""
        patches = self.embed(_centre(x)).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(patches + self.position)).mean(1))


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
