"""One piece of an audit: every attack on the images that are not fooled yet."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from advlib import threats
from advlib.attacks.adaptive import averaged
from advlib.audit.plan import Attack, Budget
from advlib.audit.sanity import DRAWS, VOTES
from advlib.audit.sources import digest
from advlib.contracts import Model, check_logits, undisturbed
from advlib.errors import InputError

ROBUST = -1
"""Classified correctly without an attacker and under every attack so far."""
MISCLASSIFIED = -2
"""Misclassified without an attacker."""
PENDING = -3
"""Not attacked yet."""


@dataclass
class Cost:
    """What one attack cost: images it worked on, seconds, images forward and backward."""

    attacked: int = 0
    seconds: float = 0.0
    forward: int = 0
    backward: int = 0


@dataclass
class Piece:
    """The result of one piece of the data, the images from `start` to before `stop`."""

    start: int
    stop: int
    data: str
    """Digest of images and classes."""
    fooled_by: list[int]
    """For each image the number of the attack that fooled it first, `ROBUST`, `MISCLASSIFIED`."""
    costs: list[Cost] = field(default_factory=list)
    """One for each attack."""
    classes: list[int] = field(default_factory=list)
    """The true class of each image."""

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> "Piece":
        costs = [Cost(**cost) for cost in stored["costs"]]
        piece = cls(**{**stored, "costs": costs})
        if not len(piece.fooled_by) == len(piece.classes) == piece.stop - piece.start:
            raise ValueError("the piece is not whole")
        return piece


class Counted:
    """The model, which counts the images that go through it, forward and backward."""

    def __init__(self, model: Model) -> None:
        self.model, self.forward, self.backward = model, 0, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.forward += len(x)
        if x.requires_grad:
            self.backward += len(x)
        return self.model(x)


@dataclass(frozen=True)
class Setup:
    """What is the same for every piece."""

    model: Model
    attacks: Sequence[Attack]
    eps: float
    norm: str
    batch_size: int
    seed: int
    device: torch.device
    random: bool
    """Whether the model draws at random: attacks then see a mean, and a majority decides."""


def attack_piece(setup: Setup, start: int, x: Tensor, y: Tensor) -> Piece:
    """Run all attacks of `setup` on one piece of the data.

    What is random depends on the seed, on the attack and on where the piece begins, never on who
    computes it or when. Labels, outputs and the results of the attacks are checked.
    """
    known = digest(x, y)
    x, y = x.to(setup.device), y.to(setup.device)
    model = Counted(setup.model)
    costs = []
    with undisturbed(setup.model, setup.device):
        fooled_by = torch.where(_correct(model, x, y, setup), ROBUST, MISCLASSIFIED)
        for number, attack in enumerate(setup.attacks):
            rows = (fooled_by == ROBUST).nonzero().squeeze(1)
            cost, fooled = _attack(setup, attack, model, x[rows], y[rows], start)
            fooled_by[rows[fooled]] = number
            costs.append(cost)
    return Piece(start, start + len(x), known, fooled_by.tolist(), costs, y.tolist())


def _attack(
    setup: Setup, attack: Attack, model: Counted, x: Tensor, y: Tensor, start: int
) -> tuple[Cost, Tensor]:
    """What `attack` cost, and which images it fooled: classified once more, in ball and box."""
    if len(x) == 0:
        return Cost(), torch.zeros(0, dtype=torch.bool, device=x.device)
    seed = seed_of(setup.seed, start, attack.name)
    # For models and attacks that use the global random state; `undisturbed` restores it.
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    began, model.forward, model.backward = time.perf_counter(), 0, 0
    seen = averaged(model, DRAWS) if setup.random else model
    x_adv = attack.run(seen, x, y, Budget(setup.eps, setup.norm, setup.batch_size, generator))
    _check_inside(attack.name, x, x_adv, setup)
    fooled = ~_correct(model, x_adv, y, setup)
    seconds = round(time.perf_counter() - began, 3)
    return Cost(len(x), seconds, model.forward, model.backward), fooled


def seed_of(*parts: object) -> int:
    """A seed for what is named by `parts`, equal on every machine."""
    hashed = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(hashed[:8], "big") >> 2


@torch.no_grad()
def _correct(model: Model, x: Tensor, y: Tensor, setup: Setup) -> Tensor:
    """Whether each image is classified correctly; of a random model, in most of several draws."""
    correct, votes = [], VOTES if setup.random else 1
    for part, classes in zip(x.split(setup.batch_size), y.split(setup.batch_size), strict=True):
        times = torch.zeros_like(classes)
        for _ in range(votes):
            logits = model(part.clone())  # a model may normalise in place
            check_logits(logits, part, classes)
            times += logits.argmax(1) == classes
        correct.append(2 * times > votes)
    return torch.cat(correct)


def _check_inside(name: str, x: Tensor, x_adv: Tensor, setup: Setup) -> None:
    if not isinstance(x_adv, Tensor) or x_adv.shape != x.shape:
        raise InputError(f"the attack {name!r} did not return images of the shape of x.")
    low, high = x_adv.amin().item(), x_adv.amax().item()
    size = threats.norm(x_adv - x, setup.norm).amax().item()
    if not (low >= 0 and high <= 1 and size <= setup.eps):
        raise InputError(
            f"the attack {name!r} left the threat model: pixels from {low:.4g} to {high:.4g}, "
            f"{setup.norm} norm up to {size:.6g} with eps {setup.eps:.6g}. Use "
            "advlib.threats.confine(x, x_adv - x, eps, norm) before returning."
        )
