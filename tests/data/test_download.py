"""Downloads: checked, whole or not at all, and clear about what went wrong."""

import hashlib
import multiprocessing
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from advlib.data.download import fetch
from advlib.errors import DownloadError

CONTENT = bytes(range(256)) * 4000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(BaseHTTPRequestHandler):
    """Serves CONTENT: whole, cut short, in chunks, without its length, elsewhere, or not at all."""

    def do_GET(self) -> None:
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", self.path.partition("?")[2])
            self.end_headers()
            return
        self.send_response(404 if self.path == "/missing" else 200)
        if self.path == "/chunks":
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"3e8\r\n" + CONTENT[:500])  # half of a chunk of 1000 bytes
            return
        if self.path != "/silent":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:1000] if self.path in ("/cut", "/silent") else CONTENT)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_file_arrives_whole_and_nothing_else_is_left(url: str, tmp_path: Path) -> None:
    path = fetch(f"{url}/whole", tmp_path / "new" / "file.bin", DIGEST[:8])
    assert path.read_bytes() == CONTENT
    assert os.listdir(path.parent) == ["file.bin"]


def test_a_file_that_is_there_is_not_fetched_again(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"mine")
    assert fetch("https://nowhere.invalid/file", path, DIGEST).read_bytes() == b"mine"


def test_a_file_that_is_there_can_be_checked_too(url: str, tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(CONTENT)
    assert fetch("https://nowhere.invalid/file", path, DIGEST, check=True) == path
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(DownloadError, match=r"file\.bin has SHA-256 .* Delete it"):
        fetch(f"{url}/whole", path, DIGEST, check=True)
    assert path.read_bytes() == CONTENT[:-1]


def test_a_server_may_send_on_but_only_to_https(url: str, tmp_path: Path) -> None:
    path = fetch(f"{url}/moved?/whole", tmp_path / "file.bin", DIGEST)
    assert path.read_bytes() == CONTENT
    with pytest.raises(DownloadError, match=r"http://example\.org/whole .* https only"):
        fetch(f"{url}/moved?http://example.org/whole", tmp_path / "other.bin", DIGEST)
    assert os.listdir(tmp_path) == ["file.bin"]


@pytest.mark.parametrize(
    ("page", "digest", "words"),
    [
        ("cut", DIGEST, "was cut after 1000 of 1024000 bytes"),
        ("silent", DIGEST, "was changed or cut"),
        ("chunks", DIGEST, "could not be reached .*IncompleteRead"),
        ("whole", "0" * 64, "is expected"),
        ("missing", DIGEST, "could not be reached"),
    ],
)
def test_what_is_not_the_expected_file_is_refused_and_removed(
    url: str, tmp_path: Path, page: str, digest: str, words: str
) -> None:
    with pytest.raises(DownloadError, match=words):
        fetch(f"{url}/{page}", tmp_path / "file.bin", digest)
    assert os.listdir(tmp_path) == []


def test_a_server_out_of_reach_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"nowhere\.invalid could not be reached.*yourself"):
        fetch("https://nowhere.invalid/file.bin", tmp_path / "file.bin", DIGEST)


def test_only_https_and_only_with_a_hash(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="https only"):
        fetch("http://example.org/file.bin", tmp_path / "file.bin", DIGEST)
    for digest in ("", "abc", "not hexadecimal"):
        with pytest.raises(DownloadError, match="unchecked"):
            fetch("https://example.org/file.bin", tmp_path / "file.bin", digest)


def test_a_cache_that_cannot_be_written_names_the_variable_that_moves_it(
    url: str, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"a file where a folder should be")
    with pytest.raises(DownloadError, match="TORCH_HOME"):
        fetch(f"{url}/whole", tmp_path / "file" / "file.bin", DIGEST)


@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="no /dev/full here to play a disk without space"
)
def test_a_full_disk_says_so(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    real = tempfile.NamedTemporaryFile

    def on_full_disk(*args: object, **kwargs: object):
        file = real(*args, **kwargs)
        full = open("/dev/full", "wb", buffering=0)  # noqa: SIM115
        monkeypatch.setattr(file, "write", full.write)
        return file

    monkeypatch.setattr("advlib.data.download.tempfile.NamedTemporaryFile", on_full_disk)
    with pytest.raises(DownloadError, match="No space left"):
        fetch(f"{url}/whole", tmp_path / "file.bin", DIGEST)
    assert os.listdir(tmp_path) == []


def _fetch_quietly(url: str, path: Path) -> bytes:
    return fetch(url, path, DIGEST, progress=False).read_bytes()


def test_two_processes_may_fill_the_cache_at_once(url: str, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        jobs = [(f"{url}/whole", tmp_path / "file.bin")] * 4
        assert pool.starmap(_fetch_quietly, jobs) == [CONTENT] * 4
    assert os.listdir(tmp_path) == ["file.bin"]


def test_the_progress_bar_stays_out_of_stdout(
    url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch(f"{url}/whole", tmp_path / "a.bin", DIGEST)
    fetch(f"{url}/whole", tmp_path / "b.bin", DIGEST, progress=False)
    assert capsys.readouterr().out == ""
