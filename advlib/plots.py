"""Figures of the lessons: one look, the same colours, and a text for readers who cannot see them.

Blue is clean, grey is noise, vermillion is adversarial, in every figure of the course. Figures are
narrow, so that they can be read on a telephone. Nothing that computes imports this module.
"""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from advlib.errors import InputError
from advlib.evaluation import Proportion
from advlib.palette import ADVERSARIAL, CLEAN, NEUTRAL, NOISE, ROBUST, ROLES, STANDARD

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Column = tuple[str, Tensor, Tensor, str]
"""A picture of a `story`: title, pixels (1, c, h, w), probabilities (classes,), role."""

WIDTH = 5.2
"""Width of a figure in inches: its 10-point letters stay readable at 360 pixels."""

_STYLE: Any = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": NEUTRAL,
    "figure.facecolor": "white",  # also in dark mode: photographs need a neutral ground
}

__all__ = [
    "ADVERSARIAL",
    "CLEAN",
    "Column",
    "NEUTRAL",
    "NOISE",
    "ROBUST",
    "STANDARD",
    "confidences",
    "figure",
    "image",
    "magnified",
    "shares",
    "show",
    "story",
]


def figure(
    rows: int = 1, columns: int = 1, *, height: float = 3.0, **layout: Any
) -> tuple["Figure", Any]:
    """Empty figure in the course's look, and its axes.

    Parameters
    ----------
    rows, columns
        How many axes.
    height
        Height of the figure in inches; it is `WIDTH` wide.
    **layout
        Passed on to ``Figure.subplots`` (``width_ratios``, ``sharey``, ...).

    Returns
    -------
    (figure, axes)
        As from ``matplotlib.pyplot.subplots``; the figure belongs to no window and needs no
        closing.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        fig = Figure(figsize=(WIDTH, height), layout="constrained")
        return fig, fig.subplots(rows, columns, **layout)


def show(fig: "Figure", alt: str) -> None:
    """Show a figure as the output of a notebook cell, with a text for those who cannot see it.

    Parameters
    ----------
    fig
        The figure.
    alt
        What it shows: one or two sentences that hold its finding.

    Raises
    ------
    InputError
        The text is missing.
    """
    if not alt.strip():
        raise InputError("alt is empty; one or two sentences that say what the figure shows.")
    from IPython.display import display

    png = io.BytesIO()
    fig.savefig(png, format="png", dpi=150, metadata={"Software": None})
    # 1.5 pixels for each point of the page keep the picture sharp on fine screens.
    width = round(fig.get_figwidth() * 100)
    display(
        {"image/png": png.getvalue(), "text/plain": f"[figure] {alt}"},
        metadata={"image/png": {"alt": alt, "width": width}},
        raw=True,
    )


def image(axes: "Axes", x: Tensor, title: str, role: str | None = None) -> None:
    """Draw one picture; its frame has the colour of its role.

    Parameters
    ----------
    axes
        Where.
    x
        Shape (c, h, w) or (1, c, h, w), pixels in [0, 1].
    title
        What stands above it.
    role
        ``"clean"``, ``"noise"``, ``"adversarial"`` or None.
    """
    pixels = (x[0] if x.ndim == 4 else x).detach().float().cpu()
    axes.imshow(
        pixels.permute(1, 2, 0).numpy(), vmin=0, vmax=1, cmap="gray", interpolation="nearest"
    )
    axes.set_title(title, fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(True)
        spine.set_edgecolor(ROLES.get(role or "", NEUTRAL))
        spine.set_linewidth(2.5 if role else 0.8)


def magnified(delta: Tensor, factor: float) -> Tensor:
    """Perturbation as a picture: grey is no change, `factor` times its size around it.

    Parameters
    ----------
    delta
        Perturbation in units of pixels, any shape.
    factor
        How many times to magnify it.

    Returns
    -------
    Tensor
        Shape of `delta`, in [0, 1]; what does not fit is cut.
    """
    return (0.5 + factor * delta).clamp(0, 1)


def confidences(
    axes: "Axes", probabilities: Tensor, names: Sequence[str], role: str | None = None, top: int = 3
) -> None:
    """Bars of the most probable classes.

    Parameters
    ----------
    axes
        Where.
    probabilities
        Shape (classes,), in [0, 1].
    names
        Names of the classes.
    role
        Whose colour the bars have: ``"clean"``, ``"noise"``, ``"adversarial"`` or None.
    top
        How many classes.
    """
    values, order = probabilities.detach().float().cpu().topk(min(top, len(probabilities)))
    places = np.arange(len(values))
    axes.barh(places, values.numpy(), color=ROLES.get(role or "", NEUTRAL), height=0.32)
    axes.set_xlim(0, 1)
    axes.set_ylim(len(values) - 0.5, -0.85)
    axes.set_xticks([0, 1], ["0 %", "100 %"], fontsize=8)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    # Names stand over their bars: beside them there is no room at 390 pixels.
    for place, value, index in zip(places, values.tolist(), order.tolist(), strict=True):
        axes.text(0, place - 0.24, f"{names[index]} {percent(value)}", fontsize=8, va="bottom")


def percent(share: float) -> str:
    """A share of 1 in per cent, never rounded up to certainty: 0.9999 is "> 99.9 %"."""
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
        Where; its y axis is made to reach from 0 to 100 %.
    x
        What was varied, for instance the budget in 255ths.
    measured
        One share for each of `x`.
    label
        What the legend calls the curve.
    color
        One of the course's colours.
    look
        Marker and line, as in Matplotlib's format strings; tells curves apart without colour.

    Raises
    ------
    InputError
        Not one share for each of `x`.
    """
    if len(x) != len(measured):
        raise InputError(f"{len(measured)} shares were given for {len(x)} places on the x axis.")
    values = [100 * share.value for share in measured]
    bars = [
        [100 * (share.value - share.low) for share in measured],
        [100 * (share.high - share.value) for share in measured],
    ]
    axes.errorbar(x, values, bars, fmt=look, color=color, capsize=3, label=label)
    axes.set_ylim(-4, 104)


def story(
    pictures: Sequence[Column],
    names: Sequence[str],
    *,
    original: Tensor,
    factor: float = 50,
    top: int = 3,
) -> "Figure":
    """Pictures side by side, under each its magnified change and what the model makes of it.

    Parameters
    ----------
    pictures
        For each column the title, the picture (1, c, h, w), its probabilities (classes,) and its
        role (``"clean"``, ``"noise"`` or ``"adversarial"``).
    names
        Names of the classes.
    original
        The picture that changes are measured from, (1, c, h, w).
    factor
        How many times the changes are magnified.
    top
        How many classes to show.

    Returns
    -------
    Figure
        To be passed to `show`.
    """
    fig, axes = figure(3, len(pictures), height=4.9, height_ratios=[1, 1, 0.9], squeeze=False)
    for column, (title, x, probabilities, role) in enumerate(pictures):
        image(axes[0, column], x, title, role)
        image(axes[1, column], magnified(x - original, factor), f"change × {factor:g}")
        confidences(axes[2, column], probabilities, names, role, top)
    return fig
