"""Slopes, curves, planes and distances, against closed forms and plain loops."""

import math

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import advlib
from advlib.analysis import loss_landscape
from advlib.errors import InputError, LabelError, ModelOutputError, PixelError, ThreatError

RANDOM_STATE_IS_WATCHED = True


def images(n: int = 4, seed: int = 0):
    return reference.images(n, 3, 4, 4, seed=seed, ends=0.1), reference.classes(n, seed=seed)


def stochastic() -> nn.Module:
    """A model in train mode whose dropout and batch norm would show."""
    model = reference.without_seed(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Tanh(), nn.Dropout(0.5),
            nn.Flatten(), nn.Linear(64, 3),
        )
    )  # fmt: skip
    reference.fill(model, 3, 1.0)
    return model.double().train()


# -- random directions -----------------------------------------------------------------------


def test_random_directions_have_the_promised_length_and_are_the_same_again() -> None:
    x, _ = images()
    sphere = loss_landscape.random_directions(x, 9)
    assert sphere.shape == (9, 3, 4, 4) and sphere.dtype == x.dtype
    np.testing.assert_allclose(sphere.flatten(1).norm(dim=1), 1, rtol=1e-6)
    sign = loss_landscape.random_directions(x, 9, kind="sign")
    assert set(sign.unique().tolist()) == {-1.0, 1.0}
    assert torch.equal(sphere, loss_landscape.random_directions(x, 9))
    other = loss_landscape.random_directions(x, 9, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(sphere, other)


def test_the_coordinates_of_a_random_direction_have_the_expected_size() -> None:
    x = torch.zeros(1, 3, 10, 10, dtype=torch.float64)
    n = 300
    cos = loss_landscape.random_directions(x, 4000).flatten(1)[:, 17]
    expected = math.exp(math.lgamma(n / 2) - math.lgamma((n + 1) / 2)) / math.sqrt(math.pi)
    assert abs(float(cos.abs().mean()) / expected - 1) < 0.05
    assert abs(float(cos.square().mean()) * n - 1) < 0.1
    assert abs(float(loss_landscape.random_directions(x, 400, kind="sign").mean())) < 0.01


@pytest.mark.parametrize("kind", ["gauss", None])
def test_random_directions_refuse_an_unknown_kind(kind) -> None:
    with pytest.raises(ThreatError, match='"sphere" or "sign"'):
        loss_landscape.random_directions(images()[0], 2, kind=kind)


# -- finite differences ------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_finite_differences_agree_with_a_gradient_worked_out_by_hand(loss: str) -> None:
    x, y = images()
    model = reference.mlp(48).double()
    expected = reference.torch_oracle(model, loss)(x.numpy(), y.numpy()).grad
    places = [0, 5, 47, 5]
    got = loss_landscape.finite_differences(model, x, y, places, loss=loss, batch_size=5)
    np.testing.assert_allclose(got, expected.reshape(4, -1)[:, places], rtol=1e-6, atol=1e-9)


def test_the_error_falls_with_the_square_of_h_where_the_loss_is_smooth() -> None:
    x, y = images()
    model = reference.mlp(48).double()
    exact = advlib.input_gradient(model, x, y).grad.flatten(1)
    big, small = (
        (loss_landscape.finite_differences(model, x, y, range(48), h) - exact).norm()
        for h in (4e-3, 4e-4)
    )
    assert 95 < float(big / small) < 105


def test_finite_differences_work_on_every_device_and_in_float32(device: torch.device) -> None:
    x, y = images()
    model = reference.mlp(48)
    expected = loss_landscape.finite_differences(
        reference.mlp(48).double(), x, y, torch.arange(48), 1e-6
    )
    got = loss_landscape.finite_differences(
        model.to(device), x.float().to(device), y.to(device), torch.arange(48)
    )
    assert got.device.type == device.type and got.dtype == torch.float32
    np.testing.assert_allclose(got.cpu(), expected, atol=2e-3)


@pytest.mark.parametrize("places", [[48], [-1], [0.5], [[1, 2]], [True]])
def test_places_outside_the_image_are_refused(places) -> None:
    with pytest.raises(InputError, match="places"):
        loss_landscape.finite_differences(reference.mlp(48).double(), *images(), places)


@pytest.mark.parametrize("h", [0, -1e-3, math.inf, math.nan, "small"])
def test_an_h_that_is_no_step_is_refused(h) -> None:
    with pytest.raises(ThreatError, match="h is"):
        loss_landscape.finite_differences(reference.mlp(48).double(), *images(), [0], h)


# -- curves and planes -------------------------------------------------------------------------


@given(seed=st.integers(0, 1000), clip=st.booleans(), batch=st.integers(1, 9))
def test_loss_along_is_the_loss_at_each_point_of_the_line(seed, clip, batch) -> None:
    x, y = images(3, seed)
    model, sizes = reference.mlp(48).double(), [-0.7, 0.0, 0.3]
    direction = loss_landscape.random_directions(x, 3, kind="sign")
    got = loss_landscape.loss_along(model, x, y, direction, sizes, clip=clip, batch_size=batch)
    oracle = reference.torch_oracle(model)
    for k, t in enumerate(sizes):
        at = x + t * direction
        expected = oracle((at.clamp(0, 1) if clip else at).numpy(), y.numpy()).loss
        np.testing.assert_allclose(got[:, k], expected, rtol=1e-9, atol=1e-12)


def test_loss_plane_has_columns_for_u_and_rows_for_v(device: torch.device) -> None:
    x, y = (t[:1].to(device) for t in images())
    x = x.float()
    model = reference.mlp(48).to(device)
    u, v = loss_landscape.random_directions(x, 2).split(1)
    plane = loss_landscape.loss_plane(model, x, y, u, v, 2.0, 5, clip=False, batch_size=7)
    assert plane.sizes.tolist() == [-2, -1, 0, 1, 2]
    assert plane.loss.shape == plane.label.shape == (5, 5)
    for i, j in ((0, 3), (4, 1), (2, 2)):
        at = x + plane.sizes[j] * u + plane.sizes[i] * v
        logits = model(at)
        np.testing.assert_allclose(
            plane.loss[i, j].cpu(), nn.functional.cross_entropy(logits, y).item(), rtol=1e-4
        )
        assert int(plane.label[i, j]) == int(logits.argmax())
    inside = loss_landscape.loss_plane(model, x, y, u, v, 2.0, 5)
    at = (x + 2 * u - 2 * v).clamp(0, 1)
    np.testing.assert_allclose(
        inside.loss[0, 4].cpu(), nn.functional.cross_entropy(model(at), y).item(), rtol=1e-4
    )


# -- distances ---------------------------------------------------------------------------------


class Half(nn.Module):
    """Class 1 where ``w.x > level``: the boundary is a plane, and every distance is known."""

    def __init__(self, w: torch.Tensor, level: float) -> None:
        super().__init__()
        self.w, self.level = nn.Parameter(w, requires_grad=False), level

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = (x * self.w).flatten(1).sum(1) - self.level
        return torch.stack([-score, score], 1)


@given(seed=st.integers(0, 10_000), level=st.floats(1.0, 3.0))
def test_the_distance_to_a_plane_is_found(seed: int, level: float) -> None:
    x = torch.full((6, 3, 4, 4), 0.5, dtype=torch.float64)
    w = torch.zeros(3, 4, 4, dtype=torch.float64)
    w[0] = 0.1  # sixteen values: the score is 0.8 at x, and level - 0.8 is still to go
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    model, y = Half(w, 0.8 + level / 100), torch.zeros(6, dtype=torch.long)
    got = loss_landscape.boundary_distance(model, x, y, direction, 0.1, bisections=20)
    for t, slope in zip(got.tolist(), (direction * w).flatten(1).sum(1).tolist(), strict=True):
        exact = level / 100 / slope if slope > 0 else math.inf
        clips = 0.1 * direction.abs().max() > 0.5
        assert not clips
        if exact > 0.1:
            assert t == math.inf
        else:
            assert exact <= t <= exact * (1 + 1e-4) + 1e-8


@given(seed=st.integers(0, 1000), batch=st.integers(1, 9))
def test_images_are_misclassified_at_the_distance_and_not_just_below(seed: int, batch: int) -> None:
    x, _ = images(5, seed)
    model = reference.mlp(48).double()
    y = model(x).argmax(1)
    y[0] = (y[0] + 1) % 3  # misclassified to begin with
    direction = loss_landscape.random_directions(x, 5, kind="sign")
    t = loss_landscape.boundary_distance(
        model, x, y, direction, 1.0, bisections=12, batch_size=batch
    )
    assert t[0] == 0 and (t[1:] > 0).all()
    for i in range(1, 5):
        if t[i] < math.inf:
            at = (x[i] + t[i] * direction[i]).clamp(0, 1)[None]
            below = (x[i] + t[i] * (1 - 1e-3) * direction[i]).clamp(0, 1)[None]
            assert model(at).argmax() != y[i] and model(below).argmax() == y[i]
        else:
            line = (x[i] + torch.linspace(0, 1, 9).view(-1, 1, 1, 1) * direction[i]).clamp(0, 1)
            assert (model(line[-1:]).argmax(1) == y[i]).all()


def test_distances_are_the_same_on_every_device(device: torch.device) -> None:
    x, _ = images(5)
    x = x.float()
    model = reference.mlp(48)
    y = model(x).argmax(1)
    direction = loss_landscape.random_directions(x, 5, kind="sign")
    expected = loss_landscape.boundary_distance(model, x, y, direction, 0.9)
    got = loss_landscape.boundary_distance(
        model.to(device), x.to(device), y.to(device), direction.to(device), 0.9
    )
    assert got.device.type == device.type
    np.testing.assert_allclose(got.cpu(), expected, rtol=1e-2)


def test_the_box_stops_pixels_and_not_the_image() -> None:
    w = torch.zeros(3, 4, 4, dtype=torch.float64)
    w[0, 0, :2] = 1.0
    x = torch.zeros(1, 3, 4, 4, dtype=torch.float64)
    x[0, 0, 0, 0] = 1.0  # has no room; the other value must go all the way alone
    model, y = Half(w, 1.5), torch.zeros(1, dtype=torch.long)
    t = loss_landscape.boundary_distance(model, x, y, torch.ones_like(x), 1.0, bisections=30)
    np.testing.assert_allclose(t, 0.5, rtol=1e-6)


# -- what is accepted, what is refused, and what stays as it was -------------------------------


def _all(model, x, y):
    d = loss_landscape.random_directions(x, max(len(x), 1))[: len(x)]
    yield loss_landscape.finite_differences(model, x, y, [0, 3])
    yield loss_landscape.loss_along(model, x, y, d, [0.0, 0.5])
    yield loss_landscape.boundary_distance(model, x, y, d, 5.0)
    if len(x):
        yield loss_landscape.loss_plane(model, x[:1], y[:1], d[:1], d[-1:], 1.0, 3).loss


def test_the_model_is_temporarily_in_eval_mode_and_as_before_afterwards() -> None:
    x, y = images()
    model, frozen = stochastic(), stochastic().eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    clean, labels = x.clone(), y.clone()
    for got, expected in zip(_all(model, x, y), _all(frozen, x, y), strict=True):
        np.testing.assert_allclose(got, expected)
        assert not got.requires_grad
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.equal(x, clean) and torch.equal(y, labels)


def test_no_images_give_empty_results() -> None:
    x, y = images()
    shapes = [tuple(got.shape) for got in _all(reference.mlp(48).double(), x[:0], y[:0])]
    assert shapes == [(0, 2), (0, 2), (0,)]


def test_wrong_arguments_are_named() -> None:
    x, y = images()
    model = reference.mlp(48).double()
    d = loss_landscape.random_directions(x, 4)
    with pytest.raises(InputError, match=r"expand"):
        loss_landscape.loss_along(model, x, y, d[:1], [0.1])
    with pytest.raises(InputError, match="NaN"):
        loss_landscape.boundary_distance(model, x, y, d * math.nan, 1.0)
    with pytest.raises(InputError, match="u is list"):
        loss_landscape.loss_plane(model, x[:1], y[:1], [1.0], d[:1], 1.0)
    with pytest.raises(InputError, match="4 images"):
        loss_landscape.loss_plane(model, x, y, d, d, 1.0)
    with pytest.raises(ThreatError, match="limit is"):
        loss_landscape.boundary_distance(model, x, y, d, 0.0)
    with pytest.raises(ThreatError, match="scan"):
        loss_landscape.boundary_distance(model, x, y, d, 1.0, scan=0)
    with pytest.raises(ThreatError, match="sizes"):
        loss_landscape.loss_along(model, x, y, d, [math.nan])
    with pytest.raises(ThreatError, match="Do not average"):
        loss_landscape.loss_along(model, x, y, d, [0.1], loss=nn.CrossEntropyLoss())
    with pytest.raises(ThreatError, match="loss is"):
        loss_landscape.loss_along(model, x, y, d, [0.1], loss="CE")
    with pytest.raises(PixelError):
        loss_landscape.loss_along(model, x + 3, y, d, [0.1])
    with pytest.raises(LabelError, match="classes"):
        loss_landscape.finite_differences(model, x, y + 9, [0])
    with pytest.raises(ModelOutputError):
        loss_landscape.boundary_distance(nn.Identity(), x, y, d, 1.0)


def test_knobs_move_one_image_along_directions() -> None:
    weight = torch.linspace(-1, 2, 36).view(3, 12) ** 2

    def model(x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1) @ weight.T

    x = torch.full((1, 3, 2, 2), 0.5)
    directions = torch.zeros(2, 3, 2, 2)
    directions[0, 0], directions[1, 2] = 1, -1
    knobs = loss_landscape.Knobs(model, x, directions)
    z = torch.tensor([[0.5, 0.5], [0.6, 0.5], [0.5, 0.7], [1.0, 0.0]]).view(4, 1, 1, 2)
    images = knobs.images(z)
    assert torch.equal(images[:1], x) and torch.allclose(images[1, 0], torch.tensor(0.6))
    assert torch.allclose(images[2, 2], torch.tensor(0.3)) and torch.equal(images[2, :2], x[0, :2])
    assert float(images.min()) >= 0 and float(images.max()) <= 1
    assert torch.equal(knobs(z), model(images))
    y, start = torch.tensor([0]), z[:1]
    moved = knobs.images(advlib.fgsm(knobs, start, y, 0.1)) - x
    assert torch.allclose(moved[:, ::2].abs(), torch.tensor(0.1)) and not moved[:, 1].any()
