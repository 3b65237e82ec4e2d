r"""HopSkipJump: the smallest perturbation, from the model's decisions alone.

No gradient, no logits: each query says a class. The attack begins at an image that fools, walks
towards `x` to the decision boundary, asks at random points around it which of them fool, takes
their mean direction for the boundary's normal, jumps along it, and walks back (Chen et al. 2020).
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from advlib.attacks.fmn import MinimalPerturbations, needed
from advlib.contracts import (
    Model,
    check_batch,
    check_images,
    check_logits,
    check_steps,
    forward,
    teaches_names,
    undisturbed,
)
from advlib.errors import InputError
from advlib.exact import add_towards, per_image
from advlib.threats import NORMS, check_norm

FIRST_PROBES = 100
"""Queries of the first estimate of a normal; the t-th takes as many times the square root of t."""
STARTS = 50
"""How many random images are tried to begin at, at most."""
HALVINGS = 20
"""How often a jump that does not fool is halved, at most; then the point stays where it is."""
FEWEST = 10
"""With fewer queries for an estimate an image is done."""


@dataclass(frozen=True)
class DecisionPerturbations(MinimalPerturbations):
    """As `MinimalPerturbations`, and what was asked for it.

    Attributes
    ----------
    queries
        How many decisions of the model were asked for each image, shape (n,).
    """

    queries: Tensor


@teaches_names
def hop_skip_jump(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    norm: str = "l2",
    queries: int = 1000,
    targeted: bool = False,
    start: Tensor | None = None,
    generator: torch.Generator | None = None,
    batch_size: int = 256,
) -> DecisionPerturbations:
    r"""HopSkipJump: the smallest perturbation from decisions alone.

    With :math:`\phi = 1` where the model is fooled and :math:`-1` elsewhere, the normal of the
    decision boundary at :math:`x^t` is estimated from random unit directions :math:`u_b`,

    .. math:: v = \frac{1}{B - 1} \sum_{b=1}^B
              \left(\phi(x^t + \delta u_b) - \bar\phi\right) u_b,

    the next point is :math:`x^t + \xi v / \|v\|`, or its sign in :math:`\ell_\infty`, with
    :math:`\xi = \|x^t - x\| / \sqrt t` halved until it fools, and a bisection towards `x` leads
    back to the boundary.

    Parameters
    ----------
    model
        Of its logits only the largest is looked at. A function that gives classes becomes one by
        ``lambda x: one_hot(classify(x), classes).float()``.
    x, y, targeted, generator
        As for `advlib.pgd`, and so are the errors.
    norm
        ``"l2"`` or ``"linf"``: what is to be small.
    queries
        Queries of the model for each image, at most, >= 1; the first is `x` itself.
    start
        Images that fool, shape of `x`, to begin at: with `targeted` images of the class `y`. None:
        random images, fine and coarse, up to 50 of them.
    batch_size
        How many images are classified at once, >= 1. The draws of an image depend on its index and
        `generator` alone.

    Returns
    -------
    DecisionPerturbations
        ``x_adv``, ``eps`` and ``fooled`` as from `advlib.attacks.fmn.fmn`, and ``queries``.

    Raises
    ------
    InputError
        `targeted` without `start`, or `start` of another shape. Otherwise as for `advlib.pgd`.

    References
    ----------
    Chen, Jordan & Wainwright 2020, "HopSkipJumpAttack: A Query-Efficient Decision-Based Attack",
    algorithms 1 and 2, equations 9 and 12 to 16.
    """
    check_norm(norm, ("l2", "linf"))
    queries, batch_size = check_steps("queries", queries), check_steps("batch_size", batch_size)
    x, y = check_batch(model, x, y)
    start = None if start is None else check_images(start)
    if (targeted and start is None) or (start is not None and start.shape != x.shape):
        raise InputError(
            "start is expected to hold one image of the target class for each image, of the shape "
            f"of x, {tuple(x.shape)}; targeted attacks cannot begin at a random image."
        )
    device = "cpu" if generator is None else generator.device
    generator = generator or torch.Generator().manual_seed(0)
    seeds = torch.randint(2**31, (len(x),), generator=generator, device=device).tolist()
    with undisturbed(model, x.device), torch.no_grad():
        search = _Search(model, x.clone(), y.clone(), norm, queries, targeted, batch_size, seeds)
        if len(x):
            search.run(start)
        eps = needed(x, search.nearest, norm, search.distance < math.inf)
    return DecisionPerturbations(search.nearest, eps, eps < math.inf, search.spent)


class _Search:
    """All images: the nearest point that fools each, how near it is, and what was asked."""

    def __init__(
        self,
        model: Model,
        x: Tensor,
        y: Tensor,
        norm: str,
        queries: int,
        targeted: bool,
        batch_size: int,
        seeds: list[int],
    ) -> None:
        self.model, self.x, self.y, self.name, self.norm = model, x, y, norm, NORMS[norm]
        self.queries, self.targeted, self.batch_size = queries, targeted, batch_size
        self.draws = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.here, self.nearest = x.clone(), x.clone()
        self.distance = torch.full((len(x),), math.inf, device=x.device, dtype=torch.float32)
        self.spent = torch.zeros_like(y)
        self.size = max(x.flatten(1).shape[1], 2)
        # Beyond what float32 can tell apart a bisection makes no sense.
        self.precision = max(self.size ** (-1.5 if norm == "l2" else -2.0), 1e-6)

    def run(self, start: Tensor | None) -> None:
        everyone = torch.arange(len(self.x), device=self.x.device)
        rows = self._begin(everyone[~self.offer(everyone, self.x)], start)
        self._walk(rows, self.nearest[rows])
        turn = 0
        while len(rows):
            turn += 1
            # Half of what is left is for the way back to the boundary.
            counts = (self.queries - self.spent[rows]) // 2
            counts = counts.clamp(max=int(FIRST_PROBES * math.sqrt(turn)))
            go_on = counts >= FEWEST
            rows, counts = rows[go_on], counts[go_on]
            pairs = zip(rows.tolist(), counts.tolist(), strict=True)
            normals = [self._normal(row, count, turn) for row, count in pairs]
            if normals:
                self._walk(rows, self._jumped(rows, torch.stack(normals), turn))

    def offer(self, rows: Tensor, points: Tensor) -> Tensor:
        """Ask for points of these images; keep those that fool and are nearer; return who fools."""
        free = self.spent[rows] < self.queries
        fooled = torch.zeros_like(free)
        fooled[free] = self._decide(points[free], self.y[rows[free]])
        self.spent[rows] += free
        length = self._length(rows, points)
        better = fooled & (length < self.distance[rows])
        self.nearest[rows[better]], self.distance[rows[better]] = points[better], length[better]
        return fooled

    def _decide(self, points: Tensor, y: Tensor) -> Tensor:
        fooled = [torch.zeros(0, dtype=torch.bool, device=y.device)]
        parts = zip(points.split(self.batch_size), y.split(self.batch_size), strict=True)
        for part, own in parts if len(points) else ():
            logits = forward(self.model, part.clone())  # a model may normalise in place
            check_logits(logits, part, own)
            fooled.append((logits.argmax(1) == own) == self.targeted)
        return torch.cat(fooled)

    def _begin(self, rows: Tensor, start: Tensor | None) -> Tensor:
        """A point that fools, for each of the images for which one is found."""
        if start is not None:
            return rows[self.offer(rows, start[rows])]
        waiting = rows
        for turn in range(STARTS):
            if len(waiting):
                waiting = waiting[~self.offer(waiting, self._drawn(waiting, turn))]
        return rows[self.distance[rows] < math.inf]

    def _drawn(self, rows: Tensor, turn: int) -> Tensor:
        """Random images: fine and coarse noise, grey levels and black and white, in turn."""
        shape = list(self.x.shape[1:])
        if len(shape) == 3 and turn % 3:
            shape[1:] = [4, 4] if turn % 3 == 1 else [1, 1]
        drawn = torch.stack([torch.rand(shape, generator=self.draws[row]) for row in rows.tolist()])
        drawn = drawn.round() if turn % 2 else drawn
        if drawn.shape[1:] != self.x.shape[1:]:
            drawn = F.interpolate(drawn, self.x.shape[2:])
        return drawn.to(self.x.device, self.x.dtype)

    def _walk(self, rows: Tensor, far: Tensor) -> None:
        """Bisect between each image and a point that fools it: `here` is then at the boundary."""
        x, reach = self.x[rows], self._length(rows, far)
        low, high, self.here[rows] = torch.zeros_like(reach), torch.ones_like(reach), far
        for _ in range(math.ceil(-math.log2(self.precision))):
            middle = (low + high) / 2
            points = self._between(x, far, middle, reach)
            fooled = self.offer(rows, points)
            low, high = torch.where(fooled, low, middle), torch.where(fooled, middle, high)
            self.here[rows[fooled]] = points[fooled]

    def _between(self, x: Tensor, far: Tensor, part: Tensor, reach: Tensor) -> Tensor:
        """The point at this part of the way: on the line in l2, in the smaller ball in linf."""
        delta = far - x
        if self.name == "l2":
            delta = delta * per_image(part, x).to(x.dtype)
        else:
            size = per_image(part * reach, x).to(x.dtype)
            delta = delta.clamp(-size, size)
        return add_towards(x, delta).clamp_(0, 1)

    def _normal(self, row: int, count: int, turn: int) -> Tensor:
        """The direction in which more of `count` random points near the boundary fool."""
        here, y = self.here[row], self.y[row]
        # The paper's probes: 0.1 long at first, then as long as the bisection is exact.
        away = self._length(torch.tensor([row], device=here.device), here[None]).item()
        length = 0.1 if turn == 1 else away / self.size
        u = torch.empty(count, *here.shape)
        if self.name == "l2":
            u.normal_(generator=self.draws[row])
        else:
            u.uniform_(-1, 1, generator=self.draws[row])
        u = u.to(here.device) / per_image(u.flatten(1).norm(dim=1).to(here.device), u)
        points = (here + length * u.to(here.dtype)).clamp(0, 1)
        self.spent[row] += count
        sign = self._decide(points, y.expand(count)).float() * 2 - 1
        u = (points - here).float() / length  # what the box and rounding left of it
        weight = sign - sign.mean() if bool((sign != sign[0]).any()) else sign
        normal = (per_image(weight, u) * u).mean(0)
        return normal.sign() if self.name == "linf" else normal / normal.norm().clamp_min(1e-12)

    def _jumped(self, rows: Tensor, normals: Tensor, turn: int) -> Tensor:
        """From the boundary along the normals, as far as it fools."""
        here = self.here[rows]
        far, size = here.clone(), self._length(rows, here) / math.sqrt(turn)
        waiting = torch.arange(len(rows), device=rows.device)
        for _ in range(HALVINGS):
            step = per_image(size[waiting], here) * normals[waiting]
            points = (here[waiting] + step.to(here.dtype)).clamp(0, 1)
            fooled = self.offer(rows[waiting], points)
            far[waiting[fooled]] = points[fooled]
            waiting = waiting[~fooled]
            size[waiting] /= 2
        return far

    def _length(self, rows: Tensor, points: Tensor) -> Tensor:
        return self.norm.length((points - self.x[rows]).float())
