"""Scripts that the tests put into a page before its own: what they watch, and what they forbid."""

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
