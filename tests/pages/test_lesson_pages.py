"""Every lesson as a reader uses it in the page: the explorers moved, the guesses locked, the quiz
answered, with no kernel and nothing but the book's own files."""

from pathlib import Path
from typing import Any

import pytest

LESSONS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))

# What a reader sees of an explorer: its sentence, its pictures, bars and lines.
SEEN = """e => [
  e.querySelector('.advlib-text')?.innerText,
  ...[...e.querySelectorAll('img')].map(i => i.src),
  ...[...e.querySelectorAll('.advlib-fill')].map(f => f.style.width),
  ...[...e.querySelectorAll('svg')].map(s => s.innerHTML),
].join('|')"""


@pytest.fixture(params=LESSONS, ids=lambda path: path.stem)
def page(request: pytest.FixtureRequest, browser: Any, book: Path) -> Any:
    """Open a lesson from disk, on a telephone; at the end it may not have complained."""
    context = browser.new_context(
        viewport={"width": 390, "height": 844}, reduced_motion="reduce", has_touch=True
    )
    opened, complaints = context.new_page(), []
    opened.set_default_timeout(10_000)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.on(
        "console", lambda said: complaints.append(said.text) if said.type == "error" else None
    )
    opened.goto((book / "notebooks" / f"{request.param.stem}.html").as_uri(), wait_until="load")
    opened.locator(".advlib-explorer").first.wait_for()
    yield opened
    context.close()
    assert complaints == []


def test_every_control_of_every_explorer_does_something(page: Any) -> None:
    for explorer in page.locator(".advlib-explorer").all():
        controls = explorer.locator("input[type=range], fieldset, select").all()
        assert controls
        for control in controls:
            states = {explorer.evaluate(SEEN)}
            if control.get_attribute("type") == "range":
                assert control.is_enabled()
                for key in ("Home", "End"):
                    control.press(key)
                    states.add(explorer.evaluate(SEEN))
            elif options := control.locator("option").all():
                for option in options:
                    control.select_option(label=option.inner_text())
                    states.add(explorer.evaluate(SEEN))
            else:
                for choice in control.get_by_role("radio").all():
                    choice.check(force=True)
                    states.add(explorer.evaluate(SEEN))
            assert len(states) > 1, f"{control.evaluate('e => e.outerHTML')[:200]} does nothing"


def test_every_guess_can_be_locked_and_is_answered(page: Any) -> None:
    answers = page.locator(".advlib-reveal").count()
    for guess in page.locator(".advlib-predict").all():
        first = guess.get_by_role("radio")
        if first.count():
            first.first.check(force=True)
        guess.get_by_role("button", name="Lock my guess").click()
        assert guess.get_by_role("button", name="Guess again").is_visible()
    for reveal in page.locator(".advlib-reveal").all():
        mine, measured = reveal.locator("dd").all_inner_texts()
        assert mine.strip() and measured.strip()
    assert page.locator(".advlib-reveal").count() == answers >= 1


def test_every_question_of_the_quiz_can_be_got_right_and_wrong(page: Any) -> None:
    forms = page.locator(".advlib-quiz form").all()
    assert len(forms) >= 3
    for form in forms:
        check = form.get_by_role("button")
        choices = form.get_by_role("radio").all()
        right, said = 0, set()
        for choice in choices:
            choice.check(force=True)
            check.click()
            right += form.locator(".advlib-right").count()
            said.add(form.locator(".advlib-feedback").inner_text())
        if choices:
            assert right == 1 and len(said) == len(choices), form.inner_text()
        elif boxes := form.get_by_role("checkbox").all():
            for box in boxes:
                box.check(force=True)
            check.click()
            assert form.locator(".advlib-right, .advlib-wrong").count() == 1
        else:
            form.get_by_role("textbox").fill("123456789")
            check.click()
            assert form.locator(".advlib-wrong").count() == 1
    assert f"of {len(forms)} right" in page.locator(".advlib-score").inner_text()
