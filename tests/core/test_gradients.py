"""The input gradient: its value, its losses, and what it refuses."""

import copy

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import advlib
from advlib.errors import ModelOutputError, ThreatError
from advlib.gradients import LOSSES, cross_entropy, margin, resolve_loss

RANDOM_STATE_IS_WATCHED = True

MODELS = {
    "linear": reference.linear(27),
    "mlp": reference.mlp(27),
    "conv": reference.conv(3),
}


@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("name", MODELS)
def test_gradient_loss_and_logits_agree_with_plain_autograd(
    name: str, loss: str, device: torch.device
) -> None:
    model, x, y = MODELS[name], reference.images(7, 3, 3, 3), reference.classes(7)
    expected = reference.torch_oracle(model, loss)(x.numpy(), y.numpy())
    model = copy.deepcopy(model).to(device)
    got = advlib.input_gradient(model, x.float().to(device), y.to(device), loss=loss)
    np.testing.assert_allclose(got.grad.cpu(), expected.grad, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got.loss.cpu(), expected.loss, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(got.logits.cpu(), expected.logits, rtol=1e-4, atol=1e-5)
    assert got.grad.dtype == torch.float32 and got.grad.shape == x.shape
    assert not any(part.requires_grad for part in got)


def test_gradient_agrees_with_what_is_worked_out_by_hand() -> None:
    x, y = reference.images(5, 12), reference.classes(5)
    model = reference.linear(12).double()
    weight, bias = (p.detach().numpy() for p in model.parameters())
    expected = reference.linear_oracle(weight, bias)(x.numpy(), y.numpy())
    np.testing.assert_allclose(advlib.input_gradient(model, x, y).grad, expected.grad, rtol=1e-9)
    model = reference.mlp(12).double()
    w1, b1, w2, b2 = (p.detach().numpy() for p in model.parameters())
    expected = reference.mlp_oracle(w1, b1, w2, b2)(x.numpy(), y.numpy())
    np.testing.assert_allclose(advlib.input_gradient(model, x, y).grad, expected.grad, rtol=1e-9)


def test_gradient_predicts_the_change_of_the_loss() -> None:
    model, x, y = reference.mlp(12).double(), reference.images(4, 12, ends=0), torch.arange(4) % 3
    x = 0.25 + x / 2
    here = advlib.input_gradient(model, x, y)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).double()
    up = advlib.input_gradient(model, x + 1e-5 * direction, y).loss
    down = advlib.input_gradient(model, x - 1e-5 * direction, y).loss
    np.testing.assert_allclose((up - down) / 2e-5, (here.grad * direction).sum(1), rtol=1e-5)


@given(seed=st.integers(0, 1000), n=st.integers(2, 6))
def test_gradient_of_a_image_does_not_depend_on_its_neighbours(seed: int, n: int) -> None:
    model = reference.mlp(12).double()
    x, y = reference.images(n, 12, seed=seed), reference.classes(n, seed=seed)
    whole = advlib.input_gradient(model, x, y).grad
    for i in range(n):
        alone = advlib.input_gradient(model, x[i : i + 1], y[i : i + 1]).grad[0]
        np.testing.assert_allclose(whole[i], alone, rtol=1e-9, atol=1e-12)


def test_cross_entropy_is_minus_the_log_probability() -> None:
    logits = torch.tensor([[0.0, 0.0], [3.0, 0.0]], dtype=torch.float64)
    value = cross_entropy(logits, torch.tensor([0, 1]))
    np.testing.assert_allclose(value, [np.log(2), np.log1p(np.exp(3))])


def test_margin_says_how_far_the_best_other_class_is_ahead() -> None:
    logits = torch.tensor([[1.0, 4.0, 2.5], [1.0, 4.0, 2.5], [-3.0, -5.0, -9.0]])
    assert margin(logits, torch.tensor([0, 1, 2])).tolist() == [3.0, -1.5, 6.0]


@given(seed=st.integers(0, 10_000), classes=st.integers(2, 6))
def test_margin_is_positive_exactly_when_the_image_is_misclassified(seed, classes) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(20, classes, generator=generator)
    y = torch.randint(classes, (20,), generator=generator)
    assert torch.equal(margin(logits, y) > 0, logits.argmax(1) != y)


def test_losses_go_by_name_or_are_functions() -> None:
    assert resolve_loss("ce") is cross_entropy is LOSSES["ce"]
    assert resolve_loss("margin") is margin

    def mine(logits: Tensor, y: Tensor) -> Tensor:
        return logits[:, 0] * 2

    assert resolve_loss(mine) is mine
    model, x, y = reference.linear(12).double(), reference.images(3, 12), reference.classes(3)
    got = advlib.input_gradient(model, x, y, loss=mine)
    weight = model[1].weight.detach()
    np.testing.assert_allclose(got.grad, 2 * weight[0].expand(3, -1), rtol=1e-12)
    np.testing.assert_allclose(got.loss, 2 * model(x).detach()[:, 0], rtol=1e-12)


@pytest.mark.parametrize("loss", ["CE", "dlr", None, ["ce"], 3], ids=repr)
def test_an_unknown_loss_is_named_together_with_the_known_ones(loss: object) -> None:
    model, x, y = reference.linear(12), reference.images(3, 12).float(), reference.classes(3)
    for attack in (advlib.input_gradient, advlib.fgsm, advlib.pgd):
        with pytest.raises(ThreatError, match=r'loss is .*"ce" .*"margin"'):
            attack(model, x, y, loss=loss)


