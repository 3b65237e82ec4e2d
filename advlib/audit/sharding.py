"""Several processes, on one machine or many, that share the pieces of one audit.

Only a few small tensors travel, by gloo: what is done already, how far everyone is, and at the end
one number for each image. Everything works without `torch.distributed`, as a team of one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from advlib.errors import AdvlibError, InputError


class ProcessLostError(AdvlibError, RuntimeError):
    """Another process of the team died, failed, or cannot be reached any more."""


@dataclass
class Team:
    """The processes that work on one audit, as one of them sees it."""

    rank: int = 0
    size: int = 1
    group: Any = None
    pending: tuple[Any, Tensor] | None = None
    """The round that was started and not yet waited for."""

    @classmethod
    def assemble(cls) -> "Team":
        """All processes of `torch.distributed`, if it was initialised; otherwise this one alone."""
        if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
            return cls()
        # nccl moves nothing that lies in main memory.
        group = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")
        return cls(dist.get_rank(), dist.get_world_size(), group)

    @property
    def leads(self) -> bool:
        """Whether this process speaks for all: progress bar, report."""
        return self.rank == 0

    def largest(self, values: Tensor) -> Tensor:
        """The largest of all processes' `values`, entry by entry."""
        if self.size == 1:
            return values
        values = values.clone()
        with _noticing_death():
            dist.all_reduce(values, op=dist.ReduceOp.MAX, group=self.group)
        return values

    def agree(self, text: str, what: str) -> None:
        """Raise `InputError` unless all processes hold the same `text` (a hexadecimal digest)."""
        number = torch.tensor([int(text[:15], 16)])
        if self.largest(number) != -self.largest(-number):
            raise InputError(
                f"the processes do not hold the same {what}. Start every one with the same "
                "command, files and versions."
            )

    def meet(self, done: int, failed: bool = False) -> int | None:
        """Tell the others how much this process has done; return what all had at the last meeting.

        Nobody waits for the others' present piece, only for the one before: processes of unequal
        speed stay busy, and yet a dead one is noticed within two pieces, by `ProcessLostError`.
        """
        if self.size == 1:
            return done
        before = self.settle()
        values = torch.tensor([done, int(failed)])
        with _noticing_death():
            self.pending = dist.all_reduce(values, group=self.group, async_op=True), values
        return before

    def settle(self) -> int | None:
        """Wait for the last meeting; return what all had done then."""
        if self.pending is None:
            return None
        (work, values), self.pending = self.pending, None
        with _noticing_death():
            work.wait()
        if values[1]:
            raise ProcessLostError("another process of the audit stopped with an error. " + _GO_ON)
        return int(values[0])


_GO_ON = (
    "Finished pieces are kept where a run folder was given (resume= or report=; on the command "
    "line --out): start the same command again to go on."
)


@contextmanager
def _noticing_death() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ProcessLostError(
            f"a process of the audit died or cannot be reached ({line[:120]}). {_GO_ON}"
        ) from None
