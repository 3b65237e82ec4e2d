"""Transfer: who counts, what an ensemble computes, and where a perturbation may go."""

import math

import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_threats import assert_inside, dtypes, radii, seeds, shapes
from torch import nn

from advlib import threats, transfer
from advlib.attacks import fgsm
from advlib.errors import (
    DeviceError,
    InputError,
    LabelError,
    ModelOutputError,
    PixelError,
    ThreatError,
)
from advlib.gradients import cross_entropy, input_gradient

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


def pictures(n=40, seed=0, shape=(1, 4, 4)):
    generator = torch.Generator().manual_seed(seed)
    return 0.2 + 0.6 * torch.rand(n, *shape, generator=generator)


@pytest.fixture
def pair():
    models = {"a": linear(1), "b": linear(2)}
    x = pictures()
    return models, x, models["a"](x).argmax(1)


def by(eps):
    return lambda model, x, y: fgsm(model, x, y, eps)


# -- measuring -------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [7, 256])
def test_matrix_counts_among_pictures_that_both_read_rightly(pair, batch_size):
    models, x, y = pair
    matrix = transfer.transfer_matrix(models, x, y, by(0.2), batch_size=batch_size)
    assert list(matrix) == ["a", "b"] and list(matrix["a"]) == ["a", "b"]
    for s, row in matrix.items():
        x_adv = fgsm(models[s], x, y, 0.2)
        for t, share in row.items():
            both = (models[s](x).argmax(1) == y) & (models[t](x).argmax(1) == y)
            missed = both & (models[t](x_adv).argmax(1) != y)
            assert (share.count, share.total) == (int(missed.sum()), int(both.sum()))
            assert share.low <= share.value <= share.high
    assert matrix["b"]["b"].total < len(x), "the second model misreads some pictures"
    assert matrix["a"]["a"].count > 0


def test_an_attack_that_does_nothing_travels_nowhere(pair):
    """Also where a target misreads most pictures: what it misreads anyway is not counted."""
    models, x, y = pair
    matrix = transfer.transfer_matrix(models, x, y, lambda model, x, y: x)
    assert all(share.count == 0 for row in matrix.values() for share in row.values())


def test_matrix_of_other_targets(pair):
    models, x, y = pair
    third = linear(3)
    matrix = transfer.transfer_matrix(models, x, y, by(0.2), targets={"c": third})
    assert {name: list(row) for name, row in matrix.items()} == {"a": ["c"], "b": ["c"]}
    x_adv = fgsm(models["a"], x, y, 0.2)
    assert matrix["a"]["c"] == transfer.transfer_rate(third, x, x_adv, y, surrogate=models["a"])
    alone = transfer.transfer_rate(third, x, x_adv, y)
    assert alone.total == int((third(x).argmax(1) == y).sum()) >= matrix["a"]["c"].total


def test_matrix_of_no_pictures_measures_nothing(pair):
    models, x, y = pair
    matrix = transfer.transfer_matrix(models, x[:0], y[:0], by(0.2))
    assert matrix["a"]["b"].total == 0


def test_matrix_says_what_is_wrong(pair):
    models, x, y = pair
    with pytest.raises(InputError, match="no model"):
        transfer.transfer_matrix({}, x, y, by(0.2))
    with pytest.raises(InputError, match="no model"):
        transfer.transfer_matrix(models, x, y, by(0.2), targets={})
    with pytest.raises(PixelError, match="pixels"):
        transfer.transfer_matrix(models, 3 * x, y, by(0.2))
    with pytest.raises(LabelError, match="one class per picture"):
        transfer.transfer_matrix(models, x, y[:3], by(0.2))
    with pytest.raises(LabelError, match="knows the classes 0 to 2"):
        transfer.transfer_matrix(models, x, y + 5, by(0.2))
    with pytest.raises(ThreatError, match="batch_size"):
        transfer.transfer_matrix(models, x, y, by(0.2), batch_size=0)
    with pytest.raises(InputError, match="before and after"):
        transfer.transfer_rate(models["a"], x, x[:3], y)


