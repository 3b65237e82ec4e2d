"""Checks of lesson 1: a stub fails, the solution passes, each mistake gets its own sentence."""

import torch
from torch import Tensor

from advlib.checks import lesson_01


def _signs(x: Tensor, generator: torch.Generator) -> Tensor:
    return 2.0 * torch.randint(0, 2, x.shape, generator=generator) - 1


def _in_place(x: Tensor, eps: float, generator: torch.Generator) -> Tensor:
    x += eps * _signs(x, generator)
    return x.clamp_(0, 1)


SIGN_NOISE_MISTAKES = {
    "returns nothing": lambda x, eps, generator: None,
    "pictures of": lambda x, eps, generator: x[:1],
    "nothing moves": lambda x, eps, generator: x.clone(),
    "changes x itself": _in_place,
    "A random sign is -1 or +1": lambda x, eps, generator: x + 2 * eps * _signs(x, generator),
    "never down": lambda x, eps, generator: (
        x + eps * torch.randint(0, 2, x.shape, generator=generator)
    ).clamp(0, 1),
    "inside the ball": lambda x, eps, generator: (
        x + eps * (2 * torch.rand(x.shape, generator=generator) - 1)
    ).clamp(0, 1),
    "whole pictures": lambda x, eps, generator: (
        x + eps * _signs(x[:, :1, :1, :1], generator)
    ).clamp(0, 1),
    "same noise": lambda x, eps, generator: (x + eps * _signs(x[:1], generator)).clamp(0, 1),
    "% of the pixels move up": lambda x, eps, generator: (
        x + eps * (2.0 * (torch.rand(x.shape, generator=generator) < 0.9) - 1)
    ).clamp(0, 1),
    "equally seeded": lambda x, eps, generator: x + eps * (2 * torch.rand_like(x).round() - 1),
    "end with .clamp(0, 1)": lambda x, eps, generator: x + eps * _signs(x, generator),
}


def test_sign_noise_names_each_mistake() -> None:
    for words, answer in SIGN_NOISE_MISTAKES.items():
        with torch.random.fork_rng(devices=[]):
            verdict = lesson_01.sign_noise(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_sign_noise_accepts_a_right_answer() -> None:
    verdict = lesson_01.sign_noise(
        lambda x, eps, generator: (x + eps * _signs(x, generator)).clamp(0, 1)
    )
    assert verdict.ok, verdict


FOOLING_MISTAKES = {
    "returns nothing": lambda before, after, y: None,
    "every wrong answer": lambda before, after, y: (after != y).float().mean(),
    "divide by all pictures": lambda before, after, y: (
        ((before == y) & (after != y)).float().mean()
    ),
    "above the line": lambda before, after, y: (after != y).sum() / (before == y).sum(),
    "every change": lambda before, after, y: (after != before).float().mean(),
    "stays right": lambda before, after, y: (after == y)[before == y].float().mean(),
    "accuracy under attack": lambda before, after, y: (after == y).float().mean(),
    "number of pictures": lambda before, after, y: ((before == y) & (after != y)).sum(),
    "factor 100": lambda before, after, y: 100 * (after != y)[before == y].float().mean(),
    "return 0": lambda before, after, y: (after != y)[before == y].float().mean(),
    "0.75 is expected": lambda before, after, y: 0.123,
    "stopped with TypeError": lambda before, after: 0.5,
}


def test_fooling_rate_names_each_mistake() -> None:
    for words, answer in FOOLING_MISTAKES.items():
        verdict = lesson_01.fooling_rate(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_fooling_rate_accepts_a_right_answer() -> None:
    def right(before: Tensor, after: Tensor, y: Tensor) -> float:
        were = before == y
        return float((were & (after != y)).sum() / were.sum()) if were.any() else 0.0

    assert lesson_01.fooling_rate(right).ok
