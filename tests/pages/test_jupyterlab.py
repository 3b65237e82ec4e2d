"""The lessons' home with a kernel: the project's own JupyterLab, opened in a browser.

The server is the one of `make lab`, on a free port, with folders of its own: neither the reader's
settings nor their trust in notebooks plays a part, and nothing is left behind.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbformat import v4
from nbformat.sign import NotebookNotary
from repository import ROOT

# Two lessons as they are stored.
UNTRUSTED = "13-audit-your-own-model.ipynb"
TRUSTED = "12-into-the-world.ipynb"

SMALL = "small.ipynb"
# A notebook that asks little of the machine, written as the lessons are. The explorer stores two of
# its states and leaves the others to the kernel; one of them no attack can compute.
CELLS = (
    """
import advlib
from advlib import widgets
from advlib.data import signs
from advlib.evaluation import predict

model = advlib.models.load("signs-standard")
x, y = signs.render(1, seed=7, classes=["stop"])


def compare(eps):
    x_adv = advlib.fgsm(model, x, y, eps / 255)
    shares, order = predict(model, x_adv).softmax(1)[0].topk(3)
    return {
        "images": [{"array": x_adv[0], "title": "after FGSM", "alt": "the changed sign"}],
        "bars": [
            {"label": signs.CLASS_NAMES[i], "value": float(p)}
            for p, i in zip(shares, order.tolist())
        ],
        "text": f"FGSM at {eps}/255.",
    }


explorer = widgets.explorer(
    compare,
    [widgets.slider("eps", range(-1, 9), label="epsilon", format="{}/255", stored=[0, 8])],
    title="An explorer",
    alt="What FGSM does to a stop sign",
)
explorer
""",
    """
guess = widgets.guess("How many of 100?", widgets.number(0, 100, unit="of 100"))
guess
""",
    """
guess.reveal(3, "It is *not* aimed.")
""",
    """
widgets.quiz(
    [
        widgets.single(
            "Which norm bounds every pixel alike?",
            [widgets.right("linf", "Well seen."), widgets.wrong("l1", "That one bounds a sum.")],
        )
    ]
)
""",
    """
print("Python was told:", guess.guessed, type(explorer.error).__name__)
""",
)


REVEAL = 2
"""The place among them of the answer, which is folded below a heading as in the lessons."""
FOLDED = {"jp-MarkdownHeadingCollapsed": True}


def small_notebook() -> nbformat.NotebookNode:
    """Return a notebook that has not been run."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    cells = [v4.new_code_cell(source.strip()) for source in CELLS]
    answer = v4.new_markdown_cell("### Answer", metadata=FOLDED)
    cells[REVEAL : REVEAL + 1] = [answer, cells[REVEAL], v4.new_markdown_cell("### Next")]
    return v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Start JupyterLab; return a function from a notebook's name to its address."""
    root = tmp_path_factory.mktemp("jupyterlab")
    notebooks = root / "notebooks"
    notebooks.mkdir()
    for lesson in (UNTRUSTED, TRUSTED):
        shutil.copy(ROOT / "notebooks" / lesson, notebooks)
    nbformat.write(small_notebook(), notebooks / SMALL)
    folders = own_folders(root)
    trusted = nbformat.read(notebooks / TRUSTED, as_version=4)
    NotebookNotary(data_dir=folders["JUPYTER_DATA_DIR"]).sign(trusted)
    server = subprocess.Popen(
        # Root may run the tests in a container, where JupyterLab asks for this consent.
        [sys.executable, "-m", "jupyterlab", f"--notebook-dir={notebooks}", "--no-browser"]
        + ["--ip=127.0.0.1", "--port=0", "--allow-root", "--LabApp.extension_manager=readonly"],
        env={**os.environ, **folders, "PYTHONPATH": str(ROOT)},
        stdout=(root / "log").open("w"),
        stderr=subprocess.STDOUT,
    )
    try:
        at = started(server, root)
        # A workspace for each notebook: JupyterLab opens again what was open in it.
        yield (
            lambda name: (
                f"{at['url']}lab/workspaces/{Path(name).stem}/tree/{name}?token={at['token']}"
            )
        )
    finally:
        server.terminate()  # it ends its kernels first
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def own_folders(root: Path) -> dict[str, str]:
    """Return the settings that keep JupyterLab inside `root`."""
    names = [f"JUPYTER_{kind}_DIR" for kind in ("CONFIG", "DATA", "RUNTIME")]
    names += ["JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR", "IPYTHONDIR"]
    settings = root / "JUPYTERLAB_SETTINGS_DIR" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    # Else it asks whether it may fetch news.
    news = {"fetchNews": "false", "checkForUpdates": False}
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(news))
    folders = {name: root / name for name in names}
    for folder in folders.values():
        folder.mkdir(exist_ok=True)
    return {name: str(folder) for name, folder in folders.items()}


def started(server: subprocess.Popen[bytes], root: Path) -> dict[str, Any]:
    """Wait until the server says where it is."""
    for _ in range(600):
        for found in (root / "JUPYTER_RUNTIME_DIR").glob("jpserver-*.json"):
            if text := found.read_text():
                return json.loads(text)
        if server.poll() is not None:
            break
        time.sleep(0.1)
    pytest.fail(f"JupyterLab did not start:\n{(root / 'log').read_text()}", pytrace=False)


