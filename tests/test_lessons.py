"""The lessons as a reader runs them: exercises, and a machine without weights and network."""

import time
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

LESSONS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
DEAD = "http://127.0.0.1:9"  # nothing listens there, so every request fails at once


@pytest.fixture(params=LESSONS, ids=lambda path: path.stem)
def lesson(request: pytest.FixtureRequest) -> nbformat.NotebookNode:
    return nbformat.read(request.param, as_version=4)


def _said(cell: nbformat.NotebookNode) -> str:
    outputs = [output.get("text") or output.data.get("text/plain", "") for output in cell.outputs]
    return "\n".join(outputs)


def test_every_exercise_fails_as_a_stub_and_passes_as_a_solution(
    lesson: nbformat.NotebookNode,
) -> None:
    answers = [cell for cell in lesson.cells if "\ncheck." in cell.source]
    solutions = [cell for cell in answers if "solution" in cell.metadata.get("tags", [])]
    stubs = [cell for cell in answers if cell not in solutions]
    assert len(stubs) == len(solutions) >= 2
    for cell in stubs:
        assert "return ..." in cell.source and _said(cell).startswith("Not yet:"), cell.source
    for cell in solutions:
        assert _said(cell).startswith("Right:"), cell.source


def test_every_lesson_has_the_whole_frame(lesson: nbformat.NotebookNode) -> None:
    text = "\n".join(cell.source for cell in lesson.cells if cell.cell_type == "markdown")
    code = "\n".join(cell.source for cell in lesson.cells if cell.cell_type == "code")
    for part in ("| Threat model |", "## Exercises", "## Take-away", "## Further reading"):
        assert part in text, part
    for part in ("widgets.predict(", ".reveal(", "widgets.explorer(", "widgets.quiz(", "assert "):
        assert part in code, part
    assert text.count("<summary>Hint</summary>") >= 2


def test_lesson_1_ends_clean_without_weights_and_without_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = LESSONS[0]
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, DEAD)
    for name in ("no_proxy", "NO_PROXY", "ADVLIB_PANDA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    start = time.monotonic()
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute()
    seconds = time.monotonic() - start
    said = "\n".join(_said(cell) for cell in notebook.cells if cell.cell_type == "code")
    assert said.count("The photograph network is not at hand, so this part stays empty.") == 1
    assert "could not be reached" in said
    assert seconds < 60, f"lesson 1 took {seconds:.0f} s"
