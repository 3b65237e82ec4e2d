"""Momentum, images resized at random, and ensembles of surrogates."""

import math

import pytest
import reference
import torch
from cases import assert_inside, dtypes, radii, seeds, shapes
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from advlib.attacks import fgsm
from advlib.attacks.momentum import ensemble, momentum, resized
from advlib.errors import DeviceError, InputError, ModelOutputError, ThreatError
from advlib.gradients import cross_entropy, input_gradient

RANDOM_STATE_IS_WATCHED = True


def images(n=40):
    return 0.2 + 0.6 * torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def linear(seed, classes=3):
    """A linear network in training mode with trainable weights, drawn from `seed`."""
    return reference.linear(16, classes, seed).float()


@pytest.fixture
def model():
    return linear(1)


@pytest.fixture
def other():
    return linear(2)


@pytest.fixture
def x():
    return images()


@pytest.fixture
def y(model, x):
    return model(x).argmax(1)


@given(
    shape=shapes,
    seed=seeds,
    eps=radii,
    dtype=dtypes,
    decay=st.floats(0, 2),
    targeted=st.booleans(),
)
def test_momentum_lies_in_ball_and_box(shape, seed, eps, dtype, decay, targeted):
    x = reference.images(*shape, seed=seed).to(dtype)
    y, model = reference.classes(len(x), 5, seed), reference.mlp(x[0].numel(), 5, seed % 7)
    eps = min(eps, 1e4) if dtype == torch.float16 else eps
    before = x.clone(), y.clone()
    options = {"steps": 3, "decay": decay, "targeted": targeted}
    x_adv = momentum(model.to(dtype), x, y, eps, **options)
    assert_inside(x, x_adv, eps, "linf")
    assert x_adv.data_ptr() != x.data_ptr() and not x_adv.requires_grad
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])


