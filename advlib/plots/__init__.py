"""Figures of the lessons: one look, the same colours, and a text for readers who cannot see them.

Blue is clean, grey is noise, vermillion is adversarial, in every figure of the course. Figures are
laid out for a phone; a wider page draws them larger, with letters of its own size. Nothing that
computes imports this module.
"""

import io
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from advlib.errors import InputError
from advlib.evaluation import Proportion
from advlib.plots.palette import ADVERSARIAL, CLEAN, NEUTRAL, NOISE, ROBUST, ROLES, STANDARD

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Column = tuple[str, Tensor, Tensor, str]
"""An image of a `story`: title, pixels (1, c, h, w), probabilities (classes,), role."""

WIDTH = 4.8
"""Width of a figure in inches: Matplotlib's 10-point letters then have 11 pixels on a phone."""

_STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": NEUTRAL,
    "figure.facecolor": "white",  # also in dark mode: images need a neutral background
}

__all__ = [
    "ADVERSARIAL",
    "CLEAN",
    "Column",
    "NEUTRAL",
    "NOISE",
    "ROBUST",
    "STANDARD",
    "figure",
    "image",
    "label_lines",
    "magnified",
    "percent",
    "save",
    "shares",
    "show",
    "story",
]


def figure(
    rows: int = 1, columns: int = 1, *, height: float = 3.0, **layout: Any
) -> tuple["Figure", Any]:
    """Empty figure in the course's look, `WIDTH` wide, and its axes.

    Parameters
    ----------
    rows, columns, **layout
        As for ``matplotlib.figure.Figure.subplots``.
    height
        Height of the figure in inches.

    Returns
    -------
    (figure, axes)
        As from ``matplotlib.pyplot.subplots``; but the figure has no window and needs no closing.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        fig = Figure(figsize=(WIDTH, height), layout="constrained")
        return fig, fig.subplots(rows, columns, **layout)


def show(fig: "Figure", alt: str) -> None:
    """Show a figure as the output of a notebook cell: a drawing, and for the print its pixels.

    Parameters
    ----------
    fig
        The figure.
    alt
        One or two sentences with its finding, for readers who cannot see it.

    Raises
    ------
    InputError
        `alt` is empty; letters of less than 10 points, which are too small on a phone.
    """
    if not alt.strip():
        raise InputError("alt is empty; say in one or two sentences what the figure shows.")
    from IPython.display import display

    from advlib.plots import vector

    drawing, png = _drawn(fig)
    width = round(fig.get_figwidth() * 72 * vector.PIXELS)
    display(
        {"image/svg+xml": drawing, "image/png": png, "text/plain": f"[figure] {alt}"},
        metadata={"image/svg+xml": {"alt": alt}, "image/png": {"alt": alt, "width": width}},
        raw=True,
    )


def save(fig: "Figure", path: Path) -> None:
    """Write a figure into two files, as `show` does into a notebook: ``.svg`` and ``.png``.

    Parameters
    ----------
    fig
        The figure.
    path
        Where; what its name ends in is replaced.

    Raises
    ------
    InputError
        Letters of less than 10 points.
    """
    drawing, png = _drawn(fig)
    path.with_suffix(".svg").write_text(drawing, encoding="utf-8")
    path.with_suffix(".png").write_bytes(png)


def _drawn(fig: "Figure") -> tuple[str, bytes]:
    """Return a figure as a drawing and as pixels; refuse letters that a phone makes too small."""
    from matplotlib.text import Text

    from advlib.plots import vector

    for text in fig.findobj(Text):
        size = float(text.get_fontsize())
        if size < vector.LETTERS and text.get_text():
            raise InputError(
                f"{text.get_text()!r} has letters of {size:g} points; at least "
                f"{vector.LETTERS} are expected, so that a reader with a phone can read them."
            )
    png = io.BytesIO()
    fig.savefig(png, format="png", dpi=150, metadata={"Software": None})
    return vector.svg(fig), png.getvalue()


def image(axes: "Axes", x: Tensor, title: str, role: str | None = None) -> None:
    """Draw one image; its frame has the colour of its role.

    Parameters
    ----------
    axes
        Where.
    x
        Shape (c, h, w) or (1, c, h, w), pixels in [0, 1].
    title
        Heading of the image.
    role
        ``"clean"``, ``"noise"``, ``"adversarial"`` or None.
    """
    pixels = (x[0] if x.ndim == 4 else x).detach().float().cpu()
    axes.imshow(
        pixels.permute(1, 2, 0).numpy(), vmin=0, vmax=1, cmap="gray", interpolation="nearest"
    )
    axes.set_title(title, fontsize=10)
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_edgecolor(ROLES.get(role or "", NEUTRAL))
        spine.set_linewidth(2.5 if role else 0.8)


def magnified(delta: Tensor, factor: float) -> Tensor:
    """Perturbation `delta`, magnified, as an image: ``0.5 + factor * delta``, clipped to [0, 1]."""
    return (0.5 + factor * delta).clamp(0, 1)


def _confidences(
    axes: "Axes", probabilities: Tensor, names: Sequence[str], role: str, top: int
) -> None:
    """Draw a bar for each of the `top` most probable classes."""
    values, order = probabilities.detach().float().cpu().topk(min(top, len(probabilities)))
    axes.set(xlim=(0, 1.85), ylim=(len(values) - 0.4, -0.95), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    color = ROLES.get(role, NEUTRAL)
    # A name has the whole width, the bar below it leaves room for its value.
    for place, (value, index) in enumerate(zip(values.tolist(), order.tolist(), strict=True)):
        axes.text(0, place - 0.28, names[index], va="bottom")
        axes.barh(place, 1, color=NEUTRAL, alpha=0.2, height=0.3)
        axes.barh(place, value, color=color, height=0.3)
        axes.text(1.08, place, percent(value), va="center")


def percent(share: float) -> str:
    """A share of 1 in per cent, never rounded to certainty: 0.9999 is "> 99.9 %"."""
    if 0.999 < share < 1:
        return "> 99.9 %"
    if 0 < share < 0.001:
        return "< 0.1 %"
    return f"{100 * share:.1f} %"


def shares(
    axes: "Axes",
    x: Sequence[float],
    measured: Sequence[Proportion],
    *,
    label: str,
    color: str = NEUTRAL,
    look: str = "o-",
) -> None:
    """Draw measured shares in per cent, with their intervals as bars.

    Parameters
    ----------
    axes
        Where; the y axis will reach from 0 to 100 %.
    x
        What was varied, for instance the budget in 255ths.
    measured
        One share for each of `x`.
    label, color, look
        Name of the curve, for `label_lines` or a legend, one of the course's colours, and marker
        and line as in Matplotlib's format strings, which distinguish curves without colour.

    Raises
    ------
    InputError
        Not one share for each of `x`.
    """
    if len(x) != len(measured):
        raise InputError(f"{len(measured)} shares were given for {len(x)} places on the x axis.")
    values = [100 * share.value for share in measured]
    below = [100 * (share.value - share.low) for share in measured]
    above = [100 * (share.high - share.value) for share in measured]
    axes.errorbar(x, values, [below, above], fmt=look, color=color, capsize=3, label=label)
    axes.set_ylim(-4, 104)


def label_lines(
    axes: "Axes", above: Mapping[str, float] | None = None, below: Mapping[str, float] | None = None
) -> None:
    """Write the label of each line at the line, where that reads better than a legend.

    A label stands behind the right end of its line, and makes way for the others there. Call this
    when the axes have their limits and scales.

    Parameters
    ----------
    axes
        Where the lines are.
    above, below
        Labels that stand above or below their line instead, each with its place on the x axis.

    Raises
    ------
    InputError
        No line has a label that `above` or `below` names.
    """
    handles, labels = axes.get_legend_handles_labels()
    axes.viewLim  # noqa: B018  # sets limits that are due, which `transLimits` would not do
    in_axes = (axes.transScale + axes.transLimits).transform
    # Error bars are a container: the line, and its lower and upper caps.
    drawn = [getattr(handle, "lines", (handle, ())) for handle in handles]
    parts = {
        label: [in_axes(part.get_xydata()) for part in (line, *(caps or (line, line)))]
        for label, (line, caps, *_) in zip(labels, drawn, strict=True)
    }
    lines = {label: line for label, (line, *_) in parts.items()}
    beside = {**(above or {}), **(below or {})}
    if unknown := set(beside) - set(lines):
        raise InputError(f"no line has the label {min(unknown)!r}; there are {sorted(lines)}.")
    for label, x in beside.items():
        place = in_axes((x, axes.viewLim.y0))[0]
        over = label in (above or {})
        _label_beside(axes, label, parts[label][2 if over else 1], place, over)
    ends = sorted((line[-1][1], label) for label, line in lines.items() if label not in beside)
    # A line of text has 12 points; the layout changes the height of the axes little.
    letter = 12 / 72 * axes.figure.dpi / axes.bbox.height
    sizes = [letter * (1 + label.count("\n")) for _, label in ends]
    for (_, label), height in zip(ends, _apart([height for height, _ in ends], sizes), strict=True):
        _annotate(axes, label, (lines[label][-1][0], height), (7, 0), va="center")


def _label_beside(axes: "Axes", label: str, line: Any, x: float, above: bool) -> None:
    """Write a label above or below a line (in axes), on the side to which the line does not go."""
    left, y, right = (float(np.interp(x + step, *line.T)) for step in (-0.04, 0, 0.04))
    rise = right - left
    side = "center" if abs(rise) < 0.02 else "right" if (rise > 0) == above else "left"
    shift = {"center": 0, "left": 4, "right": -4}[side]
    va = "bottom" if above else "top"
    _annotate(axes, label, (x, y), (shift, 4 if above else -4), ha=side, va=va)


def _annotate(axes: "Axes", label: str, at: Any, shift: tuple[int, int], **align: Any) -> None:
    """Write a label at a place given in axes, shifted by points."""
    align |= {"xycoords": "axes fraction", "textcoords": "offset points"}
    axes.annotate(label, at, shift, annotation_clip=False, **align)


def _apart(wanted: Sequence[float], sizes: Sequence[float]) -> list[float]:
    """Return the places closest to those `wanted`, which ascend, at which no two sizes overlap."""
    least = np.cumsum([0, *((one + next_) / 2 for one, next_ in pairwise(sizes))])
    blocks: list[list[float]] = []
    for place in np.subtract(wanted, least[: len(wanted)]):
        blocks.append([place])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            blocks[-2:] = [blocks[-2] + blocks[-1]]
    means = [float(np.mean(block)) for block in blocks for _ in block]
    return [mean + float(offset) for mean, offset in zip(means, least, strict=False)]


def story(
    images: Sequence[Column],
    names: Sequence[str],
    *,
    original: Tensor,
    factor: float = 50,
    top: int = 3,
) -> "Figure":
    """Figure of images side by side, each above its magnified perturbation and its classification.

    Parameters
    ----------
    images
        For each column the title, the image (1, c, h, w), its probabilities (classes,) and its
        role (``"clean"``, ``"noise"`` or ``"adversarial"``).
    names, top
        Names of the classes, and how many of them to show.
    original
        The unperturbed image, (1, c, h, w).
    factor
        How many times the perturbations are magnified.
    """
    fig, axes = figure(3, len(images), height=4.8, height_ratios=[1, 1, 1], squeeze=False)
    for column, (title, x, probabilities, role) in enumerate(images):
        image(axes[0, column], x, title, role)
        image(axes[1, column], magnified(x - original, factor), f"change × {factor:g}")
        _confidences(axes[2, column], probabilities, names, role, top)
    return fig
