"""Measure what papers published; write scoreboard.json, beside this file, and book/scoreboard.md
with its figure.

python book/_tools/scoreboard.py          measure all rows whose data are available
python book/_tools/scoreboard.py croce    only those of a group, `croce`; the others stay as stored
python book/_tools/scoreboard.py --page   write the page again from the stored measurements

MNIST and the networks that papers released are read from $ADVLIB_DATA (MNIST is downloaded there
if possible), ImageNet's validation images from $ADVLIB_IMAGENET: a folder with one folder
for each of the 1,000 classes. A row whose data are missing says so, and keeps no earlier result.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import advlib
from advlib import plots
from advlib.analysis.linearity import worst_margin
from advlib.audit.robustness import robust_accuracy
from advlib.data import signs
from advlib.data.classics import classic
from advlib.defences import smoothing
from advlib.errors import DownloadError, InputError, WeightsError
from advlib.evaluation import Proportion, accuracy, wilson
from advlib.models.architectures import Linear
from advlib.models.imagenet import cache_folder
from advlib.models.published import published
from advlib.training import train

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[2]
STORED = Path(__file__).with_name("scoreboard.json")
PAGE = ROOT / "book" / "scoreboard.md"
SEEDS = (0, 1, 2)
"""Of what is trained here; a share is the mean of its networks."""

Data = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Row:
    """One published number and ours."""

    cite: str
    """Key in references.bib."""
    setting: str
    published: float | str
    """In per cent; or an ordering, in words."""
    tolerance: float | None
    """Most that ours may differ, in points; None for an ordering."""
    why: str
    """What the tolerance allows for."""


@dataclass(frozen=True)
class Result:
    """The outcome of a row."""

    row: Row
    verdict: str
    """``"pass"``, ``"fail"`` or ``"not run"``."""
    ours: str = ""
    count: int | None = None
    total: int | None = None
    seeds: tuple[int, ...] = ()
    reason: str = ""


def judge(row: Row, share: Proportion, seeds: tuple[int, ...] = ()) -> Result:
    """Compare a measured share with the published one."""
    assert isinstance(row.published, float) and row.tolerance is not None
    inside = abs(100 * share.value - row.published) <= row.tolerance
    said = f"{100 * share.value:.2f} ({100 * share.low:.2f} to {100 * share.high:.2f})"
    return Result(row, "pass" if inside else "fail", said, share.count, share.total, seeds)


def order(row: Row, holds: bool, said: str, seeds: tuple[int, ...] = ()) -> Result:
    """Whether a published ordering holds."""
    return Result(row, "pass" if holds else "fail", said, seeds=seeds)


def together(shares: list[Proportion]) -> Proportion:
    """One share of several sets of images."""
    return wilson(sum(share.count for share in shares), sum(share.total for share in shares))


def mean(shares: list[Proportion]) -> Proportion:
    """The mean share of several networks on the same images.

    The images count once: three networks on the same images do not make the sample larger, nor the
    interval narrower.
    """
    (total,) = {share.total for share in shares}
    return wilson(round(sum(share.count for share in shares) / len(shares)), total)


def errors(share: Proportion) -> Proportion:
    """The share of misclassified images."""
    return wilson(share.total - share.count, share.total)


# -- linear models on MNIST ------------------------------------------------------------------------


@cache
def digits(train_set: bool, *kept: int) -> Data:
    """MNIST; only the digits `kept`, with labels from 0, if any are named."""
    x, y = classic("mnist", train=train_set)
    if not kept:
        return x, y
    rows = torch.isin(y, torch.tensor(kept))
    y = torch.stack([y[rows] == digit for digit in kept], 1).int().argmax(1)
    return x[rows], y


def regression(
    data: Data, classes: int, seed: int, *, epochs: int, perturb: Any = None, lr: float = 0.1
) -> Linear:
    """Softmax regression; with two classes, logistic regression."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Linear((1, 28, 28), classes)
    train(model, *data, perturb=perturb, epochs=epochs, batch_size=100, lr=lr, seed=seed)
    return model.eval().requires_grad_(False)


