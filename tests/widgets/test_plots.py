"""Figures: readable, described, in the course's colours, and drawn from what they are given."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image

from advlib import plots
from advlib.errors import InputError
from advlib.evaluation import wilson
from advlib.plots import palette, vector


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list:
    outputs: list = []
    monkeypatch.setattr("IPython.display.display", lambda *args, **kw: outputs.append((args, kw)))
    return outputs


def test_a_figure_is_stored_with_its_text(shown: list) -> None:
    fig, axes = plots.figure()
    axes.plot([0, 1])
    plots.show(fig, "A line that rises.")
    ((data,), settings) = shown[0]
    for kind in ("image/png", "image/svg+xml"):
        assert settings["metadata"][kind]["alt"] == "A line that rises."
    assert "A line that rises." in data["text/plain"]
    width, height = Image.open(io.BytesIO(data["image/png"])).size
    assert width == round(plots.WIDTH * 150) and height > 100
    with pytest.raises(InputError, match="alt is empty"):
        plots.show(fig, "  ")


def test_a_figure_with_small_letters_is_refused(shown: list) -> None:
    fig, axes = plots.figure()
    axes.text(0, 0, "a note", fontsize=9)
    with pytest.raises(InputError, match="'a note' has letters of 9 points; at least 10"):
        plots.show(fig, "A note.")
    assert not shown


def test_the_same_figure_gives_the_same_bytes(shown: list) -> None:
    for _ in range(2):
        fig, axes = plots.figure()
        axes.plot([0, 1])
        plots.show(fig, "A line.")
    assert shown[0][0] == shown[1][0]


def test_no_letter_is_too_small_for_a_phone() -> None:
    probabilities, x = torch.tensor([0.7, 0.2, 0.1]), torch.zeros(1, 1, 2, 2)
    columns = [("clean", x, probabilities, "clean")] * 3
    drawing = vector.svg(plots.story(columns, ["a", "b", "c"], original=x))
    assert "<text" in drawing and "em" not in re.findall(r'font-size="([^"]*)"', drawing)
    # On a phone of 390 pixels a figure has 382.
    assert vector.LETTERS / (72 * plots.WIDTH) * 382 >= 11


def texts(drawing: str) -> dict[str, str]:
    """Return the elements of a drawing's texts by what they say."""
    found = re.findall(r"<text.*?</text>", drawing, re.DOTALL)
    return {" ".join(re.sub("<[^>]*>", " ", text).split()): text for text in found}


def number(name: str, element: str) -> float:
    return float(re.search(rf'\b{name}="(-?[\d.]+)', element)[1])


def test_a_text_of_a_drawing_stays_where_it_is_aligned_whatever_its_size() -> None:
    fig, axes = plots.figure()
    fig.set_layout_engine("none")
    axes.set_position([0, 0, 1, 1])
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[])
    for text, ha, va in (("a", "left", "top"), ("b", "center", "center"), ("c", "right", "bottom")):
        axes.text(0.5, 0.5, text, ha=ha, va=va)
    axes.text(0.5, 0.5, "one\ntwo", ha="center", va="bottom")
    axes.text(0.5, 0.5, "up", rotation=90, rotation_mode="anchor", ha="center")
    found = texts(vector.svg(fig))
    middle = 72 * plots.WIDTH / 2, 72 * 3.0 / 2
    for text in ("a", "b", "c", "one two"):
        assert number("x", found[text]) == pytest.approx(middle[0], abs=0.01)
    anchors = [re.findall('text-anchor="(.*?)"', found[text]) for text in "abc"]
    assert anchors == [[], ["middle"], ["end"]]
    # Offsets in letters, from a place that does not depend on them: the letters' own is close.
    lifts = [number("dy", found[text]) for text in ("a", "b")]
    assert lifts[0] > 0.7 and 0.3 < lifts[1] < 0.4 and "dy=" not in found["c"]
    for text in "abc":
        assert number("y", found[text]) == pytest.approx(middle[1], abs=3)
    assert re.findall('dy="(.*?)em"', found["one two"]) == ["-1.2", "1.2"]
    assert "rotate(-90)" in found["up"]
    assert number("x", found["up"]) == pytest.approx(-middle[1], abs=0.01)


