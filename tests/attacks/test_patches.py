"""Views, patches and expectation over transformation."""

import math

import pytest
import reference
import torch
from cases import fewer
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import advlib
from advlib.attacks import patches
from advlib.attacks.adaptive import averaged
from advlib.attacks.patches import (
    CAMERA,
    STICKER,
    View,
    apply_patch,
    random_views,
    total_variation,
    train_patch,
    transform,
)
from advlib.errors import InputError, LabelError, ModelOutputError, PixelError, ThreatError

RANDOM_STATE_IS_WATCHED = True

seeds = st.integers(0, 2**31)


def images(n: int = 3, size: int = 16, seed: int = 0) -> Tensor:
    return reference.images(n, 3, size, size, seed=seed).float()


def one_view(n: int = 1, **changes: float) -> View:
    values = {"shift_x": 0.0, "shift_y": 0.0, "turn": 0.0, "scale": 1.0, "light": 1.0, **changes}
    return View(*(torch.full((n,), values[name]) for name in View._fields))


def spot(size: int, row: int, column: int) -> Tensor:
    x = torch.zeros(1, 1, size, size)
    x[0, 0, row, column] = 1
    return x


def brightest(x: Tensor) -> tuple[int, int]:
    return divmod(int(x[0].sum(0).argmax()), x.shape[-1])


# -- views -----------------------------------------------------------------------------------


@given(seed=seeds, n=st.integers(0, 20))
def test_views_lie_in_their_ranges_and_the_generator_decides(seed: int, n: int) -> None:
    views = [random_views(n, generator=torch.Generator().manual_seed(seed)) for _ in range(2)]
    for name, value, again in zip(View._fields, *views, strict=True):
        low, high = CAMERA[name]
        assert value.shape == (n,) and torch.equal(value, again)
        assert ((value >= low - 1e-6) & (value <= high + 1e-6)).all()


def test_views_differ_from_each_other_and_fill_their_ranges() -> None:
    view = random_views(2000)
    for name, value in view._asdict().items():
        low, high = CAMERA[name]
        assert float(value.min()) < low + 0.02 * (high - low)
        assert float(value.max()) > high - 0.02 * (high - low)
    assert abs(float(torch.corrcoef(torch.stack(list(view)))[0, 2])) < 0.1


def test_what_is_not_named_stays_still() -> None:
    view = random_views(4, {"turn": (0.1, 0.2)})
    assert (view.turn > 0).all()
    for name, still in (("shift_x", 0), ("shift_y", 0), ("scale", 1), ("light", 1)):
        assert (getattr(view, name) == still).all()


@pytest.mark.parametrize(
    "ranges",
    [
        {"zoom": (1, 2)},
        {"turn": (1, 0)},
        {"turn": (0, math.inf)},
        {"scale": (0, 1)},
        {"light": (-0.1, 1)},
        {"turn": 3},
        {"turn": (1, 2, 3)},
        {"turn": ("a", "b")},
    ],
)
def test_ranges_that_make_no_sense_are_refused(ranges) -> None:
    with pytest.raises(InputError):
        random_views(2, ranges)


# -- the camera ------------------------------------------------------------------------------


def test_the_still_view_changes_nothing() -> None:
    x = images()
    torch.testing.assert_close(transform(x, one_view(3)), x, atol=1e-6, rtol=0)


def test_a_shift_moves_right_and_down_by_its_half_widths() -> None:
    x = spot(17, 8, 8)
    assert brightest(transform(x, one_view(shift_x=4 / 17))) == (8, 10)
    assert brightest(transform(x, one_view(shift_y=4 / 17))) == (10, 8)
    wide = torch.zeros(1, 1, 8, 16)
    wide[..., 3, 5] = 1
    assert brightest(transform(wide, one_view(shift_x=2 / 8, shift_y=1 / 4))) == (4, 7)


