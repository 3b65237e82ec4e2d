"""Maps of attribution against closed forms, and their comparison against brute force."""

import itertools
import math

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from advlib import attribution, gradients
from advlib.errors import InputError, LabelError, PixelError, ThreatError

RANDOM_STATE_IS_WATCHED = True

N, SHAPE = 4, (3, 6, 5)
MODEL = reference.conv(3)
seeds = st.integers(0, 2**31)


def data(seed: int = 0, n: int = N) -> tuple[Tensor, Tensor]:
    return reference.pictures(n, *SHAPE, seed=seed), reference.classes(n, seed=seed)


def maps(seed: int = 0, n: int = N, size: int = 6) -> Tensor:
    return torch.randn(n, size, size, generator=torch.Generator().manual_seed(seed))


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
        attribution.resolve_score("margin")


# -- maps ------------------------------------------------------------------------------------


def test_saliency_is_the_size_of_the_gradient_of_the_lead(device: torch.device) -> None:
    x, y = (values.to(device) for values in data())
    model = reference.conv(3).double().to(device)
    grad = gradients.input_gradient(model, x, y, loss="margin").grad
    got = attribution.saliency(model, x, y)
    np.testing.assert_allclose(got.cpu(), grad.abs().cpu(), rtol=1e-12)
    own = attribution.saliency(model, x, y, score=lambda z, y: -gradients.margin(z, y))
    assert torch.equal(got, own)


def test_gradient_times_input_is_exact_for_a_linear_model() -> None:
    x, _ = data()
    model = reference.linear(90, classes=2).double()
    y, black = torch.zeros(N, dtype=torch.long), torch.zeros_like(x)
    fall = _score(model, x, y) - _score(model, black, y)
    product = attribution.gradient_times_input(model, x, y)
    integrated = attribution.integrated_gradients(model, x, y, steps=1)
    np.testing.assert_allclose(product.flatten(1).sum(1), fall, atol=1e-10)
    np.testing.assert_allclose(product, integrated, atol=1e-12)
    shifted = attribution.gradient_times_input(model, x, y, baseline=x)
    assert not bool(shifted.any())


