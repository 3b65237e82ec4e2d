r"""Convolutions whose weights are laid out once, for a processor.

A convolution on a processor first brings its weights into the order that its vector units want,
then computes, then forgets that order: at every call, forward and backward. For the late layers of
a network, with many weights and few pixels, this takes longer than the convolution. An attack calls
the same frozen weights hundreds of times, so here they are laid out once, for both directions: the
gradient with respect to the input is a transposed convolution with the same weights, which without
a stride is a convolution with the window turned around (Dumoulin & Visin 2016, chapter 4).

The first layer of many networks reads three channels with a stride of two. In the gradient vector
units then work on 16 channels of which 13 are padding. Four pixels of a square, taken as channels,
fill them better and leave a convolution without stride: the same sums in another order.

Convolutions with 3x3 windows and many channels are done with half the multiplications
(`advlib.winograd`). Their weights then take twice the memory.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from advlib.winograd import Winograd

DTYPES = (torch.float32, torch.bfloat16)
FEW_CHANNELS = 8
"""Up to so many input channels a strided convolution is worth rewriting."""
MANY_CHANNELS = 96
"""From so many channels on, in and out, half the multiplications are worth some more additions."""
LEAST_SIZE = 7
"""And from so many rows and columns on: of tiles of four rows not much may be empty."""


def packed(model: nn.Module, x: Tensor) -> nn.Module:
    """Lay out the weights of all convolutions in `model`, which is changed in place.

    Parameters
    ----------
    model
        Frozen, on the CPU, in eval mode.
    x
        A batch of the size that is to be fast, shape (n, c, h, w). Other sizes give the same
        answers too.

    Returns
    -------
    nn.Module
        `model`, or what stands in its place if it is itself a convolution. Its second derivatives
        are not there: asking for them raises an error.

    References
    ----------
    Dumoulin & Visin 2016, "A guide to convolution arithmetic for deep learning", chapter 4.
    """
    shapes: dict[nn.Module, list[int]] = {}
    hooks = [
        module.register_forward_pre_hook(lambda m, given: shapes.update({m: list(given[0].shape)}))
        for module in model.modules()
        if _can_be_packed(module)
    ]
    try:
        with torch.no_grad():
            model(x.clone())
    finally:
        for hook in hooks:
            hook.remove()
    fast = {conv: _fast(conv, shape) for conv, shape in shapes.items() if len(shape) == 4}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):  # a shared one stands under two names
            if child in fast:
                setattr(parent, name, fast[child])
    return fast.get(model, model)


def _known(dtype: torch.dtype) -> bool:
    """Whether this processor and this build of torch lay out weights of `dtype`."""
    if not torch.backends.mkldnn.is_available() or dtype not in DTYPES:
        return False
    return dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _can_be_packed(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and _known(module.weight.dtype)
        and not (module._forward_hooks or module._forward_pre_hooks or module._backward_hooks)
    )


def _fast(conv: Any, shape: list[int]) -> nn.Module:
    few = conv.in_channels <= FEW_CHANNELS and conv.groups == 1 and conv.dilation == (1, 1)
    if few and conv.stride == (2, 2):
        return _Unshuffled(conv, shape)
    if _can_be_halved(conv, shape):
        return _Halved(conv, shape)
    return (_Turned if _can_be_turned(conv) else _Packed)(conv, shape)


def _can_be_turned(conv: Any) -> bool:
    """Whether the gradient is a convolution too: it asks for padding that is not negative."""
    turned = zip(conv.dilation, conv.kernel_size, conv.padding, strict=True)
    return conv.stride == (1, 1) and all(d * (k - 1) >= p for d, k, p in turned)


def _can_be_halved(conv: Any, shape: list[int]) -> bool:
    """Whether `advlib.winograd` knows this convolution and is faster."""
    return (
        conv.kernel_size == (3, 3)
        and conv.stride == conv.padding == conv.dilation == (1, 1)
        and conv.groups == 1
        and min(conv.in_channels, conv.out_channels) >= MANY_CHANNELS
        and min(shape[2:]) >= LEAST_SIZE
        and conv.weight.dtype == torch.float32
    )


class _Packed(nn.Module):
    """A convolution that holds its weights in the processor's order, once for each direction."""

    def __init__(self, conv: Any, shape: list[int]) -> None:
        super().__init__()
        self.conv, self.shape = conv, shape
        self.padding, self.stride = list(conv.padding), list(conv.stride)
        self.dilation, self.groups = list(conv.dilation), conv.groups
        self._lay_out(conv.weight.detach(), shape)

    def _lay_out(self, weight: Tensor, shape: list[int]) -> None:
        # Plain attributes: a buffer would be cloned at every attack.
        self.forth = torch.ops.mkldnn._reorder_convolution_weight(
            weight, self.padding, self.stride, self.dilation, self.groups, shape
        )
        self._lay_out_back(weight, shape, [shape[0], len(weight), *self.windows(shape)])

    def _lay_out_back(self, weight: Tensor, shape: list[int], after: list[int]) -> None:
        self.back = torch.ops.mkldnn._reorder_convolution_transpose_weight(
            weight, self.padding, self.lost(shape, after),
            self.stride, self.dilation, self.groups, after,
        )  # fmt: skip

    def forward(self, x: Tensor, other: Tensor | None = None, *, relu: bool = False) -> Tensor:
        """The convolution; with `relu` what `advlib.folding.Rectified` adds to it."""
        if x.ndim != 4 or x.device.type != "cpu" or x.dtype not in DTYPES:
            return _finished(self.conv(x), other, relu)
        dtype = self.conv.weight.dtype
        at_once = other is None or other.shape == (
            len(x),
            len(self.conv.weight),
            *self.windows(x.shape),
        )
        if relu and at_once:
            other = None if other is None else other.to(dtype)
            return _Convolution.apply(x.to(dtype), other, self, relu)
        return _finished(_Convolution.apply(x.to(dtype), None, self, False), other, relu)

    def __reduce__(self) -> tuple[Any, ...]:
        """What is laid out has no storage that could be copied or saved: it is laid out again."""
        return type(self), (self.conv, self.shape)

    def forth_of(self, x: Tensor, other: Tensor | None, relu: bool) -> Tensor:
        """What `forward` computes, without a gradient."""
        how = self.padding, self.stride, self.dilation, self.groups
        ops, bias, last = torch.ops.mkldnn, self.conv.bias, "relu" if relu else "none"
        if other is None:
            return ops._convolution_pointwise(x, self.forth, bias, *how, last, [], None)
        return ops._convolution_pointwise.binary(
            x, other, self.forth, bias, *how, "add", 1.0, last, [], None
        )

    def back_of(self, grad: Tensor, shape: Any) -> Tensor:
        """The gradient with respect to x of this shape, from that with respect to the sums."""
        lost = self.lost(shape, grad.shape)
        return torch.ops.mkldnn._convolution_transpose_pointwise(
            grad, self.back, None,
            self.padding, lost, self.stride, self.dilation, self.groups, "none", [], None,
        )  # fmt: skip

    def free(self, shape: Any) -> list[int]:
        """How far the window can move on each axis, for pictures of this shape."""
        reach = [d * (k - 1) + 1 for d, k in zip(self.dilation, self.conv.kernel_size, strict=True)]
        return [shape[2 + i] + 2 * self.padding[i] - reach[i] for i in (0, 1)]

    def windows(self, shape: Any) -> list[int]:
        """Height and width of the output for pictures of this shape."""
        return [free // step + 1 for free, step in zip(self.free(shape), self.stride, strict=True)]

    def lost(self, before: Any, after: Any) -> list[int]:
        """Rows and columns at the end that the stride leaves unread."""
        return [self.free(before)[i] - (after[2 + i] - 1) * self.stride[i] for i in (0, 1)]


def _finished(y: Tensor, other: Tensor | None, relu: bool) -> Tensor:
    """What is left to do, one after the other."""
    y = y if other is None else y + other
    return F.relu(y) if relu else y


class _Convolution(torch.autograd.Function):
    """``conv(x)``, ``relu(conv(x))`` or ``relu(conv(x) + other)``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, other: Tensor | None, layer: _Packed, relu: bool) -> Tensor:
        ctx.layer, ctx.shape, ctx.two = layer, x.shape, other is not None
        y = layer.forth_of(x, other, relu)
        if relu:
            ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        layer: _Packed = ctx.layer
        for y in ctx.saved_tensors:
            grad = torch.ops.aten.threshold_backward(grad, y, 0)
        return layer.back_of(grad, ctx.shape), grad if ctx.two else None, None, None


class _Turned(_Packed):
    """A convolution with stride 1: the window slides back, and that is a convolution as well.

    It computes the same as the one that is called transposed, and waits less.
    """

    def _lay_out_back(self, weight: Tensor, shape: list[int], after: list[int]) -> None:
        turned = zip(self.dilation, weight.shape[2:], self.padding, strict=True)
        self.around = [d * (k - 1) - p for d, k, p in turned]
        self.back = torch.ops.mkldnn._reorder_convolution_weight(
            _turned(weight, self.groups), self.around, [1, 1], self.dilation, self.groups, after
        )

    def back_of(self, grad: Tensor, shape: Any) -> Tensor:
        return torch.ops.mkldnn._convolution_pointwise(
            grad, self.back, None, self.around, [1, 1], self.dilation, self.groups, "none", [], None
        )


def _turned(weight: Tensor, groups: int = 1) -> Tensor:
    """Weights of the window that slides from the outputs to the inputs."""
    parts = weight.flip(2, 3).unflatten(0, (groups, -1))
    return parts.transpose(1, 2).flatten(0, 1).contiguous()


class _Halved(_Packed):
    """A convolution with half the multiplications, in both directions."""

    def _lay_out(self, weight: Tensor, shape: list[int]) -> None:
        self.forth = Winograd(weight, self.conv.bias, shape)
        self.back = Winograd(_turned(weight), None, [shape[0], len(weight), *shape[2:]])

    def forth_of(self, x: Tensor, other: Tensor | None, relu: bool) -> Tensor:
        y = self.forth(x)
        y = y if other is None else y.add_(other)
        return y.relu_() if relu else y

    def back_of(self, grad: Tensor, shape: Any) -> Tensor:
        return self.back(grad)


class _Unshuffled(_Packed):
    """A convolution with stride 2 whose gradient is that of one with stride 1 on squares.

    Squares begin where a window does, or one pixel before it, so that the edge of the picture is
    the edge of a square if that takes no larger window.
    """

    def _lay_out_back(self, weight: Tensor, shape: list[int], after: list[int]) -> None:
        kernel = list(weight.shape[2:])
        self.before = [p + p * k % 2 for p, k in zip(self.padding, kernel, strict=True)]
        size = [math.ceil(k / 2) for k in kernel]
        self.around = [extent - 1 for extent in size]
        shift = [b - p for b, p in zip(self.before, self.padding, strict=True)]
        self.back = torch.ops.mkldnn._reorder_convolution_weight(
            _turned(_squares(weight, size, shift)), self.around, [1, 1], [1, 1], 1, after
        )

    def back_of(self, grad: Tensor, shape: Any) -> Tensor:
        squares = torch.ops.mkldnn._convolution_pointwise(
            grad, self.back, None, self.around, [1, 1], [1, 1], 1, "none", [], None
        )
        # Whole squares of padding are left out, and half ones cut off.
        first, cut = [b // 2 for b in self.before], [b % 2 for b in self.before]
        ends = [math.ceil((shape[2 + i] + cut[i]) / 2) + first[i] for i in (0, 1)]
        squares = squares[:, :, first[0] : ends[0], first[1] : ends[1]]
        n, _, height, width = squares.shape
        # As F.pixel_shuffle, but two pixels that lie together are copied together.
        rows = squares.permute(0, 2, 3, 1).unflatten(3, (2, -1)).transpose(2, 3)
        pixels = rows.reshape(n, 2 * height, 2 * width, -1).permute(0, 3, 1, 2)
        if pixels.shape == shape:
            return pixels
        # Pixels that no window reads have the gradient 0.
        beyond = [shape[2 + i] + cut[i] - pixels.shape[2 + i] for i in (0, 1)]
        return F.pad(pixels, [-cut[1], beyond[1], -cut[0], beyond[0]])


def _squares(weight: Tensor, size: list[int], shift: list[int]) -> Tensor:
    """Weights for squares of four pixels, taken as channels: row by row, pixel by pixel."""
    kernel = weight.shape[2:]
    ends = [2 * size[i] - kernel[i] - shift[i] for i in (0, 1)]
    weight = F.pad(weight, (shift[1], ends[1], shift[0], ends[0]))
    parts = weight.unflatten(3, (size[1], 2)).unflatten(2, (size[0], 2))  # o, c, h, 2, w, 2
    return parts.permute(0, 3, 5, 1, 2, 4).flatten(1, 3).contiguous()
