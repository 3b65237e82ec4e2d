"""Checks of lesson 4: a stub fails, correct answers pass, each mistake gets its own sentence."""

from typing import Any

import pytest
import torch
from torch import Tensor

import advlib
from advlib.lessons import lesson_04

RANDOM_STATE_IS_WATCHED = True


def _length(delta: Tensor) -> Tensor:
    return delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def _shrink(delta: Tensor, eps: float, length: Tensor) -> Tensor:
    return delta * (eps / length.clamp_min(eps))


def _scaled_in_place(delta: Tensor, eps: float) -> Tensor:
    delta *= (eps / _length(delta).clamp_min(1e-12)).clamp_max(1)
    return delta


PROJECTION_MISTAKES = {
    "returns nothing": lambda delta, eps: None,
    "perturbations of": lambda delta, eps: delta.flatten(1),
    "changes x itself": _scaled_in_place,
    "nothing moves": lambda delta, eps: delta.clone(),
    "divides 0 by 0": lambda delta, eps: eps * delta / _length(delta),
    "a cube": lambda delta, eps: delta.clamp(-eps, eps),
    "of the whole batch": lambda delta, eps: eps * delta / delta.norm(),
    "grows to length 1": lambda delta, eps: eps * delta / _length(delta).clamp_min(1e-12),
    "one dimension only": lambda delta, eps: _shrink(delta, eps, delta.norm(dim=1, keepdim=True)),
    "comes back, and eps is 1": lambda delta, eps: _shrink(delta, 2 * eps, _length(delta)),
    "inside the ball": lambda delta, eps: _shrink(delta, eps, _length(delta)) * 0.9,
    "lengths 0, 0.5, 2, 8": lambda delta, eps: torch.where(
        _length(delta) > eps, 0.5 * _shrink(delta, eps, _length(delta)), delta
    ),
    "eps of 1 built in": lambda delta, eps: _shrink(delta, 1.0, _length(delta)),
    "stopped with TypeError": lambda delta: delta,
}


@pytest.mark.parametrize("words", PROJECTION_MISTAKES)
def test_l2_projection_names_each_mistake(words: str) -> None:
    verdict = lesson_04.l2_projection(PROJECTION_MISTAKES[words])
    assert not verdict.ok and words in verdict.message, verdict


@pytest.mark.parametrize(
    "answer",
    [
        lambda delta, eps: delta * (eps / _length(delta).clamp_min(1e-12)).clamp_max(1),
        lambda delta, eps: torch.where(_length(delta) > eps, eps * delta / _length(delta), delta),
        lambda delta, eps: advlib.threats.project(delta, eps, "l2"),
        lambda delta, eps: delta / (_length(delta) / eps).clamp_min(1),
    ],
)
def test_l2_projection_accepts_correct_answers(answer: Any) -> None:
    assert lesson_04.l2_projection(answer).ok


