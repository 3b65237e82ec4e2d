"""The inspection of attacks: every correct one passes, every broken one is named."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import advlib
from advlib.audit.attack_checks import CHECKS, Check, Inspection, inspect_attack
from advlib.errors import InputError, LabelError, PixelError, ThreatError

RANDOM_STATE_IS_WATCHED = True

Attack = Callable[[Any, Tensor, Tensor, float], Tensor]
EPS = {"linf": 0.1, "l2": 1.2, "l1": 8.0}


class Net(nn.Module):
    """Small, not linear, and with batch normalisation, dropout and a normalisation of its own."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)
        self.one = nn.Linear(3 * 8 * 8, 24)
        self.two = nn.Linear(24, 4)
        with torch.no_grad():
            for parameter in (self.one.weight, self.two.weight):
                parameter.normal_(std=0.3, generator=generator)
            self.norm.running_mean.fill_(0.5)
            self.norm.running_var.fill_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(F.softplus(self.one(self.drop(self.norm(x).flatten(1)))))


@pytest.fixture
def model(device: torch.device) -> Net:
    with torch.random.fork_rng(devices=[]):  # layers draw their first weights
        return Net().to(device).eval()


@pytest.fixture
def images(model: Net, device: torch.device) -> tuple[Tensor, Tensor]:
    """Images of a medium contrast; the classes are what the network says, so it is correct."""
    x = 0.2 + 0.6 * torch.rand(400, 3, 8, 8, generator=torch.Generator().manual_seed(7))
    x = x.to(device)
    logits = advlib.evaluation.predict(model, x)
    top = logits.topk(2).values
    ahead, y = top[:, 0] - top[:, 1], logits.argmax(1)
    # Four of each class in turn, those the network is surest of: away from the boundary.
    places = [torch.where(y == label, ahead, -1.0).topk(4).indices for label in range(4)]
    rows = torch.stack(places, 1).flatten()
    return x[rows], y[rows]


def up(model: Any, x: Tensor, y: Tensor) -> Tensor:
    return advlib.input_gradient(model, x, y).grad.sign()


def _by_hand(model: Any, x: Tensor, y: Tensor, eps: float) -> Tensor:
    x_adv = x
    for _ in range(8):
        x_leaf = x_adv.clone().requires_grad_()
        (g,) = torch.autograd.grad(F.cross_entropy(model(x_leaf), y, reduction="sum"), x_leaf)
        x_adv = (x + (x_adv + eps / 3 * g.sign() - x).clamp(-eps, eps)).clamp(0, 1)
    return x_adv


CORRECT: dict[str, tuple[Attack, str]] = {
    "fgsm": (advlib.fgsm, "linf"),
    "fgsm l2": (lambda m, x, y, eps: advlib.fgsm(m, x, y, eps, norm="l2"), "l2"),
    "fgsm l1": (lambda m, x, y, eps: advlib.fgsm(m, x, y, eps, norm="l1"), "l1"),
    "pgd": (lambda m, x, y, eps: advlib.pgd(m, x, y, eps, steps=8), "linf"),
    "pgd l2": (lambda m, x, y, eps: advlib.pgd(m, x, y, eps, steps=8, norm="l2"), "l2"),
    "pgd l1": (lambda m, x, y, eps: advlib.pgd(m, x, y, eps, steps=8, norm="l1"), "l1"),
    "pgd, margin, restarts, early stop": (
        lambda m, x, y, eps: advlib.pgd(
            m, x, y, eps, steps=8, restarts=2, loss="margin", early_stop=True
        ),
        "linf",
    ),
    "by hand": (_by_hand, "linf"),
}


@pytest.mark.parametrize("name", CORRECT)
def test_correct_attacks_pass(name: str, model: Net, images: tuple[Tensor, Tensor]) -> None:
    attack, norm = CORRECT[name]
    for share in (1, 0.25):
        report = inspect_attack(attack, model, *images, share * EPS[norm], norm=norm)
        assert report.ok and not report.failed, report
        assert tuple(check.name for check in report.checks) == CHECKS