def test_letters_have_the_colour_of_the_page_except_over_pixels() -> None:
    fig, axes = plots.figure()
    axes.imshow(np.zeros((2, 2, 3)))
    axes.text(0, 0, "dark")
    axes.text(1, 1, "light", color="white")
    axes.set_title("title")
    axes.set_xlabel("x", color=plots.CLEAN)
    found = texts(vector.svg(fig))
    assert 'fill="black"' in found["dark"] and 'fill="white"' in found["light"]
    assert "fill=" not in found["title"] and f'fill="{plots.CLEAN.lower()}"' in found["x"]


def test_pixels_of_a_drawing_are_those_of_the_image() -> None:
    fig, axes = plots.figure()
    x = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(0))
    plots.image(axes, x, "x")
    drawing = vector.svg(fig)
    (stored,) = re.findall(r"data:image/png;base64,\s*([^\"]+)", drawing)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(stored))))
    assert np.array_equal(pixels, (x.permute(1, 2, 0).numpy() * 255).astype(np.uint8))
    assert "image-rendering:pixelated" in drawing


def test_powers_are_text_and_a_formula_is_drawn() -> None:
    fig, axes = plots.figure()
    axes.set(xscale="log", xlim=(1e-2, 1e3))
    axes.set_title(r"$\delta_1$")
    drawing = vector.svg(fig)
    assert {"10⁻²", "10³"} <= set(texts(drawing))
    assert "DejaVuSans-Oblique" in drawing


def test_labels_stand_at_their_lines_and_apart() -> None:
    fig, axes = plots.figure(height=2.5)
    plots.shares(axes, [0, 2], [wilson(50, 100)] * 2, label="first")
    for label, ends in (("second", [52, 52]), ("rises", [0, 100]), ("flat", [90, 90])):
        axes.plot([0, 2], ends, label=label)
    axes.set(xlim=(0, 2), ylim=(0, 100))
    plots.label_lines(axes, above={"rises": 1}, below={"flat": 0.5})
    fig.draw_without_rendering()
    label = {text.get_text(): text for text in axes.texts}
    boxes = {name: text.get_window_extent() for name, text in label.items()}
    to_axes = axes.transAxes.inverted().transform
    places = {name: to_axes((b.x0, (b.y0 + b.y1) / 2)) for name, b in boxes.items()}
    assert places["first"][0] > 1 and places["second"][0] > 1
    assert boxes["first"].y1 <= boxes["second"].y0 + 1
    assert all(places[name][1] == pytest.approx(0.5, abs=0.12) for name in ("first", "second"))
    # The free side of a line that rises is to its left.
    assert to_axes((boxes["rises"].x1, boxes["rises"].y0)) == pytest.approx((0.5, 0.5), abs=0.1)
    assert boxes["rises"].x1 < axes.transData.transform((1, 0))[0]
    assert places["flat"][1] < 0.9
    with pytest.raises(InputError, match="no line has the label 'steep'"):
        plots.label_lines(axes, above={"steep": 1})


@pytest.mark.parametrize("above", [False, True])
def test_a_label_stands_on_the_free_side_of_its_line_on_logarithmic_axes(above: bool) -> None:
    fig, axes = plots.figure(height=2.5)
    # A line of one slope: where its values are small, it would be flat on linear axes.
    axes.plot([0.25, 16], [1e-4, 10], label="rises")
    axes.set(xscale="log", yscale="log")
    plots.label_lines(axes, **{"above" if above else "below": {"rises": 1}})
    fig.draw_without_rendering()
    (label,) = axes.texts
    to_axes = axes.transAxes.inverted().transform
    (left, low), (right, high) = to_axes(label.get_window_extent())
    x, _ = to_axes(axes.transData.transform((1, 1)))
    line = to_axes(axes.transData.transform([(0.25, 1e-4), (16, 10)]))
    on_the_line = np.interp([left, x, right], *line.T)
    assert (right < x and low > on_the_line[2]) if above else (left > x and high < on_the_line[0])
    # It is near: within two of its own heights of the line at its place.
    assert abs((low if above else high) - on_the_line[1]) < 2 * (high - low)


