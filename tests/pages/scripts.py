"""Scripts that the tests run in a page: what they watch, what they forbid, what they ask."""

from typing import Any

from repository import LESSONS

SHIFTING = ["book/index", "book/api-attacks", *(f"notebooks/{path.stem}" for path in LESSONS)]
"""The pages that may not move while they load: two of the book's, and every lesson."""

# What browsers do where the reader forbids it: the very names throw.
BLOCKED_STORAGE = """
for (const kind of ["localStorage", "sessionStorage"]) {
  const get = () => { throw new Error("blocked"); };
  Object.defineProperty(window, kind, { configurable: true, get });
}
"""

# Web Vitals: what moves by itself, in shares of the window, where, and what it is. A shift right
# after the reader's own click or key is not counted.
WATCH_SHIFTS = """
window.moved = [];
new PerformanceObserver((list) => {
  for (const entry of list.getEntries()) {
    if (entry.hadRecentInput) continue;
    const what = (entry.sources || []).map((s) => s.node && (s.node.className || s.node.nodeName));
    moved.push([entry.value, scrollY, what.join(" | ")]);
  }
}).observe({ type: "layout-shift", buffered: true });
"""

SLOW = 3
"""How much slower a telephone is. A fast machine paints so late that nothing is left to move."""
READ_ON = """async () => {
  const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 30)));
  for (let top = 0; top < document.documentElement.scrollHeight; top += innerHeight) {
    scrollTo({ top, behavior: "instant" });
    await frame();
  }
}"""


def moved(page: Any, address: str) -> list[Any]:
    """Open an address slowly, read a lesson to its end, and return what moved by itself."""
    page.add_init_script(WATCH_SHIFTS)
    session = page.context.new_cdp_session(page)
    session.send("Emulation.setCPUThrottlingRate", {"rate": SLOW})
    page.goto(address, wait_until="load")
    page.evaluate("document.fonts.ready.then(() => true)")
    page.wait_for_timeout(300)
    session.send("Emulation.setCPUThrottlingRate", {"rate": 1})  # only images are to come
    if "/notebooks/" in address:
        page.evaluate(READ_ON)
    found = page.evaluate("moved")
    # The reference begins with formulas, whose fonts come last.
    limit = 0.02 if "/api-attacks" in address else 0.01
    return found if sum(value for value, _, _ in found) >= limit else []


VIEWS = [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")]


def faults(page: Any, axe: str, width: int, scheme: str) -> list[Any]:
    """Return what axe-core finds in an open page in a window of this width, in these colours.

    In the dark it asks about colours alone: all else is what it was in the light. And nothing may
    be wider than the window.
    """
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=scheme)
    page.mouse.move(0, 0)
    page.wait_for_timeout(300)  # colours fade
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate(f"window.axe || (() => {{ {axe} }})()")
    rules = "['color-contrast', 'link-in-text-block']" if scheme == "dark" else "undefined"
    # From a disk a script may not fetch the style sheets once more.
    asked = "axe.run({ preload: location.protocol !== 'file:', runOnly: " + rules + " })"
    found = page.evaluate(f"{asked}.then((all) => all.violations)")
    return [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]


# What a reader sees of an explorer: its sentence, its images, bars and lines.
SEEN = """e => [
  e.querySelector('.advlib-text')?.textContent,
  ...[...e.querySelectorAll('img')].map(i => i.src),
  ...[...e.querySelectorAll('.advlib-fill')].map(f => f.style.width),
  ...[...e.querySelectorAll('svg')].map(s => s.innerHTML),
].join('|')"""

# The elements that make a page wider than its window.
OVERFLOW = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  return [...document.querySelectorAll("body *")]
    .filter(e => e.getBoundingClientRect().right > width + 1)
    .map(e => e.tagName + "." + e.className).slice(-5);
}"""

# What of the text, its tables, figures and formulas lies outside its column or its box, with all
# folds open. A box may scroll if the keyboard reaches it and it says what it is. Explorers have
# tests of their own.
CUT_OFF = """() => {
  const found = [], article = document.querySelector("article");
  if (!article) return found;
  for (const fold of article.querySelectorAll("details")) fold.open = true;
  const scrolls = (e) => getComputedStyle(e).overflowX !== "visible";
  const reached = (e) => e.tabIndex >= 0 && e.getAttribute("role") && e.ariaLabel;
  const parts = "pre, table, td, th, img, .drawing, .highlight, .output, div.math, dt.sig, "
    + "mjx-container[display=true]";
  for (const part of article.querySelectorAll(parts)) {
    if (part.closest(".advlib, .advlib-widget, thead") || !part.checkVisibility()) continue;
    const box = part.getBoundingClientRect();
    const what = `${part.tagName}.${part.className} ${part.textContent.trim().slice(0, 40)}`;
    if (box.left < -1 || box.right > innerWidth + 1) found.push(`outside the window: ${what}`);
    if (part.scrollWidth > part.clientWidth + 1 && part.clientWidth && !reached(part))
      found.push(`wider than its box by ${part.scrollWidth - part.clientWidth}: ${what}`);
    for (let e = part.parentElement; e !== article; e = e.parentElement) {
      const limits = e.getBoundingClientRect();
      if (scrolls(e) && !reached(e) && (box.left < limits.left - 1 || box.right > limits.right + 1))
        found.push(`cut off by ${e.tagName}.${e.className}: ${what}`);
    }
  }
  return found;
}"""

# Images of the text that are filtered, themselves or with what holds them.
FILTERED = """() => [...document.querySelectorAll("main img")].filter((image) => {
  let e = image;
  while (e && getComputedStyle(e).filter === "none") e = e.parentElement;
  return e;
}).map((image) => `filtered: ${image.src.slice(-80)}`)"""

# Formulas are drawn.
READY = "() => !window.MathJax || !MathJax.startup || MathJax.startup.promise.then(() => true)"
