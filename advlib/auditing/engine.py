"""One piece of an audit: every attack on the pictures that still stand."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from advlib import threats
from advlib.auditing.plan import Attack, Budget
from advlib.auditing.sources import digest
from advlib.contracts import Model, check_logits
from advlib.errors import InputError
from advlib.gradients import undisturbed

STANDS = -1
"""Right without an attacker, and under every attack so far."""
WRONG = -2
"""Wrong without an attacker."""
UNSEEN = -3
"""Not looked at yet."""


@dataclass
class Effort:
    """What one attack cost: pictures it worked on, seconds, pictures forward and backward."""

    attacked: int = 0
    seconds: float = 0.0
    forward: int = 0
    backward: int = 0


@dataclass
class Piece:
    """The result of one piece of the data.

    Attributes
    ----------
    start, stop
        Its pictures.
    data
        Digest of pictures and classes.
    fooled_by
        For each picture the number of the attack that fooled it first, or `STANDS` or `WRONG`.
    effort
        One entry for each attack.
    """

    start: int
    stop: int
    data: str
    fooled_by: list[int]
    effort: list[Effort] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, held: dict[str, Any]) -> "Piece":
        effort = [Effort(**one) for one in held["effort"]]
        piece = cls(**{**held, "effort": effort})
        if len(piece.fooled_by) != piece.stop - piece.start:
            raise ValueError("the piece is not whole")
        return piece


class Counted:
    """The model, which counts the pictures that go through it, forward and backward."""

    def __init__(self, model: Model) -> None:
        self.model, self.forward, self.backward = model, 0, 0

    def __call__(self, x: Tensor) -> Tensor:
        self.forward += len(x)
        if x.requires_grad:
            self.backward += len(x)
        return self.model(x)


@dataclass(frozen=True)
class Bench:
    """All that stays the same from piece to piece."""

    model: Model
    attacks: Sequence[Attack]
    eps: float
    norm: str
    batch_size: int
    seed: int
    device: torch.device


def attack_piece(bench: Bench, start: int, x: Tensor, y: Tensor) -> Piece:
    """Run all attacks of `bench` on one piece of the data.

    What is random depends on the seed, on the attack and on where the piece begins, never on who
    computes it or when.

    Raises
    ------
    LabelError, ModelOutputError, InputError
        Labels or outputs do not fit, or an attack leaves ball or box.
    """
    known = digest(x, y)
    x, y = x.to(bench.device), y.to(bench.device)
    model = Counted(bench.model)
    effort = []
    with undisturbed(bench.model, bench.device):
        fooled_by = torch.where(_right(model, x, y, bench), STANDS, WRONG)
        for number, attack in enumerate(bench.attacks):
            rows = (fooled_by == STANDS).nonzero().squeeze(1)
            spent, fooled = _attack(bench, attack, model, x[rows], y[rows], start)
            fooled_by[rows[fooled]] = number
            effort.append(spent)
    return Piece(start, start + len(x), known, fooled_by.tolist(), effort)


def _attack(
    bench: Bench, attack: Attack, model: Counted, x: Tensor, y: Tensor, start: int
) -> tuple[Effort, Tensor]:
    """What `attack` cost, and which pictures it fooled: looked at once more, in ball and box."""
    if len(x) == 0:
        return Effort(), torch.zeros(0, dtype=torch.bool, device=x.device)
    seed = seed_of(bench.seed, start, attack.name)
    torch.manual_seed(seed)  # for models and attacks that draw for themselves; put back at the end
    generator = torch.Generator().manual_seed(seed)
    began, model.forward, model.backward = time.perf_counter(), 0, 0
    x_adv = attack.run(model, x, y, Budget(bench.eps, bench.norm, bench.batch_size, generator))
    _check_inside(attack.name, x, x_adv, bench)
    fooled = ~_right(model, x_adv, y, bench)
    seconds = round(time.perf_counter() - began, 3)
    return Effort(len(x), seconds, model.forward, model.backward), fooled


def seed_of(*parts: object) -> int:
    """A seed for what is named by `parts`, equal on every machine."""
    hashed = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(hashed[:8], "big") >> 2


@torch.no_grad()
def _right(model: Model, x: Tensor, y: Tensor, bench: Bench) -> Tensor:
    """Whether each picture is classified correctly."""
    right = []
    for part, classes in zip(x.split(bench.batch_size), y.split(bench.batch_size), strict=True):
        logits = model(part.clone())  # a model may normalise in place
        check_logits(logits, part, classes)
        right.append(logits.argmax(1) == classes)
    return torch.cat(right)


def _check_inside(name: str, x: Tensor, x_adv: Tensor, bench: Bench) -> None:
    if not isinstance(x_adv, Tensor) or x_adv.shape != x.shape:
        raise InputError(f"the attack {name!r} did not return pictures of the shape of x.")
    low, high = x_adv.amin().item(), x_adv.amax().item()
    size = threats.norm(x_adv - x, bench.norm).amax().item()
    if not (low >= 0 and high <= 1 and size <= bench.eps):
        raise InputError(
            f"the attack {name!r} left the threat model: pixels from {low:.4g} to {high:.4g}, "
            f"{bench.norm} norm up to {size:.6g} with eps {bench.eps:.6g}. Use "
            "advlib.threats.confine(x, x_adv - x, eps, norm) before returning."
        )
