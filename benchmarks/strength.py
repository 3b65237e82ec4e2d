"""Strength: the robust accuracy that each library measures with the same number of gradients.

A small network three times: standard training, PGD training, and the latter with its logits times
100, which makes the cross-entropy's gradient vanish. Every attack has the same budget of gradients
per image, which are counted inside the model. AutoAttack, with its time, is the reference.
"""

import copy
import math
import sys
import time
import types
import warnings
from collections.abc import Callable, Sequence
from statistics import mean
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import advlib
from advlib.audit.robustness import ROUND_ROWS, robust_accuracy
from advlib.data import signs
from advlib.fast import accelerated
from advlib.models.architectures import SignNet
from advlib.training import train
from benchmarks import contestants

BUDGETS = (10, 40, 100)
"""Gradients per image."""
LADDER = (2, 3, 5, 7, 10, 12, 13, 14, 15, 20, 30, 40, 100)
"""The same for `advlib` alone: the first that finds what another library found is compared."""
SEEDS = (0, 1, 2)
"""Random seeds of the attacks: each attack runs once with each."""
CLASSES = (0, 4, 8, 9, 10, 11, 12, 13, 14, 15)
"""The signs that 32 pixels can show: three of the nine speed limits, and all others."""
NEAR = 0.015
"""Difference in robust accuracy from AutoAttack that counts as equal."""
LEAST_CLEAN = 0.6
"""Least clean accuracy of a network that is worth attacking."""
Attack = Callable[[nn.Module, Tensor, Tensor, float, int], Tensor]
"""``attack(model, x, y, eps, gradients) -> x_adv``."""


class Subject(NamedTuple):
    """What is attacked."""

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    eps: float


class Scaled(nn.Module):
    """A model that hides its gradient: the softmax of such large logits is 0 or 1 in float32."""

    def __init__(self, model: nn.Module, factor: float = 100.0) -> None:
        super().__init__()
        self.model, self.factor = model, factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * self.model(x)


class Counted(nn.Module):
    """A model that counts the images whose gradient is taken."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.gradients = model, 0

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, grad: Tensor) -> None:
        self.gradients += len(grad)


# -- what is attacked ------------------------------------------------------------------------------


def network() -> nn.Module:
    """The small network of lesson 9, 20,000 parameters, for ten classes, from a seed."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return SignNet(classes=len(CLASSES), widths=(8, 16, 32), depths=(1, 1, 1))


