"""Whether a lesson's explorer that breaks at a position that is not stored is noticed."""

import re
import shutil
from pathlib import Path

import explorers
import nbformat
from nbformat.v4 import new_code_cell, new_notebook
from test_the_tests import run

EXPLORER = """
from advlib import widgets


def compute(k, norm):
    return {{"text": f"{{norm}} {{{formula}}}"}}


controls = [widgets.slider("k", range(5), stored=[0, 4]), widgets.choice("norm", ["l2", "linf"])]
explorer = widgets.explorer(compute, controls, title="Explorer", alt="What it shows")
"""


def test_an_explorer_that_breaks_at_a_position_that_is_not_stored_is_noticed(
    tmp_path: Path,
) -> None:
    for name, formula in {"sound": "1 / (k + 1)", "broken": "1 / (k - 3)"}.items():
        lesson = new_notebook(cells=[new_code_cell(EXPLORER.format(formula=formula))])
        nbformat.write(lesson, tmp_path / f"{name}.ipynb")
    shutil.copy(explorers.__file__, tmp_path)
    (tmp_path / "conftest.py").write_text(
        "from explorers import pytest_collection_modifyitems  # noqa: F401\n"
    )
    said = run(tmp_path, "--nbval", "--nbval-current-env", ".")
    assert re.findall(r"(?m)^FAILED (.*?)(?: - .*)?$", said) == ["broken.ipynb::Explorers"], said
    assert "ZeroDivisionError" in said and "{'k': 3, 'norm': 0}" in said
    assert "1 failed, 3 passed" in said


def test_all_that_is_offered_is_stored_or_asked_for() -> None:
    controls = [
        {"name": "k", "labels": ["0", "1", "2"], "stored": [0, 2]},
        {"name": "norm", "labels": ["l2", "linf"], "stored": [0, 1]},
    ]
    assert list(explorers.unstored(controls)) == [{"k": 1, "norm": 0}, {"k": 1, "norm": 1}]
