"""The lessons as a reader runs them: exercises, and a machine without weights and network."""

import ast
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from explorers import LIMIT
from nbclient import NotebookClient
from repository import LESSONS

from advlib.models import efficientnet
from advlib.models.minilm import PACKAGE as SENTENCE_ENCODER

# Two show photographs from the first cell on, one compares networks on them, one attacks words.
WITHOUT = dict.fromkeys(("01", "11", "12"), efficientnet.PACKAGE) | {"14": SENTENCE_ENCODER}
WITH_WEIGHTS = [path for path in LESSONS if path.stem[:2] in WITHOUT]
MISSING = {
    efficientnet.PACKAGE: "The photograph network is not at hand, so this part stays empty.",
    SENTENCE_ENCODER: "The sentence encoder is not at hand, so this lesson measures nothing.",
}
HANGS = 1_800  # seconds by the clock, after which a kernel or a cell is taken to hang
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
    for part in ("widgets.guess(", ".reveal(", "widgets.explorer(", "widgets.quiz(", "assert "):
        assert part in code, part
    assert text.count("<summary>Hint</summary>") >= 2


def test_every_theorem_has_its_proof_or_its_reference(lesson: nbformat.NotebookNode) -> None:
    text = "\n\n".join(cell.source for cell in lesson.cells if cell.cell_type == "markdown")
    number = int(_number(lesson))
    statements = re.split(
        r"(?m)^> \*\*(?=(?:Theorem|Proposition|Lemma|Corollary|Definition) )", text
    )
    for statement in statements[1:]:
        name = statement.split("**")[0].rstrip(".")
        assert re.fullmatch(rf"\w+ {number}\.\d+", name), f"{name} in lesson {number}"
        if not name.startswith("Definition"):
            after = statement.split("\n## ")[0]
            assert "*Proof" in after or "](http" in after, f"{name} is neither proved nor cited"


def _number(lesson: nbformat.NotebookNode) -> str:
    """Return the two digits of the lesson, from its own heading."""
    found = re.search(r"\*\*Lesson (\d+):", lesson.cells[0].source)
    assert found, "the first cell names the lesson: **Lesson 3: FGSM.**"
    return f"{int(found[1]):02d}"


def _spent() -> float:
    """Processor seconds, on all cores, of the kernels that have ended: no load of others counts."""
    spent = os.times()
    return spent.children_user + spent.children_system


def test_a_lesson_goes_on_where_the_photograph_network_is_not_at_hand(
    lesson: nbformat.NotebookNode,
) -> None:
    """Each call stands in a `try` that catches what it raises; two lessons are run so, below."""
    for cell in lesson.cells:
        if cell.cell_type != "code" or "imagenet(" not in cell.source:
            continue
        tries = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Try)]
        guarded = [one for one in tries for part in one.body if "imagenet(" in ast.unparse(part)]
        caught = " ".join(ast.unparse(h.type) for one in guarded for h in one.handlers if h.type)
        assert "AdvlibError" in caught or "WeightsError" in caught, cell.source
        assert cell.source.count("imagenet(") == len(guarded), cell.source


def _section(cells: list[nbformat.NotebookNode], said: str) -> list[nbformat.NotebookNode]:
    """Where the lesson begins, and the section that says it: nbval runs the others as they are.

    All cells, if the lesson says it where it begins, or if others use what the cell makes.
    """
    sections: list[list[nbformat.NotebookNode]] = [[]]
    for cell in cells:
        if cell.cell_type == "markdown" and re.search(r"(?m)^## ", cell.source):
            sections.append([])
        sections[-1].append(cell)
    first, *later = sections
    (own,) = [part for part in sections if any(said in cell.source for cell in part)]
    made = _names([cell for cell in own if said in cell.source], ast.Store)
    used = set[str]()
    for part in later:
        used |= _names(part, ast.Load) - _names(part, ast.Store) if part is not own else set()
    return cells if own is first or made & used else first + own


def _names(cells: list[nbformat.NotebookNode], context: type[ast.expr_context]) -> set[str]:
    nodes = [ast.parse(cell.source) for cell in cells if cell.cell_type == "code"]
    found = [part for node in nodes for part in ast.walk(node) if isinstance(part, ast.Name)]
    return {name.id for name in found if isinstance(name.ctx, context)}


@pytest.mark.parametrize("path", WITH_WEIGHTS, ids=lambda path: path.stem)
def test_a_lesson_ends_clean_without_weights_and_without_network(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, DEAD)
    for name in ("no_proxy", "NO_PROXY", "ADVLIB_PANDA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    # The package with the weights, as far as Python finds it, is an empty one.
    package = WITHOUT[path.stem[:2]]
    metadata = tmp_path / f"{package.replace('-', '_')}-0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 0\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = _section(notebook.cells, MISSING[package])
    start = _spent()
    NotebookClient(
        notebook,
        timeout=HANGS,
        startup_timeout=HANGS,
        kernel_name="python3",
        resources={"metadata": {"path": path.parent}},
    ).execute()
    seconds = _spent() - start
    said = "\n".join(_said(cell) for cell in notebook.cells if cell.cell_type == "code")
    assert said.count(MISSING[package]) == 1
    assert re.search("is missing, a part of the package|could not be reached", said)
    assert seconds < LIMIT, f"{path.stem} took {seconds:.0f} s of the processor"
    assert seconds > 0 or os.name == "nt"  # which does not tell
