r"""The loss around an image: slopes without a gradient, curves along directions, distances.

A gradient tells how steep the loss is *at* an image. The functions here evaluate the loss itself
at points around it, with forward passes only. They are for measuring and drawing; no attack needs
them. All of them compute where `x` lives, in its dtype, and leave the model and the global random
state as they were.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from advlib.contracts import Model, check_batch, check_images, check_steps, undisturbed
from advlib.errors import InputError, ThreatError
from advlib.exact import per_image
from advlib.gradients import Loss, look, resolve_loss


def random_directions(
    x: Tensor, count: int, *, kind: str = "sphere", generator: torch.Generator | None = None
) -> Tensor:
    r"""`count` random directions, with the shape of one image of `x`, its dtype and its device.

    `kind` is ``"sphere"``: uniform on the unit sphere of :math:`\ell_2`, or ``"sign"``: each pixel
    value +1 or -1 with equal probability, a corner of the unit ball of :math:`\ell_\infty`. The
    default `generator` is a new one on the CPU with seed 0, so that equal calls give equal
    directions on every device. Another `kind`, or a `count` below 1, raises `ThreatError`.
    """
    x = check_images(x)
    count = check_steps("count", count)
    if kind not in ("sphere", "sign"):
        raise ThreatError(f'kind is {kind!r}; "sphere" or "sign" is expected.')
    generator = generator or torch.Generator().manual_seed(0)
    shape, device = (count, *x.shape[1:]), generator.device
    if kind == "sign":
        bits = torch.randint(0, 2, shape, generator=generator, device=device)
        return (2 * bits - 1).to(x.device, x.dtype)
    # A Gaussian vector prefers no direction, so its direction is uniform.
    drawn = torch.randn(shape, generator=generator, device=device)
    drawn = drawn.to(x.device, torch.promote_types(x.dtype, torch.float32))
    length = torch.linalg.vector_norm(drawn.flatten(1), dim=1)
    return (drawn / per_image(length, drawn)).to(x.dtype)


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
    r"""Derivatives of the loss with respect to chosen pixel values, by central differences.

    .. math:: \frac{\partial\ell}{\partial x_i} \approx
              \frac{\ell(x + h e_i) - \ell(x - h e_i)}{2h}

    The loss is computed twice for every place and image, and no gradient is taken. Where the
    loss is smooth the formula is off by about :math:`h^2 |\ell'''| / 6`; rounding adds about
    :math:`u\,|\ell| / h` with the unit roundoff :math:`u`. So a smaller `h` is not always better.

    Parameters
    ----------
    model, x, y, loss
        As for `advlib.fgsm`. `x` may lie on the edge of the box: the model then sees pixels up to
        `h` outside.
    places
        Which pixel values: k indices into the flattened image, in [0, c * h * w).
    h
        Step, in units of pixels, > 0. None: the cube root of the dtype's machine epsilon, 6e-6 in
        float64 and 5e-3 in float32, which balances both errors where loss and derivatives are
        of order one.
    batch_size
        As for `advlib.evaluation.predict`.

    Returns
    -------
    Tensor
        Shape (n, k), on the device of `x`, in its dtype (float32 for half precision).

    Raises
    ------
    PixelError, LabelError, DeviceError, InputError, ThreatError, ModelOutputError
        An argument, or what the model makes of it, cannot be used; nothing was changed.

    References
    ----------
    Press, Teukolsky, Vetterling & Flannery 2007, Numerical Recipes, section 5.7.
    """
    x, y = check_batch(model, x, y)
    places = _check_places(places, x)
    h = torch.finfo(x.dtype).eps ** (1 / 3) if h is None else _check_size("h", h)
    k = len(places)

    def moved(image: Tensor, point: Tensor) -> Tensor:
        """The first k points of an image move one place up, the last k one place down."""
        points = x.flatten(1)[image]
        rows = torch.arange(len(image), device=x.device)
        # Two plain numbers would make a float32 step, and a float32 error in a float64 slope.
        step = x.new_tensor(h)
        points[rows, places[point % k]] += torch.where(point < k, step, -step)
        return points.view(-1, *x.shape[1:])

    value, _ = _evaluate(model, moved, x, y, 2 * k, loss, batch_size)
    return (value[:, :k] - value[:, k:]) / (2 * h)


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
    r"""Loss along one direction from each image, :math:`\ell(f(x + t\,d), y)`.

    Parameters
    ----------
    model, x, y, loss
        As for `advlib.fgsm`.
    direction
        One direction per image, shape of `x`; its length counts.
    sizes
        The k step sizes `t`, in multiples of `direction`; 0 and negative ones are allowed.
    clip
        True: pixels are kept in [0, 1] after the step. False: the model sees what lies outside too.
    batch_size
        As for `advlib.evaluation.predict`.

    Returns
    -------
    Tensor
        Losses, shape (n, k), on the device of `x`.

    Raises
    ------
    PixelError, LabelError, DeviceError, InputError, ThreatError, ModelOutputError
        As for `finite_differences`.
    """
    x, y = check_batch(model, x, y)
    direction = _check_direction("direction", direction, x)
    t = torch.as_tensor(sizes, device=x.device, dtype=x.dtype)
    if t.ndim != 1 or not bool(t.isfinite().all()):
        raise ThreatError("sizes is a list of finite numbers, such as [0, 0.5, 1].")

    def moved(image: Tensor, point: Tensor) -> Tensor:
        return _step(x[image], direction[image], t[point], clip)

    return _evaluate(model, moved, x, y, len(t), loss, batch_size)[0]


class Plane(NamedTuple):
    """The loss on a square around an image."""

    sizes: Tensor
    """Multiples of `u` and of `v` at the grid's points, shape (points,), ascending."""
    loss: Tensor
    """``loss[i, j]`` belongs to ``x + sizes[j] * u + sizes[i] * v``, as a plot wants it."""
    label: Tensor
    """The predicted class at the same places, shape (points, points), int64."""


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
    r"""Loss on the plane through one image that two directions span.

    Parameters
    ----------
    model, loss, clip, batch_size
        As for `loss_along`.
    x, y
        One image, shape (1, c, h, w), pixels in [0, 1], and its class, shape (1,).
    u, v
        Directions, shape of `x`; their lengths count.
    extent
        The square reaches from ``-extent`` to ``+extent`` times `u` and `v`, > 0.
    points
        Points along each side, >= 1; an odd number has the image in the middle.

    Returns
    -------
    Plane
        ``sizes`` (points,), ``loss`` and ``label`` (points, points).

    Raises
    ------
    PixelError, LabelError, DeviceError, InputError, ThreatError, ModelOutputError
        As for `finite_differences`.

    References
    ----------
    Li, Xu, Taylor, Studer & Goldstein 2018, "Visualizing the loss landscape of neural nets" (there
    the loss as a function of the weights; here of the pixels).
    """
    x, y = check_batch(model, x, y)
    if len(x) != 1:
        raise InputError(f"x holds {len(x)} images; a plane goes through one: x[:1], y[:1].")
    u, v = _check_direction("u", u, x), _check_direction("v", v, x)
    points = check_steps("points", points)
    extent = _check_size("extent", extent)
    t = torch.linspace(-extent, extent, points, device=x.device, dtype=x.dtype)
    if points % 2:
        t[points // 2] = 0  # exactly the image itself, whatever linspace rounds to

    def moved(image: Tensor, point: Tensor) -> Tensor:
        across = _step(x[image], u, t[point % points], clip=False)
        return _step(across, v, t[point // points], clip)

    value, logits = _evaluate(model, moved, x, y, points**2, loss, batch_size)
    return Plane(t, value.view(points, points), logits.argmax(2).view(points, points))


class Knobs(nn.Module):
    r"""A network as a function of a few numbers, each of which moves one image along a direction.

    .. math:: z \mapsto f\Bigl(x + \sum_i (z_i - \tfrac12)\, d_i\Bigr)

    An attack on it moves the image in a plane or a line only, which can be drawn as a map: `z` is
    an image of k "pixels" in [0, 1], and 1/2 leaves `x` as it is. If the directions have entries
    of 0 and of size 1, at different pixels, the :math:`\ell_\infty` ball around 1/2 is that of
    the images.

    Parameters
    ----------
    model
        Takes images like `x`.
    x
        One image, shape (1, c, h, w).
    directions
        Shape (k, c, h, w).
    """

    def __init__(self, model: Model, x: Tensor, directions: Tensor) -> None:
        super().__init__()
        self.model, self.x, self.directions = model, x, directions

    def images(self, z: Tensor) -> Tensor:
        """Images (n, c, h, w) at `z`, shape (n, ...) with k numbers a row; kept in [0, 1]."""
        moves = torch.tensordot(z.flatten(1) - 0.5, self.directions, 1)
        return (self.x + moves).clamp(0, 1)

    def forward(self, z: Tensor) -> Tensor:
        """Logits (n, classes) of the images at `z`."""
        return self.model(self.images(z))


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
    r"""How far each image can move along its direction before it is misclassified.

    Step sizes are tried upward, four to each doubling, until the image is misclassified for the
    first time at ``clamp(x + t * direction, 0, 1)``; bisection then closes in on the boundary. A
    region of another class that lies between two sizes tried can be missed, so the distance is an
    upper bound, and a close one where the image stays misclassified.

    Parameters
    ----------
    model, x, y, direction, batch_size
        As for `loss_along`. Pixels stop at 0 and 1, the others go on.
    limit
        Largest step tried, in multiples of `direction`, > 0.
    scan
        How many sizes to try, >= 1: ``limit``, ``limit / 2**(1/4)``, and so on downward.
    bisections
        How often to halve the interval that was found, >= 1.

    Returns
    -------
    Tensor
        Shape (n,), dtype and device of `x`. The image is misclassified at each finite distance: 0
        where it is misclassified to begin with, infinity where it is classified correctly at every
        size tried up to `limit`.

    Raises
    ------
    PixelError, LabelError, DeviceError, InputError, ThreatError, ModelOutputError
        As for `finite_differences`.
    """
    x, y = check_batch(model, x, y)
    direction = _check_direction("direction", direction, x)
    limit = _check_size("limit", limit)
    scan, bisections = check_steps("scan", scan), check_steps("bisections", bisections)
    low, high = x.new_zeros(len(x)), x.new_full((len(x),), math.inf)

    def misclassified(rows: Tensor, t: Tensor) -> Tensor:
        start, along, label = x[rows], direction[rows], y[rows]

        def moved(image: Tensor, _point: Tensor) -> Tensor:
            return _step(start[image], along[image], t[image], clip=True)

        _, logits = _evaluate(model, moved, start, label, 1, "ce", batch_size)
        return logits[:, 0].argmax(1) != label

    searching = torch.arange(len(x), device=x.device)
    for size in (0.0, *(limit * 2 ** ((k + 1 - scan) / 4) for k in range(scan))):
        if len(searching) == 0:
            break
        t = x.new_full((len(searching),), size)
        crossed = misclassified(searching, t)
        high[searching[crossed]] = t[crossed]
        searching = searching[~crossed]
        low[searching] = t[~crossed]
    found = (high.isfinite() & (high > 0)).nonzero().squeeze(1)
    for _ in range(bisections if len(found) else 0):
        middle = (low[found] + high[found]) / 2
        crossed = misclassified(found, middle)
        high[found] = torch.where(crossed, middle, high[found])
        low[found] = torch.where(crossed, low[found], middle)
    return high


def _evaluate(
    model: Model,
    moved: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    count: int,
    loss: str | Loss,
    batch_size: int,
) -> tuple[Tensor, Tensor]:
    """Losses (n, count) and logits (n, count, classes) at `count` points around each image.

    ``moved(image, point)`` makes those of a batch, from the indices of their images and points.
    """
    loss, batch_size = resolve_loss(loss), check_steps("batch_size", batch_size)
    rows = torch.arange(len(x) * count, device=x.device)
    if len(rows) == 0:
        return x.new_zeros(len(x), count), x.new_zeros(len(x), count, 0)
    with undisturbed(model, x.device):
        seen = [
            look(model, moved(part // count, part % count), y[part // count], loss, gradient=False)
            for part in rows.split(batch_size)
        ]
    value = torch.cat([part.loss for part in seen])
    logits = torch.cat([part.logits for part in seen])
    return value.view(len(x), count), logits.view(len(x), count, -1)


def _step(x: Tensor, direction: Tensor, t: Tensor, clip: bool) -> Tensor:
    moved = x + per_image(t, x) * direction
    return moved.clamp(0, 1) if clip else moved


def _check_direction(name: str, direction: Tensor, x: Tensor) -> Tensor:
    given = tuple(direction.shape) if isinstance(direction, Tensor) else type(direction).__name__
    if given != x.shape:
        raise InputError(
            f"{name} is {given}; one direction per image is expected, shape {tuple(x.shape)}. "
            f"For many directions from one image write x.expand({name}.shape)."
        )
    if not bool(direction.isfinite().all()):
        raise InputError(f"{name} holds NaN or infinite values; was it divided by a zero length?")
    return direction.detach().to(x.device, x.dtype)


def _check_size(name: str, value: float) -> float:
    if not (isinstance(value, (int, float)) and 0 < value < math.inf):
        raise ThreatError(f"{name} is {value!r}; one finite number > 0 is expected.")
    return float(value)


def _check_places(places: Sequence[int] | Tensor, x: Tensor) -> Tensor:
    indices = torch.as_tensor(places, device=x.device)
    values = math.prod(x.shape[1:])
    whole = not (indices.is_floating_point() or indices.dtype == torch.bool)
    if indices.ndim != 1 or (len(indices) and not whole):
        raise InputError("places is a list of whole numbers, one for each pixel value to move.")
    if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= values):
        raise InputError(
            f"places reaches from {int(indices.min())} to {int(indices.max())}; an image of shape "
            f"{tuple(x.shape[1:])} has the places 0 to {values - 1}."
        )
    return indices.long()
