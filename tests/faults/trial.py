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
    "contracts": [
        "core/test_bad_input.py",
        "core/test_contract.py",
        "core/test_gradients.py",
        "core/test_attacks.py",
        "core/test_threats.py",
    ],
    "exact": ["core/test_threats.py", "core/test_contract.py", "core/test_attacks.py"],
    "threats": ["core/test_threats.py", "core/test_contract.py", "core/test_attacks.py"],
    "gradients": ["core/test_gradients.py", "core/test_contract.py", "core/test_attacks.py"],
    "attacks/best": ["core/test_attacks.py", "core/test_contract.py"],
    "attacks/noise": ["core/test_attacks.py", "core/test_contract.py"],
    "attacks/fgsm": ["core/test_attacks.py", "core/test_contract.py"],
    "attacks/pgd": ["core/test_attacks.py", "core/test_contract.py", "core/test_gradients.py"],
    "evaluation": ["core/test_evaluation.py", "core/test_contract.py"],
    "training": ["core/test_training.py"],
    "attacks/pool": [
        "attacks/test_autopgd.py",
        "attacks/test_square.py",
        "audit/test_robustness.py",
    ],
    "attacks/autopgd": ["attacks/test_autopgd.py", "core/test_contract.py"],
    "attacks/fmn": ["attacks/test_fmn.py", "core/test_contract.py"],
    "attacks/hop_skip_jump": ["attacks/test_hop_skip_jump.py", "core/test_contract.py"],
    "attacks/eight_bit": ["attacks/test_eight_bit.py"],
    "attacks/square": ["attacks/test_square.py", "core/test_contract.py"],
    "audit/robustness": ["audit/test_robustness.py", "core/test_contract.py"],
    "audit/engine": ["audit/test_audit.py"],
    "audit/run": ["audit/test_audit.py"],
    "audit/card": ["audit/test_card.py"],
    "audit/photos": ["audit/test_photos.py"],
    "fast/folding": ["fast/test_folding.py", "fast/test_accelerate.py"],
    "fast/accelerate": ["fast/test_accelerate.py"],
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
        shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.pyc"))
        put_in(fault, folder)
        status, said = status_of(context, folder, TESTS[fault.module])
    if status not in (0, 1):
        raise RuntimeError(f"{fault.module}: {fault.name}: pytest ended with {status}:\n{said}")
    return status == 1


def put_in(fault: Fault, folder: Path) -> None:
    """Change the copy's source."""
    path = folder / "advlib" / f"{fault.module}.py"
    path.write_text(broken(fault, path.read_text(encoding="utf-8")), encoding="utf-8")


def broken(fault: Fault, source: str) -> str:
    """The source of a module with the fault; `ValueError` if its piece is not there just once."""
    if source.count(fault.old) != 1:
        raise ValueError(
            f"{fault.module}: {fault.name}: occurs {source.count(fault.old)} times, not once: "
            f"{fault.old!r}. The source has changed; change the catalogue with it."
        )
    return source.replace(fault.old, fault.new)
