r"""Attacks that survive saving: images on the grid of a file of 8 bits.

A file holds multiples of 1/255, and an attack returns what lies between them. Saving rounds it, and
a narrow success can be rounded away. Here the model rounds during the attack, so that every look at
it is a look at what the file will hold, and the result is on the grid already.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from advlib.attacks.adaptive import straight_through
from advlib.contracts import Model, check_batch, check_eps
from advlib.data import on_grid
from advlib.data.files import LEVELS
from advlib.errors import PixelError
from advlib.threats import check_norm


def eight_bit(attack: Callable[..., Tensor]) -> Callable[..., Tensor]:
    r"""The same attack, ending on the grid of 8 bits, inside ball and box.

    Parameters
    ----------
    attack
        Called as ``attack(model, x, y, eps, norm=norm, **options)``: `advlib.fgsm`, `advlib.pgd`
        or one of your own.

    Returns
    -------
    Callable
        With the arguments of `attack`. The images `x` must lie on the grid themselves. No pixel is
        moved by more than ``eps * 255`` whole levels in :math:`\ell_\infty`: a budget between two
        levels is worth the lower one. In :math:`\ell_2` and :math:`\ell_1` the levels that were
        moved, as a vector, are at most ``eps * 255`` long; changes below half a level are lost, so
        a small budget is better spent on few pixels. Lengths are counted in whole levels, because
        in floating point the difference of two of them is off by its last digit.

    Raises
    ------
    PixelError
        `x` is not on the grid, or bfloat16. Otherwise as for `attack`.

    References
    ----------
    Athalye, Carlini & Wagner 2018, section 4.1 (the gradient passed straight through a rounding).

    Examples
    --------
    >>> x_adv = eight_bit(advlib.pgd)(model, x, y, eps=2 / 255, steps=40)
    >>> advlib.data.save_images(x_adv, "attacked")
    """

    @functools.wraps(attack)
    def rounded(
        model: Model, x: Tensor, y: Tensor, eps: float = 8 / 255, *, norm: str = "linf", **more: Any
    ) -> Tensor:
        x, y = check_batch(model, x, y)
        check_norm(norm, ("linf", "l2", "l1"))
        if x.dtype == torch.bfloat16:
            raise PixelError(
                "x holds torch.bfloat16, whose numbers near 1 are as far apart as the levels of 8 "
                "bits; write x = x.float()."
            )
        if not torch.equal(on_grid(x), x):
            raise PixelError(
                "x holds pixels between the levels of 8 bits; multiples of 1/255 are expected, as "
                "a file has them. Round first, advlib.data.on_grid(x), and look at what the model "
                "makes of it."
            )
        budget = check_eps(eps) * LEVELS
        if norm == "linf":
            budget = math.floor(budget + 1e-6)  # 8/255 * 255 may fall short of 8
        x_adv = attack(_Rounding(model), x, y, budget / LEVELS, norm=norm, **more)
        levels = _whole(x_adv - x, budget, norm)
        start = x.to(torch.promote_types(x.dtype, torch.float32)).mul(LEVELS).round()
        return ((start + levels) / LEVELS).to(x.dtype)

    return rounded


class _Rounding(nn.Module):
    """A model that sees what a file would hold; the gradient passes as if it saw everything."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model
        self.round = straight_through(on_grid)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(self.round(x))


def _whole(delta: Tensor, budget: float, norm: str) -> Tensor:
    """`delta` in whole levels, rounded to the nearest as far as the `budget`, in levels, allows."""
    wide = delta.to(torch.promote_types(delta.dtype, torch.float32)).mul(LEVELS)
    if norm == "linf":
        return wide.round().clamp(-budget, budget)
    p = {"l2": 2, "l1": 1}[norm]
    size = wide.abs().flatten(1).double()
    below = size.floor()
    order = (size - below).argsort(dim=1, descending=True, stable=True)
    price = ((below + 1) ** p - below**p).gather(1, order)
    wanted = (size - below).gather(1, order) >= 0.5
    left = budget**p * (1 + 1e-9) - (below**p).sum(1, keepdim=True)
    bought = wanted & ((price * wanted).cumsum(1) <= left)
    up = torch.zeros_like(below).scatter(1, order, bought.double())
    return wide.sign() * (below + up).view_as(wide).to(wide.dtype)
