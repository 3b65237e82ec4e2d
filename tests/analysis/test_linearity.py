"""Linear worst cases against brute force and linear programming; linearity against closed forms."""

import copy
import itertools

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog
from torch import Tensor, nn

import advlib
from advlib import threats
from advlib.analysis import linearity
from advlib.errors import InputError, LabelError, PixelError, ThreatError
from advlib.gradients import margin

RANDOM_STATE_IS_WATCHED = True


def classifier(features: int = 12, classes: int = 3, seed: int = 0) -> tuple[nn.Module, list]:
    model = reference.linear(features, classes, seed=seed).double()
    return model, [parameter.detach() for parameter in model.parameters()]


# -- the exact worst case ----------------------------------------------------------------------


def test_worst_margin_worked_out_by_hand() -> None:
    weight = torch.tensor([[0.0, 0.0, 0.0], [2.0, -3.0, 6.0]], dtype=torch.float64)
    bias = torch.tensor([0.0, 1.0], dtype=torch.float64)
    x = torch.full((2, 3), 0.5, dtype=torch.float64)
    y = torch.tensor([1, 0])  # score 3.5: correct, and misclassified
    for norm, dual in (("linf", 11.0), ("l2", 7.0), ("l1", 6.0)):
        got = linearity.worst_margin(weight, bias, x, y, 0.1, norm=norm)
        np.testing.assert_allclose(got, [3.5 - 0.1 * dual, -3.5 - 0.1 * dual])


@given(seed=st.integers(0, 10_000), eps=st.sampled_from([0.0, 0.01, 0.1, 0.4, 1.0, 3.0]))
def test_worst_margin_is_the_corner_that_brute_force_finds(seed: int, eps: float) -> None:
    model, (weight, bias) = classifier(6, 3, seed)
    x, y = reference.images(3, 6, seed=seed), reference.classes(3, seed=seed)
    for box in (True, False):
        corners = torch.tensor(list(itertools.product([-eps, eps], repeat=6)), dtype=x.dtype)
        places = x[:, None] + corners
        places = places.clamp(0, 1) if box else places
        with torch.no_grad():
            worst = [-margin(model(p), label.expand(64)).max() for p, label in zip(places, y)]  # noqa: B905
        got = linearity.worst_margin(weight, bias, x, y, eps, box=box)
        np.testing.assert_allclose(got, torch.stack(worst), rtol=1e-9, atol=1e-9)


@given(seed=st.integers(0, 10_000), eps=st.sampled_from([0.05, 0.5, 2.0]))
def test_worst_margin_in_the_l1_ball_and_the_box_agrees_with_linear_programming(
    seed: int, eps: float
) -> None:
    _, (weight, bias) = classifier(5, 2, seed)
    x, y = reference.images(1, 5, seed=seed), torch.tensor([0])
    against = (weight[1] - weight[0]).numpy()
    cost = np.concatenate([-against, against])  # delta = up - down, both at least 0
    room = [*((0, 1 - v) for v in x[0].tolist()), *((0, v) for v in x[0].tolist())]
    best = linprog(cost, A_ub=np.ones((1, 10)), b_ub=[eps], bounds=room)
    score = x[0].numpy() @ against + float(bias[1] - bias[0])
    got = linearity.worst_margin(weight, bias, x, y, eps, norm="l1")
    np.testing.assert_allclose(got, [-score + best.fun], atol=1e-7)


@given(
    seed=st.integers(0, 10_000),
    eps=st.sampled_from([0.0, 0.02, 0.2, 1.0]),
    norm=st.sampled_from(list(threats.NORMS)),
)
def test_no_attack_and_no_noise_gets_below_the_worst_margin(
    seed: int, eps: float, norm: str
) -> None:
    model, (weight, bias) = classifier(8, 2, seed)
    x, y = reference.images(6, 8, seed=seed), reference.classes(6, 2, seed=seed)
    worst = linearity.worst_margin(weight, bias, x, y, eps, norm=norm)
    free = linearity.worst_margin(weight, bias, x, y, eps, norm=norm, box=False)
    assert (free <= worst + 1e-9).all()
    with torch.no_grad():
        for x_adv in (
            advlib.noise(x, eps, norm=norm),
            advlib.pgd(model, x, y, eps, norm=norm, steps=3),
        ):
            assert (-margin(model(x_adv), y) >= worst - 1e-9).all()
        # With two classes the gradient never turns, and one step is the whole attack.
        x_adv = advlib.fgsm(model, x, y, eps, norm=norm, loss="margin")
        np.testing.assert_allclose(-margin(model(x_adv), y), worst, atol=1e-6)


