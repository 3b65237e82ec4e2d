"""Which attacks an audit runs, in order: the cheap ones first, each on what is not fooled yet."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from advlib.attacks.autopgd import apgd, apgd_over_classes
from advlib.attacks.fgsm import fgsm
from advlib.attacks.fmn import fmn
from advlib.attacks.hop_skip_jump import hop_skip_jump
from advlib.attacks.noise import noise
from advlib.attacks.pgd import pgd
from advlib.attacks.square import square
from advlib.audit.robustness import robust_accuracy
from advlib.contracts import Model
from advlib.errors import InputError
from advlib.threats import confine, per_image


class Budget(NamedTuple):
    """What an attack may spend, and its source of randomness."""

    eps: float
    norm: str
    batch_size: int
    generator: torch.Generator


Run = Callable[[Model, Tensor, Tensor, Budget], Tensor]


@dataclass(frozen=True)
class Attack:
    """One member of the ensemble.

    Attributes
    ----------
    name
        What the report calls it; no two of a plan share one.
    knows
        What the attacker sees of the model: ``"nothing"``, ``"gradients"``, ``"logits"`` or
        ``"decisions"``, the classes alone.
    run
        Called with the model, images, true classes and a `Budget`; returns perturbed images.
    settings
        What else determines its result; written to the report.
    """

    name: str
    knows: str
    run: Run
    settings: Mapping[str, Any] = field(default_factory=dict)


LEVELS = ("quick", "standard", "thorough")


def plan(level: str, classes: int, *, differentiable: bool = True) -> tuple[Attack, ...]:
    """The ensemble of a level.

    Parameters
    ----------
    level
        ``"quick"``: 156 gradients an image at most, to see whether anything is wrong.
        ``"standard"``: what a claim needs. ``"thorough"``: many steps, restarts and queries.
    classes
        How many classes the model knows.
    differentiable
        False leaves out what needs gradients.
    """
    pgd_ce = partial(_member, "pgd-ce", "gradients", _run_pgd, loss="ce")
    robust = partial(_member, "robust_accuracy", "gradients", _run_robust_accuracy)
    corners = partial(_member, "corners", "gradients", _run_robust_accuracy, corners=True)
    nearest = partial(_member, "fmn", "gradients", _run_fmn)
    by_queries = partial(_member, "square", "logits", partial(_run, square))
    climb = partial(_run, apgd)
    plans = {
        "quick": (
            pgd_ce(steps=5, random_start=True),
            robust(gradients=20),
            corners(gradients=100),
            _apgd_over_classes(classes, at_most=3, steps=10),
            by_queries(queries=50),
        ),
        "standard": (
            pgd_ce(steps=10, random_start=False),
            robust(gradients=40),
            corners(gradients=200),
            nearest(steps=60),
            _member("apgd-ce", "gradients", climb, loss="ce", steps=60, restarts=1),
            _apgd_over_classes(classes, at_most=9, steps=30),
            by_queries(queries=200),
        ),
        "thorough": (
            pgd_ce(steps=20, random_start=False),
            robust(gradients=60),
            corners(gradients=1000),
            nearest(steps=500),
            _member("apgd-ce", "gradients", climb, loss="ce", steps=100, restarts=3),
            _member("apgd-margin", "gradients", climb, loss="margin", steps=100, restarts=3),
            _apgd_over_classes(classes, at_most=9, steps=100),
            by_queries(queries=3000),
            _member("hop_skip_jump", "decisions", _run_hop_skip_jump, queries=1000),
        ),
    }
    if level not in plans:
        raise InputError(f"level is {level!r}; one of {', '.join(LEVELS)} is expected.")
    members = (
        _member("noise", "nothing", _run_noise, distribution="uniform"),
        _member("fgsm", "gradients", _run_fgsm, loss="ce"),
        *plans[level],
    )
    return tuple(a for a in members if differentiable or a.knows != "gradients")


def chosen(attacks: Sequence[Attack] | Mapping[str, Callable[..., Tensor]]) -> tuple[Attack, ...]:
    """The caller's own ensemble: `Attack` objects, or names with functions of (model, x, y)."""
    if isinstance(attacks, Mapping):
        # The data and the model tell the run folder apart, the name tells the function.
        attacks = [Attack(name, "unknown", partial(_batched, f)) for name, f in attacks.items()]
    members = tuple(attacks)
    if not members or not all(isinstance(member, Attack) for member in members):
        raise InputError(
            "attacks is expected to be a mapping from names to functions of (model, x, y) that "
            "return x_adv, or a sequence of advlib.audit.Attack; at least one."
        )
    names = [member.name for member in members]
    if len(set(names)) < len(names):
        raise InputError(f"two attacks share a name: {', '.join(names)}. Give each its own.")
    return members