def test_a_turn_is_clockwise_and_does_not_shear() -> None:
    quarter = one_view(turn=math.pi / 2)
    assert brightest(transform(spot(17, 2, 8), quarter)) == (8, 14)  # from the top to the right
    wide = torch.zeros(1, 1, 9, 17)
    wide[..., 4, 11] = 1  # three pixels right of the centre
    assert brightest(transform(wide, quarter)) == (7, 8)  # three pixels below it


def test_a_larger_scale_brings_points_away_from_the_centre() -> None:
    assert brightest(transform(spot(17, 8, 11), one_view(scale=2.0)))[1] in (13, 14, 15)
    assert brightest(transform(spot(17, 8, 14), one_view(scale=0.5)))[1] == 11


def test_light_is_a_factor_and_the_sensor_saturates() -> None:
    x = images()
    torch.testing.assert_close(transform(x, one_view(3, light=0.5)), x / 2, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        transform(x, one_view(3, light=3.0)), (3 * x).clamp(0, 1), atol=1e-5, rtol=0
    )


@given(seed=seeds, dtype=st.sampled_from([torch.float32, torch.float64]))
def test_every_view_keeps_shape_dtype_and_box(seed: int, dtype: torch.dtype) -> None:
    x = images(4, seed=seed % 50).to(dtype)
    seen = transform(x, random_views(4, generator=torch.Generator().manual_seed(seed)))
    assert seen.shape == x.shape and seen.dtype == dtype
    assert float(seen.min()) >= 0 and float(seen.max()) <= 1


def test_each_image_has_its_own_view() -> None:
    x, view = images(4), random_views(4)
    alone = [transform(x[i : i + 1], View(*(v[i : i + 1] for v in view))) for i in range(4)]
    torch.testing.assert_close(transform(x, view), torch.cat(alone))


def test_the_camera_is_differentiable() -> None:
    x = (0.2 + 0.5 * images(2, 5)).double().requires_grad_()
    view = View(*(value.double() for value in random_views(2)))
    assert torch.autograd.gradcheck(lambda z: transform(z, view), x)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(PixelError):
        transform(torch.rand(3, 8, generator=torch.Generator()), one_view(3))
    with pytest.raises(InputError, match="random_views\\(3\\)"):
        transform(images(3), one_view(2))
    with pytest.raises(InputError):
        apply_patch(images(3), torch.zeros(3, 4, 4), one_view(2))
    for patch in (torch.zeros(1, 4, 4), torch.zeros(3, 4, 5), torch.zeros(4, 4)):
        with pytest.raises(PixelError):
            apply_patch(images(3), patch, one_view(3))


# -- the patch -------------------------------------------------------------------------------


def test_a_patch_is_a_disc_of_its_colours_and_leaves_the_rest_alone() -> None:
    x, patch = images(1, 40), torch.tensor([0.9, 0.1, 0.4])[:, None, None].expand(3, 6, 6)
    out = apply_patch(x, patch, one_view(scale=0.25, shift_x=0.3, shift_y=-0.2))
    changed = (out != x).any(1)[0]
    rows, columns = changed.nonzero().T
    assert abs(float(rows.double().mean()) - 19.5 + 0.2 * 20) < 0.6
    assert abs(float(columns.double().mean()) - 19.5 - 0.3 * 20) < 0.6
    area = math.pi * (0.25 * 20) ** 2
    assert 0.9 * area < int(changed.sum()) < 1.5 * area  # the rim is soft
    torch.testing.assert_close(out[0, :, 16, 25], patch[:, 0, 0])


@given(seed=seeds)
def test_images_with_patches_stay_in_the_box(seed: int) -> None:
    x = images(3, seed=seed % 50)
    generator = torch.Generator().manual_seed(seed)
    patch = torch.rand(3, 5, 5, generator=generator)
    bright = {**STICKER, "light": (0.0, 2.0)}
    out = apply_patch(x, patch, random_views(3, bright, generator=generator))
    assert float(out.min()) >= 0 and float(out.max()) <= 1


