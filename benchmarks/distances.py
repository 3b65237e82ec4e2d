"""Distances: how near an adversarial image each library finds, with the same number of gradients.

Two small sign networks, three norms. Gradients are counted behind the model, distances measured
anew, and an image that was not fooled, or left the box, is infinitely far.
"""

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advlib import models, threats
from advlib.attacks.fmn import fmn
from advlib.attacks.hop_skip_jump import hop_skip_jump
from advlib.data import signs
from advlib.evaluation import predict
from benchmarks.strength import Counted, _find_peers, _say

NETWORKS = ("signs-small-standard", "signs-small-pgd")
GRADIENTS = 100
IMAGES, SEED = 60, 11
ORDER = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}
Find = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""From a model, images and classes to adversarial images, as near as can be."""


def ours(norm: str) -> dict[tuple[str, str], Find]:
    """advlib's, as a reader calls it."""
    return {("advlib", "FMN"): lambda m, x, y: fmn(m, x, y, norm=norm, steps=GRADIENTS).x_adv}


def others(norm: str) -> dict[tuple[str, str], Find]:
    """What the other libraries have for `norm`, as their documentation says."""
    import foolbox
    from adv_lib import attacks
    from adv_lib.attacks.auto_pgd import minimal_apgd

    p, n = ORDER[norm], GRADIENTS
    most = {"linf": 0.1, "l2": 2.0, "l1": 20.0}[norm]

    def foolboxes(attack: Any) -> Find:
        return lambda m, x, y: attack(foolbox.PyTorchModel(m, bounds=(0, 1)), x, y, epsilons=None)[
            1
        ]

    kinds = foolbox.attacks
    own = {"linf": kinds.LInfFMNAttack, "l2": kinds.L2FMNAttack, "l1": kinds.L1FMNAttack}[norm]
    found: dict[tuple[str, str], Find] = {
        ("adv-lib", "FMN"): lambda m, x, y: attacks.fmn(m, x, y, norm=p, steps=n),
        ("adv-lib", "FMN, first step 10"): lambda m, x, y: attacks.fmn(
            m, x, y, norm=p, steps=n, α_init=10.0
        ),
        ("adv-lib", "PDPGD"): lambda m, x, y: attacks.pdpgd(m, x, y, norm=p, num_steps=n),
        ("adv-lib", "APGD, bisection"): lambda m, x, y: minimal_apgd(
            m, x, y, norm=p, max_eps=most, binary_search_steps=6, n_iter=n // 6 - 1
        ),
        ("foolbox", "FMN"): foolboxes(own(steps=n)),
    }
    if norm == "l2":
        found["adv-lib", "DDN"] = lambda m, x, y: attacks.ddn(m, x, y, steps=n, levels=None)
        found["foolbox", "DDN"] = foolboxes(kinds.DDNAttack(steps=n))
    if norm != "linf":
        found["adv-lib", "ALMA"] = lambda m, x, y: attacks.alma(
            m, x, y, num_steps=n, distance=norm, init_lr_distance=most / 20
        )
    return found


