"""The pages in the reader's other browser: lessons and Live Lab in Firefox, served and from disk.

The system asks for dark colours here, so dark is what every test sees.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from repository import LESSONS
from scripts import OVERFLOW, READY, SEEN

WELCOME = "book/index.html"
HOMES = ["served", "disk"]
DESKTOP, PHONE = (1280, 900), (390, 844)
DARK, LIGHT = "rgb(23, 27, 32)", "rgb(255, 255, 255)"
CARD = "getComputedStyle(document.querySelector('.advlib, .advlib-lab')).backgroundColor"
VERDICTS = "[...document.querySelectorAll('.lab-verdict')].map(e => e.innerText)"
SETTLED = """new Promise(go => requestAnimationFrame(() => requestAnimationFrame(go)))
  .then(() => !document.querySelector('.lab-stale'))"""


@pytest.fixture
def visit(firefox: Any, address: str, book: Path) -> Iterator[Callable[[str, str], Any]]:
    """Return a function that opens a page in a home; at the end it may not have complained."""

    def go(home: str, path: str) -> Any:
        firefox.resize(*DESKTOP)
        firefox.open(address if home == "served" else f"{book.as_uri()}/", path)
        firefox.evaluate(f"({READY})()")
        return firefox

    yield go
    complaints = firefox.complaints()
    firefox.evaluate("localStorage.clear()")
    assert complaints == []


def one(selector: str, place: int = 0) -> str:
    """Return an expression for an element of the page."""
    return f"document.querySelectorAll({selector!r})[{place}]"


def labelled(text: str, selector: str = "label") -> str:
    """Return an expression for the first element of that kind that shows `text` alone."""
    return (
        f"[...document.querySelectorAll({selector!r})].find(e => e.innerText.trim() === {text!r})"
    )


def fits_a_phone(page: Any) -> bool:
    page.resize(*PHONE)
    return page.evaluate(f"({OVERFLOW})()") == []


def test_what_goes_wrong_is_noticed(firefox: Any, tmp_path: Path) -> None:
    (tmp_path / "wrong.html").write_text(
        """<!doctype html><meta charset="utf-8"><title>Wrong</title>
        <meta http-equiv="Content-Security-Policy" content="img-src 'self'">
        <img src="none.png"><img src="https://other/"><script src="https://host/"></script>
        <script>console.error("said"); undefinedName();</script>""",
        encoding="utf-8",
    )
    firefox.open(f"{tmp_path.as_uri()}/", "wrong.html")
    complaints = "\n".join(firefox.complaints())
    for part in (
        "said",
        "undefinedName",
        "none.png",
        "foreign: https://host/",
        "policy img-src",
    ):
        assert part in complaints


# Chromium opens each of them in both homes.
@pytest.mark.parametrize(
    ("lesson", "home"), [(path.stem, HOMES[i % 2]) for i, path in enumerate(LESSONS)]
)
def test_a_lesson_is_used_by_keyboard(visit: Any, lesson: str, home: str) -> None:
    page = visit(home, f"notebooks/{lesson}.html")
    assert page.evaluate(CARD) == DARK
    slider = one(".advlib-explorer input[type=range]")
    state = f"({SEEN})({slider}.closest('.advlib-explorer'))"
    seen = {page.evaluate(state)}
    page.evaluate(f"{slider}.focus()")
    for key in ("Home", "End"):
        page.press(key)
        seen.add(page.evaluate(state))
    assert len(seen) > 1
    page.evaluate(f"{one('.advlib-predict input')}.focus()")
    page.press("Space", "ArrowRight")  # one of them chooses, whichever kind of question it is
    page.evaluate(f"{labelled('Lock my guess', 'button')}.focus()")
    page.press("Enter")
    answers = "[...document.querySelectorAll('.advlib-reveal dd')].map(e => e.textContent)"
    mine, measured = page.evaluate(answers)
    assert mine and measured
    assert fits_a_phone(page)


def answer(page: Any) -> None:
    """Lock the first guess and answer the first question of the quiz, by keyboard."""
    page.evaluate(f"{one('.advlib-predict input')}.focus()")
    page.press("Space", "ArrowRight")  # one of them chooses, whichever kind of question it is
    page.evaluate(f"{labelled('Lock my guess', 'button')}.focus()")
    page.press("Enter")
    page.evaluate(f"{one('.advlib-quiz form input')}.focus()")
    page.press("Space", "Enter")
    assert page.evaluate(f"{one('.advlib-feedback')}.innerText")


@pytest.mark.parametrize("home", HOMES)
def test_answers_outlast_the_page(visit: Any, home: str) -> None:
    page = visit(home, "notebooks/04-pgd.html")
    answer(page)
    state = "['.advlib-overview', '.advlib-predict', '.advlib-reveal', 'div.advlib-quiz']"
    state += ".map(e => document.querySelector(e).innerText)"
    before = page.evaluate(state)
    assert before[0].startswith("2 of ")
    page.reload()
    assert page.evaluate(state) == before
    page = visit(home, WELCOME)
    assert page.evaluate(f"{one('.advlib-overview')}.textContent").count("2 of ") == 2


def switch_to_light(page: Any) -> None:
    """Press the theme's switch until the page is light."""
    assert page.evaluate(CARD) == DARK
    for _ in range(3):
        if page.evaluate("document.documentElement.dataset.theme") == "light":
            break
        page.click(
            "[...document.querySelectorAll('button.theme-switch-button')].find(e => e.offsetParent)"
        )
    assert page.evaluate(CARD) == LIGHT


