"""The figures of the page "How fast, how strong", drawn from what was measured."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advlib import plots
from benchmarks.speed import AGAIN, FLOOR

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OWN = "advlib"
SETTINGS = {False: "weights require gradients", True: "weights frozen"}


def save(results: dict[str, Any], folder: Path) -> None:
    """Write the three figures into `folder`, each as a drawing and as pixels."""
    plots.save(time(results["speed"]), folder / "how-fast-time")
    plots.save(growth(results["growth"]), folder / "how-fast-growth")
    plots.save(strength(results["strength"]["subjects"]), folder / "how-fast-strength")


def time(tables: Sequence[dict[str, Any]]) -> "Figure":
    """Each library's time as a multiple of the floor's, a point for each workload."""
    names = [name for name in tables[0]["rows"] if name == OWN or not _own(name)]
    fig, both = plots.figure(1, 2, height=3.6, sharey=True, sharex=True)
    for axes, (frozen, title) in zip(both, SETTINGS.items(), strict=True):
        rows = [table["rows"] for table in tables if table["frozen"] == frozen]
        again = [row[AGAIN]["ratio"] for row in rows]
        axes.axvspan(min(again), max(again), color=plots.NOISE, alpha=0.3, linewidth=0)
        for place, name in enumerate(names):
            ratios = [row[name]["ratio"] for row in rows]
            colour = plots.CLEAN if name == OWN else plots.NEUTRAL
            axes.plot(ratios, [place] * len(ratios), "o", color=colour, markersize=5, alpha=0.8)
        axes.axvline(1, color=plots.NEUTRAL, linewidth=0.8)
        axes.set_title(title, fontsize=10)
        axes.set_yticks(range(len(names)), names)
        axes.grid(axis="y", linewidth=0.4)
    both[0].invert_yaxis()
    fig.supxlabel("time, as a multiple of a bare loop's", fontsize=10)
    return fig


def growth(measured: dict[str, Any]) -> "Figure":
    """Seconds over steps and over images, beside proportional growth."""
    fig, both = plots.figure(1, 2, height=2.6)
    for axes, name in zip(both, ("steps", "images"), strict=True):
        numbers, seconds = zip(*measured[name], strict=True)
        middle = len(numbers) // 2
        line = [seconds[middle] * n / numbers[middle] for n in numbers]
        axes.plot(numbers, line, "--", color=plots.NEUTRAL, linewidth=1)
        axes.plot(numbers, seconds, "o-", color=plots.CLEAN)
        axes.set(xscale="log", yscale="log", xlabel=name, ylabel="seconds")
        axes.set_xticks(numbers, [str(n) for n in numbers])
        axes.minorticks_off()
    return fig


def strength(subjects: Sequence[dict[str, Any]]) -> "Figure":
    """Robust accuracy over the gradients that an attack took for each image."""
    fig, both = plots.figure(1, 2, height=3.4)
    looks = {"PGD": "s", "APGD": "^"}
    for axes, subject in zip(both, subjects[:2], strict=True):
        for (kind, look), alpha in zip(looks.items(), (0.5, 0.9), strict=True):
            axes.plot(*_points(subject, kind), look, color=plots.NEUTRAL, alpha=alpha, label=kind)
        axes.plot(*_points(subject, OWN), "o-", color=plots.CLEAN, markersize=4, label=OWN)
        if (slow := subject["reference"]) and "robust" in slow:
            at = slow["gradients"], 100 * slow["robust"]
            axes.plot(*at, "*", color=plots.ADVERSARIAL, markersize=11, label="AutoAttack")
        axes.set(xscale="log", xlabel="gradients per image")
        axes.set_xticks([3, 10, 30, 100, 300], ["3", "10", "30", "100", "300"])
        axes.minorticks_off()
        eps = f"{255 * subject['eps']:.3g}/255"
        axes.set_title(f"{subject['name']},\neps {eps}", fontsize=10)
    both[0].set_ylabel("robust accuracy (%)")
    fig.legend(*both[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, **_TIGHT)
    return fig


_TIGHT: Any = {"fontsize": 10, "frameon": False, "columnspacing": 1, "handletextpad": 0.3}


def _points(subject: dict[str, Any], kind: str) -> tuple[list[float], list[float]]:
    """Gradients taken and robust accuracy in per cent, of each run of that kind."""
    found = sorted(
        (row["gradients"], 100 * row["robust"]) for row in _ran(subject) if _kind(row) == kind
    )
    gradients, robust = zip(*found, strict=True) if found else ((), ())
    return list(gradients), list(robust)


def _ran(subject: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What the figure shows: all that ran, but not at a step size for many more steps."""
    for row in subject["rows"]:
        if "robust" in row and row["setting"] != "default step":
            yield row


def _kind(row: dict[str, Any]) -> str:
    return OWN if row["library"] == OWN else "APGD" if "APGD" in row["setting"] else "PGD"


def _own(name: str) -> bool:
    return name.startswith((OWN, FLOOR))
