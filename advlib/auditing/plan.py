"""Which attacks an audit runs, in which order: the cheap ones first, each on what still stands."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from advlib.attacks import fgsm, noise, pgd
from advlib.autopgd import apgd, apgd_over_classes
from advlib.contracts import Model
from advlib.errors import InputError
from advlib.square import square


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
        What the attacker sees of the model: ``"nothing"``, ``"gradients"`` or ``"logits"``.
    run
        Called with the model, pictures, true classes and a `Budget`; returns perturbed pictures.
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
        ``"quick"``: seconds, to see whether anything is wrong. ``"standard"``: what a claim needs.
        ``"thorough"``: many steps, restarts and queries.
    classes
        How many classes the model knows; the scale-free loss needs four.
    differentiable
        False leaves out what needs gradients.

    Raises
    ------
    InputError
        No such level.
    """
    scale_free = "dlr" if classes >= 4 else "margin"
    each = min(classes - 1, 9)
    plans = {
        "quick": (
            _noise(),
            _fgsm(),
            _pgd("ce", 10),
            _apgd("margin", 20),
            _square(50),
        ),
        "standard": (
            _noise(),
            _fgsm(),
            _pgd("ce", 10, random_start=False),
            _pgd("margin", 10, restarts=2),
            _apgd("ce", 40),
            _apgd("margin", 40),
            _over_classes(scale_free, min(each, 3), 30),
            _square(200),
        ),
        "thorough": (
            _noise(),
            _fgsm(),
            _pgd("ce", 20, random_start=False),
            _pgd("margin", 20, restarts=3),
            _apgd("ce", 100, restarts=3),
            _apgd("margin", 100, restarts=3),
            _over_classes(scale_free, each, 100),
            _square(3000),
        ),
    }
    if level not in plans:
        raise InputError(f"level is {level!r}; one of {', '.join(LEVELS)} is expected.")
    return tuple(a for a in plans[level] if differentiable or a.knows != "gradients")


def chosen(attacks: Sequence[Attack] | Mapping[str, Callable[..., Tensor]]) -> tuple[Attack, ...]:
    """The caller's own ensemble: `Attack` objects, or names with functions of (model, x, y).

    Raises
    ------
    InputError
        Nothing was given, something else, or two of one name.
    """
    if isinstance(attacks, Mapping):
        # The data and the model tell the run folder apart, the name tells the function.
        attacks = [Attack(name, "unknown", partial(_plain, run)) for name, run in attacks.items()]
    members = tuple(attacks)
    if not members or not all(isinstance(member, Attack) for member in members):
        raise InputError(
            "attacks is expected to be a mapping from names to functions of (model, x, y) that "
            "return x_adv, or a sequence of advlib.auditing.Attack; at least one."
        )
    names = [member.name for member in members]
    if len(set(names)) < len(names):
        raise InputError(f"two attacks share a name: {', '.join(names)}. Name each its own way.")
    return members


def _plain(
    run: Callable[..., Tensor], model: Model, x: Tensor, y: Tensor, budget: Budget
) -> Tensor:
    return torch.cat([run(model, *part) for part in _batches(x, y, budget)])


def _batches(x: Tensor, y: Tensor, budget: Budget) -> list[tuple[Tensor, Tensor]]:
    size = budget.batch_size
    return list(zip(x.split(size), y.split(size), strict=True))


def _noise() -> Attack:
    def run(model: Model, x: Tensor, y: Tensor, budget: Budget) -> Tensor:
        return noise(x, budget.eps, norm=budget.norm, generator=budget.generator)

    return Attack("noise", "nothing", run, {"distribution": "uniform", "draws": 1})


def _fgsm() -> Attack:
    def run(model: Model, x: Tensor, y: Tensor, budget: Budget) -> Tensor:
        parts = _batches(x, y, budget)
        return torch.cat([fgsm(model, *part, budget.eps, norm=budget.norm) for part in parts])

    return Attack("fgsm", "gradients", run, {"loss": "ce"})


def _pgd(loss: str, steps: int, restarts: int = 1, random_start: bool = True) -> Attack:
    settings = {"loss": loss, "steps": steps, "restarts": restarts, "random_start": random_start}

    def run(model: Model, x: Tensor, y: Tensor, budget: Budget) -> Tensor:
        options: dict[str, Any] = {**settings, "norm": budget.norm, "generator": budget.generator}
        parts = _batches(x, y, budget)
        return torch.cat(
            [pgd(model, *part, budget.eps, early_stop=True, **options) for part in parts]
        )

    return Attack(f"pgd-{loss}", "gradients", run, settings)


def _apgd(loss: str, steps: int, restarts: int = 1) -> Attack:
    settings = {"loss": loss, "steps": steps, "restarts": restarts}

    def run(model: Model, x: Tensor, y: Tensor, budget: Budget) -> Tensor:
        options: dict[str, Any] = {**settings, **_shared(budget)}
        return apgd(model, x, y, budget.eps, **options)

    return Attack(f"apgd-{loss}", "gradients", run, settings)


def _over_classes(loss: str, classes: int, steps: int) -> Attack:
    settings = {"loss": loss, "classes": classes, "steps": steps}

    def run(model: Model, x: Tensor, y: Tensor, budget: Budget) -> Tensor:
        options: dict[str, Any] = {**settings, **_shared(budget)}
        return apgd_over_classes(model, x, y, budget.eps, **options)

    return Attack(f"apgd-{loss}-classes", "gradients", run, settings)


def _shared(budget: Budget) -> dict[str, Any]:
    return {
        "norm": budget.norm,
        "generator": budget.generator,
        "batch_size": budget.batch_size,
    }


def _square(queries: int) -> Attack:
    def run(model: Model, x: Tensor, y: Tensor, budget: Budget) -> Tensor:
        return square(model, x, y, budget.eps, queries=queries, **_shared(budget))

    return Attack("square", "logits", run, {"queries": queries})