def test_worst_margin_takes_images_and_weights_of_images(device: torch.device) -> None:
    weight = reference.images(3, 3, 4, 4).float().to(device).requires_grad_()
    bias = torch.tensor([0.1, 0.2, 0.3], device=device)
    x, y = reference.images(5, 3, 4, 4, seed=1).float().to(device), reference.classes(5)
    y = y.to(device)
    got = linearity.worst_margin(weight, bias, x, y, 0.1)
    rows = linearity.worst_margin(weight.flatten(1), bias, x.flatten(1), y, 0.1)
    assert got.shape == (5,) and got.device == x.device and not got.requires_grad
    assert got.equal(rows)
    assert linearity.worst_margin(weight, bias, x[:0], y[:0], 0.1).shape == (0,)


def test_worst_margin_refuses_what_does_not_fit() -> None:
    _, (weight, bias) = classifier(12, 3)
    x, y = reference.images(2, 12), torch.tensor([0, 2])
    with pytest.raises(InputError, match="one row of 12 weights"):
        linearity.worst_margin(weight[:, :5], bias, x, y, 0.1)
    with pytest.raises(InputError, match="two or more classes"):
        linearity.worst_margin(weight[:1], bias[:1], x, y, 0.1)
    with pytest.raises(InputError, match=r"x\.to\(weight\)"):
        linearity.worst_margin(weight.float(), bias.float(), x, y, 0.1)
    with pytest.raises(LabelError, match="0 to 1"):
        linearity.worst_margin(weight[:2], bias[:2], x, y, 0.1)
    with pytest.raises(ThreatError):
        linearity.worst_margin(weight, bias, x, y, -1)
    with pytest.raises(PixelError):
        linearity.worst_margin(weight, bias, x + 2, y, 0.1)


# -- the linear approximation -----------------------------------------------------------------


def bowl(x: Tensor) -> Tensor:
    """Margin ``slope * s + s ** 2`` of class 0 with ``s = sum(x - 0.5)``: bent, and known."""
    s = (x.flatten(1) - 0.5).sum(1)
    return torch.stack([torch.zeros_like(s), 2 * s + s.square()], 1)


def test_a_linear_model_is_its_own_linearisation(device: torch.device) -> None:
    model, _ = classifier(27, 2)
    model = copy.deepcopy(model).float().to(device)
    x = (0.2 + 0.6 * reference.images(4, 3, 3, 3)).float().to(device)
    y = reference.classes(4, 2).to(device)
    both = linearity.linearise(model, x, y, advlib.noise(x, 0.1))
    torch.testing.assert_close(both.predicted, both.actual, rtol=1e-4, atol=1e-4)
    error = linearity.linearity_error(model, x, y, 0.1, steps=3)
    aligned = linearity.gradient_alignment(model, x, y, 0.1, loss="margin")
    assert error.device == x.device and aligned.device == x.device
    assert float(error.max()) < 1e-4 and float(aligned.min()) > 1 - 1e-5


def test_the_error_of_a_bowl_is_its_square() -> None:
    x, y = torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64), torch.tensor([0])
    x_adv = x + 0.1
    both = linearity.linearise(bowl, x, y, x_adv)
    np.testing.assert_allclose(both.predicted, [0.8])
    np.testing.assert_allclose(both.actual, [0.96])
    error = linearity.linearity_error(bowl, x, y, 0.1, relative=False)
    np.testing.assert_allclose(error, [0.16])
    np.testing.assert_allclose(linearity.linearity_error(bowl, x, y, 0.1), [0.16 / 0.8])
    # Beyond s = -1, where the slope changes sign; at eps = 0 both gradients are the same.
    far = torch.full((1, 1, 2, 2), 0.2, dtype=torch.float64)
    aligned = linearity.gradient_alignment(bowl, far, y, 0.0, loss="margin")
    np.testing.assert_allclose(aligned, [1.0])


