"""Square Attack: what it promises, what it asks, and that it finds something."""

import pytest
import reference
import torch
from cases import assert_inside, fewer
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import advlib
from advlib.attacks import square as module
from advlib.attacks.square import share, square, square_with_queries
from advlib.errors import LabelError, ModelOutputError, PixelError, ThreatError
from advlib.gradients import margin

RANDOM_STATE_IS_WATCHED = True

NORMS = ("linf", "l2", "l1")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SHAPE = (3, 5, 5)
seeds = st.integers(0, 2**31)
norms = st.sampled_from(NORMS)
shapes = st.one_of(
    st.tuples(st.integers(1, 4), st.just(12)),
    st.tuples(st.integers(1, 4), st.just(3), st.just(2), st.just(2)),
    st.tuples(st.integers(1, 4), st.just(1), st.just(3), st.just(4)),
    st.tuples(st.integers(1, 4), st.just(2), st.just(1), st.just(6)),
)


def data(seed: int = 0, n: int = 6) -> tuple[Tensor, Tensor]:
    x = reference.images(n, *SHAPE, seed=seed, ends=0.1).float()
    return x, reference.classes(n, seed=seed)


def right(model: nn.Module, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images with the classes that `model` gives them."""
    x = reference.images(n, *SHAPE, seed=seed, ends=0.1).float()
    return x, model(x).argmax(1)


class Witness(nn.Module):
    """Writes down what it is asked, and whether gradients were on."""

    def __init__(self, model) -> None:
        super().__init__()
        self.model = model
        self.asked: list[Tensor] = []
        self.gradients: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.asked.append(x.clone())
        self.gradients.append(torch.is_grad_enabled() or x.requires_grad)
        return self.model(x)


class OneByOne(nn.Module):
    """Each image alone: its logits are the same to the last bit, whatever stands beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.model = reference.mlp(75).float()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.model(one) for one in x.split(1)])


# -- ball and box ----------------------------------------------------------------------------


@given(
    shape=shapes,
    seed=seeds,
    norm=norms,
    dtype=st.sampled_from(DTYPES),
    eps=st.one_of(st.sampled_from([0.0, 1e-12, 4 / 255, 0.1, 1.0, 1e20]), st.floats(0, 3)),
    targeted=st.booleans(),
)
def test_the_result_is_in_ball_and_box(shape, seed, norm, dtype, eps, targeted) -> None:
    x = reference.images(*shape, seed=seed).to(dtype)
    y, model = reference.classes(shape[0], seed=seed), reference.mlp(12, seed=seed % 7).to(dtype)
    eps = min(eps, 1e4) if dtype == torch.float16 else eps
    before = x.clone(), y.clone()
    x_adv = square(
        model, x, y, eps, norm=norm, queries=12, targeted=targeted, p_init=0.5,
        generator=torch.Generator().manual_seed(seed),
    )  # fmt: skip
    assert_inside(x, x_adv, eps, norm)
    assert x_adv.data_ptr() != x.data_ptr()
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_on_black_images_in_half_precision_the_ball_is_kept(norm: str, dtype) -> None:
    """There the sum is exact, and what the perturbation was rounded up by stays."""
    model = reference.mlp(75).to(dtype)
    x, y = torch.zeros(8, *SHAPE, dtype=dtype), reference.classes(8)
    assert_inside(x, square(model, x, y, 0.25, norm=norm, queries=12), 0.25, norm)


