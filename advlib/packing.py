r"""Convolutions whose weights are laid out once, for a processor.

A convolution on a processor first brings its weights into the order that its vector units want,
then computes, then forgets that order: at every call, forward and backward. For the late layers of
a network, with many weights and few pixels, this takes longer than the convolution. An attack calls
the same frozen weights hundreds of times, so here they are laid out once, for both directions: the
gradient with respect to the input is a transposed convolution with the same weights (Dumoulin &
Visin 2016, chapter 4).

The first layer of many networks reads three channels with a stride of two. Vector units then work
on 16 channels of which 13 are padding. Four pixels of a square, taken as channels, fill them better
and leave a convolution without stride: the same sums in another order.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

DTYPES = (torch.float32, torch.bfloat16)
FEW_CHANNELS = 4
"""Up to so many input channels a strided convolution is worth rewriting."""


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
    return _Packed(conv, shape)


class _Packed(nn.Module):
    """A convolution that holds its weights in the processor's order, once for each direction."""

    def __init__(self, conv: Any, shape: list[int]) -> None:
        super().__init__()
        self.conv, self.shape = conv, shape
        self.padding, self.stride = list(conv.padding), list(conv.stride)
        self.dilation, self.groups = list(conv.dilation), conv.groups
        # Plain attributes: a buffer would be cloned at every attack.
        weight, ops = conv.weight.detach(), torch.ops.mkldnn
        self.forth = ops._reorder_convolution_weight(
            weight, self.padding, self.stride, self.dilation, self.groups, shape
        )
        after = [shape[0], conv.out_channels, *self.windows(shape)]
        lost = self.lost(shape, after)
        self.back = ops._reorder_convolution_transpose_weight(
            weight, self.padding, lost, self.stride, self.dilation, self.groups, after
        )

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
        return _Packed, (self.conv, self.shape)

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
        how = layer.padding, layer.stride, layer.dilation, layer.groups
        ops, weight, last = torch.ops.mkldnn, layer.forth, "relu" if relu else "none"
        if other is None:
            y = ops._convolution_pointwise(x, weight, layer.conv.bias, *how, last, [], None)
        else:
            y = ops._convolution_pointwise.binary(
                x, other, weight, layer.conv.bias, *how, "add", 1.0, last, [], None
            )
        if relu:
            ctx.save_for_backward(y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        layer: _Packed = ctx.layer
        for y in ctx.saved_tensors:
            grad = torch.ops.aten.threshold_backward(grad, y, 0)
        lost = layer.lost(ctx.shape, grad.shape)
        back = torch.ops.mkldnn._convolution_transpose_pointwise(
            grad, layer.back, None,
            layer.padding, lost, layer.stride, layer.dilation, layer.groups, "none", [], None,
        )  # fmt: skip
        return back, grad if ctx.two else None, None, None


class _Unshuffled(nn.Module):
    """A convolution with stride 2 as one with stride 1 on squares of four pixels."""

    def __init__(self, conv: Any, shape: list[int]) -> None:
        super().__init__()
        self.original = conv
        front = [p % 2 for p in conv.padding]  # so that windows begin with a square
        self.padding = [p + extra for p, extra in zip(conv.padding, front, strict=True)]
        size = [math.ceil((k + f) / 2) for k, f in zip(conv.kernel_size, front, strict=True)]
        back = [2 * s - k - f for s, k, f in zip(size, conv.kernel_size, front, strict=True)]
        weight = F.pad(conv.weight.detach(), (front[1], back[1], front[0], back[0]))
        self.size = size
        # A copy, because a new one would draw its weights from the global random state.
        inner = copy.deepcopy(conv)
        inner.in_channels, inner.kernel_size = 4 * conv.in_channels, tuple(size)
        inner.stride, inner.padding = (1, 1), (0, 0)
        inner.weight = nn.Parameter(_squares(weight, size), requires_grad=False)
        inner = inner.to(memory_format=torch.channels_last)
        self.inner = _Packed(inner, list(self.unshuffled(torch.empty(shape)).shape))

    def forward(self, x: Tensor, other: Tensor | None = None, *, relu: bool = False) -> Tensor:
        if x.ndim != 4:
            return _finished(self.original(x), other, relu)
        return self.inner(self.unshuffled(x), other, relu=relu)

    def unshuffled(self, x: Tensor) -> Tensor:
        """Four pixels of a square as channels of one, shape (n, 4 c, h', w')."""
        conv = self.original
        ends = []
        for i in (0, 1):
            before, size = self.padding[i], x.shape[2 + i]
            windows = (size + 2 * conv.padding[i] - conv.kernel_size[i]) // 2 + 1
            # What no window reads is cut off: a negative number.
            ends.append((before, 2 * (windows - 1 + self.size[i]) - before - size))
        padded = F.pad(x, (*ends[1], *ends[0]))
        return F.pixel_unshuffle(padded, 2).contiguous(memory_format=torch.channels_last)


def _squares(weight: Tensor, size: list[int]) -> Tensor:
    """The weights of `_Unshuffled`: as `pixel_unshuffle` orders the pixels."""
    parts = weight.unflatten(3, (size[1], 2)).unflatten(2, (size[0], 2))  # o, c, h, 2, w, 2
    return parts.permute(0, 1, 3, 5, 2, 4).flatten(1, 3).contiguous()