class OneByOne(nn.Module):
    """Each image alone: its logits are the same to the last bit, whatever stands beside it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return torch.cat([self.model(one) for one in x.split(1)])


@given(seed=seeds, n=st.integers(1, 6), cut=st.integers(0, 6), targeted=st.booleans())
def test_momentum_treats_each_image_alone(seed, n, cut, targeted):
    """Permuting the batch permutes the result, and two halves are the whole."""
    # Curved, so that the gradients have many sizes.
    model = OneByOne(reference.mlp(16, 5, seed % 7, 6.0).double())
    x, y = reference.images(n, 1, 4, 4, seed=seed, ends=0.1), reference.classes(n, 5, seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))

    def run(x, y):
        return momentum(model, x, y, 0.5, steps=6, targeted=targeted)

    whole = run(x, y)
    assert torch.equal(run(x[order], y[order]), whole[order])
    assert torch.equal(torch.cat([run(x[:cut], y[:cut]), run(x[cut:], y[cut:])]), whole)


@given(eps=st.floats(0, 0.6), steps=st.integers(1, 5), decay=st.floats(0, 2), turn=st.booleans())
def test_momentum_stays_in_ball_and_box_and_repeats_itself(eps, steps, decay, turn):
    model, x = linear(1), images(6)
    y = model(x).argmax(1)
    transform = resized if turn else None
    given = dict(steps=steps, decay=decay, transform=transform)
    x_adv = momentum(model, x, y, eps, **given)
    assert (x_adv - x).abs().max() <= eps and x_adv.min() >= 0 and x_adv.max() <= 1
    assert x_adv.equal(momentum(model, x, y, eps, **given))


def test_one_step_is_fgsm(model, x, y):
    x_adv = momentum(model, x, y, 0.1, steps=1)
    torch.testing.assert_close(x_adv, fgsm(model, x, y, 0.1))


def test_momentum_remembers():
    """Past the top of a gentle slope the steps before outvote the gradient; alone it turns back."""
    x, y = torch.full((1, 1, 1, 2), 0.5), torch.tensor([0])

    def hill(x):  # the loss of class 0 rises up to 0.525, and falls beyond it
        height = -(x.flatten(1).sum(1) / 2 - 0.525).abs()
        return torch.stack([-height, height], 1)

    given = dict(steps=5, step_size=0.01, loss="margin")
    steady = momentum(hill, x, y, 0.1, **given)
    forgetful = momentum(hill, x, y, 0.1, decay=0, **given)
    torch.testing.assert_close(steady, torch.full_like(x, 0.55))  # 3 votes up, then 2, then 1
    torch.testing.assert_close(forgetful, torch.full_like(x, 0.53))  # to and fro


def test_momentum_lowers_the_loss_of_a_target(model, x):
    target = torch.zeros(len(x), dtype=torch.int64)
    x_adv = momentum(model, x, target, 0.1, targeted=True)
    before, after = (cross_entropy(model(z), target) for z in (x, x_adv))
    assert (after < before).all()


def test_momentum_leaves_no_trace(model, x, y):
    before = x.clone()
    momentum(model, x, y, 0.1, transform=resized)
    assert model.training and x.equal(before) and not x.requires_grad
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    with pytest.raises(RuntimeError, match="my own"):
        momentum(model, x, y, 0.1, transform=_fails)
    assert model.training and all(p.requires_grad for p in model.parameters())


def _fails(x, generator):
    raise RuntimeError("my own")


@pytest.mark.parametrize(
    "wrong, error, says",
    [
        (dict(eps=-1), ThreatError, "eps"),
        (dict(steps=0), ThreatError, "steps"),
        (dict(step_size=0), ThreatError, "step_size"),
        (dict(decay=-1), InputError, "decay"),
        (dict(decay=math.nan), InputError, "decay"),
        (dict(loss="cross"), ThreatError, "loss"),
    ],
)
def test_momentum_says_what_is_wrong(model, x, y, wrong, error, says):
    with pytest.raises(error, match=says):
        momentum(model, x, y, **{"eps": 0.1, **wrong})


def test_resized_keeps_shape_range_and_gradient():
    x = reference.images(3, 3, 16, 16).requires_grad_()
    generator = torch.Generator().manual_seed(0)
    seen = [resized(x, generator, smallest=0.5) for _ in range(40)]
    assert all(z.shape == x.shape and z.min() >= 0 and z.max() <= 1 for z in seen)
    kept = sum(z is x for z in seen)
    assert 8 <= kept <= 32, "one call in two"
    moved = next(z for z in seen if z is not x)
    assert len({tuple(z.flatten().tolist()) for z in seen}) > 10, "other sizes and places each time"
    (grad,) = torch.autograd.grad(moved.sum(), x)
    assert grad.abs().sum() > 0


def test_ensemble_averages_logits_or_probabilities(model, other, x, y):
    torch.testing.assert_close(ensemble([model, other])(x), (model(x) + other(x)) / 2)
    together = ensemble([model, other], average="probabilities")(x)
    mean = (model(x).softmax(1) + other(x).softmax(1)) / 2
    torch.testing.assert_close(together.softmax(1), mean)
    loss_of_liu = -mean.gather(1, y[:, None])[:, 0].log()
    torch.testing.assert_close(cross_entropy(together, y), loss_of_liu)


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_an_ensemble_of_one_has_the_gradient_of_that_one(model, x, y, average):
    alone = input_gradient(model, x, y).grad
    grad = input_gradient(ensemble([model], average=average), x, y).grad
    torch.testing.assert_close(grad, alone)


def test_ensemble_takes_functions_and_freezes_modules(model, other, x, y):
    mixed = ensemble([model, lambda x: other(x)])
    torch.testing.assert_close(mixed(x), ensemble([model, other])(x))
    assert model.training
    fgsm(mixed, x, y, 0.1)
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())


def test_ensemble_says_what_is_wrong(model, x):
    with pytest.raises(InputError, match="no model"):
        ensemble([])
    with pytest.raises(InputError, match='"logits" or "probabilities"'):
        ensemble([model], average="mean")
    with pytest.raises(ModelOutputError, match="same classes"):
        ensemble([model, linear(3, classes=4)])(x)


def test_both_run_on_every_device(device):
    one, two = linear(1).to(device), linear(2).to(device)
    x = images().to(device)
    y = one(x).argmax(1)
    assert momentum(ensemble([one, two]), x, y, 0.1, transform=resized).device == x.device
    if device.type == "cuda":
        with pytest.raises(DeviceError, match="cuda"):
            momentum(one, x.cpu(), y.cpu(), 0.1)
