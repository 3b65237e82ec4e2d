"""Noise, FGSM and PGD: agreement with the reference, and what they promise."""

import copy

import numpy as np
import pytest
import reference
import torch
from cases import assert_inside
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import advlib
from advlib import threats
from advlib.errors import ModelOutputError, ThreatError

RANDOM_STATE_IS_WATCHED = True

NORMS = ("linf", "l2", "l1")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
BUDGET = {"linf": 0.1, "l2": 0.5, "l1": 2.0}
MODELS = {
    "linear": reference.linear(75),
    "mlp": reference.mlp(75),
    "conv": reference.conv(3),
}
N, SHAPE = 5, (3, 5, 5)

norms = st.sampled_from(NORMS)
seeds = st.integers(0, 2**31)
radii = st.one_of(
    st.sampled_from([0.0, 1e-12, 1 / 255, 4 / 255, 0.1, 0.3, 1.0, 1.5, 50.0, 1e20, 1e300]),
    st.floats(0, 3, allow_subnormal=False),
)
small = st.one_of(
    st.tuples(st.integers(1, 4), st.just(12)),
    st.tuples(st.integers(1, 4), st.just(3), st.just(2), st.just(2)),
    st.tuples(st.integers(1, 4), st.just(1), st.just(3), st.just(4)),
)


def data(seed: int = 0, n: int = N) -> tuple[Tensor, Tensor]:
    return reference.images(n, *SHAPE, seed=seed, ends=0.1), reference.classes(n, seed=seed)


