"""Paired comparisons: against an independent implementation, and by what must hold for any pair."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from advlib.analysis.paired import Median, paired, rounded, sign_test, summary
from advlib.errors import InputError
from advlib.evaluation import wilson

pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=6, max_size=60)
numbers = st.lists(st.tuples(*[st.floats(-1e3, 1e3)] * 2), min_size=6, max_size=60)
either = st.one_of(pairs, numbers)


def split(drawn: list[tuple]) -> tuple[torch.Tensor, torch.Tensor]:
    first, second = zip(*drawn, strict=True)
    return torch.tensor(first), torch.tensor(second)


@given(either)
def test_the_other_way_round_only_the_sign_changes(drawn: list[tuple]) -> None:
    first, second = split(drawn)
    there, back = paired(first, second), paired(second, first)
    assert there.p == back.p and there.sign == -back.sign
    assert there.value == pytest.approx(-back.value)
    assert there.low == pytest.approx(-back.high) and there.high == pytest.approx(-back.low)


@given(either)
def test_the_interval_holds_the_value_and_a_tie_has_no_sign(drawn: list[tuple]) -> None:
    first, second = split(drawn)
    gap = paired(first, second)
    assert gap.low <= gap.value + 1e-12 and gap.value <= gap.high + 1e-12 and 0 < gap.p <= 1
    if first.dtype == torch.bool:
        assert gap.low >= -1 - 1e-12 and gap.high <= 1 + 1e-12
    same = paired(first, first.clone())
    assert (same.value, same.p, same.sign) == (0, 1, 0) and same.low <= 0 <= same.high


@given(either, st.randoms())
def test_the_order_of_the_pairs_does_not_matter(drawn: list[tuple], order) -> None:
    mixed = order.sample(drawn, len(drawn))
    assert paired(*split(drawn)) == paired(*split(mixed))


@given(st.integers(0, 80), st.integers(0, 80))
def test_p_is_that_of_scipys_binomial_test(wins: int, losses: int) -> None:
    if wins + losses == 0:
        assert sign_test(wins, losses) == 1
    else:
        expected = stats.binomtest(wins, wins + losses).pvalue
        assert sign_test(wins, losses) == pytest.approx(min(1, expected))


@pytest.mark.parametrize("total", range(1, 11))
def test_p_is_the_share_of_all_outcomes_at_least_as_uneven(total: int) -> None:
    for wins in range(total + 1):
        uneven = abs(2 * wins - total)
        outcomes = itertools.product((0, 1), repeat=total)
        share = sum(abs(2 * sum(each) - total) >= uneven for each in outcomes) / 2**total
        assert sign_test(wins, total - wins) == pytest.approx(share)


@given(pairs)
def test_the_interval_is_newcombes(drawn: list[tuple]) -> None:
    """Method 10 written out from the paper's four counts, in other words than the package's."""
    e = sum(a and b for a, b in drawn)
    f = sum(a and not b for a, b in drawn)
    g = sum(b and not a for a, b in drawn)
    n = len(drawn)
    h = n - e - f - g
    row, column = wilson(e + f, n), wilson(e + g, n)
    cross = e * h - f * g
    cross = cross if cross < 0 else max(cross - n / 2, 0)
    total = (e + f) * (g + h) * (e + g) * (f + h)
    phi = cross / total**0.5 if total else 0
    down, up = row.value - row.low, row.high - row.value
    down2, up2 = column.value - column.low, column.high - column.value
    gap = paired(*split(drawn))
    lower = math.sqrt(max(0, down**2 - 2 * phi * down * up2 + up2**2))
    upper = math.sqrt(max(0, up**2 - 2 * phi * up * down2 + down2**2))
    assert gap.low == pytest.approx((f - g) / n - lower, abs=1e-9)
    assert gap.high == pytest.approx((f - g) / n + upper, abs=1e-9)


@pytest.mark.parametrize("n", [6, 9, 25, 100])
def test_the_interval_of_a_median_is_the_narrowest_that_keeps_its_promise(n: int) -> None:
    median = summary(torch.arange(1, n + 1, dtype=torch.float64))
    assert isinstance(median, Median) and median.value == (n + 1) / 2
    rank = int(median.low)
    assert median.high == n + 1 - rank
    assert 2 * stats.binom.cdf(rank - 1, n, 0.5) <= 0.05 < 2 * stats.binom.cdf(rank, n, 0.5)


def test_a_small_difference_on_every_image_is_found_where_the_intervals_overlap() -> None:
    second = torch.arange(20.0)
    gap, first = paired(second + 0.1, second), summary(second + 0.1)
    assert gap.sign == 1 and first.low < summary(second).high


def test_five_of_five_are_not_enough_and_six_of_six_are() -> None:
    none = torch.zeros(60, dtype=torch.bool)
    for count, sign in ((5, 0), (6, 1)):
        assert paired(torch.arange(60) < count, none).sign == sign


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        (torch.ones(7), torch.ones(8), "7 values stand beside 8.* same images"),
        (torch.ones(7), torch.ones(7).bool(), "Measure both alike"),
        (torch.ones(5), torch.ones(5), "5 values cannot be told from luck.* at least 6"),
        (torch.ones(7, 2), torch.ones(7, 2), r"one value for each image"),
        ([1.0] * 7, torch.ones(7), "list was given"),
        (torch.full((7,), math.nan), torch.ones(7), "not finite"),
    ],
)
def test_samples_that_cannot_be_compared_are_refused(first, second, words: str) -> None:
    with pytest.raises(InputError, match=words):
        paired(first, second)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (-1e-12 * 0, "0"), (0.031234, "0.0312"), (-0.5, "-0.5"), (1234.5, "1,230")],
)
def test_three_digits(value: float, text: str) -> None:
    assert rounded(value) == text