def test_alignment_is_a_cosine_and_symmetric(pair):
    (a, b), x, y = pair[0].values(), pair[1], pair[2]
    with torch.no_grad():
        torch.testing.assert_close(transfer.alignment(a, a, x, y), torch.ones(len(x)))
    one, two = transfer.alignment(a, b, x, y), transfer.alignment(b, a, x, y)
    torch.testing.assert_close(one, two)
    assert one.abs().max() <= 1 + 1e-6 and one.std() > 0.05
    opposite = nn.Sequential(a, Times(-1.0))
    two_classes = linear(5, classes=2)
    z = torch.zeros(len(x), dtype=torch.int64)
    against = nn.Sequential(two_classes, Times(-1.0))
    torch.testing.assert_close(transfer.alignment(two_classes, against, x, z), -torch.ones(len(x)))
    assert transfer.alignment(a, opposite, x, y).shape == (len(x),)
    flat = nn.Sequential(a, Times(0.0))
    assert (transfer.alignment(a, flat, x, y) == 0).all()


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, logits):
        return self.factor * logits


# -- ensembles -------------------------------------------------------------------------------------


def test_ensemble_averages_logits_or_probabilities(pair):
    (a, b), x, y = pair[0].values(), pair[1], pair[2]
    torch.testing.assert_close(transfer.ensemble([a, b])(x), (a(x) + b(x)) / 2)
    together = transfer.ensemble([a, b], average="probabilities")(x)
    mean = (a(x).softmax(1) + b(x).softmax(1)) / 2
    torch.testing.assert_close(together.softmax(1), mean)
    (
        torch.testing.assert_close(
            cross_entropy(together, y), -mean.gather(1, y[:, None])[:, 0].log()
        ),
        "equation of Liu et al. 2017",
    )


@pytest.mark.parametrize("average", ["logits", "probabilities"])
def test_an_ensemble_of_one_has_the_gradient_of_that_one(pair, average):
    models, x, y = pair
    alone = input_gradient(models["a"], x, y).grad
    grad = input_gradient(transfer.ensemble([models["a"]], average=average), x, y).grad
    torch.testing.assert_close(grad, alone)


def test_ensemble_takes_functions_and_freezes_modules(pair):
    (a, b), x, y = pair[0].values(), pair[1], pair[2]
    mixed = transfer.ensemble([a, lambda x: b(x)])
    torch.testing.assert_close(mixed(x), transfer.ensemble([a, b])(x))
    assert a.training
    fgsm(mixed, x, y, 0.1)
    assert a.training and all(p.requires_grad and p.grad is None for p in a.parameters())


def test_ensemble_says_what_is_wrong(pair):
    a, x = pair[0]["a"], pair[1]
    with pytest.raises(InputError, match="no model"):
        transfer.ensemble([])
    with pytest.raises(InputError, match='"logits" or "probabilities"'):
        transfer.ensemble([a], average="mean")
    with pytest.raises(ModelOutputError, match="same classes"):
        transfer.ensemble([a, linear(3, classes=4)])(x)


# -- momentum --------------------------------------------------------------------------------------


@given(
    shape=shapes,
    seed=seeds,
    eps=radii,
    dtype=dtypes,
    decay=st.floats(0, 2),
    targeted=st.booleans(),
)
def test_momentum_lies_in_ball_and_box(shape, seed, eps, dtype, decay, targeted):
    x = reference.pictures(*shape, seed=seed).to(dtype)
    y, model = reference.classes(len(x), 5, seed), reference.mlp(x[0].numel(), 5, seed % 7)
    eps = min(eps, 1e4) if dtype == torch.float16 else eps
    before = x.clone(), y.clone()
    options = {"steps": 3, "decay": decay, "targeted": targeted}
    x_adv = transfer.momentum(model.to(dtype), x, y, eps, **options)
    assert_inside(x, x_adv, eps, "linf")
    assert x_adv.data_ptr() != x.data_ptr() and not x_adv.requires_grad
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])


