"""Fetch a file once: with a progress bar, checked against its hash, and never left half-written.

`torch.hub.download_url_to_file` is not enough: it follows redirects to addresses without https,
waits for a silent server for ever, reports a broken connection as a wrong hash, and leaves its bar.
"""

import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from advlib.contracts import progress_bar
from advlib.errors import DownloadError

TIMEOUT = 20
"""Seconds without an answer after which a server counts as out of reach."""

_CHUNK = 1 << 18


def fetch(
    url: str, path: str | os.PathLike, sha256: str, *, progress: bool = True, check: bool = False
) -> Path:
    """Return `path`, downloaded from `url` first if no file is there.

    The bytes go to a file of another name beside it, which is renamed only when they are complete
    and their hash is right. So a broken download leaves nothing behind, and several processes may
    ask for the same file at once.

    Parameters
    ----------
    url
        Where the file comes from; ``https`` (or a server on this machine).
    path
        Where the file is kept. One that is there already is left as it is; see `check`.
    sha256
        The expected hash, in hexadecimal digits, or the first 8 or more of them.
    progress
        Show a progress bar in a terminal, on standard error, which is removed at the end.
    check
        Check the hash of a file that is there already, too.

    Raises
    ------
    DownloadError
        The server cannot be reached, the folder cannot be written, the connection broke, or the
        bytes are not the ones expected.
    """
    path = Path(path)
    present = path.is_file()
    if present and not check:
        return path
    if len(sha256) < 8 or set(sha256.lower()) - set("0123456789abcdef"):
        raise DownloadError(
            f"the expected SHA-256 of {url} is {sha256!r}; 8 to 64 hexadecimal digits are "
            "expected. Nothing is downloaded unchecked."
        )
    if present:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        remedy = "it is damaged, or another file of that name. Delete it; it will be fetched again."
        _check_digest(path, digest.hexdigest(), sha256, remedy)
        return path
    _check_address(url)
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False
        ) as file:
            part, digest = Path(file.name), hashlib.sha256()
            for chunk in _chunks(url, path, progress):
                file.write(chunk)
                digest.update(chunk)
        remedy = "it was changed or cut on its way. Try again; if it stays so, do not use it."
        _check_digest(url, digest.hexdigest(), sha256, remedy)
        os.replace(part, path)
    except DownloadError:
        raise
    except OSError as error:  # the folder: read-only, full, not a folder
        raise DownloadError(
            f"{path.name} cannot be written to {path.parent} ({error}). "
            "Free some space there, or name another folder with the variable TORCH_HOME."
        ) from error
    finally:
        if part is not None:
            part.unlink(missing_ok=True)
    return path


def _chunks(url: str, path: Path, progress: bool) -> Iterator[bytes]:
    """The bytes at `url`, piece by piece; failures of the network become a `DownloadError`."""
    shown = progress and sys.stderr.isatty()
    # A generic name: some servers refuse Python's own.
    request = Request(url, headers={"User-Agent": "advlib"})
    try:
        with (
            build_opener(_HttpsOnly).open(request, timeout=TIMEOUT) as answer,
            progress_bar(show=shown, unit="B", desc=path.name, total=answer.length) as bar,
        ):
            total = answer.length
            while chunk := answer.read(_CHUNK):
                yield chunk
                bar.update(len(chunk))
            if answer.length:  # what has not come
                raise DownloadError(
                    f"the download of {url} was cut after {total - answer.length} of {total} "
                    "bytes; nothing was kept. Try again."
                )
    except DownloadError:
        raise
    except (OSError, HTTPException) as error:
        raise DownloadError(
            f"{urlsplit(url).hostname} could not be reached ({getattr(error, 'reason', error)}), "
            f"so {path.name} is missing. Connect to the network, or put the file into "
            f"{path.parent} yourself."
        ) from error


class _HttpsOnly(HTTPRedirectHandler):
    """Follows a server to another address, but not to one without https."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        _check_address(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_address(url: str) -> None:
    address = urlsplit(url)
    if address.scheme != "https" and address.hostname not in ("127.0.0.1", "localhost"):
        raise DownloadError(f"{url} is not an https address; files come over https only.")


def _check_digest(what: str | Path, digest: str, sha256: str, remedy: str) -> None:
    if not digest.startswith(sha256.lower()):
        raise DownloadError(
            f"{what} has SHA-256 {digest[:16]}..., but {sha256[:16]}... is expected: {remedy}"
        )
