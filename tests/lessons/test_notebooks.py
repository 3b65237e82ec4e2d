"""What the committed lessons must store, because the book shows exactly that.

nbval (`pytest --nbval`) runs each lesson again and compares its text. It passes in silence over
cleared outputs and over cells tagged `nbval-ignore-output`, and never looks at images and
widgets; these tests do.
"""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
import seals
from repository import LESSONS, SECRET

from advlib.widgets.base import PageWidget

IMAGES = ("image/png", "image/jpeg", "image/gif", "image/svg+xml")
ABSOLUTE_PATH = re.compile(
    r"(?<![\w.:/])/(?:home|root|work|tmp|usr|var|opt|mnt|Users|content|private)/[\w.-]+"
    r"|\b[A-Z]:\\\\?[\w.-]+"
)
PROGRESS = re.compile(r"\d+%\|.*\|")
METADATA = {"kernelspec", "language_info", "mystnb", "widgets"}
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


@pytest.fixture(params=LESSONS, ids=lambda path: path.name)
def lesson(request: pytest.FixtureRequest) -> dict[str, Any]:
    return json.loads(request.param.read_text(encoding="utf-8"))


def code_cells(lesson: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    return [
        (index, cell)
        for index, cell in enumerate(lesson["cells"])
        if cell["cell_type"] == "code" and "".join(cell["source"]).strip()
    ]


def tags(cell: dict[str, Any]) -> list[str]:
    return cell["metadata"].get("tags", [])


def strings(value: Any) -> str:
    """Return every text in a stored value, joined."""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return "\n".join(map(strings, value.values()))
    if isinstance(value, list):
        return "".join(map(strings, value))
    return ""


def texts(output: dict[str, Any]) -> str:
    """Return what an output says in words: streams and text, but no image's data."""
    data = {k: v for k, v in output.get("data", {}).items() if k not in IMAGES}
    return strings(output.get("text", "")) + strings(data)


def shows_something(source: str) -> bool:
    """Say whether a cell must have an output: it prints, displays, or ends in a value.

    >>> shows_something("x = 1"), shows_something("x"), shows_something("assert x")
    (False, True, False)
    """
    body = ast.parse(re.sub(r"^\s*[%!].*$", "", source, flags=re.MULTILINE)).body
    calls = {
        call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        for statement in body
        if isinstance(statement, ast.Expr)
        for call in ast.walk(statement)
        if isinstance(call, ast.Call)
    }
    if calls & {"print", "display", "show"}:
        return True
    last = body[-1] if body else None
    return isinstance(last, ast.Expr) and not isinstance(last.value, ast.Call | ast.Constant)


def test_there_is_a_lesson() -> None:
    assert LESSONS


def test_every_code_cell_has_been_executed_in_order(lesson: dict[str, Any]) -> None:
    counts = [cell["execution_count"] for _, cell in code_cells(lesson)]
    assert counts == list(range(1, len(counts) + 1)), "run `make notebooks`"


def test_what_a_cell_shows_is_stored(lesson: dict[str, Any]) -> None:
    bare = [
        index
        for index, cell in code_cells(lesson)
        if not cell["outputs"]
        and "no-output-expected" not in tags(cell)
        and shows_something("".join(cell["source"]))
    ]
    assert not bare, f"cells {bare} have no stored output: run `make notebooks`"


def test_every_figure_is_a_drawing_with_its_pixels_for_the_print(lesson: dict[str, Any]) -> None:
    kinds = [
        {"image/png", "image/svg+xml"} & output["data"].keys()
        for _, cell in code_cells(lesson)
        for output in cell["outputs"]
        if output.get("data", {}).get("text/plain", [""])[0].startswith("[figure]")
    ]
    assert kinds and all(len(both) == 2 for both in kinds)


def test_stored_widgets_hold_the_script_and_style_of_the_package(lesson: dict[str, Any]) -> None:
    stored = lesson["metadata"]["widgets"][seals.STATE]["state"]
    scripts = [part["state"] for part in stored.values() if "_esm" in part["state"]]
    assert scripts
    now = {"_esm": str(PageWidget._esm), "_css": str(PageWidget._css)}
    assert all(now.items() <= state.items() for state in scripts), (
        "the widgets have changed: run `python book/_tools/execute.py --scripts`"
    )


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.name)
def test_every_cell_is_as_it_was_executed(path: Path) -> None:
    now, then = seals.seals(json.loads(path.read_text("utf-8"))), seals.read().get(path.stem, {})
    changed = [cell for cell in {**now, **then} if now.get(cell) != then.get(cell)]
    assert not changed, f"changed since the last execution: run book/_tools/execute.py {path.name}"