def test_light_falls_on_the_patch_and_not_on_the_image() -> None:
    x, patch = images(1, 20), torch.full((3, 4, 4), 0.8)
    out = apply_patch(x, patch, one_view(scale=0.3, light=0.5))
    torch.testing.assert_close(out[0, :, 10, 10], torch.full((3,), 0.4))
    assert torch.equal(out[0, :, 0, 0], x[0, :, 0, 0])


def test_a_turned_patch_turns() -> None:
    patch = torch.zeros(3, 8, 8)
    patch[:, :2] = 1  # bright at the top
    out = apply_patch(torch.zeros(1, 3, 32, 32), patch, one_view(turn=math.pi / 2, scale=0.8))
    assert out[0, :, 16, 26].min() > 0.9 and out[0, :, 6, 16].max() < 0.1  # now at the right


def test_the_patch_is_differentiable_in_image_and_patch() -> None:
    x = (0.2 + 0.5 * images(2, 6)).double().requires_grad_()
    patch = (0.2 + 0.5 * images(1, 4)[0]).double().requires_grad_()
    view = random_views(2, {**STICKER, "scale": (0.6, 0.7)})
    assert torch.autograd.gradcheck(lambda a, b: apply_patch(a, b, view), (x, patch))


def test_total_variation_is_high_for_noise_and_zero_for_one_colour() -> None:
    noise = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert float(total_variation(torch.full((3, 8, 8), 0.3))) == 0
    ramp = torch.linspace(0, 1, 8).expand(3, 8, 8)
    assert float(total_variation(ramp)) == pytest.approx(1 / 7, rel=1e-5)
    assert total_variation(noise) > 3 * total_variation(ramp)


# -- expectation over transformation ---------------------------------------------------------


def test_the_mean_over_views_has_an_unbiased_gradient() -> None:
    model, x, y = reference.mlp(48).double(), images(1, 4).double(), torch.tensor([0])

    def gradient(views: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)

        def seen(z: Tensor) -> Tensor:
            view = random_views(views, generator=generator)
            return model(transform(z.expand(views, -1, -1, -1), view)).log_softmax(1).mean(0)[None]

        return advlib.input_gradient(averaged(seen, 2), x, y, loss=lambda z, y: -z[:, 0]).grad

    truth = gradient(2000, 0)
    small = torch.stack([gradient(1, seed) for seed in range(1, 400)])
    error = (small.mean(0) - truth).norm()
    spread = (small - truth).flatten(1).norm(dim=1).mean()
    assert error < 0.15 * spread


class Corner(nn.Module):
    """Sees three bright or dark fields of the image: a small model that patches can fool."""

    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        middle = x[..., half - 3 : half + 3, half - 3 : half + 3].mean((2, 3))
        return 12 * (middle - 0.5 * x.mean((2, 3)))


def test_a_trained_patch_works_on_new_images_and_views_and_grey_does_not() -> None:
    model = Corner()
    x, unseen = images(16, 16, 1), images(40, 16, 2)
    patch = train_patch(
        model, x, 2, size=6, steps=40, learning_rate=0.1, sticker={"scale": (0.5, 0.5)}
    )
    view = random_views(40, generator=torch.Generator().manual_seed(9))

    def reached(patch: Tensor) -> float:
        seen = transform(apply_patch(unseen, patch, one_view(40, scale=0.5)), view)
        return float((model(seen).argmax(1) == 2).double().mean())

    assert reached(patch) > 0.95
    assert reached(torch.full_like(patch, 0.5)) < 0.8