def linear_attack(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return advlib.fgsm(model, x, y, 0.25)


def goodfellow() -> Iterator[Callable[[], list[Result]]]:
    """Section 5 of the paper: logistic and softmax regression under FGSM of 0.25."""
    two = [
        Row(
            "goodfellow2015explaining",
            "MNIST 3 against 7, logistic regression: error on clean images",
            1.6,
            1.5,
            "another training run",
        ),
        Row(
            "goodfellow2015explaining",
            "MNIST 3 against 7, logistic regression under FGSM, eps 0.25: error",
            99.0,
            4.0,
            "another training run",
        ),
    ]
    ten = [
        Row(
            "goodfellow2015explaining",
            "MNIST, softmax regression under FGSM, eps 0.25: error",
            99.9,
            2.0,
            "another training run",
        ),
    ]

    def three_or_seven() -> list[Result]:
        models = [regression(digits(True, 3, 7), 2, seed, epochs=10) for seed in SEEDS]
        x, y = digits(False, 3, 7)
        clean = mean([errors(accuracy(model, x, y)) for model in models])
        hit = mean([errors(accuracy(model, x, y, linear_attack)) for model in models])
        return [judge(two[0], clean, SEEDS), judge(two[1], hit, SEEDS)]

    def all_ten() -> list[Result]:
        models = [regression(digits(True), 10, seed, epochs=5) for seed in SEEDS]
        x, y = digits(False)
        hit = mean([errors(accuracy(model, x, y, linear_attack)) for model in models])
        return [judge(ten[0], hit, SEEDS)]

    yield _rows(two, three_or_seven)
    yield _rows(ten, all_ten)


def kolter() -> Iterator[Callable[[], list[Result]]]:
    """Chapter 2 of the tutorial: MNIST 0 against 1, whose worst case is known exactly.

    There a perturbed pixel may leave [0, 1]; so it may here, in this row alone.
    """
    rows = [
        Row(
            "kolter2018tutorial",
            "MNIST 0 against 1, linear, worst case at eps 0.2: error",
            85.0,
            10.0,
            "“about”; another training run",
        ),
        Row(
            "kolter2018tutorial",
            "MNIST 0 against 1, linear, robust, worst case at eps 0.2: error",
            2.4,
            1.0,
            "“about”; another training run",
        ),
        Row(
            "kolter2018tutorial",
            "MNIST 0 against 1, linear, robust: error on clean images",
            0.3,
            0.3,
            "another training run",
        ),
    ]

    def step(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return x + 0.2 * advlib.input_gradient(model, x, y).grad.sign()

    def worst(model: Linear, x: Tensor, y: Tensor) -> Proportion:
        layer = next(m for m in model.modules() if isinstance(m, nn.Linear))
        margin = worst_margin(layer.weight, layer.bias, x, y, 0.2, box=False)
        return wilson(int((margin <= 0).sum()), len(x))

    def measured() -> list[Result]:
        data, (x, y) = digits(True, 0, 1), digits(False, 0, 1)
        plain = [regression(data, 2, seed, epochs=10) for seed in SEEDS]
        robust = [regression(data, 2, seed, epochs=20, perturb=step) for seed in SEEDS]
        return [
            judge(rows[0], mean([worst(model, x, y) for model in plain]), SEEDS),
            judge(rows[1], mean([worst(model, x, y) for model in robust]), SEEDS),
            judge(rows[2], mean([errors(accuracy(m, x, y)) for m in robust]), SEEDS),
        ]

    yield _rows(rows, measured)


# -- networks that papers released -----------------------------------------------------------------


def pgd40(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Forty steps of 0.01 from the image itself, eps 0.3."""
    return advlib.pgd(
        model, x, y, 0.3, steps=40, step_size=0.01, random_start=False, early_stop=True
    )


def trades() -> Iterator[Callable[[], list[Result]]]:
    """The released MNIST network of TRADES, all 10,000 test images."""
    rows = [
        Row(
            "zhang2019trades",
            "MNIST, the released network: clean accuracy",
            99.48,
            0.005,
            "the same weights; the last digit",
        ),
        Row(
            "zhang2019trades",
            "MNIST, the released network under PGD-40, eps 0.3",
            96.07,
            0.03,
            "the same weights, steps of 0.01 from the image; rounding of a few images",
        ),
    ]

    def measured() -> list[Result]:
        model, (x, y) = published("trades-mnist"), digits(False)
        attacked = accuracy(model, x, y, pgd40, progress=True)
        return [judge(rows[0], accuracy(model, x, y)), judge(rows[1], attacked)]

    yield _rows(rows, measured)


def croce() -> Iterator[Callable[[], list[Result]]]:
    """AutoAttack's number for the released MNIST network of TRADES, beside our strongest search."""
    row = Row(
        "croce2020reliable",
        "MNIST, the released network under AutoAttack, eps 0.3",
        92.76,
        0.3,
        "the same weights, our search with 100 gradients an image, where "
        "AutoAttack may take 1,900 and 5,000 queries",
    )

    def measured() -> list[Result]:
        found = robust_accuracy(
            published("trades-mnist"),
            *digits(False),
            0.3,
            gradients=100,
            batch_size=512,
            progress=True,
        )
        return [judge(row, found.accuracy)]

    yield _rows([row], measured)


def madry() -> Iterator[Callable[[], list[Result]]]:
    """Madry's numbers beside a smaller network that was trained in the same way."""
    where = "MNIST, adversarial training"
    allowed = "another, smaller network, trained in the same way and released by Wong et al. 2020"
    rows = [
        Row("madry2018towards", f"{where}: clean accuracy", 98.8, 1.5, allowed),
        Row("madry2018towards", f"{where}, under FGSM, eps 0.3", 95.6, 4.0, allowed),
        Row("madry2018towards", f"{where}, under PGD-40, eps 0.3", 93.2, 4.0, allowed),
    ]

    def fgsm(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return advlib.fgsm(model, x, y, 0.3)

    def pgd(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return advlib.pgd(model, x, y, 0.3, steps=40, step_size=0.01, early_stop=True)

    def measured() -> list[Result]:
        model, (x, y) = published("wong-mnist"), digits(False)
        attacks = (None, fgsm, pgd)
        shares = [accuracy(model, x, y, attack) for attack in attacks]
        return [judge(row, share, (0,)) for row, share in zip(rows, shares, strict=True)]

    yield _rows(rows, measured)


# -- small versions on signs -----------------------------------------------------------------------


def ilyas() -> Iterator[Callable[[], list[Result]]]:
    """Networks trained on adversarially relabelled signs, on clean signs they never saw."""
    row = Row(
        "ilyas2019bugs",
        "a small version on signs, trained only on relabelled adversarial images: accuracy on "
        "clean images",
        "far above chance, and above a control trained on noise",
        None,
        "an ordering",
    )

    def measured() -> list[Result]:
        x, y = signs.render(1000, seed=2_000_000)
        kinds, seeds = ("rand", "noise"), tuple(range(1, 11))
        found = {
            kind: mean(
                [accuracy(advlib.models.load(f"signs-student-{kind}-{s}"), x, y) for s in seeds]
            )
            for kind in kinds
        }
        chance = 1 / len(signs.CLASS_NAMES)
        relabelled, control = (found[kind] for kind in kinds)
        holds = relabelled.low > 2 * max(chance, control.high)
        said = (
            f"{100 * relabelled.value:.1f} against {100 * control.value:.1f} for the control "
            f"and {100 * chance:.1f} by chance"
        )
        return [order(row, holds, said, seeds)]

    yield _rows([row], measured)


def cohen() -> Iterator[Callable[[], list[Result]]]:
    """An L2 attack on the smoothed sign network, as long as its certificates allow."""
    row = Row(
        "cohen2019certified",
        "a small version on signs: L2 attack on the smoothed network within its certified radius",
        "no certificate is violated",
        None,
        "an ordering; each certificate may be wrong with probability 0.001",
    )
    sigma = 0.12

    def measured() -> list[Result]:
        model = advlib.models.load("signs-small-noise")
        x, _ = signs.render(24, seed=2_000_002)
        proved = smoothing.certify(model, x, sigma, samples=1000)
        soft = smoothing.smoothed(model, sigma, samples=16)
        asked = violated = 0
        for i in (proved.radius > 0).nonzero().squeeze(1).tolist():
            one, label = x[i : i + 1], proved.label[i : i + 1]
            radius = float(proved.radius[i])
            x_adv = advlib.pgd(soft, one, label, radius, norm="l2", steps=10, loss="margin")
            after = smoothing.predict_smoothed(model, x_adv, sigma, samples=1000)
            asked += 1
            violated += int((after != label) & (after != smoothing.ABSTAIN))
        said = f"{violated} of {asked} certificates violated"
        return [order(row, asked >= 10 and violated == 0, said, (0,))]

    yield _rows([row], measured)


# -- ImageNet --------------------------------------------------------------------------------------


def torchvision() -> Iterator[Callable[[], list[Result]]]:
    """Clean top-1 of the networks that lessons use, on ImageNet's validation images."""
    for name, cite, top1 in (
        ("squeezenet1_1", "iandola2016squeezenet", 58.178),
        ("mobilenet_v2", "sandler2018mobilenetv2", 71.878),
    ):
        row = Row(
            cite,
            f"torchvision's {name}, ImageNet validation images: top-1",
            top1,
            0.5,
            "decoding and resizing of images",
        )

        def measured(name: str = name, row: Row = row) -> list[Result]:
            folder = os.environ.get("ADVLIB_IMAGENET")
            if not folder:
                raise DownloadError("ADVLIB_IMAGENET names no folder with the validation images.")
            return [judge(row, _top1(name, Path(folder)))]

        yield _rows([row], measured)


def _top1(name: str, folder: Path) -> Proportion:
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    prepare = [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor()]
    data = datasets.ImageFolder(folder, transforms.Compose(prepare))
    if len(data.classes) != 1000:
        raise InputError(f"{folder} holds {len(data.classes)} folders; one for each class, 1,000.")
    model = advlib.models.imagenet(name)
    check_weights(name)
    loader = DataLoader(data, batch_size=64, num_workers=2)
    return together([accuracy(model, x, y) for x, y in loader])


def check_weights(name: str) -> None:
    """Refuse weights that are not torchvision's own, whose names end in digits of their SHA-256."""
    from torchvision.models import get_model_weights

    path = cache_folder() / get_model_weights(name)["IMAGENET1K_V1"].url.rsplit("/", 1)[-1]
    digits, found = path.stem.rsplit("-", 1)[-1], hashlib.sha256(path.read_bytes()).hexdigest()
    if not found.startswith(digits):
        raise WeightsError(
            f"The weights of {name} at hand are not torchvision's own: their SHA-256 begins with "
            f"{found[: len(digits)]} instead of {digits}. Delete the file, and it is fetched again."
        )


# -- all of it -------------------------------------------------------------------------------------


def _rows(rows: list[Row], measured: Callable[[], list[Result]]) -> Callable[[], list[Result]]:
    """Measure `rows`; where their data are missing, say so for each."""

    def run() -> list[Result]:
        try:
            return measured()
        except (DownloadError, WeightsError) as error:
            reason = f"{str(error).split(': put ')[0].split('. ')[0].rstrip('.')}."
            return [Result(row, "not run", reason=_without_paths(reason)) for row in rows]

    return run


def _without_paths(text: str) -> str:
    """The page names no folder of the machine that measured."""
    return " ".join("a folder" if word.startswith(("/", "~")) else word for word in text.split())


GROUPS = (goodfellow, kolter, madry, trades, croce, ilyas, cohen, torchvision)


def versions() -> dict[str, str]:
    """What the numbers are measured with."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "advlib": advlib.__version__,
        "processor": platform.machine(),
    }


def measure(asked: Sequence[str] = ()) -> dict[str, Any]:
    """The rows of the groups `asked`, of all if none is, and what they were measured with.

    The rows of the others are those stored, which the same versions must have measured.
    """
    stored = json.loads(STORED.read_text(encoding="utf-8")) if asked else {"versions": versions()}
    if stored["versions"] != versions():
        raise InputError(f"The other rows were measured with {stored['versions']}: measure all.")
    rows: list[dict[str, Any]] = []
    for group in GROUPS:
        name = group.__name__
        if asked and name not in asked:
            rows += [entry for entry in stored["rows"] if entry["group"] == name]
            continue
        for run in group():
            start = time.perf_counter()
            rows += [{"group": name, **asdict(result)} for result in run()]
            print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    return {"versions": versions(), "rows": rows}


HEAD = """---
myst:
  html_meta:
    description: Published results on adversarial examples, measured again by this book.
---

# Scoreboard

% Written by `make scoreboard` from book/_tools/scoreboard.json; not edited by hand.

Published results beside those of the code of this book. A row passes if our number differs from
the published one by at most the tolerance, or if the published ordering holds. A row that fails
stays, with its distance. A row whose data were not available says so, and is no evidence.

```{{figure}} scoreboard.*
:alt: {alt}

Ours minus published, in points of per cent. The bar is the 95 % interval of ours, which covers the
choice of images, not another training run; the grey band is the tolerance. A cross is a row that
fails.
```

{counts} Measured with {versions}.

| source | setting | published | ours | tolerance | images | seeds | verdict |
|---|---|---|---|---|---|---|---|
"""

VERDICTS = {"pass": "pass", "fail": "**fail**", "not run": "not run here"}


def page(stored: dict[str, Any]) -> str:
    """The page, from the stored measurements and nothing else."""
    counts = {v: sum(e["verdict"] == v for e in stored["rows"]) for v in VERDICTS}
    apart = [abs(ours - theirs) for _, theirs, (ours, *_), _ in numbers(stored)]
    head = HEAD.format(
        alt=f"{len(apart)} numbers, each a point beside the published one at 0. They differ by at "
        f"most {max(apart):.1f} points, in the median by {sorted(apart)[len(apart) // 2]:.2f}.",
        counts=f"{counts['pass']} of {len(stored['rows'])} rows pass, {counts['fail']} fail, "
        f"{counts['not run']} were not run.",
        versions=", ".join(f"{name} {value}" for name, value in stored["versions"].items()),
    )
    lines = [head.rstrip("\n")]
    for entry in stored["rows"]:
        row = entry["row"]
        published = row["published"]
        tolerance = row["why"]
        if row["tolerance"] is not None:
            published = f"{published:g}"
            unit = "point" if row["tolerance"] == 1 else "points"
            tolerance = f"{row['tolerance']:g} {unit}: {row['why']}"
        ours = entry["ours"] or entry["reason"]
        total = f"{entry['total']:,}" if entry["total"] else ""
        cells = [
            f"{{cite:t}}`{row['cite']}`",
            row["setting"],
            published,
            ours,
            tolerance,
            total,
            ", ".join(map(str, entry["seeds"])),
            VERDICTS[entry["verdict"]],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "To measure again: `make scoreboard`. MNIST and the released networks are read from the "
        "folder that `ADVLIB_DATA` names, ImageNet's validation images from that of "
        "`ADVLIB_IMAGENET`.",
        "",
    ]
    return "\n".join(lines)


def numbers(stored: dict[str, Any]) -> Iterator[tuple[str, float, list[float], float]]:
    """What the figure shows of a row: setting, published, ours with its interval, tolerance."""
    for entry in stored["rows"]:
        if entry["total"]:
            share, row = wilson(entry["count"], entry["total"]), entry["row"]
            ours = [100 * value for value in (share.value, share.low, share.high)]
            yield row["setting"], row["published"], ours, row["tolerance"]


def draw(stored: dict[str, Any]) -> Figure:
    """Each number of ours as its distance from the published one, with interval and tolerance."""
    rows = list(numbers(stored))
    fig, axes = plots.figure(height=0.56 * len(rows) + 0.5)
    for place, (setting, theirs, (value, low, high), tolerance) in enumerate(rows):
        axes.broken_barh(
            [(-tolerance, 2 * tolerance)], (place - 0.13, 0.26), color=plots.NOISE, alpha=0.4
        )
        bars = [[value - low], [high - value]]
        passes = abs(value - theirs) <= tolerance
        look = (
            {"fmt": "o", "color": plots.CLEAN}
            if passes
            else {"fmt": "X", "color": plots.ADVERSARIAL}
        )
        axes.errorbar(value - theirs, place, xerr=bars, markersize=5 if passes else 9, **look)
        at: Any = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 10}
        axes.annotate(setting, (0, place - 0.42), ha="left", **at).set_in_layout(False)
    middle = (
        [0] * len(rows),
        [i - 0.2 for i in range(len(rows))],
        [i + 0.2 for i in range(len(rows))],
    )
    axes.vlines(*middle, color=plots.NEUTRAL, linewidth=0.8, zorder=0)
    axes.set(yticks=[], xlabel="ours minus published, in points", ylim=(len(rows) - 0.5, -0.8))
    axes.spines["left"].set_visible(False)
    return fig


def main() -> int:
    """Run the command line; the exit status is 1 if a row fails that did not before."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--page", action="store_true", help="do not measure, write the page again")
    names = [group.__name__ for group in GROUPS]
    parser.add_argument("groups", nargs="*", metavar="group", help=f"of {', '.join(names)}")
    given = parser.parse_args()
    if unknown := set(given.groups) - set(names):
        parser.error(f"There is no group {sorted(unknown)[0]}: choose of {', '.join(names)}.")
    known = failing(json.loads(STORED.read_text(encoding="utf-8"))) if STORED.exists() else set()
    if not given.page:
        stored = measure(given.groups)
        STORED.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    PAGE.write_text(page(stored), encoding="utf-8")
    plots.save(draw(stored), PAGE)
    print(f"wrote {PAGE.name}")
    for setting in failing(stored):
        print(f"This row fails: {setting}", file=sys.stderr)
    return 1 if failing(stored) - known else 0


def failing(stored: dict[str, Any]) -> set[str]:
    """The settings of the rows that fail."""
    return {e["row"]["setting"] for e in stored["rows"] if e["verdict"] == "fail"}


if __name__ == "__main__":
    sys.exit(main())
