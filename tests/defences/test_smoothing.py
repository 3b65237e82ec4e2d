"""Randomised smoothing against closed forms, scipy, and an attack on what it certifies."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

import advlib
from advlib.defences import smoothing
from advlib.defences.smoothing import ABSTAIN, Certificate, certify, lower_bound, smoothed
from advlib.errors import (
    DeviceError,
    InputError,
    LabelError,
    ModelOutputError,
    PixelError,
    ThreatError,
)
from advlib.evaluation import predict

RANDOM_STATE_IS_WATCHED = True


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TwoClasses(nn.Module):
    """The line w.x + b = 0, and the distance to it."""

    def __init__(self, features: int = 12, seed: int = 0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(features, generator=draws(seed)))
        self.b = nn.Parameter(-0.5 * self.w.detach().sum())

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(1) @ self.w + self.b
        return torch.stack([-score, score], 1)

    @torch.no_grad()
    def distance(self, x: Tensor) -> Tensor:
        return self(x)[:, 1].abs() / self.w.norm()


def curved(seed: int = 0, features: int = 12) -> nn.Module:
    """A small network with three classes, without touching the global random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(features, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 3)
        )
    with torch.no_grad():
        model[1].weight.mul_(4)
        model(torch.rand(256, features, generator=draws(seed)))  # running statistics
    return model.eval()


def images(n: int = 6, seed: int = 0) -> Tensor:
    return torch.rand(n, 3, 2, 2, generator=draws(seed))


# -- the bound -------------------------------------------------------------------------------------


@given(total=st.integers(1, 3000), share=st.floats(0, 1), alpha=st.sampled_from([1e-6, 1e-3, 0.05]))
def test_the_bound_is_the_quantile_of_the_beta_distribution(
    total: int, share: float, alpha: float
) -> None:
    count = round(share * total)
    expected = stats.beta.ppf(alpha, count, total - count + 1) if count else 0.0
    assert lower_bound(count, total, alpha) == pytest.approx(expected, rel=1e-8)


@given(total=st.integers(1, 60), p=st.floats(0.01, 0.99), alpha=st.sampled_from([0.001, 0.05]))
def test_the_bound_is_too_high_with_probability_alpha_at_most(
    total: int, p: float, alpha: float
) -> None:
    too_high = [count for count in range(total + 1) if lower_bound(count, total, alpha) > p]
    assert stats.binom.pmf(too_high, total, p).sum() <= alpha * (1 + 1e-9)


def test_the_bound_keeps_its_form_for_many_votes() -> None:
    assert lower_bound(100_000, 100_000) == pytest.approx(0.001 ** (1 / 100_000), rel=1e-9)
    assert lower_bound(99_000, 100_000) == pytest.approx(stats.beta.ppf(0.001, 99_000, 1_001))
    bounds = [lower_bound(count, 50) for count in range(51)]
    assert bounds == sorted(bounds) and bounds[0] == 0 and bounds[-1] < 1


@pytest.mark.parametrize(("count", "total"), [(-1, 5), (6, 5), (0, 0)])
def test_the_bound_refuses_impossible_counts(count: int, total: int) -> None:
    with pytest.raises(InputError, match=f"{count} of {total}"):
        lower_bound(count, total)


@pytest.mark.parametrize("alpha", [0, 1, -0.1, math.nan])
def test_alpha_is_a_probability(alpha: float) -> None:
    with pytest.raises(InputError, match="alpha"):
        lower_bound(3, 5, alpha)
    with pytest.raises(InputError, match="alpha"):
        certify(TwoClasses(), images(), alpha=alpha)
    with pytest.raises(InputError, match="alpha"):
        smoothing.predict_smoothed(TwoClasses(), images(), alpha=alpha)


# -- the radius ------------------------------------------------------------------------------------


def test_radii_worked_out_by_hand() -> None:
    assert smoothing.certified_radius(0.5, stats.norm.cdf(2)) == pytest.approx(1.0)
    assert smoothing.certified_radius(0.5, 0.5) == 0 == smoothing.certified_radius(0.5, 0.1)
    with pytest.raises(InputError, match="below 1"):
        smoothing.certified_radius(0.5, 1.0)


@pytest.mark.parametrize("sigma", [0, -1, math.inf, math.nan])
def test_sigma_is_positive_and_finite(sigma: float) -> None:
    x, model = images(), TwoClasses()
    for call in (
        lambda: smoothing.certified_radius(sigma, 0.9),
        lambda: certify(model, x, sigma),
        lambda: smoothing.predict_smoothed(model, x, sigma),
        lambda: smoothing.votes(model, x, sigma, samples=1),
        lambda: smoothed(model, sigma),
    ):
        with pytest.raises(InputError, match="sigma"):
            call()


