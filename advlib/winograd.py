r"""Convolutions with 3x3 windows for half the multiplications.

Four outputs of a filter with three taps :math:`g` read six inputs :math:`d` and take twelve
multiplications. Winograd's way takes six, one for each entry of

.. math:: y = A^\top \left[(G g) \odot (B^\top d)\right] .

It comes from polynomials. The product of two, one with four coefficients and one with three, has
six coefficients. Computed from the coefficients it takes twelve multiplications; from the values of
both at six points, here 0, 1, -1, 2, -2 and infinity, it takes six. `A` and `G` evaluate, `B` finds
the coefficients. A filter is that product read backwards: what came out goes in. Hence the
transposes.

:math:`G g` is computed once. `A` and `B` hold small integers and work on each channel alone, where
the multiplications lead from every channel to every other. So with many channels they cost little.

It is done along the height only: then whole rows are added, which lie together in memory. Along
both axes it would save more multiplications, and lose more to memory and to rounding.
"""

import math
from typing import Any

import torch
from torch import Tensor

TILE = 4
"""Rows of the output that are computed together, from six of the input."""
POINTS = 6
"""At how many points the polynomials are evaluated."""
AT_ONCE = 2**21
"""At most about so many values at the points are held, because larger pieces of memory are handed
back to the system after each call, and cleared by it before the next."""
G = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)
"""The values of a polynomial with three coefficients at 0, 1, -1, 2, -2 and infinity, each divided
by what `B` would have to divide by."""


class Winograd:
    """A convolution with 3x3 windows, stride 1 and padding 1, on the CPU in float32.

    Parameters
    ----------
    weight
        Shape (out, in, 3, 3).
    bias
        Shape (out,), or None.
    shape
        Of the pictures that are to be fast, (n, in, h, w). Others give the same answers too.

    References
    ----------
    Lavin & Gray 2016, "Fast Algorithms for Convolutional Neural Networks", sections 4.1 and 4.3:
    F(4, 3).
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, shape: Any) -> None:
        n, channels, height, width = shape
        self.out = len(weight)
        exact = torch.tensor(G, dtype=torch.float64), weight.detach().double()
        taps = torch.einsum("pk,oikw->poiw", *exact).to(weight.dtype)
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(
            taps.flatten(0, 1)[:, :, None].contiguous(),
            [0, 1], [1, 1], [1, 1], POINTS,
            [n, POINTS * channels, math.ceil(height / TILE), width],
        )  # fmt: skip
        self.bias = None
        if bias is not None:  # what is added at the point 1 is added to each output once
            self.bias = bias.new_zeros(POINTS, self.out)
            self.bias[1] = bias.detach()
            self.bias = self.bias.flatten()

    def __call__(self, x: Tensor) -> Tensor:
        """The convolution of x, shape (n, in, h, w), channels last."""
        parts = math.ceil(x.numel() * POINTS / TILE / AT_ONCE)
        done = [self._part(part) for part in x.chunk(max(parts, 1))]
        return done[0] if len(done) == 1 else torch.cat(done)

    def _part(self, x: Tensor) -> Tensor:
        products = torch.ops.mkldnn._convolution_pointwise(
            spread(x), self.weight, self.bias,
            [0, 1], [1, 1], [1, 1], POINTS, "none", [], None,
        )  # fmt: skip
        return gathered(products.unflatten(1, (POINTS, self.out)), x.shape[2])


def spread(x: Tensor) -> Tensor:
    r""":math:`B^\top d` for each six rows of x, with a row of zeros around it.

    Parameters
    ----------
    x
        Shape (n, c, h, w), channels last.

    Returns
    -------
    Tensor
        Shape (n, 6 c, ceil(h / 4), w), channels last: all channels at the first point, then at the
        next.
    """
    n, channels, height, width = x.shape
    tiles = math.ceil(height / TILE)
    padded = x.new_zeros(n, TILE * tiles + 2, width, channels)
    padded[:, 1 : height + 1] = x.permute(0, 2, 3, 1)
    d = [padded[:, row::TILE][:, :tiles] for row in range(POINTS)]
    values = x.new_empty(n, tiles, width, POINTS, channels)
    at = values.unbind(3)
    even, odd = d[4].sub(d[2], alpha=4), d[3].sub(d[1], alpha=4)
    torch.add(even, odd, out=at[1])
    torch.sub(even, odd, out=at[2])
    even, odd = torch.sub(d[4], d[2], out=even), torch.sub(d[3], d[1], out=odd)
    torch.add(even, odd, alpha=2, out=at[3])
    torch.sub(even, odd, alpha=2, out=at[4])
    torch.add(even, d[0].sub(d[2]), alpha=4, out=at[0])
    torch.sub(d[5].sub(d[3]), odd, alpha=4, out=at[5])
    return values.flatten(3).permute(0, 3, 1, 2)


def gathered(products: Tensor, height: int) -> Tensor:
    r""":math:`A^\top` of the products at the six points: the rows of the output.

    Parameters
    ----------
    products
        Shape (n, 6, c, tiles, w), channels last.
    height
        How many rows are wanted, at most four for each tile.

    Returns
    -------
    Tensor
        Shape (n, c, height, w), channels last.
    """
    n, _, channels, _, width = products.shape
    m = products.permute(1, 0, 3, 4, 2).unbind()
    y = products.new_empty(n, height, width, channels)
    rows = [y[:, row::TILE] for row in range(TILE)]
    even, odd = m[1] + m[2], m[1] - m[2]
    far_even, far_odd = m[3] + m[4], m[3] - m[4]

    def into(row: int, one: Tensor, factor: int, other: Tensor) -> None:
        full = rows[row].shape[1]  # of the last tile perhaps not all rows are wanted
        torch.add(one[:, :full], other[:, :full], alpha=factor, out=rows[row])

    into(0, even.add_(far_even), 1, m[0])
    into(1, odd, 2, far_odd)
    into(2, even, 3, far_even)
    into(3, odd.add_(m[5]), 8, far_odd)
    return y.permute(0, 3, 1, 2)
