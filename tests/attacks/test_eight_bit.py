"""Attacks that end on the grid of 8 bits: what a file holds is what was found."""

import math
from pathlib import Path

import pytest
import reference
import torch
from cases import NORMS, fewer, seeds, shapes
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import advlib
from advlib.attacks.eight_bit import eight_bit
from advlib.data import on_grid, signs
from advlib.errors import PixelError, ThreatError

SAVED = eight_bit(advlib.pgd)
precise = st.sampled_from([torch.float16, torch.float32, torch.float64])


def levels(x: Tensor) -> Tensor:
    return x.double().mul(255).round()


@given(bytes_=st.lists(st.integers(0, 255), min_size=1), dtype=precise)
def test_the_grid_is_what_a_file_of_bytes_holds(bytes_: list[int], dtype: torch.dtype) -> None:
    whole = torch.tensor(bytes_, dtype=torch.uint8)
    held = (whole.float() / 255).to(dtype) if dtype != torch.float64 else whole.double() / 255
    assert torch.equal(on_grid(held), held)
    near = (held.double() + torch.linspace(-0.4, 0.4, len(held)).double() / 255).to(dtype)
    if dtype != torch.float16:
        assert torch.equal(on_grid(near), held)


@fewer(2)
@given(
    shape=shapes,
    seed=seeds,
    norm=st.sampled_from(NORMS),
    eps=st.one_of(st.sampled_from([0.0, 0.5 / 255, 1 / 255, 8 / 255, 1.0]), st.floats(0, 4)),
    targeted=st.booleans(),
    dtype=precise,
)
def test_the_result_lies_on_the_grid_in_ball_and_box(
    shape, seed, norm, eps, targeted, dtype
) -> None:
    x = on_grid(reference.images(*shape, seed=seed).to(dtype))
    eps = min(eps, advlib.threats.check_norm(norm).diameter(x))
    y, model = reference.classes(len(x), 5, seed), reference.mlp(x[0].numel(), 5, seed % 7)
    x_adv = SAVED(model.to(dtype), x, y, eps, norm=norm, steps=3, targeted=targeted)
    assert x_adv.shape == x.shape and x_adv.dtype == dtype
    assert torch.equal(on_grid(x_adv), x_adv)
    assert float(x_adv.amin()) >= 0 and float(x_adv.amax()) <= 1
    moved = (levels(x_adv) - levels(x)).flatten(1).abs()
    length = {"linf": moved.amax(1), "l2": moved.norm(dim=1), "l1": moved.sum(1)}[norm]
    assert bool((length <= eps * 255 + 1e-6).all()), (length, eps * 255)


@pytest.mark.parametrize("eps", [1, 2, 4, 8])
def test_every_level_of_a_budget_in_levels_is_used(eps: int) -> None:
    """8/255 * 255 is 8, although floating point may see it a little below."""
    x = on_grid(0.2 + 0.6 * reference.images(2, 3, 4, 4, seed=0).float())
    model = reference.linear(48, 5, 0).float()
    moved = levels(eight_bit(advlib.fgsm)(model, x, torch.tensor([0, 1]), eps / 255)) - levels(x)
    assert moved.abs().eq(eps).float().mean() > 0.9


@pytest.mark.parametrize("grey_levels", [1, 2, 4])
def test_no_success_is_lost_that_rounding_afterwards_would_lose(grey_levels: int) -> None:
    model = advlib.models.load("signs-standard")
    x, y = signs.render(48, seed=3)
    x, eps = on_grid(x), grey_levels / 255
    correct = model(x).argmax(1) == y
    x, y = x[correct], y[correct]
    direct = model(SAVED(model, x, y, eps, steps=10)).argmax(1) != y
    afterwards = model(on_grid(advlib.pgd(model, x, y, eps, steps=10))).argmax(1) != y
    between = model(advlib.pgd(model, x, y, eps, steps=10)).argmax(1) != y
    assert direct.sum() >= afterwards.sum()
    assert direct.sum() >= between.sum() - 1


def test_a_budget_below_one_level_changes_nothing() -> None:
    x = on_grid(reference.images(2, 3, 4, 4, seed=1).float())
    model = reference.linear(48, 5, 0).float()
    assert torch.equal(SAVED(model, x, torch.tensor([0, 1]), 0.9 / 255), x)


def test_a_small_l2_budget_is_spent_on_whole_levels() -> None:
    """On 100 pixels of equal slope, 5 levels of length move 25 of them by one level."""
    x = torch.full((1, 100), 100 / 255)
    weight = torch.stack([torch.zeros(100), 1 + torch.arange(100) / 1e4])
    moved = levels(
        eight_bit(advlib.fgsm)(lambda z: z @ weight.T, x, torch.tensor([0]), 5.05 / 255, norm="l2")
    ) - levels(x)
    assert moved.norm() <= 5.05 and moved.abs().sum() in (24, 25)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.full((1, 1, 2, 2), 0.5), "between the levels of 8 bits"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.bfloat16), "bfloat16"),
    ],
)
def test_what_no_file_can_hold_is_refused(x: Tensor, words: str) -> None:
    with pytest.raises(PixelError, match=words):
        SAVED(reference.linear(4, 3, 0).to(x.dtype), x, torch.tensor([0]))


def test_a_norm_without_levels_is_refused() -> None:
    with pytest.raises(ThreatError, match="norm is 'l0'"):
        SAVED(reference.linear(4, 3, 0), torch.zeros(1, 1, 2, 2), torch.tensor([0]), norm="l0")


@pytest.mark.parametrize("channels", [1, 3])
def test_what_was_attacked_is_read_from_the_files_as_it_was(channels: int, tmp_path: Path) -> None:
    x = on_grid(reference.images(3, channels, 5, 4, seed=2).float())
    model = reference.linear(20 * channels, 5, 0).float()
    x_adv = SAVED(model, x, torch.tensor([0, 1, 2]), 8 / 255, steps=3)
    paths = advlib.data.save_images(x_adv, tmp_path / "attacked")
    assert torch.equal(advlib.data.load_images(paths), x_adv)
    assert torch.equal(advlib.data.load_images(tmp_path / "attacked"), x_adv)
    assert not math.isnan(float(x_adv.sum()))


def test_the_model_is_shown_only_what_a_file_can_hold() -> None:
    model, shown = reference.linear(48, 5, 0).float(), []

    def watched(x: Tensor) -> Tensor:
        shown.append(x.detach().clone())
        return model(x)

    SAVED(watched, on_grid(reference.images(2, 3, 4, 4, seed=1).float()), torch.tensor([0, 1]))
    assert len(shown) > 20 and all(torch.equal(on_grid(x), x) for x in shown)


def test_what_is_nearest_to_the_next_level_reaches_it_first() -> None:
    x = torch.full((1, 2), 100 / 255)
    wanted = torch.tensor([[0.6, 0.8]]) / 255

    def attack(model: object, x: Tensor, y: Tensor, eps: float, *, norm: str) -> Tensor:
        return x + wanted

    moved = levels(eight_bit(attack)(lambda z: z, x, torch.tensor([0]), 1 / 255, norm="l2"))
    assert (moved - levels(x)).tolist() == [[0, 1]]
