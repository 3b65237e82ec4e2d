"""Checks of lesson 3: a stub fails, the solution passes, each mistake gets its own sentence."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import advlib
from advlib import threats
from advlib.lessons import lesson_03


def _grad(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return advlib.input_gradient(model, x, y).grad


def _turn(targeted: bool) -> int:
    return -1 if targeted else 1


def _in_place(model: nn.Module, x: Tensor, y: Tensor, eps: float, targeted: bool) -> Tensor:
    return x.add_(_turn(targeted) * eps * _grad(model, x, y).sign()).clamp_(0, 1)


def _leaves_grad_on(model: nn.Module, x: Tensor, y: Tensor, eps: float, targeted: bool) -> Tensor:
    x.requires_grad_()
    F.cross_entropy(model(x), y).backward()
    return (x + _turn(targeted) * eps * x.grad.sign()).clamp(0, 1).detach()


FGSM_MISTAKES = {
    "returns nothing": lambda model, x, y, eps, targeted: ...,
    "images of": lambda model, x, y, eps, targeted: x[:1],
    "changes x itself": _in_place,
    "leaves requires_grad": _leaves_grad_on,
    "nothing moves": lambda model, x, y, eps, targeted: x.clone(),
    "gradient itself": lambda model, x, y, eps, targeted: x + eps * _grad(model, x, y),
    "do not divide by 255": lambda model, x, y, eps, targeted: (
        x + eps / 255 * _grad(model, x, y).sign()
    ),
    "not counted in 255ths": lambda model, x, y, eps, targeted: (
        x + 255 * eps * _grad(model, x, y).sign()
    ).clamp(0, 1),
    "at a corner": lambda model, x, y, eps, targeted: x + eps * _grad(model, x, y).mul(50).tanh(),
    "more confident": lambda model, x, y, eps, targeted: (
        x - _turn(targeted) * eps * _grad(model, x, y).sign()
    ),
    "the class that the network predicts": lambda model, x, y, eps, targeted: (
        x + eps * _grad(model, x, model(x).argmax(1)).sign()
    ),
    "all images get the same step": lambda model, x, y, eps, targeted: (
        x + eps * _grad(model, x, y)[:1].sign()
    ),
    "move in the direction of the gradient": lambda model, x, y, eps, targeted: (
        x + eps * _grad(model, x, y).flip(3).sign()
    ),
    "still climbs": lambda model, x, y, eps, targeted: (x + eps * _grad(model, x, y).sign()).clamp(
        0, 1
    ),
    "untargeted is correct, targeted is not": lambda model, x, y, eps, targeted: (
        x + _turn(targeted) * eps * _grad(model, x, (y + targeted) % 3).sign()
    ).clamp(0, 1),
    "end with .clamp(0, 1)": lambda model, x, y, eps, targeted: (
        x + _turn(targeted) * eps * torch.where(x == x, _grad(model, x, y), 0).sign()
    ),
    "stopped with TypeError": lambda model, x: x,
}


def test_fgsm_names_each_mistake() -> None:
    for words, answer in FGSM_MISTAKES.items():
        verdict = lesson_03.fgsm(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_fgsm_accepts_correct_answers() -> None:
    def by_hand(model: nn.Module, x: Tensor, y: Tensor, eps: float, targeted: bool) -> Tensor:
        leaf = x.clone().requires_grad_()
        # A mean instead of a sum changes the size of the gradient, not its sign.
        loss = F.cross_entropy(model(leaf), y)
        (-loss if targeted else loss).backward()
        return (x + eps * leaf.grad.sign()).clamp(0, 1)

    def by_package(model: nn.Module, x: Tensor, y: Tensor, eps: float, targeted: bool) -> Tensor:
        return advlib.fgsm(model, x, y, eps, targeted=targeted)

    for answer in (by_hand, by_package):
        verdict = lesson_03.fgsm(answer)
        assert verdict.ok, verdict


def test_checks_leave_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    lesson_03.fgsm(lambda *arguments: ...)
    assert torch.equal(torch.get_rng_state(), before)


def _wide(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


L2_MISTAKES = {
    "returns nothing": lambda g, eps: None,
    "perturbations of": lambda g, eps: g.flatten(1),
    "changes x itself": lambda g, eps: g.mul_(eps / _wide(g.flatten(1).norm(dim=1))),
    "zero everywhere": lambda g, eps: torch.zeros_like(g),
    "Multiply by eps": lambda g, eps: g / _wide(g.flatten(1).norm(dim=1)),
    "lowers the loss": lambda g, eps: -threats.steepest(g, eps, "l2"),
    "do not divide": lambda g, eps: eps * g,
    "the whole batch": lambda g, eps: eps * g / g.norm(),
    "over the colours": lambda g, eps: eps * g / g.norm(dim=1, keepdim=True),
    "that is the linf step": lambda g, eps: eps * g.sign(),
    "right length but": lambda g, eps: eps * g.sign() / g[0].numel() ** 0.5,
    "the l1 length": lambda g, eps: eps * g / _wide(g.flatten(1).abs().sum(1)),
    "the largest entry": lambda g, eps: eps * g / _wide(g.flatten(1).abs().amax(1)),
    "squared length": lambda g, eps: eps * g / _wide(g.flatten(1).square().sum(1)),
    "average the squares": lambda g, eps: eps * g / _wide(g.flatten(1).square().mean(1).sqrt()),
    "have l2 lengths": lambda g, eps: 0.3 * eps * g / _wide(g.flatten(1).norm(dim=1)),
    "NaN or infinite": lambda g, eps: g / 0,
    "zero by zero": lambda g, eps: eps * g / _wide(g.flatten(1).norm(dim=1)),
    "nothing should move": lambda g, eps: torch.where(g == 0, eps, threats.steepest(g, eps, "l2")),
    "of a confident network": lambda g, eps: eps * g / (_wide(g.flatten(1).norm(dim=1)) + 1e-6),
}


def test_l2_step_names_each_mistake() -> None:
    for words, answer in L2_MISTAKES.items():
        verdict = lesson_03.l2_step(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_l2_step_accepts_correct_answers() -> None:
    def guarded(g: Tensor, eps: float) -> Tensor:
        return eps * g / _wide(g.flatten(1).norm(dim=1).clamp_min(1e-30))

    for answer in (guarded, lambda g, eps: threats.steepest(g, eps, "l2")):
        verdict = lesson_03.l2_step(answer)
        assert verdict.ok, verdict


def _l1(g: Tensor) -> Tensor:
    return g.flatten(1).abs().sum(1)


BUDGET_MISTAKES = {
    "returns nothing": lambda margin, g: ...,
    "budgets of": lambda margin, g: margin.max(),
    "negative": lambda margin, g: margin / _l1(g),
    "budget in l2": lambda margin, g: -margin / g.flatten(1).norm(dim=1),
    "budget in l1": lambda margin, g: -margin / g.flatten(1).abs().amax(1),
    "by the mean": lambda margin, g: -margin / g.flatten(1).abs().mean(1),
    "cancel": lambda margin, g: -margin / g.flatten(1).sum(1).abs(),
    "you multiply": lambda margin, g: -margin * _l1(g),
    "wrong way round": lambda margin, g: _l1(g) / -margin,
    "whole batch": lambda margin, g: -margin / g[:3].abs().sum(),
    "count in 255ths": lambda margin, g: -255 * margin / _l1(g),
    "is expected": lambda margin, g: torch.full_like(margin, 0.123),
    "misclassified already": lambda margin, g: -margin / _l1(g),
    "where the gradient is zero": lambda margin, g: (-margin).clamp_min(0) / _l1(g).clamp_min(1e-3),
}


def test_needed_eps_names_each_mistake() -> None:
    for words, answer in BUDGET_MISTAKES.items():
        verdict = lesson_03.needed_eps(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_needed_eps_accepts_correct_answers() -> None:
    def with_dual_norm(margin: Tensor, g: Tensor) -> Tensor:
        return (-margin).clamp_min(0) / threats.dual_norm(g, "linf")

    def with_where(margin: Tensor, g: Tensor) -> Tensor:
        return torch.where(margin > 0, 0, -margin / _l1(g))

    for answer in (with_dual_norm, with_where):
        verdict = lesson_03.needed_eps(answer)
        assert verdict.ok, verdict


def _twice(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    return advlib.fgsm(model, advlib.fgsm(model, x, y, eps / 2), y, eps / 2)


TWO_MISTAKES = {
    "returns nothing": lambda model, x, y, eps: ...,
    "images of": lambda model, x, y, eps: x[:1],
    "changes x itself": lambda model, x, y, eps: x.add_(eps),
    "leave [0, 1]": lambda model, x, y, eps: x - 1,
    "can leave the ball": lambda model, x, y, eps: advlib.fgsm(model, x, y, 2 * eps),
    "3 gradients": lambda model, x, y, eps: advlib.pgd(model, x, y, eps, steps=3),
    "two are allowed": lambda model, x, y, eps: advlib.pgd(model, x, y, eps, steps=3),
    "times are allowed": lambda model, x, y, eps: [model(x) for _ in range(11)] and x.clone(),
    "with one gradient": lambda model, x, y, eps: advlib.fgsm(model, x, y, eps),
    "That beats FGSM": _twice,
}


def test_two_gradients_names_each_mistake() -> None:
    for words, answer in TWO_MISTAKES.items():
        verdict = lesson_03.two_gradients(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_two_gradients_accepts_the_average_of_two_gradients() -> None:
    def averaged(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
        def unit(point: Tensor) -> Tensor:
            grad = advlib.input_gradient(model, point, y, loss="margin").grad
            return grad / _wide(_l1(grad))

        first = unit(x)
        second = unit((x + eps * first.sign()).clamp(0, 1))
        return (x + eps * (first + second).sign()).clamp(0, 1)

    verdict = lesson_03.two_gradients(averaged)
    assert verdict.ok, verdict
