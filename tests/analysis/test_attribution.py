"""Maps of attribution against closed forms and plain loops."""

import itertools
import math

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from advlib import gradients
from advlib.analysis import attribution
from advlib.errors import InputError, LabelError, PixelError, ThreatError

RANDOM_STATE_IS_WATCHED = True

N, SHAPE = 4, (3, 6, 5)
MODEL = reference.conv(3)
seeds = st.integers(0, 2**31)


def data(seed: int = 0, n: int = N) -> tuple[Tensor, Tensor]:
    return reference.images(n, *SHAPE, seed=seed), reference.classes(n, seed=seed)


class Cubic(nn.Module):
    """Two logits whose difference is a polynomial of degree three with mixed terms."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)

    def score(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return (flat**3) @ self.weight + flat[:, 0] * flat[:, 1] * flat[:, 2]

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.score(x), torch.zeros(len(x), dtype=x.dtype, device=x.device)], 1)


def cubic(device: torch.device | None = None) -> Cubic:
    return Cubic(torch.linspace(-1, 2, 90, dtype=torch.float64)).to(device)


# -- scores ----------------------------------------------------------------------------------


def test_scores_worked_out_by_hand() -> None:
    logits, y = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]]), torch.tensor([0, 2])
    assert attribution.lead(logits, y).tolist() == [1.0, -4.0]
    assert attribution.logit(logits, y).tolist() == [3.0, 1.0]
    np.testing.assert_allclose(
        attribution.probability(logits, y),
        [
            math.exp(3) / (math.exp(3) + math.exp(1) + math.exp(2)),
            math.exp(1) / (1 + math.exp(5) + math.exp(1)),
        ],
        rtol=1e-6,
    )
    with pytest.raises(InputError, match='score is .*"lead", "logit"'):
        attribution.saliency(MODEL, *data(), score="margin")


# -- maps ------------------------------------------------------------------------------------


def test_saliency_is_the_size_of_the_gradient_of_the_lead(device: torch.device) -> None:
    x, y = (values.to(device) for values in data())
    model = reference.conv(3).double().to(device)
    grad = gradients.input_gradient(model, x, y, loss="margin").grad
    got = attribution.saliency(model, x, y)
    np.testing.assert_allclose(got.cpu(), grad.abs().cpu(), rtol=1e-12)
    own = attribution.saliency(model, x, y, score=lambda z, y: -gradients.margin(z, y))
    assert torch.equal(got, own)


def test_one_step_of_integrated_gradients_is_exact_for_a_linear_model() -> None:
    x, _ = data()
    model = reference.linear(90, classes=2).double()
    y, black = torch.zeros(N, dtype=torch.long), torch.zeros_like(x)
    fall = _score(model, x, y) - _score(model, black, y)
    shares = attribution.integrated_gradients(model, x, y, steps=1)
    np.testing.assert_allclose(shares.flatten(1).sum(1), fall, atol=1e-10)
    product = x * gradients.input_gradient(model, x, y, loss=attribution.lead).grad
    np.testing.assert_allclose(shares, product, atol=1e-12)
    unmoved = attribution.integrated_gradients(model, x, y, baseline=x, steps=1)
    assert not bool(unmoved.any())


def _score(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return attribution.lead(model(x), y)


def test_integrated_gradients_of_a_cubic_are_exact(device: torch.device) -> None:
    """The midpoint rule errs by length**2 * second / (24 steps**2) on a quadratic."""
    x, start = (data(seed)[0].to(device) for seed in (1, 2))
    y, model = torch.zeros(N, dtype=torch.long, device=device), cubic(device)
    got = attribution.integrated_gradients(model, x, y, start, steps=400).flatten(1)
    flat, low = x.flatten(1), start.flatten(1)
    expected = model.weight * (flat**3 - low**3)
    # The mixed term x0 x1 x2, integrated by Simpson's rule, which is exact for cubics.
    for i, (j, k) in enumerate(((1, 2), (0, 2), (0, 1))):
        at = [low + t * (flat - low) for t in (0, 0.5, 1)]
        f = [point[:, j] * point[:, k] for point in at]
        expected[:, i] += (flat - low)[:, i] * (f[0] + 4 * f[1] + f[2]) / 6
    np.testing.assert_allclose(got.cpu(), expected.cpu(), atol=1e-5)
    fall = model.score(x) - model.score(start)
    np.testing.assert_allclose(got.sum(1).cpu(), fall.cpu(), atol=1e-4)


def test_the_error_of_the_sum_falls_with_the_square_of_the_steps() -> None:
    x, y, model = data()[0], torch.zeros(N, dtype=torch.long), cubic()
    fall = model.score(x) - model.score(torch.zeros_like(x))
    errors = []
    for steps in (4, 8, 16):
        total = attribution.integrated_gradients(model, x, y, steps=steps).flatten(1).sum(1)
        errors.append((total - fall).abs())
    np.testing.assert_allclose(errors[0] / errors[1], 4, rtol=1e-3)
    np.testing.assert_allclose(errors[1] / errors[2], 4, rtol=1e-3)


@given(seed=seeds, score=st.sampled_from(["lead", "logit", "probability"]))
def test_integrated_gradients_are_complete(seed: int, score: str) -> None:
    x, y = data(seed)
    start = data(seed + 1)[0]
    model = reference.mlp(90, seed=seed % 5).double()
    got = attribution.integrated_gradients(model, x, y, start, 400, score=score)
    with torch.no_grad():
        value = attribution.SCORES[score]
        fall = value(model(x), y) - value(model(start), y)
    np.testing.assert_allclose(
        got.flatten(1).sum(1), fall, atol=0.02 * (1 + float(fall.abs().max()))
    )


def test_pixels_that_do_not_move_have_no_share() -> None:
    x, y = data()
    start = x.clone()
    start[:, :, :2] = 0.5
    got = attribution.integrated_gradients(MODEL.double(), x, y, start, 4)
    MODEL.float()
    assert not bool(got[:, :, 2:].any()) and bool(got[:, :, :2].any())


def test_occlusion_agrees_with_a_loop(device: torch.device) -> None:
    x, y = (values.to(device) for values in data())
    model = reference.conv(3).double().to(device)
    got = attribution.occlusion(model, x, y, size=3, stride=2, batch_size=3)
    expected, seen = np.zeros((N, 6, 5)), np.zeros((6, 5))
    for top, left in itertools.product((0, 2, 3), (0, 2)):
        covered = x.clone()
        mean = x.mean((2, 3))
        for i in range(top, top + 3):
            for j in range(left, left + 3):
                covered[:, :, i, j] = mean
        fall = (_score(model, x, y) - _score(model, covered, y)).cpu().numpy()
        expected[:, top : top + 3, left : left + 3] += fall[:, None, None]
        seen[top : top + 3, left : left + 3] += 1
    np.testing.assert_allclose(got.cpu(), expected / seen, atol=1e-10)


def test_occlusion_finds_the_one_pixel_that_a_model_uses() -> None:
    def model(x: Tensor) -> Tensor:
        return torch.stack([4 * x[:, 0, 3, 1], 0 * x[:, 0, 0, 0]], 1)

    x = torch.full((1, 3, 6, 5), 0.5)
    x[0, 0, 3, 1] = 1
    got = attribution.occlusion(model, x, torch.tensor([0]), size=1, stride=1, fill=0.0)
    assert got[0].nonzero().tolist() == [[3, 1]] and got.max().item() == 4.0


def test_maps_of_no_images_are_empty() -> None:
    x, y = torch.zeros(0, *SHAPE), torch.zeros(0, dtype=torch.long)
    assert attribution.saliency(MODEL, x, y).shape == x.shape
    assert attribution.integrated_gradients(MODEL, x, y).shape == x.shape
    assert attribution.occlusion(MODEL, x, y, size=2, stride=2).shape == (0, 6, 5)


def test_the_model_and_the_images_are_left_as_they_were() -> None:
    x, y = data()
    x = x.float()
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(90, affine=False), reference.linear(90))
    model.train()
    before, state = x.clone(), {k: v.clone() for k, v in model.state_dict().items()}
    for method in (
        attribution.saliency,
        attribution.integrated_gradients,
        lambda *given: attribution.occlusion(*given, size=2, stride=2),
    ):
        got = method(model, x, y)
        assert not got.requires_grad and got.isfinite().all()
    assert model.training and torch.equal(x, before)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_arguments_that_cannot_be_used_are_named() -> None:
    x, y = data()
    x = x.float()
    with pytest.raises(PixelError):
        attribution.saliency(MODEL, 255 * x, y)
    with pytest.raises(LabelError):
        attribution.saliency(MODEL, x, y.float())
    with pytest.raises(PixelError, match=r"\[0, 1\] is expected"):
        attribution.integrated_gradients(MODEL, x, y, -1.0)
    with pytest.raises(InputError, match="baseline has shape .* does not broadcast"):
        attribution.integrated_gradients(MODEL, x, y, torch.zeros(7))
    with pytest.raises(InputError, match="baseline is 'black'"):
        attribution.integrated_gradients(MODEL, x, y, "black")
    with pytest.raises(ThreatError, match="steps"):
        attribution.integrated_gradients(MODEL, x, y, steps=0)
    with pytest.raises(InputError, match="stride <= size"):
        attribution.occlusion(MODEL, x, y, size=2, stride=3)
    with pytest.raises(PixelError, match="images"):
        attribution.occlusion(MODEL, x.flatten(1), y)
    with pytest.raises(InputError, match="an odd number"):
        attribution.blurred(x, 4)
    with pytest.raises(LabelError, match="classes 0 to 2"):
        attribution.occlusion(MODEL, x, y + 9, size=2, stride=2)
    with pytest.raises(ThreatError, match="one value per image"):
        attribution.occlusion(MODEL, x, y, size=2, stride=2, score=lambda z, y: z.mean())


def test_a_blurred_image_is_the_mean_of_its_surroundings() -> None:
    x = data()[0].float()
    got = attribution.blurred(x, 3)
    np.testing.assert_allclose(got[:, :, 2, 2], x[:, :, 1:4, 1:4].mean((2, 3)), rtol=1e-5)
    flat = torch.full((1, 3, 40, 40), 0.3)
    np.testing.assert_allclose(attribution.blurred(flat), flat, rtol=1e-5)
