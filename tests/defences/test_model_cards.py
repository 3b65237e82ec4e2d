"""Model cards: every number has its command, and what is shipped is what the command writes."""

import json
import re
from dataclasses import replace

import pytest

from advlib import __main__ as command
from advlib.defences import model_cards, recipes
from advlib.evaluation import wilson
from advlib.models import shipped

TINY = dict(images=64, epochs=1, batch_size=32, watch=0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The shipped weights are out of reach: commands write into a folder of their own."""
    start = shipped.weights_path("signs-small-standard")  # which relabelled images are made with
    (tmp_path / start.name).write_bytes(start.read_bytes())
    monkeypatch.setattr(shipped, "WEIGHTS", tmp_path)
    small = {name: replace(recipe, **TINY) for name, recipe in recipes.RECIPES.items()}
    monkeypatch.setattr(recipes, "RECIPES", small)
    return tmp_path


def test_measured_images_are_never_trained_on():
    held_out = (model_cards.MEASURE_SEED, model_cards.MEASURE_SEED + 1)
    assert not any(recipe.data_seed in held_out for recipe in recipes.RECIPES.values())


@pytest.mark.parametrize("name", shipped.NAMES)
def test_a_shipped_card_is_what_the_command_writes(name):
    text = shipped.card(name)
    rows = re.findall(r"^\| (.+) \| \S+ \| \S+ to \S+ \| (\d+) of (\d+) \|$", text, re.MULTILINE)
    measured = {words: wilson(int(count), int(total)) for words, count, total in rows}
    seconds = float(re.search(r"Measured in (\d+) s", text)[1])
    assert len(measured) >= 5 and model_cards.card(name, measured, seconds) == text


def test_card_states_every_measured_number_and_the_command(folder):
    command.main(["train", "signs-standard"])
    path = model_cards.write_card("signs-standard", images=32, stop_signs=4)
    text = shipped.card("signs-standard")
    assert path == folder / "signs-standard.md" and text == path.read_text()
    assert "python -m advlib train signs-standard" in text
    assert "python -m advlib measure signs-standard" in text
    again = model_cards.measure(shipped.load("signs-standard"), 32, stop_signs=4)
    for words, share in again.items():
        assert f"| {words} | {100 * share.value:.2f} |" in text, "and measuring again agrees"


def test_card_states_the_cost_of_the_training_and_only_what_was_measured(folder):
    command.main(["train", "signs-small-pgd"])
    model_cards.write_card("signs-small-pgd", images=8)
    text = shipped.card("signs-small-pgd")
    cost = json.loads(shipped.read_metadata(folder / "signs-small-pgd.safetensors")["cost"])
    assert f"{cost['forward']:,} images forward, {cost['backward']:,} backward" in text
    assert "of 8 |" in text and "stop sign" not in text


def test_card_names_the_norm_of_the_budget(folder):
    command.main(["train", "signs-student-noise-1"])
    model_cards.write_card("signs-student-noise-1", images=16, stop_signs=2)
    assert "| eps | 3 in L2 |" in shipped.card("signs-student-noise-1")


def test_missing_weights_end_the_command_with_advice(folder, capsys):
    assert command.main(["measure", "signs-cnn"]) == 2
    assert "python -m advlib train signs-cnn" in capsys.readouterr().err
