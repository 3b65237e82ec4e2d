r"""Where the loss bends around an image: products with its Hessian, and the most curved directions.

The Hessian of the loss with respect to the pixels has as many rows and columns as the image has
values, so it is never written down. Its product with a direction is the change of the gradient
along it, and power iteration needs nothing else.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from advlib.analysis.loss_landscape import random_directions
from advlib.contracts import Model, check_batch, check_steps, undisturbed
from advlib.errors import InputError, ThreatError
from advlib.gradients import Loss, look, resolve_loss


def hessian_products(
    model: Model,
    x: Tensor,
    y: Tensor,
    v: Tensor,
    h: float,
    *,
    loss: str | Loss = "margin",
    batch_size: int = 256,
) -> Tensor:
    r"""Hessian of the loss times directions, by central differences of the gradient.

    .. math:: H v \approx \frac{\nabla\ell(x + h v) - \nabla\ell(x - h v)}{2h}

    A network of ReLUs is made of linear pieces: inside each the Hessian of its logits is zero, and
    all bending sits in the kinks between them. A step `h` that reaches across many kinks measures
    the bending that a step of that length meets, which the exact Hessian does not see.

    Parameters
    ----------
    model, x, y, loss, batch_size
        As for `advlib.analysis.loss_landscape.loss_along`. Nothing is clipped.
    v
        k directions for each image, shape (n, k, c, h, w).
    h
        Step, in multiples of `v`, > 0.

    Returns
    -------
    Tensor
        Shape of `v`.

    Raises
    ------
    PixelError, LabelError, DeviceError, InputError, ThreatError, ModelOutputError
        As for `advlib.analysis.loss_landscape.loss_along`.
    """
    x, y = check_batch(model, x, y)
    loss, batch_size = resolve_loss(loss), check_steps("batch_size", batch_size)
    if v.ndim != 5 or (len(v), *v.shape[2:]) != tuple(x.shape):
        raise InputError(f"v is {tuple(v.shape)}; (n, k, c, h, w) for x {tuple(x.shape)} expected.")
    if not 0 < h < math.inf:
        raise ThreatError(f"h is {h!r}; one finite number > 0 is expected.")
    if v.numel() == 0:
        return torch.zeros_like(v)
    k, directions = v.shape[1], v.flatten(0, 1)
    products = []
    with undisturbed(model, x.device):
        for rows in torch.arange(len(directions), device=x.device).split(batch_size):
            start, label, step = x[rows // k], y[rows // k], h * directions[rows]
            up, down = (look(model, start + side, label, loss).grad for side in (step, -step))
            products.append((up - down) / (2 * h))
    return torch.cat(products).view_as(v)


class Curved(NamedTuple):
    """The most curved directions at each image."""

    curvatures: Tensor
    """Second derivative of the loss along each, shape (n, k), the largest in size first."""
    directions: Tensor
    """Of length one and orthogonal to each other, shape (n, k, c, h, w)."""


def most_curved(
    model: Model,
    x: Tensor,
    y: Tensor,
    count: int,
    h: float,
    *,
    across: Tensor | None = None,
    iterations: int = 10,
    loss: str | Loss = "margin",
    generator: torch.Generator | None = None,
    batch_size: int = 256,
) -> Curved:
    r"""The `count` directions along which the loss bends most, up or down.

    Power iteration on `count` directions at once (orthogonal iteration): they are multiplied by
    the Hessian and made orthogonal again, which turns them towards its eigenvectors of the largest
    eigenvalues. At the end they are rotated so that the Hessian is diagonal on them.

    Parameters
    ----------
    model, x, y, h, loss, batch_size
        As for `hessian_products`.
    count
        How many directions, >= 1.
    across
        Directions to stay orthogonal to, shape (n, m, c, h, w); for instance the gradient.
    iterations
        How often to multiply, >= 1. Directions whose curvatures are nearly equal take longest.
    generator
        As for `advlib.analysis.loss_landscape.random_directions`, which gives the first directions.

    Returns
    -------
    Curved
        ``curvatures`` (n, count) and ``directions`` (n, count, c, h, w).

    Raises
    ------
    PixelError, LabelError, DeviceError, InputError, ThreatError, ModelOutputError
        As for `hessian_products`.

    References
    ----------
    Golub & Van Loan 2013, Matrix Computations, section 8.2.4. Fawzi, Moosavi-Dezfooli, Frossard &
    Soatto 2018, Empirical study of the topology and geometry of deep networks, CVPR (the curvature
    of decision boundaries).
    """
    x, y = check_batch(model, x, y)
    count, iterations = check_steps("count", count), check_steps("iterations", iterations)
    shape = (len(x), count, *x.shape[1:])
    normal = None if across is None else torch.linalg.qr(across.flatten(2).mT).Q

    def tangent(v: Tensor) -> Tensor:
        """Columns v (n, d, count) without their part along `across`."""
        return v if normal is None else v - normal @ (normal.mT @ v)

    def multiplied(v: Tensor) -> Tensor:
        rows = v.mT.reshape(shape)
        bent = hessian_products(model, x, y, rows, h, loss=loss, batch_size=batch_size)
        return tangent(bent.flatten(2).mT)

    drawn = random_directions(x, count, generator=generator).flatten(1).T
    v = torch.linalg.qr(tangent(drawn.expand(len(x), -1, -1))).Q
    for _ in range(iterations):
        v = torch.linalg.qr(multiplied(v)).Q
    seen = v.mT @ multiplied(v)
    values, turn = torch.linalg.eigh((seen + seen.mT) / 2)
    order = values.abs().argsort(dim=1, descending=True)
    turn = turn.gather(2, order[:, None].expand_as(turn))
    return Curved(values.gather(1, order), (v @ turn).mT.reshape(shape))
