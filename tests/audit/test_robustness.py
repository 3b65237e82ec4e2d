"""Robust accuracy for a price: never more than was asked, spent where it helps, and the truth where
it is known."""

import pytest
import reference
import torch
from torch import Tensor, nn

from advlib import pgd, threats
from advlib.audit.robustness import (
    CLASSES,
    FIRST_STEPS,
    PATIENCE,
    RUN_STEPS,
    _corner,
    robust_accuracy,
)
from advlib.contracts import Model
from advlib.errors import ModelOutputError, ThreatError


class Watched(nn.Module):
    """A model that remembers how many images each call held, and whether a gradient was taken."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.forward_sizes: list[int] = []
        self.gradient_sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.forward_sizes.append(len(x))
        logits = self.model(x)
        if logits.requires_grad:
            logits.register_hook(lambda grad: self.gradient_sizes.append(len(grad)))
        return logits


def network() -> nn.Module:
    model = reference.without_seed(
        lambda: nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 36, 5)
        )
    )
    reference.fill(model, 3, 1.0)
    return model.eval()


def data(model: nn.Module, n: int = 40) -> tuple[Tensor, Tensor]:
    """Images, and what the model makes of them: all are right without an attacker."""
    x = reference.images(n, 1, 6, 6).float()
    with torch.no_grad():
        return x, model(x).argmax(1)


# -- the truth where it is known -------------------------------------------------------------------


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.02), ("l2", 0.08), ("l1", 0.1)])
def test_of_a_linear_model_it_finds_exactly_the_images_that_stand(
    norm: str, eps: float, corners: bool
) -> None:
    chance = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 12, generator=chance)
    model = nn.Linear(12, 4).requires_grad_(False)
    model.weight.copy_(weight)
    model.bias.zero_()
    x = 0.4 + 0.2 * torch.rand(60, 12, generator=chance)  # the ball lies inside the box
    logits = model(x)
    y = logits.argmax(1)
    # A linear margin rises by eps times the dual norm of its slope, and no more.
    lead = logits.gather(1, y[:, None]) - logits
    slope = (weight[y][:, None] - weight[None]).flatten(0, 1)
    reach = eps * threats.dual_norm(slope, norm).view(60, 4)
    stands = ((lead > reach) | (torch.arange(4) == y[:, None])).all(1)
    assert 10 < stands.sum() < 50
    clear = ((lead - reach).abs() > 1e-3).all(1)  # not on the edge of rounding

    found = robust_accuracy(model, x, y, eps, norm=norm, gradients=60, corners=corners)

    assert torch.equal(found.robust[clear], stands[clear])
    assert found.clean.count == 60 and found.accuracy.count == int(found.robust.sum())


def test_it_finds_at_most_what_pgd_leaves_for_the_same_gradients() -> None:
    model = network()
    x, y = data(model, 80)
    for gradients in (5, 10, 40):
        x_adv = pgd(model, x, y, 0.03, steps=gradients)
        left = int((model(x_adv).argmax(1) == y).sum())
        found = robust_accuracy(model, x, y, 0.03, gradients=gradients)
        assert 0 < found.accuracy.count <= left < 80


@pytest.mark.parametrize("factor", [1e2, 1e6])
def test_large_logits_hide_nothing(factor: float) -> None:
    model = network()
    x, y = data(model)
    plain = robust_accuracy(model, x, y, 0.03, gradients=20)
    masked = robust_accuracy(lambda x: factor * model(x), x, y, 0.03, gradients=20)
    assert 0 < plain.accuracy.count < 40
    assert abs(masked.accuracy.count - plain.accuracy.count) <= 1


@pytest.mark.parametrize("shape", [(3, 9, 12), (1, 4, 5), (10,)])
def test_corners_are_as_far_away_as_may_be_and_in_groups(shape: tuple[int, ...]) -> None:
    x = 0.4 + 0.2 * torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
    for norm, eps in (("linf", 0.1), ("l2", 0.3), ("l1", 0.5)):
        ball = threats.Ball(x, eps, norm)
        points = [_corner(ball, torch.Generator().manual_seed(seed)) for seed in range(40)]
        for point in points:
            settled = ball.settle(point)
            assert 0.999 * eps < float(threats.norm(settled - x, norm)) <= eps
        if len(shape) == 3 and norm == "linf":
            up = torch.cat([(point > x).float() for point in points])
            alike = [
                (up == up[..., :1, :]).flatten(1).all(1),
                (up == up[..., :1]).flatten(1).all(1),
            ]
            assert all(5 <= int(rows.sum()) <= 20 for rows in alike)  # columns, and rows


def test_corners_are_where_later_runs_begin_and_no_first_look() -> None:
    model, seen = network(), []
    x = 0.3 + 0.4 * data(model, 1)[0]  # with room on both sides
    y = model(x).argmax(1)

    def watched(x_adv: Tensor) -> Tensor:
        seen.append(x_adv.detach().clone())
        return model(x_adv)

    found = robust_accuracy(watched, x, y, 1e-3, gradients=60, corners=True)
    assert found.clean.count == 1 and torch.equal(seen[0], x)
    begun = seen[FIRST_STEPS + 1]  # after the first run and a look at its end
    assert float((begun - x).abs().amin()) > 0.99e-3  # every pixel value is at its end
    again = robust_accuracy(model, x, y, 1e-3, gradients=60, corners=True, batch_size=2)
    assert torch.equal(again.robust, found.robust) and again.gradients == found.gradients


def test_an_image_that_a_corner_fools_at_once_was_classified_correctly() -> None:
    def flat(x: Tensor) -> Tensor:  # without a slope at the image itself
        hidden = 10 * (x - 0.55).relu().flatten(1).mean(1)
        return torch.stack([0.1 + 0 * hidden, hidden], 1)

    x, y = torch.full((3, 1, 6, 6), 0.5), torch.zeros(3, dtype=torch.long)
    found = robust_accuracy(flat, x, y, 0.1, corners=True)
    assert found.clean.count == 3 and found.accuracy.count == 0


# -- the price -------------------------------------------------------------------------------------


@pytest.mark.parametrize("gradients", [1, 2, 3, 7, 25])
@pytest.mark.parametrize("n", [1, 3, 40])
def test_the_gradients_are_counted_and_never_more_than_was_asked(n: int, gradients: int) -> None:
    model = Watched(network())
    x, y = data(model.model, n)
    found = robust_accuracy(model, x, y, 0.02, gradients=gradients, batch_size=16)
    assert found.gradients == sum(model.gradient_sizes)
    assert 0 < found.gradients <= gradients * n
    if found.accuracy.count:  # what may be spent is spent while images stand
        assert found.gradients == gradients * n


def test_what_fallen_images_leave_is_spent_on_those_that_stand() -> None:
    model = Watched(network())
    x, y = data(model.model)
    wrong = (y + 1) % 5
    half = torch.arange(40) % 2 == 0
    found = robust_accuracy(model, x, torch.where(half, y, wrong), 1e-4, gradients=30)
    assert found.clean.count == found.accuracy.count == 20
    assert torch.equal(found.robust, half)
    assert 2 * 20 * 28 < found.gradients <= 30 * 40


def test_the_last_hundredth_of_the_gradients_is_not_spent_in_batches_of_one() -> None:
    model = Watched(network())
    x, y = data(model.model, 41)
    found = robust_accuracy(model, x, y, 1e-4, gradients=25)  # nobody falls: runs of 3 and 20
    assert 0.99 * 41 * 25 < found.gradients == sum(model.gradient_sizes) < 41 * 25
    assert min(model.gradient_sizes) > 1


def test_the_images_nearest_to_the_edge_are_worked_on_first() -> None:
    model = network()
    x, y = data(model, 4)
    two = model(x).topk(2, dim=1).values
    nearest = int((two[:, 0] - two[:, 1]).argmin())
    seen: list[int] = []

    def look(points: Tensor) -> Tensor:
        seen.extend(
            (points.detach()[:, None] - x[None]).abs().flatten(2).amax(2).argmin(1).tolist()
        )
        return model(points)

    robust_accuracy(look, x, y, 1e-4, gradients=8)  # 3 for each, 20 are left
    assert sorted(seen[:16]) == sorted([0, 1, 2, 3] * 4)
    assert set(seen[16:]) == {nearest} and len(seen) > 16 + 20


def stopping_short(rest: float) -> Model:
    """Every run ends in a corner, `rest` times the way done there away from the edge."""

    def model(x: Tensor) -> Tensor:
        way = (x.double() - 0.5).sum(1) / (8 * 0.1)
        one = torch.ones_like(way)
        return torch.stack([0 * one, way - 1 - rest, -2 * one, -3 * one], 1)

    return model


def test_a_image_that_stands_alone_is_given_up_at_last() -> None:
    x, y = torch.full((40, 8), 0.5), (torch.arange(40) != 7).long()
    found = robust_accuracy(stopping_short(1e-4), x, y, 0.1, gradients=30)
    assert found.accuracy.count == 1
    assert PATIENCE * 30 - RUN_STEPS <= found.gradients - 39 <= PATIENCE * 30


@pytest.mark.parametrize(("rest", "runs"), [(10.0, 4), (0.3, 4), (0.19, 6), (0.09, 12)])
def test_a_image_far_from_the_edge_is_given_up_the_sooner_the_farther(
    rest: float, runs: int
) -> None:
    n = 1200
    x, y = torch.full((n, 8), 0.5), torch.zeros(n, dtype=torch.long)
    found = robust_accuracy(stopping_short(rest), x, y, 0.1, gradients=500)
    assert found.accuracy.count == n
    # The first run is a short one, and when few images are left several begin together.
    each = (found.gradients / n - FIRST_STEPS) / RUN_STEPS
    assert runs - 1 <= each < runs


def test_few_images_begin_several_runs_at_once() -> None:
    model = Watched(network())
    x, y = data(model.model, 8)
    robust_accuracy(model, x, y, 1e-4, gradients=100)  # nobody falls
    assert model.gradient_sizes[:FIRST_STEPS] == [8] * FIRST_STEPS
    assert model.gradient_sizes[FIRST_STEPS] == 4 * CLASSES  # half of them, towards each class


def test_batches_are_full_and_never_larger_than_allowed() -> None:
    model = Watched(network())
    x, y = data(model.model)
    robust_accuracy(model, x, y, 1e-4, gradients=23, batch_size=16)  # nobody falls
    assert max(model.forward_sizes) == 16
    # 40 images, 3 steps, 16 at a time: 16 enter, then 16, then 8 of the first run.
    assert model.gradient_sizes[:6] == [16] * 6
    model.forward_sizes.clear()
    robust_accuracy(model, x[:4], y[:4], 1e-4, gradients=60, batch_size=3)
    assert max(model.forward_sizes) == 3


def test_the_point_after_the_last_step_counts() -> None:
    model = network()
    x, y = data(model)
    found = robust_accuracy(model, x, y, 0.1, gradients=1)
    assert found.clean.count == 40 and found.accuracy.count < 40


def test_images_that_fall_make_room_for_others() -> None:
    model = Watched(network())
    x, y = data(model.model)
    wrong = (y + 1) % 5
    half = torch.arange(40) % 2 == 0
    robust_accuracy(model, x, torch.where(half, y, wrong), 1e-4, gradients=5, batch_size=16)
    assert model.gradient_sizes[:4] == [16] * 4  # of which 8, 4, 2 and 1 fall
    model.forward_sizes.clear()
    robust_accuracy(model, x, wrong, 0.1, gradients=5, batch_size=16)
    assert model.forward_sizes == [16, 16, 8]


def test_the_batch_size_does_not_change_the_result() -> None:
    model = network()
    x, y = data(model)
    found = [
        robust_accuracy(model, x, y, 0.03, gradients=50, batch_size=size)
        for size in (2, 7, 16, 256)
    ]
    assert 0 < found[0].accuracy.count < 40
    for other in found[1:]:
        assert torch.equal(other.robust, found[0].robust)
        assert other.gradients == found[0].gradients


def test_of_runs_that_end_together_none_is_looked_at_after_one_that_fools() -> None:
    asked: list[int] = []
    ends: list[int] = []

    def model(x: Tensor) -> Tensor:
        """Wrong at the ends of runs alone, where no gradient is asked for; not at the first."""
        asked.append(len(x))
        if not torch.is_grad_enabled():
            ends.append(len(x))
        return torch.cat([0 * x, 0 * x + (1 if len(ends) > 1 else -1)], 1)

    x, y = torch.full((1, 1), 0.5), torch.tensor([0])
    found = robust_accuracy(model, x, y, 0.1, gradients=100, batch_size=1)
    assert found.accuracy.count == 0 and ends == [1, 1] and min(asked) > 0


def test_equal_calls_give_equal_results_and_a_generator_other_starts() -> None:
    model = network()
    x, y = data(model)
    points: list[list[Tensor]] = []
    for seed in (None, 0, 1):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        seen: list[Tensor] = []

        def look(x: Tensor, seen: list[Tensor] = seen) -> Tensor:
            seen.append(x.detach().clone())
            return model(x)

        robust_accuracy(look, x, y, 0.02, gradients=10, generator=generator)
        points.append(seen)
    assert all(torch.equal(a, b) for a, b in zip(points[0], points[1], strict=True))
    assert not all(
        a.shape == b.shape and torch.equal(a, b) for a, b in zip(points[0], points[2], strict=False)
    )


def test_a_run_begins_with_long_steps_at_a_random_point_and_ends_with_short_ones() -> None:
    x, eps = torch.full((1, 1), 0.5), 0.01
    points: list[float] = []

    def hill(x: Tensor) -> Tensor:
        """Class 1 never wins, and is nearest at a point inside the ball."""
        points.append(x.item())
        return torch.cat([x - x, -1 - (x - 0.5021).abs()], 1)

    robust_accuracy(hill, x, torch.tensor([0]), eps, gradients=3 + RUN_STEPS)
    first, later = points[:4], points[4:]  # a start and three steps; then a second run
    assert len(later) == RUN_STEPS + 1
    assert first[0] == 0.5 and later[0] != 0.5
    steps = [abs(after - before) for before, after in zip(later, later[1:], strict=False)]
    assert max(steps[:3]) > 0.5 * eps and 0 < steps[-1] < 0.05 * eps


def test_each_run_of_a_image_begins_somewhere_else() -> None:
    seen: list[Tensor] = []

    def flat(x: Tensor) -> Tensor:
        seen.append(x.detach().clone())
        return torch.cat([0 * x, 0 * x - 1], 1)

    x = torch.full((1, 1), 0.5)
    robust_accuracy(flat, x, torch.tensor([0]), 0.1, gradients=100)
    starts = torch.cat(seen)  # without a gradient nothing moves: those of all runs at once
    assert starts.unique().numel() >= 1 + (100 - FIRST_STEPS) // RUN_STEPS


def test_every_class_has_its_turn() -> None:
    x = torch.full((1, 8), 0.5)

    def model(x: Tensor) -> Tensor:
        """Class 1 is near and cannot be reached; class 2 is far and gives way."""
        way = x.mean(1) - 0.5
        return torch.stack([0 * way, 0 * way - 0.1, 20 * way - 1], 1)

    assert robust_accuracy(model, x, torch.tensor([0]), 0.1, gradients=60).accuracy.count == 0


# -- what fooled the model -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.1), ("l2", 0.5), ("l1", 2.0)])
def test_each_fallen_image_is_shown_once_inside_ball_and_box(norm, eps, dtype) -> None:
    model = network().to(dtype)
    x, y = data(network())
    x = x.to(dtype)
    y[::5] = (y[::5] + 1) % 5  # some are wrong anyway
    rows: list[int] = []
    x_adv = x.clone()

    def keep(fallen: Tensor, points: Tensor) -> None:
        rows.extend(fallen.tolist())
        x_adv[fallen] = points
        points.zero_()

    found = robust_accuracy(model, x, y, eps, norm=norm, gradients=20, on_fooled=keep)

    assert sorted(rows) == (~found.robust).nonzero().squeeze(1).tolist()
    assert len(rows) > 8 and found.clean.count == 32
    assert bool((threats.norm(x_adv - x, norm) <= eps).all())
    assert float(x_adv.min()) >= 0 and float(x_adv.max()) <= 1
    assert bool((model(x_adv).argmax(1) != y)[~found.robust].all())
    assert torch.equal(x_adv[::5], x[::5])


# -- arguments and edges ---------------------------------------------------------------------------


def test_a_image_that_several_runs_fool_at_once_is_shown_once() -> None:
    shown: list[int] = []

    def model(x: Tensor) -> Tensor:
        """Anything but the image itself is misread."""
        return torch.cat([0 * x, 0 * x + (x != 0.5).float() - 0.5], 1)

    def keep(rows: Tensor, points: Tensor) -> None:
        shown.extend(rows.tolist())
        assert len(rows) == len(points)

    x, y = torch.full((3, 1), 0.5), torch.zeros(3, dtype=torch.long)
    found = robust_accuracy(model, x, y, 0.1, gradients=100, on_fooled=keep)
    assert found.accuracy.count == 0 and sorted(shown) == [0, 1, 2]


def test_a_model_that_writes_into_its_input_does_not_change_what_is_shown() -> None:
    def model(x: Tensor) -> Tensor:
        """Normalised in place where no gradient is asked for; fooled there alone."""
        two = torch.cat([0.5 - x, x - 0.5], 1) * 0 - 1
        if x.requires_grad:
            return two + torch.tensor([2.0, 0.0])
        x.sub_(7.0)
        return two + torch.tensor([0.0, 2.0])

    points: list[Tensor] = []
    x, y = torch.full((2, 1), 0.5), torch.tensor([0, 0])
    robust_accuracy(model, x, y, 0.1, gradients=3, on_fooled=lambda _, at: points.append(at))
    assert torch.cat(points).sub(0.5).abs().max() <= 0.1


def test_without_room_only_the_images_themselves_are_judged() -> None:
    model = network()
    x, y = data(model)
    y[:4] = (y[:4] + 1) % 5
    found = robust_accuracy(model, x, y, 0.0, gradients=50)
    assert found.accuracy == found.clean and found.clean.count == 36
    assert found.gradients < 5 * 40


def test_two_classes_and_no_images() -> None:
    def model(x: Tensor) -> Tensor:  # bright or dark
        total = x.flatten(1).sum(1)
        return torch.stack([total, 4 - total], 1)

    x, y = reference.images(6, 1, 2, 2).float(), torch.tensor([0, 1, 0, 1, 0, 1])
    assert robust_accuracy(model, x, y, 1.0, gradients=30).accuracy.count == 0
    nothing = robust_accuracy(model, x[:0], y[:0], 0.1)
    assert nothing.accuracy.total == 0 and nothing.gradients == 0 and len(nothing.robust) == 0


@pytest.mark.parametrize("name", ["gradients", "batch_size"])
@pytest.mark.parametrize("value", [0, -1, 2.5, None, True])
def test_settings_that_are_no_whole_numbers_from_1_up_are_refused(name: str, value) -> None:
    model = network()
    x, y = data(model, 3)
    with pytest.raises(ThreatError, match=rf"{name} is .*whole number >= 1"):
        robust_accuracy(model, x, y, 0.1, **{name: value})


def test_a_model_whose_gradient_is_not_finite_or_that_breaks_on_the_way_is_refused() -> None:
    model = network()
    x, y = data(model)
    with pytest.raises(ModelOutputError, match="NaN or infinite"):
        robust_accuracy(lambda x: model(x) + (x - x).flatten(1)[:, :5].sqrt(), x, y, 0.1)
    calls = [0]

    def breaks(x: Tensor) -> Tensor:
        calls[0] += 1
        return model(x) * (torch.nan if calls[0] == 4 else 1)

    with pytest.raises(ModelOutputError, match="NaN or infinite"):
        robust_accuracy(breaks, x, y, 0.01)


def test_it_says_what_it_found(capsys) -> None:
    model = network()
    x, y = data(model)
    found = robust_accuracy(model, x, y, 0.02, gradients=5, progress=True)
    assert str(found).startswith(f"robust {found.accuracy}, clean 100.0 %")
    assert "attacking" in capsys.readouterr().err
