"""Every lesson as a reader uses it in the page: the explorers moved, the guesses locked, the quiz
answered, with no kernel and nothing but the book's own files."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import readers
from course import explorers
from repository import LESSONS, ROOT
from scripts import BLOCKED_STORAGE, SEEN

PHONE = {"viewport": {"width": 390, "height": 844}, "reduced_motion": "reduce", "has_touch": True}


@pytest.fixture(scope="module", params=[path.stem for path in LESSONS])
def page(request: pytest.FixtureRequest, browser: Any, book: Path) -> Iterator[Any]:
    """Open a lesson from disk, on a telephone; at the end it may not have missed anything.

    It is opened once: the answers are tested before all folds are opened, and paper before them.
    """
    with readers(browser) as reader:
        opened = reader(**PHONE).new_page()
        opened.goto((book / "notebooks" / f"{request.param}.html").as_uri(), wait_until="load")
        opened.locator(".advlib-explorer").first.wait_for()
        yield opened
        assert opened.get_by_text(explorers.MISSED).count() == 0


SEEN_ON_PAPER = """(selector) => [...document.querySelectorAll(selector)]
  .filter((e) => e.checkVisibility() && e.getBoundingClientRect().height > 0)
  .map((e) => e.outerHTML.slice(0, 120))"""


def test_a_lesson_prints_as_a_document(page: Any) -> None:
    page.set_viewport_size({"width": 1280, "height": 900})
    page.emulate_media(media="print")
    superfluous = (
        "#pst-primary-sidebar, .bd-sidebar-secondary, .bd-header-article button, .copybtn, "
        "article summary, .prev-next-area, .headerlink, #pst-back-to-top"
    )
    assert page.evaluate(SEEN_ON_PAPER, superfluous) == []
    # On paper nobody scrolls.
    code = page.locator("article .cell_input pre")
    assert code.evaluate_all("all => all.every((e) => e.scrollWidth <= e.clientWidth + 1)")
    figures = page.locator("article .cell_output :is(img, svg.drawing)")
    breaks = figures.evaluate_all("all => all.map((e) => getComputedStyle(e).breakInside)")
    assert set(breaks) == {"avoid"}
    page.emulate_media(media="screen")
    page.set_viewport_size(PHONE["viewport"])


def lock(guess: Any) -> None:
    """Move a guess and lock it."""
    button = guess.get_by_role("button", name="Lock my guess")
    assert button.is_disabled()
    first = guess.get_by_role("radio")
    if first.count():
        first.first.check(force=True)
    else:
        guess.get_by_role("slider").press("ArrowRight")
    button.click()


# Whether each text, output and figure of an answer is seen; a fold within it stays closed.
ANSWER = """fold => [...fold.querySelectorAll(
    ":scope > :not(summary), .cell_output > .output, .advlib-reveal .advlib-title"
  )]
  .filter((part) => part.parentElement.closest("details").matches(".answer"))
  .map((part) => part.checkVisibility() && part.getBoundingClientRect().height > 0)"""


def seen(fold: Any) -> list[bool]:
    return fold.evaluate(ANSWER)


def test_what_states_an_answer_is_seen_after_the_guess_only(page: Any) -> None:
    folds = page.locator("details.answer").all()
    assert len(folds) == page.locator(".advlib-reveal").count() >= 1
    guesses = page.locator(".advlib-predict").all()  # in the order of their answers
    for guess, fold in zip(guesses, folds, strict=False):
        assert len(seen(fold)) >= 3 and not any(seen(fold))
        lock(guess)
        assert guess.get_by_role("button", name="Guess again").is_visible()
        assert all(seen(fold))
    for guess in guesses[len(folds) :]:  # the questions that are answered where they stand
        lock(guess)
    for reveal in page.locator(".advlib-reveal").all():
        mine, answer = reveal.locator("dd").all_inner_texts()
        assert mine.strip() and answer.strip()
    page.reload(wait_until="load")
    assert all(all(seen(fold)) for fold in folds)
    for guess, fold in zip(guesses, folds, strict=False):
        guess.get_by_role("button", name="Guess again").click()
        assert not any(seen(fold))


def test_every_control_of_every_explorer_does_something(page: Any) -> None:
    page.evaluate(
        "document.querySelectorAll('details.answer').forEach((fold) => (fold.open = true))"
    )
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


# How high controls, images and curves are together, how high the page's header is, which stays
# above them, and how far each row of an explorer is from the column's two edges.
LAYOUT = """e => {
  const find = (what, from = e) => [...from.querySelectorAll(what)];
  const edge = (all, side, most) =>
    Math[most](...all.map((one) => one.getBoundingClientRect()[side]));
  const column = e.querySelector(".advlib-scene").getBoundingClientRect();
  const controls = find(".advlib-control");
  const rows = [
    ...controls.map((one) => find("input[type=range], select, .advlib-value, div", one)),
    ...find(".advlib-images:not(:empty)").map((one) => find("img", one)),
    ...find(".advlib-bars:not(:empty), .advlib-chart").map((one) => [one]),
  ];
  return {
    height: edge(find("figure, .advlib-chart"), "bottom", "max") - edge(controls, "top", "min"),
    header: document.querySelector(".bd-header-article").offsetHeight,
    gaps: rows.map((row) =>
      [edge(row, "left", "min") - column.left, column.right - edge(row, "right", "max")]),
  };
}"""


def test_controls_images_and_curve_are_seen_at_once(page: Any) -> None:
    for width, height in ((390, 844), (1280, 900)):
        page.set_viewport_size({"width": width, "height": height})
        for explorer in page.locator(".advlib-explorer").all():
            seen = explorer.evaluate(LAYOUT)
            assert seen["height"] <= height - seen["header"]
            if width == 390:
                assert all(abs(gap) < 1 for row in seen["gaps"] for gap in row), seen["gaps"]


def test_a_link_into_an_answer_opens_it(reader: Callable[..., Any], book: Path) -> None:
    page = reader().new_page()
    address = (book / "notebooks" / "02-the-steep-direction.html").as_uri()
    page.goto(f"{address}#proposition-2-2", wait_until="load")
    page.locator("details.answer #proposition-2-2").wait_for()


def test_a_page_prints_with_its_answers_and_images(reader: Callable[..., Any], book: Path) -> None:
    page = reader().new_page()
    page.goto((book / "notebooks" / "03-fgsm.html").as_uri(), wait_until="load")
    folds = page.locator("details.answer").all()
    assert not any(any(seen(fold)) for fold in folds)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert all(all(seen(fold)) for fold in folds)
    page.wait_for_function(
        "[...document.querySelectorAll('.cell_output img')].every((i) => i.naturalWidth > 0)"
    )
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not any(any(seen(fold)) for fold in folds)


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


DRAWING = '"image/svg+xml": ['


def drawings(page: Any, width: int) -> list[dict[str, Any]]:
    """Return of each drawing in an open page what a reader sees in a window of this width."""
    page.set_viewport_size({"width": width, "height": 900})
    return page.evaluate(DRAWINGS)


def test_drawings_fill_their_column_with_letters_that_can_be_read(page: Any) -> None:
    page.emulate_media(color_scheme="light")
    wide, narrow = drawings(page, 1280), drawings(page, 390)
    page.emulate_media(color_scheme="dark")
    page.wait_for_selector('html[data-theme="dark"]')
    dark = drawings(page, 390)
    lesson = ROOT / "notebooks" / f"{Path(page.url).stem}.ipynb"
    stored = lesson.read_text(encoding="utf-8").count(DRAWING)
    assert len(narrow) == len(dark) == len(wide) == stored > 0
    for at_desk, by_day, by_night in zip(wide, narrow, dark, strict=True):
        name = by_day["alt"]
        assert len(name) > 20
        for seen in (at_desk, by_day, by_night):
            assert seen["filled"] >= 0.95 and not seen["filtered"] and not seen["outside"], name
        assert by_day["letters"] >= 11, name
        assert 13 <= at_desk["letters"] <= 17, name
        assert by_day["contrast"] >= 4.5 and by_night["contrast"] >= 4.5, name
        assert by_day["ink"] != by_night["ink"], name


# Letters over pixels keep their colour; all others have that of the page.
DRAWINGS = """() => {
  for (const fold of document.querySelectorAll("details")) fold.open = true;
  const numbers = (colour) => colour.match(/[\\d.]+/g).slice(0, 3).map(Number);
  const light = (colour) => numbers(colour)
    .map((n) => n / 255)
    .map((n) => n <= 0.04045 ? n / 12.92 : ((n + 0.055) / 1.055) ** 2.4)
    .reduce((sum, n, i) => sum + n * [0.2126, 0.7152, 0.0722][i], 0.05);
  const background = getComputedStyle(document.body).backgroundColor;
  const ratio = (colour) => {
    const both = [light(colour), light(background)].sort((a, b) => a - b);
    return both[1] / both[0];
  };
  return [...document.querySelectorAll("article svg.drawing")].map((svg) => {
    const box = svg.getBoundingClientRect(), scale = box.width / svg.viewBox.baseVal.width;
    const lines = [...svg.querySelectorAll("text")];
    const size = (line) => parseFloat(getComputedStyle(line).fontSize) * scale;
    const inks = lines.filter((line) => !line.hasAttribute("fill"))
      .map((line) => getComputedStyle(line).fill);
    let filtered = false;
    for (let e = svg; e; e = e.parentElement) filtered ||= getComputedStyle(e).filter !== "none";
    const outside = lines.map((line) => line.getBoundingClientRect())
      .some((line) => line.left < box.left - 1 || line.right > box.right + 1
        || line.top < box.top - 2 || line.bottom > box.bottom + 2);
    return {
      alt: svg.getAttribute("role") === "img" ? svg.ariaLabel : "",
      filled: box.width / svg.parentElement.getBoundingClientRect().width,
      letters: Math.min(...lines.map(size)),
      contrast: Math.min(...inks.map(ratio)),
      ink: inks[0],
      filtered,
      outside,
    };
  });
}"""


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
    told = places.filter(has_text=explorers.MISSED)
    assert told.count() == (places.count() if all_widgets else 1)
    assert all(place.text_content().count(explorers.MISSED) == 1 for place in told.all())
    image = told.get_by_role("img")
    image.scroll_into_view_if_needed()
    page.wait_for_function("e => e.naturalWidth > 0", arg=image.element_handle())
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
def test_without_scripts_text_images_and_formulas_are_there(
    name: str, address: str, reader: Callable[..., Any]
) -> None:
    page = reader(java_script_enabled=False, color_scheme="dark").new_page()
    page.goto(f"{address}{name}.html", wait_until="load")
    for answer in page.locator("details.answer > summary").all():
        answer.click()
    images = page.locator("main img, main svg.drawing")
    assert images.count() >= 2
    assert all(
        one.evaluate("e => e.naturalWidth !== 0 && e.checkVisibility()") for one in images.all()
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