def _score(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return attribution.lead(model(x), y)


def test_integrated_gradients_of_a_cubic_are_exact(device: torch.device) -> None:
    """The midpoint rule misses the integral of a quadratic by way**2 * second / (24 steps**2)."""
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


def test_pixels_that_do_not_move_earn_nothing() -> None:
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


def test_occlusion_finds_the_pixel_that_a_model_looks_at() -> None:
    def model(x: Tensor) -> Tensor:
        return torch.stack([4 * x[:, 0, 3, 1], 0 * x[:, 0, 0, 0]], 1)

    x = torch.full((1, 3, 6, 5), 0.5)
    x[0, 0, 3, 1] = 1
    got = attribution.occlusion(model, x, torch.tensor([0]), size=1, stride=1, fill=0.0)
    assert got[0].nonzero().tolist() == [[3, 1]] and got.max().item() == 4.0


def test_maps_of_no_pictures_are_empty() -> None:
    x, y = torch.zeros(0, *SHAPE), torch.zeros(0, dtype=torch.long)
    assert attribution.saliency(MODEL, x, y).shape == x.shape
    assert attribution.integrated_gradients(MODEL, x, y).shape == x.shape
    assert attribution.occlusion(MODEL, x, y, size=2, stride=2).shape == (0, 6, 5)


def test_the_model_and_the_pictures_are_left_as_they_were() -> None:
    x, y = data()
    x = x.float()
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(90, affine=False), reference.linear(90))
    model.train()
    before, state = x.clone(), {k: v.clone() for k, v in model.state_dict().items()}
    for method in (
        attribution.saliency,
        attribution.gradient_times_input,
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
    with pytest.raises(InputError, match="does not broadcast"):
        attribution.integrated_gradients(MODEL, x, y, torch.zeros(7))
    with pytest.raises(InputError, match="baseline is 'black'"):
        attribution.integrated_gradients(MODEL, x, y, "black")
    with pytest.raises(ThreatError, match="steps"):
        attribution.integrated_gradients(MODEL, x, y, steps=0)
    with pytest.raises(InputError, match="stride <= size"):
        attribution.occlusion(MODEL, x, y, size=2, stride=3)
    with pytest.raises(PixelError, match="pictures"):
        attribution.occlusion(MODEL, x.flatten(1), y)
    with pytest.raises(InputError, match="an odd number"):
        attribution.blurred(x, 4)
    with pytest.raises(InputError, match="do not fit"):
        attribution.template_correlation(x, x[:, :1])


def test_a_blurred_picture_is_the_mean_of_its_surroundings() -> None:
    x = data()[0].float()
    got = attribution.blurred(x, 3)
    np.testing.assert_allclose(got[:, :, 2, 2], x[:, :, 1:4, 1:4].mean((2, 3)), rtol=1e-5)
    flat = torch.full((1, 3, 40, 40), 0.3)
    np.testing.assert_allclose(attribution.blurred(flat), flat, rtol=1e-5)


def test_correlation_with_templates_is_pearsons() -> None:
    delta, templates = data(1)[0] - 0.5, data(2, 3)[0]
    got = attribution.template_correlation(delta, templates)
    for i, j in itertools.product(range(N), range(3)):
        expected = np.corrcoef(delta[i].flatten(), templates[j].flatten())[0, 1]
        assert got[i, j].item() == pytest.approx(expected, abs=1e-10)
    assert not bool(attribution.template_correlation(0 * delta, templates).any())


# -- comparing maps --------------------------------------------------------------------------


def test_channels_are_added_in_three_ways() -> None:
    values = torch.tensor([[[[1.0, -2.0]], [[-3.0, 4.0]]]])
    assert attribution.per_pixel(values).tolist() == [[[4.0, 6.0]]]
    assert attribution.per_pixel(values, "signed").tolist() == [[[-2.0, 2.0]]]
    assert attribution.per_pixel(values, "support").tolist() == [[[0.0, 2.0]]]
    with pytest.raises(InputError, match="how is 'mean'"):
        attribution.per_pixel(values, "mean")
    with pytest.raises(InputError, match="maps of shape"):
        attribution.per_pixel(values[0])


@given(seed=seeds, share=st.floats(0, 1), levels=st.integers(1, 40))
def test_top_pixels_are_the_same_number_in_every_map_and_the_largest(seed, share, levels) -> None:
    values = (maps(seed) * levels).round()  # few levels: many ties
    marked = attribution.top_pixels(values, share)
    count = max(round(36 * share), 1) if share else 0
    assert marked.flatten(1).sum(1).tolist() == [count] * N
    for one, where in zip(values, marked, strict=True):
        if 0 < count < 36:
            assert one[where].min() >= one[~where].max()


def test_overlap_counts_shared_pixels() -> None:
    a = torch.arange(16.0).view(1, 4, 4)
    assert attribution.overlap(a, a, 0.25).tolist() == [1.0]
    assert attribution.overlap(a, -a, 0.25).tolist() == [0.0]
    assert attribution.overlap(a, -a, 1.0).tolist() == [1.0]
    assert attribution.overlap(a, a.roll(2), 0.25).tolist() == [0.5]


@given(seed=seeds, share=st.floats(0.05, 1))
def test_overlap_is_symmetric_and_marks_commute_with_it(seed: int, share: float) -> None:
    a, b = maps(seed), maps(seed + 1)
    both = attribution.overlap(a, b, share)
    assert torch.equal(both, attribution.overlap(b, a, share))
    top = [attribution.top_pixels(values, share) for values in (a, b)]
    assert torch.equal(both, attribution.common(*top))


def test_rank_correlation_is_spearmans() -> None:
    a, b = maps(1), (3 * maps(2)).round()  # with ties

    def ranks(values: np.ndarray) -> np.ndarray:
        return np.array([(values < v).sum() + ((values == v).sum() - 1) / 2 for v in values])

    got = attribution.rank_correlation(a, b)
    for i in range(N):
        one, other = (ranks(values[i].flatten().numpy()) for values in (a, b))
        assert got[i].item() == pytest.approx(np.corrcoef(one, other)[0, 1], abs=1e-12)
    assert attribution.rank_correlation(a, a.exp()).tolist() == pytest.approx([1.0] * N)
    assert attribution.rank_correlation(a, 0 * a).tolist() == [0.0] * N


def test_maps_that_do_not_fit_are_refused() -> None:
    a = maps()
    for use in (
        lambda: attribution.overlap(a, a[:2]),
        lambda: attribution.overlap(a, a, 0),
        lambda: attribution.overlap(a, a, 1.5),
        lambda: attribution.overlap(a[:, 0], a[:, 0]),
        lambda: attribution.rank_correlation(a, a * torch.nan),
        lambda: attribution.common(a, a),
        lambda: attribution.permutation_test(a[:0], a[:0]),
        lambda: attribution.permutation_test(a, a, null=attribution.exchanged(torch.arange(3))),
    ):
        with pytest.raises(InputError):
            use()


# -- nulls -----------------------------------------------------------------------------------


@given(seed=seeds)
def test_nulls_keep_the_values_and_obey_the_generator(seed: int) -> None:
    values, groups = maps(seed, 6), torch.tensor([0, 1, 0, 2, 1, 0])
    for null in (
        attribution.shuffled,
        attribution.shifted,
        attribution.exchanged(),
        attribution.exchanged(groups),
    ):
        one, same = (null(values, torch.Generator().manual_seed(seed)) for _ in range(2))
        assert torch.equal(one, same) and one.shape == values.shape
        assert torch.equal(one.flatten().sort().values, values.flatten().sort().values)
    for null in (attribution.shuffled, attribution.shifted):
        got = null(values, torch.Generator().manual_seed(seed))
        assert torch.equal(got.flatten(1).sort(1).values, values.flatten(1).sort(1).values)
    got = attribution.exchanged(groups)(values, torch.Generator().manual_seed(seed))
    source = [next(j for j in range(6) if torch.equal(got[i], values[j])) for i in range(6)]
    assert sorted(source) == list(range(6))
    assert groups[source].tolist() == groups.tolist()


def test_a_shifted_map_is_the_map_rolled_round() -> None:
    values = maps(3, 2)
    got = attribution.shifted(values, torch.Generator().manual_seed(1))
    for one, moved in zip(values, got, strict=True):
        rolls = [one.roll((i, j), (0, 1)) for i in range(6) for j in range(6)]
        assert sum(torch.equal(roll, moved) for roll in rolls) == 1


def test_every_order_within_a_group_is_equally_likely() -> None:
    values = torch.arange(4.0).view(4, 1, 1)
    groups, generator = torch.tensor([5, 2, 5, 5]), torch.Generator().manual_seed(0)
    null = attribution.exchanged(groups)
    seen: dict[tuple, int] = {}
    for _ in range(1_200):
        order = tuple(null(values, generator).flatten().tolist())
        seen[order] = seen.get(order, 0) + 1
    assert len(seen) == 6 and all(order[1] == 1 for order in seen)
    assert all(abs(count - 200) < 5 * 13 for count in seen.values())


# -- the test --------------------------------------------------------------------------------


def test_p_counts_what_was_observed_as_one_draw() -> None:
    a = maps(1, 20)
    sure = attribution.permutation_test(a, a, draws=19)
    assert sure.value == 1.0 and sure.p == 1 / 20 and len(sure.null) == 19
    assert sure.effect == pytest.approx(1 - sure.expected)
    assert "p <= 0.05" in str(sure)
    # A null that changes nothing reaches the observed value every time.
    same = attribution.permutation_test(a, a, null=lambda b, generator: b, draws=19)
    assert same.p == 1.0 and same.effect == 0.0 and "p = 1" in str(same)


def test_p_is_what_counting_gives() -> None:
    a, b = maps(1, 5), maps(2, 5)
    got = attribution.permutation_test(
        a, b, attribution.rank_correlation, draws=40, generator=torch.Generator().manual_seed(3)
    )
    generator = torch.Generator().manual_seed(3)
    value = float(attribution.rank_correlation(a, b).mean())
    null = [
        float(attribution.rank_correlation(a, attribution.shuffled(b, generator)).mean())
        for _ in range(40)
    ]
    assert got.value == pytest.approx(value) and got.null == pytest.approx(tuple(null))
    assert got.p == (1 + sum(n >= value for n in null)) / 41


def test_under_the_null_p_is_uniform() -> None:
    small = 0
    for seed in range(200):
        a, b = maps(seed, 3, 5), maps(seed + 10_000, 3, 5)
        draw = torch.Generator().manual_seed(seed)
        small += (
            attribution.permutation_test(
                a, b, attribution.rank_correlation, draws=19, generator=draw
            ).p
            <= 0.1
        )
    assert abs(small - 20) < 4 * math.sqrt(200 * 0.1 * 0.9)


def test_a_shared_place_fools_the_easy_nulls_and_not_the_hard_one() -> None:
    """Two maps that know nothing of each other, but both live in the middle of the picture."""
    place = torch.zeros(16, 16)
    place[5:11, 5:11] = 3
    generator = torch.Generator().manual_seed(0)
    a, b = (place + torch.randn(30, 16, 16, generator=generator) for _ in range(2))
    p = {
        name: attribution.permutation_test(a, b, null=null, draws=99).p
        for name, null in (
            ("shuffled", attribution.shuffled),
            ("shifted", attribution.shifted),
            ("exchanged", attribution.exchanged()),
        )
    }
    assert p["shuffled"] == p["shifted"] == 0.01 and p["exchanged"] > 0.05
