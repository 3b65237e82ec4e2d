"""What the browser keeps of a reader: guesses, answers and scores, here and nowhere else.

Most tests open a small book of two lessons and a list, made by the book's own extensions.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from course import explorers, progress
from finish import policy
from scripts import BLOCKED_STORAGE, VIEWS, WATCH_SHIFTS, faults
from stored_widgets import notebook, view

from advlib import widgets
from advlib.widgets import base

LESSONS = ("first", "second")


def _questions(lesson: str) -> list[base.PageWidget]:
    amount = widgets.guess(f"How many, {lesson}?", widgets.number(0, 100, unit="%"))
    which = widgets.guess(f"Which, {lesson}?", ["one", "two"])
    options = [widgets.right("yes"), widgets.wrong("no", "that is a mistake")]
    questions = [
        widgets.single("Single?", options),
        widgets.multiple("Multiple?", [*options, widgets.right("also")]),
        widgets.numeric("Number?", 0.25),
    ]
    test = widgets.quiz(questions, title=f"Quiz, {lesson}")
    return [amount, which, amount.reveal(3.0), which.reveal("two"), test]


def _page(path: Path, body: str, depth: str) -> None:
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Lesson</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<link rel="icon" href="data:,">'
        f'<link rel="stylesheet" href="{depth}_static/{explorers.STYLE}"></head>'
        f"<body><main><h1>Lesson</h1>{body}<p>after</p></main></body></html>"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(policy.guard(page), encoding="utf-8")


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the small book: two lessons of five questions each, and their list."""
    root = tmp_path_factory.mktemp("progress")
    explorers.write_assets(root / "book" / "_static", Path(base.__file__).parent)
    script, lessons = f"../_static/{explorers.SCRIPT}", []
    for name in LESSONS:
        shown = _questions(name)
        stored = explorers.read_notebook(notebook(root, *shown))
        lesson = {"title": name, "href": "", "questions": progress.questions(stored)}
        lessons.append({**lesson, "href": f"../lessons/{name}.html"})
        line = {"lessons": [lesson], "home": "../home/index.html#your-progress"}
        body = explorers.replace_views("".join(view(w.model_id) for w in shown), stored, script)
        body += progress.overview_html(line, script)
        _page(root / "book" / "lessons" / f"{name}.html", body, "../")
    everything = {"lessons": lessons, "root": "../"}
    body = progress.overview_html(everything, script, progress.ANCHOR)
    _page(root / "book" / "home" / "index.html", body, "../")
    return root / "book"


@pytest.fixture(scope="session")
def served(small: Path, serve: Callable[[Path], str]) -> str:
    """Serve the folder above the small book and return the book's address."""
    return f"{serve(small.parent)}book/"


@pytest.fixture(params=["served", "disk"])
def place(request: pytest.FixtureRequest, small: Path, served: str) -> str:
    """Return the address of the small book, on a server and on the disk."""
    return served if request.param == "served" else f"{small.as_uri()}/"


def opened(context: Any, address: str) -> Any:
    page = context.new_page()
    page.goto(address)
    return page


def lesson(context: Any, root: str, name: str = "first") -> Any:
    return opened(context, f"{root}lessons/{name}.html")


def lock(page: Any) -> None:
    page.bring_to_front()  # a page behind another gets few frames, and each click waits for some
    amount, which = page.locator(".advlib-predict").all()
    amount.get_by_role("slider").press("ArrowRight")
    amount.get_by_role("button", name="Lock my guess").click()
    which.get_by_role("radio", name="two").check()
    which.get_by_role("button", name="Lock my guess").click()


def answer(page: Any) -> None:
    page.bring_to_front()
    single, multiple, number = page.locator(".advlib-quiz form").all()
    single.get_by_role("radio", name="no").check()
    multiple.get_by_role("checkbox", name="yes").check()
    multiple.get_by_role("checkbox", name="also").check()
    number.get_by_role("textbox").fill("1/4")
    for form in (single, multiple, number):
        form.get_by_role("button", name="Check").click()


def state(page: Any) -> str:
    return page.locator(".advlib-overview").inner_text()


def kept(page: Any) -> dict[str, str]:
    return page.evaluate("Object.fromEntries(Object.entries(localStorage))")


# -- what survives


