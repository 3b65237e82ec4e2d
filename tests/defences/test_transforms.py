"""The defences that only seem to work: each does what its docstring states."""

import io
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from advlib import pgd
from advlib.attacks.adaptive import straight_through
from advlib.defences.augmentation import gaussian
from advlib.defences.transforms import (
    JPEG,
    Detector,
    Quantised,
    Randomised,
    Scaled,
    dct_matrix,
    jpeg_steps,
    quantise,
    resized,
    roughness,
    threshold_for,
)
from advlib.errors import AdvlibError, InputError, ThreatError
from advlib.gradients import input_gradient

RANDOM_STATE_IS_WATCHED = True


def images(n: int = 3, side: int = 16, seed: int = 0) -> torch.Tensor:
    """Return smooth random images: noise at a quarter of the size, made larger."""
    small = torch.rand(n, 3, side // 4, side // 4, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(small, scale_factor=4, mode="bilinear")


def network(side: int = 16, classes: int = 4) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, classes)).eval()


@given(st.integers(2, 300), st.integers(0, 100))
def test_quantise_returns_the_nearest_level(levels: int, seed: int) -> None:
    x = torch.rand(50, generator=torch.Generator().manual_seed(seed))
    rounded = quantise(x, levels)
    assert ((rounded - x).abs() <= 0.5 / (levels - 1) + 1e-6).all()
    steps = rounded * (levels - 1)
    assert (steps - steps.round()).abs().max() < 1e-3
    assert quantise(rounded, levels).equal(rounded)


def test_a_gradient_through_rounding_is_zero_and_straight_through_it_is_not() -> None:
    x, y, model = images(), torch.tensor([0, 1, 2]), network()
    for defence in (Quantised(model, 16), JPEG(model, 75)):
        assert (input_gradient(defence, x, y).grad == 0).all()
        seen = straight_through(defence.prepare)

        def stand_in(x: torch.Tensor, seen=seen) -> torch.Tensor:
            return model(seen(x))

        grad = input_gradient(stand_in, x, y).grad
        torch.testing.assert_close(grad, input_gradient(model, defence.prepare(x), y).grad)


@pytest.mark.parametrize("quality", [1, 30, 50, 75, 95, 100])
def test_jpeg_agrees_with_a_real_one(quality: int) -> None:
    x = (255 * images(1, 32)).round() / 255
    bytes_ = io.BytesIO()
    array = (255 * x[0].permute(1, 2, 0)).round().byte().numpy()
    Image.fromarray(array).save(bytes_, "JPEG", quality=quality, subsampling=0)
    real = torch.from_numpy(np.array(Image.open(bytes_))).permute(2, 0, 1)[None] / 255
    mine = JPEG(network(32), quality).prepare(x)
    # The real one also rounds colours and pixels to whole grey levels, which now and then turns
    # the rounding of a coefficient the other way.
    lost = (real - x).abs().mean()
    assert (mine - real).abs().mean() < 1 / 255 + 0.15 * lost


def test_jpeg_steps_are_those_of_the_standard() -> None:
    assert jpeg_steps(50)[0, 0, :3].tolist() == [16, 11, 10]
    assert jpeg_steps(50)[1].equal(jpeg_steps(50)[2]) and jpeg_steps(50)[1, 7, 7] == 99
    assert (jpeg_steps(100) == 1).all() and jpeg_steps(1).max() == 255


def test_the_cosine_transform_is_orthonormal() -> None:
    torch.testing.assert_close(dct_matrix() @ dct_matrix().T, torch.eye(8))


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (1, 3, 10, 17), (2, 3, 64, 64)])
def test_jpeg_keeps_shape_and_range_and_a_fine_one_keeps_the_image(shape: tuple) -> None:
    x = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    for quality in (5, 100):
        seen = JPEG(nn.Flatten(), quality).prepare(x)
        assert seen.shape == x.shape and seen.min() >= 0 and seen.max() <= 1
    assert (seen - x).abs().mean() < 1 / 255


def shrink(smallest: float):
    return Randomised(nn.Identity(), partial(resized, smallest=smallest)).prepare


@pytest.mark.parametrize("draw", [resized, partial(gaussian, sigma=0.1)])
def test_a_randomised_network_draws_from_its_own_generator(draw) -> None:
    x = images()
    one, same, other = (Randomised(network(), draw, seed=seed) for seed in (3, 3, 4))
    first = one(x)
    assert first.equal(same(x)) and not first.equal(one(x)) and not first.equal(other(x))
    one.generator.manual_seed(3)
    assert first.equal(one(x)), "whoever knows the draw can repeat it"


