"""A norm of the reader's own: one class and one row of `threats.NORMS`, and the attacks know it."""

import numpy as np
import pytest
import reference
import torch
from cases import assert_inside
from torch import Tensor

import advlib
from advlib import threats
from advlib.errors import ThreatError
from advlib.gradients import cross_entropy

RANDOM_STATE_IS_WATCHED = True

WEIGHT = torch.linspace(0.25, 2.0, 75, dtype=torch.float64).view(3, 5, 5)


class Weighted(threats.Norm):
    """L-infinity in which each pixel value has a weight: max of ``weight * |delta|``."""

    def weight(self, like: Tensor) -> Tensor:
        return WEIGHT.to(like.device, like.dtype)

    def length(self, delta: Tensor) -> Tensor:
        return (self.weight(delta) * delta).abs().flatten(1).amax(1)

    def dual(self, grad: Tensor) -> Tensor:
        return (grad / self.weight(grad)).abs().flatten(1).sum(1)

    def diameter(self, x: Tensor) -> float:
        return float(WEIGHT.max())

    def project(self, delta: Tensor, eps: float, x: Tensor | None = None) -> Tensor:
        reach = eps / self.weight(delta)
        delta = delta.clamp(-reach, reach)
        return delta if x is None else delta.clamp(-x, 1 - x)

    def steepest(self, grad: Tensor, eps: float | Tensor, x: Tensor | None = None) -> Tensor:
        delta = threats.per_image(eps, grad) * grad.sign() / self.weight(grad)
        return delta if x is None else delta.clamp(-x, 1 - x)

    def random_point(self, draw, eps, generator, where) -> Tensor:
        draw = draw.uniform_(-eps, eps, generator=generator) / self.weight(draw)
        return threats.keep(draw, where)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(threats.NORMS, "weighted", Weighted())


def data(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return reference.images(6, 3, 5, 5, ends=0.1).to(dtype), reference.classes(6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("eps", [0.0, 1 / 255, 0.1, 0.3, 5.0])
def test_noise_fgsm_and_pgd_stay_in_its_ball_exactly(dtype: torch.dtype, eps: float) -> None:
    (x, y), model = data(dtype), reference.mlp(75).to(dtype)
    where = torch.arange(25).view(5, 5) % 2 == 0
    for x_adv in (
        advlib.noise(x, eps, norm="weighted"),
        advlib.fgsm(model, x, y, eps, norm="weighted"),
        advlib.fgsm(model, x, y, eps, norm="weighted", targeted=True, where=where),
        advlib.pgd(model, x, y, eps, norm="weighted", steps=4, restarts=2),
        advlib.pgd(model, x, y, eps, norm="weighted", steps=4, early_stop=True, where=where),
    ):
        assert_inside(x, x_adv, eps, "weighted")


def test_fgsm_moves_each_pixel_value_by_its_own_reach() -> None:
    x, y = torch.full((4, 3, 5, 5), 0.5, dtype=torch.float64), reference.classes(4)
    model = reference.mlp(75).double()
    sign = advlib.input_gradient(model, x, y).grad.sign()
    got = advlib.fgsm(model, x, y, 0.05, norm="weighted")
    np.testing.assert_allclose(got, x + 0.05 * sign / WEIGHT, atol=1e-6)


def test_pgd_finds_more_than_noise_and_at_least_as_much_as_fgsm() -> None:
    (x, y), model = data(torch.float64), reference.mlp(75).double()

    def loss(x: Tensor) -> float:
        return float(cross_entropy(model(x), y).detach().sum())

    noisy = loss(advlib.noise(x, 0.1, norm="weighted"))
    one = loss(advlib.fgsm(model, x, y, 0.1, norm="weighted"))
    many = loss(advlib.pgd(model, x, y, 0.1, norm="weighted", steps=20, random_start=False))
    assert noisy < one <= many + 1e-9


def test_caller_and_model_are_left_alone() -> None:
    (x, y), model = data(), reference.mlp(75).train()
    model[1].weight.grad = torch.ones_like(model[1].weight)
    before = x.clone(), [p.detach().clone() for p in model.parameters()]
    advlib.pgd(model, x, y, 0.1, norm="weighted", steps=3)
    assert model.training and all(p.requires_grad for p in model.parameters())
    assert torch.equal(x, before[0]) and float(model[1].weight.grad.min()) == 1
    assert all(map(torch.equal, model.parameters(), before[1]))


def test_an_attack_that_knows_only_some_norms_says_so() -> None:
    from advlib.attacks.square import square

    (x, y), model = data(), reference.mlp(75)
    with pytest.raises(ThreatError, match='norm is \'weighted\'.*"linf", "l2" and "l1"'):
        square(model, x, y, 0.1, norm="weighted", queries=3)