def test_guesses_and_answers_survive_a_reload(place, reader):
    page = lesson(reader(), place)
    assert "0 of 5 questions of this lesson answered." in state(page)
    lock(page)
    assert "2 of 5 questions" in state(page)
    answer(page)
    page.reload()
    assert page.locator(".advlib-reveal dd").all_inner_texts() == ["51 %", "3 %", "two", "two"]
    assert page.get_by_role("radio", name="no").is_checked()
    assert "that is a mistake" in page.locator("div.advlib-quiz").inner_text()
    assert page.get_by_role("textbox").input_value() == "0.25"
    assert page.locator(".advlib-score").inner_text() == "2 of 3 right"
    assert "✓ All 5 questions of this lesson answered." in state(page)


def test_the_list_shows_each_lesson_and_lessons_keep_apart(place, reader):
    context = reader()
    page = lesson(context, place)
    lock(page)
    answer(page)
    other = lesson(context, place, "second")
    assert other.get_by_role("button", name="Lock my guess").count() == 2
    other.get_by_role("slider").press("ArrowRight")
    other.get_by_role("button", name="Lock my guess").first.click()
    page.bring_to_front()
    page.get_by_role("link", name="Your progress").click()
    assert page.url.endswith("home/index.html#your-progress")
    page.get_by_text("6 of 10 questions answered, 1 of 2 lessons complete").click()
    rows = page.get_by_role("listitem").all_inner_texts()
    assert ["✓ 5 of 5" in rows[0], "1 of 5" in rows[1], "✓" in rows[1]] == [True, True, False]
    page.get_by_role("link", name="second").click()
    assert page.url.endswith("lessons/second.html")


def test_a_page_is_the_same_under_its_short_address(served, small, reader):
    context = reader()
    page = lesson(context, served)
    lock(page)
    html = (small / "lessons" / "first.html").read_text(encoding="utf-8")
    context.route("**/lessons/first", lambda r: r.fulfill(body=html, content_type="text/html"))
    assert "2 of 5" in state(opened(context, f"{served}lessons/first"))


def test_nothing_leaves_the_page(served, reader):
    context, sent = reader(), []
    page = lesson(context, served)
    page.on("request", lambda request: sent.append(request.url))
    lock(page)
    answer(page)
    page.wait_for_timeout(200)
    assert sent == []
    assert context.cookies() == []


def test_another_tab_follows(served, reader):
    context = reader()
    first, second = lesson(context, served), lesson(context, served)
    home = opened(context, f"{served}home/index.html")
    lock(first)
    second.locator(".advlib-reveal dd", has_text="51 %").wait_for()
    answer(first)
    second.get_by_text("2 of 3 right").wait_for()
    home.get_by_text("5 of 10 questions answered").wait_for()


def test_going_back_shows_what_is_kept_now(served, reader):
    page = lesson(reader(), served)
    lock(page)
    page.get_by_role("link", name="Your progress").click()
    page.get_by_text("2 of 10").click()
    page.get_by_role("button", name="Forget everything").click()
    page.get_by_role("button", name="Forget", exact=True).click()
    page.go_back()
    page.get_by_text("0 of 5 questions").wait_for()
    assert page.get_by_role("button", name="Lock my guess").count() == 2


# -- forgetting


def test_everything_is_forgotten_after_a_second_question(place, reader):
    context = reader()
    page = lesson(context, place)
    page.evaluate("localStorage.setItem('of another site', 'stays')")
    page.evaluate("localStorage.setItem('advlib:/elsewhere/lesson:key', '1')")
    lock(page)
    answer(page)
    home = opened(context, f"{place}home/index.html")
    home.get_by_text("5 of 10 questions answered").click()
    home.get_by_role("button", name="Forget everything").click()
    home.get_by_role("button", name="Keep").click()
    assert "5 of 10" in state(home)
    home.get_by_role("button", name="Forget everything").press("Enter")
    home.keyboard.press("Enter")  # the keyboard is on the second question's button
    assert "0 of 10 questions answered, 0 of 2" in state(home)
    assert home.get_by_role("status").inner_text() == "Forgotten."
    assert not home.get_by_role("button", name="Forget everything").is_visible()
    left = {"of another site": "stays", "advlib:/elsewhere/lesson:key": "1"}
    assert kept(home) == left
    page.get_by_text("0 of 5 questions").wait_for()
    assert page.get_by_role("button", name="Lock my guess").count() == 2
    assert not page.get_by_role("radio", name="no").is_checked()
    page.reload()
    assert "0 of 5 questions" in state(page)
    assert kept(page) == left


