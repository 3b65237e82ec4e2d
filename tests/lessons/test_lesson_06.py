"""Checks of lesson 6: a stub fails, the solution passes, each mistake gets its own sentence."""

import torch
from torch import Tensor

from advlib.analysis import activations
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


def _size(clean: Tensor, adversarial: Tensor) -> Tensor:
    return (adversarial - clean).flatten(2).norm(dim=2)


def _put(base: Tensor, other: Tensor, score: Tensor, k: int) -> Tensor:
    return activations.mix(base, other, activations.largest(score, k))


def _in_place(clean: Tensor, adversarial: Tensor, k: int) -> Tensor:
    chosen = activations.largest(_size(clean, adversarial), k)
    clean[chosen] = adversarial[chosen]
    return clean


def _places(clean: Tensor, adversarial: Tensor, k: int) -> Tensor:
    flat = (adversarial - clean).abs().flatten(1)
    chosen = activations.largest(flat, k * 16 - 5).view_as(clean)
    return torch.where(chosen, adversarial, clean)


def _over_the_batch(clean: Tensor, adversarial: Tensor, k: int) -> Tensor:
    size = _size(clean, adversarial)
    chosen = (size >= size.flatten().topk(3 * k).values[-1])[:, :, None, None]
    return torch.where(chosen, adversarial, clean)


KEEP_MISTAKES = {
    "returns nothing": lambda a, b, k: None,
    "activations of": lambda a, b, k: _put(a, b, _size(a, b), k)[:, :k],
    "changes x itself": _in_place,
    "nothing of the attack": lambda a, b, k: a.clone(),
    "everything comes from": lambda a, b, k: b.clone(),
    "change least": lambda a, b, k: _put(a, b, -_size(a, b), k),
    "looks at the sign": lambda a, b, k: _put(a, b, (b - a).mean((2, 3)), k),
    "counts as unchanged": lambda a, b, k: _put(a, b, (a - b).mean((2, 3)), k),
    "change of the mean": lambda a, b, k: _put(a, b, (b - a).mean((2, 3)).abs(), k),
    "size of a channel under attack": lambda a, b, k: _put(a, b, b.flatten(2).norm(dim=2), k),
    "in the clean run": lambda a, b, k: _put(a, b, a.flatten(2).norm(dim=2), k),
    "same channels": lambda a, b, k: _put(a, b, _size(a, b).mean(0).expand(len(a), -1), k),
    "own most changed": lambda a, b, k: _put(a, b, _size(a, b)[0].expand(len(a), -1), k),
    "keep 3 channels": lambda a, b, k: _put(a, b, _size(a, b), k + 1),
    "keep 1 channel instead": lambda a, b, k: _put(a, b, _size(a, b), k - 1),
    "removes the top k": lambda a, b, k: _put(b, a, _size(a, b), k),
    "inside one channel": _places,
    "do not add or average": lambda a, b, k: (a + b) / 2,
    "channels; 2 each": _over_the_batch,
    "but not which ones": lambda a, b, k: _put(a, b, torch.arange(6.0).flip(0).expand(3, -1), k),
    "with k = 0": lambda a, b, k: _put(a, b, _size(a, b), max(k, 1)),
    "stopped with TypeError": lambda a, b: a,
}


def test_keep_only_names_each_mistake() -> None:
    for words, answer in KEEP_MISTAKES.items():
        verdict = lesson_06.keep_only(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_keep_only_accepts_correct_answers() -> None:
    assert lesson_06.keep_only(lambda a, b, k: _put(a, b, _size(a, b), k)).ok

    def by_loop(clean: Tensor, adversarial: Tensor, k: int) -> Tensor:
        patched = clean.clone()
        for i in range(len(clean)):
            order = (adversarial[i] - clean[i]).square().sum((1, 2)).argsort(descending=True)
            patched[i, order[:k]] = adversarial[i, order[:k]]
        return patched

    assert lesson_06.keep_only(by_loop).ok