def images(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Small traffic signs, and the place of each one's class in `CLASSES`."""
    x, y = signs.render(n, seed=seed, size=32, classes=CLASSES)
    return x, torch.searchsorted(torch.tensor(CLASSES), y)


def networks(training: int = 6000, epochs: int = 8) -> tuple[nn.Module, nn.Module]:
    """The network with standard training, and then PGD training, in about two minutes."""
    x, y = images(training, seed=1)
    standard = network()
    train(standard, x, y, epochs=epochs)
    robust = copy.deepcopy(standard)
    generator = torch.Generator().manual_seed(0)

    def perturb(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return advlib.pgd(model, x, y, 8 / 255, steps=5, generator=generator)

    train(robust, x, y, perturb=perturb, epochs=epochs, lr=0.1)
    return standard.eval().requires_grad_(False), robust.eval().requires_grad_(False)


def subjects(standard: nn.Module, robust: nn.Module, n: int = 900) -> list[Subject]:
    """What is attacked: both networks, and the one with a masked gradient, on held-out images.

    Raises
    ------
    RuntimeError
        A network does not classify the signs well: its robust accuracy would say nothing.
    """
    shown = images(n, seed=2)
    found = [
        Subject("standard training", standard, *shown, 2 / 255),
        Subject("PGD training", robust, *shown, 8 / 255),
        Subject("PGD training, logits times 100", Scaled(robust), *shown, 8 / 255),
    ]
    for subject in found:
        if (clean := share_correct(subject, subject.x)) < LEAST_CLEAN:
            raise RuntimeError(
                f"{subject.name}: clean accuracy {100 * clean:.1f} %; at least "
                f"{100 * LEAST_CLEAN:.0f} % are expected. The training did not work."
            )
    return found


# -- who attacks -----------------------------------------------------------------------------------


def ours(model: nn.Module, x: Tensor, y: Tensor, eps: float, gradients: int) -> Tensor:
    """`robust_accuracy` in large batches; the attacked images are kept and checked."""
    x_adv = x.clone()

    def keep(rows: Tensor, points: Tensor) -> None:
        x_adv[rows] = points

    # The generator that `measure` seeds and that all others draw from.
    generator = torch.default_generator
    robust_accuracy(
        model,
        x,
        y,
        eps,
        gradients=gradients,
        batch_size=ROUND_ROWS,
        generator=generator,
        on_fooled=keep,
    )
    return x_adv


def ours_fast(model: "Counted", x: Tensor, y: Tensor, eps: float, gradients: int) -> Tensor:
    """The same on `advlib.fast.accelerated`, made within the time that is measured."""
    # Of what is inside: counting goes on. Whole, because batches of many sizes will come.
    model.model = accelerated(model.model, x[:64], threads=1)
    return ours(model, x, y, eps, gradients)


def _crossing(library: str) -> Attack:
    """PGD with steps of ``2.5 * eps / gradients``, as in the table of times."""
    make = contestants.OTHERS[library][1]
    return lambda model, x, y, eps, gradients: make(model, x, eps, gradients)(x, y)


def _torchattacks_default(
    model: nn.Module, x: Tensor, y: Tensor, eps: float, gradients: int
) -> Tensor:
    import torchattacks

    return torchattacks.PGD(model, eps=eps, steps=gradients)(x, y)


def _foolbox_default(model: nn.Module, x: Tensor, y: Tensor, eps: float, gradients: int) -> Tensor:
    import foolbox

    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    return foolbox.attacks.LinfPGD(steps=gradients)(wrapped, x, y, epsilons=eps)[1]


def _art_default(model: nn.Module, x: Tensor, y: Tensor, eps: float, gradients: int) -> Tensor:
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    classes, shape = model(x[:1]).shape[1], tuple(x.shape[1:])
    wrapped = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), shape, classes, clip_values=(0, 1), device_type="cpu"
    )
    # Its default step, 0.1, may not be longer than eps.
    attack = ProjectedGradientDescentPyTorch(
        wrapped, eps=eps, eps_step=min(0.1, eps), max_iter=gradients, num_random_init=1,
        batch_size=len(x), verbose=False,
    )  # fmt: skip
    return torch.from_numpy(attack.generate(x.numpy(), y.numpy()))


def _adv_lib_default(model: nn.Module, x: Tensor, y: Tensor, eps: float, gradients: int) -> Tensor:
    from adv_lib.attacks import pgd_linf

    return pgd_linf(model, x, y, eps, steps=gradients)


def _torchattacks_apgd(loss: str) -> Attack:
    def attack(model: nn.Module, x: Tensor, y: Tensor, eps: float, gradients: int) -> Tensor:
        import torchattacks

        # One gradient goes to the start.
        return torchattacks.APGD(model, eps=eps, steps=gradients - 1, loss=loss)(x, y)

    return attack


def _adv_lib_apgd(loss: str) -> Attack:
    def attack(model: nn.Module, x: Tensor, y: Tensor, eps: float, gradients: int) -> Tensor:
        from adv_lib.attacks.auto_pgd import apgd

        steps = gradients - 1
        return apgd(model, x, y, eps, float("inf"), n_iter=steps, loss_function=loss)

    return attack


def _adv_lib_classes(model: nn.Module, x: Tensor, y: Tensor, eps: float, gradients: int) -> Tensor:
    from adv_lib.attacks.auto_pgd import apgd_targeted

    steps = gradients // 3 - 1
    return apgd_targeted(model, x, y, eps, float("inf"), n_iter=steps, num_targets=3)


CROSSING = "step 2.5 eps / N"
SETTINGS: dict[tuple[str, str], Attack] = {
    **{(library, CROSSING): _crossing(library) for library in contestants.OTHERS},
    ("torchattacks", "default step"): _torchattacks_default,
    ("foolbox", "default step"): _foolbox_default,
    ("ART", "default step"): _art_default,
    ("adv-lib", "default step"): _adv_lib_default,
    ("torchattacks", "APGD, cross-entropy"): _torchattacks_apgd("ce"),
    ("torchattacks", "APGD, DLR"): _torchattacks_apgd("dlr"),
    ("adv-lib", "APGD, cross-entropy"): _adv_lib_apgd("ce"),
    ("adv-lib", "APGD, DLR"): _adv_lib_apgd("dlr"),
    ("adv-lib", "APGD, DLR, three classes"): _adv_lib_classes,
}
"""Every library with its own step, with one that crosses the ball, and with what else it has."""