def test_a_lesson_is_forgotten_alone(place, reader):
    context = reader()
    page, other = lesson(context, place), lesson(context, place, "second")
    lock(page)
    answer(page)
    lock(other)
    page.bring_to_front()
    page.get_by_role("button", name="Forget this lesson's answers").click()
    page.get_by_role("button", name="Forget", exact=True).click()
    assert "0 of 5" in state(page)
    assert "lock your guess first" in page.locator(".advlib-reveal").first.inner_text()
    assert page.locator("div.advlib-quiz").inner_text().count("Right") == 0
    assert not page.get_by_role("checkbox", name="also").is_checked()
    other.reload()
    assert "2 of 5" in state(other)


def test_a_quiz_can_be_cleared(place, reader):
    page = lesson(reader(), place)
    assert not page.get_by_role("button", name="Clear my answers").is_visible()
    lock(page)
    answer(page)
    page.get_by_role("button", name="Clear my answers").press("Enter")
    assert page.get_by_role("radio", name="yes").evaluate("e => e === document.activeElement")
    assert page.locator(".advlib-score").inner_text() == ""
    assert "2 of 5" in state(page)


# -- storage that is missing, forbidden, full, or holds anything

MISSING = "Object.defineProperty(window, 'localStorage', {value: null})"
GONE = "delete Window.prototype.localStorage; delete window.localStorage"
FULL = "Storage.prototype.setItem = () => { throw new DOMException('full', 'QuotaExceededError') }"


@pytest.mark.parametrize("script", [MISSING, GONE, BLOCKED_STORAGE, FULL])
def test_without_storage_all_works_and_one_sentence_says_so(place, reader, script):
    page = lesson(reader(script), place)
    assert "keeps nothing for this page" in state(page)
    lock(page)
    answer(page)
    assert "✓ All 5 questions" in state(page)
    assert page.locator(".advlib-reveal dd").all_inner_texts() == ["51 %", "3 %", "two", "two"]
    assert page.locator(".advlib-score").inner_text() == "2 of 3 right"
    page.get_by_role("button", name="Guess again").first.click()
    assert "4 of 5 questions" in state(page)
    page.get_by_role("button", name="Forget this lesson's answers").click()
    page.get_by_role("button", name="Forget", exact=True).click()
    assert "0 of 5 questions" in state(page)
    page.reload()
    assert page.get_by_role("button", name="Lock my guess").count() == 2


def test_storage_that_fills_up_keeps_what_it_has(served, reader):
    page = lesson(reader(), served)
    lock(page)
    page.evaluate(f"() => {{ {FULL} }}")
    answer(page)
    page.get_by_role("button", name="Guess again").first.click()
    page.get_by_role("slider").press("Home")
    page.get_by_role("button", name="Lock my guess").click()
    assert page.locator(".advlib-reveal dd").first.inner_text() == "0 %"
    page.reload()
    assert page.locator(".advlib-reveal dd").all_inner_texts() == ["two", "two"]
    assert "1 of 5" in state(page)


GARBAGE = [
    "", "{", "null", "true", '"text"', "[]", "{}", "-1", "7", "1e999", "[0, 1, 2]", "[[9]]",
    '{"0": "x", "1": 5, "2": [1]}', '{"0": [7], "1": ["length"], "2": null}',
    '{"0": [0, 1], "1": [0.5], "2": "0.25"}', '{"0": {}, "1": {"length": 3}, "2": true}',
]  # fmt: skip


def test_storage_that_holds_anything_harms_nothing(served, reader):
    context = reader()
    page = lesson(context, served)
    lock(page)
    answer(page)
    fill = "t => Object.keys(localStorage).forEach(key => localStorage[key] = t)"
    for garbage in GARBAGE:
        page.evaluate(fill, garbage)
        page.reload()
        said = page.locator("main").inner_text()
        assert said.count("Check\n") == 3 and "questions of this lesson answered" in said, garbage
        assert not re.search("could not be drawn|undefined|NaN|null", said), garbage
        assert page.get_by_role("button", name=re.compile("Lock my|Guess again")).count() == 2
    home = opened(context, f"{served}home/index.html")
    assert "0 of 10 questions answered" in state(home)
    lock(page)
    answer(page)
    page.reload()
    assert page.locator(".advlib-score").inner_text() == "2 of 3 right"
    assert "✓ All 5 questions" in state(page)


# -- with a kernel: the model of the notebook, and storage only where there is some

