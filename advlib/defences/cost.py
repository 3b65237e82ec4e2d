"""The cost of training, counted in images, so that it does not depend on the machine.

Seconds depend on the machine and on its load. The number of images that pass through the network,
forward and backward, does not.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass
class Cost:
    """What has been spent so far."""

    forward: int = 0
    """Images that went through the network."""
    backward: int = 0
    """Images through which a gradient came back; a gradient of a gradient counts twice."""
    seconds: float = 0.0
    """Processor time of this process, over all its threads."""


@contextmanager
def counted(model: nn.Module) -> Iterator[Cost]:
    """Count what goes through `model` inside the block.

    Parameters
    ----------
    model
        Takes a batch of images (n, ...) as its first argument and returns one tensor.

    Yields
    ------
    Cost
        Grows with the work; its `seconds` are known when the block ends.

    Examples
    --------
    >>> model = nn.Linear(4, 2)
    >>> with counted(model) as cost:
    ...     model(torch.rand(3, 4)).sum().backward()
    >>> cost.forward, cost.backward
    (3, 3)
    """
    cost = Cost()
    begin = time.process_time()

    def count_backward(grad: Tensor) -> None:
        cost.backward += len(grad)

    def count_forward(_: nn.Module, __: object, logits: Tensor) -> None:
        cost.forward += len(logits)
        if logits.requires_grad:
            logits.register_hook(count_backward)

    hook = model.register_forward_hook(count_forward)
    try:
        yield cost
    finally:
        hook.remove()
        cost.seconds += time.process_time() - begin


@contextmanager
def not_counted(cost: Cost) -> Iterator[None]:
    """Leave what happens inside the block out of `cost`: measuring a model is not training it."""
    before, begin = (cost.forward, cost.backward), time.process_time()
    try:
        yield
    finally:
        cost.forward, cost.backward = before
        cost.seconds -= time.process_time() - begin
