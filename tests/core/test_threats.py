"""The three balls: lengths, projections, random points, steepest directions, exactness."""

import math

import numpy as np
import pytest
import reference
import torch
from cases import DTYPES, NORMS, assert_inside, dtypes, radii, seeds, shapes
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from advlib import threats
from advlib.errors import DeviceError, ThreatError

RANDOM_STATE_IS_WATCHED = True


def draw(shape: tuple[int, ...], seed: int, scale: float = 1.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(shape, generator=generator, dtype=torch.float64)


# -- norm and dual norm ----------------------------------------------------------------------


def test_norms_of_a_perturbation_worked_out_by_hand() -> None:
    delta = torch.tensor([[[[3.0, -4.0]]], [[[0.0, 0.5]]]])
    assert threats.norm(delta, "linf").tolist() == [4.0, 0.5]
    assert threats.norm(delta, "l2").tolist() == [5.0, 0.5]
    assert threats.norm(delta, "l1").tolist() == [7.0, 0.5]
    assert threats.norm(delta).tolist() == [4.0, 0.5]


def test_dual_norms_of_a_gradient_worked_out_by_hand() -> None:
    grad = torch.tensor([[3.0, -4.0]])
    assert threats.dual_norm(grad, "linf").item() == 7.0
    assert threats.dual_norm(grad, "l2").item() == 5.0
    assert threats.dual_norm(grad, "l1").item() == 4.0
    assert threats.dual_norm(grad).item() == 7.0


@pytest.mark.parametrize(("norm", "diameter"), [("linf", 1.0), ("l2", 2.0), ("l1", 4.0)])
def test_the_box_of_four_pixels_has_this_diameter_whatever_the_batch(norm, diameter) -> None:
    for images in (1, 7):
        assert threats.check_norm(norm).diameter(torch.zeros(images, 1, 2, 2)) == diameter


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", [(0, 3, 2, 2), (2, 0)])
def test_nothing_has_length_zero(norm: str, shape: tuple[int, ...]) -> None:
    nothing = torch.zeros(shape)
    assert threats.norm(nothing, norm).tolist() == [0.0] * shape[0]
    assert threats.dual_norm(nothing, norm).shape == shape[:1]
    assert threats.project(nothing, 0.1, norm).shape == shape
    assert threats.steepest(nothing, 0.1, norm).shape == shape
    assert threats.random_point(nothing, 0.1, norm).shape == shape
    assert threats.confine(nothing, nothing, 0.1, norm).shape == shape


@pytest.mark.parametrize("norm", NORMS)
@given(shape=shapes, seed=seeds)
def test_norm_and_dual_norm_agree_with_the_reference(shape, seed, norm) -> None:
    delta = draw(shape, seed)
    expected = [reference.length(one, norm) for one in delta.numpy()]
    np.testing.assert_allclose(threats.norm(delta, norm).numpy(), expected, rtol=1e-12)
    expected = [reference.dual_length(one, norm) for one in delta.numpy()]
    np.testing.assert_allclose(threats.dual_norm(delta, norm).numpy(), expected, rtol=1e-12)


# -- exact containment -----------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@given(
    shape=shapes,
    seed=seeds,
    dtype=dtypes,
    eps=radii,
    scale=st.sampled_from([1e-8, 1e-3, 0.1, 1.0, 30.0]),
)
def test_confine_puts_any_perturbation_inside_ball_and_box(
    shape, seed, norm, dtype, eps, scale
) -> None:
    x = reference.images(*shape, seed=seed).to(dtype)
    delta = draw(shape, seed + 1, scale).to(dtype)
    before = x.clone(), delta.clone()
    assert_inside(x, threats.confine(x, delta, eps, norm), eps, norm)
    assert torch.equal(x, before[0]) and torch.equal(delta, before[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS)
def test_confine_holds_on_the_device_for_the_eps_that_all_peers_overstep(
    norm: str, dtype: torch.dtype, device: torch.device
) -> None:
    x = reference.images(16, 3, 12, 12, ends=0.05).to(device, dtype)
    delta = draw(tuple(x.shape), 1).sign().to(device, dtype)
    for eps in (0.1, 0.3, 4 / 255, 8 / 255, 1e-12, 2.0):
        assert_inside(x, threats.confine(x, delta, eps, norm), eps, norm)


@pytest.mark.parametrize("norm", NORMS)
@given(shape=shapes, seed=seeds, eps=st.sampled_from([4 / 255, 0.1, 0.5, 2.0]))
def test_confine_hardly_moves_what_is_allowed_already(shape, seed, norm, eps) -> None:
    x = reference.images(*shape, seed=seed)
    delta = torch.stack(
        [
            torch.from_numpy(reference.project(d, 0.9 * eps, norm, p))
            for d, p in zip(draw(shape, seed + 1).numpy(), x.numpy(), strict=True)
        ]
    )
    x_adv = threats.confine(x, delta, eps, norm)
    np.testing.assert_allclose((x_adv - x).numpy(), delta.numpy(), atol=1e-15 * math.prod(shape))


def test_confine_uses_the_budget_to_the_last_floating_point_number() -> None:
    x = torch.rand(64, 100, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2
    for norm in NORMS:
        delta = threats.confine(x, torch.full_like(x, 0.15), 0.1, norm) - x
        # Every pixel is rounded towards x: by half a unit in the last place, on average.
        unused = 100 * 2**-25 if norm == "l1" else 1e-6
        assert float(threats.norm(delta, norm).double().min()) > 0.1 - unused


def test_without_settling_confine_leaves_at_most_rounding_outside() -> None:
    x = reference.images(8, 300, seed=3).float()
    delta = draw((8, 300), 4).float()
    for norm in NORMS:
        loose = threats.NORMS[norm].confine(x, delta, 0.1, settle=False)
        assert float(loose.amin()) >= 0 and float(loose.amax()) <= 1
        assert float(threats.norm(loose - x, norm).max()) <= 0.1 * (1 + 1e-5)
        assert_inside(x, threats.NORMS[norm].settle(x, loose, 0.1), 0.1, norm)


@pytest.mark.parametrize("norm", ["l2", "l1"])
@given(shape=shapes, seed=seeds, dtype=dtypes, power=st.integers(-6, -1))
def test_without_settling_no_pixel_moves_further_than_it_was_told(
    shape, seed, norm, dtype, power
) -> None:
    x = reference.images(*shape, seed=seed).to(dtype)
    delta = (draw(shape, seed + 1) * 10.0**power).to(dtype)
    loose = threats.NORMS[norm].confine(x, delta, 1e4, settle=False)
    assert float(loose.amin()) >= 0 and float(loose.amax()) <= 1
    # Compared without rounding.
    assert bool(((loose.double() - x.double()).abs() <= delta.double().abs()).all())


@pytest.mark.parametrize("norm", NORMS)
@given(
    shape=shapes,
    seed=seeds,
    dtype=dtypes,
    excess=st.sampled_from([0.0, 1e-7, 1e-6, 1e-4, 1e-2]),
)
def test_settle_shrinks_what_is_outside_and_returns_the_rest_as_it_is(
    shape, seed, norm, dtype, excess
) -> None:
    x = reference.images(*shape, seed=seed).to(dtype)
    x_adv = threats.confine(x, draw(shape, seed + 1).to(dtype), 0.3, norm)
    length = threats.norm(x_adv - x, norm).double()
    eps = float(length.max()) * (1 - excess)
    settled = threats.NORMS[norm].settle(x, x_adv, eps)
    assert_inside(x, settled, eps, norm)
    inside = length <= eps * (1 - 1e-6 - torch.finfo(dtype).eps)
    assert torch.equal(settled[inside], x_adv[inside])
    # What was too long was shortened by little more than it was too long.
    unit = torch.finfo(dtype).eps
    kept = threats.norm(settled - x, norm).double()
    lost = 4 * excess + 32 * unit
    assert bool((kept >= length * (1 - lost) - 2 * unit * x[0].numel()).all())


@given(shape=shapes, seed=seeds, dtype=dtypes, eps=radii)
def test_every_point_between_the_bounds_is_in_ball_and_box(shape, seed, dtype, eps) -> None:
    x = reference.images(*shape, seed=seed).to(dtype)
    low, high = threats.bounds(x, eps)
    for corner in (low, high, torch.where(draw(shape, seed) > 0, low, high)):
        assert_inside(x, corner, eps, "linf")
    assert bool((low <= x).all()) and bool((x <= high).all())


@given(
    # Small rationals with few bits: ties and exact sums happen often.
    value=st.integers(0, 256).map(lambda k: k / 256),
    eps=st.integers(0, 300).map(lambda k: k / 256),
    dtype=dtypes,
)
def test_bounds_are_exact_where_the_sum_is(value: float, eps: float, dtype) -> None:
    x = torch.tensor([[value]], dtype=dtype)
    low, high = threats.bounds(x, eps)
    assert low.item() == max(0.0, value - eps)
    assert high.item() == min(1.0, value + eps)


def test_bounds_are_the_widest_there_are() -> None:
    """One floating-point number further and the exact difference is larger than eps."""
    x = torch.rand(4000, 1, generator=torch.Generator().manual_seed(5)) * 0.5 + 0.25
    reach = np.float64(np.float32(0.1)) if np.float32(0.1) <= 0.1 else None
    if reach is None:  # the largest float32 that is at most 0.1
        reach = np.float64(np.nextafter(np.float32(0.1), np.float32(0)))
    low, high = threats.bounds(x, 0.1)
    further_up = torch.nextafter(high, torch.ones_like(x)).double()
    further_down = torch.nextafter(low, torch.zeros_like(x)).double()
    assert bool((further_up - x.double() > reach).all())
    assert bool((x.double() - further_down > reach).all())


# -- projection ------------------------------------------------------------------------------


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("norm", NORMS)
@given(
    shape=shapes,
    seed=seeds,
    eps=st.sampled_from([0.0, 1e-3, 0.1, 0.5, 2.0, 50.0]),
    scale=st.sampled_from([1e-3, 0.1, 1.0, 10.0]),
)
def test_projection_agrees_with_the_reference(shape, seed, norm, boxed, eps, scale) -> None:
    delta = draw(shape, seed, scale)
    x = reference.images(*shape, seed=seed + 1) if boxed else None
    got = threats.project(delta, eps, norm, x).numpy()
    for i, one in enumerate(delta.numpy()):
        expected = reference.project(one, eps, norm, None if x is None else x[i].numpy())
        np.testing.assert_allclose(got[i], expected, atol=1e-9 * max(scale, 1))


@given(
    seed=seeds,
    n=st.integers(1, 40),
    eps=st.integers(1, 8),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_a_budget_that_full_pixels_use_up_exactly_is_not_overspent(seed, n, eps, dtype) -> None:
    """No level of the threshold spends more or less then, and rounding must not look for one."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(2, (4, n), generator=generator).to(dtype)
    rank = torch.rand(4, n, generator=generator).argsort(1)
    size = 1.1 + 2 * rank + draw((4, n), seed).sigmoid()
    delta = (size * (1 - 2 * x)).to(dtype)
    farthest = size.argsort(1, descending=True)[:, :eps]
    expected = torch.zeros_like(delta).scatter(1, farthest, (1 - 2 * x).gather(1, farthest))
    got = threats.project(delta, eps, "l1", x)
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(got, expected, atol=tolerance, rtol=0)


@given(shape=shapes, seed=seeds, eps=st.sampled_from([1e-3, 0.1, 0.5, 2.0]))
def test_l1_projection_agrees_with_duchi_et_al(shape, seed, eps) -> None:
    delta = draw(shape, seed)
    got = threats.project(delta, eps, "l1").numpy()
    for one, mine in zip(delta.numpy(), got, strict=True):
        np.testing.assert_allclose(mine, reference.project_l1_by_sorting(one, eps), atol=1e-12)


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("norm", NORMS)
@given(shape=shapes, seed=seeds, eps=st.floats(1e-3, 3))
def test_projection_is_idempotent_and_inside(shape, seed, norm, boxed, eps) -> None:
    delta = draw(shape, seed)
    x = reference.images(*shape, seed=seed + 1) if boxed else None
    once = threats.project(delta, eps, norm, x)
    assert float(threats.norm(once, norm).max()) <= eps * (1 + 1e-12)
    if x is not None:
        assert float((x + once).amin()) >= -1e-15 and float((x + once).amax()) <= 1 + 1e-15
    np.testing.assert_allclose(threats.project(once, eps, norm, x), once, atol=1e-12)


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("norm", NORMS)
@given(seed=seeds, eps=st.floats(0.05, 2))
def test_no_sampled_point_of_the_set_is_closer_than_the_projection(seed, norm, boxed, eps) -> None:
    delta = draw((1, 6), seed)
    x = reference.images(1, 6, seed=seed + 1) if boxed else None
    closest = threats.project(delta, eps, norm, x)
    many = torch.zeros(300, 6, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    others = threats.random_point(many, eps, norm, generator)
    # Half of them near the answer, where a better one would have to be.
    others[::2] = closest + 0.05 * eps * others[::2]
    others = others / (threats.norm(others, norm) / eps).clamp_min(1)[:, None]
    if x is not None:
        others = others.clamp(-x, 1 - x)
    assert float((closest - delta).norm()) <= float((others - delta).norm(dim=1).min()) + 1e-9


def test_projection_of_points_inside_changes_nothing() -> None:
    x = reference.images(5, 3, 4, 4)
    delta = threats.confine(x, draw(tuple(x.shape), 1), 0.2, "l2") - x
    for norm, eps in (("linf", 0.2), ("l2", 0.2), ("l1", 20.0)):
        assert torch.equal(threats.project(delta, eps, norm), delta)
        np.testing.assert_allclose(threats.project(delta, eps, norm, x), delta, atol=1e-15)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("boxed", [False, True])
def test_projection_on_a_ball_of_no_size_is_zero(norm: str, boxed: bool) -> None:
    """Pixels at the edge of the box, which cannot move on, included."""
    delta = draw((4, 20), 1)
    x = reference.images(4, 20, ends=0.4) if boxed else None
    assert not threats.project(delta, 0, norm, x).any()


def test_half_precision_is_projected_although_its_squares_overflow() -> None:
    delta, x = torch.tensor([[300.0, -400.0]]).half(), torch.full((1, 2), 0.5).half()
    got = threats.project(delta, 0.5, "l2", x)
    torch.testing.assert_close(got, torch.tensor([[0.3, -0.4]]).half())


def test_projection_on_a_large_image_keeps_its_accuracy_in_float32() -> None:
    delta = draw((2, 60_000), 0).float()
    x = reference.images(2, 60_000).float()
    for norm, eps in (("l2", 3.0), ("l1", 40.0), ("l1", 2_000.0)):
        length = threats.norm(threats.project(delta, eps, norm, x).double(), norm)
        np.testing.assert_allclose(length, eps, rtol=2e-4)


# -- random points ---------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@given(shape=shapes, seed=seeds, dtype=dtypes, eps=radii)
def test_random_points_lie_in_the_ball_and_come_from_the_generator(
    shape, seed, norm, dtype, eps
) -> None:
    x = reference.images(*shape, seed=seed).to(dtype)
    eps = min(eps, 1e4)  # beyond, half precision has no numbers
    one = threats.random_point(x, eps, norm, torch.Generator().manual_seed(seed))
    same = threats.random_point(x, eps, norm, torch.Generator().manual_seed(seed))
    assert one.shape == x.shape and one.dtype == dtype
    assert torch.equal(one, same)
    rounding = 1 + 8 * torch.finfo(dtype).eps
    for delta in one.double().numpy():
        tiny = float(torch.finfo(dtype).smallest_normal) * x[0].numel()
        assert reference.length(delta, norm) <= eps * rounding + tiny


@pytest.mark.parametrize("norm", NORMS)
def test_random_points_differ_from_generator_to_generator(norm: str) -> None:
    x = torch.zeros(2, 8)
    one = threats.random_point(x, 1.0, norm, torch.Generator().manual_seed(1))
    other = threats.random_point(x, 1.0, norm, torch.Generator().manual_seed(2))
    assert not torch.equal(one, other)
    generator = torch.Generator().manual_seed(1)
    first = threats.random_point(x, 1.0, norm, generator)
    second = threats.random_point(x, 1.0, norm, generator)
    assert torch.equal(first, one) and not torch.equal(first, second)
    # No generator: always the same, that of seed 0.
    zero = threats.random_point(x, 1.0, norm, torch.Generator().manual_seed(0))
    assert torch.equal(threats.random_point(x, 1.0, norm), zero)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dimensions", [1, 2, 5])
def test_random_points_are_uniform_in_the_ball(norm: str, dimensions: int) -> None:
    """The share inside a ball of relative radius r is r**d; no orthant or axis is preferred."""
    n, eps = 40_000, 0.7
    x = torch.zeros(n, dimensions, dtype=torch.float64)
    delta = threats.random_point(x, eps, norm, torch.Generator().manual_seed(7))
    radius = threats.norm(delta, norm) / eps
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        inside = float((radius <= share ** (1 / dimensions)).double().mean())
        assert abs(inside - share) < 5 * math.sqrt(share * (1 - share) / n)
    positive = (delta > 0).double().mean(0)
    assert float((positive - 0.5).abs().max()) < 5 * 0.5 / math.sqrt(n)
    if dimensions > 1:  # no direction is preferred: coordinates have equal spread, no correlation
        spread = delta.square().mean(0)
        assert float(spread.max() / spread.min()) < 1.06
        correlation = torch.corrcoef(delta.T) - torch.eye(dimensions, dtype=torch.float64)
        assert float(correlation.abs().max()) < 5 / math.sqrt(n)


def test_a_random_point_of_the_l2_disc_is_uniform_in_angle() -> None:
    delta = threats.random_point(torch.zeros(40_000, 2), 1.0, "l2")
    angle = torch.atan2(delta[:, 1], delta[:, 0])
    counts = torch.histc(angle, 16, -math.pi, math.pi)
    assert float((counts - 2_500).abs().max()) < 5 * math.sqrt(2_500)


def test_a_cpu_generator_serves_every_device(device: torch.device) -> None:
    x = torch.zeros(3, 5, device=device)
    for norm in NORMS:
        there = threats.random_point(x, 0.5, norm, torch.Generator().manual_seed(3))
        here = threats.random_point(x.cpu(), 0.5, norm, torch.Generator().manual_seed(3))
        assert there.device == x.device
        assert torch.equal(there.cpu(), here)


# -- steepest direction ----------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@given(
    shape=shapes,
    seed=seeds,
    eps=st.floats(1e-6, 5),
    scale=st.sampled_from([1e-30, 1e-6, 1.0, 1e6]),
)
def test_steepest_attains_eps_times_the_dual_norm(shape, seed, norm, eps, scale) -> None:
    grad = draw(shape, seed, scale)
    delta = threats.steepest(grad, eps, norm)
    assert float(threats.norm(delta, norm).max()) <= eps * (1 + 1e-12)
    value = (grad * delta).flatten(1).sum(1)
    np.testing.assert_allclose(value, eps * threats.dual_norm(grad, norm), rtol=1e-9)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_budget_that_overflows_leaves_what_has_no_derivative_alone(norm: str, dtype) -> None:
    grad = torch.tensor([[0.0, 1.0, -1.0]], dtype=dtype)
    delta = threats.steepest(grad, 1e300, norm)
    assert delta[0, 0] == 0 and not delta.isnan().any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("small", [1e-3, 1e-7, 1e-20])
def test_l2_steepest_is_finite_when_all_that_is_left_is_tiny(dtype, small: float) -> None:
    """The largest derivative meets the box, and the square of the next one underflows."""
    grad, x = torch.tensor([[1.0, small, 0.0]], dtype=dtype), torch.full((1, 3), 0.5, dtype=dtype)
    delta = threats.steepest(grad, 0.7, "l2", x)
    assert delta.isfinite().all() and delta[0, 0] == 0.5 and delta[0, 2] == 0


def test_l2_steepest_is_exact_where_many_rounds_are_needed() -> None:
    """Each round finds a few more pixels that meet the box; here eight rounds are not enough."""
    grad, x = draw((3, 3, 5, 5), 5), reference.images(3, 3, 5, 5, seed=6).double()
    delta = threats.steepest(grad, 5.5625, "l2", x)
    for i in range(3):
        best = reference.steepest_value(grad[i].numpy(), 5.5625, "l2", x[i].numpy())
        assert float((grad[i] * delta[i]).sum()) == pytest.approx(best, rel=1e-10)


@pytest.mark.parametrize("norm", NORMS)
@given(
    shape=shapes,
    seed=seeds,
    eps=st.one_of(st.sampled_from([1e-12, 0.1, 1.0, 3.0, 1e3, 1e20, 1e300]), st.floats(1e-4, 6)),
    scale=st.sampled_from([1e-30, 1.0, 1e6]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_with_the_box_steepest_attains_the_best_value_there_is(
    shape, seed, norm, eps, scale, dtype
) -> None:
    grad, x = draw(shape, seed, scale).to(dtype), reference.images(*shape, seed=seed + 1)
    x = x.to(dtype)
    delta = threats.steepest(grad, eps, norm, x).double()
    rounding = 1e-5 if dtype == torch.float32 else 1e-10
    assert float(threats.norm(delta, norm).max()) <= eps * (1 + rounding)
    assert float((x + delta).amin()) >= -rounding and float((x + delta).amax()) <= 1 + rounding
    for i in range(shape[0]):
        # Scaled to about 1 for the sake of the linear program's own tolerances.
        unit = grad[i].double().numpy() / scale
        value = float((unit * delta[i].numpy()).sum())
        best = reference.steepest_value(unit, min(eps, 1e3), norm, x[i].double().numpy())
        assert value == pytest.approx(best, rel=max(rounding, 1e-6), abs=1e-12)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("eps", [1e20, 1e39, 1e300])
def test_a_ball_that_holds_the_whole_box_lets_steepest_go_to_the_corner(norm, eps) -> None:
    grad = torch.tensor([[1.0, -1e-3, 0.0]])
    x = torch.tensor([[0.25, 0.25, 0.25]])
    assert threats.steepest(grad, eps, norm, x).tolist() == [[0.75, -0.25, 0.0]]
    assert threats.project(10 * grad, eps, norm, x).tolist() == [[0.75, pytest.approx(-0.01), 0.0]]


@pytest.mark.parametrize("norm", NORMS)
@given(seed=seeds, eps=st.floats(0.05, 2))
def test_no_sampled_allowed_perturbation_beats_the_steepest(seed, norm, eps) -> None:
    grad, x = draw((1, 5), seed), reference.images(1, 5, seed=seed + 1)
    best = float((grad * threats.steepest(grad, eps, norm, x)).sum())
    many = torch.zeros(500, 5, dtype=torch.float64)
    others = threats.random_point(many, eps, norm, torch.Generator().manual_seed(seed))
    others = others.clamp(-x, 1 - x)
    assert float((others * grad).sum(1).max()) <= best + 1e-12


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("boxed", [False, True])
def test_tiny_and_huge_gradients_point_where_ordinary_ones_do(norm, scale, boxed) -> None:
    """In float32 their squares are 0 and infinite."""
    grad = draw((2, 20), 0).float()
    x = reference.images(2, 20).float() if boxed else None
    expected = threats.steepest(grad, 0.3, norm, x)
    got = threats.steepest(grad * scale, 0.3, norm, x)
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert float(threats.norm(got, norm).min()) > 0.2


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("boxed", [False, True])
def test_where_the_gradient_is_zero_so_is_the_steepest_direction(norm: str, boxed: bool) -> None:
    grad = torch.tensor([[0.0, 0.0, 0.0], [0.0, -2.0, 0.0]])
    x = torch.full_like(grad, 0.5) if boxed else None
    delta = threats.steepest(grad, 0.1, norm, x)
    assert delta[0].tolist() == [0.0, 0.0, 0.0]
    assert delta[1].tolist() == [0.0, pytest.approx(-0.1), 0.0]


def test_steepest_directions_worked_out_by_hand() -> None:
    grad = torch.tensor([[3.0, -4.0, 0.0]], dtype=torch.float64)
    assert threats.steepest(grad, 0.5).tolist() == [[0.5, -0.5, 0.0]]
    np.testing.assert_allclose(threats.steepest(grad, 0.5, "l2"), [[0.3, -0.4, 0.0]])
    assert threats.steepest(grad, 0.5, "l1").tolist() == [[0.0, -0.5, 0.0]]
    # With the box: the second pixel can fall by 0.2 only, the first takes what is left.
    x = torch.tensor([[0.9, 0.2, 0.5]], dtype=torch.float64)
    np.testing.assert_allclose(threats.steepest(grad, 0.5, "linf", x), [[0.1, -0.2, 0.0]])
    np.testing.assert_allclose(threats.steepest(grad, 0.25, "l1", x), [[0.05, -0.2, 0.0]])
    np.testing.assert_allclose(threats.steepest(grad, 0.2, "l2", x), [[0.1, -(0.03**0.5), 0.0]])


# -- settings that make no sense -------------------------------------------------------------

FUNCTIONS = {
    "project": lambda x, eps, norm: threats.project(x, eps, norm),
    "random_point": lambda x, eps, norm: threats.random_point(x, eps, norm),
    "steepest": lambda x, eps, norm: threats.steepest(x, eps, norm),
    "confine": lambda x, eps, norm: threats.confine(x, x, eps, norm),
    "norm": lambda x, eps, norm: threats.norm(x, norm),
    "dual_norm": lambda x, eps, norm: threats.dual_norm(x, norm),
    "bounds": lambda x, eps, norm: threats.bounds(x, eps),
}


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name != "bounds"])
def test_an_unknown_norm_is_named_together_with_the_known_ones(name: str) -> None:
    with pytest.raises(ThreatError, match='norm is \'Linf\'; advlib knows "linf", "l2" and "l1"'):
        FUNCTIONS[name](torch.zeros(1, 2), 0.1, "Linf")


BAD_EPS = [-1e-9, math.nan, math.inf, -math.inf, "0.1", True, None, [0.1, 0.2], 10**400, 1j]


@pytest.mark.parametrize("eps", BAD_EPS, ids=lambda eps: repr(eps)[:12])
@pytest.mark.parametrize("name", [name for name in FUNCTIONS if "norm" not in name])
def test_an_eps_that_is_not_one_finite_number_from_0_up_is_refused(name: str, eps: object) -> None:
    with pytest.raises(ThreatError, match="eps is"):
        FUNCTIONS[name](torch.zeros(1, 2), eps, "l2")


def test_an_eps_per_image_is_refused_with_the_way_out() -> None:
    with pytest.raises(ThreatError, match="attack once per budget"):
        threats.check_eps(torch.tensor([0.1, 0.2]))
    with pytest.raises(ThreatError, match="4/255"):
        threats.check_eps(-1.0)


def test_eps_may_be_any_kind_of_single_number() -> None:
    for eps in (np.float32(0.25), torch.tensor(0.25), 0.25, np.array(0.25)):
        assert threats.check_eps(eps) == 0.25
    assert threats.check_eps(0) == 0.0


# -- regions -----------------------------------------------------------------------------------


def test_a_region_becomes_booleans_of_the_shape_of_the_images() -> None:
    x = torch.zeros(2, 3, 4, 5)
    assert threats.check_where(None, x) is None
    for shape in ((), (5,), (4, 5), (3, 4, 5), (3, 1, 1), (1, 1, 4, 5), (2, 1, 4, 5), (2, 3, 4, 5)):
        for dtype in (torch.bool, torch.float32, torch.int64):
            region = torch.ones(shape, dtype=dtype)
            got = threats.check_where(region, x)
            assert got is not None and got.dtype == torch.bool and got.shape == x.shape
            assert bool(got.all())
    one = torch.zeros(4, 5)
    one[1, 2] = 1
    got = threats.check_where(one, x)
    assert got is not None and got.nonzero()[:, 2:].unique(dim=0).tolist() == [[1, 2]]


@pytest.mark.parametrize(
    ("region", "words"),
    [
        ([[True]], "where is a list"),
        (torch.ones(2, 4, 5), "one region per image or one for all"),
        (torch.ones(4, 4), "does not broadcast"),
        (torch.ones(1, 1, 1, 4, 5), "does not broadcast"),
        (torch.ones(7, 3, 4, 5), "does not broadcast"),
        (torch.full((4, 5), 0.5), "other values than 0 and 1"),
        (torch.full((4, 5), torch.nan), "other values than 0 and 1"),
    ],
)
def test_a_region_that_could_be_misunderstood_is_refused(region: object, words: str) -> None:
    x = torch.full((2, 3, 4, 5), 0.5)
    for use in (
        lambda: threats.random_point(x, 0.1, where=region),
        lambda: threats.steepest(x, 0.1, where=region),
        lambda: threats.check_where(region, x),
    ):
        with pytest.raises(ThreatError, match=words):
            use()


def test_a_region_for_as_many_images_as_channels_is_refused_although_it_broadcasts() -> None:
    with pytest.raises(ThreatError, match="one region per image or one for all"):
        threats.check_where(torch.ones(3, 4, 5), torch.zeros(3, 3, 4, 5))


def test_a_region_elsewhere_is_refused() -> None:
    with pytest.raises(DeviceError, match="where on meta"):
        threats.check_where(torch.ones(4, device="meta"), torch.zeros(2, 4))


@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("norm", NORMS)
@given(shape=shapes, seed=seeds, eps=radii)
def test_the_steepest_step_in_a_region_is_that_of_the_coordinates_left(
    shape, seed, norm, eps, boxed
) -> None:
    """Solving with the others cut out of the problem gives the same answer."""
    grad, x = draw((1, *shape[1:]), seed), draw((1, *shape[1:]), seed + 1).sigmoid()
    region = draw((1, *shape[1:]), seed + 2) > 0
    got = threats.steepest(grad, eps, norm, x if boxed else None, where=region)
    assert not bool(got[~region].any())
    if region.any():
        small = threats.steepest(grad[region][None], eps, norm, x[region][None] if boxed else None)
        np.testing.assert_allclose(got[region], small[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_a_confined_random_point_is_uniform_in_the_smaller_ball(norm: str) -> None:
    x = torch.zeros(4_000, 6, dtype=torch.float64)
    region = torch.tensor([[1, 0, 1, 0, 0, 1]])
    point = threats.random_point(x, 0.5, norm, where=region)
    assert not bool(point[:, [1, 3, 4]].any())
    # Of a uniform point in three dimensions the cube of the radius is uniform.
    radius = threats.norm(point, norm) / 0.5
    for share in (0.1, 0.5, 0.9):
        assert float((radius**3 <= share).double().mean()) == pytest.approx(share, abs=0.03)
    assert torch.equal(
        threats.random_point(x, 0.5, norm, where=torch.ones(6)),
        threats.random_point(x, 0.5, norm),
    )
    assert not bool(threats.random_point(x, 0.5, norm, where=torch.zeros(6)).any())


def test_a_confined_infinite_derivative_does_no_harm() -> None:
    values = torch.tensor([[torch.inf, 1.0, torch.nan]])
    region = torch.tensor([[False, True, False]])
    assert threats.keep(values, region).tolist() == [[0.0, 1.0, 0.0]]
    assert threats.keep(values, None) is values
