"""The comparison at equal gradients: it counts what attacks do, and its page says what it found."""

import json

import pytest
import torch
from torch import Tensor, nn

import advlib
from benchmarks import distances, strength


def subject(n: int = 12) -> strength.Subject:
    model = strength.network().eval().requires_grad_(False)
    x, _ = strength.images(n, seed=3)
    return strength.Subject("untrained", model, x, model(x).argmax(1), 4 / 255)


def pgd(model: nn.Module, x: Tensor, y: Tensor, eps: float, gradients: int) -> Tensor:
    return advlib.pgd(model, x, y, eps, steps=gradients)


def noise(model: nn.Module, x: Tensor, y: Tensor, eps: float, gradients: int) -> Tensor:
    return advlib.noise(x, eps)


def breaks(model: nn.Module, x: Tensor, y: Tensor, eps: float, gradients: int) -> Tensor:
    raise ImportError("no such library")


@pytest.mark.parametrize("name", ["model", "x"])
def test_gradients_are_counted_behind_the_model_whatever_they_are_taken_of(name: str) -> None:
    one = subject()
    counted = strength.Counted(one.model.requires_grad_(name == "model"))
    x = one.x.clone().requires_grad_(name == "x")
    counted(x).sum().backward()
    with torch.no_grad():
        counted(x)
    assert counted.gradients == 12


def test_a_measurement_counts_one_run_and_puts_points_back_into_the_ball() -> None:
    one = subject()
    row = strength.measure(one, pgd, 3)
    assert row["gradients"] == 3.0 and row["seconds"] > 0
    far = strength.measure(one, lambda model, x, y, eps, n: 1 - x, 3)
    near = advlib.threats.confine(one.x, (1 - one.x) - one.x, one.eps)
    kept = (one.model(near).argmax(1) == one.y).float().mean().item()
    assert far["robust"] == pytest.approx(kept, abs=1e-4)
    assert "ImportError: no such library" in strength.measure(one, breaks, 3)["error"]


def test_a_measurement_is_the_mean_of_one_run_with_each_seed() -> None:
    one = subject()
    drawn = []

    def attack(model: nn.Module, x: Tensor, y: Tensor, eps: float, gradients: int) -> Tensor:
        drawn.append(torch.rand(()).item())
        return x if len(drawn) % 2 else x - eps * model(x).sum().sign()

    before = torch.random.get_rng_state()
    alone = [strength.measure(one, attack, 3, [seed], warm_up=False) for seed in (4, 5)]
    both = strength.measure(one, attack, 3, [4, 5], warm_up=False)
    assert torch.equal(before, torch.random.get_rng_state())
    assert drawn[:2] == drawn[2:] and drawn[0] != drawn[1]
    found = [row["robust"] for row in alone]
    assert both["robust"] == pytest.approx(sum(found) / 2, abs=1e-4)
    assert [both["lowest"], both["highest"]] == sorted(found)


@pytest.mark.parametrize("attack", [strength.ours, strength.ours_fast])
def test_own_points_are_those_that_robust_accuracy_counts(attack) -> None:
    one = subject()
    row = strength.measure(one, attack, 5, [3])
    generator = torch.Generator().manual_seed(3)
    found = strength.robust_accuracy(
        one.model, one.x, one.y, one.eps, gradients=5, generator=generator
    )
    assert row["robust"] == pytest.approx(found.accuracy.value, abs=1e-4)
    assert row["gradients"] == pytest.approx(found.gradients / 12, abs=0.01) and found.gradients


def test_large_logits_make_the_same_decisions() -> None:
    one = subject()
    assert torch.equal(strength.Scaled(one.model)(one.x), 100 * one.model(one.x))


def test_the_section_holds_every_number_and_what_did_not_run() -> None:
    settings = {("some", "PGD"): pgd, ("some", "noise"): noise, ("other", "none"): breaks}
    results = strength.strength(
        [subject()],
        (2, 4),
        (2, 3, 4),
        settings,
        reference=lambda m, x, y, eps: pgd(m, x, y, eps, 9),
    )
    assert json.loads(json.dumps(results)) == results
    (part,) = results["subjects"]
    assert part["clean"] == 1.0 and part["reference"]["gradients"] == 9.0
    for setting in ("robust_accuracy", "robust_accuracy, accelerated"):
        budgets = [row["budget"] for row in part["rows"] if row["setting"] == setting]
        assert budgets == [2, 3, 4]

    page = strength.text(results)

    assert page.count("did not run") == 2
    assert "| some | noise | " in page and "(0.0)" in page
    for row in part["rows"]:
        if "robust" in row and row["budget"] in (2, 4):
            assert f"{100 * row['robust']:.1f} %" in page
    lines = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines if "gradients a" not in line}) == 2
    assert "All of AutoAttack" in page and "**" in page
    part["reference"]["robust"] = part["rows"][0]["robust"] - 2 * strength.NEAR
    for row in part["rows"]:
        if "robust" in row:
            row["robust"] = part["rows"][0]["robust"]
    assert "advlib does not come within 1.5 points" in strength.text(results)


def test_what_is_attacked_is_two_networks_and_a_third_that_decides_alike(monkeypatch) -> None:
    monkeypatch.setattr(strength, "LEAST_CLEAN", 0.0)
    standard, robust, masked = strength.subjects(*strength.networks(training=64, epochs=1), n=8)
    assert torch.equal(robust.model(robust.x).argmax(1), masked.model(masked.x).argmax(1))
    assert not torch.equal(standard.model(standard.x), robust.model(robust.x))
    assert int(robust.y.max()) < 10 and robust.x.shape == (8, 3, 32, 32)


def test_a_network_with_a_low_clean_accuracy_is_not_worth_attacking() -> None:
    ignorant = strength.network().eval()
    with pytest.raises(RuntimeError, match="training did not work"):
        strength.subjects(ignorant, ignorant, n=100)


# -- distances -------------------------------------------------------------------------------------


def test_a_distance_is_measured_anew_and_counts_only_what_fools_inside_the_box() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False)).requires_grad_(False)
    model[1].weight.copy_(torch.eye(2))
    x, y = torch.tensor([[0.6, 0.4]]).repeat(3, 1).view(3, 1, 1, 2), torch.zeros(3).long()

    def find(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        if isinstance(model, strength.Counted):
            model(x.requires_grad_()).sum().backward()
        points = torch.tensor([[0.4, 0.6], [0.6, 0.5], [0.6, 1.5]])
        return points.view(3, 1, 1, 2)

    found = distances.measure(find, model, x, y, "linf")
    assert found["fooled"] == 1 and found["median"] == float("inf") and found["gradients"] == 1
    assert distances._median(model, x[:1], y[:1], find(model, x[:1], y)[:1], "l2") == 0.2828


def test_the_section_marks_the_nearest_of_each_norm() -> None:
    row = {"network": "toy", "library": "a", "setting": "X", "norm": "l2", "fooled": 9}
    rows = [row | {"median": 0.5}, row | {"library": "b", "median": 0.4}]
    rows += [row | {"norm": "linf", "median": 1}]
    rows += [row | {"norm": "l1", "median": float("inf"), "fooled": 3}]
    asked = [{"network": "toy", "norm": "l2", "queries": 7, "foolbox": 2.0, "advlib": 1.0}]
    said = distances.text(rows, asked)
    assert "| a, X | **1** | 0.5 |" in said and "| b, X |  | **0.4** |  |" in said
    assert "| `toy` | l2 | 7 | 2 | 1 |" in said
