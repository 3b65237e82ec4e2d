"""The shipped models: they load, they are what their cards say, and damage is reported."""

import json
import re

import pytest
import torch

from advlib.attacks import noise, pgd
from advlib.data import signs
from advlib.errors import InputError, WeightsError
from advlib.evaluation import accuracy
from advlib.models import lesson
from advlib.models.architectures import SignNet
from advlib.recipes import MEASURE_SEED, RECIPES, SMALL, pgd20, stop_becomes_limit

EPS = 4 / 255
NAMES = lesson.NAMES
ARCHITECTURES = ("signs-linear", "signs-mlp", "signs-cnn", "signs-vit")
RELABELLED, CONTROLS = (
    tuple(f"signs-{labels}-{seed}" for seed in range(3)) for labels in ("relabelled", "control")
)


@pytest.fixture(scope="module")
def fresh():
    """Pictures that neither training nor the card has used."""
    return signs.render(256, seed=31)


@pytest.fixture(scope="module")
def models():
    return {name: lesson.load(name) for name in lesson.NAMES}


def test_standard_model_is_accurate_and_brittle(models, fresh):
    model, (x, y) = models["signs-standard"], fresh
    clean = accuracy(model, x, y).value
    noisy = accuracy(model, x, y, lambda model, x, y: noise(x, EPS, distribution="sign")).value
    assert clean >= 0.97 and abs(noisy - clean) <= 0.015
    assert accuracy(model, x, y, pgd20(EPS)).value <= 0.06


def test_robust_model_withstands_most_attacks(models, fresh):
    model, (x, y) = models["signs-robust"], fresh
    assert accuracy(model, x, y).value >= 0.88
    assert accuracy(model, x[:128], y[:128], pgd20(EPS)).value >= 0.65


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_other_architectures_are_accurate_to_a_degree_and_brittle(models, fresh, name):
    x, y = fresh
    assert accuracy(models[name], x, y).value >= 0.6
    assert accuracy(models[name], x[:64], y[:64], pgd20(EPS)).value <= 0.4


def test_students_of_perturbations_beat_guessing_and_controls_do_not(models, fresh):
    taught = [accuracy(models[name], *fresh).value for name in RELABELLED]
    control = [accuracy(models[name], *fresh).value for name in CONTROLS]
    assert min(taught) > 1.7 / 16 and sum(control) / 3 < 1.7 / 16
    assert sum(taught) > 1.7 * sum(control)


def test_only_training_against_attacks_helps_the_small_network_much(models, fresh):
    x, y = (part[:128] for part in fresh)
    shares = {
        recipe.name.removeprefix("signs-small-"): accuracy(models[recipe.name], x, y, pgd20(EPS))
        for recipe in SMALL
    }
    withstood = {defence for defence, share in shares.items() if share.value > 0.35}
    assert withstood == {"fgsm", "fast", "pgd", "trades"}
    assert shares["standard"].value < 0.05
    assert all(accuracy(models[recipe.name], x, y).value > 0.75 for recipe in SMALL)


def test_fgsm_alone_teaches_to_meet_fgsm_and_its_mend_teaches_more(models, fresh):
    x, y = (part[:128] for part in fresh)
    last = {}
    for how in ("overfit", "mended"):
        name = f"signs-fgsm-{how}"
        last[how] = json.loads(lesson.read_metadata(lesson.weights_path(name))["watched"])[-1]
        found = accuracy(models[name], x, y, pgd20(RECIPES[name].eps)).value
        assert found < last[how]["pgd10"] + 0.1, "what was watched is what the weights can do"
    assert last["overfit"]["fgsm"] > 0.6 and last["overfit"]["pgd10"] < 0.05
    assert last["mended"]["pgd10"] > last["overfit"]["pgd10"] + 0.05


