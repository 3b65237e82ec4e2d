"""Auto-PGD: what it promises, its schedule, and that it finds at least what PGD finds."""

import copy
from collections.abc import Callable
from functools import partial

import pytest
import reference
import torch
from cases import DTYPES, assert_inside, radii, shapes
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import advlib
from advlib.attacks.autopgd import _Checkpoints, apgd, apgd_over_classes, dlr
from advlib.data import signs
from advlib.errors import LabelError, ModelOutputError, PixelError, ThreatError
from advlib.gradients import cross_entropy, margin

RANDOM_STATE_IS_WATCHED = True

SHAPE = (3, 5, 5)
BUDGET = {"linf": 0.1, "l2": 0.5, "l1": 2.0}
norms = st.sampled_from(("linf", "l2", "l1"))
seeds = st.integers(0, 2**31)


def right(model: nn.Module, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images with the classes that `model` gives them."""
    x = reference.images(n, *SHAPE, seed=seed, ends=0.1).float()
    return x, model(x).argmax(1)


def small(classes: int = 5, seed: int = 0, scale: float = 3.0) -> nn.Module:
    return reference.mlp(75, classes, seed, scale).float()


class Witness(nn.Module):
    """Writes down which images it is shown, and how many at a time."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.rows: list[int] = []
        self.asked: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.rows.append(len(x))
        self.asked.append(x.detach().clone())
        return self.model(x)


class OneByOne(nn.Module):
    """Each image alone: its logits are the same to the last bit, whatever stands beside it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.model(one) for one in x.split(1)])


# -- ball and box ----------------------------------------------------------------------------


@given(
    shape=shapes,
    norm=norms,
    seed=seeds,
    eps=radii,
    dtype=st.sampled_from(DTYPES),
    loss=st.sampled_from(["ce", "margin", "dlr"]),
    targeted=st.booleans(),
)
def test_the_result_lies_in_ball_and_box(shape, norm, seed, eps, dtype, loss, targeted) -> None:
    x = reference.images(*shape, seed=seed).to(dtype)
    y, model = reference.classes(len(x), 5, seed), reference.mlp(x[0].numel(), 5, seed % 7)
    eps = min(eps, 1e4) if dtype == torch.float16 else eps
    before = x.clone(), y.clone()
    options = {"norm": norm, "steps": 5, "restarts": 2, "loss": loss, "early_stop": False}
    x_adv = apgd(model.to(dtype), x, y, eps, targeted=targeted, **options)
    assert_inside(x, x_adv, eps, norm)
    assert x_adv.data_ptr() != x.data_ptr() and not x_adv.requires_grad
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])


@given(
    shape=shapes,
    norm=norms,
    seed=seeds,
    eps=radii,
    dtype=st.sampled_from(DTYPES),
    loss=st.sampled_from(["margin", "dlr"]),
)
def test_the_result_over_classes_lies_in_ball_and_box(shape, norm, seed, eps, dtype, loss) -> None:
    x = reference.images(*shape, seed=seed).to(dtype)
    y, model = reference.classes(len(x), 5, seed), reference.mlp(x[0].numel(), 5, seed % 7)
    eps = min(eps, 1e4) if dtype == torch.float16 else eps
    before = x.clone(), y.clone()
    options = {"norm": norm, "steps": 3, "loss": loss, "classes": 2}
    x_adv = apgd_over_classes(model.to(dtype), x, y, eps, **options)
    assert_inside(x, x_adv, eps, norm)
    assert x_adv.data_ptr() != x.data_ptr() and not x_adv.requires_grad
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_on_black_images_in_half_precision_the_ball_is_kept(norm: str, dtype) -> None:
    """There the sum is exact, and what the perturbation was rounded up by stays."""
    model = small().to(dtype)
    x, y = torch.zeros(8, *SHAPE, dtype=dtype), reference.classes(8, 5)
    x_adv = apgd(model, x, y, 0.25, norm=norm, steps=5, early_stop=False)
    assert_inside(x, x_adv, 0.25, norm)


def test_no_images_and_no_budget_give_the_images_back() -> None:
    model = small()
    x, y = right(model, 3)
    assert apgd(model, x[:0], y[:0]).shape == x[:0].shape
    assert apgd_over_classes(model, x[:0], y[:0]).shape == x[:0].shape
    assert torch.equal(apgd(model, x, y, 0.0), x)


# -- what it finds ------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", BUDGET)
@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_it_finds_what_pgd_finds(norm: str, loss: str) -> None:
    """A narrow, curved model; over 60 images it may miss one that PGD finds by luck."""
    model = small(scale=6.0)
    x, y = right(model, 60)
    options = {"norm": norm, "steps": 20, "loss": loss}
    eps = BUDGET[norm] / 2
    fooled = [
        (model(attack(model, x, y, eps, **options)).argmax(1) != y).sum().item()
        for attack in (advlib.pgd, apgd)
    ]
    assert 0 < fooled[0] < 60
    assert fooled[1] >= fooled[0] - 1


def test_on_the_robust_sign_model_it_is_at_least_as_strong_as_pgd() -> None:
    model = advlib.models.load("signs-robust")
    x, y = signs.render(24, seed=77)
    standing = []
    for attack in (advlib.pgd, apgd):
        x_adv = attack(model, x, y, 8 / 255, steps=8, loss="margin", early_stop=True)
        standing.append(int((model(x_adv).argmax(1) == y).sum()))
    assert standing[1] <= standing[0] < 24


def test_a_target_is_reached() -> None:
    model = small()
    x, y = right(model, 20)
    targets = (y + 1) % 5
    x_adv = apgd(model, x, targets, 0.5, targeted=True, steps=20)
    assert (model(x_adv).argmax(1) == targets).float().mean() > 0.8


def test_large_logits_hide_nothing_from_the_scale_free_loss() -> None:
    plain = small()
    x, y = right(plain, 40)
    loud = nn.Sequential(copy.deepcopy(plain))
    loud[0][-1].weight.data *= 1000
    loud[0][-1].bias.data *= 1000
    options = {"steps": 10, "loss": "dlr"}
    fooled = [int((m(apgd(m, x, y, 0.1, **options)).argmax(1) != y).sum()) for m in (plain, loud)]
    assert fooled[0] == fooled[1] > 0


class OnlyOneGivesWay(nn.Module):
    """Class 1 is closest at the image and cannot win; class 2 is far away and can.

    The logits are 1, a bounded bump that stays below 1, and a slope that starts low.
    """

    def forward(self, x: Tensor) -> Tensor:
        far = x.flatten(1).mean(1)
        zeros = torch.zeros_like(far)
        return torch.stack([zeros + 1, 0.95 - (far - 0.2).abs() / 4, 6 * far - 4, zeros - 5], 1)


@pytest.mark.parametrize("loss", ["margin", "dlr"])
def test_another_class_than_the_nearest_is_tried(loss: str) -> None:
    model = OnlyOneGivesWay()
    x, y = torch.full((3, 1, 4, 4), 0.2), torch.zeros(3, dtype=torch.long)
    nearest = apgd(model, x, y, 0.7, loss=loss, steps=10)
    assert (model(nearest).argmax(1) == y).all()
    each = apgd_over_classes(model, x, y, 0.7, loss=loss, steps=10, classes=2)
    assert (model(each).argmax(1) == 2).all()
    one = apgd_over_classes(model, x, y, 0.7, loss=loss, steps=10, classes=1)
    assert (model(one).argmax(1) == y).all()


def test_the_nearest_classes_are_tried_first() -> None:
    def model(x: Tensor) -> Tensor:
        near = 4 * x.flatten(1).mean(1)
        zeros = torch.zeros_like(near)
        return torch.stack([zeros + 1, zeros - 9, near, zeros - 5], 1)

    x, y = torch.full((3, 1, 4, 4), 0.2), torch.zeros(3, dtype=torch.long)
    x_adv = apgd_over_classes(model, x, y, 0.2, steps=5, classes=1)
    assert (model(x_adv).argmax(1) == 2).all()


def test_without_early_stop_the_loss_is_driven_further() -> None:
    model = small()
    x, y = right(model, 20)
    early, late = (apgd(model, x, y, 0.3, early_stop=stop) for stop in (True, False))
    assert cross_entropy(model(late), y).mean() > cross_entropy(model(early), y).mean() + 0.1
    assert ((model(early).argmax(1) != y) == (model(late).argmax(1) != y)).all()


def ranks(model: nn.Module, x: Tensor, y: Tensor, targeted: bool) -> list[tuple[bool, float]]:
    """Success first, then loss, for each image."""
    logits = model(x).detach()
    loss = cross_entropy(logits, y) * (-1 if targeted else 1)
    return list(zip(((logits.argmax(1) == y) == targeted).tolist(), loss.tolist(), strict=True))


@given(norms, seeds, st.booleans(), st.floats(0.05, 1.2))
def test_the_result_is_the_best_of_the_points_that_were_visited(
    norm: str, seed: int, targeted: bool, share: float
) -> None:
    model = small(seed=seed % 7).double()
    x = reference.images(3, *SHAPE, seed=seed, ends=0.1)
    y = reference.classes(3, 5, seed)
    witness = Witness(model)
    options = {"norm": norm, "targeted": targeted, "steps": 6, "restarts": 2}
    eps = share * BUDGET[norm]
    result = ranks(model, apgd(witness, x, y, eps, early_stop=False, **options), y, targeted)
    assert len(witness.asked) == 2 * 7
    for asked in witness.asked:
        assert float(asked.amin()) >= 0 and float(asked.amax()) <= 1
        assert float(advlib.threats.norm(asked - x, norm).max()) <= eps * (1 + 1e-5)
    visited = [ranks(model, asked, y, targeted) for asked in witness.asked]
    for got, *points in zip(result, *visited, strict=True):
        best = max(points)
        assert got[0] == best[0] and got[1] == pytest.approx(best[1], abs=1e-6)


def test_a_point_that_fools_counts_more_than_one_with_a_higher_loss() -> None:
    def model(x: Tensor) -> Tensor:
        """Wrong around 0.55 only; the third logit, which never wins, grows all the way."""
        return torch.cat([0 * x, 0.1 - 10 * (x - 0.55).abs(), x - 100], 1)

    x, y = torch.full((1, 1), 0.55), torch.tensor([0])
    x_adv = apgd(model, x, y, 0.3, steps=4, loss=lambda z, y: z[:, 2], early_stop=False)
    assert model(x_adv).argmax(1).item() == 1


@given(norms, seeds, st.booleans(), st.floats(0.05, 1.2))
def test_more_restarts_never_give_a_worse_result(
    norm: str, seed: int, targeted: bool, share: float
) -> None:
    model = small(seed=seed % 7).double()
    x = reference.images(3, *SHAPE, seed=seed, ends=0.1)
    y = reference.classes(3, 5, seed)
    before = ranks(model, x, y, targeted)
    for restarts in (1, 2, 4):
        options = {"norm": norm, "targeted": targeted, "restarts": restarts, "early_stop": False}
        x_adv = apgd(model, x, y, share * BUDGET[norm], steps=3, **options)
        now = ranks(model, x_adv, y, targeted)
        for old, new in zip(before, now, strict=True):
            assert (new[0], new[1] + 1e-6) >= old
        before = now


# -- the schedule -----------------------------------------------------------------------------


def test_the_checkpoints_are_the_papers() -> None:
    """With 100 steps AutoAttack looks at 22, 41, 57, 70, 80, 87, 93 and 99."""
    due = _Checkpoints.of(100, torch.device("cpu")).due
    assert due.nonzero().squeeze(1).tolist() == [22, 41, 57, 70, 80, 87, 93, 99]


def test_a_step_too_long_is_halved_until_the_top_is_found() -> None:
    """The loss peaks at 0.5: steps of twice the budget jump over it again and again."""

    def model(x: Tensor) -> Tensor:
        value = -((x - 0.503).square()).flatten(1).sum(1) * 50
        return torch.stack([torch.zeros_like(value) + 10, value], 1)

    x, y = torch.full((1, 1, 2, 2), 0.4), torch.zeros(1, dtype=torch.long)
    x_adv = apgd(model, x, y, 0.2, steps=60, loss="margin")
    assert (x_adv - 0.503).abs().max() < 0.01


def test_after_a_checkpoint_it_goes_on_from_the_best_point_with_half_the_step() -> None:
    """Steps of twice the budget jump over the top; the first look is after 14 of 60."""

    def value(x: Tensor) -> Tensor:
        return -50 * (x - 0.503).square().flatten(1).sum(1)

    def model(x: Tensor) -> Tensor:
        return torch.stack([torch.zeros_like(value(x)) + 10, value(x)], 1)

    witness = Witness(model)
    x = torch.full((1, 1, 1, 1), 0.4)
    apgd(witness, x, torch.zeros(1, dtype=torch.long), 0.2, steps=60, loss="margin")
    best = max(witness.asked[:15], key=lambda asked: float(value(asked)))
    aim = (best + 0.2 * (0.503 - best).sign()).clamp(0.2, 0.6)
    torch.testing.assert_close(witness.asked[15], best + 0.75 * (aim - best))
    assert not torch.equal(witness.asked[14], best)


def test_a_step_that_gains_is_never_halved() -> None:
    """Each pixel counts once the one before it has moved: a full step for each."""

    def model(x: Tensor) -> Tensor:
        value = ((x.flatten(1) - 0.5) / 0.2).cumprod(1).sum(1)
        return torch.stack([torch.zeros_like(value) + 1e3, value], 1)

    x = torch.full((1, 1, 5, 8), 0.5, dtype=torch.float64)
    x[0, 0, 0, 0] += 1e-3
    x_adv = apgd(model, x, torch.zeros(1, dtype=torch.long), 0.2, steps=45, loss="margin")
    torch.testing.assert_close(x_adv, x + 0.2, rtol=0, atol=1e-6)


def test_an_l1_step_passes_over_pixels_that_cannot_move_on() -> None:
    slope = torch.tensor([8.0, -7.0, 6.0, -5.0, 4.0])
    witness = Witness(lambda x: torch.stack([-(x * slope).sum(1), 0 * x.sum(1)], 1))
    x = torch.tensor([[1.0, 0.0, 0.2, 1.0, 0.5]])
    options = {"norm": "l1", "steps": 1, "early_stop": False}
    apgd(witness, x, torch.tensor([0]), 0.25, **options)
    expected = torch.tensor([[0, 0, 0.25, 0, 0]])
    torch.testing.assert_close(witness.asked[1] - x, expected, rtol=0, atol=1e-5)


# -- work ---------------------------------------------------------------------------------------


def test_fooled_images_cost_nothing_more_and_the_batch_is_refilled() -> None:
    model = small()
    x, y = right(model, 30)
    y[::3] = (y[::3] + 1) % 5  # fooled already
    witness = Witness(model)
    apgd(witness, x, y, 1e-6, steps=5, batch_size=10)
    # 20 images stand and take 5 steps and a last look; the others are seen once.
    assert sum(witness.rows) == 20 * 6 + 10
    assert max(witness.rows) == 10
    assert witness.rows[1] == 10  # in place of those that were fooled
    # Refilled: no more calls than full batches need, and the last round.
    assert len(witness.rows) <= -(-130 // 10) + 6


def test_the_batch_size_does_not_change_the_result() -> None:
    model = small().double()
    x, y = right(small(), 17)
    whole = apgd(model, x.double(), y, 0.1, steps=10)
    parts = apgd(model, x.double(), y, 0.1, steps=10, batch_size=4)
    assert torch.allclose(whole, parts, atol=1e-9)


@given(norms, seeds)
def test_equal_calls_give_equal_results_and_other_generators_others(norm: str, seed: int) -> None:
    model = small()
    x, y = right(model, 6)
    options = {"norm": norm, "restarts": 2, "steps": 3, "early_stop": False}

    def run(seed: int | None) -> list[Tensor]:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        witness = Witness(model)
        x_adv = apgd(witness, x, y, BUDGET[norm] / 5, generator=generator, **options)
        return [*witness.asked, x_adv]

    one, same, other = run(seed), run(seed), run(seed + 1)
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert torch.equal(one[3], other[3])  # the first run begins at the image
    assert not torch.equal(one[4], other[4])  # the second at a random point
    assert all(torch.equal(a, b) for a, b in zip(run(None), run(0), strict=True))


BOTH = st.sampled_from(
    [partial(apgd, loss="ce"), partial(apgd, loss="dlr"), partial(apgd_over_classes, classes=2)]
)


@given(BOTH, norms, seeds, st.booleans(), st.integers(2, 6))
def test_permuting_the_batch_permutes_the_result(
    attack: Callable[..., Tensor], norm: str, seed: int, early_stop: bool, n: int
) -> None:
    model = OneByOne(small(seed=seed % 7).double())
    x = reference.images(n, *SHAPE, seed=seed, ends=0.1)
    y = reference.classes(n, 5, seed)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    options = {"norm": norm, "steps": 5, "early_stop": early_stop}
    whole = attack(model, x, y, BUDGET[norm], **options)
    mixed = attack(model, x[order], y[order], BUDGET[norm], **options)
    torch.testing.assert_close(mixed, whole[order], rtol=0, atol=1e-9)


@given(BOTH, norms, seeds, st.booleans(), st.integers(0, 6), st.integers(1, 6))
def test_attacking_in_two_halves_equals_attacking_whole(
    attack: Callable[..., Tensor], norm: str, seed: int, early_stop: bool, cut: int, batch: int
) -> None:
    model = OneByOne(small(seed=seed % 7).double())
    x = reference.images(6, *SHAPE, seed=seed, ends=0.1)
    y = reference.classes(6, 5, seed)
    options = {"norm": norm, "steps": 5, "early_stop": early_stop}
    whole = attack(model, x, y, BUDGET[norm], batch_size=batch, **options)
    halves = [
        attack(model, part, labels, BUDGET[norm], **options)
        for part, labels in ((x[:cut], y[:cut]), (x[cut:], y[cut:]))
    ]
    torch.testing.assert_close(torch.cat(halves), whole, rtol=0, atol=1e-9)


def test_the_caller_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5), *small()).train()
    state = copy.deepcopy(model.state_dict())
    x = reference.images(6, *SHAPE).float().requires_grad_()
    y = reference.classes(6, 5)
    before = x.detach().clone()
    for attack in (apgd, apgd_over_classes):
        attack(model, x, y, 0.1, steps=3)
        assert torch.equal(x.detach(), before) and x.grad is None and x.requires_grad
        assert all(module.training for module in model.modules())
        assert all(p.requires_grad and p.grad is None for p in model.parameters())
        held = model.state_dict()
        assert all(torch.equal(held[key], state[key]) for key in state)


# -- losses and errors --------------------------------------------------------------------------


def test_dlr_worked_out_by_hand() -> None:
    logits = torch.tensor([[4.0, 1.0, 3.0, 0.0], [1.0, 5.0, 2.0, 0.0]])
    y = torch.tensor([0, 0])
    # (3 - 4) / (4 - 1) and (5 - 1) / (5 - 1)
    assert torch.allclose(dlr(logits, y), torch.tensor([-1 / 3, 1.0]))
    assert torch.allclose(dlr(100 * logits + 7, y), dlr(logits, y))
    assert ((dlr(logits, y) > 0) == (margin(logits, y) > 0)).all()


def test_what_cannot_be_is_said() -> None:
    model, two = small(), small(classes=2)
    x, y = right(model, 3)
    with pytest.raises(PixelError, match="normalised"):
        apgd(model, 5 * x, y)
    with pytest.raises(LabelError):
        apgd(model, x, y + 5)
    with pytest.raises(ThreatError, match="steps"):
        apgd(model, x, y, steps=0)
    with pytest.raises(ThreatError, match="loss"):
        apgd(model, x, y, loss="hinge")
    with pytest.raises(ThreatError, match="margin"):
        apgd(two, x, y * 0, loss="dlr")
    with pytest.raises(ThreatError, match="margin"):
        apgd_over_classes(small(classes=3), x, y * 0, loss="dlr")
    with pytest.raises(ThreatError, match="expected"):
        apgd_over_classes(model, x, y, loss="ce")
    with pytest.raises(ModelOutputError, match="tuple"):
        apgd_over_classes(lambda x: (model(x), 0), x, y)
    with pytest.raises(ModelOutputError, match="finite"):
        apgd(lambda x: model(x) * (x.flatten(1).sum(1, keepdim=True) - 1e9).sqrt().clamp(0), x, y)


@pytest.mark.parametrize("at", [2, 4])
def test_nan_on_the_way_is_no_success(at: int) -> None:
    """The second of three looks takes a gradient, the last one does not."""
    calls = []

    def model(x: Tensor) -> Tensor:
        calls.append(1)
        logits = inner(x)
        return logits * torch.nan if len(calls) == at else logits

    inner = small()
    x, y = right(inner, 4)
    with pytest.raises(ModelOutputError, match="NaN"):
        apgd(model, x, y, 1e-4, steps=3)
