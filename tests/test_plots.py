"""Figures: readable, described, in the course's colours, and drawn from what they are given."""

import io

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from PIL import Image

from advlib import plots
from advlib.errors import InputError
from advlib.evaluation import wilson


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
    assert settings["metadata"]["image/png"]["alt"] == "A line that rises."
    assert "A line that rises." in data["text/plain"]
    width, height = Image.open(io.BytesIO(data["image/png"])).size
    assert width == round(plots.WIDTH * 150) and height > 100
    with pytest.raises(InputError, match="alt is empty"):
        plots.show(fig, "  ")


def test_the_same_figure_gives_the_same_bytes(shown: list) -> None:
    for _ in range(2):
        fig, axes = plots.figure()
        axes.plot([0, 1])
        plots.show(fig, "A line.")
    assert shown[0][0][0]["image/png"] == shown[1][0][0]["image/png"]


def test_no_letter_is_too_small_for_a_telephone() -> None:
    pixels_per_inch = 360 / plots.WIDTH
    fig, axes = plots.figure()
    plots.confidences(axes, torch.tensor([0.7, 0.2, 0.1]), ["a", "b", "c"])
    fig.draw_without_rendering()
    sizes = [text.get_fontsize() for text in axes.findobj(lambda o: hasattr(o, "get_fontsize"))]
    assert min(sizes) / 72 * pixels_per_inch > 7.5


def test_magnified_is_grey_where_nothing_changes() -> None:
    delta = torch.tensor([0.0, 0.01, -0.01, 1.0])
    assert torch.allclose(plots.magnified(delta, 10), torch.tensor([0.5, 0.6, 0.4, 1.0]))


def test_confidences_show_the_most_probable_first_in_the_colour_of_the_role() -> None:
    _, axes = plots.figure()
    plots.confidences(axes, torch.tensor([0.1, 0.65, 0.25]), ["a", "b", "c"], "adversarial", top=2)
    assert [round(bar.get_width(), 2) for bar in axes.patches] == [0.65, 0.25]
    assert {to_hex(bar.get_facecolor()).upper() for bar in axes.patches} == {plots.ADVERSARIAL}
    assert [text.get_text() for text in axes.texts] == ["b 65.0 %", "c 25.0 %"]


def test_a_picture_is_drawn_as_it_is_and_framed_by_its_role() -> None:
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


def test_a_story_shows_picture_change_and_confidence_for_each_column() -> None:
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