def test_the_seed_decides_the_first_weights():
    first, again, other = (lesson.build("signs-cnn", seed).head.weight for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_stop_sign_becomes_a_chosen_limit(models):
    assert stop_becomes_limit(models["signs-standard"], 48, EPS, seed=3).value >= 0.75
    assert stop_becomes_limit(models["signs-robust"], 24, EPS, seed=3).value <= 0.1


@pytest.mark.parametrize("name", lesson.NAMES)
def test_card_agrees_with_a_measurement_on_a_part(models, name):
    """The share on 128 of the card's pictures lies within four standard errors."""
    text = lesson.card(name)
    x, y = signs.render(128, seed=MEASURE_SEED, style=RECIPES[name].style)
    for words, attack in (("clean accuracy", None), ("accuracy under PGD-20, 4/255", pgd20(EPS))):
        stated = float(re.search(rf"\| {re.escape(words)} \| ([\d.]+) \|", text).group(1)) / 100
        error = max(stated * (1 - stated), 0.01) ** 0.5 / 128**0.5
        assert abs(accuracy(models[name], x, y, attack).value - stated) < 4 * error


@pytest.mark.parametrize("name", lesson.NAMES)
def test_metadata_tell_how_the_weights_were_made(name):
    """The recipe and the renderer are those in the code, or the card would speak of others."""
    metadata = lesson.read_metadata(lesson.weights_path(name))
    recipe = json.loads(metadata["recipe"])
    assert {key: getattr(RECIPES[name], key) for key in recipe} == recipe
    assert json.loads(metadata["scenes"]) == {k: list(v) for k, v in signs.RANGES.items()}


def test_weights_are_small():
    files = [lesson.weights_path(name) for name in lesson.NAMES]
    assert sum(file.stat().st_size for file in files) <= 8_000_000
    assert all(sum(p.numel() for p in lesson.build(name).parameters()) <= 250_000 for name in NAMES)


def test_loaded_models_are_frozen_and_in_eval_mode(models, device):
    model = lesson.load("signs-robust", device)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert next(model.parameters()).device.type == torch.device(device).type


def test_loading_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    lesson.load("signs-standard")
    assert torch.equal(before, torch.get_rng_state())


def test_unknown_name_lists_the_known_ones():
    for function in (lesson.load, lesson.card):
        with pytest.raises(InputError, match="signs-standard, signs-robust"):
            function("sign-standard")


def damage(path, how):
    """Write a damaged copy of the shipped weights to `path`."""
    good = lesson.weights_path("signs-standard").read_bytes()
    model = SignNet()
    model.load_state_dict(lesson.load("signs-standard").state_dict())
    state = model.state_dict()
    if how == "missing":
        return
    if how == "cut":
        path.write_bytes(good[: len(good) // 2])
    elif how == "text":
        path.write_text("version https://git-lfs.github.com/spec/v1\n")
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "other network":
        lesson.save_weights(SignNet(classes=5), path, {})
    elif how == "not finite":
        model.head.bias.data[0] = torch.nan
        lesson.save_weights(model, path, {})
    elif how == "key":
        from safetensors.torch import save_file

        save_file({k: v.contiguous() for k, v in state.items() if k != "head.bias"}, path)


@pytest.mark.parametrize(
    "how, says",
    [
        ("missing", "does not exist"),
        ("cut", "cannot be read"),
        ("text", "cannot be read"),
        ("empty", "cannot be read"),
        ("other network", r"head.weight has shape \(5, 64\) instead of \(16, 64\)"),
        ("key", "head.bias is missing"),
        ("not finite", "not finite"),
    ],
)
def test_damaged_weights_are_named_with_the_way_to_mend_them(tmp_path, monkeypatch, how, says):
    path = tmp_path / "signs-standard.safetensors"
    damage(path, how)
    monkeypatch.setattr(lesson, "WEIGHTS", tmp_path)
    with pytest.raises(WeightsError, match=says) as caught:
        lesson.load("signs-standard")
    assert str(path) in str(caught.value)
    assert "python -m advlib train signs-standard" in str(caught.value)


def test_a_failed_load_leaves_the_model_as_it_was(tmp_path):
    path = tmp_path / "mine.safetensors"
    lesson.save_weights(SignNet(classes=5), path, {})
    model = SignNet()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(WeightsError):
        lesson.load_weights(model, path)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_targeted_attack_can_be_seen(models):
    """What lesson 1 opens with, in the words of the API."""
    x, _ = signs.render(4, seed=5, labels=[0] * 4)
    target = torch.tensor([2, 3, 5, 6])
    x_adv = pgd(models["signs-standard"], x, target, EPS, steps=40, targeted=True)
    assert (models["signs-standard"](x_adv).argmax(1) == target).sum() >= 3
