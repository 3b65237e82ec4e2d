"""Drawings fill their column and follow the page's theme; broken lines of output are indented."""

from pathlib import Path
from typing import Any

import pytest
from repository import LESSONS

DRAWING = '"image/svg+xml": ['


def test_a_broken_line_is_indented_and_the_copied_code_is_whole(address: str, browser: Any) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 844})
    page = context.new_page()
    try:
        page.goto(f"{address}notebooks/03-fgsm.html", wait_until="load")
        source = page.locator("article .cell_input pre:visible").first.evaluate(
            "pre => pre.cloneNode(true).innerText"
        )
        lines = page.evaluate(BROKEN)
    finally:
        context.close()
    assert "\n\n\n" not in source and source.count("\n") > 2
    assert lines and all(after > before for before, after in lines)


BROKEN = """() => [...document.querySelectorAll("article .cell_output .line")]
  .filter((line) => line.checkVisibility() && line.textContent[0] !== " ")
  .map((line) => {
    const range = document.createRange();
    range.selectNodeContents(line);
    return [...range.getClientRects()].map((box) => box.left);
  })
  .filter((lefts) => lefts.length > 1)
  .map((lefts) => [lefts[0], lefts.at(-1)])"""


def drawings(page: Any, width: int) -> list[dict[str, Any]]:
    """Return of each drawing in an open page what a reader sees in a window of this width."""
    page.set_viewport_size({"width": width, "height": 900})
    return page.evaluate(DRAWINGS)


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_drawings_fill_their_column_with_letters_that_can_be_read(
    path: Path, address: str, browser: Any
) -> None:
    page = browser.new_page()
    page.emulate_media(color_scheme="light")
    page.goto(f"{address}notebooks/{path.stem}.html", wait_until="load")
    wide, narrow = drawings(page, 1280), drawings(page, 390)
    page.emulate_media(color_scheme="dark")
    page.wait_for_selector('html[data-theme="dark"]')
    dark = drawings(page, 390)
    page.close()
    stored = path.read_text(encoding="utf-8").count(DRAWING)
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
