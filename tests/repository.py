"""Where things lie in this repository, what no file may hold, and pytest in another folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))

SECRET = re.compile(
    r"\b(?:gh[pousr]_|github_pat_|hf_)\w{16}|\bAKIA[0-9A-Z]{12}|-----BEGIN [A-Z ]*KEY"
)
"""How a key for GitHub, Hugging Face or Amazon begins, and any private key."""


def run_pytest(folder: Path, *arguments: str) -> str:
    """Run pytest in `folder`; what it printed, with one line for each failure."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-rf", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr  # the tests could be run
    return done.stdout


def failures(printed: str) -> set[str]:
    """Each failed test, as ``name[parameter]``."""
    return set(re.findall(r"(?m)^FAILED [^\n]*?::(\S+)", printed))
