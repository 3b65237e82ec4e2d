"""Checks of lesson 6, "Inside the network"."""

import torch
from torch import Tensor

from advlib.lessons import (
    Answer,
    Mistake,
    check,
    close,
    expect_answer,
    expect_tensor,
    expect_untouched,
    name_mistake,
)


@check
def relative_change(answer: Answer) -> str:
    """Exercise 6.1: how far activations moved, relative to their own size, per image.

    ``answer(clean, changed)`` returns one value per image, shape (n,), from activations of shape
    (n, channels, h, w).
    """
    generator = torch.Generator().manual_seed(1)
    clean = 1 + torch.rand(4, 3, 5, 5, generator=generator)
    clean *= torch.tensor([1.0, 2, 3, 4]).view(4, 1, 1, 1)  # images of different sizes
    clean[:, 0] *= 3  # and channels
    changed = clean + torch.randn(clean.shape, generator=generator)
    before = clean.clone(), changed.clone()
    given = answer(clean, changed)
    expect_answer(given)
    expect_untouched(clean, before[0])
    expect_untouched(changed, before[1])
    if isinstance(given, float) or (isinstance(given, Tensor) and given.ndim == 0):
        raise Mistake(
            "your function returns one number for the whole batch. Each image has a norm of its "
            "own: flatten(1) keeps the first dimension, and norm(dim=1) goes over the rest."
        )
    value = expect_tensor(given, (4,), "one value per image")
    correct = _norm(changed - clean) / _norm(clean)
    name_mistake(value, _wrong_changes(clean, changed), rtol=1e-3, atol=1e-8)
    if not close(value, correct, rtol=1e-3):
        raise Mistake(
            f"for the first image you return {float(value[0]):.4f}; {float(correct[0]):.4f} is "
            "expected: the l2 norm of the change over the l2 norm of the clean activations."
        )
    pooled = answer(clean[:, :, 0, 0], changed[:, :, 0, 0])  # (n, channels), with no maps
    expect_tensor(pooled, (4,), "one value per image")
    return "the l2 norm of the change, over that of the clean activations, image by image."


def _norm(h: Tensor) -> Tensor:
    return h.flatten(1).norm(dim=1)


def _wrong_changes(clean: Tensor, changed: Tensor) -> dict[str, Tensor | tuple[Tensor, ...]]:
    """What each plausible mistake returns."""
    delta = changed - clean
    size, flat = delta.flatten(1).abs(), clean.flatten(1).abs()
    correct = _norm(delta) / _norm(clean)
    longer = (_norm(changed) - _norm(clean)) / _norm(clean)
    per_channel = delta.flatten(2).norm(dim=2) / clean.flatten(2).norm(dim=2)
    return {
        "you divide by the size of the changed activations. A change that makes them large then "
        "looks small: divide by the size of the clean ones.": _norm(delta) / _norm(changed),
        "you subtract the two norms. Activations can change direction and keep their length: take "
        "the norm of the difference, not the difference of the norms.": (longer, longer.abs()),
        "that is a ratio of mean absolute values, the l1 norm. The definition has the l2 norm: "
        "squares, their sum, the root.": size.mean(1) / flat.mean(1),
        "that is the ratio of the squared norms. The root is missing.": correct.square(),
        "that is a ratio of largest values, the linf norm. The definition has the l2 norm.": (
            size.amax(1) / flat.amax(1)
        ),
        "you divide each activation by itself first. A neuron that was nearly silent then "
        "outweighs all others, and one that was silent divides by zero: take both norms first.": (
            _norm(delta / clean)
        ),
        "you average ratios of single activations. A neuron that was nearly silent then outweighs "
        "all others: take both norms first, and divide once.": (size / flat).mean(1),
        "you take one ratio per channel and average them. The norm goes over all activations of an "
        "image: flatten(1) first.": per_channel.mean(1),
        "you divide by the norm of the whole batch. The result of an image then depends on the "
        "others in its batch.": _norm(delta) / clean.norm(),
        "that is the size of the change itself. Divide it by that of `clean`.": _norm(delta),
        "that is in per cent. Leave out the factor 100.": 100 * correct,
    }


