"""Where the pictures of an audit come from, read piece by piece so that memory stays flat."""

import hashlib
from collections.abc import Callable, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advlib.contracts import check_labels, check_pictures
from advlib.errors import InputError, LabelError, PixelError

Read = Callable[[int, int], tuple[Tensor, Tensor]]
"""From ``start, stop`` to pictures and classes of that range; the same range, the same pictures."""


@dataclass(frozen=True)
class Stream:
    """Pictures that are read, or rendered, only when they are attacked.

    Attributes
    ----------
    read
        Called as ``read(start, stop)``; returns ``x`` (stop - start, c, h, w) with pixels in
        [0, 1] and ``y`` (stop - start,), integer. Equal calls must give equal pictures.
    count
        How many pictures there are, >= 1.
    name
        What the report calls them.
    known
        A digest of all pictures and classes where that is cheap; an interrupted audit goes on only
        with equal ones. Without it the first and the last pictures are compared.
    """

    read: Read
    count: int
    name: str = "stream"
    known: str = ""

    def piece(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Pictures and classes from `start` to before `stop`, checked.

        Raises
        ------
        PixelError, LabelError, DeviceError, InputError
            What was read cannot be used.
        """
        x, y = self.read(start, stop)
        x = check_pictures(x)
        if len(x) != stop - start:
            raise InputError(
                f"read({start}, {stop}) returned {len(x)} pictures; {stop - start} are expected."
            )
        return x, check_labels(y, x)


def stream(x: Any, y: Tensor | None) -> Stream:
    """Tensors, a map-style data set, or a `Stream`, as a `Stream`.

    Raises
    ------
    PixelError, LabelError, DeviceError, InputError
        They cannot be used, or there are none.
    """
    if isinstance(x, Tensor):
        source = _tensors(x, y)
    elif y is not None:
        raise InputError(
            f"y was given with x, a {type(x).__name__}; y belongs to a tensor x. A data set or a "
            "Stream brings its own classes: audit(model, dataset, eps=...)."
        )
    elif isinstance(x, Stream):
        source = x
    elif isinstance(x, Sized) and hasattr(x, "__getitem__"):
        source = _data_set(x)
    else:
        raise InputError(f"x is a {type(x).__name__}; {_WANTED}")
    if source.count < 1:
        raise InputError("there are no pictures; at least one is expected.")
    return source


_WANTED = (
    "a tensor (with y), a data set with a length whose items are (picture, class), or "
    "advlib.auditing.Stream(read, count) is expected."
)


def _tensors(x: Tensor, y: Tensor | None) -> Stream:
    if y is None:
        raise LabelError("y is missing; the true class of each picture is expected, shape (n,).")
    x = check_pictures(x)
    y = check_labels(y, x)

    def read(start: int, stop: int) -> tuple[Tensor, Tensor]:
        return x[start:stop], y[start:stop]

    return Stream(read, len(x), "tensors", digest(x, y))


def _data_set(data: Any) -> Stream:
    def read(start: int, stop: int) -> tuple[Tensor, Tensor]:
        items = [data[index] for index in range(start, stop)]
        if not all(isinstance(item, (tuple, list)) and len(item) == 2 for item in items):
            raise InputError(f"x[{start}] is no pair of a picture and its class; {_WANTED}")
        pictures, classes = zip(*items, strict=True)
        wrong = next((type(p).__name__ for p in pictures if not isinstance(p, Tensor)), None)
        if wrong:
            raise PixelError(
                f"the data set gives a {wrong} as picture; a tensor with pixels in [0, 1] is "
                "expected. Give it transform=torchvision.transforms.ToTensor(), without Normalize."
            )
        shapes = {tuple(p.shape) for p in pictures}
        if len(shapes) > 1:
            raise PixelError(
                f"the data set gives pictures of different shapes, {sorted(shapes)[:3]}; one shape "
                "is expected. Resize and crop them in its transform."
            )
        return torch.stack(pictures), torch.tensor([int(c) for c in classes])

    return Stream(read, len(data), type(data).__name__)


def digest(x: Tensor, y: Tensor) -> str:
    """SHA-256 of pictures and classes, with their shape and dtype."""
    hashed = hashlib.sha256(f"{tuple(x.shape)} {x.dtype}".encode())
    for part in (x, y):
        hashed.update(raw_bytes(part))
    return hashed.hexdigest()


def raw_bytes(values: Tensor) -> memoryview:
    """The bytes of a tensor, in main memory."""
    flat = values.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