@pytest.mark.parametrize("norm", NORMS)
def test_every_question_is_about_a_point_of_ball_and_box(norm: str) -> None:
    x, y = data()
    model = Witness(reference.linear(75))
    square(model, x[:1], y[:1], 0.1, norm=norm, queries=40)
    for asked in model.asked:
        assert float(asked.amin()) >= 0 and float(asked.amax()) <= 1
        assert float(advlib.threats.norm(asked - x[:1], norm).max()) <= 0.1 * (1 + 1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_proposals_use_the_whole_budget(norm: str) -> None:
    x = torch.full((1, 3, 9, 9), 0.5)
    model = Witness(reference.linear(243))
    y = model(x).argmax(1)
    square(model, x, y, 0.02, norm=norm, queries=30)
    lengths = [float(advlib.threats.norm(asked - x, norm)) for asked in model.asked[2:]]
    assert min(lengths) > 0.99 * 0.02


# -- what is asked ---------------------------------------------------------------------------


def test_no_gradient_is_ever_on() -> None:
    x, y = data()
    model = Witness(reference.conv(3))
    square(model, x, y, 0.1, queries=5)
    assert model.gradients and not any(model.gradients)


@given(seed=seeds, norm=norms, queries=st.integers(1, 30), batch_size=st.integers(1, 7))
def test_the_budget_of_queries_is_kept_for_every_image(seed, norm, queries, batch_size) -> None:
    x, y = data(seed)
    model = Witness(reference.mlp(75, seed=seed % 5))
    counted = torch.zeros(len(x), dtype=torch.long)
    done = torch.zeros(len(x), dtype=torch.bool)

    def count(query: int, rows: Tensor, fooled: Tensor) -> None:
        assert not done[rows].any()  # a fooled image is asked about no more
        counted[rows] += 1
        assert counted[rows].eq(query).all()
        done[rows[fooled]] = True

    found = square_with_queries(
        model, x, y, 0.05, norm=norm, queries=queries, on_query=count, batch_size=batch_size
    )
    assert torch.equal(found.queries, counted) and torch.equal(found.fooled, done)
    assert int(counted.max()) <= queries and int(counted.min()) >= 1
    assert sum(len(asked) for asked in model.asked) == int(counted.sum())
    assert (counted[~done] == queries).all()
    assert torch.equal(model.model(found.x_adv).argmax(1) != y, done)


def test_a_image_that_is_wrong_already_costs_one_query_and_stays() -> None:
    model = reference.linear(75)
    x, y = right(model, 4)
    found = square_with_queries(model, x, (y + 1) % 3, 0.1, queries=50)
    assert found.queries.tolist() == [1] * 4 and found.fooled.all()
    assert torch.equal(found.x_adv, x)


def test_no_question_repeats_the_best_point() -> None:
    inner, ahead = reference.linear(12, 2), torch.tensor([1e3, 0.0])
    model = Witness(lambda x: inner(x).double() + ahead)  # cannot be fooled
    x = torch.full((1, 3, 2, 2), 0.5)
    square(model, x, torch.tensor([0]), 0.1, queries=60)
    with torch.no_grad():
        values = [float(margin(model.model(p), torch.tensor([0]))) for p in model.asked]
    best = model.asked[0]
    value = values[0]
    for asked, now in zip(model.asked[1:], values[1:], strict=True):
        assert not torch.equal(asked, best)
        if now >= value:
            best, value = asked, now


# -- what it finds ---------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
def test_it_beats_noise_of_the_same_size(norm: str) -> None:
    model = reference.mlp(75)
    x, y = right(model, 24)
    eps = {"linf": 0.1, "l2": 0.6, "l1": 8.0}[norm]
    x_adv = square(model, x, y, eps, norm=norm, queries=200)
    noisy = advlib.noise(x, eps, norm=norm)
    kept, kept_in_noise = ((model(z).argmax(1) == y).sum() for z in (x_adv, noisy))
    assert int(kept) < int(kept_in_noise)
    assert margin(model(x_adv), y).mean() > margin(model(noisy), y).mean() + 0.1


@given(seed=seeds, norm=norms, targeted=st.booleans(), queries=st.integers(1, 25))
def test_the_loss_is_never_lower_than_at_the_image(seed, norm, targeted, queries) -> None:
    model = reference.mlp(75, seed=seed % 5)
    x, y = data(seed, 4)
    x_adv = square(model, x, y, 0.05, norm=norm, targeted=targeted, queries=queries)
    if targeted:
        gain = model(x_adv).log_softmax(1) - model(x).log_softmax(1)
        # A point that reaches the goal ends the search, whatever its loss: another class may have
        # lost more than the target did.
        reached = model(x_adv).argmax(1) == y
        assert (reached | (gain.gather(1, y[:, None]).squeeze(1) >= -1e-5)).all()
    else:
        was = margin(model(x), y)
        assert (margin(model(x_adv), y) >= was - 1e-5).all()


def test_a_linear_model_is_brought_close_to_its_worst_case() -> None:
    model = reference.linear(75, classes=2)
    x, y = right(model, 8)
    weight = model.state_dict()
    matrix = next(value for value in weight.values() if value.ndim == 2)
    worst = 0.02 * (matrix[0] - matrix[1]).abs().sum()
    x = x.clamp(0.1, 0.9)
    y = model(x).argmax(1)
    sure = torch.eye(2)[y] * 100  # so far ahead that nobody is fooled and the search goes on

    def never(x: Tensor) -> Tensor:
        return model(x) + sure

    x_adv = square(never, x, y, 0.02, queries=600)
    gain = margin(model(x_adv), y) - margin(model(x), y)
    assert (gain > 0.8 * worst).all()


def test_it_reaches_a_target() -> None:
    model = reference.mlp(75)
    x, y = right(model, 12)
    target = (y + 1) % 3
    found = square_with_queries(model, x, target, 0.3, targeted=True, queries=300)
    assert int(found.fooled.sum()) >= 10
    assert torch.equal(model(found.x_adv).argmax(1) == target, found.fooled)


@pytest.mark.parametrize("digits", [0, 1])
def test_it_works_where_no_gradient_does(digits: int) -> None:
    """Rounded logits: plateaus, with a gradient of zero or none."""
    inner = reference.mlp(75)
    x, y = right(inner, 16)

    def rounded(x: Tensor) -> Tensor:
        return inner(x).detach().round(decimals=digits)

    with pytest.raises(ModelOutputError):
        advlib.pgd(rounded, x, y, 0.15, steps=2)
    wrong_before = int((rounded(x).argmax(1) != y).sum())
    found = square_with_queries(rounded, x, y, 0.3, queries=300)
    assert int(found.fooled.sum()) >= wrong_before + 3


def test_more_queries_of_a_model_that_only_names_a_class_also_work() -> None:
    inner = reference.mlp(75)
    x, y = right(inner, 16)

    def decision(x: Tensor) -> Tensor:
        return nn.functional.one_hot(inner(x).argmax(1), 3).float()

    found = square_with_queries(decision, x, y, 0.3, queries=300)
    assert int(found.fooled.sum()) > 0
    assert torch.equal(inner(found.x_adv).argmax(1) != y, found.fooled)


# -- chance ----------------------------------------------------------------------------------


@given(seed=seeds, norm=norms)
def test_the_generator_alone_decides(seed: int, norm: str) -> None:
    model = reference.mlp(75)
    x, y = right(model, 3, seed % 100)

    def run(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return square(model, x, y, 0.02, norm=norm, queries=6, generator=generator)

    assert torch.equal(run(seed), run(seed))
    assert not torch.equal(run(seed), run(seed + 1))


def test_without_a_generator_the_seed_is_0_each_time() -> None:
    model = reference.mlp(75)
    x, y = right(model, 3)
    zero = square(model, x, y, 0.02, queries=6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(square(model, x, y, 0.02, queries=6), zero)


@fewer(by=8)
@given(norm=norms, batch_size=st.integers(1, 9), queries=st.integers(1, 70))
def test_neither_the_batches_nor_the_others_matter(norm, batch_size, queries) -> None:
    model = reference.mlp(75).double()
    x, y = right(reference.mlp(75), 7)
    x = x.double()
    eps = {"linf": 0.05, "l2": 0.3, "l1": 2.0}[norm]
    options = {"norm": norm, "queries": queries}
    whole = square_with_queries(model, x, y, eps, **options)
    parts = square_with_queries(model, x, y, eps, batch_size=batch_size, **options)
    assert torch.equal(whole.queries, parts.queries)
    torch.testing.assert_close(whole.x_adv, parts.x_adv)
    # The first images alone: their chance is the same.
    some = square_with_queries(model, x[:3], y[:3], eps, **options)
    assert torch.equal(whole.queries[:3], some.queries)
    torch.testing.assert_close(whole.x_adv[:3], some.x_adv)


def test_chance_is_the_same_on_every_device(device: torch.device) -> None:
    model = reference.mlp(75)
    x, y = right(model, 4)
    here = square(model, x, y, 0.03, queries=10)
    there = square(model.to(device), x.to(device), y.to(device), 0.03, queries=10)
    torch.testing.assert_close(there.cpu(), here)


# -- the schedule ----------------------------------------------------------------------------


def test_the_share_is_that_of_the_paper() -> None:
    marks = {0: 1, 10: 1, 11: 2, 51: 4, 201: 8, 501: 16, 1001: 32, 2001: 64, 4001: 128, 6001: 256}
    for query, part in marks.items():
        assert share(query, 10_000, 0.05) == 0.05 / part
    assert share(9999, 10_000, 0.05) == 0.05 / 512
    assert share(500, 5000, 0.8) == share(1000, 10_000, 0.8)
    assert share(100, 200, 0.8) == share(100, 3000, 0.8)


@pytest.mark.parametrize(("p_init", "least", "most"), [(0.04, 1, 4), (0.25, 5, 25), (1.0, 26, 100)])
def test_the_first_squares_cover_the_share_they_are_told_to(p_init, least, most) -> None:
    x = torch.full((1, 1, 10, 10), 0.5)
    model = Witness(reference.linear(100))
    y = model(x).argmax(1)
    square(model, x, y, 1e-6, queries=3, p_init=p_init)
    _, stripes, proposal = model.asked[-3:]
    assert least <= min(int((proposal != before).sum()) for before in (x, stripes)) <= most


@given(height=st.integers(1, 20), width=st.integers(1, 20), part=st.floats(1e-4, 1))
def test_a_window_covers_about_the_share_it_should(height, width, part) -> None:
    x = torch.zeros(4, 1, height, width)
    chance = torch.rand(4, 2, generator=torch.Generator().manual_seed(height))
    mask, (high, wide), _ = module._window(chance, part, x)
    assert mask.sum((1, 2, 3)).tolist() == [high * wide] * 4
    wanted = max(1.0, part * height * width)
    assert abs(high * wide - wanted) <= max(high, wide) / 2 + 0.5 + max(height, width) / 4


# -- errors and traces -----------------------------------------------------------------------


def test_what_cannot_be_used_is_refused() -> None:
    model, (x, y) = reference.mlp(75), data()
    for wrong in (0, 1.5, -3, True, "9"):
        with pytest.raises(ThreatError, match="queries"):
            square(model, x, y, queries=wrong)
    for wrong in (0, 1.5, -0.1, True, "half", float("nan")):
        with pytest.raises(ThreatError, match="p_init"):
            square(model, x, y, p_init=wrong)
    with pytest.raises(ThreatError, match="norm"):
        square(model, x, y, norm="l0")
    with pytest.raises(ThreatError, match="batch_size"):
        square(model, x, y, batch_size=0)
    with pytest.raises(PixelError):
        square(model, x * 255, y)
    with pytest.raises(LabelError):
        square(model, x, y + 100, queries=3)
    with pytest.raises(ModelOutputError, match="NaN"):
        square(lambda x: x.flatten(1)[:, :3] * torch.nan, x, y)


def test_nan_on_the_way_is_an_error() -> None:
    x, y = data()
    calls = []

    def model(x: Tensor) -> Tensor:
        calls.append(1)
        logits = torch.zeros(len(x), 3)
        logits[torch.arange(len(x)), y] = 1.0
        return logits if len(calls) < 3 else logits * torch.nan

    with pytest.raises(ModelOutputError, match="NaN"):
        square(model, x, y, 0.1, queries=9)


def test_no_images_and_no_budget() -> None:
    model, (x, y) = reference.mlp(75), data()
    assert square(model, x[:0], y[:0]).shape == (0, *SHAPE)
    found = square_with_queries(model, x, y, 0.0, queries=50)
    assert torch.equal(found.x_adv, x) and found.queries.tolist() == [1] * len(x)


def test_the_model_is_as_it_was_also_if_it_works_in_place() -> None:
    inner = reference.without_seed(
        lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm1d(75), nn.Dropout(0.5), nn.Linear(75, 3))
    )
    inner.train()
    state = {name: value.clone() for name, value in inner.state_dict().items()}
    x, y = data()
    before = x.clone()

    def in_place(x: Tensor) -> Tensor:
        return inner(x.sub_(0.5))

    square(inner, x, y, 0.1, queries=5)
    assert inner.training and inner[2].training
    for name, value in inner.state_dict().items():
        assert torch.equal(value, state[name])
    inner.eval()
    assert_inside(x, square(in_place, x, y, 0.1, queries=9), 0.1, "linf")
    assert torch.equal(x, before)


def test_it_works_in_inference_mode() -> None:
    model = reference.mlp(75)
    x, y = right(model, 3)
    with torch.inference_mode():
        inside = square(model, x.clone(), y.clone(), 0.02, queries=6)
    assert torch.equal(inside, square(model, x, y, 0.02, queries=6))


@given(seed=seeds, norm=norms, few=st.integers(1, 12), more=st.integers(0, 12))
def test_a_small_budget_is_the_beginning_of_a_larger_one(seed, norm, few, more) -> None:
    model = reference.mlp(75)
    x, y = right(model, 5, seed % 100)
    short = square_with_queries(model, x, y, 0.05, norm=norm, queries=few)
    long = square_with_queries(model, x, y, 0.05, norm=norm, queries=few + more)
    assert torch.equal(short.queries, long.queries.clamp_max(few))
    assert torch.equal(short.fooled, long.fooled & (long.queries <= few))
    assert torch.equal(short.x_adv[short.fooled], long.x_adv[short.fooled])
    # Of the points asked about the best is kept: what is not fooled comes closer to it.
    gain = margin(model(long.x_adv), y) - margin(model(short.x_adv), y)
    assert (gain[~short.fooled] >= -1e-5).all()


@given(seed=seeds, norm=norms, n=st.integers(3, 6), batch_size=st.integers(1, 7))
def test_a_image_that_keeps_its_place_keeps_its_result(seed, norm, n, batch_size) -> None:
    """Chance belongs to the place: whatever changes places elsewhere is nothing to it."""
    x, y = data(seed, n)
    order = torch.arange(n)
    order[[0, n - 1]] = order[[n - 1, 0]]
    options = {"norm": norm, "queries": 10, "batch_size": batch_size}
    whole = square(OneByOne(), x, y, 0.05, **options)
    mixed = square(OneByOne(), x[order], y[order], 0.05, **options)
    assert torch.equal(mixed[1:-1], whole[1:-1])


@pytest.mark.parametrize("norm", NORMS)
def test_the_same_image_at_two_places_is_attacked_in_two_ways(norm: str) -> None:
    """So a permuted batch does not permute the result: its images draw anew."""
    model = OneByOne()
    x, y = right(model, 1)
    x_adv = square(model, x.repeat(4, 1, 1, 1), y.repeat(4), 1e-3, norm=norm, queries=5)
    assert len({tuple(one.flatten().tolist()) for one in x_adv}) == 4


@given(seed=seeds, norm=norms, targeted=st.booleans(), cut=st.integers(0, 6))
def test_two_halves_with_one_generator_equal_the_whole(seed, norm, targeted, cut) -> None:
    """Chance belongs to the image, and is drawn in their order."""
    x, y = data(seed)
    options = {"norm": norm, "queries": 10, "targeted": targeted}

    def run(*parts: slice) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        results = [
            square(OneByOne(), x[part], y[part], 0.05, generator=generator, **options)
            for part in parts
        ]
        return torch.cat(results)

    whole = run(slice(None))
    assert torch.equal(run(slice(None, cut), slice(cut, None)), whole)
