"""Checks of lesson 7: a stub fails, correct answers pass, each mistake is named."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import advlib
from advlib.analysis import attribution
from advlib.analysis.map_comparison import per_pixel, top_pixels
from advlib.lessons import lesson_07


def _mean(gradient: Callable, start: Tensor, path: Tensor, steps: int, at: float = 0.5) -> Tensor:
    return sum(gradient(start + (k + at) / steps * path) for k in range(steps)) / steps


def _in_place(gradient: Callable, x: Tensor, baseline: Tensor, steps: int) -> Tensor:
    x -= baseline
    return x


INTEGRATED_MISTAKES = {
    "returns nothing": lambda g, x, b, steps: None,
    "maps of": lambda g, x, b, steps: (x - b).sum(),
    "changes x itself": _in_place,
    "how far its pixel value moves": lambda g, x, b, n: _mean(g, b, x - b, n),
    "factor `steps`": lambda g, x, b, n: n * (x - b) * _mean(g, b, x - b, n),
    "gradient at x only": lambda g, x, b, n: (x - b) * g(x),
    "at the baseline only": lambda g, x, b, n: (x - b) * g(b),
    "begins at black": lambda g, x, b, n: (x - b) * _mean(g, 0 * x, x, n),
    "continues beyond": lambda g, x, b, n: (x - b) * _mean(g, x, x - b, n),
    "from x to 2x": lambda g, x, b, n: (x - b) * _mean(g, x, x, n),
    "multiply by x.": lambda g, x, b, n: x * _mean(g, b, x - b, n),
    "sign is reversed": lambda g, x, b, n: (b - x) * _mean(g, b, x - b, n),
    "absolute values": lambda g, x, b, n: ((x - b) * _mean(g, b, x - b, n)).abs(),
    "adds up to": lambda g, x, b, n: 0.3 * x,
    "stopped with": lambda g, x: x,
}


@pytest.mark.parametrize("words", INTEGRATED_MISTAKES)
def test_integrated_gradients_names_each_mistake(words: str) -> None:
    verdict = lesson_07.integrated_gradients(INTEGRATED_MISTAKES[words])
    assert not verdict.ok and words in verdict.message, verdict


def test_integrated_gradients_accepts_every_reasonable_sum() -> None:
    def midpoint(g: Callable, x: Tensor, b: Tensor, steps: int) -> Tensor:
        return (x - b) * _mean(g, b, x - b, steps)

    def trapezium(g: Callable, x: Tensor, b: Tensor, steps: int) -> Tensor:
        points = [g(torch.lerp(b, x, k / steps)) for k in range(steps + 1)]
        return (x - b) * (sum(points) - (points[0] + points[-1]) / 2) / steps

    def stacked(g: Callable, x: Tensor, b: Tensor, steps: int) -> Tensor:
        t = (torch.arange(steps) + 0.5) / steps
        points = b + t.view(-1, 1, 1, 1, 1) * (x - b)
        return (x - b) * g(points.flatten(0, 1)).view(points.shape).mean(0)

    for answer in (midpoint, trapezium, stacked):
        verdict = lesson_07.integrated_gradients(answer)
        assert verdict.ok and "middle" not in verdict.message, verdict


@pytest.mark.parametrize("at", [0.0, 1.0])
def test_integrated_gradients_accepts_a_crude_sum_and_says_so(at: float) -> None:
    verdict = lesson_07.integrated_gradients(
        lambda g, x, b, steps: (x - b) * _mean(g, b, x - b, steps, at)
    )
    assert verdict.ok and "its middle" in verdict.message, verdict


def _null(a: Tensor, b: Tensor, agreement: Callable, shuffle: Callable, draws: int) -> tuple:
    values = torch.tensor([agreement(a, shuffle(b)) for _ in range(draws)])
    return values, agreement(a, b)


def _from_null(rule: Callable) -> Callable:
    def answer(a: Tensor, b: Tensor, agreement: Callable, shuffle: Callable, draws: int) -> float:
        return float(rule(*_null(a, b, agreement, shuffle, draws), draws))

    return answer


def _same_way(a: Tensor, b: Tensor, agreement: Callable, shuffle: Callable, draws: int) -> float:
    null = [agreement(shuffle(a), shuffle(b)) for _ in range(draws)]
    return (1 + sum(value >= agreement(a, b) for value in null)) / (1 + draws)


def _one_shuffle(a: Tensor, b: Tensor, agreement: Callable, shuffle: Callable, draws: int) -> float:
    null = agreement(a, shuffle(b))
    return float(null >= agreement(a, b))


P_MISTAKES = {
    "returns nothing": lambda *given: None,
    "you shuffle a.": _same_way,
    "is called 1 times": _one_shuffle,
    "leave out the real pair": _from_null(lambda null, seen, n: (null >= seen).sum() / n),
    "numerator only": _from_null(lambda null, seen, n: (1 + (null >= seen).sum()) / n),
    "denominator only": _from_null(lambda null, seen, n: (null >= seen).sum() / (1 + n)),
    "that exceed": _from_null(lambda null, seen, n: (1 + (null > seen).sum()) / (1 + n)),
    "equal as well": _from_null(lambda null, seen, n: (null > seen).sum() / n),
    "agree *less*": _from_null(lambda null, seen, n: (1 + (null <= seen).sum()) / (1 + n)),
    "agree less. p": _from_null(lambda null, seen, n: (null < seen).sum() / n),
    "two-sided": _from_null(
        lambda null, seen, n: (
            (1 + ((null - null.mean()).abs() >= abs(seen - null.mean())).sum()) / (1 + n)
        )
    ),
    "double p": _from_null(lambda null, seen, n: 2 * (1 + (null >= seen).sum()) / (1 + n)),
    "number of draws": _from_null(lambda null, seen, n: 1 + (null >= seen).sum()),
    "you return": _from_null(lambda null, seen, n: 0.0123),
    "stopped with TypeError": lambda a, b: 0.5,
}


@pytest.mark.parametrize("words", P_MISTAKES)
def test_permutation_p_names_each_mistake(words: str) -> None:
    verdict = lesson_07.permutation_p(P_MISTAKES[words])
    assert not verdict.ok and words in verdict.message, verdict


def test_permutation_p_accepts_correct_answers() -> None:
    def loop(a: Tensor, b: Tensor, agreement: Callable, shuffle: Callable, draws: int) -> float:
        observed, reached = agreement(a, b), 1
        for _ in range(draws):
            b = shuffle(b)  # shuffling the shuffled is as good
            reached += agreement(a, b) >= observed
        return reached / (draws + 1)

    assert lesson_07.permutation_p(loop).ok
    assert lesson_07.permutation_p(
        _from_null(lambda null, seen, n: ((null >= seen).double().sum() + 1) / (n + 1))
    ).ok


def _steepest(model: Callable, x: Tensor, y: Tensor) -> Tensor:
    gradient = advlib.input_gradient(model, x, y, loss="margin").grad
    return top_pixels(per_pixel(gradient), 0.05)


def _greedy(model: Callable, x: Tensor, y: Tensor) -> Tensor:
    for _ in range(9):
        chosen = _steepest(model, x, y)
    return chosen


def _counting(model: Callable, x: Tensor, y: Tensor) -> Tensor:
    for _ in range(9):
        model(x)
    return _steepest(model, x, y)


def _brighter(model: Callable, x: Tensor, y: Tensor) -> Tensor:
    chosen = _steepest(model, x, y)
    x += 0.1
    return chosen


CHOICE_MISTAKES = {
    "returns nothing": lambda model, x, y: None,
    "pixels of (24, 64, 64)": lambda model, x, y: _steepest(model, x, y)[:, None],
    "changes x itself": _brighter,
    "booleans are expected": lambda model, x, y: _steepest(model, x, y).float(),
    "410 to 410 pixels": lambda model, x, y: top_pixels(x.sum(1), 0.1),
    "9.0 gradients": _greedy,
    "9.0 calls without": _counting,
    "the gradient at x says": _steepest,
    "pixels flip 0 of 24": lambda model, x, y: top_pixels(-per_pixel(x), 0.05).roll(32, 1),
    "stopped with TypeError": lambda x: x,
}


@pytest.mark.parametrize("words", CHOICE_MISTAKES)
def test_pixel_choice_names_each_mistake(words: str) -> None:
    verdict = lesson_07.pixel_choice(CHOICE_MISTAKES[words])
    assert not verdict.ok and words.lower() in verdict.message.lower(), verdict


def test_the_pixels_where_an_attack_does_its_damage_flip_more_than_the_steepest() -> None:
    def damage(model: Callable, x: Tensor, y: Tensor) -> Tensor:
        x_adv = advlib.pgd(model, x, y, 4 / 255, steps=4, loss="margin", random_start=False)
        removed = -attribution.integrated_gradients(model, x_adv, y, x, steps=4)
        return top_pixels(per_pixel(removed, "signed"), 0.05)

    verdict = lesson_07.pixel_choice(damage)
    assert verdict.ok and "the steepest ones" in verdict.message, verdict
