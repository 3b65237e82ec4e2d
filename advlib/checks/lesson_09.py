"""Checks of lesson 9, "Defences that work"."""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advlib.attacks import fgsm
from advlib.checks import Mistake, check, expect_answer, expect_untouched
from advlib.smoothing import lower_bound

_EPS = 0.1
_Step = Callable[[nn.Module, torch.optim.Optimizer, Tensor, Tensor, float], float]


class _Pass(NamedTuple):
    """What went into the model on one forward pass, and how."""

    x: Tensor
    training: bool


def _network() -> nn.Module:
    """A small network with batch norm, in train mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(9)
        return nn.Sequential(
            nn.Flatten(), nn.Linear(48, 24), nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 3)
        ).train()


def _problem() -> tuple[nn.Module, Tensor, Tensor]:
    """A network that has learned its task, in train mode, with pictures and their classes."""
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
def adversarial_step(answer: _Step) -> str:
    """Exercise 9.1: one step of adversarial training.

    Parameters
    ----------
    answer
        ``answer(model, optimizer, x, y, eps)`` changes the weights of `model` by one step of
        `optimizer`, down the mean cross-entropy of pictures attacked within `eps` in L-infinity,
        with the model in train mode, and returns that loss as a number.

    Returns
    -------
    Verdict
    """
    model, x, y = _problem()
    before = x.clone()
    start = {name: value.clone() for name, value in model.state_dict().items()}
    passes: list[_Pass] = []
    hook = model.register_forward_pre_hook(
        lambda module, given: passes.append(_Pass(given[0].detach().clone(), module.training))
    )
    given: Any = answer(model, torch.optim.SGD(model.parameters(), lr=0.05), x, y, _EPS)
    hook.remove()
    if not passes or given is ...:
        expect_answer(None)
    expect_untouched(x, before)
    _moved(model, start)
    _trained_on(start, passes, x, y)
    _downhill(model, start, passes[-1].x, y)
    _forgot_old_gradients(answer, x, y)
    if given is None or not math.isfinite(float(given)):
        raise Mistake("the step is right; now return the loss as a number: return loss.item().")
    if not model.training:
        raise Mistake(
            "the model comes back in eval mode; the next step would train it there. Give it back "
            "in train mode, as it came."
        )
    return "the weights step down the loss of pictures that were attacked with these weights."


def _copy(state: dict[str, Tensor]) -> nn.Module:
    model = _network()
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


def _loss(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float(F.cross_entropy(model(x), y))


def _moved(model: nn.Module, start: dict[str, Tensor]) -> None:
    if all(p.detach().equal(start[name]) for name, p in model.named_parameters()):
        raise Mistake(
            "no weight has moved. After loss.backward() the step is taken by optimizer.step()."
        )


def _trained_on(start: dict[str, Tensor], passes: list[_Pass], x: Tensor, y: Tensor) -> None:
    """Name what is wrong with the pictures of the last pass, from which the step came."""
    shown, training = passes[-1]
    if shown.shape != x.shape:
        raise Mistake(
            f"the last pass before the step saw shape {tuple(shown.shape)}; the whole attacked "
            f"batch is expected, {tuple(x.shape)}."
        )
    if shown.equal(x):
        raise Mistake(
            "the step is taken on the clean pictures: that is standard training. Pass the attacked "
            "ones to the model."
        )
    size = float((shown - x).abs().max())
    if size > 1.001 * _EPS:
        raise Mistake(f"the pictures are {size:.3f} away from x in L-infinity; eps is {_EPS}.")
    if shown.min() < 0 or shown.max() > 1:
        raise Mistake("the pictures leave [0, 1]: clamp them after the attack's step.")
    model = _copy(start)
    clean, attacked = _loss(model, x, y), _loss(model, shown, y)
    wanted = _loss(model, fgsm(model, x, y, _EPS), y)
    if attacked < clean:
        raise Mistake(
            f"the pictures are easier than the clean ones: loss {attacked:.2f} against "
            f"{clean:.2f}. The attacker climbs the loss of the true class: no targeted=True, no "
            "minus sign."
        )
    if attacked < clean + 0.7 * (wanted - clean):
        raise Mistake(
            f"the pictures have a loss of {attacked:.2f}; clean ones have {clean:.2f} and FGSM "
            f"with this eps reaches {wanted:.2f}. Is it an attack on the true classes, and not "
            "noise, and does it use all of eps?"
        )
    if not training:
        raise Mistake(
            "the step is taken with the model in eval mode, so batch norm learns no statistics. "
            "Call model.train() before the pass that is descended; advlib's attacks take care of "
            "eval mode themselves."
        )


def _downhill(model: nn.Module, start: dict[str, Tensor], x_adv: Tensor, y: Tensor) -> None:
    """The weights, and not the running statistics, must have gone down the loss on `x_adv`."""
    old, new = _copy(start).train(), _copy(model.state_dict()).train()
    if _loss(new, x_adv, y) >= _loss(old, x_adv, y):
        raise Mistake(
            "the step raises the loss on the attacked pictures. Only the attacker goes up; the "
            "weights go down: no minus sign before the loss."
        )


def _forgot_old_gradients(answer: _Step, x: Tensor, y: Tensor) -> None:
    """Run it once more with gradients that an earlier step left behind."""
    model, _, _ = _problem()
    for p in model.parameters():
        p.grad = torch.full_like(p, 1e4)
    start = [p.detach().clone() for p in model.parameters()]
    answer(model, torch.optim.SGD(model.parameters(), lr=0.05), x, y, _EPS)
    far = max(
        float((p.detach() - old).abs().max())
        for p, old in zip(model.parameters(), start, strict=True)
    )
    if far > 100:
        raise Mistake(
            "gradients of the step before are added to the new ones. Call optimizer.zero_grad() "
            "before loss.backward()."
        )


@check
def radius(answer: Callable[[int, int, float, float], float]) -> str:
    """Exercise 9.2: the radius that `count` of `total` votes prove.

    Parameters
    ----------
    answer
        ``answer(count, total, sigma, alpha)`` returns the certified l2 radius, 0 where nothing is
        proved, wrong with a probability of at most `alpha`.

    Returns
    -------
    Verdict
    """
    expect_answer(answer(900, 1000, 0.25, 0.001))
    for count, total, sigma, alpha in _VOTES:
        words = f"{count} of {total} votes, sigma {sigma}, alpha {alpha}"
        try:
            given = float(answer(count, total, sigma, alpha))
        except ValueError as error:
            raise Mistake(
                f"for {words} your code asks for the quantile of 0 or 1 ({error}). The share of "
                "the votes is no proof; its lower bound is always below 1."
            ) from error
        proved = lower_bound(count, total, alpha)
        expected = sigma * NormalDist().inv_cdf(proved) if proved > 0.5 else 0.0
        if not math.isclose(given, expected, rel_tol=1e-3, abs_tol=1e-6):
            raise Mistake(f"for {words}: " + _why(given, expected, count / total, proved, sigma))
    return "the votes prove this radius, and no more."


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


def _why(given: float, expected: float, share: float, proved: float, sigma: float) -> str:
    """The likeliest reason for a radius that is not the expected one."""
    normal = NormalDist()
    if math.isnan(given) or given == math.inf:
        return "your radius is not a finite number. No number of votes proves certainty."
    if expected == 0 and given < 0:
        return (
            f"your radius is {given:.3f}, and a length is not negative. Where the bound is at most "
            "1/2 nothing is proved: 0."
        )
    if expected == 0:
        return (
            f"your radius is {given:.3f}, but the lower bound of the probability is {proved:.2f}. "
            "Only a bound above 1/2 proves that this class wins: 0."
        )
    if math.isclose(given, sigma * normal.cdf(proved), rel_tol=1e-3):
        return "you use the normal distribution's cdf; its inverse is wanted, inv_cdf."
    if math.isclose(given, expected / sigma, rel_tol=1e-3):
        return "sigma is missing. More noise moves the half-space further away."
    if 0 < share < 1 and math.isclose(given, sigma * normal.inv_cdf(share), rel_tol=1e-3):
        return (
            "the radius is that of the share itself. Another draw of votes could give less: use "
            "the lower bound of the probability."
        )
    side = "longer than what is proved" if given > expected else "shorter than what is proved"
    return (
        f"your radius is {given:.3f}, {side}, {expected:.3f}. The bound is one-sided, with "
        "probability alpha of being too high: smoothing.lower_bound(count, total, alpha)."
    )
