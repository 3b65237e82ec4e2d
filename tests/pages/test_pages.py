"""Every built page, opened as a reader opens it: served and from disk, light, dark, on a phone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

DESKTOP, PHONE = (1280, 900), (390, 844)
VIEWS = {
    # name: window, the system's colours, whether the reader switches the theme to dark
    "light": (DESKTOP, "light", False),
    "dark": (DESKTOP, "dark", False),
    "switched": (DESKTOP, "light", True),
    "phone": (PHONE, "light", False),
    "phone-dark": (PHONE, "dark", False),
}
AUDITED = ("light", "dark", "phone")
"""The other views differ by how their colours came about; axe-core looks there at two pages."""
TYPICAL = ("book/index.html", "notebooks/04-pgd.html")

OVERFLOW = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  return [...document.querySelectorAll("body *")]
    .filter(e => e.getBoundingClientRect().right > width + 1)
    .map(e => e.tagName + "." + e.className).slice(-5);
}"""
PICTURES = """() => [...document.querySelectorAll("main img")]
  .filter(e => !(e.getAttribute("alt") || "").trim() || !e.complete || !e.naturalWidth)
  .map(e => e.outerHTML.slice(0, 200))"""
# Also those that wait for the reader to come near.
LOAD = """() => Promise.all([...document.images].map((image) => {
  image.loading = "eager";
  return image.decode().catch(() => {});
}))"""
READY = "() => !window.MathJax || !MathJax.startup || MathJax.startup.promise.then(() => true)"


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

    def look(self) -> None:
        """Note what sticks out of the page and which pictures say nothing."""
        self.page.evaluate(LOAD)
        self.problems += [f"wider than the page: {e}" for e in self.page.evaluate(OVERFLOW)]
        self.problems += [
            f"picture without text or file: {e}" for e in self.page.evaluate(PICTURES)
        ]

    def audit(self, axe: str) -> None:
        """Note what axe-core finds."""
        # The pointer rests on nothing, and what fades in has arrived.
        self.page.mouse.move(0, 0)
        self.page.wait_for_timeout(250)
        self.page.evaluate(axe)
        for violation in self.page.evaluate("axe.run().then(result => result.violations)"):
            for node in violation["nodes"]:
                target = " ".join(map(str, node["target"]))
                self.problems.append(
                    f"axe {violation['id']}: {target}: {node['failureSummary']!r} "
                    f"{node['html'][:160]}"
                )


@pytest.fixture
def visit(browser: Any) -> Any:
    """Return a function that opens a window of the given look."""
    contexts = []

    def start(root: str, view: str) -> Visit:
        (width, height), colours, _ = VIEWS[view]
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme=colours,
            reduced_motion="reduce",
        )
        contexts.append(context)
        return Visit(context, root)

    yield start
    for context in contexts:
        context.close()


@pytest.mark.parametrize("view", VIEWS)
def test_served(
    page_path: str, view: str, address: str, axe: str, visit: Callable[[str, str], Visit]
) -> None:
    opened = visit(address, view)
    opened.open(page_path)
    if VIEWS[view][2]:
        opened.switch_to_dark()
    opened.look()
    if view in AUDITED or page_path in TYPICAL:
        opened.audit(axe)
    assert not opened.problems, "\n".join(opened.problems)


def test_from_disk(page_path: str, book: Path, visit: Callable[[str, str], Visit]) -> None:
    opened = visit(f"{book.as_uri()}/", "light")
    opened.open(page_path)
    opened.look()
    assert not opened.problems, "\n".join(opened.problems)


def test_formulas_are_set(address: str, visit: Callable[[str, str], Visit]) -> None:
    opened = visit(address, "light")
    opened.open("notebooks/04-pgd.html")
    formulas = opened.page.locator("main .math")
    assert formulas.count() > 20
    assert formulas.locator("mjx-container").count() == formulas.count()
    loaded = "() => [...document.fonts].filter((f) => f.status === 'loaded').map((f) => f.family)"
    assert "MJXTEX" in opened.page.evaluate(loaded)
