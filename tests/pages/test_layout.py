"""Broken lines of output are indented, and code is copied whole."""

from typing import Any


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
