"""Checks of lesson 5: a stub fails, the solution passes, each mistake gets its own sentence."""

from typing import Any

import pytest
import torch
from torch import Tensor

import advlib
from advlib.lessons import lesson_05


def _reach(w: Tensor, eps: float) -> Tensor:
    return eps * w.abs().sum()


ROBUST_ACCURACY_MISTAKES = {
    "returns nothing": lambda w, b, x, y, eps: None,
    "the sign of y is lost": lambda w, b, x, y, eps: (
        (y * (_reach(w, eps) - (x @ w + b)) < 0).float().mean()
    ),
    "y is missing": lambda w, b, x, y, eps: ((x @ w + b) > _reach(w, eps)).float().mean(),
    "misclassified from the start": lambda w, b, x, y, eps: (
        ((x @ w + b).abs() > _reach(w, eps)).float().mean()
    ),
    "eps * ||w||_2": lambda w, b, x, y, eps: (y * (x @ w + b) > eps * w.norm()).float().mean(),
    "eps * max|w|": lambda w, b, x, y, eps: (y * (x @ w + b) > eps * w.abs().max()).float().mean(),
    "Negative weights": lambda w, b, x, y, eps: (y * (x @ w + b) > eps * w.sum()).float().mean(),
    "the bias b": lambda w, b, x, y, eps: (y * (x @ w) > _reach(w, eps)).float().mean(),
    "plain accuracy: eps is missing": lambda w, b, x, y, eps: (y * (x @ w + b) > 0).float().mean(),
    "not by ||w||_1": lambda w, b, x, y, eps: (y * (x @ w + b) > w.abs().sum()).float().mean(),
    "a tie is not": lambda w, b, x, y, eps: (y * (x @ w + b) >= _reach(w, eps)).float().mean(),
    "best case": lambda w, b, x, y, eps: (y * (x @ w + b) > -_reach(w, eps)).float().mean(),
    "share of fooled images": lambda w, b, x, y, eps: (
        (y * (x @ w + b) <= _reach(w, eps)).float().mean()
    ),
    "number of images": lambda w, b, x, y, eps: (y * (x @ w + b) > _reach(w, eps)).sum(),
    "factor 100": lambda w, b, x, y, eps: 100 * (y * (x @ w + b) > _reach(w, eps)).float().mean(),
    "is expected": lambda w, b, x, y, eps: 0.123,
    "plain accuracy.": lambda w, b, x, y, eps: (y * (x @ w + b) > _reach(w, 0.125)).float().mean(),
    "stopped with TypeError": lambda w, b: 0.5,
}