def test_a_label_below_error_bars_touches_none() -> None:
    fig, axes = plots.figure(height=2.5)
    plots.shares(axes, [0, 1, 2, 3], [wilson(k, 10) for k in (9, 7, 5, 3)], label="falls")
    plots.label_lines(axes, below={"falls": 1})
    fig.draw_without_rendering()
    (label,) = axes.texts
    box = label.get_window_extent()
    caps = axes.containers[0].lines[1][0]
    lower = np.interp(box.x1, *axes.transData.transform(caps.get_xydata()).T)
    assert box.y1 < lower and box.x1 < axes.transData.transform((1, 0))[0]


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("name", ["CLEAN", "NOISE", "ADVERSARIAL", "NEUTRAL", "STANDARD", "ROBUST"])
def test_each_colour_is_seen_on_white_and_its_partner_in_the_dark(name: str) -> None:
    light, dark = getattr(palette, name), getattr(palette, f"{name}_DARK")
    assert 1.05 / (luminance(light) + 0.05) >= 3
    assert (luminance(dark) + 0.05) / (luminance("#14181e") + 0.05) >= 3


def test_magnified_is_grey_where_nothing_changes() -> None:
    delta = torch.tensor([0.0, 0.01, -0.01, 1.0])
    assert torch.allclose(plots.magnified(delta, 10), torch.tensor([0.5, 0.6, 0.4, 1.0]))


def test_confidences_show_the_most_probable_first_in_the_colour_of_the_role() -> None:
    x, probabilities = torch.zeros(1, 1, 2, 2), torch.tensor([0.1, 0.65, 0.25])
    columns = [("after", x, probabilities, "adversarial")]
    *_, axes = plots.story(columns, ["a", "b", "c"], original=x, top=2).axes
    bars = [bar for bar in axes.patches if bar.get_alpha() is None]
    assert [round(bar.get_width(), 2) for bar in bars] == [0.65, 0.25]
    assert {to_hex(bar.get_facecolor()).upper() for bar in bars} == {plots.ADVERSARIAL}
    assert [text.get_text() for text in axes.texts] == ["b", "65.0 %", "c", "25.0 %"]


def test_an_image_is_drawn_as_it_is_and_framed_by_its_role() -> None:
    _, axes = plots.figure()
    x = torch.rand(1, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    plots.image(axes, x, "clean", "clean")
    drawn = np.asarray(axes.images[0].get_array())
    assert np.allclose(drawn, x[0].permute(1, 2, 0).numpy())
    assert to_hex(axes.spines["left"].get_edgecolor()).upper() == plots.CLEAN


@pytest.mark.parametrize(
    ("share", "words"),
    [(0.0, "0.0 %"), (1.0, "100.0 %"), (0.99999, "> 99.9 %"), (1e-6, "< 0.1 %"), (0.5, "50.0 %")],
)
def test_a_share_is_never_rounded_to_certainty(share: float, words: str) -> None:
    assert plots.percent(share) == words


def test_a_story_shows_image_change_and_confidence_for_each_column() -> None:
    x = torch.full((1, 3, 4, 4), 0.5)
    probabilities = torch.tensor([0.9, 0.1])
    columns = [("clean", x, probabilities, "clean"), ("after", x + 0.01, probabilities, "noise")]
    fig = plots.story(columns, ["stop", "go"], original=x, factor=10)
    change = np.asarray(fig.axes[3].images[0].get_array())
    assert np.allclose(change, 0.6, atol=1e-5)
    assert fig.axes[3].get_title() == "change × 10"


def test_shares_are_drawn_in_per_cent_with_their_intervals() -> None:
    _, axes = plots.figure()
    measured = [wilson(5, 10), wilson(0, 10)]
    plots.shares(axes, [1, 2], measured, label="noise", color=plots.NOISE, look="s--")
    (container,) = axes.containers
    line, _, (bars,) = container
    assert line.get_ydata().tolist() == [50, 0] and to_hex(line.get_color()) == "#8a8a8a"
    ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
    assert np.allclose(ends, [[100 * share.low, 100 * share.high] for share in measured])
    assert container.get_label() == "noise"
    with pytest.raises(InputError, match="1 shares were given for 2 places"):
        plots.shares(axes, [1, 2], measured[:1], label="noise")
