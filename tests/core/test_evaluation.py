"""Accuracy under attack, its interval, and the predictions beneath."""

import math

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import advlib
from advlib.errors import (
    DeviceError,
    InputError,
    LabelError,
    ModelOutputError,
    PixelError,
    ThreatError,
)
from advlib.evaluation import Proportion, accuracy, accuracy_curve, predict, wilson

RANDOM_STATE_IS_WATCHED = True


# -- Wilson's interval -----------------------------------------------------------------------


def test_wilson_agrees_with_published_values() -> None:
    """Newcombe 1998 (Statistics in Medicine 17), table I, method 3, score without correction."""
    published = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (count, total), (low, high) in published.items():
        share = wilson(count, total)
        assert round(share.low, 4) == low and round(share.high, 4) == high


def test_nothing_of_200_is_0_to_1_9_percent() -> None:
    share = wilson(0, 200)
    assert share.low == 0.0 and share.high == pytest.approx(0.01885, abs=5e-6)
    assert str(share) == "0.0 % (0 of 200; 95 % interval 0.0 to 1.9 %)"


@given(total=st.integers(1, 10_000), share=st.floats(0, 1))
def test_wilson_solves_its_equation(total: int, share: float) -> None:
    count = round(share * total)
    low, high = reference.wilson(count, total, 1.959963984540054)
    got = wilson(count, total)
    assert got.low == pytest.approx(low, abs=1e-6)
    assert got.high == pytest.approx(high, abs=1e-6)
    assert 0 <= got.low <= got.value <= got.high <= 1
    assert got.low < got.high


@given(total=st.integers(1, 500), share=st.floats(0, 1))
def test_wilson_treats_failures_as_it_treats_successes(total: int, share: float) -> None:
    count = round(share * total)
    one, other = wilson(count, total), wilson(total - count, total)
    assert one.low == pytest.approx(1 - other.high, abs=1e-12)


@pytest.mark.parametrize("total", [1, 7, 200, 100_000])
def test_wilson_at_the_ends_is_exact(total: int) -> None:
    assert wilson(0, total).low == 0.0 and 0 < wilson(0, total).high < 1
    assert wilson(total, total).high == 1.0 and 0 < wilson(total, total).low < 1
    # The closed form at 0: z^2 / (n + z^2).
    z2 = 1.959963984540054**2
    assert wilson(0, total).high == pytest.approx(z2 / (total + z2), rel=1e-12)


def test_rounding_does_not_open_the_interval_at_the_ends() -> None:
    assert {wilson(0, total).low for total in range(1, 300)} == {0.0}
    assert {wilson(total, total).high for total in range(1, 300)} == {1.0}


def test_wilson_covers_the_truth_as_often_as_it_says() -> None:
    """Mean coverage over many shares is close to nominal; exact sums, no chance involved."""
    for total in (10, 50, 200):
        lows, highs = np.array([(wilson(k, total).low, wilson(k, total).high)
                                for k in range(total + 1)]).T  # fmt: skip
        log_choose = [
            math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1)
            for k in range(total + 1)
        ]
        coverage = []
        for p in np.linspace(0.02, 0.98, 97):
            k = np.arange(total + 1)
            chance = np.exp(np.array(log_choose) + k * np.log(p) + (total - k) * np.log1p(-p))
            coverage.append(chance[(lows <= p) & (p <= highs)].sum())
        assert np.mean(coverage) == pytest.approx(0.95, abs=0.01)
        assert min(coverage) > 0.83


def test_more_confidence_is_a_wider_interval() -> None:
    widths = [
        wilson(30, 100, confidence=c).high - wilson(30, 100, confidence=c).low
        for c in (0.5, 0.9, 0.95, 0.99)
    ]
    assert widths == sorted(widths) and widths[0] < widths[-1]
    low, high = reference.wilson(30, 100, 2.5758293035489004)
    got = wilson(30, 100, confidence=0.99)
    assert (got.low, got.high) == (pytest.approx(low), pytest.approx(high))


