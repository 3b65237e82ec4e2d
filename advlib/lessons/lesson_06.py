"""Checks of lesson 6, "Inside the network"."""

from functools import cache

import torch
from torch import Tensor, nn

from advlib.analysis.activations import along, record
from advlib.attacks.pgd import pgd
from advlib.data import signs
from advlib.evaluation import predict
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
from advlib.models import load


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
def keep_direction(answer: Answer) -> str:
    """Exercise 6.2: the clean activations, with the part of the change along one direction.

    ``answer(clean, adversarial, direction)`` returns activations of the shape (n, channels, h, w)
    of the first two; `direction` has shape (n, channels) and any length.
    """
    generator = torch.Generator().manual_seed(2)
    clean = torch.rand(3, 6, 4, 4, generator=generator)
    adversarial = clean + torch.randn(clean.shape, generator=generator)
    direction = torch.randn(3, 6, generator=generator) * torch.tensor([[2.0], [3.0], [5.0]])
    given = (clean, adversarial, direction)
    before = [value.clone() for value in given]
    kept = expect_tensor(answer(*given), tuple(clean.shape), "activations")
    for value, then in zip(given, before, strict=True):
        expect_untouched(value, then)
    name_mistake(kept, _wrong_parts(*given), rtol=1e-4, atol=1e-5)
    if not close(kept, clean + along(adversarial - clean, direction), rtol=1e-4, atol=1e-5):
        raise Mistake(
            "your activations are not the expected ones. At each place: the inner product of the "
            "change with the direction of length 1, times that direction, added to `clean`."
        )
    return "everything is clean but what lies along the direction, at each place."


def _wrong_parts(
    clean: Tensor, adversarial: Tensor, direction: Tensor
) -> dict[str, Tensor | tuple[Tensor, ...]]:
    """What each plausible mistake returns."""
    change = adversarial - clean
    part = along(change, direction)
    length = direction.norm(dim=1).view(-1, 1, 1, 1)
    shared = (direction[:1].expand_as(direction), direction.mean(0).expand_as(direction))
    return {
        "nothing of the attack is left: add the part of the change along the direction.": clean,
        "everything comes from the attack: only the part along the direction should.": adversarial,
        "your direction is not of length 1. Divide it by its norm, or divide the inner product by "
        "the squared norm.": (clean + part * length**2, clean + part * length),
        "you divide by the norm of all directions together. Each image has a direction of its own: "
        "norm(dim=1).": clean + part * (length / direction.norm()) ** 2,
        "that is the part of the change alone. Add it to the clean activations.": part,
        "you project the adversarial activations. Project the change, `adversarial - clean`.": (
            clean + along(adversarial, direction),
            along(adversarial, direction),
        ),
        "you keep what is orthogonal to the direction, and leave out what lies along it.": (
            clean + change - part
        ),
        "you subtract the part along the direction. It is to be added.": clean - part,
        "you average the change over the places first. Each place keeps its own part.": (
            clean + part.mean((2, 3), keepdim=True)
        ),
        "all images get the same direction. Each has its own row of `direction`.": tuple(
            clean + along(change, same) for same in shared
        ),
    }


@check
def better_direction(answer: Answer) -> str:
    """Exercise 6.3: a direction after block 3 that carries more than the class step.

    ``answer(rest, h, y, j, step)`` returns one direction for each sign, shape (n, 64). `rest` maps
    activations `h` after block 3 to logits, `y` and `j` are the true classes and those that the
    attack reaches, and `step` leads from the profile of `y` to that of `j`.
    """
    rest, h, change, y, j, step = _block_three()
    given = expect_tensor(answer(rest, h.clone(), y, j, step.clone()), tuple(step.shape), "numbers")
    given = given.detach()
    if not (given.isfinite().all() and (given.norm(dim=1) > 0).all()):
        raise Mistake("some of your directions are zero or not finite.")
    with torch.no_grad():
        leads = [
            (logits.gather(1, j[:, None]) - logits.gather(1, y[:, None]))[:, 0]
            for logits in map(rest, (h, h + change, *(h + along(change, u) for u in (given, step))))
        ]
    yours, rival = (
        float(((kept - leads[0]) / (leads[1] - leads[0])).median()) for kept in leads[2:]
    )
    if yours < rival + 0.05:
        raise Mistake(
            f"your direction carries {yours:.0%} of the decision (median), the class step "
            f"{rival:.0%}; at least 5 points more are asked. In which direction does `rest` raise "
            "the logit of j over that of y?"
        )
    return f"{yours:.0%} of the decision; the class step carries {rival:.0%}."


@cache
def _block_three() -> tuple[nn.Module, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What exercise 6.3 gives and hides, of signs that PGD fools at 2/255."""
    model, layer = load("signs-standard"), "blocks.2"
    x, y = signs.render(32, seed=6_303)
    x_adv = pgd(model, x, y, 2 / 255, steps=10)
    j = predict(model, x_adv).argmax(1)
    fooled = (predict(model, x).argmax(1) == y) & (j != y)
    x, x_adv, y, j = x[fooled], x_adv[fooled], y[fooled], j[fooled]
    h, h_adv = (record(model, images, [layer])[layer] for images in (x, x_adv))
    typical_x, typical_y = signs.render(240, seed=6_304)
    level = record(model, typical_x, [layer])[layer].mean((2, 3))
    profile = torch.stack([level[typical_y == c].mean(0) for c in range(16)])
    block, head = model.get_submodule("blocks.3"), model.get_submodule("head")
    rest = nn.Sequential(block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    return rest, h, h_adv - h, y, j, profile[j] - profile[y]