@given(seed=st.integers(0, 1000), sigma=st.sampled_from([0.1, 0.3]))
def test_a_linear_model_is_certified_almost_up_to_its_true_radius(seed: int, sigma: float) -> None:
    model, x = TwoClasses(seed=seed), images(4, seed)
    truth = model.distance(x)
    got = certify(model, x, sigma, samples=4000, alpha=1e-6, generator=draws(seed))
    assert (got.radius <= truth).all()
    # A smoothed line is the same line, so only the sampled votes make the radius smaller. Close to
    # the line the few votes that choose the class may choose the other one, and nothing is proved.
    sure = got.radius > 0
    near = (truth > 0.2 * sigma) & (truth < 1.5 * sigma) & (sure | (truth > 0.7 * sigma))
    assert (got.radius > truth - 0.3 * sigma)[near].all()
    assert got.label[sure].equal(predict(model, x).argmax(1)[sure])


def test_more_votes_prove_more() -> None:
    model, x = TwoClasses(), images(16)
    radii = [certify(model, x, 0.25, samples=n).radius.mean() for n in (50, 500, 5000)]
    assert radii[0] < radii[1] < radii[2]


def test_ties_abstain() -> None:
    model = TwoClasses()
    x = torch.full((2, 3, 2, 2), 0.5)  # on the line
    certificate = certify(model, x, samples=2000)
    assert (certificate.label == ABSTAIN).all() and (certificate.radius == 0).all()
    assert (smoothing.predict_smoothed(model, x, samples=2000) == ABSTAIN).all()
    clear = images(32)
    clear = clear[model.distance(clear) > 0.3]
    expected = predict(model, clear).argmax(1)
    assert len(clear) and smoothing.predict_smoothed(model, clear, samples=2000).equal(expected)


def test_the_prediction_abstains_as_the_binomial_test_says() -> None:
    x = images(40)
    model = TwoClasses()
    counts = smoothing.votes(model, x, 1.0, samples=60, generator=draws(5))
    label = smoothing.predict_smoothed(model, x, 1.0, samples=60, alpha=0.05, generator=draws(5))
    for row, got in zip(counts.tolist(), label.tolist(), strict=True):
        p_value = stats.binomtest(max(row), sum(row)).pvalue
        assert got == (row.index(max(row)) if p_value <= 0.05 else ABSTAIN)
    assert 0 < (label == ABSTAIN).sum() < len(x)


# -- the guarantee ---------------------------------------------------------------------------------


def attacked(model: nn.Module, x: Tensor, certificate: Certificate, reach: float) -> Tensor:
    """Each image after the strongest L2 attack on the smoothed model, at `reach` radii."""
    target = smoothed(model, 0.25, samples=128, generator=draws(9))
    found = [
        advlib.pgd(target, x[i : i + 1], label[None], reach * float(radius), norm="l2", steps=10)
        for i, (label, radius) in enumerate(zip(*certificate, strict=True))
    ]
    return torch.cat(found)


def test_no_attack_succeeds_within_the_certified_radius() -> None:
    fooled = 0
    for seed in range(2):
        model, x = curved(seed), 0.2 + 0.6 * images(30, seed)
        certificate = certify(model, x, samples=2000, generator=draws(seed))
        sure = certificate.label != ABSTAIN
        certificate = Certificate(certificate.label[sure], certificate.radius[sure])
        assert sure.sum() >= 10
        inside = attacked(model, x[sure], certificate, 0.999)
        # Two thousand fresh votes; a close vote may abstain, but may not go to another class.
        label = smoothing.predict_smoothed(model, inside, samples=2000, generator=draws(99))
        assert ((label == certificate.label) | (label == ABSTAIN)).all()
        outside = attacked(model, x[sure], certificate, 2.5)
        label = smoothing.predict_smoothed(model, outside, samples=2000, generator=draws(99))
        fooled += int(((label != certificate.label) & (label != ABSTAIN)).sum())
    assert fooled > 5, "the attack is strong enough to succeed beyond the radius"


def test_certified_accuracy_counts_correct_images_with_a_large_enough_radius() -> None:
    certificate = Certificate(torch.tensor([0, 1, 2, ABSTAIN]), torch.tensor([0.5, 0.2, 0.9, 0.0]))
    y = torch.tensor([0, 1, 1, 0])
    counts = [smoothing.certified_accuracy(certificate, y, r).count for r in (0, 0.2, 0.3, 0.6)]
    assert counts == [2, 2, 1, 0]
    with pytest.raises(InputError, match="radius"):
        smoothing.certified_accuracy(certificate, y, -1)
    with pytest.raises(LabelError):
        smoothing.certified_accuracy(certificate, y[:2], 0)


# -- the smoothed model ----------------------------------------------------------------------------


