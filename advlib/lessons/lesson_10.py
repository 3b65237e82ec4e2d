"""Checks of lesson 10, "The arms race"."""

from functools import partial

import torch
from torch import Tensor, nn

from advlib.data import signs
from advlib.defences import transforms
from advlib.defences.augmentation import gaussian, views
from advlib.evaluation import predict
from advlib.lessons import (
    Answer,
    Mistake,
    check,
    expect_answer,
    expect_number,
    expect_tensor,
    expect_untouched,
    name_mistake,
)
from advlib.models import load
from advlib.threats import norm


@check
def withstand(answer: Answer) -> str:
    """Exercise 10.1: the share of images that withstand several submissions to a random defence.

    ``answer(correct, queries)`` estimates it from `correct`, (draws, n), True where an image was
    classified correctly in a draw. Over many tables its mean is that of ``p ** queries``.
    """
    p, queries = torch.tensor([0.3, 0.6, 0.8, 0.95, 1.0]).repeat(8), 4
    generator = torch.Generator().manual_seed(10)
    tables = [torch.rand(8, len(p), generator=generator) < p for _ in range(300)]
    given = torch.tensor([expect_number(answer(table.clone(), queries)) for table in tables])
    rates = torch.stack([table.float().mean(0) for table in tables])
    mistakes = {
        "you take the mean over the images first. An image that is always classified correctly "
        "and one that never is do not make two that sometimes are: take the power per image.": (
            rates.mean(1) ** queries
        ),
        "this is the share of correct draws: what one submission leaves, not `queries` of them.": (
            rates.mean(1)
        ),
        "close, and too high. The share of correct draws is an estimate of p, and the power of an "
        "estimate that is right on average is too large on average (Jensen). In how many of the "
        "ways to choose `queries` of the draws are all correct?": (rates**queries).mean(1),
    }
    name_mistake(given, mistakes, atol=1e-5)
    truth = float((p**queries).mean())
    if abs(bias := float(given.mean()) - truth) > 0.01:
        raise Mistake(
            f"the truth is {truth:.3f}; your estimates are {abs(bias):.3f} too "
            f"{'high' if bias > 0 else 'low'}, on average over {len(tables)} tables."
        )
    return f"right on average: {float(given.mean()):.3f}, and the truth is {truth:.3f}."


@check
def diagnose(answer: Answer) -> str:
    """Exercise 10.2: what stands between an attacker and the gradient.

    ``answer(model, x, y)`` returns a set, from "random", "blocked" (no loss has a gradient) and
    "saturated" (the cross-entropy has none for most images, the margin has).
    """
    x, y = signs.render(24, seed=10_210)
    bare, moved = load("signs-small-standard"), partial(transforms.Randomised, draw=views)
    rounding, scaled = transforms.Quantised(bare, 32), transforms.Scaled(bare, 100)
    patients: dict[str, tuple[nn.Module, set[str]]] = {
        "the bare network": (bare, set()),
        "a network trained on attacks": (load("signs-small-pgd"), set()),
        "rounding": (rounding, {"blocked"}),
        "scaled logits": (scaled, {"saturated"}),
        "moved images": (moved(bare), {"random"}),
        "moved, then rounded": (moved(rounding), {"random", "blocked"}),
        "moved, and scaled logits": (moved(scaled), {"random", "saturated"}),
    }
    for title, (model, expected) in patients.items():
        given = answer(model, x.clone(), y.clone())
        expect_answer(given)
        if isinstance(given, str) or set(given) - {"random", "blocked", "saturated"}:
            raise Mistake(f"{given!r} was returned; a set of the three words is expected.")
        if missed := expected - set(given):
            raise Mistake(f"{title}: you overlook that it is {' and '.join(sorted(missed))}.")
        if wrong := set(given) - expected:
            raise Mistake(f"{title}: you call it {' and '.join(sorted(wrong))}, and it is not.")
    return "each obstacle is found, also where there are two, and none where there is none."


@check
def broken(answer: Answer) -> str:
    """Exercise 10.3: one attack that breaks three defences which it has not seen.

    ``answer(defence, x, y, eps)`` returns `x_adv`, in the ball of `eps` in linf. Each `defence` is
    a module with the parts ``prepare`` and ``model``.
    """
    network, noisy, eps = load("signs-small-standard"), load("signs-small-noise"), 4 / 255
    scaled, noise = transforms.Scaled(network, 300), partial(gaussian, sigma=0.14)
    x, y = signs.render(32, seed=10_310)
    unseen: list[tuple[nn.Module, transforms.Draw, float, str]] = [
        (network, _few_colours, 0.1, "its gradient is 0 with every loss. Replace the derivative of "
         "what `prepare` computes (BPDA)."),
        (noisy, noise, 0.25, "your images fool the draws that you looked at better than new ones. "
         "What do you maximise (EOT)?"),
        (scaled, lambda x, _: x, 0.1, "it has a gradient, but not with the cross-entropy. Which "
         "part of this loss saturates?"),
    ]  # fmt: skip
    left = []
    for model, draw, _, _ in unseen:
        defence, before, spent = transforms.Randomised(model, draw), x.clone(), [0]
        hook = model.register_forward_pre_hook(partial(_count, spent))
        try:
            given = answer(defence, x, y.clone(), eps)
        finally:
            hook.remove()
        x_adv = expect_tensor(given, x.shape, "images").detach()
        expect_untouched(x, before)
        size = float(norm(x_adv - x, "linf").max())
        if x_adv.min() < 0 or x_adv.max() > 1 or size > 1.001 * eps:
            raise Mistake(f"a change of {255 * size:.1f}/255, or pixels outside [0, 1].")
        if spent[0] > 200 * len(x):
            raise Mistake(f"{spent[0] / len(x):.0f} gradients for an image; 200 are allowed.")
        defence.generator.manual_seed(10_311)
        votes = torch.stack([predict(defence, x_adv).argmax(1) == y for _ in range(9)])
        left.append(float((votes.float().mean(0) > 0.5).float().mean()))
    shares = ", ".join(f"{share:.0%}" for share in left)
    for share, (_, _, most, missing) in zip(left, unseen, strict=True):
        if share > most:
            raise Mistake(f"{shares} are left; one may keep {most:.0%} and keeps more: {missing}")
    return f"of what the three defences withstood {shares} is left."


def _count(spent: list[int], _: nn.Module, given: tuple[Tensor]) -> None:
    spent[0] += len(given[0]) if given[0].requires_grad and torch.is_grad_enabled() else 0


def _few_colours(x: Tensor, _: torch.Generator) -> Tensor:
    grey = (24 * x.mean(1, keepdim=True)).round() / 24
    return (grey + (24 * (x - grey)).round() / 24).clamp(0, 1)