@check
def keep_only(answer: Answer) -> str:
    """Exercise 6.2: the clean activations, with the `k` most changed channels from the attack.

    ``answer(clean, adversarial, k)`` returns activations of the same shape (n, channels, h, w).
    """
    clean, adversarial = _two_runs()
    before = clean.clone(), adversarial.clone()
    k = 2
    given = expect_tensor(answer(clean, adversarial, k), tuple(clean.shape), "activations")
    expect_untouched(clean, before[0])
    expect_untouched(adversarial, before[1])
    size = (adversarial - clean).flatten(2).norm(dim=2)
    for score, count, sentence in _wrong_rankings(clean, adversarial, size, k):
        if _same(given, _patched(clean, adversarial, score, count)):
            raise Mistake(sentence)
    if _same(given, _patched(adversarial, clean, size, k)):
        raise Mistake(
            "you start from the adversarial activations and put clean ones in: that removes the "
            "top k. Here everything is clean but the top k."
        )
    _expect_whole_channels(given, clean, adversarial, k)
    if not _same(given, _patched(clean, adversarial, size, k)):
        raise Mistake(
            "the number of exchanged channels is correct, but not which ones. The size of a "
            "channel's change is the l2 norm of its map's difference."
        )
    for count in (0, clean.shape[1]):
        expected = _patched(clean, adversarial, size, count)
        if not _same(answer(clean, adversarial, count), expected):
            raise Mistake(
                f"with k = {count} of {clean.shape[1]} channels something is wrong: k = 0 gives "
                "the clean activations, all channels the adversarial ones."
            )
    return "each image keeps the change of its own k most changed channels, and nothing else."


def _two_runs() -> tuple[Tensor, Tensor]:
    """Activations whose channels change by chosen sizes, so that each mistake picks others."""
    clean = torch.rand(3, 6, 4, 4, generator=torch.Generator().manual_seed(2))
    clean = clean + 40 * torch.eye(6)[[3, 1, 5]].view(3, 6, 1, 1)  # large, with or without attack
    size = torch.tensor(
        [[-6.0, 1, 2, 0.2, 5, 3], [1, 0.3, -6, 5, -2, 3], [2, 3, 5, -1, -6, 0.4]]
    ).view(3, 6, 1, 1)
    scale = torch.tensor([1.0, 3, 2]).view(3, 1, 1, 1)
    even = torch.ones(4, 4)
    # Ups and downs that cancel: large in norm, zero in the mean.
    chequered = even - 2 * ((torch.arange(4).view(4, 1) + torch.arange(4)) % 2)
    return clean, clean + scale * size * torch.where(size == 5, chequered, even)


def _wrong_rankings(
    clean: Tensor, adversarial: Tensor, size: Tensor, k: int
) -> list[tuple[Tensor, int, str]]:
    """Score, number of channels and sentence of each plausible mistake."""
    mean = (adversarial - clean).flatten(2).mean(2)
    signed = (
        "your ranking looks at the sign: a channel that is switched off counts as unchanged. Rank "
        "by size."
    )
    of_mean = (
        "you rank by the change of the mean. Ups and downs inside a map cancel there: take the l2 "
        "norm of the map's difference."
    )
    level = "you rank by the size of a channel {}, not by how much it changed."
    same = (
        "all images get the same channels. Each image has its own most changed ones: rank along "
        "dim=1."
    )
    return [
        (size, 0, "nothing of the attack is left: the top k channels must come from it."),
        (size, size.shape[1], "everything comes from the attack: only the top k channels should."),
        (-size, k, "you keep the k channels that change least. topk takes the largest."),
        (mean, k, signed),
        (-mean, k, signed),
        (mean.abs(), k, of_mean),
        (adversarial.flatten(2).norm(dim=2), k, level.format("under attack")),
        (clean.flatten(2).norm(dim=2), k, level.format("in the clean run")),
        (size.mean(0).expand_as(size), k, same),
        (size.square().sum(0).expand_as(size), k, same),
        (size[0].expand_as(size), k, same),
        (size, k + 1, f"you keep {k + 1} channels instead of {k}."),
        (size, k - 1, f"you keep {k - 1} channel instead of {k}."),
    ]


def _patched(base: Tensor, other: Tensor, score: Tensor, k: int) -> Tensor:
    """`base` with the `k` channels of the highest score taken from `other`."""
    patched = base.clone()
    for i, row in enumerate(score):
        chosen = row.topk(k).indices
        patched[i, chosen] = other[i, chosen]
    return patched


def _same(a: object, b: Tensor) -> bool:
    return isinstance(a, Tensor) and close(a, b, rtol=1e-5, atol=1e-5)


def _expect_whole_channels(given: Tensor, clean: Tensor, adversarial: Tensor, k: int) -> None:
    """Each channel is clean or adversarial as a whole, `k` of each image adversarial."""
    is_clean, is_adversarial = (given - clean).abs() < 1e-5, (given - adversarial).abs() < 1e-5
    clean_map, adversarial_map = is_clean.flatten(2).all(2), is_adversarial.flatten(2).all(2)
    if not (clean_map | adversarial_map).all():
        if (is_clean | is_adversarial).all():
            raise Mistake(
                "inside one channel some places are clean and others adversarial. A filter is a "
                "whole channel: take the norm over its map first, then rank the channels."
            )
        raise Mistake(
            "some activations are neither the clean nor the adversarial ones. Exchange channels; "
            "do not add or average."
        )
    count = (~clean_map).sum(1)
    if (count != k).any():
        raise Mistake(f"images keep {count.tolist()} channels; {k} each are expected.")
