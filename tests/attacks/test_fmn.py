"""The smallest perturbation: known exactly for linear models, never too small, and all of it."""

import math

import numpy as np
import pytest
import reference
import torch
from cases import DTYPES, NORMS, assert_inside
from torch import Tensor, nn

import advlib
from advlib import threats
from advlib.attacks.fmn import fmn
from advlib.errors import ModelOutputError, ThreatError
from advlib.evaluation import accuracy

RANDOM_STATE_IS_WATCHED = True

with_norm = pytest.mark.parametrize("norm", NORMS)


def exact(model: nn.Linear, x: Tensor, y: Tensor, norm: str, targeted: bool = False) -> np.ndarray:
    """The smallest eps that reaches another class (or `y`) in the box: by bisection, in NumPy."""
    weight = model.weight.detach().double().numpy()
    logits = model(x).detach().double().numpy()
    found = []
    for image, z, own in zip(x.double().numpy(), logits, y.tolist(), strict=True):
        others = [j for j in range(len(z)) if j != own]

        pairs = [(own, j) if targeted else (j, own) for j in others]
        slopes = [weight[to] - weight[off] for to, off in pairs]
        leads = [z[to] - z[off] for to, off in pairs]

        def reached(eps: float, image=image, slopes=slopes, leads=leads) -> bool:
            rises = [slope @ reference.steepest(slope, eps, norm, image) for slope in slopes]
            ahead = [lead + rise for lead, rise in zip(leads, rises, strict=True)]
            return min(ahead) >= 0 if targeted else max(ahead) >= 0

        low, high = 0.0, float(threats.NORMS[norm].diameter(x))
        for _ in range(36):
            middle = (low + high) / 2
            low, high = (low, middle) if reached(middle) else (middle, high)
        found.append(high)
    return np.array(found)


def linear(features: int = 12, classes: int = 4) -> tuple[nn.Linear, Tensor, Tensor]:
    """A model, images of which some lie at the edge of the box, and the classes it gives them."""
    model = reference.without_seed(lambda: nn.Linear(features, classes))
    reference.fill(model, 5, 3.0)
    x = reference.images(40, features, ends=0.2).float()
    return model, x, model(x).argmax(1)


@with_norm
@pytest.mark.parametrize("classes", [2, 4])
def test_on_a_linear_model_the_distance_is_the_exact_one(norm: str, classes: int) -> None:
    model, x, y = linear(classes=classes)
    model, x = model.double(), x.double()  # a small margin is rounded by more than is allowed below
    found = fmn(model, x, y, norm=norm, steps=200)
    assert bool(found.fooled.all())
    share = found.eps.numpy() / exact(model, x, y, norm)
    assert share.min() >= 1 - 1e-5, "nearer than what is possible"
    # Of several classes the nearest at x need not be the one to be reached first.
    assert np.median(share) <= 1.0002
    most = share.max() if classes == 2 else np.median(share)
    assert most <= 1.005, np.sort(share)[-5:]


@with_norm
def test_far_from_the_box_it_is_the_margin_divided_by_the_dual_norm(norm: str) -> None:
    model, x, _ = linear(classes=2)
    model.bias.data -= model(torch.full((1, 12), 0.5))[0].detach()  # the boundary runs by grey
    x = 0.5 + 0.05 * (x - 0.5)
    y = model(x).argmax(1)
    z = model(x).detach()
    slope = threats.dual_norm((model.weight[0] - model.weight[1]).detach()[None], norm)
    wanted = (z[:, 0] - z[:, 1]).abs() / slope
    found = fmn(model, x, y, norm=norm, steps=200)
    np.testing.assert_allclose(found.eps, wanted, rtol=0.02)
    assert bool((found.eps >= wanted * (1 - 1e-5)).all())


@with_norm
def test_towards_a_class_the_distance_is_the_exact_one(norm: str) -> None:
    model, x, y = linear(classes=3)
    target = (y + 1) % 3
    reachable = exact(model, x, target, norm, targeted=True)
    found = fmn(model, x, target, norm=norm, steps=300, targeted=True)
    possible = torch.from_numpy(reachable) < threats.NORMS[norm].diameter(x) * 0.999
    assert bool((model(found.x_adv[found.fooled]).argmax(1) == target[found.fooled]).all())
    share = (found.eps.numpy() / reachable)[possible & found.fooled]
    assert len(share) >= 30 and share.min() >= 1 - 1e-6 and np.median(share) <= 1.02


@with_norm
@pytest.mark.parametrize("dtype", DTYPES)
def test_each_image_lies_in_the_ball_of_its_own_eps_and_fools(norm: str, dtype) -> None:
    model = reference.without_seed(reference.conv).to(dtype)
    x = reference.images(12, 3, 6, 6, ends=0.2).to(dtype)
    y = reference.classes(12)
    found = fmn(model, x, y, norm=norm, steps=20)
    assert found.eps.shape == found.fooled.shape == (12,)
    assert bool((found.eps.isfinite() == found.fooled).all())
    wrong = model(x).argmax(1) != y
    assert bool(wrong.any()) and not bool(wrong.all())
    assert torch.equal(found.eps == 0, wrong)
    for i in range(12):
        x_adv, eps = found.x_adv[i : i + 1], found.eps[i].item()
        if found.fooled[i]:
            assert_inside(x[i : i + 1], x_adv, eps, norm)
            assert int(model(x_adv).argmax()) != int(y[i])
            length = threats.norm((x_adv - x[i : i + 1]).double(), norm).item()
            rounding = torch.finfo(torch.float32 if dtype == torch.float64 else dtype).eps
            assert eps <= length * (1 + 16 * rounding)
        else:
            assert torch.equal(x_adv, x[i : i + 1])


