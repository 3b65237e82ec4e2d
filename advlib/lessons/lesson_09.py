"""Checks of lesson 9, "Defences that work"."""

import math
from statistics import NormalDist
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advlib.attacks import fgsm
from advlib.defences.smoothing import lower_bound
from advlib.lessons import Answer, Mistake, check, expect_answer, expect_untouched

_EPS = 0.1


def _network() -> nn.Module:
    """A small network with batch norm, in train mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(48, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 3)
        ).train()


def _problem() -> tuple[nn.Module, Tensor, Tensor]:
    """A trained network, in train mode, with images and their classes."""
    generator = torch.Generator().manual_seed(9)
    x = 0.02 + 0.8 * torch.rand(64, 3, 4, 4, generator=generator)
    y = torch.randint(0, 3, (64,), generator=generator)
    x[torch.arange(64), y, :2] += 0.15  # each class is brighter in one channel
    model = _network()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model, x, y


@check
def adversarial_step(answer: Answer) -> str:
    """Exercise 9.1: one step of adversarial training.

    ``answer(model, optimizer, x, y, eps)`` changes the weights of `model` by one step of
    `optimizer`, down the mean cross-entropy of images attacked within `eps` in linf, with the
    model in train mode, and returns that loss as a number.
    """
    model, x, y = _problem()
    before = x.clone()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    passes: list[tuple[Tensor, bool]] = []  # what the model was given, and whether it was training
    hook = model.register_forward_pre_hook(
        lambda module, given: passes.append((given[0].detach().clone(), module.training))
    )
    given: Any = answer(model, torch.optim.SGD(model.parameters(), lr=0.05), x, y, _EPS)
    hook.remove()
    if not passes or given is ...:
        expect_answer(None)
    expect_untouched(x, before)
    if all(p.detach().equal(start[name]) for name, p in model.named_parameters()):
        raise Mistake(
            "no weight has changed. After loss.backward() the step is taken by optimizer.step()."
        )
    x_adv, training = passes[-1]
    _attacked(x_adv, _copy(start), x, y)
    if not training:
        raise Mistake(
            "the step is taken with the model in eval mode, so batch norm learns no statistics. "
            "Call model.train() before the forward pass of the step; advlib's attacks handle eval "
            "mode themselves."
        )
    old, new = _copy(start).train(), _copy(model.state_dict()).train()
    if _loss(new, x_adv, y) >= _loss(old, x_adv, y):
        raise Mistake(
            "the step raises the loss on the attacked images. Only the attacker goes up; the "
            "weights go down: no minus sign before the loss."
        )
    _old_gradients_cleared(answer, x, y)
    if given is None or not math.isfinite(float(given)):
        raise Mistake("the step is correct; now return the loss as a number: return loss.item().")
    if not model.training:
        raise Mistake(
            "the model comes back in eval mode; the next step would train it there. Return it in "
            "train mode, as it came."
        )
    return "the weights step down the loss of images that were attacked with these weights."


def _copy(state: dict[str, Tensor]) -> nn.Module:
    model = _network()
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


def _loss(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float(F.cross_entropy(model(x), y))


def _attacked(x_adv: Tensor, model: nn.Module, x: Tensor, y: Tensor) -> None:
    """Name what is wrong with the images of the last pass, which the step was taken on."""
    if x_adv.shape != x.shape:
        raise Mistake(
            f"the last pass before the step had shape {tuple(x_adv.shape)}; the whole attacked "
            f"batch is expected, {tuple(x.shape)}."
        )
    if x_adv.equal(x):
        raise Mistake(
            "the step is taken on the clean images: that is standard training. Pass the attacked "
            "ones to the model."
        )
    size = float((x_adv - x).abs().max())
    if size > 1.001 * _EPS:
        raise Mistake(f"the images are {size:.3f} away from x in linf; eps is {_EPS}.")
    if x_adv.min() < 0 or x_adv.max() > 1:
        raise Mistake("the images leave [0, 1]: clamp them after the attack's step.")
    clean, attacked = _loss(model, x, y), _loss(model, x_adv, y)
    by_fgsm = _loss(model, fgsm(model, x, y, _EPS), y)
    if attacked < clean:
        raise Mistake(
            f"the images are easier than the clean ones: loss {attacked:.2f} against "
            f"{clean:.2f}. The attacker raises the loss of the true class: no targeted=True, no "
            "minus sign."
        )
    if attacked < clean + 0.7 * (by_fgsm - clean):
        raise Mistake(
            f"the images have a loss of {attacked:.2f}; clean ones have {clean:.2f} and FGSM "
            f"with this eps reaches {by_fgsm:.2f}. Is it an attack on the true classes, and not "
            "noise, and does it use all of eps?"
        )


def _old_gradients_cleared(answer: Answer, x: Tensor, y: Tensor) -> None:
    """Run the step once more with gradients left from an earlier one."""
    model, _, _ = _problem()
    for p in model.parameters():
        p.grad = torch.full_like(p, 1e4)
    start = [p.detach().clone() for p in model.parameters()]
    answer(model, torch.optim.SGD(model.parameters(), lr=0.05), x, y, _EPS)
    moved = (p.detach() - old for p, old in zip(model.parameters(), start, strict=True))
    if max(float(change.abs().max()) for change in moved) > 100:
        raise Mistake(
            "gradients of the step before are added to the new ones. Call optimizer.zero_grad() "
            "before loss.backward()."
        )


@check
def radius(answer: Answer) -> str:
    """Exercise 9.2: the radius that `count` of `total` votes certify.

    ``answer(count, total, sigma, alpha)`` returns the certified l2 radius, 0 where nothing is
    certified, wrong with a probability of at most `alpha`.
    """
    expect_answer(answer(900, 1000, 0.25, 0.001))
    for count, total, sigma, alpha in _VOTES:
        case = f"{count} of {total} votes, sigma {sigma}, alpha {alpha}"
        try:
            given = float(answer(count, total, sigma, alpha))
        except ValueError as error:
            raise Mistake(
                f"for {case} your code computes the quantile of 0 or 1 ({error}). The share of "
                "the votes is no proof; its lower bound is always below 1."
            ) from error
        bound = lower_bound(count, total, alpha)
        expected = sigma * NormalDist().inv_cdf(bound) if bound > 0.5 else 0.0
        if not math.isclose(given, expected, rel_tol=1e-3, abs_tol=1e-6):
            raise Mistake(f"for {case}: " + _why(given, expected, count / total, bound, sigma))
    return "the votes certify this radius, and no more."


_VOTES = (
    (900, 1000, 0.25, 0.001),
    (1000, 1000, 0.25, 0.001),
    (900, 1000, 0.5, 0.001),
    (900, 1000, 0.5, 0.05),
    (400, 1000, 0.25, 0.001),
    (52, 100, 0.25, 0.001),
    (0, 100, 0.25, 0.001),
    (90, 100, 0.25, 0.001),
)


def _why(given: float, expected: float, share: float, bound: float, sigma: float) -> str:
    """The likeliest reason for a radius that is not the expected one."""
    normal = NormalDist()
    if math.isnan(given) or given == math.inf:
        return "your radius is not a finite number. No number of votes proves certainty."
    if expected == 0 and given < 0:
        return (
            f"your radius is {given:.3f}, and a length is not negative. Where the bound is at most "
            "1/2 nothing is certified: 0."
        )
    if expected == 0:
        return (
            f"your radius is {given:.3f}, but the lower bound of the probability is {bound:.2f}. "
            "Only a bound above 1/2 proves that this class wins: 0."
        )
    if math.isclose(given, sigma * normal.cdf(bound), rel_tol=1e-3):
        return "you use the normal distribution's cdf; its inverse is needed, inv_cdf."
    if math.isclose(given, expected / sigma, rel_tol=1e-3):
        return "sigma is missing. More noise moves the half-space further away."
    if 0 < share < 1 and math.isclose(given, sigma * normal.inv_cdf(share), rel_tol=1e-3):
        return (
            "the radius is that of the share itself. Another sample of votes could give less: use "
            "the lower bound of the probability."
        )
    side = "longer than what is certified" if given > expected else "shorter than what is certified"
    return (
        f"your radius is {given:.3f}, {side}, {expected:.3f}. The bound is one-sided, with "
        "probability alpha of being too high: smoothing.lower_bound(count, total, alpha)."
    )