def at_most(attack: Attack) -> tuple[int, int]:
    """How often it puts an image through the model, forward alone and with a gradient, at most."""
    told = dict(attack.settings)
    steps = told.get("steps", 1) * told.get("restarts", 1) * told.get("classes", 1)
    return 1 + told.get("queries", 0), told.get("gradients", steps * (attack.knows == "gradients"))


# -- the members -----------------------------------------------------------------------------------


def _member(name: str, knows: str, run: Callable[..., Tensor], **settings: Any) -> Attack:
    return Attack(name, knows, partial(run, **settings), settings)


def _apgd_over_classes(classes: int, at_most: int, steps: int) -> Attack:
    loss = "dlr" if classes >= 4 else "margin"
    settings = {"loss": loss, "classes": min(classes - 1, at_most), "steps": steps}
    run = partial(_run, apgd_over_classes)
    return _member(f"apgd-{loss}-classes", "gradients", run, **settings)


def _run_noise(model: Model, x: Tensor, y: Tensor, budget: Budget, **settings: Any) -> Tensor:
    return noise(x, budget.eps, norm=budget.norm, generator=budget.generator, **settings)


def _run_fgsm(model: Model, x: Tensor, y: Tensor, budget: Budget, **settings: Any) -> Tensor:
    attack = partial(fgsm, eps=budget.eps, norm=budget.norm, **settings)
    return _batched(attack, model, x, y, budget)


def _run_pgd(model: Model, x: Tensor, y: Tensor, budget: Budget, **settings: Any) -> Tensor:
    settings |= {"norm": budget.norm, "generator": budget.generator, "early_stop": True}
    return _batched(partial(pgd, eps=budget.eps, **settings), model, x, y, budget)


def _run_robust_accuracy(
    model: Model, x: Tensor, y: Tensor, budget: Budget, **settings: Any
) -> Tensor:
    """The points that fooled the model; images that were not fooled as they are."""
    x_adv = x.clone()

    def keep(rows: Tensor, points: Tensor) -> None:
        x_adv[rows] = points

    _run(robust_accuracy, model, x, y, budget, on_fooled=keep, **settings)
    return x_adv


def _run_fmn(model: Model, x: Tensor, y: Tensor, budget: Budget, steps: int) -> Tensor:
    """The nearest points that fool, where they lie in the ball."""
    found = fmn(model, x, y, norm=budget.norm, steps=steps, batch_size=budget.batch_size)
    return torch.where(per_image(found.eps <= budget.eps, x), found.x_adv, x)


def _run_hop_skip_jump(
    model: Model, x: Tensor, y: Tensor, budget: Budget, **settings: Any
) -> Tensor:
    """The nearest points that fool, as far as they lie in the ball; others at its edge."""
    options = budget._asdict() | {"norm": "linf" if budget.norm == "linf" else "l2"} | settings
    eps = options.pop("eps")
    return confine(x, hop_skip_jump(model, x, y, **options).x_adv - x, eps, budget.norm)


def _run(
    attack: Callable[..., Any], model: Model, x: Tensor, y: Tensor, budget: Budget, **settings: Any
) -> Any:
    """An attack that fills batches itself."""
    return attack(model, x, y, **budget._asdict(), **settings)


def _batched(
    attack: Callable[..., Tensor], model: Model, x: Tensor, y: Tensor, budget: Budget
) -> Tensor:
    """An attack that works on all images it is given at once."""
    size = budget.batch_size
    parts = zip(x.split(size), y.split(size), strict=True)
    return torch.cat([attack(model, *part) for part in parts])
