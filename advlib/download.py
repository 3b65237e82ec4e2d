"""Fetch a file once: with a progress bar, checked against its hash, and never left half-written."""

import hashlib
import os
import tempfile
from http.client import HTTPResponse
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from advlib.errors import DownloadError

if TYPE_CHECKING:
    from tqdm import tqdm

TIMEOUT = 20
"""Seconds without an answer after which a server counts as out of reach."""

_CHUNK = 1 << 18


def fetch(
    url: str,
    path: str | os.PathLike,
    sha256: str,
    *,
    progress: bool = True,
    check: bool = False,
) -> Path:
    """Return `path`, downloaded from `url` first if no file is there.

    The bytes go to a file of another name beside it, and take their place only when they are
    complete and their hash is right. So a broken download leaves nothing behind, and several
    processes may ask for the same file at once.

    Parameters
    ----------
    url
        Where the file lives; ``https`` (or a server on this machine).
    path
        Where the file shall lie. One that is there already is left as it is; see `check`.
    sha256
        The hash that is expected, in hexadecimal digits, or the first 8 or more of them.
    progress
        Show a progress bar on standard error, which is removed at the end.
    check
        Check the hash of a file that is there already, too.

    Returns
    -------
    pathlib.Path
        `path`.

    Raises
    ------
    DownloadError
        The server cannot be reached, the folder cannot be written, the connection broke, or the
        bytes are not the ones expected.
    """
    path = Path(path)
    if path.is_file():
        if check:
            _check_hash(url, sha256)
            _check_file(path, sha256)
        return path
    _check_hash(url, sha256)
    _check_source(url)
    part = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False
        ) as file:
            part = Path(file.name)
            digest = _copy(url, file, path.name, progress)
        if not digest.startswith(sha256.lower()):
            raise DownloadError(
                f"{url} has SHA-256 {digest[:16]}..., but {sha256[:16]}... is expected: the "
                "download was changed or cut on its way. Try again; if it stays so, do not use it."
            )
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


def _check_source(url: str) -> None:
    where = urlsplit(url)
    if where.scheme != "https" and where.hostname not in ("127.0.0.1", "localhost"):
        raise DownloadError(f"{url} is not an https address; files come over https only.")


def _check_hash(url: str, sha256: str) -> None:
    if len(sha256) < 8 or set(sha256.lower()) - set("0123456789abcdef"):
        raise DownloadError(
            f"the expected SHA-256 of {url} is {sha256!r}; 8 to 64 hexadecimal digits are "
            "expected. Nothing is downloaded unchecked."
        )


def _check_file(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(sha256.lower()):
        raise DownloadError(
            f"{path} has SHA-256 {digest[:16]}..., but {sha256[:16]}... is expected: it is "
            "damaged, or another file of that name. Delete it; it will be fetched again."
        )


class _Onward(HTTPRedirectHandler):
    """Follows a server to another address, but not to one without https."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> Request | None:
        _check_source(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _copy(url: str, file: IO[bytes], name: str, progress: bool) -> str:
    """Copy what `url` holds to the open `file`; return its SHA-256 in hexadecimal digits."""
    digest, done = hashlib.sha256(), 0
    try:
        # A generic name: some servers refuse Python's own.
        request = Request(url, headers={"User-Agent": "advlib"})
        answer = build_opener(_Onward).open(request, timeout=TIMEOUT)
    except (URLError, TimeoutError, ConnectionError) as error:
        raise DownloadError(_out_of_reach(url, name, file, error)) from error
    with answer, _bar(name, answer.length, progress) as bar:
        expected = answer.length
        while chunk := _read(answer, url, name, file):
            file.write(chunk)
            digest.update(chunk)
            done += len(chunk)
            bar.update(len(chunk))
    if expected is not None and done < expected:
        raise DownloadError(
            f"the download of {url} was cut after {done} of {expected} bytes; nothing was kept. "
            "Try again."
        )
    return digest.hexdigest()


def _read(answer: HTTPResponse, url: str, name: str, file: IO[bytes]) -> bytes:
    try:
        return answer.read(_CHUNK)
    except OSError as error:
        raise DownloadError(_out_of_reach(url, name, file, error)) from error


def _out_of_reach(url: str, name: str, file: IO[bytes], error: Exception) -> str:
    reason = getattr(error, "reason", error)
    return (
        f"{urlsplit(url).hostname} could not be reached ({reason}), so {name} is not at hand. "
        f"Connect to the network, or put the file into {Path(file.name).parent} yourself."
    )


def _bar(name: str, total: int | None, show: bool) -> "tqdm":
    from tqdm.auto import tqdm

    return tqdm(
        total=total,
        desc=name,
        unit="B",
        unit_scale=True,
        leave=False,
        disable=None if show else True,
    )
