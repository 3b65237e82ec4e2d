r"""The loss around a picture: slopes without a gradient, walks along directions, distances.

A gradient tells how steep the loss is *at* a picture. The functions here look at the loss itself,
in a few chosen directions, and only ask the model for logits. They are for measuring and drawing;
an attack needs none of them.

All of them compute where `x` lives, in its dtype, and leave model and random state as they were.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from advlib.contracts import (
    Model,
    check_device,
    check_labels,
    check_logits,
    check_pictures,
    check_steps,
)
from advlib.errors import InputError, ThreatError
from advlib.gradients import Loss, check_values, resolve_loss, undisturbed
from advlib.threats import per_picture


def random_directions(
    x: Tensor,
    count: int,
    *,
    kind: str = "sphere",
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Directions that know nothing of the model.

    Parameters
    ----------
    x
        Pictures, shape (n, c, h, w): only the shape of one, the dtype and the device are used.
    count
        How many, >= 1.
    kind
        ``"sphere"``: uniform on the unit sphere of :math:`\ell_2`. ``"sign"``: every pixel value
        +1 or -1 by the toss of a coin, a corner of the unit ball of :math:`\ell_\infty`.
    generator
        Source of randomness. None: a new one on the CPU with seed 0, so that equal calls give equal
        directions on every device.

    Returns
    -------
    Tensor
        Shape (count, c, h, w), dtype and device of `x`.

    Raises
    ------
    PixelError, ThreatError
        An argument cannot be used.
    """
    x = check_pictures(x)
    count = check_steps("count", count)
    if kind not in ("sphere", "sign"):
        raise ThreatError(f'kind is {kind!r}; "sphere" or "sign" is expected.')
    generator = generator or torch.Generator().manual_seed(0)
    shape, where = (count, *x.shape[1:]), generator.device
    if kind == "sign":
        coins = torch.randint(0, 2, shape, generator=generator, device=where)
        return (2 * coins - 1).to(x.device, x.dtype)
    # A Gaussian vector prefers no direction, so its direction is uniform.
    drawn = torch.randn(shape, generator=generator, device=where)
    drawn = drawn.to(x.device, torch.promote_types(x.dtype, torch.float32))
    length = torch.linalg.vector_norm(drawn.flatten(1), dim=1)
    return (drawn / per_picture(length, drawn)).to(x.dtype)


