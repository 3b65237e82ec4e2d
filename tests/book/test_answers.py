"""Answers: whatever states one is folded with it, in the page and in JupyterLab."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import new_lesson
import pytest
from built import HTML, built, soup
from course.lesson import ANSWER
from new_lesson import FOLDED
from repository import LESSONS

Cells = list[dict[str, Any]]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def headings(cells: Cells) -> list[list[tuple[int, int, str]]]:
    """Return what each cell stands under: level, cell and text of each heading, outermost first."""
    path: list[tuple[int, int, str]] = []
    found = []
    for place, cell in enumerate(cells):
        if cell["cell_type"] == "markdown":
            for marks, text in re.findall(r"(?m)^(#+) (.+)$", source(cell)):
                outer = [heading for heading in path if heading[0] < len(marks)]
                path = [*outer, (len(marks), place, text)]
        found.append(path)
    return found


def questions(cells: Cells) -> Iterator[tuple[int, int]]:
    """Return the cells of each guess that a later cell answers, and of its answer."""
    asked = {}
    for place, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            for name in re.findall(r"(\w+)\.reveal\(", source(cell)):
                yield asked[name], place
            for name in re.findall(r"(\w+) = widgets\.guess\(", source(cell)):
                asked[name] = place


def open_cells(cells: Cells) -> list[str]:
    """Return the code that may state an answer and is not folded with it.

    Between guess and answer only what has a heading of its own may lie open: it prepares, as the
    definition of a network does.
    """
    under, found = headings(cells), []
    for guess, reveal in questions(cells):
        fold = next((h for h in under[reveal] if h[2] == ANSWER and h[1] > guess), None)
        if fold is None:
            found.append(source(cells[reveal]))
            continue
        around = (under[guess][-1], under[reveal][under[reveal].index(fold) - 1])
        found += [
            source(cells[place])
            for place in range(guess + 1, reveal)
            if cells[place]["cell_type"] == "code"
            and fold not in under[place]
            and under[place][-1] in around
        ]
    return found


def open_in_jupyterlab(cells: Cells) -> list[str]:
    """Return the cells that JupyterLab would not fold as the page does: it folds whole cells."""
    under, found = headings(cells), []
    for place, cell in enumerate(cells):
        begins = (3, place, ANSWER) in under[place]
        ends = place > 0 and any(h[2] == ANSWER and h not in under[place] for h in under[place - 1])
        if (
            begins != (cell["metadata"] == FOLDED)
            or (begins and source(cell) != f"### {ANSWER}")
            or (ends and not source(cell).startswith("#"))
        ):
            found.append(source(cell))
    return found


@pytest.fixture(params=LESSONS, ids=lambda path: path.stem)
def lesson(request: pytest.FixtureRequest) -> Path:
    return request.param


def read(lesson: Path) -> Cells:
    return json.loads(lesson.read_text(encoding="utf-8"))["cells"]


def test_what_states_an_answer_is_folded_with_it(lesson: Path) -> None:
    cells = read(lesson)
    assert list(questions(cells)) and open_cells(cells) == []


def test_jupyterlab_folds_it_too(lesson: Path) -> None:
    assert open_in_jupyterlab(read(lesson)) == []


def test_a_new_lesson_folds_its_answer() -> None:
    text = new_lesson.filled("lesson.txt", "99-a-frame", "The frame holds")
    begun = new_lesson.notebook(text, nbformat.read(LESSONS[0], as_version=4))
    cells = json.loads(nbformat.writes(begun))["cells"]
    assert list(questions(cells)) and open_cells(cells) == open_in_jupyterlab(cells) == []


@built
def test_the_page_folds_each_answer_and_lists_none(lesson: Path) -> None:
    page = soup(HTML / "notebooks" / f"{lesson.stem}.html")
    folds = page.select("details.answer")
    assert len(folds) == len(list(questions(read(lesson))))
    for fold in folds:
        assert fold.summary.get_text().startswith(ANSWER) and "open" not in fold.attrs
        assert '"kind":"reveal"' in str(fold)
    listed = [link.get_text(strip=True) for link in page.select(".bd-sidebar-secondary a")]
    assert listed and ANSWER not in listed


# -- the rules, on cells that break them


def cells_of(*sources: str) -> Cells:
    """Return cells; code begins with a small letter."""
    return [
        {
            "cell_type": "code" if re.match(r"[a-z]", text) else "markdown",
            "source": text,
            "metadata": FOLDED if text == f"### {ANSWER}" else {},
        }
        for text in sources
    ]


ASK, TELL, FOLD = "g = widgets.guess('How many?')", "g.reveal(3)", f"### {ANSWER}"


@pytest.mark.parametrize(
    ("sources", "found"),
    [
        (["## A", ASK, FOLD, "run()", TELL, "## B"], []),
        (["## A", ASK, "## B", "load()", "## C", FOLD, "run()", TELL], []),
        (["## A", ASK, "## B", "### B1", "load()", FOLD, TELL], []),
        (["## A", ASK, TELL], [TELL]),
        (["## A", ASK, "run()", FOLD, TELL], ["run()"]),
        (["## A", ASK, "## B", "run()", FOLD, TELL], ["run()"]),
        (["## A", ASK, FOLD, "run()", "### B", TELL], [TELL]),
        (["## A", FOLD, ASK, "run()", TELL], [TELL]),
    ],
)
def test_an_open_answer_is_noticed(sources: list[str], found: list[str]) -> None:
    assert open_cells(cells_of(*sources)) == found


@pytest.mark.parametrize("ending", ["The claim fails.\n\n## B", "So much.\n\n### B"])
def test_a_fold_that_ends_within_a_cell_is_noticed(ending: str) -> None:
    cells = cells_of("## A", ASK, FOLD, TELL, ending)
    assert open_in_jupyterlab(cells) == [ending]
    assert open_in_jupyterlab(cells_of("## A", ASK, FOLD, TELL, "## B")) == []


def test_an_answer_that_jupyterlab_leaves_open_is_noticed() -> None:
    cells = cells_of("## A", ASK, FOLD, TELL)
    cells[2]["metadata"] = {}
    assert open_in_jupyterlab(cells) == [FOLD]