def test_no_error_is_stored_unless_announced(lesson: dict[str, Any]) -> None:
    for index, cell in code_cells(lesson):
        raised = any(output["output_type"] == "error" for output in cell["outputs"])
        assert raised == ("raises-exception" in tags(cell)), f"cell {index}"


def test_no_complaint_and_no_progress_bar_is_stored(lesson: dict[str, Any]) -> None:
    for index, cell in code_cells(lesson):
        for output in cell["outputs"]:
            assert output.get("name") != "stderr", f"cell {index}: {output['text']}"
            assert not PROGRESS.search(texts(output)), f"cell {index}"


def test_no_path_of_a_machine_is_stored(lesson: dict[str, Any]) -> None:
    for index, cell in enumerate(lesson["cells"]):
        said = [strings(cell["source"])]
        for output in cell.get("outputs", []):
            said += [texts(output), strings(output.get("traceback", ""))]
        text = "\n".join(said)
        found = ABSOLUTE_PATH.search(text) or SECRET.search(text)
        assert found is None, f"cell {index}: {found and found[0]}"
    states = lesson["metadata"]["widgets"][seals.STATE]["state"]
    for name, model in states.items():
        shown = {key: value for key, value in model["state"].items() if key not in seals.CODE}
        found = ABSOLUTE_PATH.search(strings(shown)) or SECRET.search(strings(model))
        assert found is None, f"widget {name}: {found and found[0]}"


def test_every_image_has_its_text(lesson: dict[str, Any]) -> None:
    for index, cell in code_cells(lesson):
        of_cell = cell["metadata"].get("mystnb", {}).get("image", {}).get("alt", "")
        for output in cell["outputs"]:
            for kind in set(output.get("data", {})) & set(IMAGES):
                own = output.get("metadata", {}).get(kind, {}).get("alt", "")
                assert (own or of_cell).strip(), f"cell {index}: an image without alternative text"
            for tag in re.findall(r"<img\b[^>]*>", texts(output)):
                assert re.search(r'\balt="[^"]+"', tag), f"cell {index}: {tag[:80]}"


def test_every_widget_has_its_state_and_what_shows_without_it(lesson: dict[str, Any]) -> None:
    states = lesson["metadata"]["widgets"][seals.STATE]["state"]
    for index, cell in code_cells(lesson):
        for output in cell["outputs"]:
            data = output.get("data", {})
            if seals.VIEW in data:
                state = states.get(data[seals.VIEW]["model_id"], {}).get("state", {})
                assert state.get("data"), f"cell {index}: the page has nothing to draw"
                still = "image/png" if state["kind"] == "explorer" else "text/plain"
                assert data.get(still), f"cell {index}: nothing to show before the lesson is run"


def test_the_stored_explorers_are_light(lesson: dict[str, Any]) -> None:
    state = lesson["metadata"]["widgets"][seals.STATE]["state"]
    sizes = [
        len(json.dumps(model["state"]["data"]))
        for model in state.values()
        if model["state"].get("kind") == "explorer"
    ]
    assert sizes and sum(sizes) <= 1_500_000


def test_the_metadata_name_no_machine(lesson: dict[str, Any]) -> None:
    assert set(lesson["metadata"]) <= METADATA
    assert lesson["metadata"]["kernelspec"] == KERNEL
    for _, cell in code_cells(lesson):
        assert not {"execution", "ExecuteTime", "collapsed"} & set(cell["metadata"])


def test_every_cell_has_an_identity(lesson: dict[str, Any]) -> None:
    identities = [cell["id"] for cell in lesson["cells"]]
    assert len(set(identities)) == len(identities)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = 1", False),
        ("assert x == 1", False),
        ("def f():\n    print(1)", False),
        ("%matplotlib inline\nimport torch", False),
        ("print(x)", True),
        ("x", True),
        ("plots.show(fig, alt='a cat')", True),
        ("x = 1\nx + 1", True),
    ],
)
def test_shows_something(source: str, expected: bool) -> None:
    assert shows_something(source) == expected
