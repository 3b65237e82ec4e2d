"""The frame of a new lesson runs, and passes what every lesson must pass."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import new_lesson
import pytest
from repository import ROOT


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with lesson 99 begun in it, and executed."""
    root = tmp_path_factory.mktemp("course")
    shutil.copytree(ROOT / "advlib", root / "advlib")
    shutil.copytree(ROOT / "book", root / "book", ignore=shutil.ignore_patterns("node_modules"))
    (root / "tests" / "lessons").mkdir(parents=True)
    for name in (
        "conftest.py",
        "explorers.py",
        "repository.py",
        "lessons/test_notebooks.py",
        "lessons/test_lessons.py",
    ):
        shutil.copy(ROOT / "tests" / name, root / "tests" / name)
    shutil.copy(ROOT / "pyproject.toml", root)
    (root / "notebooks").mkdir()
    shutil.copy(ROOT / "notebooks" / "ruff.toml", root / "notebooks")
    written = new_lesson.begin(root, "99-a-frame", "The frame holds")
    assert all(path.is_file() for path in written) and len(written) == 3
    done = run(root, "book/_tools/execute.py", "notebooks/99-a-frame.ipynb")
    assert done.returncode == 0, done.stderr
    return root


def run(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True
    )


def test_the_frame_passes_the_tests_of_every_lesson(begun: Path) -> None:
    done = run(begun, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")
    assert done.returncode == 0, done.stdout
    # What is skipped is the test of lessons with photographs: the frame shows none.
    assert " passed, 1 skipped" in done.stdout


def test_the_frame_is_tidy(begun: Path) -> None:
    for command in (["check"], ["format", "--check"]):
        done = run(begun, "-m", "ruff", *command, "notebooks", "advlib/lessons", "tests/lessons")
        assert done.returncode == 0, done.stdout


def test_a_lesson_that_exists_is_not_overwritten(begun: Path) -> None:
    with pytest.raises(SystemExit, match="exists already"):
        new_lesson.begin(begun, "99-another", "Again")
