"""Augmentation: other views of the same sign, from a generator, never of another one."""

import pytest
import torch

from advlib.data import signs
from advlib.defences.augmentation import gaussian, views
from advlib.errors import InputError
from advlib.evaluation import accuracy
from advlib.models import shipped

RANDOM_STATE_IS_WATCHED = True


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def images():
    return signs.render(64, seed=41)


@pytest.mark.parametrize("function", [gaussian, views])
def test_the_generator_decides_and_the_images_stay(images, function, device):
    x = images[0][:8].to(device)
    before = x.clone()
    first, again, other = (function(x, seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(x, before)
    assert (first.shape, first.dtype, first.device) == (x.shape, x.dtype, x.device)
    generator = seeded()
    assert not torch.equal(function(x, generator), function(x, generator)), "anew for each batch"


def test_noise_has_its_standard_deviation_and_is_not_clipped():
    x = torch.ones(8, 3, 32, 32)
    delta = gaussian(x, seeded(), sigma=0.2) - x
    assert delta.std().item() == pytest.approx(0.2, rel=0.02)
    assert abs(delta.mean().item()) < 0.01 and delta.max() > 0.3
    assert torch.equal(gaussian(x, seeded(), sigma=0.0), x)


def test_views_without_any_range_are_the_images(images):
    x, _ = images
    same = views(x, seeded(), shift=0, turn=0, zoom=0, light=0, contrast=0)
    assert torch.allclose(same, x, atol=1e-5)


def test_views_stay_in_the_box_and_differ_from_image_to_image():
    x = signs.render(1, seed=3)[0].expand(16, -1, -1, -1)
    seen = views(x, seeded())
    assert seen.min() >= 0 and seen.max() <= 1
    assert len({image.sum().item() for image in seen}) == 16


def test_shift_moves_what_is_seen_by_at_most_its_part():
    x = torch.zeros(64, 1, 33, 33)
    x[:, :, 16, 16] = 1
    seen = views(x, seeded(), shift=0.25, turn=0, zoom=0, light=0, contrast=0)
    place = torch.linspace(-0.5, 0.5, 34)[:-1] + 0.5 / 33
    mass = seen.sum((1, 2, 3))
    across = (seen.sum((1, 2)) * place).sum(1) / mass
    down = (seen.sum((1, 3)) * place).sum(1) / mass
    for moved in (across, down):
        assert moved.abs().max() <= 0.25 + 1e-3 and moved.max() > 0.15 and moved.min() < -0.15


def test_nothing_is_mirrored_and_turns_are_small():
    """Brightness still rises from left to right, and from top to bottom, in every view."""
    ramp = torch.linspace(0, 1, 32)
    x = ramp.view(1, 1, 1, -1).expand(64, 1, 32, 32)
    seen = views(x, seeded(), light=0, contrast=0)
    assert (seen[:, 0, :, 24].mean(1) > seen[:, 0, :, 8].mean(1)).all()
    upright = views(x.transpose(2, 3), seeded(), light=0, contrast=0)
    assert (upright[:, 0, 24].mean(1) > upright[:, 0, 8].mean(1)).all()


def test_signs_keep_their_meaning(images):
    """A network never trained on such views still classifies most of them correctly."""
    x, y = images
    model = shipped.load("signs-standard")
    assert accuracy(model, views(x, seeded()), y).value > 0.8


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(shift=0.6), "shift"),
        (dict(turn=90.0), "turn"),
        (dict(turn=-1.0), "turn"),
        (dict(zoom=1.0), "zoom"),
        (dict(light=-0.1), "light"),
        (dict(contrast=float("nan")), "contrast"),
    ],
)
def test_ranges_that_change_the_sign_are_refused(images, change, says):
    with pytest.raises(InputError, match=says):
        views(images[0], seeded(), **change)


def test_negative_noise_is_refused(images):
    with pytest.raises(InputError, match="sigma"):
        gaussian(images[0], seeded(), sigma=-0.1)
