"""Checks of lesson 6: a stub fails, the solution passes, each mistake gets its own sentence."""

import pytest
import torch
from torch import Tensor, nn

from advlib.analysis import activations
from advlib.analysis.activations import along
from advlib.lessons import lesson_06


def _norm(h: Tensor) -> Tensor:
    return h.flatten(1).norm(dim=1)


def _grows(clean: Tensor, changed: Tensor) -> Tensor:
    changed -= clean
    return _norm(changed) / _norm(clean)


CHANGE_MISTAKES = {
    "returns nothing": lambda a, b: ...,
    "whole batch. Each image": lambda a, b: (b - a).norm() / a.norm(),
    "one number for the whole": lambda a, b: float((b - a).norm() / a.norm()),
    "one value per image of": lambda a, b: (b - a).norm(dim=1) / a.norm(dim=1),
    "changes x itself": _grows,
    "changed activations": lambda a, b: _norm(b - a) / _norm(b),
    "difference of the norms": lambda a, b: (_norm(b) - _norm(a)) / _norm(a),
    "not the difference": lambda a, b: (_norm(b) - _norm(a)).abs() / _norm(a),
    "mean absolute": lambda a, b: (b - a).abs().mean((1, 2, 3)) / a.abs().mean((1, 2, 3)),
    "root is missing": lambda a, b: (b - a).square().sum((1, 2, 3)) / a.square().sum((1, 2, 3)),
    "largest values": lambda a, b: (b - a).abs().amax((1, 2, 3)) / a.abs().amax((1, 2, 3)),
    "by itself first": lambda a, b: _norm((b - a) / a),
    "ratios of single": lambda a, b: ((b - a) / a).abs().mean((1, 2, 3)),
    "ratio per channel": lambda a, b: (
        (b - a).flatten(2).norm(dim=2) / a.flatten(2).norm(dim=2)
    ).mean(1),
    "norm of the whole batch": lambda a, b: _norm(b - a) / a.norm(),
    "size of the change itself": lambda a, b: _norm(b - a),
    "factor 100": lambda a, b: 100 * _norm(b - a) / _norm(a),
    "is expected: the l2 norm": lambda a, b: _norm(b - a) / _norm(a) + 1,
    "stopped with IndexError": lambda a, b: (
        (b - a).square().sum((1, 2, 3)).sqrt() / a.square().sum((1, 2, 3)).sqrt()
    ),
}


def test_relative_change_names_each_mistake() -> None:
    for words, answer in CHANGE_MISTAKES.items():
        verdict = lesson_06.relative_change(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_relative_change_accepts_correct_answers() -> None:
    assert lesson_06.relative_change(activations.relative_change).ok

    def by_loop(clean: Tensor, changed: Tensor) -> Tensor:
        pairs = zip(clean, changed, strict=True)
        return torch.stack([(b - a).square().sum().sqrt() / a.norm() for a, b in pairs])

    assert lesson_06.relative_change(by_loop).ok


def _in_place(clean: Tensor, adversarial: Tensor, direction: Tensor) -> Tensor:
    kept = clean + along(adversarial - clean, direction)
    direction /= direction.norm(dim=1, keepdim=True)
    return kept


def _unscaled(change: Tensor, v: Tensor) -> Tensor:
    v = v[:, :, None, None]
    return (change * v).sum(1, keepdim=True) * v


def _over_the_batch(clean: Tensor, adversarial: Tensor, direction: Tensor) -> Tensor:
    return clean + _unscaled(adversarial - clean, direction / direction.norm())


KEEP_MISTAKES = {
    "returns nothing": lambda a, b, v: None,
    "activations of": lambda a, b, v: (b - a).mean((2, 3)),
    "changes x itself": _in_place,
    "nothing of the attack": lambda a, b, v: a.clone(),
    "everything comes from": lambda a, b, v: b.clone(),
    "not of length 1": lambda a, b, v: a + _unscaled(b - a, v),
    "divide the inner product by": lambda a, b, v: (
        a + _unscaled(b - a, v) / v.norm(dim=1)[:, None, None, None]
    ),
    "all directions together": _over_the_batch,
    "Add it to the clean": lambda a, b, v: along(b - a, v),
    "project the adversarial": lambda a, b, v: a + along(b, v),
    "Project the change": lambda a, b, v: along(b, v),
    "orthogonal": lambda a, b, v: b - along(b - a, v),
    "subtract the part": lambda a, b, v: a - along(b - a, v),
    "average the change over": lambda a, b, v: (
        a + along((b - a).mean((2, 3), keepdim=True), v).expand_as(a)
    ),
    "the same direction": lambda a, b, v: a + along(b - a, v[:1].expand_as(v)),
    "row of `direction`": lambda a, b, v: a + along(b - a, v.mean(0).expand_as(v)),
    "not the expected ones": lambda a, b, v: a + 2 * along(b - a, v),
    "stopped with TypeError": lambda a, b: a,
}


@pytest.mark.parametrize("words", KEEP_MISTAKES)
def test_keep_direction_names_each_mistake(words: str) -> None:
    verdict = lesson_06.keep_direction(KEEP_MISTAKES[words])
    assert not verdict.ok and words in verdict.message, verdict


def test_keep_direction_accepts_correct_answers() -> None:
    def squared(clean: Tensor, adversarial: Tensor, direction: Tensor) -> Tensor:
        number = torch.einsum("nchw,nc->nhw", adversarial - clean, direction)
        number = number / direction.square().sum(1)[:, None, None]
        return clean + torch.einsum("nhw,nc->nchw", number, direction)

    assert lesson_06.keep_direction(squared).ok
    assert lesson_06.keep_direction(lambda a, b, v: a + along(b - a, v)).ok


def _uphill(rest: nn.Module, h: Tensor, y: Tensor, j: Tensor, step: Tensor) -> Tensor:
    at = (h + step[:, :, None, None]).requires_grad_()
    logits = rest(at)
    lead = logits.gather(1, j[:, None]) - logits.gather(1, y[:, None])
    (gradient,) = torch.autograd.grad(lead.sum(), at)
    return gradient.mean((2, 3))


BETTER_MISTAKES = {
    "returns nothing": lambda rest, h, y, j, step: ...,
    "numbers of": lambda rest, h, y, j, step: step[0],
    "zero or not finite": lambda rest, h, y, j, step: 0 * step,
    "at least 5 points more": lambda rest, h, y, j, step: step,
    "carries 0% of": lambda rest, h, y, j, step: torch.eye(64)[:1].expand_as(step),
}


@pytest.mark.parametrize("words", BETTER_MISTAKES)
def test_better_direction_names_each_mistake(words: str) -> None:
    verdict = lesson_06.better_direction(BETTER_MISTAKES[words])
    assert not verdict.ok and words in verdict.message, verdict


def test_the_gradient_behind_the_class_step_is_a_better_direction() -> None:
    verdict = lesson_06.better_direction(_uphill)
    assert verdict.ok and "of the decision" in verdict.message, verdict
