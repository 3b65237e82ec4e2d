r"""Robust accuracy for a stated price: so many gradients for each picture, spent where they help.

An attack that gives every picture the same number of steps wastes most of them. Pictures that fell
at the first step are pushed further, and pictures far from the edge of a decision are pushed in
vain. Only one thing is asked here, how many pictures still stand, so only those are worked on:

1. a short run from `x`, which brings down what is easy and shows which wrong classes are nearest;
2. run after run from random points, each towards the next of these classes, on the half of the
   standing pictures that came closest, until the gradients are used up, those too that fallen
   pictures have left, or until none is close enough to hope for.

All runs raise the margin, a difference of two logits, with steps that shrink along a cosine. The
sign of its gradient does not care how large the logits are, so large ones hide nothing. Pictures
are worked on in a pool; who falls or ends leaves it and the next one enters, so that batches stay
full, and memory depends on neither the number of pictures nor that of steps.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from advlib import threats
from advlib.autopgd import stepped
from advlib.contracts import Model, check_device, check_labels, check_pictures, check_steps
from advlib.errors import ModelOutputError
from advlib.evaluation import Proportion, wilson
from advlib.gradients import all_finite, margin, undisturbed, value_and_gradient

OnFooled = Callable[[Tensor, Tensor], None]
"""Called as ``on_fooled(rows, x_adv)``: the indices of some pictures, and what fooled them."""


@dataclass(frozen=True)
class Robustness:
    """How many pictures stand, and what it took to find out.

    Attributes
    ----------
    accuracy
        Share of pictures that are right and that no point visited has changed: robust accuracy is
        at most this.
    clean
        Share of pictures that are right without an attacker.
    robust
        Whether each picture still stands, shape (n,), on the device of the pictures.
    gradients
        Input gradients computed, over all pictures: at most ``gradients * n`` of what was asked.
    """

    accuracy: Proportion
    clean: Proportion
    robust: Tensor
    gradients: int

    def __str__(self) -> str:
        each = self.gradients / max(self.clean.total, 1)
        return f"robust {self.accuracy}, clean {self.clean}, {each:.1f} gradients a picture"


def robust_accuracy(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float = 8 / 255,
    *,
    norm: str = "linf",
    gradients: int = 40,
    batch_size: int = 256,
    generator: torch.Generator | None = None,
    on_fooled: OnFooled | None = None,
    progress: bool = False,
) -> Robustness:
    r"""Share of pictures that stand against an attacker with so many gradients for each.

    Parameters
    ----------
    model
        Classifier from pixels in [0, 1] to logits (n, classes); normalisation lives inside it.
    x
        Pictures, shape (n, c, h, w), floating point, pixels in [0, 1].
    y
        True classes, shape (n,), integer.
    eps
        Budget in `norm`, in units of pixels: four grey levels of 255 are ``4 / 255``.
    norm
        ``"linf"``, ``"l2"`` or ``"l1"``.
    gradients
        How many input gradients may be taken for each picture on average, >= 1. Those that a
        fallen picture leaves are spent on others; ``gradients * n`` in all are never exceeded.
        No picture gets more than ten times its part, and one that is still far from the edge after
        four runs gets no more: farther than a part of the way it was brought, which is one over
        the number of its runs. So fewer may be taken than are allowed. A last hundredth
        of them may be left as well: it would make many small batches.
    batch_size
        Pictures at work at a time, >= 1: it decides time and memory, and changes the result no
        more than rounding does.
    generator
        Source of randomness. None: a new one with seed 0, so that equal calls give equal results.
        What is drawn for a picture depends on its index, not on `batch_size`.
    on_fooled
        Called as ``on_fooled(rows, x_adv)`` when pictures fall: their indices, shape (k,), and the
        points in ball and box that the model misreads (the pictures themselves, where it was
        wrong anyway). Nothing else keeps these points.
    progress
        Show a progress bar on standard error, which is removed at the end.

    Returns
    -------
    Robustness
        ``accuracy``, ``clean``, ``robust`` (n,), ``gradients``.

    Raises
    ------
    PixelError, LabelError, DeviceError, ThreatError, ModelOutputError
        An argument, or what the model makes of it, cannot be used; nothing was changed.

    References
    ----------
    Gowal et al. 2019, "An Alternative Surrogate Loss for PGD-based Adversarial Testing" (a run for
    each class, margins); Liu et al. 2022, "Practical Evaluation of Adversarial Robustness via
    Adaptive Auto Attack" (hard pictures are given up); Carlini & Wagner 2017 (the margin).

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    >>> x, y = torch.rand(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    >>> found = robust_accuracy(model, x, y, 0.1, gradients=10)
    >>> found.accuracy.count <= found.clean.count, found.gradients <= 50
    (True, True)
    """
    threats.check_norm(norm)
    eps = threats.check_eps(eps)
    gradients = check_steps("gradients", gradients)
    batch_size = check_steps("batch_size", batch_size)
    x = check_pictures(x)
    y = check_labels(y, x)
    check_device(model, x)
    eps = min(eps, threats.diameter(x, norm))  # the box ends there
    with undisturbed(model, x.device), _bar(gradients * len(x), progress) as advance:
        search = _Search.begin(
            x, y, eps, norm, gradients, batch_size, generator, on_fooled, advance
        )
        search.run(model, search.standing(), min(FIRST, gradients))
        while eps > 0 and search.left() > SPARE * gradients * len(x):
            steps = min(LATER, 2 * gradients, search.left())
            rows, at_once = search.nearest(steps)
            if len(rows) == 0:
                break
            search.run(model, rows, steps, at_once)
    stands = search.stands
    return Robustness(
        accuracy=wilson(int(stands.sum()), len(x)),
        clean=wilson(len(x) - int(search.wrong.sum()), len(x)),
        robust=stands,
        gradients=int(search.spent.sum()),
    )


FIRST, LATER = 3, 20
"""Steps of the first run of a picture, and of each further one."""
SHARE = 0.5
"""How many of the standing pictures, those that came closest, each further round works on."""
SPARE = 0.01
"""Of the gradients allowed, the part that may be left: it would make many small batches."""
PATIENCE = 10
"""No picture gets more than so many times `gradients`; then it is given up."""
TRIES = 4
"""After so many runs or more, r of them, a picture is given up if the way that is left to the edge
is longer than the r-th part of the way that it was brought."""
CLASSES = 9
"""To how many wrong classes a picture is driven, the nearest first."""
WIDE = 512
"""A round of fewer pictures begins several runs of each at once, so that batches stay full."""
STEP = 1.5
"""Length of the first step of a run, in parts of `eps`; the last is near 0."""
ANY = -1
"""The target of a first run: whichever wrong class is ahead."""
NOT_FINITE = (
    "the logits or their gradient are NaN or infinite; finite ones are expected. Look for a square "
    "root, logarithm or division by zero inside the model."
)


class _Pool(NamedTuple):
    """The pictures at work, one row each; rows differ in how far they are."""

    row: Tensor
    """Which picture this is."""
    t: Tensor
    """Steps taken."""
    target: Tensor
    """The class to be driven to."""
    low: Tensor
    high: Tensor
    """The smallest and largest pixel values that an l-infinity ball allows."""
    x_adv: Tensor

    def of(self, keep: Tensor | slice) -> "_Pool":
        if isinstance(keep, slice):
            return _Pool(*(part[keep] for part in self))
        rows = _rows(keep)  # to pick rows by number takes a quarter of the time
        return _Pool(*(part.index_select(0, rows) for part in self))

    def join(self, other: "_Pool") -> "_Pool":
        if len(self.row) == 0:
            return other
        return _Pool(*(torch.cat(pair) for pair in zip(self, other, strict=True)))


@dataclass
class _Search:
    """The pictures, what the attacker may do with them, and what is known of each."""

    x: Tensor
    y: Tensor
    eps: float
    norm: str
    gradients: int
    batch_size: int
    seeds: list[int]
    """Where each picture's own chance begins."""
    on_fooled: OnFooled | None
    advance: Callable[[int], Any]
    wrong: Tensor
    """Without an attacker."""
    stands: Tensor
    margin: Tensor
    """The largest one seen: how near a standing picture came to the edge, below 0."""
    began: Tensor
    """The margin without an attacker."""
    order: Tensor
    """The wrong classes at that point of the first run, the nearest first, (n, k)."""
    runs: Tensor
    """How many runs each picture has had."""
    spent: Tensor
    """How many gradients were taken of each picture."""
    checked: bool = False

    @classmethod
    def begin(
        cls,
        x: Tensor,
        y: Tensor,
        eps: float,
        norm: str,
        gradients: int,
        batch_size: int,
        generator: torch.Generator | None,
        on_fooled: OnFooled | None,
        advance: Callable[[int], Any],
    ) -> "_Search":
        device = "cpu" if generator is None else generator.device
        generator = generator or torch.Generator().manual_seed(0)
        seeds = torch.randint(2**31, (len(x),), generator=generator, device=device)
        zeros = torch.zeros(len(x), dtype=torch.long, device=x.device)
        return cls(
            x=x, y=y, eps=eps, norm=norm, gradients=gradients, batch_size=batch_size,
            seeds=seeds.tolist(), on_fooled=on_fooled, advance=advance,
            wrong=zeros.bool(), stands=~zeros.bool(),
            margin=torch.full(zeros.shape, -torch.inf, device=x.device),
            began=torch.zeros(zeros.shape, device=x.device),
            order=zeros[:, None].clone(), runs=zeros.clone(), spent=zeros,
        )  # fmt: skip

    def standing(self) -> Tensor:
        return _rows(self.stands)

    def left(self) -> int:
        """How many gradients may still be taken."""
        return self.gradients * len(self.x) - int(self.spent.sum())

    def nearest(self, steps: int) -> tuple[Tensor, int]:
        """The pictures of the next round, and how many runs each of them begins.

        As many as `SHARE` says and the gradients suffice for.
        """
        patience, left = PATIENCE * self.gradients, self.left() // max(steps, 1)
        to_go, done = -self.margin, self.margin - self.began
        hopeful = (self.runs < TRIES) | (self.runs * to_go <= done)
        hopeful &= self.spent + steps <= patience
        rows = _rows(self.stands & hopeful)
        many = min(math.ceil(SHARE * len(rows)), left)
        rows = rows[self.margin[rows].argsort(descending=True, stable=True)[:many]].sort().values
        if many == 0:
            return rows, 0
        room = (patience - int(self.spent[rows].max())) // steps
        return rows, max(1, min(WIDE // many, left // many, room, CLASSES))

    def run(self, model: Model, rows: Tensor, steps: int, at_once: int = 1) -> None:
        """`at_once` runs of `steps` gradients for each of the pictures `rows`, in full batches.

        The runs of a picture keep step, and all end when it falls. So what is spent on it does
        not depend on the size of the batches.
        """
        waiting, pool, ended = rows, self._enter(rows[:0], 0), self._enter(rows[:0], 0)
        while len(waiting) or len(pool.row):
            free = max(self.batch_size, at_once) - len(pool.row)
            if len(waiting) and free >= at_once:
                some = free // at_once
                pool, waiting = pool.join(self._enter(waiting[:some], at_once)), waiting[some:]
            asked = [self._ask(model, part) for part in self._batches(pool)]
            grad, logits = (_joined(parts) for parts in zip(*asked, strict=True))
            stands = self._look(pool, logits)
            if not stands.all():
                pool, grad = pool.of(stands), grad.index_select(0, _rows(stands))
            pool = self._moved(pool, grad, steps)
            if (last := pool.t == steps).any():
                pool, ended = pool.of(~last), ended.join(pool.of(last))
            if len(ended.row) >= self.batch_size or not (len(waiting) or len(pool.row)):
                self._look_at_ends(model, ended)
                ended = ended.of(slice(0))
        self.runs[rows] += at_once

    def _enter(self, rows: Tensor, at_once: int) -> _Pool:
        """Pictures that begin runs: the first from `x` towards any class, then one by one."""
        turn = (self.runs[rows, None] + torch.arange(at_once, device=rows.device)).flatten()
        rows = rows.repeat_interleave(at_once)
        target = self.order[rows, (turn - 1).clamp_min(0) % self.order.shape[1]]
        x, first = self.x[rows], turn == 0
        start, again = x.clone(), ~first
        start[again] = self._random_points(rows[again], turn[again])
        low, high = threats.bounds(x, self.eps)
        t = torch.zeros_like(rows)
        return _Pool(rows, t, torch.where(first, ANY, target), low, high, start)

    def _random_points(self, rows: Tensor, turn: Tensor) -> Tensor:
        """A point of each ball, drawn from each picture's own chance."""
        x = self.x[rows]
        delta, chance = torch.empty_like(x), torch.Generator()
        for i, (row, run) in enumerate(zip(rows.tolist(), turn.tolist(), strict=True)):
            chance.manual_seed(self.seeds[row] + run)
            delta[i] = threats.random_point(x[i : i + 1], self.eps, self.norm, chance)[0]
        return threats.confine(x, delta, self.eps, self.norm)

    def _ask(self, model: Model, pool: _Pool) -> tuple[Tensor, Tensor]:
        """The gradient of how far the target is ahead, and the logits."""

        def ahead(logits: Tensor, y: Tensor) -> Tensor:
            nearest = logits.detach().scatter(1, y[:, None], -torch.inf).argmax(1)
            target = torch.where(pool.target == ANY, nearest, pool.target)
            two = logits.gather(1, torch.stack([target, y], 1))
            return two[:, 0] - two[:, 1]

        first, self.checked = not self.checked, True
        y = self.y[pool.row]
        grad, _, logits = value_and_gradient(model, pool.x_adv, y, ahead, check=first)
        if not all_finite(grad):
            raise ModelOutputError(NOT_FINITE)
        self.spent.index_add_(0, pool.row, torch.ones_like(pool.row))
        self.advance(len(pool.row))
        return grad, logits

    def _look(self, pool: _Pool, logits: Tensor) -> Tensor:
        """Note what the logits say; return which rows of the pool hold pictures that stand."""
        row, y = pool.row, self.y[pool.row]
        value = margin(logits, y).float()
        if value.isnan().any():
            raise ModelOutputError(NOT_FINITE)
        at_x = (pool.t == 0) & (pool.target == ANY)
        self.began[row[at_x]] = value[at_x]
        first = (value > self.margin[row]) & (pool.target == ANY)
        self.margin.scatter_reduce_(0, row, value, "amax")
        if first.any():
            self._note_order(row[first], logits[first], y[first])
        fooled = logits.argmax(1) != y
        if fooled.any():
            self._fall(pool.of(fooled))
        return self.stands[row]

    def _note_order(self, row: Tensor, logits: Tensor, y: Tensor) -> None:
        """Remember the nearest wrong classes, to be tried one after the other."""
        choices = min(CLASSES, logits.shape[1] - 1)
        if self.order.shape[1] != choices:  # nothing was known of the model
            self.order = self.order.new_zeros(len(self.x), choices)
        wrong = logits.scatter(1, y[:, None], -torch.inf)
        self.order[row] = wrong.topk(choices, dim=1).indices

    def _fall(self, pool: _Pool) -> None:
        # Runs of a picture lie side by side; the first that fools the model counts.
        row, at = pool.row, torch.cat([pool.row.new_ones(1), pool.row.diff()]) != 0
        anyway = (pool.t == 0) & (pool.target == ANY)
        self.wrong[row[anyway]], self.stands[row] = True, False
        if self.on_fooled is not None:
            self.on_fooled(row[at], pool.x_adv[at])

    def _moved(self, pool: _Pool, grad: Tensor, steps: int) -> _Pool:
        """One step, each picture's as long as its place on the cosine says; back into ball, box."""
        phase = (pool.t / steps * math.pi).cos().add(1).div(2)
        moved = stepped(pool.x_adv, grad, STEP * self.eps * phase, self.norm)
        if self.norm == "linf":  # as exact as threats.confine, whose bounds are computed once
            moved.clamp_(pool.low, pool.high)
        else:
            x = self.x[pool.row]
            moved = threats.confine(x, moved - x, self.eps, self.norm)
        return pool._replace(t=pool.t + 1, x_adv=moved)

    def _batches(self, pool: _Pool) -> list[_Pool]:
        starts = range(0, len(pool.row), self.batch_size)
        return [pool.of(slice(start, start + self.batch_size)) for start in starts]

    @torch.no_grad()
    def _look_at_ends(self, model: Model, pool: _Pool) -> None:
        """Ask about points from which no step follows: no gradient is needed."""
        for part in self._batches(pool):
            part = part.of(self.stands[part.row])
            if len(part.row) == 0:  # another of its runs has just fooled the model
                continue
            logits = model(part.x_adv.clone())  # a model may normalise in place
            self._look(part, logits.to(torch.promote_types(logits.dtype, torch.float32)))


def _rows(keep: Tensor) -> Tensor:
    return keep.nonzero().squeeze(1)


def _joined(parts: tuple[Tensor, ...]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@contextmanager
def _bar(total: int, show: bool) -> Iterator[Callable[[int], Any]]:
    """A function that moves the progress bar on, if there is to be one."""
    if not show:
        yield lambda _: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, desc="attacking", unit="gradient", leave=False) as bar:
        yield bar.update
