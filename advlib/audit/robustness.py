r"""Robust accuracy at a stated cost: so many gradients for each image, spent where they help.

An attack that gives every image the same number of steps wastes most of them. Images that are
fooled at the first step are driven further, and images far from the decision boundary are attacked
in vain. Only one thing is asked here, how many images remain correctly classified, so only those
are worked on:

1. a short run from `x`, which fools what is easy and shows which wrong classes are nearest;
2. run after run from random points, each towards the next of these classes, on the half of the
   remaining images that came closest, until the gradients are used up, those too that fooled
   images have left, or until no image is close enough to hope for.

All runs raise the margin, a difference of two logits, with steps that shrink along a cosine. The
sign of its gradient does not depend on the scale of the logits, so large ones hide nothing. Images
are worked on in a pool (`advlib.attacks.pool`), so that batches stay full, and memory depends on
neither the number of images nor that of steps.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from advlib.attacks.pool import Pool, work
from advlib.contracts import Model, check_batch, check_steps, progress_bar, undisturbed
from advlib.evaluation import Proportion, wilson
from advlib.gradients import check_finite, look, margin
from advlib.threats import Ball

OnFooled = Callable[[Tensor, Tensor], None]
"""Called as ``on_fooled(rows, x_adv)``: the indices of some images, and what fooled them."""


@dataclass(frozen=True)
class Robustness:
    """How many images remain correctly classified, and what it took to find out.

    Attributes
    ----------
    accuracy
        Share of images that are classified correctly at every point visited: robust accuracy is at
        most this.
    clean
        Share of images that are classified correctly without an attacker.
    robust
        Whether each image remains correctly classified, shape (n,), on the device of the images.
    gradients
        Input gradients computed, over all images: at most ``gradients * n`` of what was asked.
    """

    accuracy: Proportion
    clean: Proportion
    robust: Tensor
    gradients: int

    def __str__(self) -> str:
        each = self.gradients / max(self.clean.total, 1)
        return f"robust {self.accuracy}, clean {self.clean}, {each:.1f} gradients an image"


def robust_accuracy(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float = 8 / 255,
    *,
    norm: str = "linf",
    gradients: int = 40,
    corners: bool = False,
    batch_size: int = 256,
    generator: torch.Generator | None = None,
    on_fooled: OnFooled | None = None,
    progress: bool = False,
) -> Robustness:
    r"""Share of images that withstand an attacker with so many gradients for each.

    Parameters
    ----------
    model, x, y, eps, norm
        As for `advlib.fgsm`, and so are the errors; `y` are the true classes.
    gradients
        How many input gradients may be taken for each image on average, >= 1. Those that a
        fooled image leaves are spent on others; ``gradients * n`` in all are never exceeded.
        No image gets more than ten times its part, and one that is still far from the decision
        boundary after four runs gets no more: farther than the distance it was brought, divided by
        the number of its runs. So fewer may be taken than are allowed. A last hundredth
        of them may be left as well: it would make many small batches.
    corners
        Let further runs begin at corners of the ball, where pixels are moved as far as they go in
        columns, rows, squares or one by one, and climb towards whichever wrong class is ahead. From
        100 gradients on it found more on networks that saturate, as FGSM training at large budgets
        makes them; with 20 or 40 gradients, random starts found as much or more.
    batch_size
        Images at work at a time, >= 1: it decides time and memory, and changes the result no
        more than rounding does.
    generator
        Source of randomness. None: a new one with seed 0, so that equal calls give equal results.
        What is drawn for an image depends on its index, not on `batch_size`.
    on_fooled
        Called as ``on_fooled(rows, x_adv)`` when images are fooled: their indices, shape (k,), and
        the points in ball and box that the model misclassifies (the images themselves, where it
        was wrong anyway). Nothing else keeps these points.
    progress
        Show a progress bar on standard error, which is removed at the end.

    Returns
    -------
    Robustness
        ``accuracy``, ``clean``, ``robust`` (n,), ``gradients``.

    References
    ----------
    Gowal et al. 2019, "An Alternative Surrogate Loss for PGD-based Adversarial Testing" (a run for
    each class, margins); Liu et al. 2022, "Practical Evaluation of Adversarial Robustness via
    Adaptive Auto Attack" (hard images are given up); Carlini & Wagner 2017 (the margin).

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    >>> x, y = torch.rand(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    >>> found = robust_accuracy(model, x, y, 0.1, gradients=10)
    >>> found.accuracy.count <= found.clean.count, found.gradients <= 50
    (True, True)
    """
    gradients = check_steps("gradients", gradients)
    batch_size = check_steps("batch_size", batch_size)
    x, y = check_batch(model, x, y)
    bar = progress_bar(show=progress, unit="gradient", desc="attacking", total=gradients * len(x))
    with undisturbed(model, x.device), bar:
        ball = Ball(x, eps, norm)
        search = _Search(
            model, ball, y, gradients, corners, batch_size, generator, on_fooled, bar.update
        )
        search.run(search.remaining.nonzero().squeeze(1), min(FIRST_STEPS, gradients))
        while ball.eps > 0 and search.left() > MAY_BE_LEFT * gradients * len(x):
            steps = min(RUN_STEPS, 2 * gradients, search.left())
            rows, at_once = search.nearest(steps)
            if len(rows) == 0:
                break
            search.run(rows, steps, at_once)
    return Robustness(
        accuracy=wilson(int(search.remaining.sum()), len(x)),
        clean=wilson(len(x) - int(search.misclassified.sum()), len(x)),
        robust=search.remaining,
        gradients=int(search.spent.sum()),
    )


FIRST_STEPS, RUN_STEPS = 3, 20
"""Steps of the first run of an image, and of each further one."""
WORKED_ON = 0.5
"""The part of the remaining images, those that came closest, that each further round works on."""
MAY_BE_LEFT = 0.01
"""Of the gradients allowed, the part that may be left: it would make many small batches."""
PATIENCE = 10
"""No image gets more than so many times `gradients`; then it is given up."""
SURE_RUNS = 4
"""After so many runs or more, r of them, an image is given up if the distance that is left to the
boundary is more than 1/r of the distance that it was brought."""
CLASSES = 9
"""To how many wrong classes an image is driven, the nearest first."""
ROUND_ROWS = 512
"""A round of fewer images begins several runs of each at once, so that batches stay full."""
FIRST_STEP = 1.5
"""Length of the first step of a run, in parts of `eps`; the last is near 0."""
ANY_CLASS, AGAIN = -1, -2
"""The target of a first run, and of one that begins at a corner: whichever wrong class is ahead."""


@dataclass
class _Pool(Pool):
    t: Tensor
    """Steps taken."""
    target: Tensor
    """The class to be driven to."""


class _Search:
    """The images, what the attacker may do with them, and what is known of each."""

    def __init__(
        self,
        model: Model,
        ball: Ball,
        y: Tensor,
        gradients: int,
        corners: bool,
        batch_size: int,
        generator: torch.Generator | None,
        on_fooled: OnFooled | None,
        advance: Callable[[int], Any],
    ) -> None:
        n, device = len(y), "cpu" if generator is None else generator.device
        generator = generator or torch.Generator().manual_seed(0)
        # Where the randomness of each image begins.
        self.seeds = torch.randint(2**31, (n,), generator=generator, device=device).tolist()
        self.model, self.ball, self.y = model, ball, y
        self.gradients, self.corners, self.batch_size = gradients, corners, batch_size
        self.on_fooled, self.advance = on_fooled, advance
        self.checked = False
        # Without an attacker, and at every point visited.
        self.misclassified = torch.zeros(n, dtype=torch.bool, device=y.device)
        self.remaining = ~self.misclassified
        # The largest margin seen, below 0 while the image is classified correctly, and that at `x`.
        self.margin = torch.full((n,), -torch.inf, device=y.device)
        self.began = torch.zeros(n, device=y.device)
        # The wrong classes at the best point of the first run, the nearest first, (n, k).
        self.order = torch.zeros(n, 1, dtype=torch.long, device=y.device)
        # How many runs each image has had, and how many gradients were taken of it.
        self.runs = torch.zeros(n, dtype=torch.long, device=y.device)
        self.spent = torch.zeros_like(self.runs)

    def left(self) -> int:
        """How many gradients may still be taken."""
        return self.gradients * len(self.y) - int(self.spent.sum())

    def nearest(self, steps: int) -> tuple[Tensor, int]:
        """The images of the next round, and how many runs each of them begins.

        As many as `WORKED_ON` says and the gradients suffice for.
        """
        patience, left = PATIENCE * self.gradients, self.left() // max(steps, 1)
        to_go, done = -self.margin, self.margin - self.began
        hopeful = (self.runs < SURE_RUNS) | (self.runs * to_go <= done)
        hopeful &= self.spent + steps <= patience
        rows = (self.remaining & hopeful).nonzero().squeeze(1)
        many = min(math.ceil(WORKED_ON * len(rows)), left)
        rows = rows[self.margin[rows].argsort(descending=True, stable=True)[:many]].sort().values
        if many == 0:
            return rows, 0
        room = (patience - int(self.spent[rows].max())) // steps
        return rows, max(1, min(ROUND_ROWS // many, left // many, room, CLASSES))

    def run(self, rows: Tensor, steps: int, at_once: int = 1) -> None:
        """`at_once` runs of `steps` gradients for each of the images `rows`, in full batches.

        The runs of an image keep step, and all end when it is fooled. So what is spent on it does
        not depend on the size of the batches.
        """
        ended = self._enter(rows[:0], 0)

        def advance(pool: _Pool) -> _Pool:
            nonlocal ended
            asked = [self._ask(part) for part in self._batches(pool)]
            grad, logits = (_joined(parts) for parts in zip(*asked, strict=True))
            remaining = self._note(pool, logits)
            if not remaining.all():
                stay = remaining.nonzero().squeeze(1)
                pool, grad = pool[stay], grad[stay]
            pool = self._moved(pool, grad, steps)
            if (last := pool.t == steps).any():
                go_on, end = (which.nonzero().squeeze(1) for which in (~last, last))
                ended, pool = ended.join(pool[end]), pool[go_on]
            if len(ended) >= self.batch_size:
                self._look_at_ends(ended)
                ended = ended[:0]
            return pool

        work(rows, lambda rows: self._enter(rows, at_once), advance, self.batch_size, at_once)
        self._look_at_ends(ended)
        self.runs[rows] += at_once

    def _enter(self, rows: Tensor, at_once: int) -> _Pool:
        """Images that begin runs: the first from `x` towards any class, then one by one."""
        turn = (self.runs[rows, None] + torch.arange(at_once, device=rows.device)).flatten()
        rows = rows.repeat_interleave(at_once)
        place = (turn - 1).clamp_min(0) // (1 + self.corners)
        target = self.order[rows, place % self.order.shape[1]]
        ball, first = self.ball[rows], turn == 0
        start, again = ball.x.clone(), (~first).nonzero().squeeze(1)
        # A point of each ball, drawn from each image's own randomness.
        drawn = torch.Generator()
        for i, row, run in zip(
            again.tolist(), rows[again].tolist(), turn[again].tolist(), strict=True
        ):
            one = self.ball[row : row + 1]
            draw = _corner if self.corners else Ball.random_point
            start[i] = one.settle(draw(one, drawn.manual_seed(self.seeds[row] + run)))[0]
        if self.corners:  # every other run is for one class
            target = torch.where(turn % 2 == 1, AGAIN, target)
        target = torch.where(first, ANY_CLASS, target)
        return _Pool(rows, ball, start, torch.zeros_like(rows), target)

    def _ask(self, pool: _Pool) -> tuple[Tensor, Tensor]:
        """The gradient of how far the target is ahead, and the logits."""

        def ahead(logits: Tensor, y: Tensor) -> Tensor:
            nearest = logits.detach().scatter(1, y[:, None], -torch.inf).argmax(1)
            target = torch.where(pool.target < 0, nearest, pool.target)
            two = logits.gather(1, torch.stack([target, y], 1))
            return two[:, 0] - two[:, 1]

        first, self.checked = not self.checked, True
        seen = look(self.model, pool.x_adv, self.y[pool.row], ahead, check=first)
        check_finite(seen.finite())
        self.spent.index_add_(0, pool.row, torch.ones_like(pool.row))
        self.advance(len(pool))
        return seen.grad, seen.logits

    def _note(self, pool: _Pool, logits: Tensor) -> Tensor:
        """Note what the logits say; return which rows hold images that are not fooled."""
        row, y = pool.row, self.y[pool.row]
        value = margin(logits, y).float()
        check_finite(~value.isnan().any())
        at_x = (pool.t == 0) & (pool.target == ANY_CLASS)
        self.began[row[at_x]] = value[at_x]
        first = (value > self.margin[row]) & (pool.target == ANY_CLASS)
        self.margin.scatter_reduce_(0, row, value, "amax")
        if first.any():
            self._note_order(row[first], logits[first], y[first])
        fooled = logits.argmax(1) != y
        if fooled.any():
            self._fooled(pool[fooled.nonzero().squeeze(1)])
        return self.remaining[row]

    def _note_order(self, row: Tensor, logits: Tensor, y: Tensor) -> None:
        """Remember the nearest wrong classes, to be tried one after the other."""
        choices = min(CLASSES, logits.shape[1] - 1)
        if self.order.shape[1] != choices:  # nothing was known of the model
            self.order = self.order.new_zeros(len(self.y), choices)
        wrong = logits.scatter(1, y[:, None], -torch.inf)
        self.order[row] = wrong.topk(choices, dim=1).indices

    def _fooled(self, pool: _Pool) -> None:
        # Runs of an image lie side by side; the first that fools the model counts.
        row, at = pool.row, torch.cat([pool.row.new_ones(1), pool.row.diff()]) != 0
        anyway = (pool.t == 0) & (pool.target == ANY_CLASS)
        self.misclassified[row[anyway]], self.remaining[row] = True, False
        if self.on_fooled is not None:
            self.on_fooled(row[at], pool.x_adv[at])

    def _moved(self, pool: _Pool, grad: Tensor, steps: int) -> _Pool:
        """One step, each image's as long as its place on the cosine says; back into ball, box."""
        phase = (pool.t / steps * math.pi).cos().add(1).div(2)
        moved = pool.ball.step(pool.x_adv, grad, FIRST_STEP * self.ball.eps * phase)
        return replace(pool, t=pool.t + 1, x_adv=pool.ball.settle(moved))

    def _batches(self, pool: _Pool) -> list[_Pool]:
        starts = range(0, len(pool), self.batch_size)
        return [pool[start : start + self.batch_size] for start in starts]

    def _look_at_ends(self, pool: _Pool) -> None:
        """Classify the points from which no step follows: no gradient is needed."""
        for part in self._batches(pool):
            part = part[self.remaining[part.row].nonzero().squeeze(1)]
            if len(part) == 0:  # another of its runs has just fooled the model
                continue
            y = self.y[part.row]
            # A model may normalise in place.
            seen = look(self.model, part.x_adv.clone(), y, margin, gradient=False, check=False)
            self._note(part, seen.logits)


def _corner(ball: Ball, generator: torch.Generator) -> Tensor:
    """A point of each ball, as far away as it goes: groups of pixels up or down."""
    channels, high, wide = ball.x.shape[1:] if ball.x.ndim == 4 else (1, 1, ball.x[0].numel())
    side = math.ceil(high / 7)
    group = ((high, 1), (1, wide), (side, side), (1, 1))
    rows, columns = group[int(torch.randint(4, (1,), generator=generator))]
    size = (channels, math.ceil(high / rows), math.ceil(wide / columns))
    up = torch.rand(size, generator=generator) < 0.5
    up = up.repeat_interleave(rows, 1)[:, :high].repeat_interleave(columns, 2)[:, :, :wide]
    delta = torch.where(up, 1.0, -1.0).to(ball.x).view_as(ball.x[0]).expand_as(ball.x)
    return ball.norm.confine(ball.x, delta, ball.eps, settle=False)


def _joined(parts: tuple[Tensor, ...]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