def _train_mode(model: Any, x: Tensor, y: Tensor, eps: float) -> Tensor:
    model.train()
    x_leaf = x.clone().requires_grad_()
    (g,) = torch.autograd.grad(F.cross_entropy(model(x_leaf), y), x_leaf)
    return (x + eps * g.sign()).clamp(0, 1)


def _train_mode_and_back(model: Any, x: Tensor, y: Tensor, eps: float) -> Tensor:
    x_adv = _train_mode(model, x, y, eps)
    model.eval()
    return x_adv


def _in_place(model: Any, x: Tensor, y: Tensor, eps: float) -> Tensor:
    x += eps * up(model, x, y)
    return x.clamp_(0, 1)


def _labels_in_place(model: Any, x: Tensor, y: Tensor, eps: float) -> Tensor:
    x_adv = advlib.fgsm(model, x, y, eps)
    y += 1
    return x_adv


def _weights_gradient(model: Any, x: Tensor, y: Tensor, eps: float) -> Tensor:
    x_leaf = x.clone().requires_grad_()
    F.cross_entropy(model(x_leaf), y).backward()
    assert x_leaf.grad is not None
    return (x + eps * x_leaf.grad.sign()).clamp(0, 1)


def _weights(model: Any, x: Tensor, y: Tensor, eps: float) -> Tensor:
    with torch.no_grad():
        model.one.weight.mul_(0.5)
    return advlib.fgsm(model, x, y, eps)


def _seeds(seed: Callable[[int], Any]) -> Attack:
    def attack(model: Any, x: Tensor, y: Tensor, eps: float) -> Tensor:
        seed(3)
        return advlib.fgsm(model, x, y, eps)

    return attack


def _global_noise(model: Any, x: Tensor, y: Tensor, eps: float) -> Tensor:
    start = (x + eps * (2 * torch.rand_like(x) - 1)).clamp(0, 1)
    return (x + (start + eps * up(model, start, y) - x).clamp(-eps, eps)).clamp(0, 1)


def _last_iterate(model: Any, x: Tensor, y: Tensor, eps: float) -> Tensor:
    x_adv = x
    for _ in range(5):
        step = (eps / 2) * up(model, x_adv, y)
        x_adv = (x_adv + step.clamp(-eps, eps)).clamp(0, 1)
    return x_adv


def _norm_of_the_batch(model: Any, x: Tensor, y: Tensor, eps: float) -> Tensor:
    g = advlib.input_gradient(model, x, y).grad
    return advlib.threats.confine(x, eps * g / g.norm(), eps, "l2")