def test_robust_accuracy_names_each_mistake() -> None:
    for words, answer in ROBUST_ACCURACY_MISTAKES.items():
        verdict = lesson_05.robust_accuracy(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_every_mistake_in_robust_accuracy_returns_a_share_of_its_own() -> None:
    correct, mistakes = lesson_05._robust_shares(*lesson_05._one_image_for_each_mistake())
    shares = [correct, *mistakes.values()]
    assert len({round(share, 6) for share in shares}) == len(shares)


def test_robust_accuracy_accepts_correct_answers() -> None:
    def plain(w: Tensor, b: Tensor, x: Tensor, y: Tensor, eps: float) -> float:
        worst = y * (x @ w + b) - eps * w.abs().sum()
        return float((worst > 0).float().mean())

    def by_attack(w: Tensor, b: Tensor, x: Tensor, y: Tensor, eps: float) -> Tensor:
        x_adv = x - eps * y[:, None] * w.sign()
        return ((x_adv @ w + b).sign() == y).double().mean()

    assert lesson_05.robust_accuracy(plain).ok
    assert lesson_05.robust_accuracy(by_attack).ok


SMALLEST_EPS_MISTAKES = {
    "returns nothing": lambda w, b, x: None,
    "budgets of (3,)": lambda w, b, x: ((x @ w + b).abs() / w.abs().sum()).min(),
    "are negative. An image": lambda w, b, x: (x @ w + b) / w.abs().sum(),
    "are negative. The distance": lambda w, b, x: -(x @ w + b) / w.abs().sum(),
    "divide by ||w||_2. ": lambda w, b, x: (x @ w + b).abs() / w.norm(),
    "||w||_2 squared": lambda w, b, x: (x @ w + b).abs() / (w @ w),
    "max|w|": lambda w, b, x: (x @ w + b).abs() / w.abs().max(),
    "w.sum()": lambda w, b, x: (x @ w + b).abs() / w.sum(),
    "the mean of |w|": lambda w, b, x: (x @ w + b).abs() / w.abs().mean(),
    "the bias b": lambda w, b, x: (x @ w).abs() / w.abs().sum(),
    "Which eps": lambda w, b, x: (x @ w + b).abs(),
    "multiply": lambda w, b, x: (x @ w + b).abs() * w.abs().sum(),
    "no factor 255": lambda w, b, x: 255 * (x @ w + b).abs() / w.abs().sum(),
    "is expected": lambda w, b, x: torch.full((3,), 0.5),
}


def test_smallest_eps_names_each_mistake() -> None:
    for words, answer in SMALLEST_EPS_MISTAKES.items():
        verdict = lesson_05.smallest_eps(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_smallest_eps_accepts_correct_answers() -> None:
    assert lesson_05.smallest_eps(lambda w, b, x: (x @ w + b).abs() / w.abs().sum()).ok
    assert lesson_05.smallest_eps(
        lambda w, b, x: torch.einsum("nd,d->n", x, w).add(b).abs() / torch.norm(w, p=1)
    ).ok


def _linearised(model: Any, x: Tensor, y: Tensor) -> Tensor:
    here = advlib.input_gradient(model, x, y, loss="margin")
    return -here.loss / here.grad.flatten(1).abs().sum(1)


def _in_place(model: Any, x: Tensor, y: Tensor) -> Tensor:
    x += 0.01
    return torch.full((len(x),), 0.01)


def _of_many_calls(gradients: bool) -> Any:
    def answer(model: Any, x: Tensor, y: Tensor) -> Tensor:
        for _ in range(5):
            _linearised(model, x, y) if gradients else advlib.evaluation.predict(model, x)
        return torch.full((len(x),), 0.01)

    return answer


BUDGET_FORECAST_MISTAKES = {
    "returns nothing": lambda model, x, y: None,
    "budgets of (16,)": lambda model, x, y: torch.tensor(0.01),
    "changes x itself": _in_place,
    "5.0 gradients": _of_many_calls(True),
    "5.0 calls without": _of_many_calls(False),
    "are not positive": lambda model, x, y: torch.zeros(len(x)),
    "no factor 255": lambda model, x, y: 255 * _linearised(model, x, y),
    "times its best constant": _linearised,
    "What does a second gradient": lambda model, x, y: 0.9 * _linearised(model, x, y),
}


@pytest.mark.parametrize("words", BUDGET_FORECAST_MISTAKES)
def test_budget_forecast_names_each_mistake(words: str) -> None:
    verdict = lesson_05.budget_forecast(BUDGET_FORECAST_MISTAKES[words])
    assert not verdict.ok and words in verdict.message, verdict


def test_a_second_gradient_on_the_way_forecasts_better() -> None:
    def halfway(model: Any, x: Tensor, y: Tensor) -> Tensor:
        here = advlib.input_gradient(model, x, y, loss="margin")
        half = 0.5 * -here.loss / here.grad.flatten(1).abs().sum(1)
        x_half = (x + half.view(-1, 1, 1, 1) * here.grad.sign()).clamp(0, 1)
        return 0.9 * (half + _linearised(model, x_half, y))

    verdict = lesson_05.budget_forecast(halfway)
    assert verdict.ok and "off by a factor" in verdict.message
