"""The recipes of the shipped models, and the command that trains one."""

import json
from dataclasses import replace

import pytest
import torch

from advlib import __main__ as command
from advlib.data import signs
from advlib.defences import recipes
from advlib.errors import InputError
from advlib.models import shipped

TINY = dict(images=64, epochs=1, batch_size=32, watch=0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The shipped weights are out of reach: the command writes into a folder of its own."""
    every = recipes.RECIPES.values()
    needed = {r.start for r in every} | {r.hidden_from for r in every} | {recipes.RELABELLED_BY}
    for name in needed - {None}:
        start = shipped.weights_path(name)
        (tmp_path / start.name).write_bytes(start.read_bytes())
    monkeypatch.setattr(shipped, "WEIGHTS", tmp_path)
    small = {name: replace(recipe, **TINY) for name, recipe in recipes.RECIPES.items()}
    monkeypatch.setattr(recipes, "RECIPES", small)
    return tmp_path


def test_there_is_a_recipe_for_every_shipped_model():
    assert tuple(recipes.RECIPES) == shipped.NAMES
    assert all(name == recipe.name for name, recipe in recipes.RECIPES.items())


@pytest.mark.parametrize("name", shipped.NAMES)
def test_train_writes_weights_that_load(folder, name, capsys):
    assert command.main(["train", name]) == 0
    assert f"{name}.safetensors" in capsys.readouterr().out
    metadata = shipped.read_metadata(shipped.weights_path(name))
    assert json.loads(metadata["recipe"])["images"] == 64
    assert metadata["architecture"] == type(shipped.load(name)).__name__
    shape = (1, 3, 64, 64) if name == "signs-denoiser" else (1, 16)
    assert shipped.load(name)(torch.zeros(1, 3, 64, 64)).shape == shape


def test_training_twice_gives_the_same_weights():
    recipe = replace(recipes.RECIPES["signs-robust"], **TINY)
    first, second = (recipes.train_model(recipe)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_students_of_one_seed_share_scenes_and_labels():
    sets = {}
    for kind in ("rand", "noise", "hidden", "det"):
        recipe = replace(recipes.RECIPES[f"signs-student-{kind}-1"], images=16)
        assert recipes.adversary(recipe) is None, "the perturbation is part of the data"
        sets[kind] = recipes.training_set(recipe)
    x, y = signs.render(16, seed=recipe.data_seed)
    for changed, _ in sets.values():
        length = (changed - x).flatten(1).norm(dim=1)
        assert length.max() <= recipes.RELABEL_EPS and length.min() > 0.5
    drawn = sets["rand"][1]
    assert not torch.equal(drawn, y)
    assert all(torch.equal(sets[kind][1], drawn) for kind in ("noise", "hidden"))
    assert torch.equal(sets["det"][1], (y + 1) % 16)
    changes = [images for images, _ in sets.values()]
    assert not any(torch.equal(changes[0], other) for other in changes[1:])


def test_adversary_grows_and_stays_in_its_ball():
    recipe = replace(recipes.RECIPES["signs-robust"], images=640, epochs=2, ramp=0.5)
    perturb = recipes.adversary(recipe)
    model = shipped.build("signs-robust")
    x, y = torch.rand(4, 3, 64, 64), torch.arange(4)
    sizes = [(perturb(model, x, y) - x).abs().max().item() for _ in range(12)]
    assert sizes[0] < 0.2 * recipe.eps, "one tenth at the first of ten steps"
    assert sizes[4] < sizes[9] <= recipe.eps + 1e-7
    assert sizes[11] == pytest.approx(recipe.eps, rel=1e-3)
    assert recipes.adversary(recipes.RECIPES["signs-standard"]) is None


def test_the_attack_waits_and_then_grows():
    recipe = replace(
        recipes.RECIPES["signs-small-fgsm"], images=640, epochs=2, delay=0.5, ramp=0.25
    )
    perturb = recipes.adversary(recipe)
    model = shipped.build(recipe.name)
    x, y = torch.rand(4, 3, 64, 64), torch.arange(4)
    sizes = [(perturb(model, x, y) - x).abs().max().item() for _ in range(20)]
    assert max(sizes[:10]) == 0 < sizes[10] < sizes[12] < sizes[14]
    assert sizes[15:] == pytest.approx([recipe.eps] * 5, rel=1e-3)


@pytest.mark.parametrize(
    "name, forward, backward",
    [
        ("signs-small-standard", 1, 1),
        ("signs-small-fgsm", 2, 2),
        ("signs-small-fast", 2, 2),
        ("signs-small-pgd", 4, 3),
        ("signs-small-pgd7", 9, 8),
        ("signs-small-trades", 6, 4),
        ("signs-small-gradient-penalty", 1, 2),
        ("signs-mlp-interval", 3, 3),
    ],
)
def test_cost_counts_the_training_and_nothing_else(name, forward, backward):
    recipe = replace(recipes.RECIPES[name], **TINY, delay=0.0, ramp=0.0)
    _, metadata = recipes.train_model(replace(recipe, watch=8))
    cost = json.loads(metadata["cost"])
    assert (cost["forward"], cost["backward"]) == (64 * forward, 64 * backward)
    assert 0 < cost["seconds"] < 60
    (shares,) = json.loads(metadata["watched"])
    assert set(shares) == {"epoch", "trained", "clean", "fgsm", "pgd10"}
    assert shares["epoch"] == 1 and min(shares.values()) >= 0


def test_early_stopping_keeps_the_first_epoch_that_was_best_under_pgd(monkeypatch):
    recipe = replace(recipes.RECIPES["signs-mlp-pgd-early"], images=32, epochs=6, watch_every=2)
    under = iter((0.2, 0.5, 0.5))
    seen = []

    def watch(_, model):
        seen.append(model.head.bias.detach().clone())
        return {"pgd10": next(under)}

    monkeypatch.setattr(recipes, "_watch", watch)
    model, metadata = recipes.train_model(recipe)
    record = json.loads(metadata["watched"])
    assert [each["epoch"] for each in record] == [2, 4, 6]
    assert torch.equal(model.head.bias, seen[1]) and not torch.equal(seen[1], seen[2])
    under = iter((0.2, 0.5, 0.5))
    last, _ = recipes.train_model(replace(recipe, early=False))
    assert torch.equal(last.head.bias, seen[2]), "without it the last epoch is kept"


def test_interval_bounds_and_attacks_are_not_mixed():
    assert recipes.adversary(recipes.RECIPES["signs-mlp-interval"]) is None


def test_rows_of_the_table_differ_from_its_base_in_what_they_are_about():
    base = recipes.RECIPES["signs-small-standard"]
    for recipe in recipes.SMALL:
        assert recipe.data_seed == base.data_seed and recipe.start is None
        assert (recipe.lr, recipe.batch_size, recipe.seed) == (
            base.lr,
            base.batch_size,
            base.seed,
        )
        assert recipe.images * recipe.epochs == base.images * base.epochs, "as many steps"


def test_unknown_names_list_the_known_ones(capsys):
    with pytest.raises(InputError, match="signs-standard, signs-robust"):
        recipes.find("signs")
    assert command.main(["train", "signs"]) == 2
    assert "signs-robust" in capsys.readouterr().err
