"""The widgets in a browser with no kernel: a small page made by the book's own extension.

The page forbids everything that the widgets do without: inline scripts, eval, other hosts.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from course import explorers
from finish import large
from finish.pages import Book, Page
from scripts import BLOCKED_STORAGE, VIEWS, WATCH_SHIFTS, faults
from stored_widgets import notebook, view

from advlib import widgets
from advlib.widgets import base

POLICY = "default-src 'none'; script-src file:; style-src file:; img-src file: data:"


def compute(eps: int, direction: str) -> dict[str, Any]:
    ramp = np.linspace(0, 1, 32)[None, None].repeat(32, 1)
    role = "noise" if direction == "noise" else "adversarial"
    value = 0.9 - 0.1 * eps * (direction == "gradient")
    names = ("clean", "change", "shown")
    return {
        "images": [
            {"array": ramp * (1 - 0.1 * eps), "title": name, "alt": f"{name} ramp"}
            for name in names
        ],
        "bars": [
            {"title": "clean", "bars": [{"label": "stop", "value": 0.9, "role": "clean"}]},
            {"title": "changed", "bars": [{"label": "stop", "value": value, "role": role}]},
        ],
        "lines": {
            "series": [
                {"label": "noise", "x": [0, 4], "y": [0.9, 0.9], "role": "noise"},
                {"label": "gradient", "x": [0, 4], "y": [0.9, 0.5], "role": "adversarial"},
            ],
            "xlabel": "epsilon (1/255)",
            "ylabel": "probability",
            "alt": "one falls, one does not",
            "at": eps,
            "ylim": (0, 1),
        },
        "text": f"{direction} at {eps}/255",
    }


def make_explorer(title: str = "An explorer") -> widgets.Explorer:
    controls = [
        widgets.slider("eps", range(5), label="epsilon", format="{}/255", stored=[0, 2, 4]),
        widgets.choice("direction", ["noise", "gradient"]),
    ]
    return widgets.explorer(compute, controls, title=title, alt="What the explorer shows")


def make_quiz() -> widgets.Quiz:
    choices = [widgets.right("one", "well seen"), widgets.wrong("two", "that is the L1 norm")]
    return widgets.quiz(
        [
            widgets.single("Single?", choices),
            widgets.multiple("Multiple?", [*choices, widgets.right("three")]),
            widgets.numeric(
                "Number?", 8 / 255, tolerance=5e-4, why="divided", mistakes={8: "in 255ths"}
            ),
        ]
    )


@pytest.fixture
def build(tmp_path):
    """Return a function that writes a page with the given widgets and returns its address."""

    def write(*shown: base.PageWidget, break_state: bool = False) -> str:
        explorers.write_assets(tmp_path, Path(base.__file__).parent)
        stored = explorers.read_notebook(notebook(tmp_path, *shown))
        body = "".join(f"{view(w.model_id)}<p>between</p>" for w in shown)
        body = explorers.replace_views(body, stored, explorers.SCRIPT)
        if break_state:
            body = body.replace('{"kind"', '{"kind', 1)
        page = tmp_path / "page.html"
        page.write_text(
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Widgets</title>'
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<link rel="stylesheet" href="{explorers.STYLE}"></head>'
            f"<body><main><h1>Lesson</h1>{body}</main></body></html>",
            encoding="utf-8",
        )
        return page.as_uri()

    return write


@pytest.fixture
def visit(reader):
    """Return a function that opens an address; at the end no page may have complained."""

    def go(address: str, script: str = "", **options: Any) -> Any:
        page = reader(script, **options).new_page()
        page.goto(address)
        return page

    return go


# -- explorer


def test_the_keyboard_steps_through_the_stored_states(build, visit):
    page = visit(build(make_explorer()))
    slider = page.get_by_role("slider", name="epsilon")
    text = page.locator(".advlib-text")
    assert text.inner_text() == "noise at 0/255"
    slider.focus()
    slider.press("ArrowRight")
    assert text.inner_text() == "noise at 2/255"  # 1/255 is not stored, so it is not offered
    assert slider.get_attribute("aria-valuetext") == "2/255"
    slider.press("End")
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert text.inner_text() == "gradient at 4/255"
    fill = page.locator(".advlib-fill.advlib-adversarial")
    assert fill.evaluate("e => e.style.width") == "50%"


def test_the_mouse_and_the_finger_move_the_slider(build, visit):
    page = visit(build(make_explorer()), has_touch=True)
    slider = page.get_by_role("slider")
    box = slider.bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] - 5, box["y"] + box["height"] / 2, steps=5)
    page.mouse.up()
    assert page.locator(".advlib-text").inner_text() == "noise at 4/255"
    before = page.locator("img").first.get_attribute("src")
    page.touchscreen.tap(box["x"] + 5, box["y"] + box["height"] / 2)
    assert page.locator(".advlib-text").inner_text() == "noise at 0/255"
    assert page.locator("img").first.get_attribute("src") != before
    page.get_by_role("radio", name="gradient").tap()
    assert page.locator(".advlib-text").inner_text() == "gradient at 0/255"


def test_dragging_in_the_first_image_moves_the_sliders(build, visit):
    controls = [
        widgets.slider("eps", range(5), label="epsilon", format="{}/255", stored=[0, 2, 4]),
        widgets.slider("seed", range(3), label="seed"),
        widgets.choice("direction", ["noise", "gradient"]),
    ]
    explorer = widgets.explorer(
        lambda seed, **values: compute(**values),
        controls,
        title="A map",
        alt="What it shows",
        drag=[[eps / 4, seed / 2, eps, seed] for eps in (0, 2, 4) for seed in range(3)],
    )
    page = visit(build(explorer), has_touch=True)
    eps, seed = (page.get_by_role("slider", name=name) for name in ("epsilon", "seed"))
    box = page.locator("img").first.bounding_box()

    def point(x: float, y: float) -> tuple[float, float]:
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    page.get_by_role("radio", name="gradient").check()
    page.mouse.move(*point(0.1, 0.9))
    assert seed.get_attribute("aria-valuetext") == "0"  # nothing is pressed yet
    page.mouse.down()
    assert (eps.get_attribute("aria-valuetext"), seed.input_value()) == ("0/255", "2")
    page.mouse.move(*point(0.6, 0.4), steps=3)
    assert (eps.get_attribute("aria-valuetext"), seed.input_value()) == ("2/255", "1")
    page.mouse.move(*point(1.5, -1), steps=3)  # the pointer may leave the image
    page.mouse.up()
    page.mouse.move(*point(0.1, 0.9))
    assert (eps.get_attribute("aria-valuetext"), seed.input_value()) == ("4/255", "0")
    assert page.locator(".advlib-text").inner_text() == "gradient at 4/255"
    eps.press("ArrowLeft")  # the keyboard goes on from there
    assert page.locator(".advlib-text").inner_text() == "gradient at 2/255"
    page.touchscreen.tap(*point(0.05, 0.95))
    assert (eps.get_attribute("aria-valuetext"), seed.input_value()) == ("0/255", "2")


def test_two_explorers_on_one_page_do_not_touch_each_other(build, visit):
    page = visit(build(make_explorer("First"), make_explorer("Second")))
    page.get_by_role("group", name="Second").get_by_role("slider").press("End")
    texts = page.locator(".advlib-text").all_inner_texts()
    assert texts == ["noise at 0/255", "noise at 4/255"]
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(set(ids)) == len(ids)


def test_explorers_with_the_same_states_share_a_file_and_no_more(
    build, visit, tmp_path, monkeypatch
):
    monkeypatch.setattr(large, "SMALL", 0)
    address = build(make_explorer(), make_explorer())
    path = tmp_path / "page.html"
    page = large.move_out(Page(path.name, path.read_text(encoding="utf-8")), Book(tmp_path, ()))
    path.write_text(page.html, encoding="utf-8")
    assert len([name for name in page.files if name.startswith(large.FOLDER)]) == 1
    for name, content in page.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    page = visit(address)
    page.get_by_role("slider").last.press("End")
    texts = page.locator(".advlib-text").all_inner_texts()
    assert texts == ["noise at 0/255", "noise at 4/255"]


def test_one_state_alone_says_why_nothing_moves(build, visit):
    controls = [widgets.slider("eps", range(3)), widgets.choice("direction", ["noise"])]
    widget = widgets.explorer(compute, controls, title="One", alt="What", precompute=False)
    page = visit(build(widget))
    assert page.get_by_role("slider").is_disabled()
    assert "one state only" in page.get_by_role("status").inner_text()


# -- the homes: dark, narrow, no script, no storage, damaged state


def test_nothing_sticks_out_axe_finds_nothing_and_the_colours_follow(build, visit, axe):
    guess = widgets.guess("How many of 100?", widgets.number(0, 100, unit="%"))
    other = widgets.guess("Which?", ["a", "b"], answer="a", explanation="why")
    address = build(make_explorer(), guess, guess.reveal(3.0, "why " * 40), other, make_quiz())
    page = visit(address, bypass_csp=True)
    card = "getComputedStyle(document.querySelector('.advlib')).backgroundColor"
    colour = {"light": "rgb(255, 255, 255)", "dark": "rgb(23, 27, 32)"}
    for width, scheme in VIEWS:
        page.set_viewport_size({"width": width, "height": 844})
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate(card) == colour[scheme]
        # The reader's choice in the theme beats the system's.
        against = "light" if scheme == "dark" else "dark"
        page.evaluate(f"document.documentElement.dataset.theme = '{against}'")
        assert page.evaluate(card) == colour[against]
        page.evaluate("delete document.documentElement.dataset.theme")
    page.locator(".advlib-quiz form button").first.click()
    page.get_by_role("slider", name="How many of 100?").press("ArrowRight")
    page.locator(".advlib-predict button").first.click()
    for width, scheme in VIEWS:
        # This page has only the widgets: the page's own landmarks are another test's subject.
        assert faults(page, axe, width, scheme) == []


def test_without_scripts_the_stills_show_and_the_answer_is_folded(build, visit):
    guess = widgets.guess("How many?", widgets.number(0, 100))
    address = build(make_explorer(), guess, guess.reveal(3), make_quiz())
    page = visit(address, java_script_enabled=False)
    still = page.get_by_role("img", name="What the explorer shows")
    assert still.is_visible()
    assert page.get_by_text("1. Single?").is_visible()
    assert not page.get_by_text("Answer: 3").is_visible()
    page.locator("summary").click()
    assert page.get_by_text("Answer: 3").is_visible()
    said = page.locator("noscript p")
    assert said.all_inner_texts() == 3 * [explorers.NO_SCRIPTS]
    assert all(one.is_visible() for one in said.all())


def test_a_damaged_state_keeps_its_still_and_harms_nothing_else(build, visit):
    page = visit(build(make_explorer("First"), make_explorer("Second"), break_state=True))
    assert page.get_by_text("could not be drawn").count() == 1
    assert page.get_by_role("img", name="What the explorer shows").is_visible()
    page.get_by_role("slider").press("End")
    assert page.locator(".advlib-text").all_inner_texts() == ["noise at 4/255"]


def test_what_follows_a_widget_does_not_move(build, visit):
    page = visit(build(make_explorer(), make_quiz()), WATCH_SHIFTS)
    page.wait_for_timeout(300)
    page.get_by_role("slider").press("End")
    page.wait_for_timeout(300)
    assert page.evaluate("moved") == []


# -- guess, lock, answer


def test_the_answer_shows_only_after_the_lock_and_the_guess_is_remembered(build, visit):
    guess = widgets.guess("How many of 100?", widgets.number(0, 100, unit="%"))
    address = build(guess, guess.reveal(3.5, "It is *not* aimed."))
    page = visit(address)
    reveal = page.locator(".advlib-reveal")
    assert "3.5" not in page.locator("main").inner_text()
    assert "lock your guess first" in reveal.inner_text()
    reveal.get_by_role("button", name="Go to the question").click()
    slider = page.get_by_role("slider", name="How many of 100?")
    assert slider.evaluate("e => e === document.activeElement")
    slider.press("ArrowRight")
    page.get_by_role("button", name="Lock my guess").press("Enter")
    assert "Your guess: 51 %" in page.locator(".advlib-predict").inner_text()
    assert reveal.locator("dd").all_inner_texts() == ["51 %", "3.5 %"]
    assert "It is not aimed." in reveal.inner_text()
    page.reload()
    assert reveal.locator("dd").all_inner_texts() == ["51 %", "3.5 %"]
    page.get_by_role("button", name="Guess again").click()
    assert "lock your guess first" in reveal.inner_text()
    assert page.get_by_role("button", name="Lock my guess").is_visible()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("key", ["ArrowRight", "ArrowLeft", "Home"])
def test_a_number_must_be_moved_before_it_can_be_locked(build, visit, key, width):
    guess = widgets.guess("How many of 100?", widgets.number(0, 100, unit="%"))
    window = {"width": width, "height": 844}
    page = visit(build(guess, guess.reveal(3)), viewport=window)
    lock = page.get_by_role("button", name="Lock my guess")
    for _ in range(2):
        assert lock.is_disabled()
        assert page.locator(f"#{lock.get_attribute('aria-describedby')}").is_visible()
        slider = page.get_by_role("slider")
        below = page.locator(".advlib-reveal").bounding_box()
        slider.press(key)
        assert page.locator(".advlib-reveal").bounding_box() == below
        assert lock.is_enabled() and lock.get_attribute("aria-describedby") is None
        slider.press("Tab")
        page.keyboard.press("Enter")
        assert page.locator(".advlib-reveal dd").count() == 2
        page.get_by_role("button", name="Guess again").click()  # and moved again


def test_a_mark_beside_a_guess_is_called_an_answer(build, visit):
    guess = widgets.guess("How many of 100?", widgets.number(0, 100, unit="%"))
    other = widgets.guess("Which?", ["a", "b"], answer="b")
    page = visit(build(guess, guess.reveal(3), other))
    page.get_by_role("slider").press("ArrowRight")
    page.get_by_role("radio", name="a").check()
    for _ in range(2):
        page.get_by_role("button", name="Lock my guess").first.click()
    assert page.locator("dt").all_inner_texts() == 2 * ["Your guess", "Answer"]
    said = page.locator("main").inner_text().lower()
    assert not re.search("measure|reveal|result", said)


def test_options_must_be_chosen_before_they_can_be_locked(build, visit):
    page = visit(build(widgets.guess("Which?", ["a", "b"], answer="b", explanation="since b")))
    lock = page.get_by_role("button", name="Lock my guess")
    assert lock.is_disabled()
    assert page.locator(f"#{lock.get_attribute('aria-describedby')}").is_visible()
    assert "since b" not in page.locator("main").inner_text()
    page.get_by_role("radio", name="a").check()
    lock.click()
    assert page.locator("dd").all_inner_texts() == ["a", "b"]
    assert "since b" in page.locator("main").inner_text()


def test_all_works_when_storage_is_blocked(build, visit):
    guess = widgets.guess("Which?", ["a", "b"])
    page = visit(build(guess, guess.reveal("b"), make_quiz()), BLOCKED_STORAGE)
    page.locator(".advlib-predict").get_by_role("radio", name="a").check()
    page.get_by_role("button", name="Lock my guess").click()
    assert page.locator(".advlib-reveal dd").all_inner_texts() == ["a", "b"]
    page.get_by_role("textbox").fill("0.0314")
    page.get_by_role("textbox").press("Enter")
    assert "1 of 3 right" in page.locator(".advlib-score").inner_text()


# -- quiz


def test_a_quiz_names_the_mistake(build, visit):
    page = visit(build(make_quiz()))
    single, multiple, number = page.locator(".advlib-quiz form").all()
    single.get_by_role("button").click()
    assert "Choose an option first" in single.inner_text()
    single.get_by_role("radio", name="two").check()
    single.get_by_role("button").click()
    assert "Not yet. that is the L1 norm" in single.inner_text()
    single.get_by_role("radio", name="two").press("ArrowUp")
    page.keyboard.press("Enter")
    assert "Right. well seen" in single.inner_text()
    multiple.get_by_role("checkbox", name="two").check()
    multiple.get_by_role("checkbox", name="one").check()
    multiple.get_by_role("button").click()
    assert "One true option is not ticked" in multiple.inner_text()
    multiple.get_by_role("checkbox", name="two").uncheck()
    multiple.get_by_role("checkbox", name="three").check()
    multiple.get_by_role("button").click()
    assert "Right." in multiple.inner_text()
    for typed, said in [
        ("", "Type a number"),
        ("eight", "Type a number"),
        ("8", "in 255ths"),
        ("0,5", "Not this number"),
        ("0,008/0,255", "Right. divided"),
        ("8,000", "Not this number"),
        ("8,0", "in 255ths"),
        ("8,000/255", "Not this number"),
        ("8,000,000/255,000,000", "Right. divided"),
        ("8,00,000", "Type a number"),
        ("8/255", "Right. divided"),
    ]:
        number.get_by_role("textbox").fill(typed)
        number.get_by_role("textbox").press("Enter")
        assert said in number.inner_text()
    assert page.locator(".advlib-score").inner_text() == "3 of 3 right"
    page.reload()
    assert page.locator(".advlib-score").inner_text() == "3 of 3 right"


# -- with a kernel: a model that answers when the test says so

KERNEL = """
window.widgetUnderTest = render;
"""
START = """(data) => {
  const listeners = [];
  window.asked = [];
  const state = {kind: "explorer", data};
  const model = {
    get: (name) => state[name], set() {}, save_changes() {}, off() {},
    on: (event, callback) => listeners.push(callback),
    send: (message) => window.asked.push(message),
  };
  window.reply = (message) => listeners.forEach((one) => one(message));
  widgetUnderTest({model, el: document.body});
}"""


@pytest.fixture
def kernel(tmp_path, visit):
    """Return a page with one explorer that asks a kernel, which the test plays itself."""
    script = explorers.classic_script(base.module(), KERNEL)
    (tmp_path / "kernel.js").write_text(script, encoding="utf-8")
    path = tmp_path / "kernel.html"
    head = '<!doctype html><meta charset="utf-8"><title>t</title>'
    path.write_text(f'{head}<body><script src="kernel.js"></script>')
    page = visit(path.as_uri())
    page.evaluate(START, make_explorer().data)
    return page


def reply(page: Any, place: int, **content: Any) -> None:
    page.evaluate(f"(content) => reply({{answer: asked[{place}].ask, ...content}})", content)


SCENE = {"images": [], "bars": [], "lines": [], "text": "computed"}


def test_stored_states_answer_at_once_and_only_others_are_asked(kernel):
    slider = kernel.get_by_role("slider")
    assert slider.get_attribute("max") == "4"
    slider.fill("2")
    assert kernel.locator(".advlib-text").inner_text() == "noise at 2/255"
    assert kernel.evaluate("asked") == []
    slider.fill("3")
    assert kernel.evaluate("asked[0].at") == {"eps": 3, "direction": 0}
    assert kernel.get_by_role("status").inner_text() == "Computing …"
    reply(kernel, 0, scene=SCENE)
    assert kernel.locator(".advlib-text").inner_text() == "computed"
    assert kernel.get_by_role("status").inner_text() == ""


def test_a_dragged_slider_asks_only_for_the_latest(kernel):
    slider = kernel.get_by_role("slider")
    for value in ("1", "3", "1", "3"):
        slider.fill(value)
    assert [a["at"]["eps"] for a in kernel.evaluate("asked")] == [1]
    reply(kernel, 0, scene={**SCENE, "text": "outdated"})
    assert kernel.locator(".advlib-text").inner_text() == "noise at 0/255"
    assert [a["at"]["eps"] for a in kernel.evaluate("asked")] == [1, 3]
    reply(kernel, 0, scene={**SCENE, "text": "outdated"})
    reply(kernel, 1, scene={**SCENE, "text": "latest"})
    assert kernel.locator(".advlib-text").inner_text() == "latest"


def test_an_answer_that_comes_after_the_reader_has_moved_on_is_not_shown(kernel):
    kernel.get_by_role("slider").fill("3")
    kernel.get_by_role("slider").fill("4")
    reply(kernel, 0, scene=SCENE)
    assert kernel.locator(".advlib-text").inner_text() == "noise at 4/255"
    assert kernel.get_by_role("status").inner_text() == ""


def test_an_error_of_the_kernel_is_shown_until_the_next_good_state(kernel):
    kernel.get_by_role("slider").fill("3")
    reply(kernel, 0, error="ValueError: eps 3 is not for this model")
    assert kernel.get_by_role("alert").inner_text() == "ValueError: eps 3 is not for this model"
    kernel.get_by_role("slider").fill("2")
    assert not kernel.get_by_role("alert").is_visible()


def test_state_sizes_are_what_a_page_can_carry():
    text = json.dumps(make_explorer().data)
    assert len(text) < 20_000
    page = "".join(base.source(name) for name in explorers.PAGE)
    script = explorers.classic_script(base.module(), page)
    assert len(script) + len(base.source("widgets.css")) < 50_000
