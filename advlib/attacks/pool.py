"""The images on which an attack works: who is done leaves, and the next one enters.

No gradient is spent on an image that is done, and batches stay full.
"""

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, fields
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from advlib.threats import Ball


@dataclass
class Pool:
    """Images at work, one row each in every field; rows may differ in how far they are."""

    row: Tensor
    """Which image this is."""
    ball: Ball
    x_adv: Tensor

    def __len__(self) -> int:
        return len(self.row)

    def __getitem__(self, rows: Tensor | slice) -> Self:
        return type(self)(*(getattr(self, field.name)[rows] for field in fields(self)))

    def join(self, other: Self) -> Self:
        """The rows of both."""
        names = [field.name for field in fields(self)]
        return type(self)(*(_joined(getattr(self, name), getattr(other, name)) for name in names))


def _joined(one: Any, other: Any) -> Any:
    if isinstance(one, Tensor):
        return torch.cat([one, other])
    both = copy(one)
    both.x = torch.cat([one.x, other.x])
    both.limits = tuple(map(torch.cat, zip(one.limits, other.limits, strict=True)))
    return both


P = TypeVar("P", bound=Pool)


def work(
    waiting: Tensor,
    enter: Callable[[Tensor], P],
    advance: Callable[[P], P],
    batch_size: int,
    at_once: int = 1,
) -> None:
    """Let the images `waiting` (rows) pass through a pool of at most `batch_size` rows.

    `enter` makes `at_once` rows of each image that enters; `advance` takes one step with all rows
    at work and returns those that go on.
    """
    pool = enter(waiting[:0])
    while len(waiting) or len(pool):
        free = (max(batch_size, at_once) - len(pool)) // at_once
        if len(waiting) and free > 0:
            pool, waiting = pool.join(enter(waiting[:free])), waiting[free:]
        pool = advance(pool)
