"""Traffic signs beside a road: any number of labelled images from a seed, nothing to download.

An image is made the way a camera makes one. A sign face (`advlib.data.sign_shapes`) is drawn once;
for each image it is scaled, turned and tilted, hung before a road scene, lit by sun and shadow,
seen through air that is more or less hazy, exposed, slightly blurred, and captured by a sensor with
a little noise. All randomness comes from one seed and none of it depends on the label, so two calls
with the same seed and different labels give the same scenes with other signs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from advlib.data.sign_shapes import CLASS_NAMES, SPEED_LIMITS, STYLES, face_atlas
from advlib.errors import InputError, LabelError

__all__ = ["CLASS_NAMES", "RANGES", "SPEED_LIMITS", "STYLES", "render"]

BLOCK = 64
"""Images whose random numbers are drawn together; no block of a seed depends on another one."""

RANGES: dict[str, tuple[float, float]] = {
    # where the sign hangs; lengths in half widths of the image, angles in radians
    "scale": (0.44, 0.70),
    "shift_x": (-0.12, 0.12),
    "shift_y": (-0.12, 0.08),
    "turn": (-0.12, 0.12),
    "shear": (-0.08, 0.08),
    "aspect": (-0.07, 0.07),
    "tilt_x": (-0.10, 0.10),
    "tilt_y": (-0.10, 0.10),
    # light on the plate
    "light": (0.72, 1.02),
    "light_x": (-0.16, 0.16),
    "light_y": (-0.18, 0.06),
    "shadow": (0.0, 0.45),
    "shadow_level": (-0.5, 2.2),
    "dirt": (0.0, 0.06),
    # the scene behind
    "sky_hue": (0.0, 1.0),
    "sky_light": (0.60, 0.95),
    "horizon": (0.15, 0.55),
    "trees": (0.05, 0.75),
    "town": (0.0, 1.0),
    "leaf_hue": (0.0, 1.0),
    "leaf_light": (0.20, 0.48),
    "road_x": (-0.9, 0.9),
    "road_light": (0.26, 0.46),
    # air and camera
    "clear_air": (0.20, 0.72),
    "exposure": (0.62, 1.0),
    "warmth": (-0.06, 0.06),
    "blur": (0.0, 0.25),
    "sensor_noise": (0.001, 0.004),
}
"""What is drawn for each image, uniformly between the two numbers."""


class _Draws(NamedTuple):
    """All random numbers of some images, one row each."""

    labels: Tensor  # (n,) a balanced draw of indices into the list of classes
    values: Tensor  # (n, len(RANGES)) the columns of RANGES
    skyline: Tensor  # (n, 2, 12) heights of trees and of houses
    coarse: Tensor  # (n, 3, 6, 6) large patches: clouds, shadow, tone
    fine: Tensor  # (n, 2, 24, 24) small patches: leaves, dirt
    sensor: Tensor  # (n, 3, size, size) noise of the camera


def render(
    n: int,
    *,
    seed: int = 0,
    size: int = 64,
    classes: Sequence[int | str] | None = None,
    labels: Tensor | Sequence[int] | None = None,
    style: str = "vienna",
    device: torch.device | str | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Render `n` images of traffic signs.

    The first ``n`` images of a seed are the same however many are asked for, in whatever chunks,
    and on whatever device up to rounding. Global random state is left alone. At another `size` a
    seed shows the same scenes, with sensor noise of their own.

    Parameters
    ----------
    n, seed
        Number of images, and a number >= 0: different seeds give different images.
    size
        Width and height in pixels, 8 to 512. Below about 40 the speed limits blur.
    classes
        Draw only from these classes, by index or by name; all sixteen by default. Each comes up
        equally often, in random order: exactly in every 64 images if their number divides 64.
        `y` holds indices into `CLASS_NAMES` in any case.
    labels
        The class of each image, shape (n,), instead of a draw.
    style
        How the faces are drawn, one of `STYLES`: ``"vienna"`` with red rings and blue discs, or
        ``"american"`` with white boards and yellow diamonds. A seed shows the same scenes and
        labels in both: two data sets of the same sixteen classes.
    device
        Where to compute and to return the result; the CPU by default.
    chunk
        Images computed at a time: a matter of speed and memory only. By default 64 on the CPU,
        where small pieces stay in the cache, and 1,024 elsewhere.

    Returns
    -------
    x : Tensor (n, 3, size, size), float32, in [0, 1]
    y : Tensor (n,), int64, in 0..15

    Raises
    ------
    InputError, LabelError
        An argument out of its range, both `classes` and `labels`, or a class that does not exist.
    """
    _check_whole("n", n, 0, 10_000_000)
    _check_whole("seed", seed, 0, 2**63 - 1)
    _check_whole("size", size, 8, 512)
    if classes is not None and labels is not None:
        raise InputError(
            "render got both `classes` and `labels`. Give `classes` to draw from some classes, "
            "or `labels` to fix the class of each image."
        )
    if style not in STYLES:
        raise InputError(f"`style` is {style!r}; one of {', '.join(STYLES)} is expected.")
    pool = torch.tensor(range(len(CLASS_NAMES)) if classes is None else _indices(classes))
    fixed = None if labels is None else _fixed_labels(labels, n)
    device = torch.device("cpu" if device is None else device)
    chunk = (64 if device.type == "cpu" else 1024) if chunk is None else chunk
    _check_whole("chunk", chunk, 1, 10_000_000)
    x = torch.empty(n, 3, size, size, device=device)
    y = torch.empty(n, dtype=torch.int64, device=device)
    for start, draws in _draws(n, seed, size, chunk):
        stop = start + len(draws.labels)
        drawn = pool[draws.labels % len(pool)] if fixed is None else fixed[start:stop]
        y[start:stop] = drawn.to(device)
        there = _Draws(*(part.to(device) for part in draws))
        x[start:stop] = _image(y[start:stop], there, size, style)
    return x, y


