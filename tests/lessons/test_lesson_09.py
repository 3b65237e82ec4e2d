"""Checks of lesson 9: a stub fails, the solution passes, each mistake is named."""

from statistics import NormalDist

import torch
import torch.nn.functional as F

import advlib
from advlib.defences.smoothing import lower_bound
from advlib.lessons import lesson_09


def descend(model, optimizer, x, y, *, zero=True, step=True, sign=1.0):
    if zero:
        optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    (sign * loss).backward()
    if step:
        optimizer.step()
    return loss.item()


def solution(model, optimizer, x, y, eps):
    return descend(model, optimizer, advlib.pgd(model, x, y, eps, steps=5), y)


def by_hand(model, optimizer, x, y, eps):
    x_adv = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(model(x_adv), y), x_adv)
    x_adv = (x + eps * g.sign()).clamp(0, 1)
    return descend(model, optimizer, x_adv, y)


def on(attack, **options):
    def answer(model, optimizer, x, y, eps):
        return descend(model, optimizer, attack(model, x, y, eps), y, **options)

    return answer


def strong(model, x, y, eps):
    return advlib.pgd(model, x, y, eps, steps=5)


def in_place(model, optimizer, x, y, eps):
    return descend(model, optimizer, x.copy_(strong(model, x, y, eps)), y)


def in_eval(model, optimizer, x, y, eps):
    model.eval()
    loss = solution(model, optimizer, x, y, eps)
    model.train()
    return loss


def left_in_eval(model, optimizer, x, y, eps):
    model.train()
    loss = solution(model, optimizer, x, y, eps)
    model.eval()
    return loss


def wide(model, optimizer, x, y, eps):
    """The last pass sees another shape."""
    loss = solution(model, optimizer, x, y, eps)
    model(x[:2])
    return loss


STEP_MISTAKES = {
    "returns nothing": lambda *a: ...,
    "standard training": on(lambda model, x, y, eps: x),
    "changes x itself": in_place,
    "no weight has changed": on(strong, step=False),
    "the whole attacked": wide,
    "away from x": on(lambda model, x, y, eps: strong(model, x, y, 2 * eps)),
    "leave [0, 1]": on(lambda model, x, y, eps: x - 0.9 * eps),
    "easier than": on(lambda model, x, y, eps: advlib.fgsm(model, x, y, eps, targeted=True)),
    "not noise": on(lambda model, x, y, eps: advlib.noise(x, eps)),
    "no statistics": in_eval,
    "Only the attacker goes up": on(strong, sign=-1.0),
    "step before": on(strong, zero=False),
    "now return the loss": lambda *a: (solution(*a), None)[1],
    "comes back in eval": left_in_eval,
    "stopped with TypeError": lambda model: model,
}


def test_adversarial_step_names_each_mistake() -> None:
    for words, answer in STEP_MISTAKES.items():
        verdict = lesson_09.adversarial_step(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_adversarial_step_accepts_correct_answers() -> None:
    for answer in (solution, by_hand):
        assert lesson_09.adversarial_step(answer).ok, lesson_09.adversarial_step(answer)


def certified(count, total, sigma, alpha):
    p = lower_bound(count, total, alpha)
    return sigma * NormalDist().inv_cdf(p) if p > 0.5 else 0.0


RADIUS_MISTAKES = {
    "returns nothing": lambda *a: None,
    "the radius is that of the share": lambda count, total, sigma, alpha: (
        sigma * NormalDist().inv_cdf(count / total)
    ),
    "quantile of 0 or 1": lambda count, total, sigma, alpha: (
        certified(count, total, sigma, alpha)
        if count < total
        else sigma * NormalDist().inv_cdf(count / total)
    ),
    "proves certainty": lambda count, total, sigma, alpha: (
        certified(count, total, sigma, alpha) if count < total else float("inf")
    ),
    "sigma is missing": lambda count, total, sigma, alpha: certified(count, total, 1.0, alpha),
    "inv_cdf": lambda count, total, sigma, alpha: (
        sigma * NormalDist().cdf(lower_bound(count, total, alpha))
    ),
    "a length is not negative": lambda count, total, sigma, alpha: (
        sigma * NormalDist().inv_cdf(max(1e-9, lower_bound(count, total, alpha)))
    ),
    "Only a bound above 1/2": lambda count, total, sigma, alpha: (
        abs(certified(count, total, sigma, alpha)) or 0.1
    ),
    "longer than what is certified": lambda count, total, sigma, alpha: certified(
        count, total, sigma, 0.05
    ),
    "shorter than what is certified": lambda count, total, sigma, alpha: certified(
        count, total, sigma, alpha / 2
    ),
    "stopped with TypeError": lambda count: 0.0,
}


def test_radius_names_each_mistake() -> None:
    for words, answer in RADIUS_MISTAKES.items():
        verdict = lesson_09.radius(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_radius_accepts_the_correct_answer() -> None:
    assert lesson_09.radius(certified).ok, lesson_09.radius(certified)