KERNEL = """
window.kernels = [];
for (const [kind, data] of window.shown) {
  const state = { kind, data, guess: null };
  const kernel = { state, saved: [], listeners: [] };
  kernel.model = {
    get: (name) => state[name],
    set: (name, value) => (state[name] = value),
    save_changes: () => kernel.saved.push(state.guess),
    on: (event, callback) => kernel.listeners.push(callback),
    off() {},
  };
  window.kernels.push(kernel);
  const el = document.body.appendChild(document.createElement("div"));
  render({ model: kernel.model, el });
}
"""


@pytest.mark.parametrize("script", ["", BLOCKED_STORAGE])
def test_with_a_kernel_the_model_is_told_each_time(tmp_path, reader, script):
    which = widgets.guess("Which?", ["one", "two"])
    shown = [[w.kind, w.data] for w in (which, which.reveal("two"))]
    (tmp_path / "shown.js").write_text(f"window.shown = {json.dumps(shown)};")
    module = explorers.classic_script(base.module(), KERNEL)
    (tmp_path / "kernel.js").write_text(module, encoding="utf-8")
    path = tmp_path / "kernel.html"
    path.write_text(
        '<!doctype html><meta charset="utf-8"><title>t</title><body>'
        '<script src="shown.js"></script><script src="kernel.js"></script>'
    )
    page = opened(reader(script), path.as_uri())
    page.get_by_role("radio", name="one").check()
    page.get_by_role("button", name="Lock my guess").click()
    assert page.evaluate("kernels[0].saved") == [0]
    assert page.locator(".advlib-reveal dd").all_inner_texts() == ["one", "two"]
    page.get_by_role("button", name="Guess again").click()
    assert page.evaluate("kernels[0].saved") == [0, None]
    assert "lock your guess first" in page.locator(".advlib-reveal").inner_text()
    page.get_by_role("radio", name="two").check()
    page.get_by_role("button", name="Lock my guess").click()
    page.reload()  # a new kernel, which learns the guess from the browser, where there is one
    assert page.evaluate("kernels[0].saved") == ([] if script else [1])
    assert page.evaluate("kernels[1].state.guess") is None
    # Where the output has a frame of its own, the kernel brings the guess.
    page.evaluate("kernels[1].state.guess = 0; kernels[1].listeners.forEach(tell => tell())")
    assert page.locator(".advlib-reveal dd").all_inner_texts() == ["one", "two"]


# -- how it looks


def test_it_fits_and_axe_finds_nothing(served, reader, axe):
    context = reader(bypass_csp=True)
    page = lesson(context, served)
    lock(page)
    page.get_by_role("button", name="Forget this lesson's answers").click()
    home = opened(context, f"{served}home/index.html")
    home.get_by_text("2 of 10").click()
    home.get_by_role("button", name="Forget everything").click()
    for one in (page, home):
        one.bring_to_front()
        for width, scheme in VIEWS:
            assert faults(one, axe, width, scheme) == []


def test_what_is_below_does_not_move(served, reader):
    context = reader(WATCH_SHIFTS)
    page = lesson(context, served)
    lock(page)
    page.reload()
    home = opened(context, f"{served}home/index.html")
    for one in (page, home):
        one.wait_for_timeout(300)
        assert one.evaluate("moved") == []


# -- in the book


def test_in_the_book_every_lesson_is_counted(address, reader, book):
    context = reader()
    home = opened(context, f"{address}book/index.html")
    rows = home.locator(".advlib-overview li").all()
    lessons = sorted((book / "notebooks").glob("[0-9]*.html"))
    assert len(rows) == len(lessons) >= 13
    home.locator(".advlib-overview summary").click()
    assert home.get_by_text(f"0 of {len(lessons)} lessons complete").is_visible()
    rows[0].get_by_role("link").click()
    home.wait_for_url("**/notebooks/01-*.html")
    guesses = home.locator(".advlib-predict")
    for guess in guesses.all():
        choices = guess.get_by_role("radio")
        if choices.count():
            choices.first.check()
        else:
            guess.get_by_role("slider").press("ArrowRight")
        guess.get_by_role("button", name="Lock my guess").click()
    said = f"{guesses.count()} of "
    assert said in state(home) and not said.startswith("0")
    home.get_by_role("link", name="Your progress").click()
    home.wait_for_url("**/book/index.html#your-progress")
    assert said in home.locator(".advlib-overview li").first.text_content()