def autoattack(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """AutoAttack, standard version, of torchattacks' parts with the steps of its paper.

    `torchattacks.AutoAttack` itself takes 10 steps where Croce & Hein (2020) take 100.
    """
    import torchattacks as parts

    classes = model(x[:1]).shape[1]
    members = [
        parts.APGD(model, eps=eps, steps=100, loss="ce"),
        parts.APGDT(model, eps=eps, steps=100, n_classes=classes),
        parts.FAB(model, eps=eps, steps=100, multi_targeted=True, n_classes=classes),
        parts.Square(model, eps=eps, n_queries=5000),
    ]
    return parts.MultiAttack(members)(x, y)


# -- what is measured ------------------------------------------------------------------------------


def share_correct(subject: Subject, x_adv: Tensor) -> float:
    """Share of images that are classified correctly, clean and attacked, in [0, 1].

    The points are put into ball and box first: what a library gained by leaving them is not
    counted.
    """
    x, y, model = subject.x, subject.y, subject.model
    x_adv = advlib.threats.confine(x, x_adv.detach() - x, subject.eps)
    with torch.no_grad():
        correct = (model(x).argmax(1) == y) & (model(x_adv).argmax(1) == y)
    return correct.float().mean().item()


def measure(
    subject: Subject,
    attack: Attack,
    gradients: int,
    seeds: Sequence[int] = SEEDS,
    *,
    warm_up: bool = True,
) -> dict[str, Any]:
    """Robust accuracy, gradients per image and seconds of an attack, or why it did not run.

    Means over the seeds, and of the robust accuracy also the ``lowest`` and the ``highest``.
    """
    with torch.random.fork_rng([]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            if warm_up:
                torch.manual_seed(0)
                counted = Counted(subject.model).eval()
                attack(counted, subject.x[:1], subject.y[:1], subject.eps, gradients)
            runs = [_once(subject, attack, gradients, seed) for seed in seeds]
        except Exception as error:  # noqa: BLE001  whatever keeps a library from running
            return {"error": f"{type(error).__name__}: {str(error)[:100]}"}
    robust, taken, seconds = (list(part) for part in zip(*runs, strict=True))
    return {
        "robust": round(mean(robust), 4),
        "lowest": round(min(robust), 4),
        "highest": round(max(robust), 4),
        "gradients": round(mean(taken), 2),
        "seconds": round(mean(seconds), 3),
    }


def _once(
    subject: Subject, attack: Attack, gradients: int, seed: int
) -> tuple[float, float, float]:
    """Robust accuracy, gradients per image, and seconds, of one run."""
    counted = Counted(subject.model).eval()
    x, y = subject.x.clone(), subject.y.clone()
    torch.manual_seed(seed)
    start = time.perf_counter()
    x_adv = attack(counted, x, y, subject.eps, gradients)
    seconds = time.perf_counter() - start
    return share_correct(subject, x_adv), counted.gradients / len(x), seconds


def strength(
    parts: list[Subject] | None = None,
    budgets: tuple[int, ...] = BUDGETS,
    ladder: tuple[int, ...] = LADDER,
    settings: dict[tuple[str, str], Attack] | None = None,
    reference: Callable[[nn.Module, Tensor, Tensor, float], Tensor] | None = autoattack,
    seeds: Sequence[int] = SEEDS,
) -> dict[str, Any]:
    """Everyone on every network with every budget; ready for JSON.

    Parameters
    ----------
    parts
        What is attacked. None: `subjects`, of networks trained now.
    budgets
        Gradients per image.
    ladder
        The same for `advlib` alone; with all of `budgets`.
    settings
        Who is compared. None: `SETTINGS`, of the libraries that are installed.
    reference
        The slow attack to be measured against, with the first seed alone. None: none.
    seeds
        Random seeds of the attacks.

    Returns
    -------
    dict
        ``subjects``: for each its ``name``, ``eps``, ``images``, ``clean``, ``reference`` and
        ``rows``: ``library``, ``setting``, ``budget``, and what `measure` found.
    """
    _find_peers()
    settings = SETTINGS if settings is None else settings
    everyone = {
        ("advlib", "robust_accuracy"): ours,
        ("advlib", ACCELERATED): ours_fast,
        **settings,
    }
    found = []
    for subject in subjects(*networks()) if parts is None else parts:
        rows = []
        for gradients in sorted({*budgets, *ladder}):
            for (library, setting), attack in everyone.items():
                if gradients not in (ladder if library == "advlib" else budgets):
                    continue
                row = measure(subject, attack, gradients, seeds)
                rows.append({"library": library, "setting": setting, "budget": gradients, **row})
                _say(f"{subject.name}, {gradients} gradients, {library}, {setting}: {row}")
        slow = None
        if reference is not None:
            once = seeds[:1]  # it takes long
            slow = measure(subject, lambda *given: reference(*given[:-1]), 0, once, warm_up=False)
            _say(f"{subject.name}, AutoAttack: {slow}")
        found.append(
            {
                "name": subject.name, "eps": subject.eps, "images": len(subject.x),
                "clean": round(share_correct(subject, subject.x), 4),
                "rows": rows, "reference": slow,
            }
        )  # fmt: skip
    return {
        "budgets": list(budgets), "seeds": list(seeds), "batch_size": ROUND_ROWS, "subjects": found,
    }  # fmt: skip


def _find_peers() -> None:
    if contestants.PEERS.is_dir() and str(contestants.PEERS) not in sys.path:
        sys.path.append(str(contestants.PEERS))
    # adv-lib imports a plotting server that has no wheel and that no attack uses.
    sys.modules.setdefault("visdom", types.ModuleType("visdom"))


def _say(line: str) -> None:
    print(line, flush=True)


# -- what the page says ----------------------------------------------------------------------------


def text(results: dict[str, Any]) -> str:
    """The section of the page, as Markdown, from what `strength` returned and nothing else."""
    budgets = results["budgets"]
    lines = [_head(results)]
    for subject in results["subjects"]:
        lines += [f"**{_title(subject)}.** {_reference(subject)}", ""]
    lines.append("<details><summary>Every number, and each library at its lowest</summary>\n")
    for subject in results["subjects"]:
        lines += [
            f"**{_title(subject)}**",
            "",
            f"{subject['images']} images, eps {255 * subject['eps']:.3g}/255, "
            f"{100 * subject['clean']:.1f} % classified correctly without an attack.",
            "",
            "Gradients taken are in brackets; the lowest number of a column is bold.",
            "",
            "| library | setting | " + " | ".join(f"{n} gradients" for n in budgets) + " |",
            "|---|---|" + "---|" * len(budgets),
        ]
        best = {n: min(_values(subject, n)) for n in budgets}
        for library, setting in dict.fromkeys(
            (row["library"], row["setting"]) for row in subject["rows"]
        ):
            cells = [_cell(_row(subject, library, setting, n), best[n]) for n in budgets]
            lines.append(f"| {library} | {setting} | " + " | ".join(cells) + " |")
        lines += ["", *_same_answer(subject), ""]
    return "\n".join([*lines, "</details>", ""])


def _title(subject: dict[str, Any]) -> str:
    return subject["name"][0].upper() + subject["name"][1:]


HEAD = """## How strong at equal gradients

```{{figure}} how-fast-strength.*
:alt: Robust accuracy over gradients per image for two networks. {alt}

Robust accuracy of a network of 20,000 parameters, with standard and with PGD training, on {images}
signs of 32x32 pixels in {classes} classes. Less is a stronger attack. PGD is that of six libraries
with step size 2.5 eps / N, APGD that of two.
```

Robust accuracy is an upper bound: a stronger attack can only lower it. So the lower number is the
better measurement. Every attack may take the same number of input gradients for each image. They
are counted behind the model.
{{py:func}}`advlib.audit.robustness.robust_accuracy` spends what fooled images leave on the
remaining ones, and works on up to {wide} images at a time, all others on all {images}.{fast}

All ran once with each of {seeds} random seeds, AutoAttack with one. The numbers are means. {spread}
"""


ACCELERATED = "robust_accuracy, accelerated"
FAST = """ *Accelerated* means on
{py:func}`advlib.fast.accelerated`: the copy is made within the time, and its points are judged by
the network itself."""


def _head(results: dict[str, Any]) -> str:
    rows = [row for subject in results["subjects"] for row in subject["rows"]]
    return HEAD.format(
        wide=results["batch_size"],
        images=results["subjects"][0]["images"],
        classes=len(CLASSES),
        alt=" ".join(_lowest(subject) for subject in results["subjects"][:2]),
        seeds=len(results["seeds"]),
        spread=_spread(results),
        fast=FAST if any(row["setting"] == ACCELERATED for row in rows) else "",
    )


def _lowest(subject: dict[str, Any]) -> str:
    """The lowest number of advlib, of the others and of AutoAttack, in words."""
    ran = [row for row in subject["rows"] if "robust" in row]
    own, others = (
        min((row["robust"] for row in ran if (row["library"] == "advlib") == ours), default=1.0)
        for ours in (True, False)
    )
    slow = subject["reference"]
    all_of_it = (
        f", {100 * slow['robust']:.1f} % for AutoAttack" if slow and "robust" in slow else ""
    )
    return (
        f"{_title(subject)}: {100 * own:.1f} % at the lowest for advlib, "
        f"{100 * others:.1f} % for the others{all_of_it}."
    )


def _spread(results: dict[str, Any]) -> str:
    """How far the runs of one attack lie apart, at most: of advlib, and of the others."""
    apart: dict[bool, float] = {}
    for subject in results["subjects"]:
        for row in (row for row in subject["rows"] if "robust" in row):
            own = row["library"] == "advlib"
            apart[own] = max(apart.get(own, 0.0), row["highest"] - row["lowest"])
    return (
        f"Between seeds, a number of advlib differs by {100 * apart.get(True, 0.0):.1f} points at "
        f"most, one of the others by {100 * apart.get(False, 0.0):.1f}."
    )


def _row(subject: dict[str, Any], library: str, setting: str, budget: int) -> dict[str, Any]:
    key = {"library": library, "setting": setting, "budget": budget}
    return next(row for row in subject["rows"] if key.items() <= row.items())


def _values(subject: dict[str, Any], budget: int) -> list[float]:
    rows = [row for row in subject["rows"] if row["budget"] == budget]
    return [row["robust"] for row in rows if "robust" in row] or [math.nan]


def _cell(row: dict[str, Any], best: float) -> str:
    if "error" in row:
        return "did not run"
    value = f"{100 * row['robust']:.1f} %"
    value = f"**{value}**" if row["robust"] == best else value
    return f"{value} ({row['gradients']:.1f})"


def _reference(subject: dict[str, Any]) -> str:
    slow = subject["reference"]
    if slow is None or "error" in slow:
        return "AutoAttack did not run." if slow else ""
    said = (
        "All of AutoAttack (torchattacks' parts, the paper's steps): "
        f"{100 * slow['robust']:.1f} %, with {slow['gradients']:.0f} gradients an image in "
        f"{slow['seconds']:.0f} s. "
    )
    own = [row for row in subject["rows"] if row["library"] == "advlib"]
    near = [row for row in own if row["robust"] <= slow["robust"] + NEAR]
    if not near:
        return said + f"advlib does not come within {100 * NEAR:.1f} points of it."
    first = min(near, key=lambda row: row["seconds"])
    most = max(row["budget"] for row in own)
    last = min((r for r in own if r["budget"] == most), key=lambda row: row["seconds"])
    return (
        said + f"advlib comes within {100 * NEAR:.1f} points of it with {first['budget']} "
        f"gradients, {_took(first, slow)}. "
        f"Allowed {most}, it takes {last['gradients']:.0f} gradients: {_took(last, slow)}."
    )


def _took(row: dict[str, Any], slow: dict[str, Any]) -> str:
    share = slow["seconds"] / row["seconds"]
    how = f"{100 * row['robust']:.1f} %, in {row['seconds']:.2g} s ({row['setting']})"
    return f"{how}, 1/{share:.0f} of the time"


def _same_answer(subject: dict[str, Any]) -> list[str]:
    """For each library its lowest number, and how soon advlib finds that or a lower one."""
    ran = [row for row in subject["rows"] if "robust" in row]
    own = [row for row in ran if row["library"] == "advlib"]
    lines = [
        "| library, at its lowest | robust | seconds | advlib as low | seconds | times faster |",
        "|---|---|---|---|---|---|",
    ]
    for library in dict.fromkeys(row["library"] for row in ran if row["library"] != "advlib"):
        rows = [row for row in ran if row["library"] == library]
        best = min(rows, key=lambda row: (row["robust"], row["seconds"]))
        what = f"| {library}, {best['setting']}, {best['budget']} gradients "
        what += f"| {100 * best['robust']:.1f} % | {best['seconds']:.2f} "
        low = [row for row in own if row["robust"] <= best["robust"]]
        if not low:
            lines.append(what + "| not found | | |")
            continue
        first = min(low, key=lambda row: row["seconds"])
        ratio = best["seconds"] / first["seconds"]
        found = f"{100 * first['robust']:.1f} %, {first['setting']}, {first['budget']} gradients"
        lines.append(what + f"| {found} | {first['seconds']:.2f} | {ratio:.1f} |")
    return lines if len(lines) > 2 else []


if __name__ == "__main__":
    print(text(strength()))
