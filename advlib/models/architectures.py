"""Small classifiers: short code, attacked in seconds.

Every network takes images with pixels in [0, 1], centres them itself and returns logits. The layers
are few (convolution, batch norm, ReLU, average pooling, linear, addition): each has one gradient
without ambiguity, and all of them run in a web page in plain JavaScript. Only `SignViT` needs more:
layer norm, softmax attention and GELU.

References
----------
Dosovitskiy et al. (2021), An Image is Worth 16x16 Words: Transformers for Image Recognition at
Scale, ICLR. He, Zhang, Ren, Sun (2016), Deep Residual Learning for Image Recognition, CVPR. LeCun,
Bottou, Bengio, Haffner (1998), Gradient-based learning applied to document recognition, Proceedings
of the IEEE. Vaswani et al. (2017), Attention is All you Need, NeurIPS. Xie et al. (2020), Smooth
Adversarial Training, arXiv:2006.14536. Zhang, Zuo, Chen, Meng, Zhang (2017), Beyond a Gaussian
Denoiser: Residual Learning of Deep CNN for Image Denoising, IEEE Transactions on Image Processing.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = Callable[[Tensor], Tensor]
"""A function of each number on its own, such as `torch.relu`."""

PIXEL_MEAN = 0.5
PIXEL_SCALE = 4.0


def _centre(x: Tensor) -> Tensor:
    return (x - PIXEL_MEAN) * PIXEL_SCALE


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut (He et al. 2016).

    A block that halves the image has 2 x 2 pooling and a 1 x 1 convolution as its shortcut.
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
    """Residual network (He et al. 2016): 152,000 parameters, 17 million multiply-adds an image.

    Parameters
    ----------
    classes : int
        Number of logits.
    widths, depths : tuple of int
        Channels and residual blocks at half, a quarter and an eighth of the image's size.
    activation : callable
        What follows each normalisation; the gradient of a smooth one such as
        `torch.nn.functional.silu` is continuous (Xie et al. 2020).
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
                stride = 2 if stage > 0 and i == 0 else 1
                blocks.append(Block(channels, width, stride, activation))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, 3, h, w)."""
        h = self.activation(self.norm(self.stem(_centre(x))))
        return self.head(self.blocks(h).mean((2, 3)))


class Linear(nn.Module):
    """Softmax regression on pixels: the model whose worst-case perturbation has a formula.

    Parameters
    ----------
    shape : tuple of int
        Channels, height and width of an image.
    classes : int
        Number of logits.
    """

    def __init__(self, shape: tuple[int, int, int] = (3, 64, 64), classes: int = 16) -> None:
        super().__init__()
        self.head = nn.Linear(shape[0] * shape[1] * shape[2], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, *shape); affine in `x`."""
        return self.head(x.flatten(1))


class MLP(nn.Module):
    """Fully connected network with ReLUs.

    Parameters
    ----------
    shape, classes
        As for `Linear`.
    hidden : tuple of int
        Width of each hidden layer.
    pool : int
        Side of the squares over which the image is first averaged, which saves weights.
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
        for width_in, width in pairwise(widths):
            layers += [nn.Linear(width_in, width), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, *shape)."""
        return self.head(self.layers(self.pool(_centre(x)).flatten(1)))


class PlainCNN(nn.Module):
    """Convolutions, ReLUs and average pooling (LeCun et al. 1998): no shortcut, no batch norm.

    Parameters
    ----------
    classes : int
        Number of logits.
    widths : tuple of int
        Channels of each convolution. The first has stride 2, and 2 x 2 pooling follows each: three
        of them reduce 64 x 64 pixels to 4 x 4.
    """

    def __init__(self, classes: int = 16, widths: tuple[int, ...] = (24, 48, 64)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for stage, (channels, width) in enumerate(pairwise((3, *widths))):
            kernel, stride = (3, 1) if stage else (5, 2)
            layers += [nn.Conv2d(channels, width, kernel, stride, padding=kernel // 2)]
            layers += [nn.ReLU(), nn.AvgPool2d(2)]
        self.layers = nn.Sequential(*layers)
        side = 64 // 2 ** (1 + len(widths))
        self.head = nn.Linear(widths[-1] * side * side, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, 3, 64, 64)."""
        return self.head(self.layers(_centre(x)).flatten(1))


class Attention(nn.Module):
    """Multi-head self-attention between patches (Vaswani et al. 2017, section 3.2).

    Parameters
    ----------
    width, heads : int
        Features of a patch, and attention heads; `heads` divides `width`.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ask = nn.Linear(width, 3 * width)
        self.answer = nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        """Features (n, patches, width), mixed; the same shape."""
        n, patches, width = h.shape
        parts = self.ask(h).view(n, patches, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)  # each (n, heads, patches, per head)
        scores = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
        mixed = scores.softmax(3) @ value
        return self.answer(mixed.transpose(1, 2).reshape(n, patches, width))


class TransformerBlock(nn.Module):
    """Attention between patches, then a small network on each, both with a shortcut."""

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
    """Vision transformer (Dosovitskiy et al. 2021): attention between the patches of an image.

    The features of the patches are averaged; there is no class token.

    Parameters
    ----------
    classes : int
        Number of logits.
    size, patch : int
        Sides of the image and of a patch in pixels; `patch` divides `size`.
    width, depth, heads : int
        Features of a patch, transformer blocks, and attention heads in each.
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
        """Logits (n, classes) of images (n, 3, size, size)."""
        patches = self.embed(_centre(x)).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(patches + self.position)).mean(1))


class Denoiser(nn.Module):
    """Noise in an image, predicted by a few convolutions and subtracted (Zhang et al. 2017).

    It works on 2 x 2 blocks of pixels, at half the image's size.

    Parameters
    ----------
    width, depth : int
        Channels of the hidden layers, and their number.
    """

    def __init__(self, width: int = 28, depth: int = 4) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for a, b in pairwise((12, *[width] * depth)):
            layers += [nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(b)]
        last = nn.Conv2d(width, 12, 1)
        nn.init.zeros_(last.weight)  # training starts from the image as it is
        self.layers = nn.Sequential(*layers, last)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, 3, h, w) in [0, 1] of images with noise, of the same shape."""
        noise = self.layers(F.pixel_unshuffle(_centre(x), 2))
        return (x - F.pixel_shuffle(noise, 2)).clamp(0, 1)


def multiply_adds(model: nn.Module, shape: tuple[int, ...] = (3, 64, 64)) -> int:
    """Multiply-adds of convolutions and linear layers for one image of the given shape."""
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
