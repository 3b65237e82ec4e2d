"""What training costs, counted so that a busy machine does not change it.

Seconds depend on the machine and on who else uses it. The pictures that pass through the network,
forward and backward, do not: they are the price of a training method on any machine.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass
class Cost:
    """What has been spent so far."""

    forward: int = 0
    """Pictures that went through the network."""
    backward: int = 0
    """Pictures whose gradient came back; a gradient of a gradient comes back twice."""
    seconds: float = 0.0
    """Processor time of this process, over all its threads."""


@contextmanager
def counted(model: nn.Module) -> Iterator[Cost]:
    """Count what goes through `model` for the while.

    Parameters
    ----------
    model : nn.Module
        Takes a batch of pictures (n, ...) as its first argument and returns one tensor.

    Yields
    ------
    Cost
        Filled as the work goes on; its `seconds` once the block ends.

    Examples
    --------
    >>> model = nn.Linear(4, 2)
    >>> with counted(model) as cost:
    ...     model(torch.rand(3, 4)).sum().backward()
    >>> cost.forward, cost.backward
    (3, 3)
    """
    cost = Cost()
    begun = time.process_time()

    def came_back(grad: Tensor) -> None:
        cost.backward += len(grad)

    def went_through(_: nn.Module, __: object, logits: Tensor) -> None:
        cost.forward += len(logits)
        if logits.requires_grad:
            logits.register_hook(came_back)

    hook = model.register_forward_hook(went_through)
    try:
        yield cost
    finally:
        hook.remove()
        cost.seconds += time.process_time() - begun


@contextmanager
def not_counted(cost: Cost) -> Iterator[None]:
    """Leave what happens inside out of `cost`: a look at the model is no part of its training."""
    before, begun = (cost.forward, cost.backward), time.process_time()
    try:
        yield
    finally:
        cost.forward, cost.backward = before
        cost.seconds -= time.process_time() - begun