def _mean_of_the_batch(model: Any, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Climbs, and keeps the budget, but takes the mean over the batch off the gradient."""
    g = advlib.input_gradient(model, x, y).grad
    return (x + eps * (g - g.mean(0)).sign()).clamp(0, 1)


def _nan(model: Any, x: Tensor, y: Tensor, eps: float) -> Tensor:
    return x + 0 * up(model, x, y) / torch.zeros_like(x)


def _worst(model: Any, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Of FGSM and noise, the point that raises the loss less."""
    rivals = [advlib.fgsm(model, x, y, eps), advlib.noise(x, eps)]
    losses = torch.stack([advlib.input_gradient(model, z, y).loss for z in rivals])
    return torch.stack(rivals)[losses.argmin(0), torch.arange(len(x), device=x.device)]


def _less_with_more(model: Any, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """Climbs within half of the budget, and overshoots with all of it."""
    return advlib.fgsm(model, x, y, eps) if eps < 0.09 else advlib.noise(x, eps)


BROKEN: dict[str, tuple[Attack, str, str, str]] = {
    "225": (
        lambda m, x, y, eps: advlib.fgsm(m, x, y, eps * 255 / 225),
        "linf",
        "budget",
        "225 in the place of 255",
    ),
    "normalised": (
        lambda m, x, y, eps: (
            x + eps * torch.tensor([0.25, 0.22, 0.27]).to(x).view(3, 1, 1) * up(m, x, y)
        ).clamp(0, 1),
        "linf",
        "used",
        "0.25, 0.22, 0.27 eps: is eps applied to normalised pixels",
    ),
    "grey levels": (lambda m, x, y, eps: advlib.fgsm(m, x, y, 255 * eps), "linf", "budget", "most"),
    "no clipping": (lambda m, x, y, eps: x + eps * up(m, x, y), "linf", "box", "Clip x_adv"),
    "linf for l2": (advlib.fgsm, "l2", "budget", "the wrong norm"),
    "l2 for l1": (
        lambda m, x, y, eps: advlib.fgsm(m, x, y, eps, norm="l2"),
        "l1",
        "budget",
        "In l2 it is at most eps",
    ),
    "downhill": (
        lambda m, x, y, eps: (x - eps * up(m, x, y)).clamp(0, 1),
        "linf",
        "ascent",
        "goes downhill",
    ),
    "x itself": (lambda m, x, y, eps: x, "linf", "used", "Nothing is changed"),
    "noise": (lambda m, x, y, eps: advlib.noise(x, eps), "linf", "noise", "no better than noise"),
    "worst": (_worst, "linf", "noise", "thrown away"),
    "shuffled labels": (
        lambda m, x, y, eps: advlib.fgsm(m, x, y.roll(1), eps),
        "linf",
        "batch",
        "labels and images out of step",
    ),
    "one class for all": (
        lambda m, x, y, eps: advlib.fgsm(m, x, torch.zeros_like(y), eps),
        "linf",
        "one step",
        "the labels",
    ),
    "train mode": (_train_mode, "linf", "model", "left in train mode"),
    "train mode, then eval": (_train_mode_and_back, "linf", "model", "called in train mode"),
    "weights": (_weights, "linf", "model", "one.weight has changed"),
    "in place": (_in_place, "linf", "arguments", "x is changed in place"),
    "labels in place": (_labels_in_place, "linf", "arguments", "y is changed in place"),
    "weights' gradient": (_weights_gradient, "linf", "gradients", "torch.autograd.grad"),
    "torch's seed": (_seeds(torch.manual_seed), "linf", "random", "torch.Generator"),
    "numpy's seed": (_seeds(np.random.seed), "linf", "random", "has moved"),
    "Python's seed": (_seeds(random.seed), "linf", "random", "has moved"),
    "global noise": (_global_noise, "linf", "random", "has moved"),
    "last iterate": (_last_iterate, "linf", "budget", "around the last iterate"),
    "eps ignored": (
        lambda m, x, y, eps: advlib.fgsm(m, x, y, 0.1),
        "linf",
        "budget",
        "does not use the budget",
    ),
    "eps = 0": (
        lambda m, x, y, eps: advlib.fgsm(m, advlib.noise(x, 0.01), y, eps),
        "linf",
        "zero",
        "0 is expected",
    ),
    "fails at 0": (
        lambda m, x, y, eps: x + up(m, x, y) * (0 / eps) if eps == 0 else advlib.fgsm(m, x, y, eps),
        "linf",
        "result",
        "at eps = 0 the attack stops with ZeroDivisionError",
    ),
    "norm of the batch": (_norm_of_the_batch, "l2", "batch", "norm of the whole batch"),
    "mean of the batch": (_mean_of_the_batch, "linf", "batch", "over the batch dimension"),
    "needs a batch": (
        lambda m, x, y, eps: advlib.fgsm(m, x, y, eps) if len(x) > 1 else x[0],
        "linf",
        "batch",
        "batch of one image",
    ),
    "less with more": (_less_with_more, "linf", "more", "cannot fall"),
    "NaN": (_nan, "linf", "finite", "16 of 16 images hold NaN"),
    "float64": (
        lambda m, x, y, eps: advlib.fgsm(m, x, y, eps).double(),
        "linf",
        "result",
        "dtype torch.float64",
    ),
    "shape": (
        lambda m, x, y, eps: advlib.fgsm(m, x, y, eps).flatten(1),
        "linf",
        "result",
        "shape (16, 192)",
    ),
    "numpy": (
        lambda m, x, y, eps: advlib.fgsm(m, x, y, eps).cpu().numpy(),
        "linf",
        "result",
        "a ndarray comes back",
    ),
    "graph": (
        lambda m, x, y, eps: advlib.fgsm(m, x, y, eps).requires_grad_(),
        "linf",
        "result",
        "part of a graph",
    ),
    "error": (lambda m, x, y: x, "linf", "result", "TypeError"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_attacks_are_named(name: str, model: Net, images: tuple[Tensor, Tensor]) -> None:
    attack, norm, check, words = BROKEN[name]
    report = inspect_attack(attack, model, *images, EPS[norm], norm=norm)
    assert not report.ok
    assert check in report.failed, report
    said = next(one.message for one in report.checks if one.name == check)
    assert words in said, said


def test_a_slip_that_only_touches_the_surroundings_is_named_alone(
    model: Net, images: tuple[Tensor, Tensor]
) -> None:
    """No false alarm beside the true one."""
    for name, check in (
        ("225", "budget"),
        ("no clipping", "box"),
        ("in place", "arguments"),
        ("weights' gradient", "gradients"),
        ("torch's seed", "random"),
        ("float64", "result"),
        ("graph", "result"),
    ):
        attack, norm, *_ = BROKEN[name]
        assert inspect_attack(attack, model, *images, EPS[norm]).failed == (check,), name


@pytest.mark.parametrize("name", ["in place", "weights", "train mode", "weights' gradient", "NaN"])
def test_the_callers_things_stay_as_they_were(
    name: str, model: Net, images: tuple[Tensor, Tensor]
) -> None:
    x, y = images
    before_x, before_y = x.clone(), y.clone()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    attack, norm, *_ = BROKEN[name]
    inspect_attack(attack, model, x, y, EPS[norm], norm=norm)
    assert x.equal(before_x) and y.equal(before_y)
    assert all(value.equal(state[key]) for key, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(not module._forward_pre_hooks for module in model.modules())


def test_a_function_can_be_the_model(model: Net, images: tuple[Tensor, Tensor]) -> None:
    report = inspect_attack(advlib.fgsm, lambda x: model(x), *images, 0.1)
    assert report.ok, report


def test_misclassified_images_are_left_out(model: Net, images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    wrong = y.clone()
    wrong[:4] = (wrong[:4] + 1) % 4
    seen = []

    def attack(model: Any, x: Tensor, y: Tensor, eps: float) -> Tensor:
        seen.append(len(x))
        return advlib.fgsm(model, x, y, eps)

    assert inspect_attack(attack, model, x, wrong, 0.1).ok
    assert max(seen) == 12
    with pytest.raises(InputError, match="7 of 16 images correctly"):
        wrong[:9] = (y[:9] + 1) % 4
        inspect_attack(attack, model, x, wrong, 0.1)


def test_arguments_are_checked(model: Net, images: tuple[Tensor, Tensor]) -> None:
    x, y = images
    with pytest.raises(ThreatError, match="l3"):
        inspect_attack(advlib.fgsm, model, x, y, 0.1, norm="l3")
    with pytest.raises(ThreatError, match="eps"):
        inspect_attack(advlib.fgsm, model, x, y, -0.1)
    with pytest.raises(InputError, match="eps is 0"):
        inspect_attack(advlib.fgsm, model, x, y, 0)
    with pytest.raises(PixelError):
        inspect_attack(advlib.fgsm, model, 255 * x, y)
    with pytest.raises(LabelError):
        inspect_attack(advlib.fgsm, model, x, y[:3])
    with pytest.raises(InputError, match="0 of 0"):
        inspect_attack(advlib.fgsm, model, x[:0], y[:0])


def test_a_report_prints_itself() -> None:
    report = Inspection(
        (
            Check("box", True, "pixels from 0.00 to 1.00."),
            Check("budget", False, "the longest change measures 1.13 times eps " + 9 * "and on "),
            Check("used", None, "there is no result to measure."),
        )
    )
    assert not report.ok and report.failed == ("budget",)
    lines = repr(report).splitlines()
    assert lines[0] == "attack inspection: 1 of 3 checks passed"
    assert lines[1].startswith("FAILED  budget    the longest change")
    assert lines[-2] == "passed  box       pixels from 0.00 to 1.00."
    assert lines[-1] == "not run used      there is no result to measure."
    assert max(map(len, lines)) <= 80 and str(report) == repr(report)
