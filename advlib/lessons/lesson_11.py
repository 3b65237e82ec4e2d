"""Checks of lesson 11, "Attacks travel"."""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from advlib.attacks import pgd
from advlib.attacks.momentum import ensemble
from advlib.data import signs
from advlib.evaluation import predict
from advlib.gradients import margin
from advlib.lessons import (
    Answer,
    Counted,
    Mistake,
    check,
    close,
    expect_answer,
    expect_tensor,
    expect_untouched,
    name_mistake,
)
from advlib.models import load

_EPS = 0.05
_STEP = 0.02
_NEAR: dict[str, float] = {"rtol": 1e-5, "atol": 1e-4}


@check
def ensemble_loss(answer: Answer) -> str:
    """Exercise 11.1: the loss of an ensemble of surrogates.

    ``answer(logits, y)`` takes a list of k tensors (n, classes) and classes (n,), and returns
    ``-log(mean over the k networks of softmax(logits)_y)``, one value for each image.
    """
    generator = torch.Generator().manual_seed(11)
    logits = [4 * torch.randn(6, 5, generator=generator) for _ in range(3)]
    y = torch.randint(0, 5, (6,), generator=generator)
    before = [part.clone() for part in logits]
    given = answer(logits, y)
    expect_answer(given)
    if isinstance(given, Tensor) and given.ndim == 0:
        raise Mistake("your function returns one number; one value for each image is expected.")
    loss = expect_tensor(given, y.shape, "losses")
    for part, copy in zip(logits, before, strict=True):
        expect_untouched(part, copy)
    p = torch.stack([part.softmax(1).gather(1, y[:, None]).squeeze(1) for part in logits])
    if not close(loss, -p.mean(0).log(), **_NEAR):
        name_mistake(loss, _wrong_losses(logits, y, p), **_NEAR)
        raise Mistake(
            f"for the first image the networks give class y the probabilities "
            f"{', '.join(f'{value:.3f}' for value in p[:, 0].tolist())}; minus the logarithm of "
            f"their mean is {float(-p[:, 0].mean().log()):.3f}, yours is {float(loss[0]):.3f}."
        )
    _stays_finite(answer)
    return "the loss of the mean probability: no network can dominate by large logits alone."


def _wrong_losses(logits: Sequence[Tensor], y: Tensor, p: Tensor) -> dict[str, Any]:
    """The other formulas, with the probabilities `p` of class `y`, shape (networks, images)."""
    mean_logits = torch.stack(list(logits)).mean(0)
    mean_probabilities = torch.stack([part.softmax(1) for part in logits]).mean(0)
    return {
        "that is the mean of the networks' own losses. Average the probabilities first, then take "
        "the logarithm.": -p.log().mean(0),
        "that is the sum of the networks' own losses. Average the probabilities first, then take "
        "the logarithm.": -p.log().sum(0),
        "you average the logits. That is the ensemble of Dong et al. 2018; here the softmax comes "
        "first, so that large logits have no larger weight.": F.cross_entropy(
            mean_logits, y, reduction="none"
        ),
        "that is the mean probability itself. The loss is minus its logarithm.": p.mean(0),
        "the sign is reversed: a loss is minus the logarithm.": p.mean(0).log(),
        "the probabilities are added, not averaged: divide by the number of networks. (The "
        "gradient would be the same, the value is not.)": -p.sum(0).log(),
        "softmax is applied twice: cross_entropy takes logits and applies softmax itself. Pass it "
        "the logarithm of the mean, or select entry y yourself.": F.cross_entropy(
            mean_probabilities, y, reduction="none"
        ),
        "only the first network counts.": -p[0].log(),
        "only the last network counts.": -p[-1].log(),
    }


def _stays_finite(answer: Answer) -> None:
    """Confident networks must not make the loss infinite."""
    confident = [torch.tensor([[300.0, 0.0]]), torch.tensor([[280.0, 0.0]])]
    loss = answer(confident, torch.tensor([1]))
    if not loss.isfinite().all():
        raise Mistake(
            "with logits of 300 the softmax of the other class is 0 in float32, and its logarithm "
            "infinite. Work with logarithms: log_softmax, then torch.logsumexp over the networks, "
            "minus log k."
        )
    if abs(float(loss[0]) - (280 + math.log(2))) > 0.1:
        raise Mistake(
            f"where all networks are confident of another class, the loss is {float(loss[0]):.1f}; "
            "it should be 280.7. Clamping or adding a small number masks the gradient there: use "
            "log_softmax and torch.logsumexp."
        )


@check
def universal_step(answer: Answer) -> str:
    """Exercise 11.2: one step of a universal perturbation in the linf ball.

    ``answer(delta, grads, step_size, eps)`` takes the perturbation (1, c, h, w) and the gradients
    (n, c, h, w) of each image's loss, and returns the next perturbation:
    ``(delta + step_size * sign(mean of grads)).clamp(-eps, eps)``.
    """
    generator = torch.Generator().manual_seed(12)
    delta = _EPS * (2 * torch.rand(1, 3, 8, 8, generator=generator) - 1)
    # A few images with large gradients: the mean and the majority often disagree.
    grads = torch.randn(9, 3, 8, 8, generator=generator) ** 3
    copies = delta.clone(), grads.clone()
    given = answer(delta, grads, _STEP, _EPS)
    expect_answer(given)
    if isinstance(given, Tensor) and given.shape == grads.shape:
        raise Mistake(
            "you return a perturbation for each image; there is one for all of them. Average "
            "the gradients over the images: grads.mean(0, keepdim=True)."
        )
    if isinstance(given, Tensor) and given.shape == delta.shape[1:]:
        raise Mistake("the batch dimension is lost: keepdim=True, or [None], keeps (1, c, h, w).")
    step = expect_tensor(given, tuple(delta.shape), "perturbations")
    expect_untouched(delta, copies[0])
    expect_untouched(grads, copies[1])
    mean = grads.mean(0, keepdim=True)
    if not close(step, (delta + _STEP * mean.sign()).clamp(-_EPS, _EPS), **_NEAR):
        _wrong_step(step, delta, grads, mean)
    return "one step for all images at once, and back into the ball."


