"""The shipped models: they load, they are what their cards say, and damage is reported."""

import json
import re

import pytest
import torch

from advlib.attacks import noise, pgd
from advlib.data import signs
from advlib.defences.model_cards import MEASURE_SEED, classifier, pgd20, stop_becomes_limit
from advlib.defences.recipes import RECIPES, SMALL
from advlib.errors import InputError, WeightsError
from advlib.evaluation import accuracy
from advlib.models import shipped
from advlib.models.architectures import SignNet

EPS = 4 / 255
NAMES = shipped.NAMES
ARCHITECTURES = ("signs-linear", "signs-mlp", "signs-cnn", "signs-vit")
STUDENTS, CONTROLS = (
    tuple(f"signs-student-{kind}-{seed}" for seed in range(1, shipped.STUDENTS[kind] + 1))
    for kind in ("rand", "noise")
)


@pytest.fixture(scope="module")
def fresh():
    """Images that neither training nor the card has used."""
    return signs.render(256, seed=31)


@pytest.fixture(scope="module")
def models():
    return {name: shipped.load(name) for name in shipped.NAMES}


def stated(name: str, words: str) -> float:
    """A share that the model's card states; the next test measures it."""
    found = re.search(rf"\| {re.escape(words)} \| ([\d.]+) \|", shipped.card(name))
    assert found, f"the card of {name} does not state its {words}"
    return float(found[1]) / 100


CLEAN, PGD20 = "clean accuracy", "accuracy under PGD-20, 4/255"


@pytest.mark.parametrize("name", shipped.NAMES)
def test_card_agrees_with_a_measurement_on_a_part(name):
    """The shares on some of the card's images lie within four standard errors."""
    model, (x, y) = (
        classifier(name),
        signs.render(128, seed=MEASURE_SEED, style=RECIPES[name].style),
    )
    for words, attack, n in ((CLEAN, None, 128), (PGD20, pgd20(EPS), 64)):
        share = stated(name, words)
        error = max(share * (1 - share), 0.01) ** 0.5 / n**0.5
        assert abs(accuracy(model, x[:n], y[:n], attack).value - share) < 4 * error


def test_standard_model_is_accurate_and_brittle_and_noise_does_nothing(models, fresh):
    name, (x, y) = "signs-standard", fresh
    model = models[name]
    noisy = accuracy(model, x, y, lambda model, x, y: noise(x, EPS, distribution="sign")).value
    assert stated(name, CLEAN) >= 0.97 and abs(noisy - stated(name, CLEAN)) <= 0.015
    assert stated(name, PGD20) <= 0.06


def test_robust_model_resists_most_attacks():
    assert stated("signs-robust", CLEAN) >= 0.88 and stated("signs-robust", PGD20) >= 0.65


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_other_architectures_are_fairly_accurate_and_brittle(name):
    assert stated(name, CLEAN) >= 0.6 and stated(name, PGD20) <= 0.4


def test_training_on_relabelled_images_beats_guessing_and_controls_do_not():
    taught = [stated(name, CLEAN) for name in STUDENTS]
    control = [stated(name, CLEAN) for name in CONTROLS]
    assert min(taught) > 1.7 / 16 and sum(control) / len(control) < 1.7 / 16
    assert sum(taught) > 2 * sum(control)


def test_only_training_against_attacks_helps_the_small_network_much():
    shares = {recipe.name: stated(recipe.name, PGD20) for recipe in SMALL}
    robust = {name.removeprefix("signs-small-") for name, share in shares.items() if share > 0.35}
    assert robust == {"fgsm", "fast", "pgd", "pgd7", "trades"}
    assert shares["signs-small-standard"] < 0.05
    assert all(stated(recipe.name, CLEAN) > 0.75 for recipe in SMALL)


