"""MathJax in the book itself, so that a page asks no other host for anything.

The first build takes the packages named in book/vendor/package.json from the npm registry,
checks them against the hashes in package-lock.json and keeps what is used in _build/vendor:

    static/mathjax/    MathJax's component for TeX, its fonts and its TeX extensions
    axe.min.js         axe-core, for the tests of the pages

Without npm, or without network, the pages load MathJax from a content delivery network, and the
build says so.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging

LOG = logging.getLogger(__name__)
PACKAGES = Path(__file__).resolve().parents[1] / "vendor"
MATHJAX = (
    "tex-chtml.js",
    "output/chtml/fonts/woff-v2/*.woff",
    "input/tex/extensions/*.js",
)


def vendor(folder: Path) -> str:
    """Fill `folder` unless it is up to date; return "" or, in one sentence, why it is not filled.

    Parameters
    ----------
    folder
        Where the files belong. It appears in one piece or not at all.
    """
    lock = (PACKAGES / "package-lock.json").read_text()
    stamp = folder / "package-lock.json"
    if stamp.exists() and stamp.read_text() == lock:
        return ""
    npm = shutil.which("npm")
    if npm is None:
        return (
            "npm is missing, so the pages load MathJax from a content delivery network; "
            "`sudo apt-get install npm` and a new build put it into the book."
        )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="vendor-") as name:
        work = Path(name) / "npm"
        shutil.copytree(PACKAGES, work)
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        done = subprocess.run(command, cwd=work, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            return (
                "npm could not fetch MathJax, so the pages load it from a content delivery "
                f"network: {reason}"
            )
        ready = Path(name) / "ready"
        _pick(work / "node_modules", ready)
        (ready / "package-lock.json").write_text(lock)
        shutil.rmtree(folder, ignore_errors=True)
        ready.rename(folder)
    return ""


def _pick(modules: Path, target: Path) -> None:
    """Copy what the book uses from `modules` to `target`."""
    mathjax = modules / "mathjax"
    for pattern in MATHJAX:
        for source in sorted((mathjax / "es5").glob(pattern)):
            copy = target / "static" / "mathjax" / source.relative_to(mathjax / "es5")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, copy)
    shutil.copyfile(mathjax / "LICENSE", target / "static" / "mathjax" / "LICENSE")
    shutil.copyfile(modules / "axe-core" / "axe.min.js", target / "axe.min.js")


def serve_mathjax(app: Sphinx, config: Config) -> None:
    """Point the pages to the book's own MathJax, or say why they use the network's."""
    folder = Path(app.srcdir) / "_build" / "vendor"
    problem = vendor(folder)
    if problem:
        # Not a warning: a reader without npm gets a book all the same.
        LOG.info(problem)
        return
    config.html_static_path.append(str(folder / "static"))
    config.mathjax_path = "mathjax/tex-chtml.js"


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("config-inited", serve_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
