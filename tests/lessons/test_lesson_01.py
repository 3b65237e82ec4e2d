"""Checks of lesson 1: a stub fails, the solution passes, each mistake gets its own sentence."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import advlib
from advlib.lessons import lesson_01


def _signs(x: Tensor, generator: torch.Generator) -> Tensor:
    return 2.0 * torch.randint(0, 2, x.shape, generator=generator) - 1


def _in_place(x: Tensor, eps: float, generator: torch.Generator) -> Tensor:
    x += eps * _signs(x, generator)
    return x.clamp_(0, 1)


SIGN_NOISE_MISTAKES = {
    "returns nothing": lambda x, eps, generator: None,
    "images of": lambda x, eps, generator: x[:1],
    "nothing moves": lambda x, eps, generator: x.clone(),
    "changes x itself": _in_place,
    "A random sign is -1 or +1": lambda x, eps, generator: x + 2 * eps * _signs(x, generator),
    "never down": lambda x, eps, generator: (
        x + eps * torch.randint(0, 2, x.shape, generator=generator)
    ).clamp(0, 1),
    "inside the ball": lambda x, eps, generator: (
        x + eps * (2 * torch.rand(x.shape, generator=generator) - 1)
    ).clamp(0, 1),
    "whole images": lambda x, eps, generator: (x + eps * _signs(x[:, :1, :1, :1], generator)).clamp(
        0, 1
    ),
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


def test_sign_noise_accepts_a_correct_answer() -> None:
    verdict = lesson_01.sign_noise(
        lambda x, eps, generator: (x + eps * _signs(x, generator)).clamp(0, 1)
    )
    assert verdict.ok, verdict


FOOLING_MISTAKES = {
    "returns nothing": lambda before, after, y: None,
    "every misclassified image": lambda before, after, y: (after != y).float().mean(),
    "divide by all images": lambda before, after, y: ((before == y) & (after != y)).float().mean(),
    "in the numerator": lambda before, after, y: (after != y).sum() / (before == y).sum(),
    "every change": lambda before, after, y: (after != before).float().mean(),
    "stays correct": lambda before, after, y: (after == y)[before == y].float().mean(),
    "accuracy under attack": lambda before, after, y: (after == y).float().mean(),
    "number of images": lambda before, after, y: ((before == y) & (after != y)).sum(),
    "factor 100": lambda before, after, y: 100 * (after != y)[before == y].float().mean(),
    "return 0": lambda before, after, y: (after != y)[before == y].float().mean(),
    "0.75 is expected": lambda before, after, y: 0.123,
    "stopped with TypeError": lambda before, after: 0.5,
}


def test_fooling_rate_names_each_mistake() -> None:
    for words, answer in FOOLING_MISTAKES.items():
        verdict = lesson_01.fooling_rate(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_fooling_rate_accepts_a_correct_answer() -> None:
    def rate(before: Tensor, after: Tensor, y: Tensor) -> float:
        correct = before == y
        return float((correct & (after != y)).sum() / correct.sum()) if correct.any() else 0.0

    assert lesson_01.fooling_rate(rate).ok


def _searched(
    logits: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    eps: float,
    generator: torch.Generator,
    side: int = 12,
) -> Tensor:
    """Square blocks of one random sign, each kept where it makes the lead smaller."""

    def lead(delta: Tensor) -> Tensor:
        z = logits((x + delta).clamp(0, 1))
        own = z.gather(1, y[:, None])[:, 0]
        return own - z.scatter(1, y[:, None], -torch.inf).amax(1)

    delta = eps * _signs(x[:, :, :1], generator).expand_as(x).clone()
    best = lead(delta)
    for _ in range(lesson_01.LOOKS - 1):
        top, left = torch.randint(0, 65 - side, (2,), generator=generator).tolist()
        trial = delta.clone()
        trial[:, :, top : top + side, left : left + side] = eps * _signs(x[..., :1, :1], generator)
        now = lead(trial)
        better = now < best
        delta[better], best = trial[better], torch.minimum(now, best)
    return (x + delta).clamp(0, 1)


def _with_gradient(logits: Any, x: Tensor, y: Tensor, eps: float, _: Any) -> Tensor:
    x_leaf = x.clone().requires_grad_()
    torch.nn.functional.cross_entropy(logits(x_leaf), y).backward()
    return x


SEARCH_MISTAKES = {
    "returns nothing": lambda logits, x, y, eps, generator: None,
    "images of": lambda logits, x, y, eps, generator: x[:1],
    "changes x itself": lambda logits, x, y, eps, generator: x.add_(eps).clamp_(0, 1),
    "outside [0, 1]": lambda logits, x, y, eps, generator: x + 2,
    "eps is 4/255": lambda logits, x, y, eps, generator: (x + 2 * eps).clamp(0, 1),
    "never look": lambda logits, x, y, eps, generator: x.clone(),
    "more than 100 times": lambda logits, x, y, eps, generator: [logits(x) for _ in range(101)],
    "does not require grad": _with_gradient,
    "8 are wanted": lambda *given: _searched(*given, side=1),
}


def test_search_names_each_mistake() -> None:
    for words, answer in SEARCH_MISTAKES.items():
        verdict = lesson_01.search(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_search_accepts_a_search_and_no_noise() -> None:
    assert lesson_01.search(_searched).ok

    def draws(logits: Any, x: Tensor, y: Tensor, eps: float, generator: Any) -> Tensor:
        best = x.clone()
        for _ in range(lesson_01.LOOKS):
            noisy = advlib.noise(x, eps, distribution="sign", generator=generator)
            fooled = logits(noisy).argmax(1) != y
            best[fooled] = noisy[fooled]
        return best

    assert "8 are wanted" in lesson_01.search(draws).message
