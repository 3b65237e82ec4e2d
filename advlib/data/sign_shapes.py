"""The faces of the sixteen traffic signs, drawn once from signed distances.

A shape is a function of the plane: ``shape(x, y)`` is negative inside, positive outside, and its
size is the distance to the edge. A sign face is a list of layers, each a shape and a colour, laid
over one another. No font and no image file is needed: digits and letters are strokes.

The plane of a face runs from -1 to 1 in both directions, ``y`` downward, as pixel rows do.

The sixteen faces exist in two styles (`STYLES`). ``"vienna"`` follows the Vienna Convention on Road
Signs and Signals of 1968: red rings, blue discs. ``"american"`` follows the signs of the United
States, some of them as they looked before 1971: yellow diamonds, white boards, bolder digits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

Point = tuple[float, float]
Shape = Callable[[Tensor, Tensor], Tensor]
Colour = tuple[float, float, float]
Layer = tuple[Shape, Colour]

RED: Colour = (0.78, 0.07, 0.10)
WHITE: Colour = (0.95, 0.95, 0.93)
BLACK: Colour = (0.07, 0.07, 0.08)
BLUE: Colour = (0.04, 0.26, 0.62)
YELLOW: Colour = (0.97, 0.76, 0.08)
METAL: Colour = (0.60, 0.61, 0.63)

SPEED_LIMITS: tuple[int, ...] = (20, 30, 50, 60, 70, 80, 100, 120, 130)
CLASS_NAMES: tuple[str, ...] = (
    "stop",
    *(f"speed limit {limit}" for limit in SPEED_LIMITS),
    "yield",
    "no entry",
    "priority road",
    "keep right",
    "roundabout",
    "pedestrian crossing",
)
STYLES: tuple[str, ...] = ("vienna", "american")
"""How the faces may be drawn; the first is the default."""


# -- shapes: signed distances --------------------------------------------------------------------


def disc(radius: float) -> Shape:
    """Disc about the origin."""
    return lambda x, y: torch.hypot(x, y) - radius


def polygon(points: Sequence[Point], rounding: float = 0.0) -> Shape:
    """Polygon with corners rounded outward by `rounding`."""

    def distance(x: Tensor, y: Tensor) -> Tensor:
        inside = torch.zeros_like(x, dtype=torch.bool)
        for (ax, ay), (bx, by) in _edges([*points, points[0]]):
            if ay == by:
                continue  # a level edge is never crossed by a level ray
            crossing = (ay > y) != (by > y)
            inside ^= crossing & (x < (bx - ax) * (y - ay) / (by - ay) + ax)
        to_edge = _distance_to_line(x, y, [*points, points[0]])
        return torch.where(inside, -to_edge, to_edge) - rounding

    return distance


def stroke(points: Sequence[Point], width: float) -> Shape:
    """Line through `points` drawn with a round pen of diameter `width`."""
    return lambda x, y: _distance_to_line(x, y, points) - width / 2


def union(*shapes: Shape) -> Shape:
    """Points that lie in any of the shapes."""
    return lambda x, y: torch.stack([shape(x, y) for shape in shapes]).amin(0)


def arc(cx: float, cy: float, rx: float, ry: float, start: float, end: float) -> list[Point]:
    """Points on an ellipse from `start` to `end` degrees (0 right, 90 down, 180 left, 270 up)."""
    count = max(2, math.ceil(abs(end - start) / 12) + 1)
    angles = [math.radians(start + (end - start) * i / (count - 1)) for i in range(count)]
    return [(cx + rx * math.cos(angle), cy + ry * math.sin(angle)) for angle in angles]


def regular(corners: int, radius: float, turn: float = 0.0) -> list[Point]:
    """Corners of a regular polygon about the origin, the first at `turn` degrees."""
    angles = [math.radians(turn + 360 * i / corners) for i in range(corners)]
    return [(radius * math.cos(angle), radius * math.sin(angle)) for angle in angles]


def _edges(points: Sequence[Point]) -> list[tuple[Point, Point]]:
    return list(zip(points[:-1], points[1:], strict=True))


def _distance_to_line(x: Tensor, y: Tensor, points: Sequence[Point]) -> Tensor:
    """Distance from every (x, y) to the nearest segment of a line through `points`."""
    nearest = torch.full_like(x, math.inf)
    for (ax, ay), (bx, by) in _edges(points):
        dx, dy = bx - ax, by - ay
        length2 = dx * dx + dy * dy or 1.0
        along = (((x - ax) * dx + (y - ay) * dy) / length2).clamp(0, 1)
        nearest = torch.minimum(nearest, torch.hypot(x - ax - along * dx, y - ay - along * dy))
    return nearest


# -- digits and letters as strokes, in a box 0.6 wide and 1 high -----------------------------------

_OVAL = arc(0.30, 0.50, 0.225, 0.42, 0, 360)
GLYPHS: dict[str, list[list[Point]]] = {
    "0": [_OVAL],
    "1": [[(0.12, 0.27), (0.34, 0.08), (0.34, 0.92)]],
    "2": [[*arc(0.29, 0.32, 0.22, 0.24, 190, 390), (0.07, 0.92), (0.54, 0.92)]],
    "3": [
        [*arc(0.28, 0.285, 0.205, 0.205, 205, 445), (0.22, 0.49)],
        [(0.22, 0.49), *arc(0.28, 0.705, 0.235, 0.215, 275, 510)],
    ],
    "5": [[(0.50, 0.08), (0.15, 0.08), (0.11, 0.48), *arc(0.29, 0.655, 0.235, 0.265, 235, 510)]],
    "6": [
        arc(0.30, 0.655, 0.225, 0.265, 0, 360),
        arc(0.50, 0.66, 0.425, 0.60, 180, 268),
    ],
    "7": [[(0.07, 0.08), (0.53, 0.08), (0.22, 0.92)]],
    "8": [arc(0.30, 0.285, 0.19, 0.205, 0, 360), arc(0.30, 0.705, 0.235, 0.215, 0, 360)],
    "O": [_OVAL],
    "P": [[(0.12, 0.92), (0.12, 0.08), *arc(0.30, 0.31, 0.22, 0.23, 270, 450), (0.12, 0.54)]],
    "S": [
        [
            *arc(0.30, 0.29, 0.20, 0.21, 335, 90),
            *arc(0.30, 0.71, 0.215, 0.21, 270, 515),
        ]
    ],
    "T": [[(0.05, 0.08), (0.55, 0.08)], [(0.30, 0.08), (0.30, 0.92)]],
}


def text(word: str, height: float, narrow: float = 1.0, width: float = 0.15) -> Shape:
    """`word` centred on the origin.

    `height` is the height of a letter, `narrow` squeezes it from the sides, and `width` is the
    thickness of the pen as a part of the height.
    """
    advance = 0.66 * height * narrow
    left = -(advance * len(word) - 0.06 * height * narrow) / 2

    def place(point: Point, index: int) -> Point:
        u, v = point
        return left + index * advance + u * height * narrow, (v - 0.5) * height

    strokes = [
        stroke([place(point, index) for point in line], width * height)
        for index, letter in enumerate(word)
        for line in GLYPHS[letter]
    ]
    return union(*strokes)


# -- the sixteen faces -----------------------------------------------------------------------------


def _plate(corners: Sequence[Point], rounding: float, ground: Colour) -> list[Layer]:
    """Polygon of metal, painted in the colour `ground` up to a thin rim."""
    return [(polygon(corners, rounding), METAL), (polygon(corners, rounding - 0.015), ground)]


def _round_plate(ground: Colour) -> list[Layer]:
    return [(disc(0.96), METAL), (disc(0.945), ground)]


def _stop() -> list[Layer]:
    octagon = regular(8, 0.90, 22.5)
    word = text("STOP", 0.58, narrow=0.84, width=0.17)
    return [*_plate(octagon, 0.06, WHITE), (polygon(octagon, -0.02), RED), (word, WHITE)]


def _speed_limit(limit: int) -> list[Layer]:
    height, narrow = (0.80, 0.92) if limit < 100 else (0.70, 0.78)
    digits = text(str(limit), height, narrow, width=0.16)
    return [*_round_plate(RED), (disc(0.72), WHITE), (digits, BLACK)]


def _yield() -> list[Layer]:
    outer = [(-0.86, -0.70), (0.86, -0.70), (0.0, 0.80)]
    inner = [(-0.47, -0.47), (0.47, -0.47), (0.0, 0.36)]
    return [*_plate(outer, 0.10, RED), (polygon(inner, 0.04), WHITE)]


def _no_entry() -> list[Layer]:
    bar = [(-0.62, -0.15), (0.62, -0.15), (0.62, 0.15), (-0.62, 0.15)]
    return [*_round_plate(RED), (polygon(bar, 0.02), WHITE)]


def _priority_road() -> list[Layer]:
    diamond = regular(4, 0.88)
    return [
        *_plate(diamond, 0.07, WHITE),
        (polygon(diamond, -0.10), BLACK),
        (polygon(diamond, -0.125), YELLOW),
    ]


def _keep_right() -> list[Layer]:
    shaft = stroke([(-0.42, -0.42), (0.26, 0.26)], 0.22)
    head = polygon([(0.52, 0.52), (0.50, -0.12), (-0.12, 0.50)], 0.02)
    return [*_round_plate(WHITE), (disc(0.89), BLUE), (union(shaft, head), WHITE)]


def _roundabout() -> list[Layer]:
    """Three arrows that chase one another, as traffic that keeps right goes round."""
    arrows: list[Shape] = []
    for turn in (30.0, 150.0, 270.0):
        tip, base = math.radians(turn - 100), math.radians(turn - 60)
        head = [
            (radius * math.cos(angle), radius * math.sin(angle))
            for radius, angle in ((0.50, tip), (0.74, base), (0.26, base))
        ]
        arrows += [stroke(arc(0, 0, 0.50, 0.50, turn, turn - 62), 0.17), polygon(head, 0.015)]
    return [*_round_plate(WHITE), (disc(0.89), BLUE), (union(*arrows), WHITE)]


def _pedestrian_crossing() -> list[Layer]:
    """A walker in a white triangle on a blue square."""
    square = [(-0.76, -0.76), (0.76, -0.76), (0.76, 0.76), (-0.76, 0.76)]
    triangle = [(0.0, -0.58), (0.62, 0.54), (-0.62, 0.54)]
    walker = union(
        lambda x, y: torch.hypot(x - 0.02, y + 0.24) - 0.095,
        stroke([(0.0, -0.08), (-0.01, 0.16)], 0.15),
        stroke([(-0.02, 0.16), (0.13, 0.31), (0.17, 0.50)], 0.085),
        stroke([(-0.02, 0.16), (-0.10, 0.33), (-0.22, 0.48)], 0.085),
        stroke([(0.0, -0.08), (0.17, 0.10)], 0.065),
        stroke([(-0.02, -0.08), (-0.17, 0.11)], 0.065),
    )
    return [
        *_plate(square, 0.17, WHITE),
        (polygon(square, 0.10), BLUE),
        (polygon(triangle, 0.05), WHITE),
        (walker, BLACK),
    ]


# -- the same sixteen, as another country draws them -----------------------------------------------


def _board(wide: float, high: float) -> list[Layer]:
    """Upright white board with a thin black line along its edge; half its sides are given."""
    corners = [(-wide, -high), (wide, -high), (wide, high), (-wide, high)]
    return [
        *_plate(corners, 0.10, WHITE),
        (polygon(corners, 0.03), BLACK),
        (polygon(corners, -0.02), WHITE),
    ]


def _warning() -> list[Layer]:
    """Yellow diamond with a black line along its edge."""
    diamond = regular(4, 0.86)
    return [
        *_plate(diamond, 0.08, YELLOW),
        (polygon(diamond, 0.01), BLACK),
        (polygon(diamond, -0.04), YELLOW),
    ]


def _american_stop() -> list[Layer]:
    """Black on yellow, as until 1954."""
    octagon = regular(8, 0.90, 22.5)
    return [
        *_plate(octagon, 0.06, YELLOW),
        (polygon(octagon, -0.01), BLACK),
        (polygon(octagon, -0.06), YELLOW),
        (text("STOP", 0.54, narrow=0.80, width=0.20), BLACK),
    ]


def _american_speed_limit(limit: int) -> list[Layer]:
    """High narrow digits low on a white board, under a bar that stands for the words."""
    digits = text(str(limit), 0.86, narrow=0.80 if limit < 100 else 0.58, width=0.21)
    words = polygon([(-0.40, -0.70), (0.40, -0.70), (0.40, -0.60), (-0.40, -0.60)], 0.01)
    lower = union(lambda x, y: digits(x, y - 0.16), words)
    return [*_board(0.66, 0.84), (lower, BLACK)]


def _american_yield() -> list[Layer]:
    """Black on yellow, as until 1971."""
    outer = [(-0.86, -0.70), (0.86, -0.70), (0.0, 0.80)]
    middle = [(-0.74, -0.63), (0.74, -0.63), (0.0, 0.66)]
    return [
        *_plate(outer, 0.10, YELLOW),
        (polygon(middle, 0.05), BLACK),
        (polygon(middle, -0.03), YELLOW),
    ]


def _american_no_entry() -> list[Layer]:
    bar = [(-0.50, -0.10), (0.50, -0.10), (0.50, 0.10), (-0.50, 0.10)]
    return [*_board(0.76, 0.76)[:2], (disc(0.74), RED), (polygon(bar, 0.01), WHITE)]


def _american_priority_road() -> list[Layer]:
    """The through road is broad, the road that crosses it narrow."""
    roads = union(stroke([(0, -0.48), (0, 0.48)], 0.24), stroke([(-0.42, 0), (0.42, 0)], 0.10))
    return [*_warning(), (roads, BLACK)]


def _american_keep_right() -> list[Layer]:
    """An arrow that passes a hump on its right."""
    shaft = stroke([(-0.22, 0.60), (-0.22, 0.30), (0.22, -0.10), (0.22, -0.30)], 0.13)
    head = polygon([(0.22, -0.66), (0.42, -0.28), (0.02, -0.28)], 0.02)
    hump = stroke([(-0.34, -0.50), (-0.34, -0.30)], 0.20)
    return [*_board(0.66, 0.84), (union(shaft, head, hump), BLACK)]


def _american_roundabout() -> list[Layer]:
    arrows, _ = _roundabout()[-1]
    return [*_warning(), (lambda x, y: 0.64 * arrows(x / 0.64, y / 0.64), BLACK)]


def _american_pedestrian_crossing() -> list[Layer]:
    walker, _ = _pedestrian_crossing()[-1]
    return [*_warning(), (walker, BLACK)]


# -- drawing ---------------------------------------------------------------------------------------


_FACES: dict[str, tuple[Callable[..., list[Layer]], ...]] = {
    "vienna": (
        _stop,
        _speed_limit,
        _yield,
        _no_entry,
        _priority_road,
        _keep_right,
        _roundabout,
        _pedestrian_crossing,
    ),
    "american": (
        _american_stop,
        _american_speed_limit,
        _american_yield,
        _american_no_entry,
        _american_priority_road,
        _american_keep_right,
        _american_roundabout,
        _american_pedestrian_crossing,
    ),
}


def faces(style: str = "vienna") -> list[list[Layer]]:
    """The layers of each class, in the order of `CLASS_NAMES`, in one of the `STYLES`."""
    stop, limit, *others = _FACES[style]
    return [stop(), *map(limit, SPEED_LIMITS), *(face() for face in others)]


def draw_face(layers: Sequence[Layer], size: int) -> Tensor:
    """Draw one face, the bottom layer first: shape (4, size, size), in [0, 1].

    The channels are red, green and blue, each already multiplied by the coverage, and the coverage.
    """
    fine = 2 * size  # drawn twice as fine, then averaged: smooth edges
    centres = (torch.arange(fine, dtype=torch.float32) + 0.5) * (2 / fine) - 1
    y, x = torch.meshgrid(centres, centres, indexing="ij")
    face = torch.zeros(4, fine, fine)
    for shape, colour in layers:
        coverage = (0.5 - shape(x, y) * (fine / 2)).clamp(0, 1)
        paint = torch.tensor([*colour, 1.0]).view(4, 1, 1)
        face = paint * coverage + face * (1 - coverage)
    return torch.nn.functional.avg_pool2d(face[None], 2)[0]


@lru_cache(maxsize=8)
def face_atlas(size: int, style: str = "vienna") -> Tensor:
    """All faces below one another, (4, 16 * size, size), drawn on the CPU and kept."""
    return torch.cat([draw_face(layers, size) for layers in faces(style)], dim=1)