def _grad(model: Any, x: Tensor, y: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(torch.nn.functional.cross_entropy(model(leaf), y), leaf)[0]


def _correct(model: Any, x: Tensor, y: Tensor, eps: float, step_size: float, steps: int) -> Tensor:
    x_adv = x
    for _ in range(steps):
        x_adv = x_adv + step_size * _grad(model, x_adv, y).sign()
        x_adv = (x + (x_adv - x).clamp(-eps, eps)).clamp(0, 1)
    return x_adv


def _correct_with_bounds(
    model: Any, x: Tensor, y: Tensor, eps: float, step_size: float, steps: int
) -> Tensor:
    low, high = (x - eps).clamp_min(0), (x + eps).clamp_max(1)
    leaf = x.clone().requires_grad_()
    for _ in range(steps):
        torch.nn.functional.cross_entropy(model(leaf), y).backward()
        moved = torch.minimum(torch.maximum(leaf + step_size * leaf.grad.sign(), low), high)
        leaf = moved.detach().requires_grad_()
    return leaf


def _best(model: Any, x: Tensor, y: Tensor, eps: float, step_size: float, steps: int) -> Tensor:
    return advlib.pgd(model, x, y, eps, step_size=step_size, steps=steps, random_start=False)


@pytest.mark.parametrize("answer", [_correct, _correct_with_bounds, _best])
def test_pgd_loop_accepts_correct_answers(answer: Any) -> None:
    verdict = lesson_04.pgd_loop(answer)
    assert verdict.ok, verdict


def _around_last(model: Any, x: Tensor, y: Tensor, eps: float, step_size: float, n: int) -> Tensor:
    x_adv = x
    for _ in range(n):
        step = step_size * _grad(model, x_adv, y).sign()
        x_adv = (x_adv + step.clamp(-eps, eps)).clamp(0, 1)
    return x_adv


def _accumulates(model: Any, x: Tensor, y: Tensor, eps: float, step_size: float, n: int) -> Tensor:
    leaf = x.clone().requires_grad_()
    for _ in range(n):
        torch.nn.functional.cross_entropy(model(leaf), y).backward()
        with torch.no_grad():
            moved = leaf + step_size * leaf.grad.sign()
            leaf.copy_((x + (moved - x).clamp(-eps, eps)).clamp(0, 1))
    return leaf.detach()


def _with(
    *,
    ball: bool = True,
    box: bool = True,
    image: bool = False,
    late: bool = False,
    sign: float = 1,
    raw: bool = False,
    size: float | None = None,
    frozen: bool = False,
    more: int = 0,
) -> Any:
    """The loop with one part wrong."""

    def loop(model: Any, x: Tensor, y: Tensor, eps: float, step_size: float, steps: int) -> Tensor:
        x_adv = x
        for _ in range(steps + more):
            grad = _grad(model, x if frozen else x_adv, y)
            x_adv = x_adv + sign * (size or step_size) * (grad if raw else grad.sign())
            if image:
                x_adv = x_adv.clamp(-eps, eps)
            elif ball and not late:
                x_adv = x + (x_adv - x).clamp(-eps, eps)
            if box:
                x_adv = x_adv.clamp(0, 1)
        return (x + (x_adv - x).clamp(-eps, eps)).clamp(0, 1) if late else x_adv

    return loop


LOOP_MISTAKES = {
    "returns nothing": lambda *_: None,
    "images of": lambda model, x, *_: x[:1],
    "changes x itself": lambda model, x, *_: x.add_(0.1),
    "changes y itself": lambda model, x, y, *_: (y.zero_(), x + 0.01)[1],
    "nothing moves": lambda model, x, *_: x.clone(),
    "a ball around the last iterate": _around_last,
    "nothing keeps the path near x": _with(ball=False),
    "pixels leave [0, 1]": _with(box=False),
    "not its change": _with(image=True),
    "gradient at x.": _with(frozen=True),
    "add up": _accumulates,
    "as in FGSM": _with(size=lesson_04._EPS),
    "goes downhill": _with(sign=-1),
    "the gradient itself": _with(raw=True),
    "after the last step": _with(late=True),
    "called 6 times in 8 steps": _with(more=-2),
    "away from x, and eps is": lambda model, x, y, eps, step_size, steps: advlib.noise(x, 3 * eps),
    "is not where the loop": lambda model, x, y, eps, step_size, steps: advlib.noise(x, eps),
    "stopped with TypeError": lambda model, x, y, eps: x,
}


def test_pgd_loop_notices_pixels_outside_the_box_whatever_the_path() -> None:
    verdict = lesson_04.pgd_loop(lambda model, x, y, eps, step_size, steps: x + 0.9 * eps)
    assert not verdict.ok and "pixels leave [0, 1]" in verdict.message, verdict


@pytest.mark.parametrize("words", LOOP_MISTAKES)
def test_pgd_loop_names_each_mistake(words: str) -> None:
    verdict = lesson_04.pgd_loop(LOOP_MISTAKES[words])
    assert not verdict.ok and words in verdict.message, verdict


def _shrinking(model: Any, x: Tensor, y: Tensor, eps: float) -> Tensor:
    x_adv = x
    for step in range(10):
        grad = advlib.input_gradient(model, x_adv, y).grad
        delta = x_adv + eps * (2 - 0.2 * step) * grad.sign() - x
        x_adv = (x + delta.clamp(-eps, eps)).clamp(0, 1)
    return x_adv


TEN_GRADIENTS_MISTAKES = {
    "returns nothing": lambda model, x, y, eps: None,
    "ten are allowed": lambda model, x, y, eps: advlib.pgd(model, x, y, eps, steps=11),
    "ten calls are free": lambda model, x, y, eps: _looks(model, x),
    "away from x": lambda model, x, y, eps: advlib.fgsm(model, x, y, 2 * eps),
    "50 of 50 signs are left": lambda model, x, y, eps: x.clone(),
    "of its best constant size": lambda model, x, y, eps: advlib.pgd(model, x, y, eps, steps=10),
}


def _looks(model: Any, x: Tensor) -> Tensor:
    for _ in range(11):
        model(x)
    return x.clone()


@pytest.mark.parametrize("words", TEN_GRADIENTS_MISTAKES)
def test_ten_gradients_names_each_mistake(words: str) -> None:
    verdict = lesson_04.ten_gradients(TEN_GRADIENTS_MISTAKES[words])
    assert not verdict.ok and words in repr(verdict).replace("\n", " ")


def test_ten_gradients_whose_steps_shrink_are_enough() -> None:
    verdict = lesson_04.ten_gradients(_shrinking)
    assert verdict.ok and "are left, and PGD leaves" in repr(verdict)
