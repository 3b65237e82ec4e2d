"""Every built page, opened as a reader opens it: served and from disk, light, dark, on a phone.

Each page is opened once from either home; all that is asked of it is asked in that visit.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from scripts import CUT_OFF, FILTERED, OVERFLOW, READY, SHIFTING, moved

DESKTOP, PHONE = (1280, 900), (390, 844)
WIDTHS = (1280, 768, 390)
COLOURS = {"runOnly": ["color-contrast", "link-in-text-block"]}
"""What axe-core asks again where nothing but the colours has changed."""
ALL_ELSE = {"rules": {"color-contrast": {"enabled": False}}}
"""What it asks on a phone, where every page has the colours of its desktop."""
KINDS = ("book/index", "book/api-attacks", "book/scoreboard", "notebooks/04-pgd")
KINDS += ("404", "genindex", "search")
TYPICAL = tuple(f"{name}.html" for name in KINDS)
"""A page of each kind. Its frame is audited on a phone, too, where the other pages have their
desktop's elements in that frame; so is the reader's switch, which gives the colours that the
system's wish gives. Whether keys reach what scrolls on a phone, `narrow` asks of every page."""

IMAGES = """() => [...document.querySelectorAll("main img")]
  .filter(e => !(e.getAttribute("alt") || "").trim() || !e.complete || !e.naturalWidth)
  .map(e => e.outerHTML.slice(0, 200))"""
# Also those that wait for the reader to come near.
LOAD = """() => Promise.all([...document.images].map((image) => {
  image.loading = "eager";
  return image.decode().catch(() => {});
}))"""

# One word of code, of a signature, in italics or bold, and one formula, of each kind in each kind
# of box: axe-core would look at thousands of their like. The letters in drawings have a test of
# their own, in test_lesson_pages.py.
THIN = """() => {
  const seen = new Set();
  const again = (part, place) => {
    const box = part.closest(place);
    const kind = `${part.tagName} ${part.className} in ${box.tagName} ${box.className}`;
    return seen.has(kind) || !seen.add(kind);
  };
  const words = ".highlight pre span, code span, dt.sig span, dt.sig em, p em, p strong";
  for (const word of document.querySelectorAll(words))
    if (!word.matches("[id], [role], [tabindex]")
      && again(word, "[class*=cell_], dt, th, td, p, article, body"))
      word.replaceWith(...word.childNodes);
  for (const formula of document.querySelectorAll("mjx-container"))
    if (again(formula, "p, li, td, th, div")) formula.remove();
  for (const drawing of document.querySelectorAll("svg.drawing")) drawing.replaceChildren();
}"""

# Leave three visible texts of each kind, for COLOURS: whether one can be read depends on its
# colour, size and weight, on those of the text around a link, and on what lies behind it.
SAMPLE = """() => {
  const kinds = new Map(), behind = new Map([[null, ""]]);
  const ground = (e) => {
    if (!behind.has(e)) {
      const { backgroundColor, backgroundImage, opacity, filter } = getComputedStyle(e);
      const own = [backgroundColor, backgroundImage, opacity, filter].join();
      const nothing = own === "rgba(0, 0, 0, 0),none,1,none";
      behind.set(e, ground(e.parentElement) + (nothing ? "" : `|${own}`));
    }
    return behind.get(e);
  };
  const every = [...document.querySelectorAll("body *")], kept = new Set();
  for (const e of every) {
    const text = [...e.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!text && !e.matches("input, select, textarea")) continue;
    if (!e.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
    const look = getComputedStyle(e);
    const kind = [
      e.tagName, look.color, look.fontSize, look.fontWeight, look.textShadow,
      look.textDecorationLine, look.borderBottomWidth, getComputedStyle(e.parentElement).color,
      ground(e),
    ].join("; ");
    kinds.set(kind, [...(kinds.get(kind) ?? []), e]);
  }
  const keep = (e) => { for (; e && !kept.has(e); e = e.parentElement) kept.add(e); };
  for (const all of kinds.values()) [all[0], all[all.length >> 1], all.at(-1)].forEach(keep);
  // What is placed by itself may lie behind a text; the reader's switch is still to be pressed.
  every.filter((e) => getComputedStyle(e).position !== "static").forEach(keep);
  document.querySelectorAll("button, style").forEach(keep);
  for (const e of every) if (!kept.has(e)) e.remove();
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

    def open(self, path: str, slowly: bool = False) -> None:
        """Open the page and wait until its formulas and fonts are set.

        Opened `slowly`, it is read to its end as well, and nothing may move by itself meanwhile.
        """
        if slowly:
            self.problems += [f"moved: {what}" for what in moved(self.page, self.root + path)]
            self.page.evaluate("scrollTo({ top: 0, behavior: 'instant' })")
        else:
            self.page.goto(self.root + path, wait_until="load")
        self.page.emulate_media(reduced_motion="reduce")
        if path == "index.html":
            # It only leads to the welcome page.
            self.page.wait_for_url("**/book/index.html", wait_until="load")
        self.page.evaluate(READY)
        self.page.evaluate("document.fonts.ready.then(() => true)")

    def switch_to_dark(self) -> None:
        """Press the theme's switch until the page is dark."""
        if not self.page.locator("button.theme-switch-button").count():
            # The page for a missing address has no frame: it follows the system.
            self.page.emulate_media(color_scheme="dark")
            return
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
        self.rest()

    def rest(self) -> None:
        """Let the pointer rest on nothing, and wait until what fades in has arrived."""
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
            found = self.page.evaluate(OVERFLOW) + self.page.evaluate(CUT_OFF)
            self.problems += [f"{width}: {what}" for what in found]

    def audit(self, view: str, axe: str, rules: dict[str, Any]) -> None:
        """Note what axe-core finds."""
        self.page.evaluate(SAMPLE if rules is COLOURS else THIN)
        self.page.evaluate(f"window.axe || (() => {{ {axe} }})()")
        # Of what passes it need not say where it stands.
        asked = f"axe.run({json.dumps(rules | {'resultTypes': ['violations']})})"
        for violation in self.page.evaluate(f"{asked}.then((all) => all.violations)"):
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
        context = browser.new_context(viewport=size, color_scheme="light")
        contexts.append(context)
        return Visit(context, root)

    yield start
    for context in contexts:
        context.close()


def test_served(page_path: str, address: str, axe: str, visit: Callable[[str], Visit]) -> None:
    opened = visit(address)
    opened.open(page_path, slowly=page_path.removesuffix(".html") in SHIFTING)
    typical = page_path in TYPICAL
    views = (
        ("light", DESKTOP, "light", {}),
        ("phone", PHONE, "light", ALL_ELSE if typical else None),
        ("dark", DESKTOP, "dark", COLOURS),
    )
    for view, window, colours, _ in views:
        opened.turn(window, colours)
        opened.look(view)
    # An audit takes words out of the page, so it comes after all that asks where they stand.
    for view, window, colours, rules in views:
        if rules is not None:
            opened.turn(window, colours)
            opened.audit(view, axe, rules)
    if typical:
        opened.turn(DESKTOP, "light")
        opened.switch_to_dark()
        opened.rest()
        opened.audit("switched", axe, COLOURS)
    assert not opened.problems, "\n".join(opened.problems)


def test_from_disk(page_path: str, book: Path, visit: Callable[[str], Visit]) -> None:
    opened = visit(f"{book.as_uri()}/")
    opened.open(page_path)
    opened.look("from disk")
    opened.switch_to_dark()
    opened.rest()
    opened.look("switched")
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
