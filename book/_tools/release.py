"""Make what a release offers, and try each piece as its user would.

python book/_tools/release.py TWINE            make it
python book/_tools/release.py --tag v1.2.3     is this the tag of the version that stands here?

`TWINE` is the program that reads the packages' metadata as the package index does. Wheel, sdist
and the built book as a zip are written to dist; a piece that does not work ends the program.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DIST = ROOT / "dist"
HTML = ROOT / "_build" / "html"

# What a user does first, in an environment that has nothing but the wheel and what it asks for.
TRY = """
import advlib
x, y = advlib.data.signs.render(8, seed=1)
for name in advlib.models.NAMES:
    # The denoiser gives images.
    assert advlib.models.load(name)(x).shape in ((8, 16), x.shape), name
x_adv = advlib.fgsm(advlib.models.load("signs-standard"), x, y, 4 / 255)
assert (x_adv - x).abs().amax() <= 4 / 255
"""


def versions() -> dict[str, str]:
    """The version, in each file that states one."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = {"pyproject.toml": project["version"]}
    for name, line in (
        ("CITATION.cff", r"version: (\S+)"),
        ("advlib/__init__.py", r'__version__ = "(.+)"'),
    ):
        text = (ROOT / name).read_text(encoding="utf-8")
        (found[name],) = re.findall(f"(?m)^{line}$", text)
    return found


def check_tag(tag: str) -> None:
    """End the program if `tag` is not that of the version."""
    for name, version in versions().items():
        if tag != f"v{version}":
            raise SystemExit(
                f"The tag is {tag}, and {name} says {version}: v{version} is expected."
            )


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


def make(twine: str) -> None:
    """Make everything."""
    shutil.rmtree(DIST, ignore_errors=True)
    DIST.mkdir()
    try_out(packages(twine))
    book()
    for path in sorted(DIST.iterdir()):
        print(f"{path.stat().st_size / 1e6:7.1f} MB  {path.relative_to(ROOT)}")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("twine", nargs="?", metavar="TWINE")
    parser.add_argument("--tag", help="compare this tag with the version, and make nothing")
    given = parser.parse_args()
    if given.tag:
        check_tag(given.tag)
    elif given.twine:
        make(given.twine)
    else:
        parser.error("TWINE or --tag is expected")


if __name__ == "__main__":
    main()