def finite_differences(
    model: Model,
    x: Tensor,
    y: Tensor,
    places: Sequence[int] | Tensor,
    h: float | None = None,
    *,
    loss: str | Loss = "ce",
    batch_size: int = 256,
) -> Tensor:
    r"""Slopes of the loss at chosen pixel values, by central differences.

    .. math:: \frac{\partial\ell}{\partial x_i} \approx
              \frac{\ell(x + h e_i) - \ell(x - h e_i)}{2h}

    The loss is computed twice for every place and picture, and no gradient is taken. Where the
    loss is smooth the formula is off by about :math:`h^2 |\ell'''| / 6`; rounding adds about
    :math:`u\,|\ell| / h` with the unit roundoff :math:`u`. So a smaller `h` is not always better.

    Parameters
    ----------
    model
        Classifier from pixels to logits (n, classes). It is in eval mode for the while. `x` may
        lie on the edge of the box: the model then sees pixels up to `h` outside.
    x
        Pictures, shape (n, c, h, w), floating point, pixels in [0, 1].
    y
        Classes, shape (n,), integer.
    places
        Which pixel values: k indices into the flattened picture, in [0, c * h * w).
    h
        Step, in units of pixels, > 0. None: the cube root of the dtype's machine epsilon, 6e-6 in
        float64 and 5e-3 in float32, which balances both errors where loss and derivatives are
        of order one.
    loss
        ``"ce"``, ``"margin"``, or a function of (logits, y) that returns one value per picture.
    batch_size
        How many pictures the model gets at a time, >= 1.

    Returns
    -------
    Tensor
        Slopes, shape (n, k), on the device of `x`, in its dtype (float32 for half precision).

    Raises
    ------
    PixelError, LabelError, DeviceError, ThreatError, ModelOutputError
        An argument, or what the model makes of it, cannot be used; nothing was changed.

    References
    ----------
    Press, Teukolsky, Vetterling & Flannery 2007, Numerical Recipes, section 5.7.
    """
    x, y, measure, batch_size = _checked(model, x, y, loss, batch_size)
    places = _check_places(places, x)
    h = torch.finfo(x.dtype).eps ** (1 / 3) if h is None else _check_size("h", h)
    if len(x) == 0 or len(places) == 0:
        return x.new_zeros(len(x), len(places))
    k = len(places)

    def moved(rows: Tensor) -> Tensor:
        # Row r belongs to picture r // 2k; its place is moved up (first k) or down (last k).
        points = x.flatten(1)[rows // (2 * k)]
        which = torch.arange(len(rows), device=x.device), places[rows % k]
        # Two plain numbers would make a float32 step, and a float32 error in a float64 slope.
        step = x.new_tensor(h)
        points[which] += torch.where(rows % (2 * k) < k, step, -step)
        return points.view(-1, *x.shape[1:])

    logits = _logits(model, moved, len(x) * 2 * k, x.device, batch_size)
    value = measure(logits, y.repeat_interleave(2 * k)).view(len(x), 2, k)
    return (value[:, 0] - value[:, 1]) / (2 * h)


def loss_along(
    model: Model,
    x: Tensor,
    y: Tensor,
    direction: Tensor,
    sizes: Sequence[float] | Tensor,
    *,
    loss: str | Loss = "ce",
    clip: bool = True,
    batch_size: int = 256,
) -> Tensor:
    r"""Loss on the way from each picture along its direction, :math:`\ell(f(x + t\,d), y)`.

    Parameters
    ----------
    model
        Classifier from pixels to logits (n, classes). It is in eval mode for the while.
    x
        Pictures, shape (n, c, h, w), floating point, pixels in [0, 1].
    y
        Classes, shape (n,), integer.
    direction
        One direction per picture, shape of `x`; its length counts.
    sizes
        The k step sizes `t`, in multiples of `direction`; 0 and negative ones are allowed.
    loss
        ``"ce"``, ``"margin"``, or a function of (logits, y) that returns one value per picture.
    clip
        True: pixels are kept in [0, 1] after the step. False: the model is asked outside too.
    batch_size
        How many pictures the model gets at a time, >= 1.

    Returns
    -------
    Tensor
        Losses, shape (n, k), on the device of `x`.

    Raises
    ------
    PixelError, LabelError, DeviceError, InputError, ThreatError, ModelOutputError
        An argument, or what the model makes of it, cannot be used; nothing was changed.
    """
    x, y, measure, batch_size = _checked(model, x, y, loss, batch_size)
    direction = _check_direction("direction", direction, x)
    t = _check_sizes(sizes, x)
    k = len(t)
    if len(x) == 0 or k == 0:
        return x.new_zeros(len(x), k)

    def moved(rows: Tensor) -> Tensor:
        return _step(x[rows // k], direction[rows // k], t[rows % k], clip)

    logits = _logits(model, moved, len(x) * k, x.device, batch_size)
    return measure(logits, y.repeat_interleave(k)).view(len(x), k)


class Plane(NamedTuple):
    """The loss on a square around a picture."""

    sizes: Tensor
    """Multiples of `u` and of `v` at the grid's points, shape (points,), ascending."""
    loss: Tensor
    """``loss[i, j]`` belongs to ``x + sizes[j] * u + sizes[i] * v``, as a plot wants it."""
    label: Tensor
    """The model's answer at the same places, shape (points, points), int64."""


def loss_plane(
    model: Model,
    x: Tensor,
    y: Tensor,
    u: Tensor,
    v: Tensor,
    extent: float,
    points: int = 31,
    *,
    loss: str | Loss = "ce",
    clip: bool = True,
    batch_size: int = 256,
) -> Plane:
    r"""Loss on the plane through one picture that two directions span.

    Parameters
    ----------
    model
        Classifier from pixels to logits (n, classes). It is in eval mode for the while.
    x
        One picture, shape (1, c, h, w), pixels in [0, 1].
    y
        Its class, shape (1,), integer.
    u, v
        Directions, shape of `x`; their lengths count.
    extent
        The square reaches from ``-extent`` to ``+extent`` times `u` and `v`, > 0.
    points
        How many points along each side, >= 1; an odd number has the picture in the middle.
    loss
        ``"ce"``, ``"margin"``, or a function of (logits, y) that returns one value per picture.
    clip
        True: pixels are kept in [0, 1] after the step. False: the model is asked outside too.
    batch_size
        How many pictures the model gets at a time, >= 1.

    Returns
    -------
    Plane
        ``sizes`` (points,), ``loss`` and ``label`` (points, points).

    Raises
    ------
    PixelError, LabelError, DeviceError, InputError, ThreatError, ModelOutputError
        An argument, or what the model makes of it, cannot be used; nothing was changed.

    References
    ----------
    Li, Xu, Taylor, Studer & Goldstein 2018 draw losses of weights on such planes; here it is the
    loss of pixels.
    """
    x, y, measure, batch_size = _checked(model, x, y, loss, batch_size)
    if len(x) != 1:
        raise InputError(f"x holds {len(x)} pictures; a plane goes through one: x[:1], y[:1].")
    u, v = _check_direction("u", u, x), _check_direction("v", v, x)
    points = check_steps("points", points)
    extent = _check_size("extent", extent)
    t = torch.linspace(-extent, extent, points, device=x.device, dtype=x.dtype)
    if points % 2:
        t[points // 2] = 0  # exactly the picture itself, whatever linspace rounds to

    def moved(rows: Tensor) -> Tensor:
        across = _step(x.expand(len(rows), *x.shape[1:]), u, t[rows % points], clip=False)
        return _step(across, v, t[rows // points], clip)

    logits = _logits(model, moved, points**2, x.device, batch_size)
    value = measure(logits, y.expand(points**2))
    return Plane(t, value.view(points, points), logits.argmax(1).view(points, points))


def boundary_distance(
    model: Model,
    x: Tensor,
    y: Tensor,
    direction: Tensor,
    limit: float,
    *,
    scan: int = 40,
    bisections: int = 8,
    batch_size: int = 256,
) -> Tensor:
    r"""How far each picture can go along its direction before the model gives another class.

    Step sizes are tried upward, four to each doubling, until the model is wrong for the first
    time at ``clamp(x + t * direction, 0, 1)``; bisection then closes in on the place. A region of
    another class that lies between two sizes tried and is left again can be missed, so the answer
    is an upper bound, and a close one where the model stays wrong.

    Parameters
    ----------
    model
        Classifier from pixels in [0, 1] to logits (n, classes). It is in eval mode for the while.
    x
        Pictures, shape (n, c, h, w), floating point, pixels in [0, 1].
    y
        Classes, shape (n,), integer.
    direction
        One direction per picture, shape of `x`; its length counts. Pixels stop at 0 and 1, the
        others go on.
    limit
        Largest step tried, in multiples of `direction`, > 0.
    scan
        How many sizes to try, >= 1: ``limit``, ``limit / 2**(1/4)``, and so on downward.
    bisections
        How often to halve the interval that was found, >= 1.
    batch_size
        How many pictures the model gets at a time, >= 1.

    Returns
    -------
    Tensor
        Shape (n,), dtype and device of `x`. The model is wrong at each finite value. 0 where it
        is wrong to begin with; infinity where it is right at every size tried up to `limit`.

    Raises
    ------
    PixelError, LabelError, DeviceError, InputError, ThreatError, ModelOutputError
        An argument, or what the model makes of it, cannot be used; nothing was changed.
    """
    x, y, _, batch_size = _checked(model, x, y, "ce", batch_size)
    direction = _check_direction("direction", direction, x)
    limit = _check_size("limit", limit)
    scan, bisections = check_steps("scan", scan), check_steps("bisections", bisections)
    low, high = x.new_zeros(len(x)), x.new_full((len(x),), math.inf)

    def wrong(which: Tensor, t: Tensor) -> Tensor:
        def moved(rows: Tensor) -> Tensor:
            chosen = which[rows]
            return _step(x[chosen], direction[chosen], t[rows], clip=True)

        return _logits(model, moved, len(which), x.device, batch_size).argmax(1) != y[which]

    searching = torch.arange(len(x), device=x.device)
    for size in (0.0, *(limit * 2 ** ((k + 1 - scan) / 4) for k in range(scan))):
        if len(searching) == 0:
            break
        t = x.new_full((len(searching),), size)
        crossed = wrong(searching, t)
        high[searching[crossed]] = t[crossed]
        searching = searching[~crossed]
        low[searching] = t[~crossed]
    found = (high.isfinite() & (high > 0)).nonzero().squeeze(1)
    for _ in range(bisections if len(found) else 0):
        middle = (low[found] + high[found]) / 2
        crossed = wrong(found, middle)
        high[found] = torch.where(crossed, middle, high[found])
        low[found] = torch.where(crossed, low[found], middle)
    return high


def _step(x: Tensor, direction: Tensor, t: Tensor, clip: bool) -> Tensor:
    moved = x + per_picture(t, x) * direction
    return moved.clamp(0, 1) if clip else moved


def _logits(
    model: Model,
    points: Callable[[Tensor], Tensor],
    count: int,
    device: torch.device,
    batch_size: int,
) -> Tensor:
    """Logits of the points number 0 to `count`, which are made only when their batch is due."""
    parts = []
    with undisturbed(model, device), torch.no_grad():
        for rows in torch.arange(count, device=device).split(batch_size):
            x = points(rows)
            logits = model(x)
            check_logits(logits, x)
            # Half precision rounds away what a loss needs: small differences of logits.
            parts.append(logits.to(torch.promote_types(logits.dtype, torch.float32)))
    return torch.cat(parts)


def _checked(
    model: Model, x: Tensor, y: Tensor, loss: str | Loss, batch_size: int
) -> tuple[Tensor, Tensor, Loss, int]:
    x = check_pictures(x)
    y = check_labels(y, x)
    check_device(model, x)
    return x, y, _one_each(resolve_loss(loss)), check_steps("batch_size", batch_size)


def _one_each(loss: Loss) -> Loss:
    """The same loss, which is held to its promise: one value per picture, classes that exist."""

    def checked(logits: Tensor, y: Tensor) -> Tensor:
        check_logits(logits, logits, y)
        return check_values(loss(logits, y), y)

    return checked


def _check_direction(name: str, direction: Tensor, x: Tensor) -> Tensor:
    if not isinstance(direction, Tensor) or direction.shape != x.shape:
        given = (
            tuple(direction.shape) if isinstance(direction, Tensor) else type(direction).__name__
        )
        raise InputError(
            f"{name} is {given}; one direction per picture is expected, shape {tuple(x.shape)}. "
            f"For many directions from one picture write x.expand({name}.shape)."
        )
    if not bool(direction.isfinite().all()):
        raise InputError(f"{name} holds NaN or infinite values; was it divided by a zero length?")
    return direction.detach().to(x.device, x.dtype)


def _check_sizes(sizes: Sequence[float] | Tensor, x: Tensor) -> Tensor:
    t = torch.as_tensor(sizes, device=x.device, dtype=x.dtype)
    if t.ndim != 1 or not bool(t.isfinite().all()):
        raise ThreatError("sizes is a list of finite numbers, such as [0, 0.5, 1].")
    return t


def _check_size(name: str, value: float) -> float:
    if not (isinstance(value, (int, float)) and 0 < value < math.inf):
        raise ThreatError(f"{name} is {value!r}; one finite number > 0 is expected.")
    return float(value)


def _check_places(places: Sequence[int] | Tensor, x: Tensor) -> Tensor:
    which = torch.as_tensor(places, device=x.device)
    values = math.prod(x.shape[1:])
    if which.ndim != 1 or (len(which) and (which.is_floating_point() or which.dtype == torch.bool)):
        raise InputError("places is a list of whole numbers, one for each pixel value to move.")
    if len(which) and (int(which.min()) < 0 or int(which.max()) >= values):
        raise InputError(
            f"places reaches from {int(which.min())} to {int(which.max())}; a picture of shape "
            f"{tuple(x.shape[1:])} has the places 0 to {values - 1}."
        )
    return which.long()
