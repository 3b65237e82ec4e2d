"""The sign renderer: what users may rely on."""

import itertools

import pytest
import torch

from advlib.data import signs
from advlib.data.sign_shapes import GLYPHS, draw_face, face_atlas, faces
from advlib.errors import AdvlibError, InputError, LabelError

FACE_SUMS = [
    6800.83,
    7923.25,
    7940.03,
    7902.21,
    7887.36,
    8057.55,
    7819.92,
    7942.03,
    7976.62,
    7987.45,
    4731.72,
    6701.00,
    6129.66,
    7284.86,
    7543.05,
    8900.83,
]
"""What the channels of each face add up to at 64 pixels."""


@pytest.fixture(scope="module")
def batch():
    return signs.render(128, seed=7)


def test_shapes_types_and_range(batch):
    x, y = batch
    assert x.shape == (128, 3, 64, 64) and x.dtype == torch.float32
    assert y.shape == (128,) and y.dtype == torch.int64
    assert x.min() >= 0 and x.max() <= 1 and x.isfinite().all()


def test_classes_come_up_equally_often(batch):
    assert torch.equal(batch[1].bincount(), torch.full((16,), 8))
    assert len(signs.CLASS_NAMES) == len(set(signs.CLASS_NAMES)) == 16
    assert sum(name.startswith("speed limit") for name in signs.CLASS_NAMES) == 9


def test_same_seed_same_images_another_seed_others(batch):
    again = signs.render(128, seed=7)
    assert torch.equal(again[0], batch[0]) and torch.equal(again[1], batch[1])
    other = signs.render(128, seed=8)
    assert (other[0] - batch[0]).abs().mean() > 0.05
    assert not torch.equal(other[1], batch[1])


@pytest.mark.parametrize("n, chunk", [(128, 7), (128, 64), (128, 1000), (65, None), (1, None)])
def test_images_depend_neither_on_chunks_nor_on_how_many(batch, n, chunk):
    x, y = signs.render(n, seed=7, chunk=chunk)
    torch.testing.assert_close(x, batch[0][:n], atol=1e-6, rtol=0)
    assert torch.equal(y, batch[1][:n])


def test_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    signs.render(10, seed=3)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("style", signs.STYLES)
def test_all_randomness_is_independent_of_the_label(style):
    """Same seed, other sign: the scene around the sign is the same to the last bit."""
    stop, _ = signs.render(20, seed=1, labels=[0] * 20)
    for label in range(1, 16):
        other, y = signs.render(20, seed=1, labels=torch.full((20,), label), style=style)
        assert (y == label).all()
        same = (stop == other).all(1)
        corners = same[:, [0, 0, 1, -2, -1, -1], [0, -1, 1, -2, 0, -1]]
        assert corners.all(), "no sign reaches the corners"
        assert ((stop - other).abs().amax((1, 2, 3)) > 0.05).all()


@pytest.mark.parametrize("style", signs.STYLES)
def test_each_class_is_distinct(style):
    """In one and the same scene, any two signs differ in many pixels."""
    scene, _ = signs.render(1, seed=4, labels=[0], style=style)
    images = torch.cat([signs.render(1, seed=4, labels=[k], style=style)[0] for k in range(16)])
    assert torch.equal(images[0], scene[0])
    far = (images[:, None] - images[None]).abs().amax(2) > 0.05
    changed = far.float().mean((2, 3)) + torch.eye(16)
    assert changed.min() > 0.01


def test_no_class_has_brightness_of_its_own():
    """No watermark: the border of the image, where no sign hangs, says nothing of the class."""
    x, y = signs.render(640, seed=11)
    border = torch.cat([x[:, :, :3].flatten(2), x[:, :, -3:].flatten(2)], 2).mean((1, 2))
    means = torch.stack([border[y == k].mean() for k in range(16)])
    spread = border.std() / 40**0.5  # standard error of a class's mean
    assert ((means - border.mean()).abs() < 5 * spread).all()


@pytest.mark.parametrize("size", [16, 32, 48, 96, 128])
def test_other_sizes_show_the_same_scenes(size):
    x, y = signs.render(16, seed=2, size=size)
    reference, y64 = signs.render(16, seed=2)
    assert x.shape == (16, 3, size, size) and torch.equal(y, y64)
    small = torch.nn.functional.interpolate(x, size=(16, 16), mode="area")
    expected = torch.nn.functional.interpolate(reference, size=(16, 16), mode="area")
    assert (small - expected).abs().mean() < 0.02