def test_nothing_measured_says_so() -> None:
    nothing = wilson(0, 0)
    assert (nothing.low, nothing.high) == (0.0, 1.0)
    assert math.isnan(nothing.value)
    assert str(nothing) == "nothing measured"


def test_a_proportion_prints_share_counts_and_interval() -> None:
    assert str(wilson(3, 4)) == "75.0 % (3 of 4; 95 % interval 30.1 to 95.4 %)"
    assert wilson(3, 4).value == 0.75
    assert wilson(3, 4) == Proportion(3, 4, wilson(3, 4).low, wilson(3, 4).high)


@pytest.mark.parametrize(("count", "total"), [(-1, 3), (4, 3), (1, 0), (0, -1), (math.nan, 3)])
def test_counts_that_cannot_be_are_refused(count: float, total: int) -> None:
    with pytest.raises(InputError, match="0 <= count <= total"):
        wilson(count, total)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95, -0.5, math.nan])
def test_a_confidence_outside_0_to_1_is_refused(confidence: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        wilson(1, 3, confidence=confidence)


# -- predictions and accuracy ----------------------------------------------------------------


def task(n: int = 23, seed: int = 0) -> tuple[torch.nn.Module, Tensor, Tensor]:
    """A model, images, and labels of which some are right."""
    model = reference.linear(12, seed=seed)
    x = reference.images(n, 3, 2, 2, seed=seed).float()
    y = torch.where(reference.classes(n, 4, seed) == 0, 0, model(x).detach().argmax(1))
    return model, x, y


@pytest.mark.parametrize("batch_size", [1, 4, 22, 23, 256])
def test_predictions_do_not_depend_on_the_batch_size(batch_size: int) -> None:
    model, x, _ = task()
    logits = predict(model, x, batch_size=batch_size)
    np.testing.assert_allclose(logits, model(x).detach(), rtol=1e-5, atol=1e-6)
    assert logits.shape == (23, 3) and not logits.requires_grad


def test_images_go_to_the_model_in_batches_of_the_size_asked_for() -> None:
    model, x, y = task()
    seen = []

    def spy(x: Tensor) -> Tensor:
        seen.append(len(x))
        return model(x)

    predict(spy, x, batch_size=10)
    accuracy(spy, x, y, batch_size=9)
    assert seen == [10, 10, 3, 9, 9, 5]
    seen.clear()
    predict(spy, x[[0] * 257])
    assert seen == [256, 1]


def test_predictions_of_a_plain_function_carry_no_graph() -> None:
    """Its parameters cannot be frozen, so that nothing but no_grad keeps the graph away."""
    model, x, _ = task()
    assert not predict(lambda x: model(x), x).requires_grad


@pytest.mark.parametrize("batch_size", [1, 5, 256])
def test_accuracy_counts_the_images_that_are_right(batch_size: int) -> None:
    model, x, y = task()
    right = int((model(x).argmax(1) == y).sum())
    assert 0 < right < 23  # the test would not notice otherwise
    share = accuracy(model, x, y, batch_size=batch_size)
    assert (share.count, share.total) == (right, 23)
    assert share == wilson(right, 23)


@pytest.mark.parametrize("batch_size", [1, 5, 256])
def test_accuracy_under_attack_counts_what_the_attack_returns(batch_size: int) -> None:
    model, x, y = task()
    calls = []

    def attack(given: torch.nn.Module, x: Tensor, y: Tensor) -> Tensor:
        calls.append((given is model, len(x), y.tolist()))
        return advlib.fgsm(given, x, y, 0.05)

    share = accuracy(model, x, y, attack, batch_size=batch_size)
    right = int((model(advlib.fgsm(model, x, y, 0.05)).argmax(1) == y).sum())
    assert share.count == right < accuracy(model, x, y).count
    assert all(same for same, _, _ in calls)
    assert [n for _, n, _ in calls] == [len(part) for part in x.split(batch_size)]
    assert sum((labels for _, _, labels in calls), []) == y.tolist()


def test_attacks_order_as_they_should_on_a_trained_model() -> None:
    """Noise <= one step <= many steps <= many steps with restarts, in the harm that they do."""
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(3, (300,), generator=generator)
    centres = torch.rand(3, 20, generator=generator)
    x = (centres[y] + 0.15 * torch.randn(300, 20, generator=generator)).clamp(0, 1)
    model = reference.mlp(20, scale=1.0)
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    shares = [
        accuracy(model, x, y, attack).count
        for attack in (
            None,
            lambda model, x, y: advlib.noise(x, 0.15),
            lambda model, x, y: advlib.fgsm(model, x, y, 0.15),
            lambda model, x, y: advlib.pgd(model, x, y, 0.15, steps=10),
            lambda model, x, y: advlib.pgd(model, x, y, 0.15, steps=10, restarts=3),
        )
    ]
    assert shares[0] >= 285
    assert shares[0] - shares[1] <= 15  # noise hardly matters
    assert shares[1] - shares[2] >= 60  # the gradient does
    assert shares[2] >= shares[3] >= shares[4]


def test_an_empty_set_measures_nothing() -> None:
    model, x, y = task()
    share = accuracy(model, x[:0], y[:0])
    assert (share.count, share.total) == (0, 0)
    assert predict(model, x[:0]).shape == (0, 0)


def test_nothing_is_printed_unless_asked(capfd: pytest.CaptureFixture[str]) -> None:
    model, x, y = task()
    accuracy(model, x, y, lambda model, x, y: advlib.pgd(model, x, y, steps=2))
    assert capfd.readouterr() == ("", "")


def test_the_progress_bar_counts_batches_on_standard_error(
    capfd: pytest.CaptureFixture[str],
) -> None:
    model, x, y = task()
    share = accuracy(model, x, y, batch_size=10, progress=True)
    out, err = capfd.readouterr()
    assert out == ""
    assert "measuring" in err and "/3" in err
    assert share == accuracy(model, x, y)


@pytest.mark.parametrize("batch_size", [0, -3, 2.5, True, "4", None])
def test_a_batch_size_that_is_no_whole_number_from_1_up_is_refused(batch_size: object) -> None:
    model, x, y = task()
    for call in (
        lambda: predict(model, x, batch_size=batch_size),
        lambda: accuracy(model, x, y, batch_size=batch_size),
    ):
        with pytest.raises(ThreatError, match="batch_size is .* whole number >= 1"):
            call()


def test_what_cannot_be_measured_is_refused() -> None:
    model, x, y = task()
    with pytest.raises(PixelError, match="normalis"):
        predict(model, x * 2)
    with pytest.raises(PixelError, match="normalis"):
        accuracy(model, x * 2, y)
    with pytest.raises(LabelError, match="one class per image"):
        accuracy(model, x, y[:-1])
    with pytest.raises(LabelError, match="contains 3, but the model knows the classes 0 to 2"):
        accuracy(model, x, y + 3 - y.max())
    with pytest.raises(ModelOutputError, match="tuple"):
        predict(lambda x: (model(x),), x)
    with pytest.raises(DeviceError, match="both are expected on one device"):
        predict(reference.linear(12).to("meta"), x)
    # Images that an attack put outside the box are no result.
    with pytest.raises(PixelError, match="outside|expected"):
        accuracy(model, x, y, lambda model, x, y: x + 1)
    with pytest.raises(ModelOutputError, match="shape"):
        accuracy(model, x, y, lambda model, x, y: x[1:])


def test_a_model_that_works_in_place_does_not_change_the_images() -> None:
    model, x, y = task()
    before = x.clone()

    def normalise_in_place(x: Tensor) -> Tensor:
        return model(x.sub_(0.5))

    accuracy(normalise_in_place, x, y)
    predict(normalise_in_place, x)
    assert torch.equal(x, before)


# -- accuracy against the budget -------------------------------------------------------------


def one_step(model: torch.nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    return advlib.fgsm(model, x, y, eps)


def too_far(model: torch.nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """An attack that works at small budgets and gives up at large ones."""
    return advlib.fgsm(model, x, y, eps) if eps < 0.2 else x


@pytest.mark.parametrize("batch_size", [5, 256])
def test_a_curve_is_the_accuracy_at_each_budget(device: torch.device, batch_size: int) -> None:
    model, x, y = (part.to(device) for part in task())
    budgets = [0.1, 0, 0.02]  # in any order
    shares = accuracy_curve(model, x, y, budgets, one_step, batch_size=batch_size)
    for eps, share in zip(budgets, shares, strict=True):
        x_adv = advlib.fgsm(model, x, y, eps)
        assert share == wilson(int((model(x_adv).argmax(1) == y).sum()), len(x))
    assert shares[1] == accuracy(model, x, y)


def test_the_attack_gets_model_labels_and_budget() -> None:
    model, x, y = task()
    calls = []

    def spy(given: torch.nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        calls.append((given is model, y.tolist(), eps))
        return x

    accuracy_curve(model, x, y, [0.1, 0.3], spy, batch_size=20)
    labels = [y[:20].tolist(), y[20:].tolist()]
    assert calls == [(True, part, eps) for eps in (0.1, 0.3) for part in labels]


def test_a_cumulative_curve_counts_who_withstood_all_budgets_so_far() -> None:
    model, x, y = task()
    budgets = [0, 0.05, 0.1, 0.3]
    plain = accuracy_curve(model, x, y, budgets, too_far)
    nested = accuracy_curve(model, x, y, budgets, too_far, cumulative=True)
    right = np.ones(len(x), dtype=bool)
    for eps, share in zip(budgets, nested, strict=True):
        right &= (model(too_far(model, x, y, eps)).argmax(1) == y).numpy()
        assert share == wilson(int(right.sum()), len(x))
    assert plain[3].count > plain[2].count  # it rises, and the other does not
    assert nested[3].count == nested[2].count <= plain[2].count


@given(st.lists(st.floats(0, 1), min_size=1, max_size=4), st.integers(0, 5))
def test_a_cumulative_curve_never_rises(budgets: list[float], seed: int) -> None:
    model, x, y = task(7, seed)
    budgets = sorted(budgets)
    nested = accuracy_curve(model, x, y, budgets, too_far, cumulative=True)
    counts = [share.count for share in nested]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] == accuracy_curve(model, x, y, budgets[:1], too_far)[0].count


def test_a_curve_of_nothing() -> None:
    model, x, y = task()
    assert accuracy_curve(model, x, y, [], one_step) == []
    assert accuracy_curve(model, x[:0], y[:0], [0.1], one_step) == [wilson(0, 0)]


def test_budgets_are_checked_before_anything_is_computed() -> None:
    model, x, y = task()

    def never(*arguments: object) -> Tensor:
        raise AssertionError("called")

    for wrong in (-0.1, math.inf, math.nan, "8", None):
        with pytest.raises(ThreatError, match="eps is"):
            accuracy_curve(model, x, y, [0.1, wrong], never)
    with pytest.raises(InputError, match="ascending"):
        accuracy_curve(model, x, y, [0.2, 0.1], never, cumulative=True)
    with pytest.raises(PixelError, match="normalis"):
        accuracy_curve(model, x * 2, y, [0.1], never)
    with pytest.raises(ThreatError, match="batch_size"):
        accuracy_curve(model, x, y, [0.1], never, batch_size=0)


def test_a_curve_disturbs_nothing() -> None:
    model, x, y = task()
    x_before, y_before = x.clone(), y.clone()
    model.train()
    accuracy_curve(model, x, y, [0.1], one_step)
    assert model.training and torch.equal(x, x_before) and torch.equal(y, y_before)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
