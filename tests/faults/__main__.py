"""Put each fault into a copy of the package, run its tests, and count the faults they notice.

python -m tests.faults              all faults
python -m tests.faults attacks      those of one module
python -m tests.faults -k targeted  those whose name contains a word

The exit status is 1 if fewer than 95 % are noticed, or if the tests fail without a fault.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .catalogue import FAULTS, Fault

ROOT = Path(__file__).resolve().parents[2]
WANTED = 0.95
TESTS = {
    "threats": ["test_threats.py", "test_contract.py", "test_attacks.py"],
    "gradients": ["test_gradients.py", "test_contract.py", "test_attacks.py"],
    "attacks": ["test_attacks.py", "test_contract.py"],
    "evaluation": ["test_evaluation.py", "test_contract.py"],
}
"""Where a fault of a module should be noticed."""


def copy(folder: Path) -> None:
    """What the tests of the four modules need, to be broken at will."""
    shutil.copytree(ROOT / "advlib", folder / "advlib", ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copytree(
        ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("*.pyc", "pages")
    )
    shutil.copy(ROOT / "pyproject.toml", folder)


def run_tests(folder: Path, module: str) -> subprocess.CompletedProcess[str]:
    """Run the tests of a module on the copy in `folder`, until the first failure."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider"]
        + [f"tests/{name}" for name in TESTS[module]],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


def noticed(fault: Fault) -> bool:
    """Whether the tests fail with `fault` in place."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy(folder)
        put_in(fault, folder)
        return run_tests(folder, fault.module).returncode == 1  # 1: tests ran, and some failed


def put_in(fault: Fault, folder: Path) -> None:
    """Change the copy's source; `ValueError` if the piece is not there exactly once."""
    path = folder / "advlib" / f"{fault.module}.py"
    source = path.read_text(encoding="utf-8")
    if source.count(fault.old) != 1:
        raise ValueError(
            f"{fault.module}: {fault.name}: occurs {source.count(fault.old)} times, not once: "
            f"{fault.old!r}. The source has changed; change the catalogue with it."
        )
    path.write_text(source.replace(fault.old, fault.new), encoding="utf-8")


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("module", nargs="?", choices=sorted(TESTS))
    parser.add_argument("-k", dest="word", default="")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    faults = [
        fault
        for fault in FAULTS
        if options.module in (None, fault.module) and options.word in fault.name
    ]
    with tempfile.TemporaryDirectory() as name:
        copy(Path(name))
        for module in sorted({fault.module for fault in faults}):
            done = run_tests(Path(name), module)
            if done.returncode:
                print(f"The tests of {module} fail without any fault:\n{done.stdout[-2000:]}")
                return 1
    with ThreadPoolExecutor(options.jobs) as pool:
        found = []
        for fault, seen in zip(faults, pool.map(noticed, faults), strict=True):
            found.append(seen)
            print(f"{'noticed' if seen else 'MISSED ':8} {fault.module}: {fault.name}", flush=True)
    share = sum(found) / len(found)
    print(f"{sum(found)} of {len(found)} faults noticed ({100 * share:.1f} %; {WANTED:.0%} wanted)")
    return 0 if share >= WANTED else 1


if __name__ == "__main__":
    raise SystemExit(main())
