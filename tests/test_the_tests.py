"""Would `make test` notice? Damaged lessons and pages, and the test that each of them must fail."""

import copy
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import explorers
import nbformat
import pytest
import seals
import system
from nbformat.v4 import new_code_cell, new_notebook, new_output
from repository import LESSONS, ROOT, failures, run_pytest

LESSON = LESSONS[0]


def course(folder: Path, *tests: str) -> Path:
    """A folder with some of this book's tests and what they import."""
    for name in ("conftest.py", "explorers.py", "repository.py", *tests):
        copied = folder / "tests" / name
        copied.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "tests" / name, copied)
    shutil.copytree(
        ROOT / "book", folder / "book", ignore=shutil.ignore_patterns("vendor", "__pycache__")
    )
    shutil.copytree(ROOT / "advlib" / "widgets", folder / "advlib" / "widgets")
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "notebooks").mkdir()
    return folder


# -- lessons, as they are stored -------------------------------------------------------------------

Lesson = dict[str, Any]


def _outputs(lesson: Lesson, kind: str) -> list[dict[str, Any]]:
    return [
        cell
        for cell in lesson["cells"]
        if any(kind in output.get("data", {}) for output in cell.get("outputs", []))
    ]


def cleared_output(lesson: Lesson) -> None:
    cell = next(c for c in lesson["cells"] if "print(" in "".join(c["source"]) and c.get("outputs"))
    cell["outputs"] = []


def all_cleared(lesson: Lesson) -> None:
    for cell in lesson["cells"]:
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None


def _figure(lesson: Lesson) -> dict[str, Any]:
    return next(c for c in _outputs(lesson, "image/png") if "plots.show(" in "".join(c["source"]))


def deleted_figure(lesson: Lesson) -> None:
    _figure(lesson)["outputs"] = []


def image_without_words(lesson: Lesson) -> None:
    for output in _figure(lesson)["outputs"]:
        output["metadata"] = {}


def swallowed_exception(lesson: Lesson) -> None:
    cell = next(c for c in lesson["cells"] if c.get("outputs"))
    cell["outputs"] = [
        {"output_type": "error", "ename": "ValueError", "evalue": "no", "traceback": ["no"]}
    ]


def stored_warning(lesson: Lesson) -> None:
    cell = next(c for c in lesson["cells"] if c.get("outputs"))
    cell["outputs"].append({"output_type": "stream", "name": "stderr", "text": ["Warning"]})


def stored_path(lesson: Lesson) -> None:
    cell = next(c for c in lesson["cells"] if c.get("outputs"))
    text = ["/".join(["", "home", "somebody", "lesson.py"])]
    cell["outputs"].append({"output_type": "stream", "name": "stdout", "text": text})


def path_in_widget(lesson: Lesson) -> None:
    _explorer(lesson)["state"]["data"]["title"] = "/".join(["", "home", "somebody", "x.py"])


def path_in_source(lesson: Lesson) -> None:
    lesson["cells"][-1]["source"] += ["/".join(["see ", "Users", "somebody", "x.py"])]


def token_in_text(lesson: Lesson) -> None:
    lesson["cells"][-1]["source"] += ["\n", "hf_" + "a" * 34]


def edited_number(lesson: Lesson) -> None:
    cell = next(
        cell
        for cell in lesson["cells"]
        if "nbval-ignore-output" in cell["metadata"].get("tags", [])
        and re.search(r"\d", "".join(cell["outputs"][0].get("text", "")))
    )
    text = "".join(cell["outputs"][0]["text"])
    cell["outputs"][0]["text"] = [re.sub(r"\d", lambda d: str(9 - int(d[0])), text, count=1)]


def swapped_figures(lesson: Lesson) -> None:
    one, two = [cell["outputs"][0]["data"] for cell in _outputs(lesson, "image/png")[:2]]
    one["image/png"], two["image/png"] = two["image/png"], one["image/png"]


def edited_source(lesson: Lesson) -> None:
    cell = next(c for c in lesson["cells"] if "import advlib" in "".join(c["source"]))
    cell["source"] = "".join(cell["source"]) + "\nx = 1"


def _states(lesson: Lesson) -> dict[str, Any]:
    return lesson["metadata"]["widgets"][seals.STATE]["state"]


