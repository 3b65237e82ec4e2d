"""The robustness card as one HTML file: nothing is fetched, and it reads in light, dark and print.

Its parts are plain HTML and one drawing in SVG, whose colours follow the reader's scheme.
"""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, NamedTuple

import torch
from torch import Tensor

from advlib.evaluation import Proportion

Audit = Any
"""`advlib.audit.Audit`, which makes its card here."""


class Near(NamedTuple):
    """An image that little is needed to misclassify, and its adversarial partner."""

    x: Tensor
    """Shape (c, h, w), pixels in [0, 1]."""
    x_adv: Tensor
    eps: float
    """What the partner needs, in the norm of the audit, in units of pixels."""
    said: str
    """The class of the image, in words."""
    then: str
    """What the model says of the partner."""


def page(audit: Audit) -> str:
    """The whole file."""
    title = f"Robustness card: {escape(audit.name)}"
    return (
        '<!doctype html>\n<html lang="en" style="color-scheme: light dark">\n<head>\n'
        '<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n</head>\n<body>\n"
        f'<h1 class="advlib-card">Robustness card</h1>\n{body(audit)}\n</body>\n</html>\n'
    )


def body(audit: Audit) -> str:
    """The card, with its style: what a notebook shows."""
    parts = [
        f"<style>{_STYLE}</style>",
        '<article class="advlib-card">',
        f"<h2>{escape(audit.name)}: {_percent(audit.robust)} correct in the worst case</h2>",
        _paragraph(
            f"Without an attacker {audit.clean}; in the worst case over {len(audit.rows)} attacks "
            f"{audit.robust}. {audit.threat}; pixels stay in [0, 1]; the attacker {audit.attacker}."
        ),
        "" if audit.complete else _paragraph("Interrupted: only what was done so far is counted."),
        _warnings(audit),
        "<h3>Accuracy after each attack</h3>",
        _figure(audit),
        _nearest(audit.nearest),
        "<h3>Attacks</h3>",
        _table(
            ("attack", "sees", "settings", "worked on", "fooled", "accuracy so far"),
            [(*row.cells(), _interval(row.accuracy)) for row in audit.rows],
        ),
        _classes(audit),
        "<h3>What this does not show</h3>",
        "<ul>" + "".join(f"<li>{escape(limit)}</li>" for limit in audit.limits) + "</ul>",
        "<h3>How to repeat it</h3>",
        f"<pre>{escape(audit.repeat())}</pre>",
        _table(("setting", "value"), audit.facts().items()),
        "</article>",
    ]
    return "\n".join(part for part in parts if part)


def _warnings(audit: Audit) -> str:
    items = "".join(
        f'<li class="{escape(f.severity)}"><b>{escape(f.severity)}</b>: {escape(f.message)}</li>'
        for f in sorted(audit.findings, key=lambda f: f.severity != "warning")
    )
    return f"<ul>{items}</ul>" if items else ""


def _figure(audit: Audit) -> str:
    """A bar for each share, with its interval; drawn here, so that its colours can change."""
    bars = [("no attacker", "clean", audit.clean)]
    kind = {"nothing": "noise"}
    bars += [(f"+ {r.name}", kind.get(r.knows, "adversarial"), r.accuracy) for r in audit.rows]
    left, wide, tall, parts = 146, 230, 26, []
    for place, (name, role, share) in enumerate(bars):
        top, value = place * tall, share.value if share.total else 0.0
        low, high = (left + wide * end for end in (share.low, share.high))
        parts.append(
            f'<text x="{left - 8}" y="{top + 17}" text-anchor="end">{escape(name)}</text>'
            f'<rect class="{role}" x="{left}" y="{top + 4}" width="{wide * value:.1f}"'
            f' height="18"/>'
            f'<path d="M{low:.1f} {top + 13}H{high:.1f}"/>'
            f'<text x="{left + wide + 8}" y="{top + 17}">{_percent(share)}</text>'
        )
    words = "; ".join(f"{name} {_percent(share)}" for name, _, share in bars)
    return (
        f'<svg viewBox="0 0 {left + wide + 80} {tall * len(bars)}" role="img" '
        f'aria-label="Accuracy so far: {escape(words)}.">{"".join(parts)}</svg>'
        + _paragraph("Each attack works on what those before it left. Lines: 95 % intervals.")
    )


def _nearest(nearest: Sequence[Near]) -> str:
    if not nearest:
        return ""
    figures = "".join(
        f"<figure>{_image(near.x, near.said)}{_image(near.x_adv, near.then)}<figcaption>"
        f"<b>{escape(near.said)}</b> becomes <b>{escape(near.then)}</b> at eps {near.eps:.3g} "
        f"({255 * near.eps:.3g}/255)</figcaption></figure>"
        for near in nearest
    )
    words = "Of the first images, those that the smallest changes found make the model misclassify."
    return f'<h3>Nearest to falling</h3>{_paragraph(words)}<div class="pairs">{figures}</div>'