def test_the_gradient_is_that_of_the_draw() -> None:
    x, y, model = images(), torch.tensor([0, 1, 2]), network()
    draw = partial(resized, smallest=0.5)

    def one_draw(x: torch.Tensor) -> torch.Tensor:
        return model(draw(x, torch.Generator().manual_seed(0)))

    grad = input_gradient(Randomised(model, draw), x, y).grad
    assert grad.equal(input_gradient(one_draw, x, y).grad) and grad.any()


def test_resized_keeps_the_whole_image_on_grey() -> None:
    x = torch.ones(40, 3, 32, 32)
    seen = shrink(0.5)(x)
    assert seen.shape == x.shape and seen.min() >= 0 and seen.max() <= 1
    white = (seen[:, 0] > 0.9).flatten(1).float().mean(1)
    assert 0.15 < white.min() < 0.5 and 0.6 < white.max() <= 1
    # Where all edges of the frame are grey or white, nothing of the image is cut off.
    assert ((seen[:, 0] > 0.45).all()) and white.std() > 0.05
    torch.testing.assert_close(shrink(1.0)(images()), images())


def test_resized_differs_from_image_to_image() -> None:
    seen = shrink(0.6)(images(1).expand(5, -1, -1, -1))
    assert all(not seen[0].equal(seen[i]) for i in range(1, 5))


def test_scaled_keeps_every_prediction_and_stops_the_gradient_of_the_cross_entropy() -> None:
    x, model = images(), network()
    y = model(x).argmax(1)
    scaled = Scaled(model, 1e5)
    assert scaled(x).argmax(1).equal(y)
    assert (input_gradient(scaled, x, y).grad == 0).all()
    assert (input_gradient(scaled, x, y, loss="margin").grad != 0).any()


def test_roughness_sees_noise_and_no_slope() -> None:
    ramp = torch.linspace(0, 1, 32).expand(1, 3, 32, 32)
    noisy = ramp + 0.02 * torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert roughness(torch.full((2, 3, 8, 8), 0.4)).abs().max() < 1e-4
    assert roughness(ramp)[0] < 0.1 < 0.5 < roughness(noisy.clamp(0, 1))[0] < 1


def test_the_detector_rejects_exactly_above_its_threshold() -> None:
    x = images(20)
    threshold = threshold_for(x, false_alarms=0.25)
    logits = Detector(network(), threshold)(x)
    assert logits.shape == (20, 5) and logits[:, :4].equal(network()(x))
    assert (logits.argmax(1) == 4).equal(roughness(x) > threshold)
    assert (logits.argmax(1) == 4).sum() == 5


def test_the_detector_takes_another_statistic() -> None:
    def brightness(x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1).mean(1)

    x = images(20)
    threshold = threshold_for(x, brightness, false_alarms=0.5)
    rejected = Detector(network(), threshold, brightness)(x).argmax(1) == 4
    assert rejected.equal(brightness(x) > threshold)


def test_an_attack_on_a_defence_leaves_it_as_it_was() -> None:
    x, y = images(), torch.tensor([0, 1, 2])
    for defence in (Quantised(network()), JPEG(network()), Scaled(network())):
        before = {name: value.clone() for name, value in defence.state_dict().items()}
        defence.train()
        pgd(defence, x, y, steps=2)
        assert defence.training
        assert all(value.equal(before[name]) for name, value in defence.state_dict().items())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Quantised(network(), 1), "levels is 1"),
        (lambda: Quantised(network(), 2.5), "levels is 2.5"),  # type: ignore[arg-type]
        (lambda: JPEG(network(), 0), "quality is 0"),
        (lambda: JPEG(network(), 101), "quality is 101"),
        (lambda: shrink(0.0)(images()), "smallest is 0"),
        (lambda: shrink(1.5)(images()), "smallest is 1.5"),
        (lambda: shrink(float("nan"))(images()), "smallest is nan"),
        (lambda: Scaled(network(), 0.0), "factor is 0"),
        (lambda: Detector(network(), 0.0), "threshold is 0"),
        (lambda: Detector(network(), 0.5, sharpness=-1), "sharpness -1"),
        (lambda: threshold_for(images(), false_alarms=1.0), "false_alarms is 1"),
        (lambda: threshold_for(images(0)), "no images"),
    ],
)
def test_what_cannot_be_is_named(make, words: str) -> None:
    with pytest.raises(AdvlibError, match=words) as caught:
        make()
    assert isinstance(caught.value, InputError | ThreatError)
