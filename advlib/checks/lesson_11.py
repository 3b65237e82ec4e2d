"""Checks of lesson 11, "Attacks travel"."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from advlib.checks import Mistake, check, expect_answer, expect_tensor, expect_untouched

_EPS = 0.05
_STEP = 0.02
_EnsembleLoss = Callable[[Sequence[Tensor], Tensor], Tensor]
_UniversalStep = Callable[[Tensor, Tensor, float, float], Tensor]


def _near(given: Tensor, other: Tensor) -> bool:
    return given.shape == other.shape and torch.allclose(given, other.to(given), atol=1e-4)


@check
def ensemble_loss(answer: _EnsembleLoss) -> str:
    """Exercise 11.1: the loss of an ensemble of surrogates.

    Parameters
    ----------
    answer
        ``answer(logits, y)`` takes a list of k tensors (n, classes) and classes (n,), and returns
        ``-log(mean over the k networks of softmax(logits)_y)``, one value for each picture.

    Returns
    -------
    Verdict
    """
    generator = torch.Generator().manual_seed(11)
    logits = [4 * torch.randn(6, 5, generator=generator) for _ in range(3)]
    y = torch.randint(0, 5, (6,), generator=generator)
    before = [part.clone() for part in logits]
    given = answer(logits, y)
    expect_answer(given)
    if isinstance(given, Tensor) and given.ndim == 0:
        raise Mistake("your function returns one number; one value for each picture is expected.")
    loss = expect_tensor(given, y.shape, "losses")
    for part, held in zip(logits, before, strict=True):
        expect_untouched(part, held)
    own = y[:, None]
    chances = torch.stack([part.softmax(1).gather(1, own).squeeze(1) for part in logits])
    if not _near(loss, -chances.mean(0).log()):
        _wrong_loss(loss, logits, y, chances)
    _survives(answer)
    return "the loss of the mean opinion: no network can be loud enough to drown the others."


def _wrong_loss(loss: Tensor, logits: Sequence[Tensor], y: Tensor, chances: Tensor) -> None:
    """Say which other formula this is."""
    mean_logits = F.cross_entropy(torch.stack(list(logits)).mean(0), y, reduction="none")
    guesses = {
        "that is the mean of the networks' own losses. Average the probabilities first, then take "
        "the logarithm.": -chances.log().mean(0),
        "that is the sum of the networks' own losses. Average the probabilities first, then take "
        "the logarithm.": -chances.log().sum(0),
        "you average the logits. That is the ensemble of Dong et al. 2018; here the softmax comes "
        "first, so that a network with large logits has no larger say.": mean_logits,
        "that is the mean probability itself. The loss is minus its logarithm.": chances.mean(0),
        "the sign is turned round: a loss is minus the logarithm.": chances.mean(0).log(),
        "the probabilities are added, not averaged: divide by the number of networks. (The "
        "gradient would be the same, the value is not.)": -chances.sum(0).log(),
        "softmax was taken twice: cross_entropy takes logits and applies softmax itself. Hand it "
        "the logarithm of the mean, or pick entry y by hand.": F.cross_entropy(
            torch.stack([part.softmax(1) for part in logits]).mean(0), y, reduction="none"
        ),
        "only the first network has a say.": -chances[0].log(),
        "only the last network has a say.": -chances[-1].log(),
    }
    for words, wrong in guesses.items():
        if _near(loss, wrong):
            raise Mistake(words)
    raise Mistake(
        f"for the first picture the networks give class y the probabilities "
        f"{', '.join(f'{p:.3f}' for p in chances[:, 0].tolist())}; minus the logarithm of their "
        f"mean is {float(-chances[:, 0].mean().log()):.3f}, yours is {float(loss[0]):.3f}."
    )


def _survives(answer: _EnsembleLoss) -> None:
    """Sure networks must not turn the loss into infinity."""
    sure = [torch.tensor([[300.0, 0.0]]), torch.tensor([[280.0, 0.0]])]
    loss = answer(sure, torch.tensor([1]))
    if not loss.isfinite().all():
        raise Mistake(
            "with logits of 300 the softmax of the other class is 0 in float32, and its logarithm "
            "infinite. Stay with logarithms: log_softmax, then torch.logsumexp over the networks, "
            "minus log k."
        )
    if abs(float(loss[0]) - (280 + math.log(2))) > 0.1:
        raise Mistake(
            f"where all networks are sure of another class, the loss is {float(loss[0]):.1f}; it "
            "should be 280.7. Clamping or adding a small number hides the gradient there: use "
            "log_softmax and torch.logsumexp."
        )


@check
def universal_step(answer: _UniversalStep) -> str:
    """Exercise 11.2: one step of a universal perturbation in the L-infinity ball.

    Parameters
    ----------
    answer
        ``answer(delta, grads, step_size, eps)`` takes the perturbation (1, c, h, w) and the
        gradients (n, c, h, w) of each picture's loss, and returns the next perturbation:
        ``(delta + step_size * sign(mean of grads)).clamp(-eps, eps)``.

    Returns
    -------
    Verdict
    """
    generator = torch.Generator().manual_seed(12)
    delta = _EPS * (2 * torch.rand(1, 3, 8, 8, generator=generator) - 1)
    # A few pictures with large gradients: the mean and the majority often disagree.
    grads = torch.randn(9, 3, 8, 8, generator=generator) ** 3
    before, held = delta.clone(), grads.clone()
    given = answer(delta, grads, _STEP, _EPS)
    expect_answer(given)
    if isinstance(given, Tensor) and given.shape == grads.shape:
        raise Mistake(
            "you return a perturbation for each picture; there is one for all of them. Average "
            "the gradients over the pictures: grads.mean(0, keepdim=True)."
        )
    if isinstance(given, Tensor) and given.shape == delta.shape[1:]:
        raise Mistake("the batch dimension is lost: keepdim=True, or [None], keeps (1, c, h, w).")
    step = expect_tensor(given, tuple(delta.shape), "perturbations")
    expect_untouched(delta, before)
    expect_untouched(grads, held)
    mean = grads.mean(0, keepdim=True)
    if not _near(step, (delta + _STEP * mean.sign()).clamp(-_EPS, _EPS)):
        _wrong_step(step, delta, grads, mean)
    return "one step for all pictures at once, and back into the ball."


def _wrong_step(step: Tensor, delta: Tensor, grads: Tensor, mean: Tensor) -> None:
    """Say which other step this is."""

    def stepped(direction: Tensor, size: float = _STEP) -> Tensor:
        return (delta + size * direction).clamp(-_EPS, _EPS)

    if step.abs().max() > _EPS * 1.001:
        raise Mistake(
            f"the perturbation reaches {float(step.abs().max()):.3f}; eps is {_EPS}. End with "
            "clamp(-eps, eps)."
        )
    votes = grads.sign()
    guesses = {
        "this lowers the loss. An attacker goes up: plus, not minus.": stepped(-mean.sign()),
        "the step has the size of the gradient. In the L-infinity ball the steepest step is the "
        "sign of the mean gradient.": stepped(mean),
        "you average the signs. Average the gradients first, then take the sign.": stepped(
            votes.mean(0, keepdim=True)
        ),
        "you let the pictures vote: the sign of the mean of signs. A picture with a steep loss "
        "should count for more: average the gradients themselves.": stepped(
            votes.mean(0, keepdim=True).sign()
        ),
        "only the first picture has a say. Average over all of them.": stepped(grads[:1].sign()),
        "only the last picture has a say. Average over all of them.": stepped(grads[-1:].sign()),
        "the perturbation is clamped to [0, 1], as pixels are. It may be negative: "
        "clamp(-eps, eps).": (delta + _STEP * mean.sign()).clamp(0, _EPS),
        "the step starts at zero, not at delta: what was learned before is lost.": (
            _STEP * mean.sign()
        ).clamp(-_EPS, _EPS),
        "the step has length eps. It should have length step_size.": stepped(mean.sign(), _EPS),
        "nothing moved. Add step_size times the sign.": delta,
    }
    for words, wrong in guesses.items():
        if _near(step, wrong):
            raise Mistake(words)
    raise Mistake(
        "this is another step. In order: the mean of the gradients over the pictures, its sign, "
        "times step_size, added to delta, clamped to -eps..eps."
    )