def _explorer(lesson: Lesson) -> dict[str, Any]:
    return next(m for m in _states(lesson).values() if m["state"].get("kind") == "explorer")


def heavy_explorer(lesson: Lesson) -> None:
    _explorer(lesson)["state"]["data"] = "x" * 1_600_000


def explorer_with_other_numbers(lesson: Lesson) -> None:
    _explorer(lesson)["state"]["data"]["title"] += "!"


def explorer_without_image(lesson: Lesson) -> None:
    cell = next(c for c in _outputs(lesson, seals.VIEW) if c in _outputs(lesson, "image/png"))
    del cell["outputs"][0]["data"]["image/png"]


def widgets_without_state(lesson: Lesson) -> None:
    _states(lesson).clear()


NOTICED: dict[Callable[[Lesson], None], str] = {
    cleared_output: "test_what_a_cell_shows_is_stored",
    all_cleared: "test_every_code_cell_has_been_executed_in_order",
    deleted_figure: "test_what_a_cell_shows_is_stored",
    image_without_words: "test_every_image_has_its_text",
    swallowed_exception: "test_no_error_is_stored_unless_announced",
    stored_warning: "test_no_complaint_and_no_progress_bar_is_stored",
    stored_path: "test_no_path_of_a_machine_is_stored",
    path_in_widget: "test_no_path_of_a_machine_is_stored",
    path_in_source: "test_no_path_of_a_machine_is_stored",
    token_in_text: "test_no_path_of_a_machine_is_stored",
    edited_number: "test_every_cell_is_as_it_was_executed",
    swapped_figures: "test_every_cell_is_as_it_was_executed",
    edited_source: "test_every_cell_is_as_it_was_executed",
    heavy_explorer: "test_the_stored_explorers_are_light",
    explorer_with_other_numbers: "test_every_cell_is_as_it_was_executed",
    explorer_without_image: "test_every_widget_has_its_state_and_what_shows_without_it",
    widgets_without_state: "test_every_widget_has_its_state_and_what_shows_without_it",
}