def test_what_cannot_be_fooled_comes_back_as_it_was_and_far_away() -> None:
    def sure(x: Tensor) -> Tensor:
        return torch.cat([x.flatten(1).sum(1, keepdim=True) + 1, 0 * x.flatten(1)[:, :1]], 1)

    x = reference.images(3, 1, 2, 2).float()
    found = fmn(sure, x, torch.tensor([0, 1, 0]), steps=5)
    assert found.fooled.tolist() == [False, True, False]
    assert found.eps.tolist() == [math.inf, 0, math.inf] and torch.equal(found.x_adv, x)
    assert found.accuracy(1e9).count == 2 and found.accuracy(0).count == 2
    assert found.curve()[0].tolist() == [0] and found.curve()[1].tolist() == pytest.approx([2 / 3])


@with_norm
def test_the_curve_is_the_accuracy_of_the_images_within_each_budget(norm: str) -> None:
    model = reference.without_seed(reference.conv)
    x = reference.images(30, 3, 6, 6, ends=0.1).float()
    y = torch.where(torch.arange(30) < 5, reference.classes(30), model(x).argmax(1))
    found = fmn(model, x, y, norm=norm, steps=10)
    budgets, robust = found.curve()
    assert budgets[0] == 0 and bool((budgets.diff() > 0).all()) and bool((robust.diff() < 0).all())
    assert robust[0].item() == pytest.approx(accuracy(model, x, y).value)
    for eps, share in zip(budgets.tolist(), robust.tolist(), strict=True):
        at_eps = torch.where((found.eps <= eps).view(-1, 1, 1, 1), found.x_adv, x)
        assert accuracy(model, at_eps, y).value == pytest.approx(share)
        assert found.accuracy(eps).value == pytest.approx(share)


@with_norm
def test_no_attack_with_a_budget_does_better_than_it_by_much(norm: str) -> None:
    """PGD with many steps at the median distance fools about half of the images, no more."""
    model = reference.without_seed(reference.conv)
    x = reference.images(64, 3, 6, 6, ends=0.1).float()
    y = model(x).argmax(1)
    found = fmn(model, x, y, norm=norm)
    eps = found.eps.median().item()
    x_adv = advlib.pgd(model, x, y, eps, norm=norm, steps=100, restarts=3, loss="margin")
    assert accuracy(model, x_adv, y).count >= found.accuracy(eps).count - 2


def test_only_what_may_change_changes_and_batches_do_not_matter() -> None:
    model = reference.without_seed(reference.conv)
    x, where = reference.images(9, 3, 6, 6).float(), torch.zeros(1, 1, 6, 6)
    y = model(x).argmax(1)
    where[..., :4, :] = 1
    for norm in NORMS:
        found = fmn(model, x, y, norm=norm, steps=30, where=where)
        assert torch.equal(found.x_adv[..., 4:, :], x[..., 4:, :]) and bool(found.fooled.any())
        assert found.eps.median() > 0.98 * fmn(model, x, y, norm=norm, steps=30).eps.median()
        parts = fmn(model, x, y, norm=norm, steps=30, where=where, batch_size=4)
        np.testing.assert_allclose(parts.eps, found.eps, rtol=1e-4)


def test_each_image_has_its_own_region() -> None:
    model = reference.without_seed(reference.conv)
    x, where = reference.images(6, 3, 6, 6).float(), torch.zeros(6, 1, 6, 6)
    for row in range(6):
        where[row, :, row] = 1
    found = fmn(model, x, model(x).argmax(1), norm="l2", steps=20, where=where, batch_size=4)
    moved = (found.x_adv != x).any(1, keepdim=True)
    assert bool(moved.any()) and not bool(moved[where == 0].any())


def test_it_takes_the_gradients_it_was_given_and_one_look_more() -> None:
    model = reference.without_seed(reference.conv)
    asked = []
    model.register_forward_hook(lambda module, given, logits: asked.append(logits.requires_grad))
    x = reference.images(2, 3, 6, 6).float()
    fmn(model, x, reference.classes(2), steps=7)
    assert asked == [True] * 7 + [False]


def test_a_norm_of_its_own_names_and_gradients_that_are_not_finite_are_refused() -> None:
    model, x, y = linear()
    with pytest.raises(ThreatError, match='known here are "linf", "l2" and "l1"'):
        fmn(model, x, y, norm="Linf")
    with pytest.raises(advlib.AdvlibError, match="called .steps."):
        fmn(model, x, y, iterations=3)
    with pytest.raises(ModelOutputError, match="NaN or infinite"):
        fmn(lambda x: model((x - x).abs().sqrt() + x), x, y, steps=2)
