"""Scripts that the tests run in a page: what they watch, what they forbid, what they ask."""

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
