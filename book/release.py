"""Make what a release offers, and try each piece as its user would.

python book/release.py TWINE

`TWINE` is the program that reads the packages' metadata as the package index does. Wheel, sdist
and the built book as a zip are written to dist; a piece that does not work ends the program.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
HTML = ROOT / "_build" / "html"

# What a user does first, in an environment that has nothing but the wheel and what it asks for.
TRY = """
import advlib
x, y = advlib.data.signs.render(8, seed=1)
for name in advlib.models.NAMES:
    assert advlib.models.load(name)(x).shape == (8, 16), name
x_adv = advlib.fgsm(advlib.models.load("signs-standard"), x, y, 4 / 255)
assert (x_adv - x).abs().amax() <= 4 / 255
"""


def run(*command: str | Path, folder: Path = ROOT) -> None:
    """Run a command; its failure ends the program."""
    subprocess.run([str(part) for part in command], cwd=folder, check=True)


def packages(twine: str) -> Path:
    """Build wheel and sdist and check their metadata; return the wheel."""
    run(sys.executable, "-m", "build", "--outdir", DIST, ROOT)
    run(twine, "check", "--strict", *sorted(DIST.iterdir()))
    (wheel,) = DIST.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "advlib/py.typed" in names, "the wheel does not say that it is typed"
    return wheel


def try_out(wheel: Path) -> None:
    """Install the wheel in an empty environment and use it there."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        venv.create(folder / "venv", with_pip=True)
        python = folder / "venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
        run(python, "-m", "pip", "install", "--quiet", "--no-compile", wheel)
        run(python, "-c", TRY, folder=folder)


def book() -> Path:
    """Pack the built book; its pages must lie at the top, where a reader looks for them."""
    if not (HTML / "index.html").exists():
        raise SystemExit("The book is not built: run `make book`.")
    target = shutil.make_archive(str(DIST / "adversarial-examples-hands-on"), "zip", HTML)
    with zipfile.ZipFile(target) as packed:
        assert packed.testzip() is None
        assert "index.html" in packed.namelist()
    return Path(target)


def main() -> None:
    """Make everything."""
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    try_out(packages(sys.argv[1]))
    book()
    for path in sorted(DIST.iterdir()):
        print(f"{path.stat().st_size / 1e6:7.1f} MB  {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
