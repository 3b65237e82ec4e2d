"""A folder of photographs as the data of an audit: prepared as the model demands, with labels.

The label of a photograph is what its folder is called, or a folder above: an ImageNet synset
(``n02123045``) or the name of a class (``tabby``, ``Egyptian_cat``); or the synset with which its
file begins (``n02123045_17.JPEG``). Where nothing says a class, the model's own decision without an
attacker stands in for it: then the audit says how many decisions withstand an attacker.
"""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import torch
from torch import Tensor

from advlib.audit.sanity import Finding
from advlib.audit.sources import Stream
from advlib.contracts import Model, progress_bar
from advlib.data.photographs import photograph
from advlib.errors import InputError
from advlib.evaluation import predict

SUFFIXES = re.compile(r"\.(jpe?g|jfif|png|webp|bmp|gif|tiff?|ppm|hei[cf]|avif|jp2)", re.IGNORECASE)
"""Files of other kinds are no photographs; of these, what cannot be read is listed."""
LISTED = 20
"""How many files a finding names."""


def photo_folder(
    folder: str | os.PathLike,
    model: Model,
    device: torch.device | str = "cpu",
    *,
    progress: bool = False,
) -> Stream:
    """The photographs in `folder` and below it, each read only when it is attacked.

    Parameters
    ----------
    folder
        JPEG, PNG, WebP and what else Pillow reads, of any sizes, in any depth.
    model
        Whose classes they are: `advlib.models.Normalised` brings the names (``categories``), and
        how its photographs are prepared (``preparation``). Without them: names do not count, the
        shorter side is scaled to 256 pixels and a square of 224 cut out.
    device
        Where the model is, which decides where no folder bears a label.
    progress
        Show a progress bar while every file is read once.

    Returns
    -------
    Stream
        Its ``notes`` say which files were left out, and whether labels are the model's own.

    Raises
    ------
    InputError
        There is no such folder, or no photograph in it that can be read.
    """
    path = Path(folder)
    if not path.is_dir():
        raise InputError(f"there is no folder {str(path)!r}; one with photographs is expected.")
    names = tuple(getattr(model, "categories", ()))
    preparation = getattr(model, "preparation", {})
    files = sorted(
        file
        for file in path.rglob("*")
        if SUFFIXES.fullmatch(file.suffix)
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    readable, unreadable, known = [], [], hashlib.sha256(repr(sorted(preparation.items())).encode())
    for file in progress_bar(files, show=progress, unit="photo", desc="reading"):
        try:
            photograph(file, **preparation)  # a file that is cut off opens, and breaks here
            known.update(file.read_bytes())
            readable.append(file)
        except (InputError, OSError):
            unreadable.append(file)
    if not readable:
        raise InputError(
            f"{str(path)!r} holds no photograph that can be read ({len(unreadable)} that cannot); "
            "JPEG or PNG files are expected, in folders named by ImageNet synset or class."
        )
    classes = _classes(names)
    labels = {file: _label(file.relative_to(path), classes) for file in readable}
    fitting = [file for file in readable if labels[file] is not None]
    used = fitting or readable
    notes = [
        *_left_out(path, unreadable, "they cannot be read"),
        *_about(path, readable, fitting, names),
    ]
    known.update(repr([(str(f.relative_to(path)), labels[f]) for f in used]).encode())

    def read(start: int, stop: int) -> tuple[Tensor, Tensor]:
        chosen = used[start:stop]
        x = torch.cat([photograph(file, **preparation) for file in chosen])
        if fitting:
            return x, torch.tensor([labels[file] for file in chosen])
        return x, predict(model, x.to(device), batch_size=16).argmax(1).cpu()

    return Stream(read, len(used), path.name or str(path), known.hexdigest(), names, tuple(notes))


def synsets() -> list[str]:
    """The WordNet synsets of ImageNet's 1000 classes, in the order of the networks' logits."""
    return resources.files("advlib.data").joinpath("imagenet_synsets.txt").read_text().split()


def _classes(names: Sequence[str]) -> dict[str, int]:
    """From what a folder may be called to the class; names that two classes share say nothing."""
    often = Counter(map(_plain, names))
    classes = {_plain(name): i for i, name in enumerate(names) if often[_plain(name)] == 1}
    if len(names) == len(ids := synsets()):
        classes |= {name: i for i, name in enumerate(ids)}
    return classes


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name.casefold()).strip()


def _label(file: Path, classes: dict[str, int]) -> int | None:
    """The class that the nearest folder above says, or the beginning of the file's name."""
    for folder in reversed(file.parts[:-1]):
        # "n02123045", "n02123045-tabby" and "tabby"
        for word in (_plain(folder), _plain(folder).split(" ")[0]):
            if word in classes and (word == _plain(folder) or re.fullmatch(r"n\d{8}", word)):
                return classes[word]
    synset = re.match(r"n\d{8}(?!\d)", file.name)
    return classes.get(synset[0]) if synset else None


def _about(
    path: Path, readable: Sequence[Path], fitting: Sequence[Path], names: Sequence[str]
) -> list[Finding]:
    if fitting:
        other = [file for file in readable if file not in set(fitting)]
        return _left_out(path, other, "their folders name no class of the model")
    known = f"such as {names[0]!r}" if names else "but the model has no names (`categories`)"
    words = (
        "NO LABELS: no folder is called like a class of the model, by ImageNet synset or by name "
        f"({known}). The model's own decision without an attacker was taken for the truth. The "
        "clean accuracy is 100 % for that reason alone, and the worst case says how many decisions "
        "withstand an attacker, not how many are right."
    )
    return [Finding("labels-from-model", "warning", words)]


def _left_out(path: Path, files: Sequence[Path], why: str) -> list[Finding]:
    if not files:
        return []
    listed = ", ".join(str(file.relative_to(path)) for file in files[:LISTED])
    more = f" and {len(files) - LISTED} more" if len(files) > LISTED else ""
    words = f"Left out because {why} ({len(files)}): {listed}{more}."
    return [Finding("files-left-out", "warning", words)]
