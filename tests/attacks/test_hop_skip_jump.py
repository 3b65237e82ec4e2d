"""HopSkipJump: decisions only, counted exactly, and near what is possible on linear models."""

import math

import numpy as np
import pytest
import reference
import torch
from cases import assert_inside
from test_fmn import exact, linear
from torch import Tensor, nn

from advlib.attacks.hop_skip_jump import hop_skip_jump
from advlib.attacks.square import square_with_queries
from advlib.errors import InputError, ThreatError

RANDOM_STATE_IS_WATCHED = True

with_norm = pytest.mark.parametrize("norm", ["l2", "linf"])


def case(n: int = 8) -> tuple[nn.Module, Tensor, Tensor]:
    model = reference.without_seed(reference.conv)
    x = reference.images(n, 3, 6, 6, ends=0.1).float()
    return model, x, model(x).argmax(1)


@with_norm
@pytest.mark.parametrize("classes", [2, 4])
def test_on_a_linear_model_it_comes_near_the_exact_distance(norm: str, classes: int) -> None:
    model, x, y = linear(classes=classes)
    found = hop_skip_jump(model, x, y, norm=norm, queries=4000)
    assert int(found.fooled.sum()) >= 36  # of 40; a class may rule nearly the whole box
    share = (found.eps.numpy() / exact(model, x, y, norm))[found.fooled.numpy()]
    assert share.min() >= 1 - 1e-5, "nearer than what is possible"
    assert np.median(share) <= 1.05 and share.mean() <= 1.3, np.sort(share)