def _classes(audit: Audit) -> str:
    if not audit.by_class:
        return ""
    rows = [
        (c.name, c.clean.total, _percent(c.clean), _percent(c.robust), _interval(c.robust))
        for c in audit.by_class
    ]
    heads = ("class", "images", "correct", "in the worst case", "95 % interval")
    return f"<h3>Classes</h3>{_table(heads, rows)}"


def _image(x: Tensor, words: str) -> str:
    from PIL import Image

    pixels = (x.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    pixels = pixels[0] if len(x) == 1 else pixels.permute(1, 2, 0)  # grey has no third axis
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, format="PNG")
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{escape(words)}" src="data:image/png;base64,{data}">'


def _table(heads: Sequence[object], rows: Iterable[Iterable[object]]) -> str:
    head = "".join(f'<th scope="col">{escape(str(cell))}</th>' for cell in heads)
    lines = ["".join(f"<td>{escape(str(cell))}</td>" for cell in row) for row in rows]
    text = "".join(f"<tr>{line}</tr>" for line in lines)
    # Tables scroll by themselves where they are wider than a phone, with the keyboard too.
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="by {heads[0]}"><table>'
        f"<thead><tr>{head}</tr></thead><tbody>{text}</tbody></table></div>"
    )


def _paragraph(words: str) -> str:
    return f"<p>{escape(words)}</p>"


def _percent(share: Proportion) -> str:
    return f"{100 * share.value:.1f} %" if share.total else "nothing"


def _interval(share: Proportion) -> str:
    return f"{_percent(share)} ({100 * share.low:.1f} to {100 * share.high:.1f})"


_STYLE = """
.advlib-card { --ink: light-dark(#1b1f23, #e6e9ec); --paper: light-dark(#fff, #16191c);
  --line: light-dark(#c8ced4, #444b52); --loud: light-dark(#fff1e5, #3a2413);
  --clean: light-dark(#0072b2, #56b4e9); --noise: light-dark(#8a8a8a, #b3b3b3);
  --adversarial: light-dark(#d55e00, #ff8f4a); print-color-adjust: exact;
  font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 46rem; margin: 0 auto; padding: 1rem; }
body:has(> .advlib-card) { margin: 0; background: light-dark(#fff, #16191c); }
h1.advlib-card { font-size: 1rem; padding-bottom: 0; }
.advlib-card h2 { font-size: 1.5rem; line-height: 1.25; margin: 0; }
.advlib-card h3 { font-size: 1.1rem; margin: 1.6rem 0 .4rem; }
.advlib-card ul { padding-left: 1.2rem; }
.advlib-card .warning { background: var(--loud); }
.advlib-card svg { width: 100%; max-width: 480px; font-size: 14px; }
.advlib-card svg text { fill: var(--ink); }
.advlib-card svg path { stroke: var(--ink); stroke-width: 1.5; fill: none; }
.advlib-card .clean { fill: var(--clean); }
.advlib-card .noise { fill: var(--noise); }
.advlib-card .adversarial { fill: var(--adversarial); }
.advlib-card .wide { overflow-x: auto; }
.advlib-card table { border-collapse: collapse; font-size: .9rem; }
.advlib-card th, .advlib-card td { text-align: left; vertical-align: top;
  padding: .25rem .6rem .25rem 0; border-bottom: 1px solid var(--line); }
@media (max-width: 480px) { .advlib-card table { font-size: .7rem; }
  .advlib-card td:is(:first-child, :nth-child(3)) { overflow-wrap: anywhere; }
  .advlib-card :is(th, td) { padding-inline: .15rem; } }
.advlib-card pre { white-space: pre-wrap; border: 1px solid var(--line); padding: .6rem; }
.advlib-card .pairs { display: flex; flex-wrap: wrap; gap: 1rem; }
.advlib-card figure { margin: 0; width: 17rem; max-width: 100%; font-size: .9rem; }
.advlib-card img { width: 48%; margin-right: 2%; border: 3px solid var(--clean);
  box-sizing: border-box; image-rendering: pixelated; }
.advlib-card img + img { border-color: var(--adversarial); margin-right: 0; }
@media print { .advlib-card { color-scheme: light; max-width: none; font-size: 11pt; }
  .advlib-card h3 { break-after: avoid; }
  .advlib-card table { font-size: .75rem; }
  .advlib-card figure, .advlib-card tr { break-inside: avoid; }
  .advlib-card .wide { overflow: visible; } }
"""
