"""The run folder: finished pieces of an audit, each written whole or not at all."""

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from advlib.audit.engine import Piece
from advlib.errors import InputError

SETTINGS = "run.json"


def check_writable(folder: Path, what: str) -> Path:
    """Make `folder` and try to write there, or raise `InputError`, before hours of work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"{what} is {str(folder)!r}, where nothing can be written "
            f"({error.strerror or error}). Name a folder that you may write to."
        ) from None
    return folder


def write_whole(path: Path, text: str) -> None:
    """Write a file so that whoever reads it sees all of it, or what was there before."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def fingerprint(settings: Mapping[str, Any]) -> str:
    """One digest of everything on which the counts of an audit depend."""
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Store:
    """A run folder, or none: then nothing is kept."""

    folder: Path | None

    @classmethod
    def open(cls, folder: Path | None, settings: Mapping[str, Any]) -> "Store":
        """Begin a run in `folder`, or go on with the one that is there.

        `InputError` is raised if it holds another audit, or if nothing can be written.
        """
        if folder is None:
            return cls(None)
        path = check_writable(folder, "the run folder") / SETTINGS
        stored = _read(path)
        if stored is None:
            write_whole(path, json.dumps(settings, indent=1, sort_keys=True) + "\n")
        elif stored != (wanted := json.loads(json.dumps(settings))):
            keys = sorted(stored.keys() | wanted.keys())
            other = [key for key in keys if stored.get(key) != wanted.get(key)]
            raise InputError(
                f"{str(folder)!r} holds another audit; it differs in: {', '.join(other)}. Name "
                "another folder, remove this one, or give the settings in its run.json."
            )
        return cls(folder)

    def keep(self, number: int, piece: Piece) -> None:
        """Write piece `number`."""
        if self.folder is not None:
            write_whole(self._path(number), json.dumps(asdict(piece)) + "\n")

    def get(self, number: int) -> Piece | None:
        """Piece `number`, or None if it was not finished; a damaged file counts as not finished."""
        stored = None if self.folder is None else _read(self._path(number))
        try:
            return None if stored is None else Piece.from_dict(stored)
        except (KeyError, TypeError, ValueError):
            return None

    def _path(self, number: int) -> Path:
        assert self.folder is not None
        return self.folder / f"piece-{number:08d}.json"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return stored if isinstance(stored, dict) else None