@given(seed=st.integers(0, 1000), eps=st.sampled_from([0.01, 0.1, 0.5]))
def test_the_error_found_is_one_that_exists_and_more_steps_find_no_less(
    seed: int, eps: float
) -> None:
    model = reference.mlp(12, seed=seed).double()
    x, y = reference.images(3, 12, seed=seed), reference.classes(3, seed=seed)
    found = linearity.linearity_error(model, x, y, eps, relative=False)
    fgsm = advlib.fgsm(model, x, y, eps, loss="margin")
    at = linearity.linearise(model, x, y, fgsm)
    assert (found >= (at.actual - at.predicted).abs() - 1e-9).all()
    # A Lipschitz bound from the weights: nothing larger can exist.
    w1, w2 = model[1].weight.detach(), model[3].weight.detach()
    slope = (w2.abs() @ w1.abs()).sum(1).max() * 2
    assert (found <= 2 * slope * eps).all()
    aligned = linearity.gradient_alignment(model, x, y, eps)
    assert (aligned.abs() <= 1).all()


def test_alignment_is_the_cosine_of_two_plain_gradients() -> None:
    model = reference.mlp(12).double()
    x, y, eps = reference.images(4, 12), reference.classes(4), 0.2
    near = (x + threats.random_point(x, eps)).clamp(0, 1)
    oracle = reference.torch_oracle(model)
    a, b = oracle(x.numpy(), y.numpy()).grad, oracle(near.numpy(), y.numpy()).grad
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(linearity.gradient_alignment(model, x, y, eps), cosine, rtol=1e-6)


def test_tiny_gradients_keep_their_direction_and_none_has_none() -> None:
    x, y = reference.images(2, 1, 2, 2, ends=0).float(), torch.tensor([0, 1])
    faint = linearity.gradient_alignment(lambda x: 1e-25 * bowl(x), x, y, 0.01, loss="margin")
    assert (faint > 0.99).all()
    flat = linearity.gradient_alignment(lambda x: 0 * bowl(x), x, y, 0.01, loss="margin")
    assert flat.equal(torch.zeros(2))
    assert linearity.linearity_error(lambda x: 0 * bowl(x), x, y, 0.1).equal(torch.zeros(2))
    assert linearity.linearity_error(bowl, x, y, 0.0).equal(torch.zeros(2))


def test_the_caller_is_undisturbed_and_empty_batches_are_fine() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), reference.conv(3)).train()
    before = copy.deepcopy(model.state_dict())
    x, y = reference.images(3, 3, 6, 6).float(), reference.classes(3)
    kept = x.clone()
    for _ in range(2):
        linearity.linearise(model, x, y, advlib.noise(x, 0.1))
        first = linearity.linearity_error(model, x, y, 0.1, steps=2)
        linearity.gradient_alignment(model, x, y, 0.1)
    assert first.equal(linearity.linearity_error(model, x, y, 0.1, steps=2))  # same seed
    assert model.training and x.equal(kept)
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    none = x[:0], y[:0]
    assert len(linearity.linearise(model, *none, x[:0]).actual) == 0
    assert len(linearity.linearity_error(model, *none, 0.1)) == 0
    assert len(linearity.gradient_alignment(model, *none, 0.1)) == 0


def test_what_cannot_be_used_is_refused() -> None:
    x, y = reference.images(2, 12), torch.tensor([0, 2])
    model = reference.mlp(12).double()
    with pytest.raises(InputError, match="x_adv has shape"):
        linearity.linearise(model, x, y, x[:1])
    with pytest.raises(ThreatError, match="steps"):
        linearity.linearity_error(model, x, y, 0.1, steps=0)
    with pytest.raises(ThreatError, match="eps"):
        linearity.gradient_alignment(model, x, y, -0.1)
    with pytest.raises(ThreatError, match="loss"):
        linearity.linearise(model, x, y, x, loss="hinge")
