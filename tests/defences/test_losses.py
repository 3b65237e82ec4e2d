"""Objectives: each is the equation it quotes, and disturbs nothing."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from advlib.defences.losses import divergence_from, gradient_penalty, trades
from advlib.defences.recipes import Recipe, objective
from advlib.errors import InputError
from advlib.models.architectures import SignNet
from advlib.training import standard

RANDOM_STATE_IS_WATCHED = True

EPS = 0.1


def label_smoothing(share):
    return objective(Recipe("smoothed", "", objective="label smoothing", strength=share))


ALL = {
    "standard": standard,
    "label_smoothing": label_smoothing(0.1),
    "gradient_penalty": gradient_penalty,
    "trades": partial(trades, eps=EPS, steps=2),
}


@pytest.fixture
def batch(device):
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(6, 1, 4, 4, generator=generator)
    return x.to(device), (torch.arange(6) % 3).to(device)


@pytest.fixture
def model(device):
    """Small and smooth, so that finite differences apply; steep enough to be moved."""
    generator = torch.Generator().manual_seed(1)
    with torch.random.fork_rng(devices=[]):
        layers = [nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)]
    for layer in (layers[1], layers[3]):
        layer.weight.data = torch.randn(layer.weight.shape, generator=generator)
        layer.bias.data.zero_()
    return nn.Sequential(*layers).to(device)


@pytest.mark.parametrize("name", ALL)
def test_logits_are_those_of_the_batch_and_the_loss_can_be_descended(model, batch, name):
    x, y = batch
    logits, loss = ALL[name](model, x, y)
    assert torch.allclose(logits, model(x)) and loss.shape == ()
    loss.backward()
    slope = [p.grad for p in model.parameters()]
    assert all(g.isfinite().all() for g in slope) and any((g != 0).any() for g in slope)
    with torch.no_grad():
        for p in model.parameters():
            p -= 1e-3 * p.grad
    assert ALL[name](model, x, y)[1] < loss, "a small step along the gradient lowers it"


@pytest.mark.parametrize("name", ALL)
def test_images_labels_and_mode_stay_as_they_are(batch, name):
    x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    y = torch.arange(4) % 2
    with torch.random.fork_rng(devices=[]):
        model = SignNet(2, (4,), (1,)).train()
    before = x.clone(), y.clone()
    ALL[name](model, x, y)
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])
    assert not x.requires_grad and x.grad is None
    assert all(module.training for module in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


# -- label smoothing -------------------------------------------------------------------------------


@given(share=st.floats(0, 1))
def test_label_smoothing_is_the_cross_entropy_to_softened_labels(share):
    generator = torch.Generator().manual_seed(4)
    logits, y = torch.randn(5, 3, generator=generator), torch.tensor([0, 1, 2, 1, 0])
    _, loss = label_smoothing(share)(nn.Identity(), logits, y)
    soft = (1 - share) * F.one_hot(y, 3) + share / 3
    assert loss == pytest.approx(-(soft * logits.log_softmax(1)).sum(1).mean().item(), rel=1e-5)


def test_no_smoothing_is_cross_entropy(model, batch):
    assert label_smoothing(0.0)(model, *batch)[1] == standard(model, *batch)[1]


# -- gradient penalty ------------------------------------------------------------------------------


def test_penalty_is_the_squared_gradient_found_by_finite_differences(model, batch):
    x, y = (part.cpu() for part in batch)
    x, model = x.double(), model.cpu().double()
    plain = standard(model, x, y)[1].item()
    penalty = (gradient_penalty(model, x, y, strength=2.0)[1].item() - plain) / 2
    step, total = 1e-5, 0.0
    for i in range(len(x)):
        for j in range(16):
            delta = torch.zeros(16, dtype=x.dtype)
            delta[j] = step
            up, down = (
                F.cross_entropy(model(x[i : i + 1] + sign * delta.view(1, 1, 4, 4)), y[i : i + 1])
                for sign in (1, -1)
            )
            total += ((up - down) / (2 * step)).item() ** 2
    assert penalty == pytest.approx(total / len(x), rel=1e-5)


def test_penalty_reaches_the_weights(model, batch):
    """Without a second backward pass it would be a number that no weight can change."""
    grads = []
    for strength in (0.0, 1.0):
        model.zero_grad()
        gradient_penalty(model, *batch, strength=strength)[1].backward()
        grads.append(model[1].weight.grad.clone())
    assert (grads[0] - grads[1]).abs().max() > 1e-3


# -- TRADES ----------------------------------------------------------------------------------------


def test_trades_with_beta_0_is_cross_entropy(model, batch):
    logits, loss = trades(model, *batch, eps=EPS, beta=0.0)
    expected, plain = standard(model, *batch)
    assert torch.equal(loss, plain) and torch.equal(logits, expected)


def test_trades_in_a_ball_of_no_size_is_cross_entropy(model, batch):
    loss = trades(model, *batch, eps=0.0, beta=6.0)[1]
    assert loss.item() == pytest.approx(standard(model, *batch)[1].item(), abs=1e-6)


def test_trades_adds_beta_times_a_divergence_that_grows_with_the_ball(model, batch):
    plain = standard(model, *batch)[1].item()

    def extra(eps, beta):
        return trades(model, *batch, eps=eps, beta=beta)[1].item() - plain

    assert extra(EPS, 6.0) == pytest.approx(6 * extra(EPS, 1.0), rel=1e-4)
    assert 0 < extra(EPS / 2, 1.0) < extra(EPS, 1.0)
    x, y = batch
    noise = EPS * torch.sign(torch.randn(x.shape, generator=torch.Generator().manual_seed(5)))
    noisy = divergence_from(model(x))(model(x + noise.to(x.device)), y).mean().item()
    assert extra(EPS, 1.0) > 2 * noisy, "it searches the worst point, not just any"


def test_trades_uses_the_labels_only_in_its_first_term(model, batch):
    x, y = batch
    other = (y + 1) % 3
    apart = [
        trades(model, x, labels, eps=EPS)[1] - standard(model, x, labels)[1]
        for labels in (y, other)
    ]
    assert apart[0].item() == pytest.approx(apart[1].item(), rel=1e-4)


def test_trades_start_comes_from_its_generator(model, batch):
    losses = [
        trades(model, *batch, eps=EPS, steps=1, step_size=1e-6, generator=generator)[1].item()
        for generator in (
            torch.Generator(batch[0].device).manual_seed(7),
            torch.Generator(batch[0].device).manual_seed(7),
            torch.Generator(batch[0].device).manual_seed(8),
        )
    ]
    assert losses[0] == losses[1] != losses[2]


@given(seed=st.integers(0, 1000))
def test_divergence_is_zero_for_equal_predictions_and_positive_else(seed):
    generator = torch.Generator().manual_seed(seed)
    clean, moved = torch.randn(2, 4, 5, generator=generator)
    y = torch.zeros(4, dtype=torch.int64)
    assert divergence_from(clean)(clean + 1, y).abs().max() < 1e-5, (
        "a constant added to all logits changes nothing"
    )
    value = divergence_from(clean)(moved, y)
    assert value.shape == (4,) and (value > 0).all()
    p, q = clean.softmax(1), moved.softmax(1)
    assert torch.allclose(value, (p * (p / q).log()).sum(1), atol=1e-5)


@pytest.mark.parametrize(
    "bad, says",
    [
        (partial(gradient_penalty, strength=-1.0), "strength"),
        (partial(trades, eps=EPS, beta=-1.0), "beta"),
        (partial(trades, eps=EPS, beta=float("nan")), "beta"),
    ],
)
def test_bad_settings_say_what_is_wrong(model, batch, bad, says):
    with pytest.raises(InputError, match=says):
        bad(model, *batch)
