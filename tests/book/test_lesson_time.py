"""The minutes that a lesson takes to read: as counted, and as the lesson says."""

import json
from pathlib import Path

import pytest
from course import lesson
from repository import LESSONS


def cell(kind: str, source: str, *tags: str) -> dict:
    return {"cell_type": kind, "source": source, "metadata": {"tags": list(tags)}}


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_names_the_minutes_that_its_words_take(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    computed = lesson.minutes_of(path)
    assert f"*{computed} minutes to read, " in text, f"write: {computed} minutes to read"


def test_minutes_count_prose_and_code_that_is_shown() -> None:
    prose = cell("markdown", "word " * 10 * lesson.WORDS)
    code = cell("code", "x = 1\n\n" * 10 * lesson.LINES)
    folded = cell("code", "x = 1\n" * 10 * lesson.LINES, "hide-input")
    assert lesson.minutes([prose]) == lesson.minutes([code]) == 10
    assert lesson.minutes([prose, code, folded]) == 20
    assert lesson.minutes([cell("markdown", "a few words")]) == lesson.STEP


def test_a_formula_is_one_word_and_an_address_none() -> None:
    assert lesson.words("see [lesson 3](03-fgsm.ipynb), where $a + b = c$") == 5
