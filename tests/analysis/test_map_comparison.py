"""The comparison of maps and the permutation test, against brute force and counting."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from advlib.analysis import map_comparison
from advlib.errors import InputError

RANDOM_STATE_IS_WATCHED = True

N = 4
seeds = st.integers(0, 2**31)


def maps(seed: int = 0, n: int = N, size: int = 6) -> Tensor:
    return torch.randn(n, size, size, generator=torch.Generator().manual_seed(seed))


def pearson(a: Tensor, b: Tensor) -> Tensor:
    """Correlation of each map with its partner: a statistic that is not of the package."""
    a, b = (maps.flatten(1) - maps.flatten(1).mean(1, keepdim=True) for maps in (a, b))
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


# -- comparing maps --------------------------------------------------------------------------


def test_channels_are_added_in_three_ways() -> None:
    values = torch.tensor([[[[1.0, -2.0]], [[-3.0, 4.0]]]])
    assert map_comparison.per_pixel(values).tolist() == [[[4.0, 6.0]]]
    assert map_comparison.per_pixel(values, "signed").tolist() == [[[-2.0, 2.0]]]
    assert map_comparison.per_pixel(values, "support").tolist() == [[[0.0, 2.0]]]
    with pytest.raises(InputError, match="how is 'mean'"):
        map_comparison.per_pixel(values, "mean")
    with pytest.raises(InputError, match="maps of shape"):
        map_comparison.per_pixel(values[0])


@given(seed=seeds, share=st.floats(0, 1), levels=st.integers(1, 40))
def test_top_pixels_are_the_same_number_in_every_map_and_the_largest(seed, share, levels) -> None:
    values = (maps(seed) * levels).round()  # few levels: many ties
    marked = map_comparison.top_pixels(values, share)
    count = max(round(36 * share), 1) if share else 0
    assert marked.flatten(1).sum(1).tolist() == [count] * N
    for one, where in zip(values, marked, strict=True):
        if 0 < count < 36:
            assert one[where].min() >= one[~where].max()


def test_overlap_counts_shared_pixels() -> None:
    a = torch.arange(16.0).view(1, 4, 4)
    assert map_comparison.overlap(a, a, 0.25).tolist() == [1.0]
    assert map_comparison.overlap(a, -a, 0.25).tolist() == [0.0]
    assert map_comparison.overlap(a, -a, 1.0).tolist() == [1.0]
    assert map_comparison.overlap(a, a.roll(2), 0.25).tolist() == [0.5]


@given(seed=seeds, share=st.floats(0.05, 1))
def test_overlap_is_symmetric_and_marks_commute_with_it(seed: int, share: float) -> None:
    a, b = maps(seed), maps(seed + 1)
    both = map_comparison.overlap(a, b, share)
    assert torch.equal(both, map_comparison.overlap(b, a, share))
    top = [map_comparison.top_pixels(values, share) for values in (a, b)]
    assert torch.equal(both, map_comparison.common(*top))


@given(seed=seeds, group=st.sampled_from([2, 4, 6]))
def test_matched_halves_are_alike_in_one_map_and_differ_in_the_other(seed: int, group: int) -> None:
    match, by = maps(seed), maps(seed + 1)
    share = 6 / match[0].numel()
    more, less = map_comparison.matched_halves(match, by, share, group=group)
    assert not (more & less).any()
    assert torch.equal(more | less, map_comparison.top_pixels(match, 2 * share))
    for values, one, other in zip(match, more, less, strict=True):
        ordered = values[one | other].sort(descending=True).values.view(-1, group)
        for picked in (one, other):  # as many of each group
            inside = (ordered[:, :, None] == values[picked]).sum((1, 2))
            assert inside.eq(group // 2).all()
    assert ((by * more).flatten(1).sum(1) >= (by * less).flatten(1).sum(1)).all()


def test_a_group_of_two_gives_the_larger_of_each_pair_to_the_first() -> None:
    match = torch.tensor([[[9.0, 8, 7, 6, 1, 0]]])
    by = torch.tensor([[[1.0, 2, 4, 3, 9, 9]]])
    more, less = map_comparison.matched_halves(match, by, 1 / 3, group=2)
    assert more.int().tolist() == [[[0, 1, 1, 0, 0, 0]]]
    assert less.int().tolist() == [[[1, 0, 0, 1, 0, 0]]]


def test_maps_that_do_not_fit_are_refused() -> None:
    a = maps()
    for use in (
        lambda: map_comparison.overlap(a, a[:2]),
        lambda: map_comparison.overlap(a, a, 0),
        lambda: map_comparison.overlap(a, a, 1.5),
        lambda: map_comparison.overlap(a[:, 0], a[:, 0]),
        lambda: map_comparison.overlap(a, a * torch.nan),
        lambda: map_comparison.common(a, a),
        lambda: map_comparison.matched_halves(a, a[:2], 0.1),
        lambda: map_comparison.matched_halves(a[:, 0], a[:, 0], 0.1),
        lambda: map_comparison.matched_halves(a, a * torch.nan, 0.1),
        lambda: map_comparison.matched_halves(a, a, 0.6),
        lambda: map_comparison.matched_halves(a, a, 0),
        lambda: map_comparison.matched_halves(a, a, 0.1, group=3),
        lambda: map_comparison.matched_halves(a, a, 0.1, group=0),
        lambda: map_comparison.permutation_test(a[:0], a[:0]),
        lambda: map_comparison.permutation_test(
            a, a, null=map_comparison.exchanged(torch.arange(3))
        ),
    ):
        with pytest.raises(InputError):
            use()


# -- null distributions ----------------------------------------------------------------------


@given(seed=seeds)
def test_nulls_keep_the_values_and_obey_the_generator(seed: int) -> None:
    values, groups = maps(seed, 6), torch.tensor([0, 1, 0, 2, 1, 0])
    for null in (
        map_comparison.shuffled,
        map_comparison.shifted,
        map_comparison.exchanged(),
        map_comparison.exchanged(groups),
    ):
        one, same = (null(values, torch.Generator().manual_seed(seed)) for _ in range(2))
        assert torch.equal(one, same) and one.shape == values.shape
        assert torch.equal(one.flatten().sort().values, values.flatten().sort().values)
    for null in (map_comparison.shuffled, map_comparison.shifted):
        got = null(values, torch.Generator().manual_seed(seed))
        assert torch.equal(got.flatten(1).sort(1).values, values.flatten(1).sort(1).values)
    got = map_comparison.exchanged(groups)(values, torch.Generator().manual_seed(seed))
    source = [next(j for j in range(6) if torch.equal(got[i], values[j])) for i in range(6)]
    assert sorted(source) == list(range(6))
    assert groups[source].tolist() == groups.tolist()


def test_a_shifted_map_is_the_map_rolled_round() -> None:
    values = maps(3, 2)
    got = map_comparison.shifted(values, torch.Generator().manual_seed(1))
    for one, moved in zip(values, got, strict=True):
        rolls = [one.roll((i, j), (0, 1)) for i in range(6) for j in range(6)]
        assert sum(torch.equal(roll, moved) for roll in rolls) == 1


def test_every_order_within_a_group_is_equally_likely() -> None:
    values = torch.arange(4.0).view(4, 1, 1)
    groups, generator = torch.tensor([5, 2, 5, 5]), torch.Generator().manual_seed(0)
    null = map_comparison.exchanged(groups)
    seen: dict[tuple, int] = {}
    for _ in range(1_200):
        order = tuple(null(values, generator).flatten().tolist())
        seen[order] = seen.get(order, 0) + 1
    assert len(seen) == 6 and all(order[1] == 1 for order in seen)
    assert all(abs(count - 200) < 5 * 13 for count in seen.values())


# -- the test --------------------------------------------------------------------------------


def test_p_counts_what_was_observed_as_one_draw() -> None:
    a = maps(1, 20)
    sure = map_comparison.permutation_test(a, a, draws=19)
    assert sure.value == 1.0 and sure.p == 1 / 20 and len(sure.null) == 19
    assert sure.effect == pytest.approx(1 - sure.expected)
    assert "p <= 0.05" in str(sure)
    # A null that changes nothing reaches the observed value every time.
    same = map_comparison.permutation_test(a, a, null=lambda b, generator: b, draws=19)
    assert same.p == 1.0 and same.effect == 0.0 and "p = 1" in str(same)


def test_p_is_what_counting_gives() -> None:
    a, b = maps(1, 5), maps(2, 5)
    got = map_comparison.permutation_test(
        a, b, pearson, draws=40, generator=torch.Generator().manual_seed(3)
    )
    generator = torch.Generator().manual_seed(3)
    value = float(pearson(a, b).mean())
    null = [float(pearson(a, map_comparison.shuffled(b, generator)).mean()) for _ in range(40)]
    assert got.value == pytest.approx(value) and got.null == pytest.approx(tuple(null))
    assert got.p == (1 + sum(n >= value for n in null)) / 41


def test_under_the_null_p_is_uniform() -> None:
    small = 0
    for seed in range(200):
        a, b = maps(seed, 3, 5), maps(seed + 10_000, 3, 5)
        draw = torch.Generator().manual_seed(seed)
        small += map_comparison.permutation_test(a, b, pearson, draws=19, generator=draw).p <= 0.1
    assert abs(small - 20) < 4 * math.sqrt(200 * 0.1 * 0.9)


def test_a_shared_place_is_significant_against_the_easy_nulls_and_not_the_hard_one() -> None:
    """Two independent maps, both with their large values in the middle of the image."""
    place = torch.zeros(16, 16)
    place[5:11, 5:11] = 3
    generator = torch.Generator().manual_seed(0)
    a, b = (place + torch.randn(30, 16, 16, generator=generator) for _ in range(2))
    p = {
        name: map_comparison.permutation_test(a, b, null=null, draws=99).p
        for name, null in (
            ("shuffled", map_comparison.shuffled),
            ("shifted", map_comparison.shifted),
            ("exchanged", map_comparison.exchanged()),
        )
    }
    assert p["shuffled"] == p["shifted"] == 0.01 and p["exchanged"] > 0.05