class Counter(nn.Module):
    """Counts forward passes, backward passes and images."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forwards, self.backwards, self.rows = 0, 0, []

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += 1
        self.rows.append(len(x))
        if x.requires_grad:
            x.register_hook(self.count)
        return self.model(x)

    def count(self, grad: Tensor) -> None:
        self.backwards += 1


# -- agreement with the reference ------------------------------------------------------------


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", MODELS)
def test_fgsm_agrees_with_the_reference(
    name: str, norm: str, targeted: bool, device: torch.device
) -> None:
    x, y = data()
    oracle = reference.torch_oracle(MODELS[name])
    expected = reference.fgsm(oracle, x.numpy(), y.numpy(), BUDGET[norm], norm, targeted)
    model = copy.deepcopy(MODELS[name]).to(device)
    options = {"norm": norm, "targeted": targeted}
    got = advlib.fgsm(model, x.float().to(device), y.to(device), BUDGET[norm], **options)
    np.testing.assert_allclose(got.cpu(), expected, atol=1e-6 + 5e-6 * BUDGET[norm])
    model, x, y = model.double(), x.to(device), y.to(device)
    got = advlib.fgsm(model, x, y, BUDGET[norm], **options)
    np.testing.assert_allclose(got.cpu(), expected, atol=1e-12)


@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", MODELS)
def test_pgd_agrees_with_the_reference(
    name: str, norm: str, targeted: bool, random_start: bool, device: torch.device
) -> None:
    x, y = data(1)
    oracle = reference.torch_oracle(MODELS[name])
    starts: list[np.ndarray] = []

    def keep_start(restart: int, step: int, x_adv: Tensor, loss: Tensor) -> None:
        if step == 0:
            starts.append(x_adv.double().cpu().numpy())

    for dtype, accuracy in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        starts.clear()
        model = copy.deepcopy(MODELS[name]).to(device, dtype)
        got = advlib.pgd(
            model,
            x.to(device, dtype),
            y.to(device),
            BUDGET[norm],
            norm=norm,
            steps=6,
            restarts=2 if random_start else 1,
            random_start=random_start,
            targeted=targeted,
            on_step=keep_start,
        )
        assert len(starts) == (2 if random_start else 1)
        settings = {"steps": 6, "starts": starts, "targeted": targeted}
        expected = reference.pgd(oracle, x.numpy(), y.numpy(), BUDGET[norm], norm, **settings)
        np.testing.assert_allclose(got.cpu(), expected, atol=accuracy)


def test_pgd_takes_the_step_size_it_is_given() -> None:
    x, y = data(2)
    for norm in NORMS:
        oracle = reference.torch_oracle(MODELS["mlp"])
        settings = {"steps": 4, "step_size": 0.4 * BUDGET[norm]}
        expected = reference.pgd(oracle, x.numpy(), y.numpy(), BUDGET[norm], norm, **settings)
        model = copy.deepcopy(MODELS["mlp"]).double()
        got = advlib.pgd(model, x, y, BUDGET[norm], norm=norm, random_start=False, **settings)
        np.testing.assert_allclose(got, expected, atol=1e-11)


def test_fgsm_is_the_formula_of_the_paper() -> None:
    x, y = data()
    grad = advlib.input_gradient(MODELS["conv"], x.float(), y).grad
    expected = (x.float() + 0.03 * grad.sign()).clamp(0, 1)
    got = advlib.fgsm(MODELS["conv"], x.float(), y, 0.03)
    np.testing.assert_allclose(got, expected, atol=1e-7)


def test_the_default_budget_is_8_of_255_in_linf() -> None:
    x, y = data()
    x = x.float()
    model = MODELS["mlp"]
    assert torch.equal(advlib.fgsm(model, x, y), advlib.fgsm(model, x, y, 8 / 255, norm="linf"))
    assert torch.equal(
        advlib.pgd(model, x, y),
        advlib.pgd(
            model,
            x,
            y,
            8 / 255,
            norm="linf",
            steps=20,
            step_size=2.5 * (8 / 255) / 20,
            restarts=1,
            random_start=True,
            targeted=False,
            loss="ce",
        ),
    )
    assert torch.equal(advlib.noise(x), advlib.noise(x, 8 / 255, norm="linf"))
    moved = (advlib.noise(x, distribution="sign") - x).abs().amax()
    assert float(moved) == pytest.approx(8 / 255, rel=1e-6)


# -- ball and box ----------------------------------------------------------------------------


@given(
    shape=small,
    seed=seeds,
    norm=norms,
    dtype=st.sampled_from(DTYPES),
    eps=radii,
    targeted=st.booleans(),
)
def test_every_attack_stays_in_ball_and_box(shape, seed, norm, dtype, eps, targeted) -> None:
    x = reference.images(*shape, seed=seed).to(dtype)
    y, model = reference.classes(shape[0], seed=seed), reference.mlp(12, seed=seed % 7).to(dtype)
    eps = min(eps, 1e4) if dtype == torch.float16 else eps
    before = x.clone(), y.clone()
    options = {"norm": norm, "targeted": targeted}
    for x_adv in (
        advlib.noise(x, eps, norm=norm, generator=torch.Generator().manual_seed(seed)),
        advlib.noise(x, eps, distribution="sign" if norm == "linf" else "uniform", norm=norm),
        advlib.fgsm(model, x, y, eps, **options),
        advlib.pgd(model, x, y, eps, steps=3, **options),
        advlib.pgd(model, x, y, eps, steps=2, random_start=False, step_size=0.7, **options),
        advlib.pgd(model, x, y, eps, steps=2, restarts=2, early_stop=True, **options),
    ):
        assert_inside(x, x_adv, eps, norm)
        assert x_adv.data_ptr() != x.data_ptr()
        assert not x_adv.requires_grad
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("norm", NORMS)
def test_ball_and_box_hold_on_the_device(
    norm: str, dtype: torch.dtype, device: torch.device
) -> None:
    x, y = data(3, 16)
    x, y, model = x.to(device, dtype), y.to(device), reference.mlp(75).to(device, dtype)
    for eps in (0.1, 0.3, 4 / 255, 1e-12, 2.0):
        for x_adv in (
            advlib.noise(x, eps, norm=norm),
            advlib.fgsm(model, x, y, eps, norm=norm),
            advlib.pgd(model, x, y, eps, norm=norm, steps=5),
        ):
            assert_inside(x, x_adv, eps, norm)


def test_points_on_the_way_are_in_the_box_and_up_to_rounding_in_the_ball() -> None:
    x, y = data(4)
    x = x.float()
    for norm in NORMS:

        def look(restart: int, step: int, x_adv: Tensor, loss: Tensor, norm: str = norm) -> None:
            assert float(x_adv.amin()) >= 0 and float(x_adv.amax()) <= 1
            assert float(threats.norm(x_adv - x, norm).max()) <= BUDGET[norm] * (1 + 1e-5)

        advlib.pgd(MODELS["mlp"], x, y, BUDGET[norm], norm=norm, steps=8, on_step=look)


@pytest.mark.parametrize("norm", NORMS)
def test_with_no_budget_the_images_come_back_as_they_are(norm: str) -> None:
    x, y = data()
    model = MODELS["mlp"].double()
    for x_adv in (
        advlib.noise(x, 0, norm=norm),
        advlib.fgsm(model, x, y, 0, norm=norm),
        advlib.pgd(model, x, y, 0.0, norm=norm),
        advlib.pgd(model, x, y, 0.0, norm=norm, step_size=0.1),
    ):
        assert torch.equal(x_adv, x) and x_adv.data_ptr() != x.data_ptr()
    model.float()


# -- noise -----------------------------------------------------------------------------------


def test_uniform_noise_fills_the_ball_and_knows_no_direction() -> None:
    x = torch.full((40, 3, 16, 16), 0.5)
    delta = (advlib.noise(x, 0.2) - x).flatten()
    assert abs(float(delta.mean())) < 5 * 0.2 / 3**0.5 / len(delta) ** 0.5
    for share in (0.1, 0.5, 0.9):
        assert float((delta.abs() <= share * 0.2).float().mean()) == pytest.approx(share, abs=0.02)


def test_sign_noise_moves_every_pixel_by_eps_up_or_down() -> None:
    x = torch.full((4, 3, 16, 16), 0.5, dtype=torch.float64)
    delta = advlib.noise(x, 0.125, distribution="sign") - x
    assert set(delta.unique().tolist()) == {-0.125, 0.125}
    assert float((delta > 0).double().mean()) == pytest.approx(0.5, abs=5 * 0.5 / 3072**0.5)


def test_noise_in_l2_and_l1_has_the_length_of_a_random_point() -> None:
    x = torch.full((50, 100), 0.5)
    for norm in ("l2", "l1"):
        length = threats.norm(advlib.noise(x, 0.4, norm=norm) - x, norm) / 0.4
        # In 100 dimensions nearly all of the ball is near its surface: radius**100 is uniform.
        assert float((length**100).mean()) == pytest.approx(0.5, abs=5 * 0.29 / 50**0.5)


@pytest.mark.parametrize("distribution", ["normal", "Sign", None, "sign-l2"])
def test_noise_of_an_unknown_kind_is_refused(distribution: str | None) -> None:
    norm = "linf"
    if distribution == "sign-l2":
        distribution, norm = "sign", "l2"
    with pytest.raises(ThreatError, match='distribution is .*"uniform", or "sign"'):
        advlib.noise(torch.zeros(1, 4), 0.1, norm=norm, distribution=distribution)


# -- determinism and randomness --------------------------------------------------------------


@given(seed=seeds, norm=norms)
def test_the_generator_alone_decides(seed: int, norm: str) -> None:
    x, y = data(5)
    model = MODELS["conv"].double()

    def attack(generator: torch.Generator | None) -> list[Tensor]:
        options = {"norm": norm, "generator": generator}
        return [
            advlib.pgd(model, x, y, BUDGET[norm], steps=2, **options),
            advlib.noise(x, BUDGET[norm], **options),
        ]

    one, same = (
        attack(torch.Generator().manual_seed(seed)),
        attack(torch.Generator().manual_seed(seed)),
    )
    other = attack(torch.Generator().manual_seed(seed + 1))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    none, again = attack(None), attack(None)
    assert all(torch.equal(a, b) for a, b in zip(none, again, strict=True))
    model.float()


def test_without_a_generator_the_seed_is_0_each_time() -> None:
    x, y = data(5)
    x = x.float()
    zero = torch.Generator().manual_seed(0)
    assert torch.equal(advlib.noise(x, 0.1), advlib.noise(x, 0.1, generator=zero))
    zero = torch.Generator().manual_seed(0)
    assert torch.equal(
        advlib.pgd(MODELS["mlp"], x, y, 0.1, steps=2),
        advlib.pgd(MODELS["mlp"], x, y, 0.1, steps=2, generator=zero),
    )


def test_a_generator_moves_on_from_call_to_call() -> None:
    x, y = data(5)
    generator = torch.Generator().manual_seed(0)
    first = advlib.pgd(MODELS["mlp"], x.float(), y, 0.1, steps=1, generator=generator)
    second = advlib.pgd(MODELS["mlp"], x.float(), y, 0.1, steps=1, generator=generator)
    assert not torch.equal(first, second)


def visits(model: nn.Module, x: Tensor, y: Tensor, **options) -> dict[tuple[int, int], tuple]:
    """Every point that PGD visits, with its loss."""
    seen: dict[tuple[int, int], tuple] = {}

    def keep(restart: int, step: int, x_adv: Tensor, loss: Tensor) -> None:
        seen[restart, step] = (x_adv.clone(), loss.clone())

    advlib.pgd(model, x, y, on_step=keep, **options)
    return seen


@pytest.mark.parametrize("norm", NORMS)
def test_random_starts_are_points_of_the_ball_and_new_each_time(norm: str) -> None:
    x, y = data(6)
    x = 0.5 + 0 * x.float()  # in the middle, where the box cuts nothing
    seen = visits(MODELS["mlp"], x, y, eps=0.3, norm=norm, steps=1, restarts=3)
    starts = [seen[restart, 0][0] - x for restart in range(3)]
    expected = torch.Generator().manual_seed(0)
    for start in starts:
        point = threats.random_point(x, 0.3, norm, expected)
        np.testing.assert_allclose(start, point, atol=1e-6)
    seen = visits(MODELS["mlp"], x, y, eps=0.3, norm=norm, steps=1, random_start=False)
    assert torch.equal(seen[0, 0][0], x)


# -- the batch -------------------------------------------------------------------------------


@given(seed=seeds, norm=norms, early_stop=st.booleans(), n=st.integers(2, 6))
def test_permuting_the_batch_permutes_the_result(seed, norm, early_stop, n) -> None:
    x, y = data(seed, n)
    model = MODELS["mlp"].double()
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    options = {"norm": norm, "steps": 4, "random_start": False, "early_stop": early_stop}
    whole = advlib.pgd(model, x, y, BUDGET[norm], **options)
    mixed = advlib.pgd(model, x[order], y[order], BUDGET[norm], **options)
    np.testing.assert_allclose(mixed, whole[order], atol=1e-9)
    whole = advlib.fgsm(model, x, y, BUDGET[norm], norm=norm)
    mixed = advlib.fgsm(model, x[order], y[order], BUDGET[norm], norm=norm)
    np.testing.assert_allclose(mixed, whole[order], atol=1e-9)
    model.float()


@given(seed=seeds, norm=norms, early_stop=st.booleans(), cut=st.integers(0, 6))
def test_attacking_in_two_halves_equals_attacking_whole(seed, norm, early_stop, cut) -> None:
    x, y = data(seed, 6)
    model = MODELS["mlp"].double()
    options = {"norm": norm, "steps": 4, "random_start": False, "early_stop": early_stop}
    whole = advlib.pgd(model, x, y, BUDGET[norm], **options)
    parts = ((x[:cut], y[:cut]), (x[cut:], y[cut:]))
    halves = [advlib.pgd(model, *part, BUDGET[norm], **options) for part in parts]
    np.testing.assert_allclose(torch.cat(halves), whole, atol=1e-9)
    whole = advlib.fgsm(model, x, y, BUDGET[norm], norm=norm)
    halves = [advlib.fgsm(model, *part, BUDGET[norm], norm=norm) for part in parts]
    np.testing.assert_allclose(torch.cat(halves), whole, atol=1e-9)
    model.float()


# -- the best of all points visited ----------------------------------------------------------


def rank(model: nn.Module, x: Tensor, y: Tensor, targeted: bool = False) -> list[tuple]:
    """Success first, then loss, for each image."""
    logits = model(x).detach()
    loss = nn.functional.cross_entropy(logits, y, reduction="none")
    success = (logits.argmax(1) == y) == targeted
    return list(zip(success.tolist(), (-loss if targeted else loss).tolist(), strict=True))


@given(seed=seeds, norm=norms, targeted=st.booleans(), share=st.floats(0.05, 1.2))
def test_more_steps_of_the_same_size_never_give_a_worse_result(seed, norm, targeted, share) -> None:
    x, y = data(seed, 3)
    model = MODELS["mlp"].double()
    eps = share * BUDGET[norm]
    before = rank(model, x, y, targeted)
    for steps in (1, 2, 3, 5, 8):
        options = {"steps": steps, "step_size": 0.6 * eps, "random_start": False}
        x_adv = advlib.pgd(model, x, y, eps, norm=norm, targeted=targeted, **options)
        now = rank(model, x_adv, y, targeted)
        for (old_success, old_loss), (success, loss) in zip(before, now, strict=True):
            assert (success, loss + 1e-9) >= (old_success, old_loss)
        before = now
    model.float()


@given(seed=seeds, norm=norms, targeted=st.booleans())
def test_more_restarts_never_give_a_worse_result(seed, norm, targeted) -> None:
    x, y = data(seed, 3)
    model = MODELS["mlp"].double()
    before = None
    for restarts in (1, 2, 4):
        options = {"steps": 2, "restarts": restarts, "norm": norm, "targeted": targeted}
        now = rank(model, advlib.pgd(model, x, y, BUDGET[norm], **options), y, targeted)
        for (old_success, old_loss), (success, loss) in zip(before or [], now, strict=False):
            assert (success, loss + 1e-9) >= (old_success, old_loss)
        before = now
    model.float()


@given(seed=seeds, norm=norms, targeted=st.booleans(), loss=st.sampled_from(["ce", "margin"]))
def test_the_result_is_the_best_of_the_points_that_were_visited(seed, norm, targeted, loss) -> None:
    x, y = data(seed, 4)
    model = MODELS["mlp"].double()
    kept: list[tuple[Tensor, Tensor]] = []
    x_adv = advlib.pgd(
        model,
        x,
        y,
        BUDGET[norm],
        norm=norm,
        targeted=targeted,
        loss=loss,
        steps=3,
        restarts=2,
        on_step=lambda restart, step, x_adv, value: kept.append((x_adv.clone(), value.clone())),
    )
    assert len(kept) == 8
    sign = -1 if targeted else 1
    for i in range(4):
        ranks = [
            (bool((model(p[i : i + 1]).argmax(1) == y[i]) == targeted), sign * float(v[i]))
            for p, v in kept
        ]
        best = kept[max(range(8), key=lambda k: ranks[k])][0]
        np.testing.assert_allclose(x_adv[i], best[i], atol=1e-12)
    model.float()


def test_the_best_point_is_returned_and_not_the_last() -> None:
    """One pixel on its way up and down across the top of the loss at 0.55."""

    def model(x: Tensor) -> Tensor:
        return torch.cat([10 * (x - 0.52) ** 2, 0 * x], 1)

    x, y = torch.tensor([[0.40]], dtype=torch.float64), torch.tensor([0])
    for steps in (1, 2, 3, 4):
        options = {"steps": steps, "step_size": 0.15, "random_start": False}
        x_adv = advlib.pgd(model, x, y, 0.3, **options)
        assert x_adv.item() == pytest.approx(0.55)
        assert advlib.pgd(model, x, y, 0.3, norm="l2", **options).item() == pytest.approx(0.55)
        assert advlib.pgd(model, x, y, 0.3, norm="l1", **options).item() == pytest.approx(0.55)


def test_the_start_counts_as_a_point_visited() -> None:
    """Every step from the top of the loss leads down."""

    def model(x: Tensor) -> Tensor:
        return torch.cat([(x - 0.5).abs(), 0 * x], 1)

    x, y = torch.tensor([[0.5001]], dtype=torch.float64), torch.tensor([0])
    x_adv = advlib.pgd(model, x, y, 0.3, steps=3, step_size=0.1, random_start=False)
    assert x_adv.item() == 0.5001


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("early_stop", [False, True])
def test_success_comes_before_loss(targeted: bool, early_stop: bool) -> None:
    """The pixel is fooled between 0.41 and 0.59 only; the loss grows all the way up."""

    def model(x: Tensor) -> Tensor:
        return torch.cat([100 * (x - 0.5) ** 2 - 0.9, 0 * x, x - 50], 1)

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        return -logits[:, 2] if targeted else logits[:, 2]

    x, y = torch.tensor([[0.3]], dtype=torch.float64), torch.tensor([1 if targeted else 0])
    x_adv = advlib.pgd(
        model,
        x,
        y,
        0.6,
        steps=12,
        step_size=0.05,
        random_start=False,
        targeted=targeted,
        loss=loss,
        early_stop=early_stop,
    )
    assert (model(x_adv).argmax(1) == 1).all()
    # Of the fooled points the one with the highest loss; stopped early, the first.
    assert x_adv.item() == pytest.approx(0.45 if early_stop else 0.55, abs=1e-6)


# -- goals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_a_targeted_attack_reaches_its_target_where_it_can(norm: str, loss: str) -> None:
    model, x = reference.linear(75, classes=4), data(7, 8)[0].float()
    eps = {"linf": 0.4, "l2": 3.0, "l1": 25.0}[norm]
    for target in range(4):
        y = torch.full((8,), target)
        options = {"norm": norm, "targeted": True, "loss": loss}
        assert (model(x).argmax(1) == y).float().mean() < 1
        x_adv = advlib.pgd(model, x, y, eps, steps=20, **options)
        assert torch.equal(model(x_adv).argmax(1), y)
        here = advlib.input_gradient(model, x, y, loss=loss).loss
        there = advlib.input_gradient(model, advlib.fgsm(model, x, y, eps, **options), y, loss=loss)
        assert bool((there.loss < here).all())


@pytest.mark.parametrize("norm", NORMS)
def test_attacks_raise_the_loss_more_than_noise_does(norm: str) -> None:
    x, y = data(8, 8)
    x, model, eps = x.float(), MODELS["conv"], 0.5 * BUDGET[norm]

    def loss(x: Tensor) -> float:
        return float(advlib.input_gradient(model, x, y).loss.mean())

    noisy = loss(advlib.noise(x, eps, norm=norm))
    one = loss(advlib.fgsm(model, x, y, eps, norm=norm))
    many = loss(advlib.pgd(model, x, y, eps, norm=norm, steps=20))
    assert loss(x) < one and noisy < one
    # Success comes before loss, so that the mean loss may be a little lower.
    assert many - loss(x) > 0.9 * (one - loss(x))


def test_on_a_linear_model_fgsm_is_the_best_there_is() -> None:
    """PGD cannot beat it, and the loss rises by what the dual norm says."""
    generator = torch.Generator().manual_seed(0)
    model = reference.linear(75, classes=2).double()
    x, y = 0.3 + 0.4 * torch.rand(6, 75, generator=generator).double(), reference.classes(6, 2)
    for norm in NORMS:
        eps = 0.1
        here = advlib.input_gradient(model, x, y, loss="margin")
        x_adv = advlib.fgsm(model, x, y, eps, norm=norm)
        there = advlib.input_gradient(model, x_adv, y, loss="margin").loss
        np.testing.assert_allclose(
            there - here.loss, eps * threats.dual_norm(here.grad, norm), rtol=1e-9
        )
        many = advlib.pgd(model, x, y, eps, norm=norm, steps=20)
        assert bool(
            (advlib.input_gradient(model, many, y, loss="margin").loss <= there + 1e-9).all()
        )


# -- work done -------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("steps", "restarts"), [(1, 1), (4, 1), (3, 2)])
def test_pgd_takes_exactly_the_steps_it_is_asked_for(norm, steps, restarts) -> None:
    x, y = data()
    model = Counter(MODELS["mlp"])
    calls = []

    def look(restart: int, step: int, x_adv: Tensor, loss: Tensor) -> None:
        calls.append((restart, step))
        assert loss.shape == (N,) and not loss.requires_grad and not x_adv.requires_grad
        expected = advlib.input_gradient(MODELS["mlp"], x_adv, y).loss
        np.testing.assert_allclose(loss, expected, rtol=1e-4, atol=1e-6)

    options = {"norm": norm, "steps": steps, "restarts": restarts, "on_step": look}
    advlib.pgd(model, x.float(), y, 0.01, **options)
    assert model.backwards == steps * restarts
    assert model.forwards == (steps + 1) * restarts
    assert calls == [(r, s) for r in range(restarts) for s in range(steps + 1)]


def test_pgd_asks_the_model_nothing_when_there_is_no_budget() -> None:
    x, y = data()
    model = Counter(MODELS["mlp"])
    assert torch.equal(advlib.pgd(model, x.float(), y, 0.0), x.float())
    assert model.forwards == 0


def test_the_best_of_all_points_is_returned_not_the_last() -> None:
    def model(x: Tensor) -> Tensor:
        return torch.cat([10 * (x - 0.52) ** 2, 0 * x], 1)

    x, y = torch.tensor([[0.40]], dtype=torch.float64), torch.tensor([0])
    options = {"steps": 2, "step_size": 0.15, "random_start": False}
    visited = []
    x_adv = advlib.pgd(model, x, y, 0.3, **options, on_step=lambda *point: visited.append(point[2]))
    assert x_adv.item() == pytest.approx(0.55) and visited[-1].item() == pytest.approx(0.40)


def test_what_on_step_does_to_its_image_changes_nothing() -> None:
    x, y = data()
    plain = advlib.pgd(MODELS["mlp"], x.float(), y, 0.1, steps=3)
    erased = advlib.pgd(
        MODELS["mlp"], x.float(), y, 0.1, steps=3, on_step=lambda *point: point[2].zero_()
    )
    assert torch.equal(plain, erased)


def test_fgsm_takes_one_step() -> None:
    x, y = data()
    model = Counter(MODELS["mlp"])
    advlib.fgsm(model, x.float(), y, 0.1)
    assert (model.forwards, model.backwards) == (1, 1)


@pytest.mark.parametrize("norm", NORMS)
def test_the_default_step_is_two_and_a_half_times_the_radius_over_the_steps(norm: str) -> None:
    """On a linear slope each step goes on where the last one ended, as far as it may."""
    model = reference.linear(75, classes=2).double()
    x, y = torch.full((1, 75), 0.5, dtype=torch.float64), torch.tensor([0])
    seen = visits(model, x, y, eps=0.1, norm=norm, steps=10, random_start=False)
    lengths = [float(threats.norm(seen[0, step][0] - x, norm)) for step in range(11)]
    expected = [min(0.025 * step, 0.1) for step in range(11)]
    np.testing.assert_allclose(lengths, expected, atol=1e-9)


def test_a_step_longer_than_the_box_is_as_good_as_one_across_it() -> None:
    x, y = data()
    x = x.float()
    for norm in NORMS:
        x_adv = advlib.pgd(MODELS["mlp"], x, y, 0.1, norm=norm, steps=2, step_size=1e300)
        assert_inside(x, x_adv, 0.1, norm)
    for eps in (1.0, 1e3):
        wide = advlib.pgd(MODELS["mlp"], x, y, eps, steps=2)
        assert torch.equal(wide, advlib.pgd(MODELS["mlp"], x, y, 1.0, steps=2))


@given(seed=seeds, norm=norms, targeted=st.booleans(), share=st.floats(0.05, 1))
def test_stopping_early_has_the_same_success(seed, norm, targeted, share) -> None:
    x, y = data(seed, 6)
    model = MODELS["mlp"].double()
    options = {"norm": norm, "targeted": targeted, "steps": 5, "random_start": False}
    eps = share * BUDGET[norm]
    patient = rank(model, advlib.pgd(model, x, y, eps, **options), y, targeted)
    hasty = rank(model, advlib.pgd(model, x, y, eps, early_stop=True, **options), y, targeted)
    assert [success for success, _ in hasty] == [success for success, _ in patient]
    model.float()


def test_stopping_early_spares_the_work() -> None:
    x, y = data(9, 12)
    x = x.float()
    model = Counter(MODELS["mlp"])
    y = torch.where(torch.arange(12) < 6, MODELS["mlp"](x).argmax(1), y)
    seen = []

    def look(restart: int, step: int, x_adv: Tensor, loss: Tensor) -> None:
        assert len(x_adv) == len(loss)
        seen.append(len(x_adv))

    options = {"steps": 6, "restarts": 2, "early_stop": True, "on_step": look}
    x_adv = advlib.pgd(model, x, y, 0.05, **options)
    fooled = MODELS["mlp"](x_adv).argmax(1) != y
    assert model.rows == seen
    assert int(fooled.sum()) > 0
    assert seen == sorted(seen, reverse=True) and seen[-1] < 12
    assert len(seen) < 14 or seen[-1] >= int((~fooled).sum())
    # Once everything is fooled, nothing more is asked of the model.
    model = Counter(MODELS["mlp"])
    wrong = (MODELS["mlp"](x).argmax(1) + 1) % 3
    x_adv = advlib.pgd(model, x, wrong, 0.05, steps=6, random_start=False, early_stop=True)
    assert model.forwards == 1 and torch.equal(x_adv, x)


def test_images_already_fooled_are_left_out_of_the_next_restart() -> None:
    x, y = data(9, 4)
    x = x.float()
    y[:2] = (MODELS["mlp"](x).argmax(1)[:2] + 1) % 3  # wrong from the start
    y[2:] = MODELS["mlp"](x).argmax(1)[2:]
    model = Counter(MODELS["mlp"])
    advlib.pgd(model, x, y, 1e-6, steps=2, restarts=3, early_stop=True)
    assert model.rows == [4, 2, 2, 2, 2, 2, 2, 2, 2]


# -- directions ------------------------------------------------------------------------------


def test_an_l1_step_moves_the_pixels_that_matter_most_as_far_as_they_go() -> None:
    model = reference.linear(100, classes=2).double()
    x, y = torch.full((1, 100), 0.5, dtype=torch.float64), torch.tensor([0])
    x_adv = advlib.pgd(model, x, y, 3.0, norm="l1", steps=1, step_size=1.2, random_start=False)
    grad = advlib.input_gradient(model, x, y).grad[0]
    top = grad.abs().topk(3).indices
    expected = torch.zeros(100, dtype=torch.float64)
    expected[top] = grad[top].sign() * torch.tensor([0.5, 0.5, 0.2], dtype=torch.float64)
    np.testing.assert_allclose((x_adv - x)[0], expected, atol=1e-6)


def test_many_l1_steps_beat_one() -> None:
    x, y = data(9, 32)
    one = advlib.fgsm(MODELS["mlp"], x.float(), y, 1.0, norm="l1")
    many = advlib.pgd(MODELS["mlp"], x.float(), y, 1.0, norm="l1", steps=20)
    losses = [nn.functional.cross_entropy(MODELS["mlp"](p), y).item() for p in (one, many)]
    assert losses[1] >= losses[0]


def test_an_l1_step_passes_over_pixels_that_cannot_move_on() -> None:
    def model(x: Tensor) -> Tensor:
        slope = torch.tensor([8.0, -7.0, 6.0, -5.0, 4.0], dtype=x.dtype)
        return torch.stack([-(x * slope).sum(1), 0 * x.sum(1)], 1)

    x = torch.tensor([[1.0, 0.0, 0.0, 1.0, 0.5]], dtype=torch.float64)
    x_adv = advlib.pgd(
        model, x, torch.tensor([0]), 0.5, norm="l1", steps=1, step_size=0.25, random_start=False
    )
    np.testing.assert_allclose(x_adv - x, [[0, 0, 0.25, 0, 0]], atol=1e-9)


def test_an_l1_step_moves_at_least_one_pixel() -> None:
    model = reference.linear(4, classes=2).double()
    x, y = torch.full((2, 4), 0.5, dtype=torch.float64), torch.tensor([0, 1])
    x_adv = advlib.pgd(model, x, y, 0.1, norm="l1", steps=1, random_start=False)
    assert (x_adv != x).sum(1).tolist() == [1, 1]


def test_nan_at_the_last_point_is_no_success() -> None:
    calls = []

    def model(x: Tensor) -> Tensor:
        calls.append(1)
        logits = MODELS["mlp"](x)
        return logits * torch.nan if len(calls) == 3 else logits

    x, y = data(9, 4)
    with pytest.raises(ModelOutputError, match="NaN"):
        advlib.pgd(model, x.float(), y, 0.01, steps=2)


# -- regions -------------------------------------------------------------------------------------


@given(
    shape=small,
    seed=seeds,
    norm=norms,
    dtype=st.sampled_from(DTYPES),
    eps=radii,
    targeted=st.booleans(),
    share=st.sampled_from([0.0, 0.2, 0.5, 1.0]),
)
def test_outside_the_region_nothing_changes(shape, seed, norm, dtype, eps, targeted, share) -> None:
    x = reference.images(*shape, seed=seed).to(dtype)
    y, model = reference.classes(shape[0], seed=seed), reference.mlp(12, seed=seed % 7).to(dtype)
    eps = min(eps, 1e4) if dtype == torch.float16 else eps
    where = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < share
    options = {"norm": norm, "targeted": targeted, "where": where}
    kind = "sign" if norm == "linf" else "uniform"
    for x_adv in (
        advlib.noise(x, eps, norm=norm, where=where),
        advlib.noise(x, eps, distribution=kind, norm=norm, where=where),
        advlib.fgsm(model, x, y, eps, **options),
        advlib.pgd(model, x, y, eps, steps=3, **options),
        advlib.pgd(model, x, y, eps, steps=2, random_start=False, step_size=0.7, **options),
        advlib.pgd(model, x, y, eps, steps=2, restarts=2, early_stop=True, **options),
    ):
        assert_inside(x, x_adv, eps, norm)
        assert torch.equal(x_adv[~where], x[~where])


@pytest.mark.parametrize("norm", NORMS)
def test_a_region_holds_against_a_budget_that_overflows(norm: str, device) -> None:
    x, y = (part.to(device) for part in data(3, 6))
    x = x.float()  # whose largest number is 3e38
    model, where = copy.deepcopy(MODELS["mlp"]).to(device), torch.zeros_like(x).bool()
    for x_adv in (
        advlib.fgsm(model, x, y, 1e300, norm=norm, where=where),
        advlib.pgd(model, x, y, 1e300, norm=norm, where=where, steps=2),
        advlib.noise(x, 1e300, norm=norm, where=where),
    ):
        assert torch.equal(x_adv, x)


@pytest.mark.parametrize("early_stop", [False, True])
@pytest.mark.parametrize("norm", NORMS)
def test_a_region_attacks_the_model_that_sees_only_those_pixels(norm, early_stop, device) -> None:
    """The same attack on a model of the free values alone gives the same images."""
    x, y = data(3, 6)
    x = x.flatten(1)
    where = torch.rand(75, generator=torch.Generator().manual_seed(1)) < 0.4
    model = copy.deepcopy(MODELS["mlp"]).double().to(device)
    x, y, where = x.to(device), y.to(device), where.to(device)
    options = {"norm": norm, "steps": 5, "random_start": False, "early_stop": early_stop}

    for index in range(len(x)):
        whole = x[index : index + 1]

        def part(values: Tensor, whole: Tensor = whole) -> Tensor:
            filled = whole.repeat(len(values), 1)
            filled[:, where] = values
            return model(filled)

        label = y[index : index + 1]
        got = advlib.pgd(model, whole, label, BUDGET[norm], where=where, **options)
        small = advlib.pgd(part, whole[:, where], label, BUDGET[norm], **options)
        np.testing.assert_allclose(got[:, where].cpu(), small.cpu(), atol=1e-9)
        got = advlib.fgsm(model, whole, label, BUDGET[norm], norm=norm, where=where)
        small = advlib.fgsm(part, whole[:, where], label, BUDGET[norm], norm=norm)
        np.testing.assert_allclose(got[:, where].cpu(), small.cpu(), atol=1e-9)


def test_each_image_keeps_its_own_region_when_others_are_done() -> None:
    x, y = data(9, 12)
    x = x.float()
    y = torch.where(torch.arange(12) < 6, MODELS["mlp"](x).argmax(1), y)
    where = torch.rand(12, 1, 5, 5, generator=torch.Generator().manual_seed(2)) < 0.5
    options = {"steps": 6, "random_start": False, "early_stop": True}
    whole = advlib.pgd(MODELS["mlp"], x, y, 0.1, where=where, **options)
    for i in range(12):
        one = slice(i, i + 1)
        alone = advlib.pgd(MODELS["mlp"], x[one], y[one], 0.1, where=where[one], **options)
        np.testing.assert_allclose(whole[one], alone, atol=1e-6)
    assert torch.equal(whole[~where.expand_as(x)], x[~where.expand_as(x)])


@pytest.mark.parametrize("norm", NORMS)
def test_a_region_of_everything_changes_nothing(norm: str) -> None:
    x, y = data(4)
    x, model = x.float(), MODELS["conv"]
    for region in (torch.ones(5, 5), torch.tensor(True), torch.ones(N, 1, 5, 5, dtype=torch.int64)):
        for attack in (
            lambda **o: advlib.noise(x, BUDGET[norm], norm=norm, **o),
            lambda **o: advlib.fgsm(model, x, y, BUDGET[norm], norm=norm, **o),
            lambda **o: advlib.pgd(model, x, y, BUDGET[norm], norm=norm, steps=3, **o),
        ):
            assert torch.equal(attack(where=region), attack())


def test_a_region_that_does_not_fit_is_refused() -> None:
    x, y = data(4, 2)
    x, model = x.float(), MODELS["mlp"]
    for where, words in (
        (torch.ones(2, 5, 5), "where\\[:, None\\]"),
        (0.5 * torch.ones(5), "0 and 1"),
    ):
        for attack in (
            lambda where: advlib.noise(x, 0.1, where=where),
            lambda where: advlib.fgsm(model, x, y, 0.1, where=where),
            lambda where: advlib.pgd(model, x, y, 0.1, where=where),
        ):
            with pytest.raises(ThreatError, match=words):
                attack(where)
