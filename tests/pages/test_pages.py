"""Every built page, opened as a reader opens it: served and from disk, light, dark, on a phone.

Each page is opened once from either home; all that is asked of it is asked in that visit.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from scripts import CUT_OFF, FILTERED, OVERFLOW, READY

DESKTOP, PHONE = (1280, 900), (390, 844)
WIDTHS = (1280, 768, 390)
COLOURS = {"runOnly": ["color-contrast", "link-in-text-block"]}
"""What axe-core asks again where nothing but the colours has changed."""
ALL_ELSE = {"rules": {"color-contrast": {"enabled": False}}}
"""What it asks on a phone, where every page has the colours of its desktop in the same frame."""
TYPICAL = ("book/index.html", "notebooks/04-pgd.html")
"""Where the reader's switch is audited too: it gives the colours that the system's wish gives."""

IMAGES = """() => [...document.querySelectorAll("main img")]
  .filter(e => !(e.getAttribute("alt") || "").trim() || !e.complete || !e.naturalWidth)
  .map(e => e.outerHTML.slice(0, 200))"""
# Also those that wait for the reader to come near.
LOAD = """() => Promise.all([...document.images].map((image) => {
  image.loading = "eager";
  return image.decode().catch(() => {});
}))"""

# One word of code, and one formula, of each kind in each kind of box: axe-core would look at
# thousands of their like. The letters in drawings have a test of their own, in test_layout.py.
THIN = """() => {
  const seen = new Set();
  const again = (part, place) => {
    const box = part.closest(place);
    const kind = `${part.className} in ${box.tagName} ${box.className}`;
    return seen.has(kind) || !seen.add(kind);
  };
  for (const word of document.querySelectorAll(".highlight pre span"))
    if (again(word, "[class*=cell_], article, body")) word.replaceWith(...word.childNodes);
  for (const formula of document.querySelectorAll("mjx-container"))
    if (again(formula, "p, li, td, th, div")) formula.remove();
  for (const drawing of document.querySelectorAll("svg.drawing")) drawing.replaceChildren();
}"""

# Two frames, in which a transition begins, and then until none is on its way. Their promises are no
# help: Chromium forgets some that end out of sight.
STARTED = """() => new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))
  .then(() => true)"""
FADED = """() => document.getAnimations().every((one) =>
  one.playState !== "running" || one.effect.getComputedTiming().endTime === Infinity)"""


class Visit:
    """One page, open in the browser, and what went wrong while it loaded."""

    def __init__(self, context: Any, root: str) -> None:
        self.page = context.new_page()
        self.root = root
        self.problems: list[str] = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.problems.append(f"script error: {error}"))
        self.page.on("request", self._request)
        self.page.on("requestfailed", lambda r: self.problems.append(f"failed: {r.url}"))
        self.page.on("response", self._response)

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self.problems.append(f"console: {message.text}")

    def _request(self, request: Any) -> None:
        own = request.url.startswith((self.root, "data:", "blob:"))
        if not own:
            self.problems.append(f"foreign host {urlsplit(request.url).netloc}: {request.url}")

    def _response(self, response: Any) -> None:
        if response.status >= 400:
            self.problems.append(f"{response.status}: {response.url}")

    def open(self, path: str) -> None:
        """Open the page and wait until its formulas and fonts are set."""
        self.page.goto(self.root + path, wait_until="load")
        if path == "index.html":
            # It only leads to the welcome page.
            self.page.wait_for_url("**/book/index.html", wait_until="load")
        self.page.evaluate(READY)
        self.page.evaluate("document.fonts.ready.then(() => true)")

    def switch_to_dark(self) -> None:
        """Press the theme's switch until the page is dark."""
        if not self.page.locator("button.theme-switch-button").count():
            return  # the page for a missing address has no frame: it follows the system
        button = self.page.locator("button.theme-switch-button:visible").first
        for _ in range(3):
            if self.page.evaluate("document.documentElement.dataset.theme") == "dark":
                return
            button.click()
        assert self.page.evaluate("document.documentElement.dataset.theme") == "dark"

    def turn(self, window: tuple[int, int], colours: str) -> None:
        """Give the window another size, and the system other colours."""
        self.page.set_viewport_size({"width": window[0], "height": window[1]})
        self.page.emulate_media(color_scheme=colours)
        # The pointer rests on nothing, and what fades in has arrived.
        self.page.mouse.move(0, 0)
        self.page.evaluate(STARTED)
        self.page.wait_for_function(FADED)

    def look(self, view: str) -> None:
        """Note what sticks out of the page and which images say nothing."""
        self.page.evaluate(LOAD)
        wide, silent = self.page.evaluate(OVERFLOW), self.page.evaluate(IMAGES)
        self.problems += [f"{view}: wider than the page: {e}" for e in wide]
        self.problems += [f"{view}: image without text or file: {e}" for e in silent]

    def narrow(self) -> None:
        """Note, with all folds open, what is cut off in any of three windows, and filtered images.

        From wide to narrow: in a window that grows, the side bar takes its time to come back.
        """
        self.problems += self.page.evaluate(FILTERED)
        for width in WIDTHS:
            self.page.set_viewport_size({"width": width, "height": 900})
            self.problems += [f"{width}: {what}" for what in self.page.evaluate(CUT_OFF)]

    def audit(self, view: str, axe: str, rules: dict[str, Any]) -> None:
        """Note what axe-core finds."""
        self.page.evaluate(THIN)
        self.page.evaluate(f"window.axe || (() => {{ {axe} }})()")
        found = self.page.evaluate(
            "rules => axe.run(rules).then(all => all.violations)", rules or {}
        )
        for violation in found:
            for node in violation["nodes"]:
                target = " ".join(map(str, node["target"]))
                self.problems.append(
                    f"{view}: axe {violation['id']}: {target}: {node['failureSummary']!r} "
                    f"{node['html'][:160]}"
                )


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[[str], Visit]]:
    """Return a function that opens a window of a light desktop."""
    contexts = []

    def start(root: str) -> Visit:
        size = {"width": DESKTOP[0], "height": DESKTOP[1]}
        context = browser.new_context(viewport=size, color_scheme="light", reduced_motion="reduce")
        contexts.append(context)
        return Visit(context, root)

    yield start
    for context in contexts:
        context.close()