def test_the_smoothed_model_averages_probabilities() -> None:
    model, x = curved(), images(3)
    soft = smoothed(model, 0.3, samples=5, generator=draws(1))
    logits = soft(x)
    u = torch.randn(5, 3, 2, 2, generator=draws(soft.seed))
    shares = torch.stack([model(x + 0.3 * one).softmax(1) for one in u]).mean(0)
    torch.testing.assert_close(logits.exp(), shares)
    torch.testing.assert_close(logits, soft(x), rtol=0, atol=0)  # a plain function of x
    torch.testing.assert_close(logits[1:2], soft(x[1:2]))


def test_the_smoothed_model_has_the_right_gradient() -> None:
    model, x = curved().double(), images(2).double()
    y = torch.tensor([0, 1])
    soft = smoothed(model, 0.3, samples=8)
    grad = advlib.input_gradient(soft, x, y).grad
    step = 1e-6 * torch.randn(x.shape, generator=draws(3), dtype=x.dtype)
    loss = nn.functional.cross_entropy
    rise = loss(soft(x + step), y, reduction="none") - loss(soft(x - step), y, reduction="none")
    torch.testing.assert_close(rise / 2, (grad * step).flatten(1).sum(1), rtol=1e-3, atol=1e-12)


def test_the_smoothed_model_of_a_line_tends_to_the_normal_distribution() -> None:
    class Sharp(TwoClasses):
        def forward(self, x: Tensor) -> Tensor:
            return 1e4 * super().forward(x)  # softmax of this is a vote

    model, x = Sharp(), images(5)
    soft = smoothed(model, 0.25, samples=20_000)
    with torch.no_grad():
        sure = soft(x).exp().amax(1)
        side = (x.flatten(1) @ model.w + model.b).abs() / model.w.norm()
    expected = torch.distributions.Normal(0, 1).cdf(side / 0.25)
    torch.testing.assert_close(sure, expected, rtol=0, atol=0.02)


def test_the_generator_decides_the_draws_and_the_mode_is_the_models() -> None:
    model, x = curved(), images()
    assert smoothed(model)(x).equal(smoothed(model)(x))
    one, other = smoothed(model, generator=draws(1)), smoothed(model, generator=draws(2))
    assert not one(x).equal(other(x))
    assert not smoothed(model).training and smoothed(curved().train()).training
    assert not smoothed(lambda x: x.flatten(1)).training


# -- votes, noise, errors --------------------------------------------------------------------------


def test_votes_add_up_and_follow_the_generator() -> None:
    model, x = curved(), images(5)
    counts = smoothing.votes(model, x, 0.5, samples=37, batch_size=8)
    assert counts.shape == (5, 3) and (counts.sum(1) == 37).all()
    assert counts.equal(smoothing.votes(model, x, 0.5, samples=37, batch_size=8))
    generator = draws(0)
    first = smoothing.votes(model, x, 0.5, samples=37, batch_size=8, generator=generator)
    again = smoothing.votes(model, x, 0.5, samples=37, batch_size=8, generator=generator)
    assert first.equal(counts) and not again.equal(first)


def test_noise_has_the_standard_deviation_sigma() -> None:
    seen = []

    def model(x: Tensor) -> Tensor:
        seen.append(x)
        return x.flatten(1)[:, :2]

    smoothing.votes(model, torch.full((2, 3, 8, 8), 0.5), 0.25, samples=300)
    shown = torch.cat(seen)
    assert float(shown.std()) == pytest.approx(0.25, rel=0.01)
    assert float(shown.mean()) == pytest.approx(0.5, abs=0.01)
    assert shown.min() < 0 and shown.max() > 1, (
        "nothing is clipped: the theorem needs the normal distribution"
    )


def test_nothing_is_left_behind() -> None:
    model, x = curved().train(), images()
    before, pixels = copy.deepcopy(model.state_dict()), x.clone()
    certify(model, x, samples=20, select=5)
    smoothing.predict_smoothed(model, x, samples=20)
    with pytest.raises(ModelOutputError):
        certify(nn.Sequential(model, nn.Softmax(1), nn.Flatten(0)), x, samples=20)
    assert model.training and x.equal(pixels)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_no_images_give_no_certificates() -> None:
    certificate = certify(curved(), images(0))
    assert certificate.label.shape == certificate.radius.shape == (0,)
    assert smoothing.predict_smoothed(curved(), images(0)).shape == (0,)
    assert smoothing.certified_accuracy(certificate, certificate.label, 0.1).total == 0


def test_bad_input_is_named() -> None:
    model, x = curved(), images()
    with pytest.raises(PixelError):
        certify(model, 255 * x)
    for name in ("samples", "select", "batch_size"):
        with pytest.raises(ThreatError, match=name):
            certify(model, x, **{name: 0})
    with pytest.raises(ThreatError, match="samples"):
        smoothed(model, samples=0)
    with pytest.raises(DeviceError):
        certify(copy.deepcopy(model).to("meta"), x)