@pytest.fixture(scope="module")
def of_lessons(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The failures of an intact lesson and of one copy for each damage, in one run."""
    folder = course(tmp_path_factory.mktemp("lessons"), "lessons/test_notebooks.py")
    whole = json.loads(LESSON.read_text(encoding="utf-8"))
    for name in ("intact", *(damage.__name__ for damage in NOTICED)):
        path = folder / "notebooks" / f"01-{name}.ipynb"
        path.write_text(json.dumps(whole), encoding="utf-8")
        seals.seal(path, folder / "book" / "_tools" / seals.FILE.name)
    for damage in NOTICED:
        lesson = copy.deepcopy(whole)
        damage(lesson)
        path = folder / "notebooks" / f"01-{damage.__name__}.ipynb"
        path.write_text(json.dumps(lesson), encoding="utf-8")
    return failures(run_pytest(folder, "tests/lessons/test_notebooks.py"))


def test_the_intact_lesson_passes(of_lessons: set[str]) -> None:
    assert not [name for name in of_lessons if "01-intact" in name]


@pytest.mark.parametrize("damage", NOTICED, ids=lambda damage: damage.__name__)
def test_a_damaged_lesson_fails(damage: Callable, of_lessons: set[str]) -> None:
    assert any(
        name.startswith(NOTICED[damage]) and damage.__name__ in name for name in of_lessons
    ), of_lessons


# -- lessons, as they run --------------------------------------------------------------------------


EXPLORER = """
from advlib import widgets


def compute(k, norm):
    return {{"text": f"{{norm}} {{{formula}}}"}}


controls = [widgets.slider("k", range(5), stored=[0, 4]), widgets.choice("norm", ["l2", "linf"])]
explorer = widgets.explorer(compute, controls, title="Explorer", alt="What it shows")
"""


NBVAL = ("--nbval", "--nbval-current-env", "--nbval-kernel-startup-timeout=600")


def _cell(source: str, printed: str | None = None) -> nbformat.NotebookNode:
    outputs = [] if printed is None else [new_output("stream", name="stdout", text=printed)]
    return new_code_cell(source, outputs=outputs, execution_count=1)


def test_nbval_notices_what_is_not_as_stored(tmp_path: Path) -> None:
    intact = [_cell("print(1 + 1)", "2\n"), _cell(EXPLORER.format(formula="1 / (k + 1)"))]
    damaged = [
        _cell("print(1 + 1)", "2\n"),
        _cell("print(1 + 1)", "3\n"),
        _cell("print(2)\nassert 1 + 1 == 3", "2\n"),
        _cell(EXPLORER.format(formula="1 / k")),  # at once, since k = 0 is stored
        _cell(EXPLORER.format(formula="1 / (k - 3)")),  # at a position that is not
    ]
    for name, cells in {"intact": intact, "damaged": damaged}.items():
        nbformat.write(new_notebook(cells=cells), tmp_path / f"{name}.ipynb")
    shutil.copy(explorers.__file__, tmp_path)
    (tmp_path / "conftest.py").write_text(
        "from explorers import pytest_collection_modifyitems  # noqa: F401\n"
    )
    printed = run_pytest(tmp_path, *NBVAL, ".")
    failed = re.findall(r"(?m)^FAILED (.*?)(?: - .*)?$", printed)
    expected = [f"damaged.ipynb::{name}" for name in ("Cell 1", "Cell 2", "Cell 3", "Explorers")]
    assert failed == expected, printed
    assert "ZeroDivisionError" in printed and "{'k': 3, 'norm': 0}" in printed
    assert "4 failed, 5 passed" in printed


# -- pages -----------------------------------------------------------------------------------------

PAGE = '<!DOCTYPE html><html><body><h1 id="top">Page</h1>{}</body></html>'
PAGES = {
    "intact": '<a href="intact.html#top">here</a><a href="https://example.org">there</a>',
    "foreign": '<script src="https://cdn.example.org/script.js"></script>',
    "slashes": '<link rel="stylesheet" href="//fonts.example.org/font.css">',
    "image": '<img src="http://example.org/image.png">',
    "dead": '<a href="nowhere.html">nowhere</a>',
    "anchor": '<a href="intact.html#nowhere">nowhere</a>',
    "missing": '<p class="advlib-missing">An interactive figure belongs here.</p>',
}


def test_a_foreign_host_and_a_dead_link_are_noticed(tmp_path: Path) -> None:
    folder = course(tmp_path / "course", "book/built.py", "book/conftest.py", "book/test_book.py")
    html = folder / "_build" / "html"
    (html / "_static" / "mathjax").mkdir(parents=True)
    style = '@font-face { font-family: a; src: url("https://fonts.example.org/a.woff2"); }'
    (html / "_static" / "book.css").write_text(style, encoding="utf-8")
    for name, body in PAGES.items():
        (html / f"{name}.html").write_text(PAGE.format(body), encoding="utf-8")
    tests = "foreign_host or inside_the_book or stands_for_what_is_missing"
    failed = failures(run_pytest(folder, "tests/book/test_book.py", "-k", tests))
    assert "test_no_style_names_a_foreign_host" in failed
    for name in ("foreign", "slashes", "image"):
        assert f"test_no_page_names_a_foreign_host_to_load_from[{name}.html]" in failed
    for name in ("dead", "anchor"):
        assert f"test_every_link_inside_the_book_arrives[{name}.html]" in failed
    assert "test_nothing_stands_for_what_is_missing[missing.html]" in failed
    assert not [name for name in failed if "intact" in name]


def course_of_pages(root: Path) -> Path:
    """A course whose tests are those of every page, with what the tests of pages share."""
    shared = [path.name for path in (ROOT / "tests" / "pages").glob("[!t]*.py")]
    return course(root / "course", "pages/test_pages.py", *(f"pages/{name}" for name in shared))


OPENED = {
    "book/index.html": "",
    "intact.html": "<script>document.body.append('more')</script>",
    "fetches.html": "<script>fetch('https://example.org/count').catch(() => 0)</script>",
    "throws.html": '<div class="advlib-widget"></div><script src="_static/widgets.js"></script>',
}


def test_a_page_that_asks_elsewhere_or_throws_is_noticed(tmp_path: Path) -> None:
    folder = course_of_pages(tmp_path)
    html = folder / "_build" / "html"
    for name, body in OPENED.items():
        (html / name).parent.mkdir(parents=True, exist_ok=True)
        (html / name).write_text(PAGE.format(body), encoding="utf-8")
    refresh = '<meta http-equiv="Refresh" content="0; url=book/index.html">'
    (html / "index.html").write_text(refresh, encoding="utf-8")
    (html / "_static" / "mathjax").mkdir(parents=True)
    (html / "_static" / "widgets.js").write_text("nowhere.draw();", encoding="utf-8")
    said = run_pytest(folder, "tests/pages/test_pages.py", "-k", "from_disk")
    if "Chromium is missing" in said:
        pytest.skip(system.TOOLS["chromium"].remedy)  # the pages' own tests fail where it may not
    expected = {"test_from_disk[fetches.html]", "test_from_disk[throws.html]"}
    assert failures(said) == expected, said


# -- the command -----------------------------------------------------------------------------------

PYTHON = """#!/bin/sh
echo "$*" >> calls
case "$*" in
  *--nbval*) while ! grep -q "npm$" calls; do sleep 0.1; done; exit {package} ;;
  *"not clock"*) exit {pages} ;;
  *"-m clock "*) exit {clock} ;;
