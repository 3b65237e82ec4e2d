"""Where the images of an audit come from, read piece by piece so that memory stays flat."""

import hashlib
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from advlib.audit.sanity import Finding
from advlib.contracts import check_images, check_labels
from advlib.errors import InputError, LabelError, PixelError

Read = Callable[[int, int], tuple[Tensor, Tensor]]
"""From ``start, stop`` to images and classes of that range, always the same."""


@dataclass(frozen=True)
class Stream:
    """Images that are read, or rendered, only when they are attacked.

    Attributes
    ----------
    read
        Called as ``read(start, stop)``; returns ``x`` (stop - start, c, h, w) with pixels in
        [0, 1] and ``y`` (stop - start,), integer. Equal calls must give equal images.
    count
        How many images there are, >= 1.
    name
        What the report calls them.
    known
        A digest of all images and classes where that is cheap; an interrupted audit goes on only
        with equal ones. Without it the first and the last images are compared.
    classes
        Names of the classes in order, where there are any, for the report.
    notes
        What a reader of the report should know of these images.
    """

    read: Read
    count: int
    name: str = "stream"
    known: str = ""
    classes: Sequence[str] = ()
    notes: Sequence[Finding] = ()

    def piece(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Images and classes from `start` to before `stop`, checked."""
        x, y = self.read(start, stop)
        x = check_images(x)
        if len(x) != stop - start:
            raise InputError(
                f"read({start}, {stop}) returned {len(x)} images; {stop - start} are expected."
            )
        return x, check_labels(y, x)


def stream(x: Any, y: Tensor | None) -> Stream:
    """Tensors, a map-style data set, or a `Stream`, as a `Stream` of at least one image."""
    if isinstance(x, DataLoader):
        x = x.dataset  # in its own order; the audit makes its own batches
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
        raise InputError(f"x is a {type(x).__name__}; {_EXPECTED}")
    if source.count < 1:
        raise InputError("there are no images; at least one is expected.")
    return source


_EXPECTED = (
    "a tensor (with y), a data set with a length whose items are (image, class), its loader, the "
    "path of a folder of photographs, or advlib.audit.Stream(read, count) is expected."
)


def _tensors(x: Tensor, y: Tensor | None) -> Stream:
    if y is None:
        raise LabelError("y is missing; the true class of each image is expected, shape (n,).")
    x = check_images(x)
    y = check_labels(y, x)

    def read(start: int, stop: int) -> tuple[Tensor, Tensor]:
        return x[start:stop], y[start:stop]

    return Stream(read, len(x), "tensors", digest(x, y))


def _data_set(data: Any) -> Stream:
    def read(start: int, stop: int) -> tuple[Tensor, Tensor]:
        items = [data[index] for index in range(start, stop)]
        if not all(isinstance(item, (tuple, list)) and len(item) == 2 for item in items):
            raise InputError(f"x[{start}] is no pair of an image and its class; {_EXPECTED}")
        images, classes = zip(*items, strict=True)
        wrong = next((type(p).__name__ for p in images if not isinstance(p, Tensor)), None)
        if wrong:
            raise PixelError(
                f"the data set gives a {wrong} as image; a tensor with pixels in [0, 1] is "
                "expected. Give it transform=torchvision.transforms.ToTensor(), without Normalize."
            )
        shapes = {tuple(p.shape) for p in images}
        if len(shapes) > 1:
            raise PixelError(
                f"the data set gives images of different shapes, {sorted(shapes)[:3]}; one shape "
                "is expected. Resize and crop them in its transform."
            )
        return torch.stack(images), torch.tensor([int(c) for c in classes])

    names = tuple(map(str, getattr(data, "classes", ())))
    return Stream(read, len(data), type(data).__name__, classes=names)


def digest(x: Tensor, y: Tensor) -> str:
    """SHA-256 of images and classes, with their shape and dtype."""
    hashed = hashlib.sha256(f"{tuple(x.shape)} {x.dtype}".encode())
    for part in (x, y):
        hashed.update(raw_bytes(part))
    return hashed.hexdigest()


def raw_bytes(values: Tensor) -> memoryview:
    """The bytes of a tensor, in main memory."""
    flat = values.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
