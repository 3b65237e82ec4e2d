"""One fault at a time: a copy of the package, and its tests run on the copy.

Each run has a process of its own, forked from one that has torch and pytest loaded where the system
can, since loading them takes longer than most faults live. Hypothesis looks for one case that
fails, not for the smallest.
"""

import contextlib
import os
import shutil
import sys
import tempfile
from multiprocessing.context import BaseContext
from pathlib import Path

from .catalogue import Fault

ROOT = Path(__file__).resolve().parents[2]
TESTS = {
    "threats": ["test_threats.py", "test_contract.py", "test_attacks.py"],
    "gradients": ["test_gradients.py", "test_contract.py", "test_attacks.py"],
    "attacks": ["test_attacks.py", "test_contract.py", "test_gradients.py"],
    "evaluation": ["test_evaluation.py", "test_contract.py"],
    "autopgd": ["test_autopgd.py", "test_contract.py"],
    "square": ["test_square.py", "test_contract.py"],
    "folding": ["test_folding.py", "test_fast.py"],
    "winograd": ["test_winograd.py"],
    "packing": ["test_packing.py", "test_folding.py", "test_winograd.py"],
    "fast": ["test_fast.py"],
    "robustness": ["test_robustness.py", "test_contract.py"],
}
"""Where a fault of a module should be noticed."""
PRELOAD = ["hypothesis.strategies", "matplotlib.pyplot", "pytest", "torch", "torchvision"]
"""What the tests load that no fault can change."""
LOG, STATUS = "log.txt", "status.txt"
UNTESTED = 9
"""Status where the tests did not run, or not on the copy; those of pytest itself end at 5."""


def copy(folder: Path) -> None:
    """What the tests of these modules need, to be broken at will."""
    shutil.copytree(ROOT / "advlib", folder / "advlib", ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copytree(
        ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("*.pyc", "pages", "colab")
    )
    shutil.copy(ROOT / "pyproject.toml", folder)


def run_tests(folder: Path, files: list[str]) -> None:
    """Run these tests of `folder` until the first failure; write down what pytest says."""
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    os.environ.update(PYTHONPATH=str(folder), HYPOTHESIS_PROFILE="faults")
    import pytest
    import torch

    torch.set_num_threads(1)
    with (folder / LOG).open("w") as log:
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            for name in files:  # one after the other: most faults end with the first
                status = pytest.main(["-x", "-q", "-p", "no:cacheprovider", f"tests/{name}"])
                if status:
                    break
        loaded = Path(sys.modules["advlib"].__file__ or "")
        if not loaded.is_relative_to(folder):
            log.write(f"The tests loaded {loaded}, not the copy in {folder}.\n")
            return
    (folder / STATUS).write_text(str(int(status)))


def status_of(context: BaseContext, folder: Path, files: list[str]) -> tuple[int, str]:
    """Exit status and words of these tests of `folder`, in a process of their own."""
    (folder / STATUS).write_text(str(UNTESTED))
    process = context.Process(target=run_tests, args=(folder, files))
    process.start()
    process.join()
    said = (folder / LOG).read_text(errors="replace") if (folder / LOG).exists() else ""
    return int((folder / STATUS).read_text()), said


def noticed(context: BaseContext, base: Path, fault: Fault) -> bool:
    """Whether the tests fail with `fault` in place, in a copy of the copy `base`.

    Raises
    ------
    RuntimeError
        They could not be run.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve() / "copy"
        shutil.copytree(base, folder)
        put_in(fault, folder)
        status, said = status_of(context, folder, TESTS[fault.module])
    if status not in (0, 1):
        raise RuntimeError(f"{fault.module}: {fault.name}: pytest ended with {status}:\n{said}")
    return status == 1


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
