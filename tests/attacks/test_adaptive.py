"""Adaptive attacks: straight-through gradients, averages over draws, the joint loss."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from advlib.attacks.adaptive import averaged, straight_through, undetected
from advlib.errors import InputError, ModelOutputError, ThreatError

RANDOM_STATE_IS_WATCHED = True


def draws(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 1000))
def test_straight_through_has_the_value_of_one_and_the_gradient_of_the_other(seed: int) -> None:
    x = (10 * draws(seed, 3, 4)).requires_grad_()
    weight = draws(seed + 1, 3, 4)
    value = straight_through(torch.round, torch.sin)(x)
    assert value.detach().equal(x.detach().round())
    (grad,) = torch.autograd.grad((weight * value).sum(), x)
    torch.testing.assert_close(grad, weight * x.detach().cos())


def test_straight_through_defaults_to_the_identity_and_allows_numpy() -> None:
    x = torch.tensor([0.2, 0.7], requires_grad=True)
    value = straight_through(lambda x: torch.from_numpy(x.numpy().round()))(x)
    assert value.tolist() == [0.0, 1.0]
    (grad,) = torch.autograd.grad(value.sum(), x)
    assert grad.tolist() == [1.0, 1.0]


def test_straight_through_leaves_its_argument_alone_and_returns_a_new_tensor() -> None:
    x = torch.rand(4, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    result = straight_through(lambda x: x)(x)
    result.zero_()
    assert x.equal(before)


def test_straight_through_names_a_wrong_shape() -> None:
    with pytest.raises(ModelOutputError, match="Pass backward"):
        straight_through(lambda x: x.sum(1))(torch.zeros(2, 3))


def test_averaged_is_the_mean_of_its_draws_and_so_is_its_gradient() -> None:
    turns = draws(3, 5, 6, 4)
    seen = iter(turns)
    x = draws(4, 2, 6).requires_grad_()
    logits = averaged(lambda x: x @ next(seen), 5)(x)
    torch.testing.assert_close(logits, x @ turns.mean(0))
    (grad,) = torch.autograd.grad(logits.sum(), x)
    torch.testing.assert_close(grad, turns.mean(0).sum(1).expand(2, 6))


@pytest.mark.parametrize("samples", [0, -1, 1.5, True])
def test_averaged_names_a_wrong_number_of_samples(samples: object) -> None:
    with pytest.raises(ThreatError, match="samples"):
        averaged(lambda x: x, samples)  # type: ignore[arg-type]


@given(st.integers(0, 1000), st.sampled_from([-1, 4]))
def test_undetected_is_positive_exactly_for_wrong_and_not_rejected(seed: int, reject: int) -> None:
    logits = draws(seed, 20, 5)
    y = torch.randint(0, 4, (20,), generator=torch.Generator().manual_seed(seed))
    answer = logits.argmax(1)
    assert ((undetected(reject)(logits, y) > 0) == ((answer != y) & (answer != 4))).all()


def test_undetected_by_hand() -> None:
    loss = undetected(2)(torch.tensor([[1.0, 3.0, 2.0], [1.0, 3.0, 5.0]]), torch.tensor([0, 0]))
    assert loss.tolist() == [1.0, -2.0]


@pytest.mark.parametrize(("classes", "reject"), [(2, 1), (4, 4), (4, -5)])
def test_undetected_names_a_class_that_is_not_there(classes: int, reject: int) -> None:
    with pytest.raises(InputError, match="reject"):
        undetected(reject)(torch.zeros(3, classes), torch.zeros(3, dtype=torch.long))