def test_served(page_path: str, address: str, axe: str, visit: Callable[[str], Visit]) -> None:
    opened = visit(address)
    opened.open(page_path)
    for view, window, colours, rules in (
        ("light", DESKTOP, "light", {}),
        ("dark", DESKTOP, "dark", COLOURS),
        ("phone, dark", PHONE, "dark", None),
        ("phone", PHONE, "light", {} if page_path in TYPICAL else ALL_ELSE),
    ):
        opened.turn(window, colours)
        opened.look(view)
        if rules is not None:
            opened.audit(view, axe, rules)
    opened.turn(DESKTOP, "light")
    opened.switch_to_dark()
    opened.look("switched")
    if page_path in TYPICAL:
        opened.turn(DESKTOP, "light")
        opened.audit("switched", axe, COLOURS)
    assert not opened.problems, "\n".join(opened.problems)


def test_from_disk(page_path: str, book: Path, visit: Callable[[str], Visit]) -> None:
    opened = visit(f"{book.as_uri()}/")
    opened.open(page_path)
    opened.look("from disk")
    opened.turn(DESKTOP, "dark")
    opened.narrow()
    assert not opened.problems, "\n".join(opened.problems)


def test_formulas_are_set(address: str, visit: Callable[[str], Visit]) -> None:
    opened = visit(address)
    opened.open("notebooks/04-pgd.html")
    formulas = opened.page.locator("main .math")
    assert formulas.count() > 20
    assert formulas.locator("mjx-container").count() == formulas.count()
    loaded = "() => [...document.fonts].filter((f) => f.status === 'loaded').map((f) => f.family)"
    assert "MJXTEX" in opened.page.evaluate(loaded)