class OneByOne(nn.Module):
    """Each picture alone: its logits are the same to the last bit, whatever stands beside it."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return torch.cat([self.model(one) for one in x.split(1)])


@given(seed=seeds, n=st.integers(1, 6), cut=st.integers(0, 6), targeted=st.booleans())
def test_momentum_treats_each_picture_alone(seed, n, cut, targeted):
    """Permuting the batch permutes the result, and two halves are the whole."""
    # Curved, so that the gradients have many sizes.
    model = OneByOne(reference.mlp(16, 5, seed % 7, 6.0).double())
    x, y = reference.pictures(n, 1, 4, 4, seed=seed, ends=0.1), reference.classes(n, 5, seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))

    def run(x, y):
        return transfer.momentum(model, x, y, 0.5, steps=6, targeted=targeted)

    whole = run(x, y)
    assert torch.equal(run(x[order], y[order]), whole[order])
    assert torch.equal(torch.cat([run(x[:cut], y[:cut]), run(x[cut:], y[cut:])]), whole)


@given(eps=st.floats(0, 0.6), steps=st.integers(1, 5), decay=st.floats(0, 2), turn=st.booleans())
def test_momentum_stays_in_ball_and_box_and_repeats_itself(eps, steps, decay, turn):
    model, x = linear(1), pictures(6)
    y = model(x).argmax(1)
    transform = transfer.resized if turn else None
    given = dict(steps=steps, decay=decay, transform=transform)
    x_adv = transfer.momentum(model, x, y, eps, **given)
    assert (x_adv - x).abs().max() <= eps and x_adv.min() >= 0 and x_adv.max() <= 1
    assert x_adv.equal(transfer.momentum(model, x, y, eps, **given))


def test_one_step_is_fgsm(pair):
    models, x, y = pair
    x_adv = transfer.momentum(models["a"], x, y, 0.1, steps=1)
    torch.testing.assert_close(x_adv, fgsm(models["a"], x, y, 0.1))


def test_momentum_remembers(pair):
    """Past the top of a gentle slope the steps before outvote the gradient; alone it turns back."""
    x, y = torch.full((1, 1, 1, 2), 0.5), torch.tensor([0])

    def hill(x):  # the loss of class 0 rises up to 0.525, and falls beyond it
        height = -(x.flatten(1).sum(1) / 2 - 0.525).abs()
        return torch.stack([-height, height], 1)

    given = dict(steps=5, step_size=0.01, loss="margin")
    steady = transfer.momentum(hill, x, y, 0.1, **given)
    forgetful = transfer.momentum(hill, x, y, 0.1, decay=0, **given)
    torch.testing.assert_close(steady, torch.full_like(x, 0.55))  # 3 votes up, then 2, then 1
    torch.testing.assert_close(forgetful, torch.full_like(x, 0.53))  # to and fro


def test_momentum_lowers_the_loss_of_a_target(pair):
    models, x, _ = pair
    target = torch.zeros(len(x), dtype=torch.int64)
    x_adv = transfer.momentum(models["a"], x, target, 0.1, targeted=True)
    before, after = (cross_entropy(models["a"](z), target) for z in (x, x_adv))
    assert (after < before).all()


def test_momentum_leaves_no_trace(pair):
    models, x, y = pair
    before = x.clone()
    transfer.momentum(models["a"], x, y, 0.1, transform=transfer.resized)
    assert models["a"].training and x.equal(before) and not x.requires_grad
    assert all(p.grad is None and p.requires_grad for p in models["a"].parameters())
    with pytest.raises(RuntimeError, match="my own"):
        transfer.momentum(models["a"], x, y, 0.1, transform=_fails)
    assert models["a"].training and all(p.requires_grad for p in models["a"].parameters())


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
def test_momentum_says_what_is_wrong(pair, wrong, error, says):
    models, x, y = pair
    with pytest.raises(error, match=says):
        transfer.momentum(models["a"], x, y, **{"eps": 0.1, **wrong})


def test_resized_keeps_shape_range_and_gradient():
    x = pictures(3, shape=(3, 16, 16)).requires_grad_()
    generator = torch.Generator().manual_seed(0)
    seen = [transfer.resized(x, generator, smallest=0.5) for _ in range(40)]
    assert all(z.shape == x.shape and z.min() >= 0 and z.max() <= 1 for z in seen)
    kept = sum(z is x for z in seen)
    assert 8 <= kept <= 32, "one call in two"
    moved = next(z for z in seen if z is not x)
    assert len({tuple(z.flatten().tolist()) for z in seen}) > 10, "other sizes and places each time"
    (grad,) = torch.autograd.grad(moved.sum(), x)
    assert grad.abs().sum() > 0


# -- universal -------------------------------------------------------------------------------------


@given(
    eps=st.floats(0, 2),
    norm=st.sampled_from(["linf", "l2", "l1"]),
    seed=st.integers(0, 5),
)
def test_universal_is_one_perturbation_inside_its_ball(eps, norm, seed):
    model, x = linear(seed), pictures(20, seed)
    delta = transfer.universal(model, x, model(x).argmax(1), eps, norm=norm, epochs=2, batch_size=8)
    assert delta.shape == (1, 1, 4, 4) and delta.isfinite().all()
    assert threats.norm(delta, norm).max() <= eps


@pytest.mark.parametrize("norm, eps", [("linf", 0.25), ("l2", 1.0)])
def test_universal_fools_on_unseen_pictures_where_noise_does_not(norm, eps):
    """One class against another: the common direction is the one of the weights."""
    model = linear(4, classes=2)
    x = pictures(400, 3)
    rows = (model(x).argmax(1) == 0).nonzero().squeeze(1)
    x, y = x[rows], torch.zeros(len(rows), dtype=torch.int64)
    half = len(x) // 2
    delta = transfer.universal(model, x[:half], y[:half], eps, norm=norm)
    unseen, labels = x[half:], y[half:]
    shown = threats.confine(unseen, delta.expand_as(unseen), eps, norm)
    fooled = transfer.transfer_rate(model, unseen, shown, labels)
    back = threats.confine(unseen, -delta.expand_as(unseen), eps, norm)
    assert fooled.low > 0.6 and transfer.transfer_rate(model, unseen, back, labels).value < 0.05


def test_universal_repeats_itself_and_leaves_no_trace(pair):
    models, x, y = pair
    before = x.clone()
    one, two = (transfer.universal(models["a"], x, y, 0.1) for _ in range(2))
    assert one.equal(two) and x.equal(before) and models["a"].training
    other = transfer.universal(
        models["a"], x, y, 0.1, batch_size=8, generator=torch.Generator().manual_seed(5)
    )
    assert other.shape == one.shape
    assert (transfer.universal(models["a"], x, y, 0) == 0).all()


@pytest.mark.parametrize(
    "wrong, error, says",
    [
        (dict(eps=-1), ThreatError, "eps"),
        (dict(norm="l3"), ThreatError, "norm"),
        (dict(epochs=0), ThreatError, "epochs"),
        (dict(batch_size=0), ThreatError, "batch_size"),
        (dict(step_size=-1), ThreatError, "step_size"),
        (dict(cap=0), InputError, "cap"),
        (dict(x=torch.zeros(0, 1, 4, 4), y=torch.zeros(0).long()), InputError, "no picture"),
    ],
)
def test_universal_says_what_is_wrong(pair, wrong, error, says):
    models, x, y = pair
    given = {"x": x, "y": y, "eps": 0.1, **wrong}
    with pytest.raises(error, match=says):
        transfer.universal(models["a"], **given)


def test_everything_runs_on_every_device(device):
    a, b = linear(1).to(device), linear(2).to(device)
    x = pictures().to(device)
    y = a(x).argmax(1)
    x_adv = transfer.momentum(a, x, y, 0.1)
    delta = transfer.universal(transfer.ensemble([a, b]), x, y, 0.1)
    matrix = transfer.transfer_matrix({"a": a, "b": b}, x, y, by(0.1))
    assert x_adv.device == delta.device == x.device and matrix["a"]["a"].total > 0
    if device.type == "cuda":
        with pytest.raises(DeviceError, match="cuda"):
            transfer.universal(a, x.cpu(), y.cpu(), 0.1)
