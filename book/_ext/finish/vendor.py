"""What the book takes from npm when it is built, so that a page asks no other host for anything.

The first build takes the packages named in npm/package.json from the npm registry, checks them
against the hashes in package-lock.json and keeps what is used in _build/vendor:

    mathjax/           what typesets the formulas when the book is built
    static/mathjax/    the fonts of the formulas, part of the book
    kernel.wasm        book/assets/photolab/kernel.ts, compiled by AssemblyScript
    axe.min.js         axe-core, for the tests of the pages

Without npm, or without network, the pages load MathJax from a content delivery network, the Photo
Lab computes in JavaScript, and the build says so.
"""

import shutil
import subprocess
import tempfile
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.util import logging

LOG = logging.getLogger(__name__)
PACKAGES = Path(__file__).with_name("npm")
KERNEL = Path(__file__).resolve().parents[2] / "assets" / "photolab" / "kernel.ts"
COMPILER = (
    *("assemblyscript/bin/asc.js", "-O3", "--noAssert"),
    *("--runtime", "stub", "--importMemory", "--enable", "simd"),
)
TYPESETTER = (
    "node-main.js",
    "core.js",
    "loader.js",
    "startup.js",
    "input/tex-full.js",
    "output/chtml.js",
    "output/chtml/fonts/tex.js",
    "adaptors/liteDOM.js",
    "a11y/assistive-mml.js",
)
FONTS = ("output/chtml/fonts/woff-v2/*.woff",)


def fetch(folder: Path) -> str:
    """Fill `folder` unless it is up to date; return "" or, in one sentence, why it is not filled.

    Parameters
    ----------
    folder
        Where the files belong. It appears in one piece or not at all.
    """
    # The hashes of the packages, what is taken from them, and what is compiled.
    parts = ((PACKAGES / "package-lock.json").read_text(), *TYPESETTER, *FONTS, *COMPILER)
    lock = "\n".join((*parts, KERNEL.read_text(encoding="utf-8")))
    stamp = folder / "stamp"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == lock:
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
        _compile(work / "node_modules", ready / "kernel.wasm")
        (ready / "stamp").write_text(lock, encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        ready.rename(folder)
    return ""


def _pick(modules: Path, target: Path) -> None:
    """Copy what the book uses from `modules` to `target`."""
    package = modules / "mathjax"
    parts = ((TYPESETTER, target / "mathjax"), (FONTS, target / "static" / "mathjax"))
    for patterns, folder in parts:
        for pattern in patterns:
            for source in sorted((package / "es5").glob(pattern)):
                copy = folder / source.relative_to(package / "es5")
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, copy)
        shutil.copyfile(package / "LICENSE", folder / "LICENSE")
    shutil.copyfile(modules / "axe-core" / "axe.min.js", target / "axe.min.js")


def _compile(modules: Path, target: Path) -> None:
    """Compile the Photo Lab's kernel; where that fails, say so and leave it out."""
    asc, *options = COMPILER
    command = ["node", str(modules / asc), str(KERNEL), "--outFile", str(target), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        target.unlink(missing_ok=True)
        LOG.info("The Photo Lab's kernel could not be compiled:\n%s", done.stderr.strip())


def kernel(root: Path) -> Path | None:
    """Return the Photo Lab's compiled kernel below the book's `root`, or None without npm."""
    path = root / "_build" / "vendor" / "kernel.wasm"
    return path if path.exists() else None


def mathjax(root: Path) -> Path | None:
    """Return MathJax for Node.js below the book's `root`, or None where npm could not fetch it."""
    path = root / "_build" / "vendor" / "mathjax" / "node-main.js"
    return path if path.exists() else None


def serve_fonts(app: Sphinx, config: Config) -> None:
    """Put the fonts of the formulas into the book, or say why the pages load MathJax."""
    folder = Path(app.srcdir) / "_build" / "vendor"
    problem = fetch(folder)
    if problem:
        # Not a warning: a reader without npm gets a book all the same.
        LOG.info(problem)
        return
    config.html_static_path.append(str(folder / "static"))