esac
"""


@pytest.mark.skipif(os.name == "nt" or not shutil.which("make"), reason="no make, no command")
@pytest.mark.parametrize("status", [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)])
def test_make_test_runs_all_parts_and_fails_with_any(
    tmp_path: Path, status: tuple[int, int, int]
) -> None:
    done, calls = _make_test(tmp_path, *status)
    assert (done.returncode != 0) == any(status), done.stderr
    tools, *beside, pages, clock, summary = calls
    assert tools == "book/_tools/system.py npm chromium firefox"
    package, book = sorted(beside)
    assert package.startswith("-m pytest notebooks tests --ignore=tests/pages --ignore=tests/book")
    assert "--nbval" in package
    assert book == "book/_tools/system.py npm"
    # Together these two are all tests of the pages.
    assert pages.startswith("-m pytest tests/book tests/pages -m not clock -n")
    assert clock.startswith("-m pytest tests/pages -m clock")
    assert summary == "-m tests.summary build/reports"


@pytest.mark.skipif(os.name == "nt" or not shutil.which("make"), reason="no make, no command")
def test_make_test_leaves_no_other_library_out_in_ci(tmp_path: Path) -> None:
    done, calls = _make_test(tmp_path, 0, 0, 0, CI="true")
    fetched = [call for call in calls if call.startswith("-m pip install")]
    assert done.returncode == 0 and len(fetched) == 1
    assert fetched[0].endswith("--target build/peers -r benchmarks/requirements.txt")


@pytest.mark.skipif(os.name == "nt" or not shutil.which("make"), reason="no make, no command")
def test_make_test_ends_with_what_kept_the_book_from_being_built(tmp_path: Path) -> None:
    done, calls = _make_test(tmp_path, 0, 0, 0, book="echo a dead reference; exit 1")
    assert done.returncode != 0 and "a dead reference" in done.stdout
    assert not [call for call in calls if "tests/pages -m" in call]


def _make_test(
    tmp_path: Path, package: int, pages: int, clock: int, book: str = "", CI: str = ""
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run `make test` where the parts end with these statuses; return what it said and called."""
    (tmp_path / "benchmarks").mkdir()
    for name in ("Makefile", "requirements.txt", "pyproject.toml", "benchmarks/requirements.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "build" / "peers").mkdir(parents=True)
    tools = tmp_path / ".venv" / "bin"
    tools.mkdir(parents=True)
    (tools / "python").write_text(PYTHON.format(package=package, pages=pages, clock=clock))
    (tools / "jupyter-book").write_text(f"#!/bin/sh\n{book}\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    (tools.parent / ".ready").touch()
    # Not as a part of the make that may run this test: that would hand its variables on.
    alone = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    alone["CI"] = CI
    command = ["make", "test", "VENV=.venv"]
    done = subprocess.run(command, cwd=tmp_path, env=alone, capture_output=True, text=True)
    return done, (tmp_path / "calls").read_text().splitlines()