@pytest.mark.parametrize("home", HOMES)
def test_the_welcome_page_is_dark_until_the_switch_makes_it_light(visit: Any, home: str) -> None:
    page = visit(home, WELCOME)
    switch_to_light(page)
    assert fits_a_phone(page)


@pytest.fixture(params=HOMES)
def lab(request: pytest.FixtureRequest, visit: Any) -> Any:
    """Open the welcome page, and wait until the networks have answered."""
    page = visit(request.param, WELCOME)
    page.evaluate(f"{one('.advlib-livelab')}.scrollIntoView()")
    page.wait("document.querySelectorAll('.lab-strip input:enabled').length > 5")
    page.wait(SETTLED)
    return page


def test_the_lab_attacks(lab: Any) -> None:
    opening = lab.evaluate(VERDICTS)
    assert opening[0] != opening[1] == "predicts stop"  # FGSM, as it stands there
    slider = one(".advlib-livelab input[type=range]")
    lab.evaluate(f"{slider}.focus()")
    lab.press("Home")
    lab.wait(SETTLED)
    assert lab.evaluate(VERDICTS) == ["predicts stop"] * 2
    lab.click(slider, at=0.95)
    assert lab.evaluate(f"{slider}.getAttribute('aria-valuetext')") == "12/255"
    lab.click(labelled("PGD", ".advlib-livelab label"))
    lab.wait(SETTLED)
    assert "predicts stop" not in lab.evaluate(VERDICTS)


def test_a_round_against_the_network_begins(lab: Any) -> None:
    lab.click(one(".lab-round summary"))
    lab.click(labelled("Begin", "button"))
    said = f"{one('.lab-round')}.innerText"
    lab.wait(f"{said}.includes('Sign 1 of 20')")
    lab.click(one(".lab-option"))
    lab.wait(f"{said}.includes('Sign 2 of 20')")


def test_images_of_the_readers_own_are_read(lab: Any, tmp_path: Path) -> None:
    said = f"{one('.advlib-livelab')}.innerText.includes('The standard network predicts')"
    gradient = Image.radial_gradient("L")
    for mode, name in (("RGB", "own.jpg"), ("RGB", "own.gif"), ("CMYK", "cmyk.jpg")):
        gradient.convert(mode).save(tmp_path / name)
        lab.upload(one(".advlib-livelab input[type=file]"), tmp_path / name)
        lab.wait(said)
        lab.wait(SETTLED)
        lab.click(one(".lab-strip label"))  # away from it again
        lab.wait(f"!{said}")


@pytest.mark.parametrize("home", HOMES)
def test_the_photo_lab_makes_a_gibbon_and_saves_it(visit: Any, home: str) -> None:
    page = visit(home, WELCOME)
    page.evaluate(f"{one('.advlib-photolab')}.scrollIntoView()")
    said = "[...document.querySelectorAll('.photo-verdict')].map(e => e.innerText).join()"
    page.wait(f"{said}.startsWith('predicts tripod,predicts ')")  # stored
    page.click(one(".photo-download button"))
    page.wait(f"{one('.photo-download')}.innerText.includes('The network is loaded')")
    page.click(one(".photo-favourite"))
    page.wait(f"{said} === 'predicts tripod,predicts gibbon'")
    page.wait(f"!{one('.photo-save button')}.disabled")
    page.click(one(".photo-save button"))
    files = f"{one('.photo-saving ul')}.innerText"
    page.wait(f"{files}.includes('JPEG 50')")
    assert "PNG: predicts gibbon" in page.evaluate(files)
    assert fits_a_phone(page)


# Last: a second Firefox, left open on the lab, would slow what the first one computes.
def test_where_storage_is_forbidden_the_page_is_whole(forgetful_firefox: Any, address: str) -> None:
    page = forgetful_firefox
    page.open(address, "notebooks/04-pgd.html")
    assert page.evaluate("localStorage instanceof Storage") is False  # or nothing is forbidden
    answer(page)
    said = page.evaluate(f"{one('.advlib-overview')}.innerText")
    assert said.startswith("2 of ") and "keeps nothing for this page" in said
    assert page.complaints() == []
    page.open(address, WELCOME)
    switch_to_light(page)
    assert page.complaints() == []