def test_a_loss_that_averages_is_refused_with_the_way_out() -> None:
    model, x, y = reference.linear(12), reference.images(3, 12).float(), reference.classes(3)
    for attack in (advlib.input_gradient, advlib.fgsm, advlib.pgd):
        with pytest.raises(ThreatError, match=r'shape \(\);.*shape \(3,\).*reduction="none"'):
            attack(model, x, y, loss=nn.CrossEntropyLoss())


def test_losses_see_half_precision_logits_in_float32() -> None:
    seen = []

    def spy(logits: Tensor, y: Tensor) -> Tensor:
        seen.append(logits.dtype)
        return cross_entropy(logits, y)

    y = reference.classes(3)
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        model, x = reference.linear(12).to(dtype), reference.images(3, 12).to(dtype)
        got = advlib.input_gradient(model, x, y, loss=spy)
        assert got.grad.dtype == dtype
        advlib.pgd(model, x, y, steps=1, loss=spy)
    assert seen == [torch.float32] * 9 + [torch.float64] * 3


def test_an_empty_batch_gives_empty_results() -> None:
    model = reference.linear(12)
    got = advlib.input_gradient(model, torch.zeros(0, 3, 2, 2), torch.zeros(0, dtype=torch.long))
    assert got.grad.shape == (0, 3, 2, 2)
    assert got.loss.shape == (0,) and got.logits.shape[0] == 0


CUT = {
    "no_grad": lambda x: torch.no_grad()(reference.linear(12))(x),
    "detach": lambda x: reference.linear(12)(x.detach()),
    "numpy": lambda x: torch.from_numpy(x.detach().numpy() @ np.ones((12, 3), np.float32)),
    "constant": lambda x: torch.zeros(len(x), 3),
    "parameter only": lambda x: torch.zeros(len(x), 3) + torch.ones(3, requires_grad=True),
}


@pytest.mark.parametrize("name", CUT)
def test_a_model_whose_gradient_does_not_reach_x_is_named(name: str) -> None:
    x, y = reference.images(3, 12).float(), reference.classes(3)
    for attack in (advlib.input_gradient, advlib.fgsm, advlib.pgd):
        with pytest.raises(ModelOutputError, match=r"no gradient reaches x.*differentiable"):
            attack(CUT[name], x, y)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("targeted", [False, True])
def test_a_gradient_that_is_not_finite_is_refused(norm: str, targeted: bool) -> None:
    """The derivative of the square root at 0 is infinite, times 0 NaN."""
    linear, x, y = reference.linear(12), reference.images(3, 12).float(), reference.classes(3)
    x[1, 4] = 0

    def model(x: Tensor) -> Tensor:
        return linear((x * x).sqrt())

    for attack in (advlib.fgsm, advlib.pgd):
        options = {} if attack is advlib.fgsm else {"random_start": False, "steps": 2}
        with pytest.raises(ModelOutputError, match=r"gradient .* NaN or infinite.*square root"):
            attack(model, x, y, norm=norm, targeted=targeted, **options)


def test_an_infinite_gradient_is_refused() -> None:
    x, y = torch.tensor([[0.0, 0.5]]), torch.tensor([0])
    for sign in (1, -1):
        with pytest.raises(ModelOutputError, match="NaN or infinite"):
            advlib.fgsm(lambda x, sign=sign: sign * x.sqrt(), x, y, loss=lambda z, y: z.sum(1))


def test_a_gradient_that_breaks_on_the_way_is_refused_too() -> None:
    """Finite at the start and NaN only after the first step down to 0."""
    x = torch.full((2, 3), 0.125)

    def model(x: Tensor) -> Tensor:
        return torch.stack([(x * x).sqrt().sum(1), 0.3 + 0 * x.sum(1)], 1)

    options = {"step_size": 0.125, "random_start": False, "loss": lambda logits, y: -logits[:, 0]}
    y = torch.zeros(2, dtype=torch.long)
    with pytest.raises(ModelOutputError, match="NaN or infinite"):
        advlib.pgd(model, x, y, 0.125, steps=2, **options)
    # One step less, and the point where it breaks is never asked for a gradient.
    assert advlib.pgd(model, x, y, 0.125, steps=1, **options).tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("targeted", [False, True])
def test_a_gradient_whose_sum_overflows_is_finite_all_the_same(targeted: bool) -> None:
    x, y = torch.full((1, 4), 0.5), torch.tensor([0])

    def model(x: Tensor) -> Tensor:
        steep = (x - 0.5) * 3e38
        return torch.stack([0 * x.sum(1), steep[:, 0] + steep[:, 1]], 1)

    grad = advlib.input_gradient(model, x, y, loss="margin").grad
    assert grad.isfinite().all() and not grad.sum().isfinite()
    x_adv = advlib.fgsm(model, x, y, 0.1, loss="margin", targeted=targeted)
    moved = -0.1 if targeted else 0.1
    expected = torch.tensor([[moved, moved, 0, 0]])
    torch.testing.assert_close(x_adv - x, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("frozen", [False, True])
def test_the_weight_that_attention_multiplies_by_stays_free_and_gets_no_gradient(frozen) -> None:
    """Frozen, torch would copy it for each token, and the gradient would take longer."""
    seen: dict[str, bool] = {}

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            seen.update({name: p.requires_grad for name, p in self.named_parameters()})
            tokens = x.flatten(2).transpose(1, 2)
            return self.head(self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(1))

    model = reference.without_seed(Tokens).requires_grad_(not frozen)
    x = torch.rand(2, 8, 3, 3, generator=torch.Generator().manual_seed(0))
    assert advlib.input_gradient(model, x, torch.tensor([0, 2])).grad.abs().sum() > 0
    assert [name for name, free in seen.items() if free] == ["attention.in_proj_weight"]
    assert all(p.requires_grad is not frozen and p.grad is None for p in model.parameters())
