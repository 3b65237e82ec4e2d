"""The smallest sufficient budget, against every budget tried and against a closed form."""

import math
from typing import Any

import pytest
import reference
import torch
from torch import Tensor, nn

import advlib
from advlib import threats
from advlib.analysis.least_budget import least_budget
from advlib.errors import InputError
from advlib.evaluation import predict

RANDOM_STATE_IS_WATCHED = True
BUDGETS = [0.06 * 1.08**step for step in range(12)]


def problem() -> tuple[nn.Module, Tensor, Tensor]:
    """A linear classifier of two classes, images in the middle of the box; two labels are wrong."""
    model = reference.linear(12, 2, seed=0)
    x = 0.3 + 0.4 * torch.rand(30, 12, generator=torch.Generator().manual_seed(1))
    y = model(x).argmax(1).detach()
    y[:2] = 1 - y[:2]
    return model, x, y


def step(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    return advlib.fgsm(model, x, y, eps, loss="margin")


def test_it_is_the_first_budget_at_which_the_exact_worst_case_is_misclassified() -> None:
    model, x, y = problem()
    at_x = advlib.input_gradient(model, x, y, loss="margin")
    need = (-at_x.loss / threats.dual_norm(at_x.grad, "linf")).tolist()
    first = [next((b for b in BUDGETS if b > needed), math.inf) for needed in need]
    expected = [0.0, 0.0, *first[2:]]
    got = least_budget(model, x, y, BUDGETS, step)
    assert got.tolist() == expected
    assert len(set(expected)) > 4 and math.inf in expected


def test_it_attacks_an_image_as_often_as_bisection_does() -> None:
    model, x, y = problem()
    tried = torch.zeros(len(x))

    def counted(model: nn.Module, some: Tensor, y: Tensor, eps: float) -> Tensor:
        for image in some:
            tried[(x == image).all(1)] += 1
        return step(model, some, y, eps)

    least_budget(model, x, y, BUDGETS, counted)
    assert tried[:2].tolist() == [0, 0] and tried[2:].min() >= 3 and tried.max() <= 4


def test_nothing_asked_of_no_image() -> None:
    model, x, y = problem()
    assert least_budget(model, x[:0], y[:0], BUDGETS, step).shape == (0,)


def test_one_budget_says_yes_or_no() -> None:
    model, x, y = problem()
    got = least_budget(model, x, y, [0.1], step)
    fooled = predict(model, step(model, x, y, 0.1)).argmax(1) != y
    assert torch.equal(got[2:] == 0.1, fooled[2:]) and (got[:2] == 0).all()


@pytest.mark.parametrize("budgets", [[], [0.1, 0.1], [0.2, 0.1], [0.0, 0.1], [-0.1], [math.nan]])
def test_budgets_that_do_not_ascend_are_refused(budgets: Any) -> None:
    with pytest.raises(InputError, match="ascending"):
        least_budget(*problem(), budgets, step)
