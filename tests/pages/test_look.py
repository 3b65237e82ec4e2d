"""How the pages load, print and are searched: nothing moves, nothing superfluous is fetched."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from repository import LESSONS
from scripts import SHIFTING, moved

TYPICAL = ["book/index", "book/api-attacks", "notebooks/04-pgd"]
WINDOWS = {"phone": (390, 844), "desktop": (1280, 900)}


@pytest.fixture
def window(reader: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that opens a fresh window: no cache, no history."""

    def start(size: tuple[int, int], colours: str = "light") -> Any:
        width, height = size
        return reader(viewport={"width": width, "height": height}, color_scheme=colours).new_page()

    return start


# At a desk, test_pages.py asks the same of every page's first visit.
@pytest.mark.parametrize(
    ("name", "colours"),
    [*((name, "light") for name in SHIFTING), *((name, "dark") for name in TYPICAL)],
)
def test_nothing_moves_while_a_page_loads_and_is_read(
    name: str, colours: str, address: str, window: Any
) -> None:
    assert moved(window(WINDOWS["phone"], colours), f"{address}{name}.html") == []


@pytest.mark.parametrize("name", TYPICAL)
def test_a_page_fetches_only_what_it_shows(name: str, address: str, window: Any) -> None:
    page, sizes = window(WINDOWS["phone"]), {}
    page.on("response", lambda response: sizes.update({response.url: len(response.body())}))
    page.goto(f"{address}{name}.html", wait_until="networkidle")
    fetched = "\n".join(sizes)
    for part in ("fontawesome", "searchindex", "tex-chtml", "webfonts"):
        assert part not in fetched
    # Images of a lesson wait until the reader comes near.
    shown = page.locator("main img[loading=lazy]").count()
    assert not shown or fetched.count("/_images/") < shown


@pytest.mark.parametrize("home", ["served", "disk"])
def test_a_reader_searches_and_arrives(home: str, address: str, book: Path, window: Any) -> None:
    page = window(WINDOWS["desktop"])
    root = address if home == "served" else f"{book.as_uri()}/"
    page.goto(f"{root}notebooks/01-see-it-happen.html", wait_until="load")
    page.keyboard.press("Control+k")
    page.keyboard.type("Danskin")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=Danskin*")
    first = page.locator("#search-results li a").first
    first.wait_for(timeout=20_000)
    first.click()
    page.wait_for_url("**/notebooks/*.html*")
    assert "Danskin" in page.locator("article").text_content()
    page.goto(f"{root}search.html?q=zyzzyva", wait_until="load")
    page.get_by_text("did not match any documents").wait_for(timeout=20_000)


def test_what_is_folded_is_laid_out_when_it_opens(book: Path, window: Any) -> None:
    """Then, too, code and outputs learn whether keys can scroll them."""
    page = window(WINDOWS["phone"])
    page.goto((book / "notebooks" / f"{LESSONS[3].stem}.html").as_uri(), wait_until="load")
    page.wait_for_timeout(500)
    asked = "details:has(pre) pre[tabindex]"
    assert page.locator(asked).count() == 0
    page.evaluate("document.querySelector('details:has(pre)').open = true")
    page.locator(asked).first.wait_for()
    assert page.locator(asked).count() < page.locator("details pre").count()


def test_a_lesson_that_was_read_prints_with_its_images(book: Path, window: Any) -> None:
    page = window(WINDOWS["desktop"])
    page.goto((book / "notebooks" / "05-linear-is-enough.html").as_uri(), wait_until="load")
    for image in page.locator(".cell_output img[loading=lazy]").all():
        # Chromium without a window prints only what was fetched.
        image.scroll_into_view_if_needed()
        image.evaluate("image => image.decode()")
    images = page.locator(".cell_output :is(img[loading=lazy], .drawing image)").count()
    assert images > 0
    assert page.pdf(format="A4").count(b"/Subtype /Image") >= images


@pytest.mark.parametrize("size", WINDOWS)
def test_a_link_into_the_reference_arrives_at_its_entry(size: str, book: Path, window: Any) -> None:
    page = window(WINDOWS[size])
    page.goto((book / "book" / "api.html").as_uri() + "#advlib.attacks.pgd", wait_until="load")
    page.wait_for_timeout(500)
    box = page.locator("[id='advlib.attacks.pgd']").bounding_box()
    assert 0 <= box["y"] < WINDOWS[size][1] / 2


@pytest.mark.parametrize("name", ["book/index", "notebooks/04-pgd"])
def test_the_previous_and_next_lesson_are_named(name: str, book: Path, window: Any) -> None:
    page = window(WINDOWS["phone"])
    page.goto((book / f"{name}.html").as_uri(), wait_until="load")
    for link in page.locator(".prev-next-area a").all():
        target = (book / name).parent / link.get_attribute("href")
        title = link.locator(".prev-next-title").inner_text().strip()
        assert f"<title>{title}" in target.read_text(encoding="utf-8")