# -- random numbers --------------------------------------------------------------------------------


def _draws(n: int, seed: int, size: int, chunk: int) -> Iterator[tuple[int, _Draws]]:
    """Random numbers of `n` images, in chunks: the index of the first image, and the draws."""
    step = -(-chunk // BLOCK) * BLOCK
    for start in range(0, n, step):
        stop = min(start + step, n)
        blocks = range(start // BLOCK, -(-stop // BLOCK))
        drawn = [_block(seed, block, size) for block in blocks]
        together = _Draws(*(torch.cat(parts) for parts in zip(*drawn, strict=True)))
        for first in range(start, stop, chunk):
            last = min(first + chunk, stop)
            yield first, _Draws(*(part[first - start : last - start] for part in together))


def _block(seed: int, block: int, size: int) -> _Draws:
    """Draw on the CPU, so that every device shows the same images."""
    digest = hashlib.sha256(f"signs/{seed}/{block}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))
    order = torch.randperm(BLOCK, generator=generator)
    low, high = torch.tensor(list(RANGES.values())).T
    uniform = torch.rand(BLOCK, len(RANGES), generator=generator)
    return _Draws(
        labels=order + block * BLOCK,
        values=low + (high - low) * uniform,
        skyline=torch.rand(BLOCK, 2, 12, generator=generator),
        coarse=torch.randn(BLOCK, 3, 6, 6, generator=generator),
        fine=torch.randn(BLOCK, 2, 24, 24, generator=generator),
        sensor=torch.randn(BLOCK, 3, size, size, generator=generator),
    )


# -- the image -----------------------------------------------------------------------------------


def _image(y: Tensor, draws: _Draws, size: int, style: str) -> Tensor:
    """Scene, pole, plate, air, lens and sensor, one after the other: (n, 3, size, size)."""
    value = {name: draws.values[:, i].view(-1, 1, 1, 1) for i, name in enumerate(RANGES)}
    coarse = _enlarge(draws.coarse, size)
    fine = _enlarge(draws.fine, size)
    scene = _scene(value, draws.skyline, coarse, fine, size)
    scene = _pole(scene, value, size)

    plate, coverage = _plate(y, value, size, style)
    light = _plate_light(value, coarse, fine, size)
    image = plate * light + scene * (1 - coverage)

    haze = _mix(_rgb(0.78, 0.80, 0.83, image), _rgb(0.86, 0.83, 0.78, image), value["sky_hue"])
    image = haze * value["sky_light"] * (1 - value["clear_air"]) + image * value["clear_air"]
    warm = torch.cat([1 + value["warmth"], 1 + 0 * value["warmth"], 1 - value["warmth"]], 1)
    image = _soften(image * value["exposure"] * warm, value["blur"])
    return (image + draws.sensor * value["sensor_noise"]).clamp(0, 1)


def _scene(
    value: dict[str, Tensor], skyline: Tensor, coarse: Tensor, fine: Tensor, size: int
) -> Tensor:
    """Sky, trees or houses, a verge, and a road that runs to the horizon."""
    x, y = _plane(size, coarse)
    horizon = value["horizon"]
    height = ((y + 1) / (horizon + 1)).clamp(0, 1)
    zenith = _mix(_rgb(0.32, 0.52, 0.85, x), _rgb(0.62, 0.66, 0.72, x), value["sky_hue"])
    low_sky = _mix(_rgb(0.80, 0.88, 0.96, x), _rgb(0.93, 0.86, 0.76, x), value["sky_hue"])
    clouds = 1 + 0.06 * coarse[:, :1]
    image = _mix(zenith, low_sky, height) * value["sky_light"] * clouds

    houses = F.interpolate(skyline[:, 1:], size=size, mode="nearest").view(-1, 1, 1, size)
    house_top = horizon - value["trees"] * (0.4 + 0.9 * houses)
    in_town = ((value["town"] - 0.55) * 20).clamp(0, 1)
    lit = 0.9 + 0.12 * torch.sign(torch.sin(23 * x) * torch.sin(19 * (y - house_top)))
    walls = _mix(_rgb(0.62, 0.52, 0.44, x), _rgb(0.55, 0.56, 0.60, x), houses) * lit
    image = _mix(image, walls * value["sky_light"], in_town * _step(y - house_top, size))

    trees = F.interpolate(skyline[:, :1], size=size, mode="linear").view(-1, 1, 1, size)
    tree_top = horizon - value["trees"] * (0.15 + 0.75 * trees) * (1 - 0.6 * in_town)
    leaves = _mix(_rgb(0.55, 0.85, 0.30, x), _rgb(0.75, 0.68, 0.28, x), value["leaf_hue"])
    leaves = leaves * value["leaf_light"] * (1 + 0.26 * fine[:, :1] + 0.10 * coarse[:, 2:])
    image = _mix(image, leaves, _step(y - tree_top + 0.05 * fine[:, :1], size / 4))

    below = (y - horizon).clamp(min=0)
    verge = leaves * 1.25 + 0.05
    middle = value["road_x"] * (0.15 + below)
    across = (x - middle).abs() - (0.04 + 0.75 * below)
    asphalt = value["road_light"] * (1 + 0.05 * fine[:, 1:]) * _rgb(1.0, 1.0, 1.03, x)
    line = _step(0.03 + 0.05 * below - (across + 0.12 * below).abs(), size)
    road = _mix(asphalt, 0.8 * torch.ones_like(asphalt), 0.8 * line)
    ground = _mix(road, verge, _step(across, size))
    return _mix(image, ground, _step(y - horizon, size))


def _pole(scene: Tensor, value: dict[str, Tensor], size: int) -> Tensor:
    """A grey tube under the plate, round in its shading."""
    x, y = _plane(size, scene)
    across = (x - value["shift_x"] + value["turn"] * (y - value["shift_y"])) / 0.055
    shading = 0.62 - 0.20 * across
    below_plate = _step(y - value["shift_y"], size)
    inside = _step((1 - across.abs()) * 0.055, size)
    return _mix(scene, shading.expand_as(scene), inside * below_plate)


def _plate(y: Tensor, value: dict[str, Tensor], size: int, style: str) -> tuple[Tensor, Tensor]:
    """Faces seen in perspective: colour times coverage (n, 3, size, size), coverage (n, 1, ...).

    Every pixel of the image is followed back to its point on the face.
    """
    u, v = _plane(size, value["scale"])
    u, v = (u - value["shift_x"]) / value["scale"], (v - value["shift_y"]) / value["scale"]
    cos, sin = torch.cos(value["turn"]), torch.sin(value["turn"])
    u, v = cos * u + sin * v, cos * v - sin * u
    depth = 1 + value["tilt_x"] * u + value["tilt_y"] * v
    u = (u * (1 + value["aspect"]) + value["shear"] * v) / depth
    v = v / depth
    tile = max(size, 64)  # about as fine as the plate will be seen: no aliasing
    atlas = face_atlas(tile, style).to(y.device)
    inside = 1 - 1 / tile  # the border of a tile is empty: a point clamped to it is off the plate
    row = (v.clamp(-inside, inside) + 1) / 2 + y.view(-1, 1, 1, 1)
    grid = torch.stack([u.clamp(-inside, inside), row * 2 / len(CLASS_NAMES) - 1], -1)
    seen = F.grid_sample(atlas[None], grid.view(1, -1, size, 2), align_corners=False)
    seen = seen.view(4, -1, size, size).transpose(0, 1)
    return seen[:, :3], seen[:, 3:]


def _plate_light(value: dict[str, Tensor], coarse: Tensor, fine: Tensor, size: int) -> Tensor:
    """How bright each point of the plate is: a slope of sunlight, shadows of leaves, some dirt."""
    x, y = _plane(size, coarse)
    slope = value["light"] + value["light_x"] * x + value["light_y"] * y
    shaded = ((coarse[:, 1:2] - value["shadow_level"]) * 3 + 0.5).clamp(0, 1)
    return slope * (1 - value["shadow"] * shaded) * (1 - value["dirt"] * fine[:, 1:].abs())


# -- small tools -----------------------------------------------------------------------------------


def _plane(size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel centres in [-1, 1]: x as (1, 1, 1, size) and y, downward, as (1, 1, size, 1)."""
    centres = (torch.arange(size, device=like.device, dtype=like.dtype) + 0.5) * (2 / size) - 1
    return centres.view(1, 1, 1, -1), centres.view(1, 1, -1, 1)


def _rgb(red: float, green: float, blue: float, like: Tensor) -> Tensor:
    return torch.tensor([red, green, blue], device=like.device, dtype=like.dtype).view(1, 3, 1, 1)


def _mix(a: Tensor, b: Tensor, weight: Tensor) -> Tensor:
    """`a` where the weight is 0, `b` where it is 1."""
    return a + (b - a) * weight


def _step(distance: Tensor, size: float) -> Tensor:
    """0 below zero, 1 above, over the width of one pixel."""
    return (distance * (size / 2) + 0.5).clamp(0, 1)


def _enlarge(patches: Tensor, size: int) -> Tensor:
    return F.interpolate(patches, size=(size, size), mode="bilinear", antialias=True)


def _soften(image: Tensor, weight: Tensor) -> Tensor:
    """Blend with the image under a 3 x 3 binomial kernel."""
    padded = F.pad(image, (1, 1, 1, 1), mode="replicate")
    rows = (padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]) / 4
    return _mix(image, (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 4, weight)


# -- checks ----------------------------------------------------------------------------------------


def _check_whole(name: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InputError(f"`{name}` must be a whole number from {low} to {high}; got {value!r}.")


def _indices(classes: Sequence[int | str]) -> list[int]:
    """Indices of classes given by index or by name."""
    known: dict[int | str, int] = {}
    for i, name in enumerate(CLASS_NAMES):
        known[i] = known[name] = i
    if isinstance(classes, str) or not classes:
        raise LabelError(f"`classes` must be a list of at least one class; got {classes!r}.")
    unknown = [entry for entry in classes if entry not in known]
    if unknown:
        raise LabelError(
            f"`classes` holds {unknown!r}, which no sign has. "
            f"Give indices from 0 to {len(CLASS_NAMES) - 1}, or names: {', '.join(CLASS_NAMES)}."
        )
    return [known[entry] for entry in classes]


def _fixed_labels(labels: Tensor | Sequence[int], n: int) -> Tensor:
    fixed = torch.as_tensor(labels).cpu()
    if fixed.shape != (n,) or fixed.is_floating_point() or fixed.dtype == torch.bool:
        raise LabelError(
            f"`labels` must hold one whole number for each of the {n} images; "
            f"got shape {tuple(fixed.shape)} and dtype {fixed.dtype}."
        )
    if n and (int(fixed.min()) < 0 or int(fixed.max()) >= len(CLASS_NAMES)):
        raise LabelError(
            f"`labels` must lie in 0..{len(CLASS_NAMES) - 1}; "
            f"got {int(fixed.min())} to {int(fixed.max())}."
        )
    return fixed.to(torch.int64)
