"""One perturbation for all images: where it may go, and what it does on unseen ones."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from advlib import threats
from advlib.attacks.universal import universal
from advlib.audit.transfer import transfer_rate
from advlib.errors import DeviceError, InputError, ThreatError

RANDOM_STATE_IS_WATCHED = True


def linear(seed, classes=3, shape=(1, 4, 4)):
    """A linear network in training mode with trainable weights, drawn from `seed`."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        head = nn.Linear(math.prod(shape), classes)
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=generator))
        head.bias.copy_(-0.5 * head.weight.sum(1))
    return nn.Sequential(nn.Flatten(), head)


def images(n=40, seed=0, shape=(1, 4, 4)):
    generator = torch.Generator().manual_seed(seed)
    return 0.2 + 0.6 * torch.rand(n, *shape, generator=generator)


@given(
    eps=st.floats(0, 2),
    norm=st.sampled_from(["linf", "l2", "l1"]),
    seed=st.integers(0, 5),
)
def test_universal_is_one_perturbation_inside_its_ball(eps, norm, seed):
    model, x = linear(seed), images(20, seed)
    delta = universal(model, x, model(x).argmax(1), eps, norm=norm, epochs=2, batch_size=8)
    assert delta.shape == (1, 1, 4, 4) and delta.isfinite().all()
    assert threats.norm(delta, norm).max() <= eps


@pytest.mark.parametrize("norm, eps", [("linf", 0.25), ("l2", 1.0)])
def test_universal_fools_on_unseen_images_where_noise_does_not(norm, eps):
    """One class against another: the common direction is the one of the weights."""
    model = linear(4, classes=2)
    x = images(400, 3)
    rows = (model(x).argmax(1) == 0).nonzero().squeeze(1)
    x, y = x[rows], torch.zeros(len(rows), dtype=torch.int64)
    half = len(x) // 2
    delta = universal(model, x[:half], y[:half], eps, norm=norm)
    unseen, labels = x[half:], y[half:]
    shown = threats.confine(unseen, delta.expand_as(unseen), eps, norm)
    fooled = transfer_rate(model, unseen, shown, labels)
    back = threats.confine(unseen, -delta.expand_as(unseen), eps, norm)
    assert fooled.low > 0.6 and transfer_rate(model, unseen, back, labels).value < 0.05


def test_universal_repeats_itself_and_leaves_no_trace():
    model, x = linear(1), images()
    y = model(x).argmax(1)
    before = x.clone()
    one, two = (universal(model, x, y, 0.1) for _ in range(2))
    assert one.equal(two) and x.equal(before) and model.training
    other = universal(model, x, y, 0.1, batch_size=8, generator=torch.Generator().manual_seed(5))
    assert other.shape == one.shape
    assert (universal(model, x, y, 0) == 0).all()


@pytest.mark.parametrize(
    "wrong, error, says",
    [
        (dict(eps=-1), ThreatError, "eps"),
        (dict(norm="l3"), ThreatError, "norm"),
        (dict(epochs=0), ThreatError, "epochs"),
        (dict(batch_size=0), ThreatError, "batch_size"),
        (dict(step_size=-1), ThreatError, "step_size"),
        (dict(cap=0), InputError, "cap"),
        (dict(x=torch.zeros(0, 1, 4, 4), y=torch.zeros(0).long()), InputError, "no image"),
    ],
)
def test_universal_says_what_is_wrong(wrong, error, says):
    x = images()
    given = {"x": x, "y": torch.zeros(len(x), dtype=torch.int64), "eps": 0.1, **wrong}
    with pytest.raises(error, match=says):
        universal(linear(1), **given)


def test_universal_runs_on_every_device(device):
    model, x = linear(1).to(device), images().to(device)
    y = model(x).argmax(1)
    assert universal(model, x, y, 0.1).device == x.device
    if device.type == "cuda":
        with pytest.raises(DeviceError, match="cuda"):
            universal(model, x.cpu(), y.cpu(), 0.1)