def _wrong_step(step: Tensor, delta: Tensor, grads: Tensor, mean: Tensor) -> None:
    """Say which other step this is."""

    def stepped(direction: Tensor, size: float = _STEP) -> Tensor:
        return (delta + size * direction).clamp(-_EPS, _EPS)

    if step.abs().max() > _EPS * 1.001:
        raise Mistake(
            f"the perturbation reaches {float(step.abs().max()):.3f}; eps is {_EPS}. End with "
            "clamp(-eps, eps)."
        )
    mean_sign = grads.sign().mean(0, keepdim=True)
    mistakes = {
        "this lowers the loss. An attacker goes up: plus, not minus.": stepped(-mean.sign()),
        "the step has the size of the gradient. In the linf ball the steepest step is the sign of "
        "the mean gradient.": stepped(mean),
        "you average the signs. Average the gradients first, then take the sign.": stepped(
            mean_sign
        ),
        "you take a majority vote: the sign of the mean of signs. An image with a steep loss "
        "should have more weight: average the gradients themselves.": stepped(mean_sign.sign()),
        "only the first image counts. Average over all of them.": stepped(grads[:1].sign()),
        "only the last image counts. Average over all of them.": stepped(grads[-1:].sign()),
        "the perturbation is clamped to [0, 1], as pixels are. It may be negative: "
        "clamp(-eps, eps).": (delta + _STEP * mean.sign()).clamp(0, _EPS),
        "the step starts at zero, not at delta: the earlier steps are lost.": (
            _STEP * mean.sign()
        ).clamp(-_EPS, _EPS),
        "the step has length eps. It should have length step_size.": stepped(mean.sign(), _EPS),
        "nothing moved. Add step_size times the sign.": delta,
    }
    name_mistake(step, mistakes, **_NEAR)
    raise Mistake(
        "this is another step. In order: the mean of the gradients over the images, its sign, "
        "times step_size, added to delta, clamped to -eps..eps."
    )


_OWNED = ("signs-mlp", "signs-cnn", "signs-small-child-2")
_STRANGERS = ("signs-standard", "signs-small-deep", "signs-vit")
_BUDGET = 8 / 255
_GRADIENTS = 20
_AHEAD = 0.05
"""By less than this an answer may be ahead by luck: some 130 classifications count."""


@check
def fool_a_stranger(answer: Answer) -> str:
    """Exercise 11.3: fool three unknown networks with the gradients of three others.

    ``answer(surrogates, x, y, eps)`` returns images within `eps` of `x`. Over three strangers it
    has to be ahead of PGD on the three surrogates together, and of the cast that they like least.
    """
    x, y, rivals = _rivals()
    surrogates = [Counted(load(name)) for name in _OWNED]
    given = expect_tensor(answer(surrogates, x.clone(), y, _BUDGET), x.shape, "images").detach()
    if not given.isfinite().all() or given.min() < 0 or given.max() > 1:
        raise Mistake("some pixels leave [0, 1]. End with clamp(0, 1).")
    if (given - x).abs().max() > _BUDGET + 1e-6:
        raise Mistake(
            f"a pixel value changes by {255 * float((given - x).abs().max()):.1f}/255; "
            "eps is 8/255. Clamp the change to -eps..eps."
        )
    most = max(surrogate.gradients for surrogate in surrogates)
    if most > _GRADIENTS * len(x):
        raise Mistake(
            f"you use {most / len(x):.0f} gradients of one network for each image; "
            f"{_GRADIENTS} are allowed."
        )
    yours = _strangers_fooled(given, x, y)
    best = max(rivals, key=lambda name: rivals[name])
    if yours < rivals[best] + _AHEAD:
        raise Mistake(
            f"you fool the strangers on {yours:.0%} of the signs, {best} on {rivals[best]:.0%}; "
            f"be ahead by {_AHEAD:.0%}. What do your networks dislike on all signs alike?"
        )
    told = " and ".join(f"{name} on {share:.0%}" for name, share in rivals.items())
    return f"you fool the strangers on {yours:.0%} of the signs, {told}."


def _strangers_fooled(x_adv: Tensor, x: Tensor, y: Tensor) -> float:
    """Share of the correct classifications of all strangers that `x_adv` turns wrong."""
    lost = correct = 0
    for name in _STRANGERS:
        network = load(name)
        before = predict(network, x).argmax(1) == y
        correct += int(before.sum())
        lost += int((before & (predict(network, x_adv).argmax(1) != y)).sum())
    return lost / correct


@cache
def _rivals() -> tuple[Tensor, Tensor, dict[str, float]]:
    """Signs that the lesson does not show, and how often its two rivals fool the strangers."""
    x, y = signs.render(48, seed=5_311)
    group = ensemble([load(name) for name in _OWNED], average="logits")
    corners = torch.cartesian_prod(*[torch.tensor([-_BUDGET, _BUDGET])] * 3).view(8, 1, 3, 1, 1)
    tinted = (x + corners).clamp(0, 1)
    scores = torch.stack([margin(predict(group, images), y) for images in tinted])
    made = {
        "PGD on your three networks": pgd(group, x, y, _BUDGET, steps=_GRADIENTS),
        "the colour cast they like least": tinted[scores.argmax(0), torch.arange(len(x))],
    }
    return x, y, {name: _strangers_fooled(images, x, y) for name, images in made.items()}