@fewer(by=3)
@given(seed=seeds, low=st.floats(0, 0.4), high=st.floats(0.6, 1))
def test_the_patch_can_be_printed_and_the_generator_decides(seed, low, high) -> None:
    def train() -> Tensor:
        return train_patch(
            Corner(), images(4), 1, size=4, steps=5, batch_size=4, ink=(low, high),
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip

    patch = train()
    assert patch.shape == (3, 4, 4) and not patch.requires_grad
    assert float(patch.min()) >= low - 1e-7 and float(patch.max()) <= high + 1e-7
    assert torch.equal(patch, train())


def test_smoothness_makes_it_smoother() -> None:
    options = {"size": 8, "steps": 8, "batch_size": 4, "learning_rate": 0.05}
    rough = train_patch(Corner(), images(4), 1, smoothness=0.0, **options)
    smooth = train_patch(Corner(), images(4), 1, smoothness=10.0, **options)
    assert total_variation(smooth) < 0.7 * total_variation(rough)


def test_every_step_is_reported_and_the_loss_falls() -> None:
    seen: list[tuple[int, float]] = []
    train_patch(
        Corner(), images(8), 0, size=4, steps=30, learning_rate=0.1,
        on_step=lambda step, patch, loss: seen.append((step, float(loss))),
    )  # fmt: skip
    assert [step for step, _ in seen] == list(range(1, 31))
    assert sum(v for _, v in seen[-5:]) < sum(v for _, v in seen[:5])


def test_training_a_patch_leaves_nothing_behind() -> None:
    inner = reference.without_seed(
        lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(48), nn.Dropout(0.5), nn.Linear(48, 3))
    )
    inner.train()
    state = {name: value.clone() for name, value in inner.state_dict().items()}
    x = images(3, 4)
    before = x.clone()
    train_patch(inner, x, 1, size=2, steps=2)
    assert inner.training and all(p.requires_grad for p in inner.parameters())
    assert all(p.grad is None for p in inner.parameters())
    assert all(torch.equal(v, state[name]) for name, v in inner.state_dict().items())
    assert torch.equal(x, before)


def test_what_cannot_be_used_is_refused() -> None:
    model, x = Corner(), images()
    with pytest.raises(PixelError):
        train_patch(model, x[:0], 0)
    with pytest.raises(PixelError):
        train_patch(model, x * 255, 0)
    for target in (-1, 1.0, True, "stop"):
        with pytest.raises(LabelError):
            train_patch(model, x, target)
    with pytest.raises(LabelError, match="classes 0 to 2"):
        train_patch(model, x, 7, steps=1)
    for wrong in ({"steps": 0}, {"batch_size": 0}, {"size": 1}, {"learning_rate": 0.0},
                  {"smoothness": -1.0}, {"ink": (0.5, 0.5)}, {"ink": (-0.1, 1)}):  # fmt: skip
        with pytest.raises(ThreatError):
            train_patch(model, x, 0, **wrong)
    with pytest.raises(InputError):
        train_patch(model, x, 0, sticker={"place": (0, 1)})
    with pytest.raises(ModelOutputError, match="no gradient"):
        train_patch(lambda x: model(x).round().detach(), x, 0, steps=1)


def test_no_module_of_the_package_is_needed_to_print_one() -> None:
    """The defaults agree with each other: a sticker lies on the sign, inside the image."""
    assert set(patches.STICKER) == set(patches.CAMERA) == set(View._fields)
    reach = STICKER["shift_x"][1] + STICKER["scale"][1]
    assert reach < 1


def test_a_patch_can_be_trained_in_inference_mode() -> None:
    x = images(3)
    with torch.inference_mode():
        inside = train_patch(Corner(), x.clone(), 1, size=3, steps=2)
    assert torch.equal(inside, train_patch(Corner(), x, 1, size=3, steps=2))


def test_a_gradient_that_is_not_finite_is_refused() -> None:
    def model(x: Tensor) -> Tensor:
        far = x.flatten(1).sum(1, keepdim=True)
        return torch.cat([far, (far - far.detach()).abs().sqrt()], 1)  # steep without end at 0

    with pytest.raises(ModelOutputError, match="gradient is NaN or infinite"):
        train_patch(model, images(), 1, size=4, steps=2)