class Pocket(nn.Module):
    """Class 1 within a distance of a point, in l2; class 0 all around."""

    def __init__(self, centre: Tensor, radius: float) -> None:
        super().__init__()
        self.centre, self.radius = centre, radius

    def forward(self, x: Tensor) -> Tensor:
        inside = self.radius - (x - self.centre).flatten(1).norm(dim=1)
        return torch.stack([-inside, inside], 1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("radius", [0.1, 0.5])
def test_it_finds_the_near_end_of_a_pocket(radius: float, seed: int) -> None:
    """Probes as far away as the boundary would all miss it; whole jumps cross the small one."""
    x = torch.full((1, 3, 5, 5), 0.5)
    draws = torch.randn(2, 75, generator=torch.Generator().manual_seed(seed))
    towards, beside = torch.linalg.qr(draws.T)[0].T.view(2, 1, 3, 5, 5)
    centre = x + towards
    model, start = Pocket(centre, radius), centre + 0.8 * radius * beside
    found = hop_skip_jump(model, x, torch.tensor([0]), norm="l2", queries=1500, start=start)
    assert 1 - radius <= found.eps.item() <= 1.03 - radius


@with_norm
def test_more_queries_lead_nearer(norm: str) -> None:
    model, x, y = case(16)
    medians = [
        hop_skip_jump(model, x, y, norm=norm, queries=queries).eps.median().item()
        for queries in (50, 300, 2000)
    ]
    assert medians[0] > 1.1 * medians[1] > 1.1 * medians[2]


@with_norm
def test_each_image_lies_in_the_ball_of_its_own_eps_and_fools(norm: str) -> None:
    model, x, y = case()
    y[:2] = (y[:2] + 1) % 3
    found = hop_skip_jump(model, x, y, norm=norm, queries=200)
    assert bool(found.fooled.all()) and found.eps[:2].tolist() == [0, 0]
    assert found.queries[:2].tolist() == [1, 1]
    for i in range(len(x)):
        assert_inside(x[i : i + 1], found.x_adv[i : i + 1], found.eps[i].item(), norm)
    assert bool((model(found.x_adv).argmax(1) != y).all())
    assert found.accuracy(math.inf).count == 0 and found.curve()[1][0] == pytest.approx(6 / 8)


@with_norm
@pytest.mark.parametrize("queries", [1, 2, 3, 30, 137])
def test_queries_are_counted_and_never_exceeded(norm: str, queries: int) -> None:
    model, x, y = case()
    asked: list[int] = []

    def counted(given: Tensor) -> Tensor:
        assert not torch.is_grad_enabled() and not given.requires_grad
        asked.append(len(given))
        return model(given)

    found = hop_skip_jump(counted, x, y, norm=norm, queries=queries, batch_size=5)
    assert sum(asked) == int(found.queries.sum()) and max(asked) <= 5
    assert int(found.queries.max()) <= queries
    assert queries < 30 or int(found.queries.min()) >= queries - 20


@with_norm
def test_only_the_decision_counts(norm: str) -> None:
    model, x, y = case()
    wanted = hop_skip_jump(model, x, y, norm=norm, queries=300)

    def decisions(x: Tensor) -> Tensor:
        return nn.functional.one_hot(model(x).argmax(1), 3).float()

    found = hop_skip_jump(decisions, x, y, norm=norm, queries=300)
    assert torch.equal(found.x_adv, wanted.x_adv)


@with_norm
def test_an_image_does_not_depend_on_the_others_but_on_the_generator(norm: str) -> None:
    model, x, y = case()
    model = model.double()
    x = x.double()
    wanted = hop_skip_jump(model, x, y, norm=norm, queries=150)
    few = hop_skip_jump(model, x[:3], y[:3], norm=norm, queries=150, batch_size=7)
    np.testing.assert_allclose(few.x_adv, wanted.x_adv[:3], atol=1e-6)
    drawn = torch.Generator().manual_seed(5)
    other = hop_skip_jump(model, x, y, norm=norm, queries=150, generator=drawn)
    assert not torch.equal(other.x_adv, wanted.x_adv)


@with_norm
def test_towards_a_class_it_begins_at_images_of_that_class(norm: str) -> None:
    model, x, y = linear(classes=3)
    start = torch.stack([x[y == (own + 1) % 3][0] for own in y.tolist()])
    target = (y + 1) % 3
    found = hop_skip_jump(model, x, target, norm=norm, queries=3000, targeted=True, start=start)
    assert bool(found.fooled.all()) and bool((model(found.x_adv).argmax(1) == target).all())
    share = found.eps.numpy() / exact(model, x, target, norm, targeted=True)
    assert share.min() >= 1 - 1e-5 and np.median(share) <= 1.3
    # What does not fool at the start is not used.
    none = hop_skip_jump(model, x, target, norm=norm, queries=9, targeted=True, start=x)
    assert none.eps.isinf().all() and none.queries.tolist() == [2] * len(x)
    assert torch.equal(none.x_adv, x)


def test_what_no_random_image_fools_comes_back_as_it_was() -> None:
    def sure(x: Tensor) -> Tensor:
        return torch.cat([0 * x.flatten(1)[:, :1] + 1, 0 * x.flatten(1)[:, :1]], 1)

    x = reference.images(2, 1, 2, 2).float()
    found = hop_skip_jump(sure, x, torch.zeros(2, dtype=torch.long), queries=500)
    assert found.eps.isinf().all() and not found.fooled.any() and torch.equal(found.x_adv, x)
    assert found.queries.tolist() == [51, 51]


def test_for_many_queries_it_needs_no_larger_budget_than_square_attack_by_much() -> None:
    """Square Attack sees logits; at the median distance it fools about half of the images."""
    model, x, y = case(32)
    found = hop_skip_jump(model, x, y, norm="linf", queries=2000)
    eps = found.eps.median().item()
    other = square_with_queries(model, x, y, eps, queries=2000)
    assert 0.3 <= other.fooled.double().mean() <= 0.95


def test_targeted_without_a_start_and_other_norms_are_refused() -> None:
    model, x, y = case()
    with pytest.raises(InputError, match="start is expected"):
        hop_skip_jump(model, x, y, targeted=True)
    with pytest.raises(InputError, match="start is expected"):
        hop_skip_jump(model, x, y, start=x[:2])
    with pytest.raises(ThreatError, match='known here are "l2" and "linf"'):
        hop_skip_jump(model, x, y, norm="l1")