def test_fgsm_training_overfits_to_fgsm_and_its_remedy_does_not(models, fresh):
    x, y = (part[:128] for part in fresh)
    last = {}
    for how in ("overfit", "mended"):
        name = f"signs-fgsm-{how}"
        last[how] = json.loads(shipped.read_metadata(shipped.weights_path(name))["watched"])[-1]
        found = accuracy(models[name], x, y, pgd20(RECIPES[name].eps)).value
        assert found < last[how]["pgd10"] + 0.1, "the watched accuracies are those of the weights"
    assert last["overfit"]["fgsm"] > 0.6 and last["overfit"]["pgd10"] < 0.05
    assert last["mended"]["pgd10"] > last["overfit"]["pgd10"] + 0.05


def test_the_seed_decides_the_first_weights():
    first, again, other = (shipped.build("signs-cnn", seed).head.weight for seed in (0, 0, 1))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_stop_sign_becomes_a_chosen_limit(models):
    assert stop_becomes_limit(models["signs-standard"], 48, EPS, seed=3).value >= 0.75
    assert stop_becomes_limit(models["signs-robust"], 24, EPS, seed=3).value <= 0.1


@pytest.mark.parametrize("name", shipped.NAMES)
def test_metadata_hold_the_recipe_of_the_weights(name):
    """The recipe and the renderer are those in the code, else the card would describe others."""
    metadata = shipped.read_metadata(shipped.weights_path(name))
    recipe = json.loads(metadata["recipe"])
    assert {key: getattr(RECIPES[name], key) for key in recipe} == recipe
    assert json.loads(metadata["scenes"]) == {k: list(v) for k, v in signs.RANGES.items()}


def test_weights_are_small():
    files = [shipped.weights_path(name) for name in shipped.NAMES]
    assert sum(file.stat().st_size for file in files) <= 12_000_000
    for name in NAMES:
        assert sum(p.numel() for p in shipped.build(name).parameters()) <= 250_000


def test_loaded_models_are_frozen_and_in_eval_mode(models, device):
    model = shipped.load("signs-robust", device)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert next(model.parameters()).device.type == torch.device(device).type


def test_loading_leaves_the_global_random_state_alone():
    before = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
    shipped.load("signs-standard")
    after = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
    assert all(map(torch.equal, before, after))


def test_unknown_name_lists_the_known_ones():
    for function in (shipped.load, shipped.card):
        with pytest.raises(InputError, match="signs-standard, signs-robust"):
            function("sign-standard")


def damage(path, how):
    """Write a damaged copy of the shipped weights to `path`."""
    good = shipped.weights_path("signs-standard").read_bytes()
    model = SignNet()
    model.load_state_dict(shipped.load("signs-standard").state_dict())
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
        shipped.save_weights(SignNet(classes=5), path, {})
    elif how == "not finite":
        model.head.bias.data[0] = torch.nan
        shipped.save_weights(model, path, {})
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
def test_damaged_weights_are_named_with_the_remedy(tmp_path, monkeypatch, how, says):
    path = tmp_path / "signs-standard.safetensors"
    damage(path, how)
    monkeypatch.setattr(shipped, "WEIGHTS", tmp_path)
    with pytest.raises(WeightsError, match=says) as caught:
        shipped.load("signs-standard")
    assert str(path) in str(caught.value)
    assert "python -m advlib train signs-standard" in str(caught.value)


def test_a_failed_load_leaves_the_model_as_it_was(tmp_path):
    path = tmp_path / "mine.safetensors"
    shipped.save_weights(SignNet(classes=5), path, {})
    model = SignNet()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(WeightsError):
        shipped.load_weights(model, path)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_targeted_attack_reaches_chosen_classes(models):
    """The opening of lesson 1."""
    x, _ = signs.render(4, seed=5, labels=[0] * 4)
    target = torch.tensor([2, 3, 5, 6])
    x_adv = pgd(models["signs-standard"], x, target, EPS, steps=40, targeted=True)
    assert (models["signs-standard"](x_adv).argmax(1) == target).sum() >= 3
