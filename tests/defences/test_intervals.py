"""Interval bounds: nothing in the ball lies beyond them, and training narrows them."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from advlib import pgd
from advlib.defences.intervals import certified, interval_bounds, worst_logits
from advlib.errors import ModelOutputError
from advlib.models.architectures import MLP, PlainCNN

EPS = 0.02


@pytest.fixture(params=[partial(PlainCNN, 4, (4, 6)), partial(MLP, classes=4, hidden=(9,), pool=2)])
def model(request, device):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return request.param().to(device)


@pytest.fixture
def batch(device):
    x = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    return x.to(device), (torch.arange(6) % 4).to(device)


def rises(model, x, y):
    logits = model(x)
    return logits - logits.gather(1, y[:, None])


def test_without_a_ball_the_bounds_are_the_logits(model, batch):
    x, y = batch
    assert torch.allclose(worst_logits(model, x, y, 0.0), rises(model, x, y), atol=1e-5)


def test_nothing_in_the_ball_lies_beyond_the_bounds(model, batch):
    x, y = batch
    worst = worst_logits(model, x, y, EPS)
    for other in range(4):
        x_adv = pgd(model, x, torch.full_like(y, other), EPS, steps=10, targeted=True)
        assert (rises(model, x_adv, y) <= worst + 1e-5).all()
    assert (worst > rises(model, x, y))[F.one_hot(y, 4) == 0].all(), "and they are not the logits"


def test_training_narrows_the_bounds_and_certifies(model, batch):
    x, y = batch
    assert not certified(model, x, y, EPS).any()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        logits, loss = interval_bounds(model, x, y, eps=0.002, share=0.5)
        loss.backward()
        optimizer.step()
    assert torch.equal(logits.argmax(1), y)
    proved = certified(model, x, y, 0.002)
    assert proved.any() and proved.dtype == torch.bool
    x_adv = pgd(model, x, y, 0.002, steps=20)
    assert (model(x_adv).argmax(1) == y)[proved].all()


def test_share_weighs_the_two_losses(model, batch):
    x, y = batch
    logits, clean = interval_bounds(model, x, y, eps=EPS, share=0.0)
    _, worst = interval_bounds(model, x, y, eps=EPS, share=1.0)
    _, half = interval_bounds(model, x, y, eps=EPS, share=0.5)
    assert torch.allclose(clean, F.cross_entropy(model(x), y)) and logits.shape == (6, 4)
    assert worst > clean and torch.allclose(half, (clean + worst) / 2)


def test_other_networks_are_refused(batch):
    with pytest.raises(ModelOutputError, match="PlainCNN"):
        worst_logits(nn.Flatten(), *batch, EPS)
