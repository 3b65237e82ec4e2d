"""A still image of a scene, where no script runs (on GitHub, in an untrusted notebook)."""

from __future__ import annotations

import base64
import io
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from advlib.plots.palette import NEUTRAL, ROLES

_WIDTH = 6.4  # inches; at 100 dpi the width of a page's text column


def draw_scene(data: dict[str, Any], scene: dict[str, Any]) -> bytes:
    """Draw a scene as a PNG; its images and series are numbers in the tables of `data`."""
    from matplotlib.figure import Figure

    rows = [row for row in (scene["images"], scene["lines"], scene["bars"]) if row]
    heights = [_row_height(row) for row in rows]
    sentence = textwrap.fill(re.sub(r"[`*]", "", scene["text"]), 88)  # without Markdown's marks
    height = 0.9 + sum(heights) + 0.18 * sentence.count("\n")
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    figure.suptitle(data["title"], fontsize=11, fontweight="bold")
    figure.supxlabel(sentence, fontsize=9)
    if rows:
        parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
        for part, row in zip(parts, rows, strict=True):
            cells = part.subplots(1, len(row), squeeze=False)[0]
            for axes, item in zip(cells, row, strict=True):
                _draw(axes, item, data)
    return _small_png(figure)


def _small_png(figure: Any) -> bytes:
    """Save with a palette of 256 colours, at a third of the size."""
    from PIL import Image

    full, small = io.BytesIO(), io.BytesIO()
    figure.savefig(full, format="png", dpi=100)
    Image.open(full).convert("RGB").quantize(256).save(small, "PNG", optimize=True)
    return small.getvalue()


def _row_height(row: list[dict[str, Any]]) -> float:
    if "src" in row[0]:
        return min(2.4, _WIDTH / len(row)) + 0.3
    if "bars" in row[0]:
        return 0.35 + 0.24 * max(len(group["bars"]) for group in row)
    return 2.2


def _draw(axes: Any, item: dict[str, Any], data: dict[str, Any]) -> None:
    axes.set_title(item["title"], fontsize=9)
    if "src" in item:
        _draw_image(axes, data["images"][item["src"]], item["caption"])
    elif "bars" in item:
        _draw_bars(axes, item["bars"])
    else:
        _draw_chart(axes, item, data["series"])


def _draw_image(axes: Any, url: str, caption: str) -> None:
    from PIL import Image

    png = base64.b64decode(url.split(",", 1)[1])
    axes.imshow(Image.open(io.BytesIO(png)).convert("RGB"))
    axes.set(xticks=[], yticks=[])
    axes.set_xlabel(caption, fontsize=8)


def _draw_bars(axes: Any, bars: list[dict[str, Any]]) -> None:
    for place, bar in enumerate(bars):
        axes.barh(place, bar["value"], color=ROLES.get(bar["role"], NEUTRAL), height=0.6)
        axes.text(bar["value"] + 0.02, place, bar["text"], va="center", fontsize=8)
    axes.set_yticks(range(len(bars)), [bar["label"] for bar in bars], fontsize=8)
    axes.set(xlim=(0, 1.25), xticks=[])
    axes.invert_yaxis()
    axes.spines[:].set_visible(False)


def _draw_chart(axes: Any, chart: dict[str, Any], table: Sequence[dict[str, Any]]) -> None:
    styles = {"noise": "--", "neutral": ":"}
    for line in [table[number] for number in chart["series"]]:
        role, colour = line["role"], ROLES.get(line["role"], NEUTRAL)
        axes.plot(line["x"], line["y"], styles.get(role, "-"), color=colour, label=line["label"])
    if chart["at"] is not None:
        axes.axvline(chart["at"], color=NEUTRAL, linewidth=0.8)
    if chart["ylim"]:
        axes.set_ylim(chart["ylim"])
    axes.set_xlabel(chart["xlabel"], fontsize=8)
    axes.set_ylabel(chart["ylabel"], fontsize=8)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=8, frameon=False)
