"""Every lesson as a reader uses it in the page: the explorers moved, the guesses locked, the quiz
answered, with no kernel and nothing but the book's own files."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import static_widgets
from scripts import BLOCKED_STORAGE

LESSONS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))

# What a reader sees of an explorer: its sentence, its pictures, bars and lines.
SEEN = """e => [
  e.querySelector('.advlib-text')?.innerText,
  ...[...e.querySelectorAll('img')].map(i => i.src),
  ...[...e.querySelectorAll('.advlib-fill')].map(f => f.style.width),
  ...[...e.querySelectorAll('svg')].map(s => s.innerHTML),
].join('|')"""


PHONE = {"viewport": {"width": 390, "height": 844}, "reduced_motion": "reduce", "has_touch": True}


@pytest.fixture(params=LESSONS, ids=lambda path: path.stem)
def page(request: pytest.FixtureRequest, reader: Callable[..., Any], book: Path) -> Iterator[Any]:
    """Open a lesson from disk, on a telephone; at the end it may not have missed anything."""
    opened = reader(**PHONE).new_page()
    opened.goto((book / "notebooks" / f"{request.param.stem}.html").as_uri(), wait_until="load")
    opened.locator(".advlib-explorer").first.wait_for()
    yield opened
    assert opened.get_by_text(static_widgets.MISSED).count() == 0


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


# -- what does not arrive, is forbidden or switched off


@pytest.mark.parametrize("status", [404, None], ids=["not found", "broken off"])
@pytest.mark.parametrize(
    ("lost", "all_widgets"),
    [("**/_static/states/*", False), ("**/_static/advlib-widgets.js*", True)],
    ids=["states", "script"],
)
def test_a_file_that_does_not_arrive_is_told_in_one_sentence_and_harms_no_other(
    lost: str, all_widgets: bool, status: int | None, address: str, reader: Callable[..., Any]
) -> None:
    page = reader(expected="Failed to load resource", **PHONE).new_page()
    page.route(lost, lambda route: route.fulfill(status=status) if status else route.abort())
    page.goto(f"{address}notebooks/04-pgd.html", wait_until="load")
    places = page.locator(".advlib-widget")
    told = places.filter(has_text=static_widgets.MISSED)
    assert told.count() == (places.count() if all_widgets else 1)
    assert all(place.inner_text().count(static_widgets.MISSED) == 1 for place in told.all())
    picture = told.get_by_role("img")
    picture.scroll_into_view_if_needed()
    page.wait_for_function("e => e.naturalWidth > 0", arg=picture.element_handle())
    if not all_widgets:
        page.locator(".advlib-quiz form").first.get_by_role("radio").first.check(force=True)
        page.locator(".advlib-quiz form").first.get_by_role("button").click()
        assert page.locator(".advlib-feedback").first.inner_text()


@pytest.mark.parametrize("colours", ["light", "dark"])
@pytest.mark.parametrize("name", ["book/index", "notebooks/04-pgd"])
def test_where_storage_is_forbidden_the_page_is_whole(
    name: str, colours: str, address: str, reader: Callable[..., Any]
) -> None:
    page = reader(BLOCKED_STORAGE, color_scheme=colours).new_page()
    page.goto(f"{address}{name}.html", wait_until="load")
    theme = "document.documentElement.dataset.theme"
    assert page.evaluate(theme) == colours
    seen = set()
    for _ in range(3):
        page.locator("button.theme-switch-button:visible").first.click()
        seen.add(page.evaluate(theme))
    assert seen == {"light", "dark"}
    assert "keeps nothing for this page" in page.locator(".advlib-overview").text_content()
    page.keyboard.press("Control+k")
    page.keyboard.type("Danskin")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=Danskin*")
    page.locator("#search-results li a").first.wait_for()


@pytest.mark.parametrize("name", ["book/index", "notebooks/04-pgd"])
def test_without_scripts_text_pictures_and_formulas_are_there(
    name: str, address: str, reader: Callable[..., Any]
) -> None:
    page = reader(java_script_enabled=False, color_scheme="dark").new_page()
    page.goto(f"{address}{name}.html", wait_until="load")
    pictures = page.locator("main img")
    assert pictures.count() >= 2
    assert all(
        one.evaluate("e => e.naturalWidth > 0 && e.checkVisibility()") for one in pictures.all()
    )
    formulas = page.locator("main .math")
    assert formulas.locator("mjx-container").count() == formulas.count()
    assert not page.locator(".advlib-overview").is_visible()
    # The theme's ink: nothing follows the system by half.
    colour = "e => getComputedStyle(e).color"
    assert page.locator("article p").first.evaluate(colour) == "rgb(34, 40, 50)"
    places = page.locator(".advlib-widget, .advlib-lab")
    assert places.count() > 0
    for place in places.all():
        said = place.locator("noscript p, .lab-still p, summary")
        assert said.count() == 1 and said.is_visible()
