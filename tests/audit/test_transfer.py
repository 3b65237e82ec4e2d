"""Transfer: which images count, and what two gradients have in common."""

import pytest
import reference
import torch
from torch import nn

from advlib.attacks import fgsm
from advlib.audit import transfer
from advlib.errors import InputError, LabelError, PixelError, ThreatError

RANDOM_STATE_IS_WATCHED = True


def images(n=40):
    return 0.2 + 0.6 * torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(0))


def linear(seed, classes=3):
    """A linear network in training mode with trainable weights, drawn from `seed`."""
    return reference.linear(16, classes, seed).float()


@pytest.fixture
def pair():
    models = {"a": linear(1), "b": linear(2)}
    x = images()
    return models, x, models["a"](x).argmax(1)


def by(eps):
    return lambda model, x, y: fgsm(model, x, y, eps)


@pytest.mark.parametrize("batch_size", [7, 256])
def test_matrix_counts_among_images_that_both_read_rightly(pair, batch_size):
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
    assert matrix["b"]["b"].total < len(x), "the second model misreads some images"
    assert matrix["a"]["a"].count > 0


def test_an_attack_that_does_nothing_travels_nowhere(pair):
    """Also where a target misreads most images: what it misreads anyway is not counted."""
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


def test_matrix_of_no_images_measures_nothing(pair):
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
    with pytest.raises(LabelError, match="one class per image"):
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


def test_transfer_is_measured_on_every_device(device):
    models = {name: linear(seed).to(device) for name, seed in (("a", 1), ("b", 2))}
    x = images().to(device)
    matrix = transfer.transfer_matrix(models, x, models["a"](x).argmax(1), by(0.1))
    assert matrix["a"]["a"].total > 0