def test_classes_by_index_and_by_name():
    _, y = signs.render(64, seed=5, classes=["stop", 3])
    assert set(y.tolist()) == {0, 3} and (y == 0).sum() == 32
    _, same = signs.render(64, seed=5, classes=[0, "speed limit 50"])
    assert torch.equal(y, same)


@pytest.mark.parametrize(
    "arguments, error, says",
    [
        (dict(n=-1), InputError, "`n`"),
        (dict(n=2.0), InputError, "whole number"),
        (dict(n=True), InputError, "whole number"),
        (dict(n=2, seed=-1), InputError, "`seed`"),
        (dict(n=2, size=4), InputError, "`size`"),
        (dict(n=2, size=1000), InputError, "8 to 512"),
        (dict(n=2, chunk=0), InputError, "`chunk`"),
        (dict(n=2, classes=["stopp"]), LabelError, "speed limit 30"),
        (dict(n=2, classes=[16]), LabelError, "0 to 15"),
        (dict(n=2, classes=[]), LabelError, "at least one"),
        (dict(n=2, classes="stop"), LabelError, "list"),
        (dict(n=2, labels=[1]), LabelError, "shape"),
        (dict(n=2, labels=[1, 16]), LabelError, "0..15"),
        (dict(n=2, labels=[0.0, 1.0]), LabelError, "whole number"),
        (dict(n=2, labels=[1, 2], classes=[1]), InputError, "both"),
        (dict(n=2, style="swiss"), InputError, "vienna, american"),
    ],
)
def test_bad_arguments_say_what_is_wrong(arguments, error, says):
    with pytest.raises(error, match=says) as caught:
        signs.render(**arguments)
    assert isinstance(caught.value, AdvlibError) and isinstance(caught.value, ValueError)


def test_no_images_are_an_empty_batch():
    x, y = signs.render(0)
    assert x.shape == (0, 3, 64, 64) and y.shape == (0,)


def test_faces_are_smooth_images_with_an_empty_border():
    """The renderer clamps to the border of a face: it must be empty, or it would smear."""
    assert len(faces()) == len(signs.CLASS_NAMES)
    for tile, style in itertools.product((64, 80, 256), signs.STYLES):
        atlas = face_atlas(tile, style).view(4, 16, tile, tile)
        sides = [atlas[..., 0, :], atlas[..., -1, :], atlas[..., 0], atlas[..., -1]]
        assert (torch.cat(sides, -1) == 0).all()
        assert atlas.min() >= 0 and atlas.max() <= 1
        assert (atlas[:3] <= atlas[3:] + 1e-6).all(), "colours are multiplied by the coverage"
        assert ((atlas[3] > 0) & (atlas[3] < 1)).any()


def test_every_needed_glyph_is_drawn():
    assert set("STOP0123").issubset(GLYPHS)
    face = draw_face(faces()[0], 96)
    white = (face[:3].amin(0) > 0.8)[30:66]
    assert 0.05 < white.float().mean() < 0.5, "the word STOP covers part of the plate"


def test_same_images_on_every_device(device):
    x, y = signs.render(32, seed=9, device=device)
    assert x.device.type == torch.device(device).type
    reference, labels = signs.render(32, seed=9)
    torch.testing.assert_close(x.cpu(), reference, atol=2e-5, rtol=0)
    assert torch.equal(y.cpu(), labels)


def test_the_styles_share_scenes_and_labels_and_show_other_signs():
    (x, y), (other, same) = (signs.render(64, seed=12, style=style) for style in signs.STYLES)
    assert torch.equal(y, same)
    corners = (slice(None), slice(None), [0, 0, -1, -1], [0, -1, 0, -1])
    assert torch.equal(x[corners], other[corners]), "no sign reaches the corners"
    changed = ((x - other).abs().amax(1) > 0.05).float().mean((1, 2))
    assert changed.min() > 0.02, "every class is drawn differently"


def test_the_usual_style_is_the_default_and_its_faces_are_as_they_were():
    """The shipped weights and every stored lesson rest on these faces."""
    assert torch.equal(
        signs.render(8, seed=3)[0], signs.render(8, seed=3, style=signs.STYLES[0])[0]
    )
    # Sums over each face, drawn before there was a second style.
    sums = face_atlas(64).view(4, 16, -1).double().sum((0, 2))
    torch.testing.assert_close(sums, torch.tensor(FACE_SUMS, dtype=sums.dtype), rtol=1e-5, atol=0)
