"""The first code cell of every lesson: whom it asks in Colab, what it installs, what it says."""

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest
from repository import LESSONS

COURSE = "https://github.com/someone/a-course.v2"


def cell(lesson: Path) -> str:
    """Return the source of the one cell for Colab."""
    cells = json.loads(lesson.read_text(encoding="utf-8"))["cells"]
    (found,) = [cell for cell in cells if "colab" in cell["metadata"].get("tags", [])]
    assert found == next(cell for cell in cells if cell["cell_type"] == "code")
    assert found["outputs"] == []  # a run outside Colab says nothing
    return "".join(found["source"])


SOURCE = cell(LESSONS[0])


class Colab(HTTPServer):
    """Colab's own server, which knows the notebooks that are open, and the kernel's environment."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(("127.0.0.1", 0), Sessions)
        self.asked: list[str] = []
        self.opened = quote(f"{COURSE}/blob/main/notebooks/01-a.ipynb", safe="")
        self.magics: list[tuple[str, str]] = []
        monkeypatch.setitem(sys.modules, "google.colab", ModuleType("google.colab"))
        monkeypatch.setenv("COLAB_JUPYTER_IP", "127.0.0.1")
        monkeypatch.setenv("KMP_TARGET_PORT", str(self.server_port))

    def run(self, source: str) -> None:
        """Run the cell as the kernel does, and note the magics that it calls."""
        kernel = SimpleNamespace(run_line_magic=lambda *line: self.magics.append(line))
        exec(compile(source, "cell", "exec"), {"get_ipython": lambda: kernel})


class Sessions(BaseHTTPRequestHandler):
    """Answers /api/sessions as Colab does, and nothing else."""

    server: Colab

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        self.send_response(200 if self.path == "/api/sessions" else 404)
        self.end_headers()
        path = f"fileId={self.server.opened}"
        session = {"name": "01-a.ipynb", "notebook": {"path": path}, "path": path}
        self.wfile.write(json.dumps([session]).encode())

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture
def colab(monkeypatch: pytest.MonkeyPatch) -> Iterator[Colab]:
    with Colab(monkeypatch) as server:
        # It sees that it is to end when it looks up: after half a second, unless asked otherwise.
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def test_every_lesson_has_the_same_cell() -> None:
    assert {cell(lesson) for lesson in LESSONS} == {SOURCE}


def test_outside_colab_nothing_happens(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(SOURCE, "cell", "exec"), {})
    assert capsys.readouterr().out == ""


def test_the_package_comes_from_where_the_notebook_was_opened(colab: Colab) -> None:
    colab.run(SOURCE)
    assert colab.asked == ["/api/sessions"]
    assert colab.magics == [("pip", f'install -q "advlib[photographs] @ git+{COURSE}"')]


def test_an_address_that_is_written_down_comes_first(colab: Colab) -> None:
    written = "https://github.com/someone/fork"
    source = SOURCE.replace('REPOSITORY = ""', f'REPOSITORY = "{written}"')
    assert source != SOURCE
    colab.run(source)
    assert colab.magics == [("pip", f'install -q "advlib[photographs] @ git+{written}"')]
    assert colab.asked == []


def test_without_a_port_that_of_colab_is_asked(
    colab: Colab, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    monkeypatch.delenv("KMP_TARGET_PORT")
    monkeypatch.delenv("COLAB_JUPYTER_IP")

    def unreachable(url: str, timeout: float) -> None:
        asked.append((url, timeout))
        raise OSError

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    colab.run(SOURCE)
    assert asked == [("http://172.28.0.12:9000/api/sessions", 5)]


@pytest.mark.parametrize("fault", ["no server", "not from GitHub", "no answer that can be read"])
def test_what_cannot_be_found_is_said_with_the_remedy(
    colab: Colab, fault: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if fault == "no server":
        monkeypatch.setenv("KMP_TARGET_PORT", "1")
    elif fault == "not from GitHub":
        colab.opened = "1ZAqQEIxR08eODSPEHvKPwbZoioVdV8L9"  # a copy on Drive
    else:
        monkeypatch.setenv("KMP_TARGET_PORT", "not a port")
    colab.run(SOURCE)
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and said.count(". ") == 0
    assert 'REPOSITORY = "https://github.com/owner/name"' in said and "run this cell again" in said
    assert colab.magics == []
