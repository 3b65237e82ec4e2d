"""The page for those who come from other libraries: what stands there runs, and finds the same."""

import inspect
import re

import numpy as np
import pytest
import reference
import torch
from repository import ROOT
from torch import nn

import advlib
from benchmarks import contestants, strength

PAGE = (ROOT / "book" / "api-coming-from.md").read_text(encoding="utf-8")
CARDS = re.findall(r"\{grid-item-card\} (\w+)\n```python\n(.*?)```", PAGE, re.DOTALL)
OURS = [code for who, code in CARDS if who == "advlib"]
THEIRS = [(who, code) for who, code in CARDS if who != "advlib"]


def names() -> dict:
    """What the page says is given."""
    net = reference.mlp(3 * 16 * 16).eval()
    x = reference.images(6, 3, 16, 16, ends=0.1).float()
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.2, 0.3]
    with torch.no_grad():
        y = net(x).argmax(1)
    return {
        **{"torch": torch, "nn": nn, "np": np, "advlib": advlib, "model": net, "net": net},
        **{"x": x, "y": y, "target": (y + 1) % 3, "nb_classes": 3, "mean": mean, "std": std},
        "mean_image": torch.tensor(mean).view(-1, 1, 1),
        "std_image": torch.tensor(std).view(-1, 1, 1),
    }


@pytest.fixture(autouse=True)
def norms_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advlib.threats, "NORMS", dict(advlib.threats.NORMS))


def test_each_example_has_its_counterpart() -> None:
    who = [name for name, _ in CARDS]
    assert len(who) >= 30 and who[1::2] == ["advlib"] * (len(who) // 2)
    assert set(who[::2]) == {"torchattacks", "foolbox", "ART"}
    assert PAGE.count("```python") == len(CARDS)


@pytest.mark.parametrize("code", OURS, ids=range(len(OURS)))
def test_our_side_runs_and_changes_the_images_within_the_box(code: str) -> None:
    given = names()
    x = given["x"].clone()
    exec(code, given)
    assert torch.equal(given["x"], x)
    if "x_adv" in given:
        x_adv = given["x_adv"]
        assert x_adv.shape == x.shape and not torch.equal(x_adv, x)
        assert float(x_adv.amin()) >= 0 and float(x_adv.amax()) <= 1
        if found := re.search(r"eps=([\d. /]+)", code):
            top, _, bottom = found[1].partition("/")
            eps = float(top) / float(bottom or 1)
            norm = "l2" if '"l2"' in code else "linf"
            assert float(advlib.threats.norm(x_adv - x, norm).amax()) <= eps
    assert "x_adv" in given or "robust" in given


@pytest.mark.parametrize(("who", "code"), THEIRS, ids=range(len(THEIRS)))
def test_their_side_runs_where_they_are_installed(who: str, code: str) -> None:
    strength._find_peers()
    given = names()
    if who == "ART":
        pytest.importorskip("art", reason="ART is not installed: `make bench` fetches it")
        from art.attacks.evasion import ProjectedGradientDescent, UniversalPerturbation
        from art.estimators.classification import PyTorchClassifier

        kinds = (ProjectedGradientDescent, UniversalPerturbation, PyTorchClassifier)
        given |= {kind.__name__: kind for kind in kinds}
    else:
        given[who] = pytest.importorskip(
            who,
            reason=f"{who} is not installed: `make bench` puts it into {contestants.PEERS.name}",
        )
    state = np.random.get_state()
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        np.random.seed(1)  # foolbox draws from the global state
        try:
            exec(code, given)
        finally:
            np.random.set_state(state)
    x_adv = given["x_adv"]
    assert tuple((x_adv[-1] if isinstance(x_adv, list) else x_adv).shape) == tuple(given["x"].shape)


def test_each_channel_keeps_its_own_budget() -> None:
    given = names()
    exec(next(code for code in OURS if "Channels" in code), given)
    moved = (given["x_adv"] - given["x"]).abs().amax((0, 2, 3)) * 255
    # Pixel by pixel, and nearly all of it is spent.
    assert bool((moved <= torch.tensor([8.0, 4.0, 8.0]) + 1e-4).all()) and float(moved[1]) > 3.9
    assert float(moved[0]) > 7.9 and float(moved[2]) > 7.9


TABLE = [line.split("|")[1:3] for line in PAGE.splitlines() if line.startswith("| ")]


def test_every_option_has_a_row_and_every_row_an_answer() -> None:
    assert len(TABLE) > 25 and all(here.strip() for _, here in TABLE)
    assert any("none:" in here for _, here in TABLE)


def options(who: str) -> set[str]:
    """What FGSM and PGD of a library can be told, and their base class has methods for."""
    found: set[str] = set()
    if who == "torchattacks":
        library = pytest.importorskip(who, reason=f"{who} is not installed")
        kinds = [library.FGSM, library.PGD, library.PGDL2, library.FFGSM, library.BIM]
        setters = {name for name in vars(library.attack.Attack) if name.startswith("set_")}
        found = setters | {"save", "load", "to_type"}
    elif who == "foolbox":
        library = pytest.importorskip(who, reason=f"{who} is not installed")
        known = library.attacks
        kinds = [known.FGSM, known.LinfPGD, known.L2PGD, known.L1PGD, library.PyTorchModel]
        own = {"get_loss_fn", "get_optimizer", "get_random_start", "normalize", "distance"}
        found = own & set(dir(known.LinfPGD)) | {"repeat(times)", "epsilons"}
    else:
        pytest.importorskip("art", reason="ART is not installed")
        from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescent

        kinds = [FastGradientMethod, ProjectedGradientDescent]
    for kind in kinds:
        found |= set(inspect.signature(kind.__init__).parameters) - {"self", "model"}
    return found


@pytest.mark.parametrize("who", ["torchattacks", "foolbox", "ART"])
def test_the_table_lists_every_option_of_fgsm_and_pgd(who: str) -> None:
    strength._find_peers()
    parts = [part.strip() for there, _ in TABLE for part in there.split(";")]
    told = " ".join(part for part in parts if part.startswith(f"{who}:"))
    assert [name for name in sorted(options(who)) if f"`{name}`" not in told] == []
