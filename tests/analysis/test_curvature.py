"""Products with the Hessian and the most curved directions, against an explicit Hessian."""

import math

import numpy as np
import pytest
import reference
import torch
from torch import nn

from advlib.analysis import curvature
from advlib.errors import InputError, LabelError, ThreatError
from advlib.gradients import cross_entropy

RANDOM_STATE_IS_WATCHED = True
H = 1e-4


def smooth(inputs: int = 12) -> nn.Module:
    """A network without kinks, so that its Hessian is not zero."""
    model = reference.without_seed(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, 3))
    )
    reference.fill(model, 3, 1.0)
    return model.double()


def images():
    return reference.images(3, 3, 2, 2, ends=0.1), reference.classes(3)


def hessians(model, x, y):
    """Written down, (n, 12, 12), by automatic differentiation."""

    def loss_of(flat, label):
        return cross_entropy(model(flat.view(1, 3, 2, 2)), label[None])[0]

    return torch.stack(
        [
            torch.autograd.functional.hessian(lambda flat, j=j: loss_of(flat, y[j]), image)
            for j, image in enumerate(x.flatten(1))
        ]
    )


def test_products_are_those_of_the_explicit_hessian() -> None:
    (x, y), model = images(), smooth()
    v = reference.images(15, 3, 2, 2, seed=5).view(3, 5, 3, 2, 2)
    got = curvature.hessian_products(model, x, y, v, H, loss="ce", batch_size=4)
    expected = v.flatten(2) @ hessians(model, x, y)
    np.testing.assert_allclose(got.flatten(2), expected, rtol=1e-5, atol=1e-7)


def test_the_most_curved_directions_are_the_leading_eigenvectors() -> None:
    (x, y), model = images(), smooth()
    found = curvature.most_curved(model, x, y, 3, H, loss="ce", iterations=200)
    full = hessians(model, x, y)
    for values, directions, hessian in zip(*found, full, strict=True):
        exact = torch.linalg.eigvalsh(hessian)
        exact = exact[exact.abs().argsort(descending=True)][:3]
        np.testing.assert_allclose(values, exact, rtol=1e-4)
        rows = directions.flatten(1)
        np.testing.assert_allclose(rows @ rows.T, torch.eye(3), atol=1e-10)
        np.testing.assert_allclose(rows @ hessian, exact[:, None] * rows, atol=1e-4)


def test_they_stay_orthogonal_to_what_is_given() -> None:
    (x, y), model = images(), smooth()
    across = curvature.most_curved(model, x, y, 1, H, loss="ce", iterations=100).directions
    found = curvature.most_curved(model, x, y, 2, H, loss="ce", across=across, iterations=200)
    overlap = found.directions.flatten(2) @ across.flatten(2).mT
    assert float(overlap.abs().max()) < 1e-10
    normal = across.flatten(2).mT
    keep = torch.eye(12, dtype=x.dtype) - normal @ normal.mT
    inside = torch.linalg.eigvalsh(keep @ hessians(model, x, y) @ keep)
    largest = inside.gather(1, inside.abs().argmax(1, keepdim=True))[:, 0]
    np.testing.assert_allclose(found.curvatures[:, 0], largest, rtol=1e-4)


def test_a_network_of_relus_is_flat_inside_a_piece_and_bends_across_kinks() -> None:
    model = reference.without_seed(lambda: nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(12, 2)))
    reference.fill(model, 3, 1.0)
    model = model.double()
    x, y = torch.full((1, 3, 2, 2), 0.5, dtype=torch.float64), torch.tensor([0])
    v = torch.zeros(1, 1, 3, 2, 2, dtype=torch.float64)
    v[0, 0, 0, 0, 0] = 1
    assert float(curvature.hessian_products(model, x, y, v, 0.1).abs().max()) < 1e-12
    assert float(curvature.hessian_products(model, x, y, v, 0.6).abs().max()) > 1e-3


@pytest.mark.parametrize("h", [0, -1.0, math.nan, math.inf])
def test_a_step_that_is_none_is_refused(h: float) -> None:
    x, y = images()
    with pytest.raises(ThreatError, match="h is"):
        curvature.hessian_products(smooth(), x, y, x[:, None], h)


def test_what_does_not_fit_is_refused_and_no_image_gives_no_direction() -> None:
    (x, y), model = images(), smooth()
    with pytest.raises(InputError, match="v is"):
        curvature.hessian_products(model, x, y, x, H)
    with pytest.raises(ThreatError, match="count"):
        curvature.most_curved(model, x, y, 0, H)
    with pytest.raises(LabelError):
        curvature.most_curved(model, x, y + 9, 1, H)
    nothing = curvature.hessian_products(model, x[:0], y[:0], x[:0, None], H)
    assert nothing.shape == (0, 1, 3, 2, 2)
