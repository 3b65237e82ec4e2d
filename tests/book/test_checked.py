"""Cells that prove what the text says: folded in the page, and in JupyterLab too."""

import json
from pathlib import Path

import pytest
from built import soup
from course.lesson import CHECKED
from repository import LESSONS


def test_a_check_is_folded_under_what_it_is(fork: Path) -> None:
    (cell,) = soup(fork / "notebooks" / "lesson.html").select("div.cell.tag_checked")
    (fold,) = cell.find_all("details")
    assert "open" not in fold.attrs and "assert True" in fold.get_text()
    assert {name.get_text() for name in fold.summary.find_all("p")} == {CHECKED}
    assert "assert" not in fold.summary.get_text()


HIDDEN = {"source_hidden": True, "outputs_hidden": True}


def open_checks(cells: list[dict]) -> list[str]:
    """Return the source of each check that JupyterLab would not fold."""
    return [
        "".join(cell["source"])
        for cell in cells
        if "checked" in cell["metadata"].get("tags", [])
        and cell["metadata"].get("jupyter") != HIDDEN
    ]


def test_a_check_that_jupyterlab_does_not_fold_is_noticed() -> None:
    tagged = {"tags": ["checked"]}
    metadata = {"open": tagged, "folded": {**tagged, "jupyter": HIDDEN}, "untagged": {}}
    cells = [{"source": name, "metadata": found} for name, found in metadata.items()]
    assert open_checks(cells) == ["open"]


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_check_is_folded_in_jupyterlab_too(path: Path) -> None:
    assert open_checks(json.loads(path.read_text(encoding="utf-8"))["cells"]) == []
