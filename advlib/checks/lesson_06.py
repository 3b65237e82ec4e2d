"""Checks of lesson 6, "Inside the network"."""

from collections.abc import Callable

import torch
from torch import Tensor

from advlib.checks import Mistake, check, expect_answer, expect_tensor, expect_untouched


@check
def relative_change(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Exercise 6.1: how far activations moved, measured by their own size, per picture.

    Parameters
    ----------
    answer
        ``answer(clean, changed)`` returns one value per picture, shape (n,), from activations of
        shape (n, channels, h, w).

    Returns
    -------
    Verdict
    """
    generator = torch.Generator().manual_seed(1)
    clean = 1 + torch.rand(4, 3, 5, 5, generator=generator)
    clean *= torch.tensor([1.0, 2, 3, 4]).view(4, 1, 1, 1)  # pictures of different sizes
    clean[:, 0] *= 3  # and channels
    changed = clean + torch.randn(clean.shape, generator=generator)
    before = clean.clone(), changed.clone()
    given = answer(clean, changed)
    expect_answer(given)
    expect_untouched(clean, before[0])
    expect_untouched(changed, before[1])
    if isinstance(given, float) or (isinstance(given, Tensor) and given.ndim == 0):
        raise Mistake(
            "your function returns one number for the whole batch. Each picture has a norm of its "
            "own: flatten(1) keeps the first dimension, and norm(dim=1) goes over the rest."
        )
    value = expect_tensor(given, (4,), "one value per picture")
    right = _norm(changed - clean) / _norm(clean)
    for wrong, why in _wrong_changes(clean, changed):
        if torch.allclose(value, wrong, rtol=1e-3):
            raise Mistake(why)
    if not torch.allclose(value, right, rtol=1e-3):
        raise Mistake(
            f"for the first picture you return {float(value[0]):.4f}; {float(right[0]):.4f} is "
            "expected: the l2 norm of the change over the l2 norm of the clean activations."
        )
    flat = answer(clean[:, :, 0, 0], changed[:, :, 0, 0])  # pooled features have no places
    expect_tensor(flat, (4,), "one value per picture")
    return "the l2 norm of the change, over that of the clean activations, picture by picture."


def _norm(h: Tensor) -> Tensor:
    return h.flatten(1).norm(dim=1)


def _wrong_changes(clean: Tensor, changed: Tensor) -> list[tuple[Tensor, str]]:
    """What each plausible mistake returns, and the sentence that names it."""
    delta = changed - clean
    per_channel = delta.flatten(2).norm(dim=2) / clean.flatten(2).norm(dim=2)
    return [
        (
            _norm(delta) / _norm(changed),
            "you divide by the size of the changed activations. A change that makes them large "
            "then looks small: the clean ones are the measure.",
        ),
        (
            (_norm(changed) - _norm(clean)).abs() / _norm(clean),
            "you subtract the two norms. Activations can turn far and keep their length: take the "
            "norm of the difference, not the difference of the norms.",
        ),
        (
            (_norm(changed) - _norm(clean)) / _norm(clean),
            "you subtract the two norms. Activations can turn far and keep their length: take the "
            "norm of the difference, not the difference of the norms.",
        ),
        (
            delta.flatten(1).abs().mean(1) / clean.flatten(1).abs().mean(1),
            "that is a ratio of mean absolute values, the l1 norm. The definition has the l2 norm: "
            "squares, their sum, the root.",
        ),
        (
            (_norm(delta) / _norm(clean)).square(),
            "that is the ratio of the squared norms. The root is missing.",
        ),
        (
            delta.flatten(1).abs().amax(1) / clean.flatten(1).abs().amax(1),
            "that is a ratio of largest values, the linf norm. The definition has the l2 norm.",
        ),
        (
            _norm(delta / clean),
            "you divide each activation by itself first. A neuron that was nearly silent then "
            "outweighs all others, and one that was silent divides by zero: take both norms first.",
        ),
        (
            (delta / clean).abs().flatten(1).mean(1),
            "you average ratios of single activations. A neuron that was nearly silent then "
            "outweighs all others: take both norms first, and divide once.",
        ),
        (
            per_channel.mean(1),
            "you take one ratio per channel and average them. The norm goes over all of a "
            "picture's activations: flatten(1) first.",
        ),
        (
            _norm(delta) / clean.norm(),
            "you divide by the norm of the whole batch. The result of a picture then depends on "
            "which others are beside it.",
        ),
        (_norm(delta), "that is the size of the change itself. Divide it by that of `clean`."),
        (
            100 * _norm(delta) / _norm(clean),
            "that is in per cent. Leave out the factor 100.",
        ),
    ]


@check
def keep_only(answer: Callable[[Tensor, Tensor, int], Tensor]) -> str:
    """Exercise 6.2: the clean activations, with the `k` most changed channels from the attack.

    Parameters
    ----------
    answer
        ``answer(clean, adversarial, k)`` returns activations of the same shape (n, channels, h, w).

    Returns
    -------
    Verdict
    """
    clean, adversarial = _two_runs()
    before = clean.clone(), adversarial.clone()
    k = 2
    given = expect_tensor(answer(clean, adversarial, k), tuple(clean.shape), "activations")
    expect_untouched(clean, before[0])
    expect_untouched(adversarial, before[1])
    size = (adversarial - clean).flatten(2).norm(dim=2)
    for score, count, why in _wrong_rankings(clean, adversarial, size, k):
        if _close(given, _take(clean, adversarial, score, count)):
            raise Mistake(why)
    if _close(given, _take(adversarial, clean, size, k)):
        raise Mistake(
            "you start from the adversarial activations and put clean ones in: that removes the "
            "top k. Here everything is clean but the top k."
        )
    _channels_are_whole(given, clean, adversarial, k)
    if not _close(given, _take(clean, adversarial, size, k)):
        raise Mistake(
            "the right number of channels is exchanged, but not the right ones. The size of a "
            "channel's change is the l2 norm of its map's difference."
        )
    for count in (0, clean.shape[1]):
        if not _close(answer(clean, adversarial, count), _take(clean, adversarial, size, count)):
            raise Mistake(
                f"with k = {count} of {clean.shape[1]} channels something is wrong: k = 0 gives "
                "the clean activations, all channels the adversarial ones."
            )
    return "each picture keeps the change of its own k most changed channels, and nothing else."


def _two_runs() -> tuple[Tensor, Tensor]:
    """Activations whose channels change by chosen sizes, so that each mistake picks others."""
    clean = torch.rand(3, 6, 4, 4, generator=torch.Generator().manual_seed(2))
    clean = clean + 40 * torch.eye(6)[[3, 1, 5]].view(3, 6, 1, 1)  # loud, whatever the attack does
    size = torch.tensor(
        [
            [-6.0, 1, 2, 0.2, 5, 3],
            [1, 0.3, -6, 5, -2, 3],
            [2, 3, 5, -1, -6, 0.4],
        ]
    )
    loudness = torch.tensor([1.0, 3, 2]).view(3, 1, 1, 1)
    even = torch.ones(4, 4)
    # Ups and downs that cancel: large in norm, nothing in the mean.
    chequered = even - 2 * ((torch.arange(4).view(4, 1) + torch.arange(4)) % 2)
    pattern = torch.where((size == 5).view(3, 6, 1, 1), chequered, even)
    return clean, clean + loudness * size.view(3, 6, 1, 1) * pattern


def _wrong_rankings(
    clean: Tensor, adversarial: Tensor, size: Tensor, k: int
) -> list[tuple[Tensor, int, str]]:
    """Score, number of channels and sentence of each plausible mistake."""
    mean = (adversarial - clean).flatten(2).mean(2)
    channels = size.shape[1]
    signed = "your ranking looks at the sign: a channel that is switched off counts as unchanged. "
    same = (
        "all pictures get the same channels. Each picture has its own most changed ones: rank "
        "along dim=1."
    )
    return [
        (size, 0, "nothing of the attack is left: the top k channels must come from it."),
        (size, channels, "everything comes from the attack: only the top k channels should."),
        (-size, k, "you keep the k channels that change least. topk takes the largest."),
        (mean, k, signed + "Rank by size."),
        (-mean, k, signed + "Rank by size."),
        (
            mean.abs(),
            k,
            "you rank by the change of the mean. Ups and downs inside a map cancel there: take "
            "the l2 norm of the map's difference.",
        ),
        (
            adversarial.flatten(2).norm(dim=2),
            k,
            "you rank by how loud a channel is under attack, not by how much it changed.",
        ),
        (
            clean.flatten(2).norm(dim=2),
            k,
            "you rank by how loud a channel is in the clean run, not by how much it changed.",
        ),
        (size.mean(0).expand_as(size), k, same),
        (size.square().sum(0).expand_as(size), k, same),
        (size[0].expand_as(size), k, same),
        (size, k + 1, f"you keep {k + 1} channels instead of {k}."),
        (size, k - 1, f"you keep {k - 1} channel instead of {k}."),
    ]


def _take(base: Tensor, other: Tensor, score: Tensor, k: int) -> Tensor:
    mixed = base.clone()
    for i, row in enumerate(score):
        chosen = row.topk(k).indices
        mixed[i, chosen] = other[i, chosen]
    return mixed


def _close(a: object, b: Tensor) -> bool:
    return isinstance(a, Tensor) and a.shape == b.shape and torch.allclose(a, b, atol=1e-5)


def _channels_are_whole(given: Tensor, clean: Tensor, adversarial: Tensor, k: int) -> None:
    """Each channel is clean or adversarial as a whole, `k` of each picture adversarial."""
    from_clean = (given - clean).abs().flatten(2).amax(2) < 1e-5
    from_attack = (given - adversarial).abs().flatten(2).amax(2) < 1e-5
    if not (from_clean | from_attack).all():
        of_either = ((given - clean).abs() < 1e-5) | ((given - adversarial).abs() < 1e-5)
        if of_either.all():
            raise Mistake(
                "inside one channel some places are clean and others adversarial. A filter is a "
                "whole channel: take the norm over its map first, then rank the channels."
            )
        raise Mistake(
            "some activations are neither the clean nor the adversarial ones. Exchange channels; "
            "do not add or average."
        )
    count = (~from_clean).sum(1)
    if (count != k).any():
        raise Mistake(f"pictures keep {count.tolist()} channels; {k} each are expected.")