def measure(find: Find, model: nn.Module, x: Tensor, y: Tensor, norm: str) -> dict[str, Any]:
    """Median distance, images fooled, gradients an image and seconds, or why it did not run."""
    counted = Counted(model).eval()
    with torch.random.fork_rng([]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        start = time.perf_counter()
        try:
            x_adv = find(counted, x.clone(), y.clone()).detach()
        except Exception as error:  # noqa: BLE001  whatever keeps a library from running
            return {"error": f"{type(error).__name__}: {str(error)[:100]}"}
    seconds = time.perf_counter() - start
    with torch.no_grad():
        fooled = (model(x_adv).argmax(1) != y) & ((x_adv - x_adv.clamp(0, 1)).flatten(1) == 0).all(
            1
        )
    distance = torch.where(fooled, threats.norm(x_adv - x, norm), torch.inf)
    return {
        "median": float(f"{distance.median().item():.4g}"),
        "fooled": int(fooled.sum()),
        "gradients": round(counted.gradients / len(x), 1),
        "seconds": round(seconds, 2),
    }


def _fooled(model: nn.Module, x_adv: Tensor, y: Tensor) -> Tensor:
    """Which images fool the model; what left the box does not count."""
    return (predict(model, x_adv.clamp(0, 1)).argmax(1) != y) & (
        (x_adv == x_adv.clamp(0, 1)).flatten(1).all(1)
    )


def _median(model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, norm: str) -> float:
    distance = threats.norm(x_adv - x, norm)
    distance = torch.where(_fooled(model, x_adv, y), distance, torch.inf)
    return float(f"{distance.median().item():.4g}")


def distances() -> list[dict[str, Any]]:
    """Everyone on every network in every norm; ready for JSON."""
    _find_peers()
    rows = []
    x, y = signs.render(IMAGES, seed=SEED)
    for name in NETWORKS:
        model = models.load(name)
        for norm in ORDER:
            for (library, setting), find in {**ours(norm), **others(norm)}.items():
                row = measure(find, model, x, y, norm)
                rows.append(
                    {"network": name, "norm": norm, "library": library, "setting": setting, **row}
                )
                _say(f"{name}, {norm}, {library} {setting}: {row}")
    return rows


def decisions(images: int = 24, rounds: int = 5) -> list[dict[str, Any]]:
    """HopSkipJump of foolbox, and of advlib with as many queries as that took; ready for JSON."""
    _find_peers()
    import foolbox

    rows = []
    x, y = signs.render(images, seed=SEED)
    for name in NETWORKS:
        model = models.load(name)
        correct = predict(model, x).argmax(1) == y  # foolbox begins at images that fool
        own, classes = x[correct], y[correct]
        for norm in ("l2", "linf"):
            attack = foolbox.attacks.HopSkipJumpAttack(steps=rounds, constraint=norm)
            asked = Asked(model).eval()
            state = np.random.get_state()
            np.random.seed(0)  # foolbox draws from the global state
            wrapped = foolbox.PyTorchModel(asked, bounds=(0, 1))
            theirs = attack(wrapped, own, classes, epsilons=None)[1]
            np.random.set_state(state)
            queries = asked.images // len(own)
            ours = hop_skip_jump(model, own, classes, norm=norm, queries=queries).x_adv
            found = {"foolbox": theirs, "advlib": ours}
            row = {who: _median(model, own, classes, x_adv, norm) for who, x_adv in found.items()}
            rows.append({"network": name, "norm": norm, "queries": queries, **row})
            _say(f"{name}, {norm}: {rows[-1]}")
    return rows


class Asked(nn.Module):
    """A model that counts the images it is shown."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.images = model, 0

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        return self.model(x)


_HEAD = """## How near, at equal gradients

The smallest perturbation that fools: the median over {images} traffic signs, in units of pixels,
for {gradients} gradients an image. Nearer is better, and bold. What fooled fewer than half of the
images has no median.

"""


_DECISIONS = """
From decisions alone: HopSkipJump, with the queries that foolbox's takes in five rounds. The median
distance again.

| network | norm | queries an image | foolbox | advlib |
|---|---|---|---|---|
"""


def text(rows: list[dict[str, Any]], asked: list[dict[str, Any]]) -> str:
    """The section of the page, as Markdown, from what `distances` returned and nothing else."""
    lines = []
    for network in dict.fromkeys(row["network"] for row in rows):
        here = [row for row in rows if row["network"] == network]
        best = {
            n: min(r["median"] for r in here if r["norm"] == n and "median" in r) for n in ORDER
        }
        lines += [
            f"| `{network}` | linf | l2 | l1 |",
            "|---|---|---|---|",
            *(
                f"| {library}, {setting} | "
                + " | ".join(_cell(here, library, setting, norm, best[norm]) for norm in ORDER)
                + " |"
                for library, setting in dict.fromkeys((r["library"], r["setting"]) for r in here)
            ),
            "",
        ]
    told = "".join(
        f"| `{r['network']}` | {r['norm']} | {r['queries']} | {r['foolbox']:.4g} | "
        f"{r['advlib']:.4g} |\n"
        for r in asked
    )
    return _HEAD.format(images=IMAGES, gradients=GRADIENTS) + "\n".join(lines) + _DECISIONS + told


def _cell(rows: list[dict[str, Any]], library: str, setting: str, norm: str, best: float) -> str:
    wanted = {"library": library, "setting": setting, "norm": norm}
    row = next((row for row in rows if wanted.items() <= row.items()), None)
    if row is None:
        return ""
    if "error" in row:
        return "did not run"
    if row["median"] == float("inf"):
        return f"none ({row['fooled']} fooled)"
    return f"**{row['median']:.4g}**" if row["median"] == best else f"{row['median']:.4g}"