@pytest.fixture(scope="module")
def visit(browser: Any, lab: Callable[[str], str]) -> Iterator[Callable[[str], Any]]:
    """Return a function that opens a notebook; at the end no page may have complained."""
    contexts, complaints = [], []

    def go(name: str) -> Any:
        contexts.append(browser.new_context(viewport={"width": 1280, "height": 900}))
        page = contexts[-1].new_page()
        page.set_default_timeout(60_000)  # other work may keep this machine busy
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console", lambda said: complaints.append(said.text) if said.type == "error" else None
        )
        page.goto(lab(name))
        page.locator(".jp-Notebook .jp-CodeCell").first.wait_for()
        return page

    yield go
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture(scope="module")
def page(visit: Callable[[str], Any]) -> Any:
    """Open the small notebook and run all of it."""
    opened = visit(SMALL)
    opened.get_by_text("| Idle").wait_for()
    opened.locator(".jp-CodeCell .cm-content").first.click()
    for _ in small_notebook().cells[:-1]:  # step by step: the folded answer opens on the way
        opened.keyboard.press("Shift+Enter")
    run_last_cell(opened)
    hears(opened, "Python was told: None NoneType")
    return opened


def run_last_cell(page: Any) -> None:
    page.locator(".jp-CodeCell .cm-content").last.click()
    page.keyboard.press("Control+Enter")


def hears(page: Any, text: str) -> None:
    """Wait until the last cell has printed `text`."""
    page.locator(".jp-CodeCell").last.locator(".jp-OutputArea-output", has_text=text).wait_for()


def sees(page: Any, text: str) -> None:
    """Wait until the explorer says `text`."""
    page.locator(".advlib-text", has_text=text).wait_for()


def test_the_keyboard_moves_the_slider_and_the_kernel_answers(page: Any) -> None:
    slider = page.get_by_role("slider", name="epsilon")
    slider.press("End")
    sees(page, "FGSM at 8/255.")
    before = page.locator(".advlib-explorer img").get_attribute("src")
    slider.press("ArrowLeft")
    sees(page, "FGSM at 7/255.")
    assert page.locator(".advlib-explorer img").get_attribute("src") != before
    # JupyterLab reads these keys too, outside of a widget.
    assert slider.evaluate("e => e === document.activeElement")


def test_the_mouse_drags_it(page: Any) -> None:
    slider = page.get_by_role("slider", name="epsilon")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + box["width"] - 8, middle)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.55, middle, steps=8)
    page.mouse.up()
    assert slider.get_attribute("aria-valuetext") == "4/255"
    sees(page, "FGSM at 4/255.")


def test_an_error_of_the_callback_stands_in_the_widget(page: Any) -> None:
    slider, alert = page.get_by_role("slider", name="epsilon"), page.locator(".advlib-error")
    slider.press("Home")
    alert.wait_for()
    assert alert.inner_text().startswith("ThreatError: eps is -0.0039")
    run_last_cell(page)
    hears(page, "ThreatError")
    slider.press("ArrowRight")
    assert not alert.is_visible()
    slider.press("ArrowRight")
    sees(page, "FGSM at 1/255.")


def test_a_guess_is_locked_and_python_is_told(page: Any) -> None:
    question, reveal = page.locator(".advlib-predict"), page.locator(".advlib-reveal")
    assert "lock your guess first" in reveal.inner_text()
    question.get_by_role("slider").press("ArrowRight")
    question.get_by_role("button", name="Lock my guess").click()
    assert "Your guess: 51 of 100" in question.inner_text()
    assert reveal.locator("dd").all_inner_texts() == ["51 of 100", "3 of 100"]
    run_last_cell(page)
    hears(page, "Python was told: 51")


def test_a_quiz_is_answered(page: Any) -> None:
    form = page.locator(".advlib-quiz form")
    for name, said in (("l1", "Not yet. That one bounds a sum."), ("linf", "Right. Well seen.")):
        form.get_by_role("radio", name=name).check()
        form.get_by_role("button", name="Check").click()
        assert said in form.inner_text()
    assert page.locator(".advlib-score").inner_text() == "1 of 1 right"


def test_a_dark_theme_darkens_the_widgets(page: Any) -> None:
    page.get_by_role("menuitem", name="Settings").click()
    for item in ("Theme", "JupyterLab Dark"):
        page.locator(".lm-Menu-itemLabel").get_by_text(item, exact=True).click()
    page.wait_for_function(
        "getComputedStyle(document.querySelector('.advlib')).backgroundColor === 'rgb(23, 27, 32)'"
    )


def test_an_untrusted_lesson_shows_its_stored_stills(visit: Callable[[str], Any]) -> None:
    page = visit(UNTRUSTED)
    cell = page.locator(".jp-CodeCell", has_text="widgets.explorer(")
    cell.scroll_into_view_if_needed()
    still = cell.locator("img")
    still.wait_for()
    assert still.evaluate("e => e.complete && e.naturalWidth") > 300
    # Nothing that was stored has run as a script.
    assert page.locator(".advlib").count() == 0


def test_a_trusted_lesson_can_be_used_before_it_is_run(visit: Callable[[str], Any]) -> None:
    explorer = visit(TRUSTED).locator(".advlib-explorer")
    explorer.wait_for()
    text = explorer.locator(".advlib-text")
    before = text.inner_text()
    explorer.get_by_role("slider").first.press("Home")
    assert text.inner_text() != before


def test_an_answer_is_folded_and_opens_with_a_click(visit: Callable[[str], Any]) -> None:
    page = visit(SMALL)
    reveal = page.locator(".jp-CodeCell", has_text="guess.reveal(")
    assert not reveal.is_visible()
    page.get_by_text("1 cell hidden").click()
    reveal.wait_for()
