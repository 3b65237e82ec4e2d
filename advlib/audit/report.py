"""The result of an audit, and the robustness card that is made of it."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from advlib.audit import card
from advlib.audit.sanity import Finding
from advlib.audit.store import check_writable, write_whole
from advlib.evaluation import Proportion

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCHEMA = "advlib.audit/1"

LIMITS = (
    "Robust accuracy is an upper bound: it counts the images that these attacks did not fool. "
    "A stronger attack can only lower it.",
    "It holds for this threat model, these images and this copy of the model. It says nothing "
    "about other norms, larger budgets, rotated or damaged images, patches, or changed weights.",
    "The intervals cover the choice of images (95 %, Wilson), not the strength of the attacks.",
)
"""What a card does not show; printed on each."""


@dataclass(frozen=True)
class Row:
    """One attack of the ensemble.

    Attributes
    ----------
    name, knows, settings
        As in `advlib.audit.Attack`.
    attacked
        Images that no attack before it had fooled.
    fooled
        How many of them it fooled.
    accuracy
        Share of all images that are classified correctly under this attack and all before it.
    seconds, forward, backward
        Its cost: time, summed over processes, and images put through the model, forward and
        backward, the check of its result included.
    """

    name: str
    knows: str
    settings: dict[str, Any]
    attacked: int
    fooled: int
    accuracy: Proportion
    seconds: float
    forward: int
    backward: int

    def cells(self) -> tuple[object, ...]:
        """What a table says of it, without the accuracy."""
        settings = ", ".join(f"{key} {value}" for key, value in self.settings.items())
        return self.name, self.knows, settings, self.attacked, self.fooled


@dataclass(frozen=True)
class ClassShare:
    """One class: its name, and the shares of its images that are classified correctly.

    Attributes
    ----------
    name, clean, robust
        ``clean`` without an attacker, ``robust`` in the worst case over all attacks.
    """

    name: str
    clean: Proportion
    robust: Proportion


@dataclass(frozen=True, repr=False)
class Audit:
    """What an audit found; a notebook shows it as the card.

    Attributes
    ----------
    name
        The model's name.
    eps, norm
        The threat model; `eps` in units of pixels in [0, 1].
    level
        ``"quick"``, ``"standard"``, ``"thorough"`` or ``"own attacks"``.
    clean
        Accuracy without an attacker.
    robust
        Accuracy in the worst case over all attacks.
    rows
        One for each attack, in order.
    findings
        Warnings and notes.
    settings
        Seed, batch size, piece size and what else determines the counts.
    model, data
        What was audited: name, digest, shapes.
    versions
        Of Python, torch and advlib, and the device.
    cost
        ``seconds`` on the clock, ``peak_memory_mib``, ``processes``.
    complete
        False for the part that was done before an interruption.
    by_class
        A `ClassShare` for each class of the images.
    nearest
        Images that little is needed to misclassify, each with its adversarial partner. Not part
        of the card for programs.
    fooled_by
        For each image the number of the attack that fooled it first, -1: none, -2: misclassified
        without an attacker, -3: not attacked yet. Not part of the card.
    """

    name: str
    eps: float
    norm: str
    level: str
    clean: Proportion
    robust: Proportion
    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]
    settings: dict[str, Any]
    model: dict[str, Any]
    data: dict[str, Any]
    versions: dict[str, str]
    cost: dict[str, float]
    complete: bool = True
    by_class: tuple[ClassShare, ...] = ()
    nearest: tuple[card.Near, ...] = field(default=(), compare=False, repr=False)
    fooled_by: Tensor | None = field(default=None, compare=False, repr=False)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that may change what the numbers mean."""
        return tuple(finding for finding in self.findings if finding.severity == "warning")

    def __repr__(self) -> str:
        lines = [f"{self.name}: clean {self.clean}", f"worst case {self.threat}: {self.robust}"]
        return "\n".join(lines + [f"{f.severity}: {f.message}" for f in self.findings])

    @property
    def threat(self) -> str:
        """The threat model in words."""
        norm = {"linf": "L-infinity", "l2": "L2", "l1": "L1"}[self.norm]
        words = f"{norm}, eps {self.eps:.4g} ({255 * self.eps:.4g}/255)"
        quality = self.settings.get("jpeg")
        return f"{words}, images seen as JPEG of quality {quality}" if quality else words

    def to_json(self) -> str:
        """The card for programs; its form is described in `advlib.audit`."""
        told = {k: v for k, v in vars(self).items() if k not in ("fooled_by", "nearest")}
        told.update(
            clean=_share(self.clean),
            robust=_share(self.robust),
            rows=[{**asdict(row), "accuracy": _share(row.accuracy)} for row in self.rows],
            findings=[asdict(finding) for finding in self.findings],
            by_class=[
                {"name": c.name, "clean": _share(c.clean), "robust": _share(c.robust)}
                for c in self.by_class
            ],
            limits=list(LIMITS),
        )
        return json.dumps({"schema": SCHEMA, **told}, indent=1, sort_keys=True) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "Audit":
        """The audit of a card that `to_json` wrote, without `fooled_by`; else `ValueError`."""
        told = json.loads(text)
        if not isinstance(told, dict) or told.pop("schema", None) != SCHEMA:
            raise ValueError(f"this is no robustness card of schema {SCHEMA!r}.")
        del told["limits"]
        told |= {name: _proportion(told[name]) for name in ("clean", "robust")}
        rows = [{**row, "accuracy": _proportion(row["accuracy"])} for row in told.pop("rows")]
        findings = tuple(Finding(**finding) for finding in told.pop("findings"))
        classes = [
            ClassShare(c["name"], _proportion(c["clean"]), _proportion(c["robust"]))
            for c in told.pop("by_class", [])
        ]
        attacks = tuple(Row(**row) for row in rows)
        return cls(**told, rows=attacks, by_class=tuple(classes), findings=findings)

    def html(self) -> str:
        """The card as one file for a browser, with the nearest images; it fetches nothing."""
        return card.page(self)

    def _repr_html_(self) -> str:
        return card.body(self)

    @property
    def limits(self) -> tuple[str, ...]:
        """What a card does not show."""
        return LIMITS

    @property
    def attacker(self) -> str:
        """What the attackers see of the model, in words."""
        known = {row.knows for row in self.rows}
        words = "knows the model and takes its gradients" if "gradients" in known else ""
        asked = next((one for one in ("logits", "decisions") if one in known), None)
        return words or (f"may only ask for its {asked}" if asked else "own attacks")

    def repeat(self) -> str:
        """The installation and the call that give these counts again."""
        names = ("batch_size", "piece_size", "seed", "jpeg")
        own = self.level == "own attacks"
        given = {"eps": self.eps, "norm": self.norm, **({} if own else {"level": self.level})}
        given |= {name: self.settings[name] for name in names if name in self.settings}
        call = ", ".join(f"{name}={value!r}" for name, value in given.items())
        call += ", attacks=attacks" if own else ""
        # Without the name of a build, as in 2.15.0+cu132, which PyPI does not know.
        packages = " ".join(f"{n}=={self.versions[n].split('+')[0]}" for n in ("advlib", "torch"))
        return f"pip install {packages}\nadvlib.audit(model, data, {call})"

    def facts(self) -> dict[str, Any]:
        """All that the counts depend on, and what they cost."""
        facts = {"level": self.level, **self.settings, **self.versions, **self.cost}
        facts |= {f"model {key}": value for key, value in self.model.items()}
        return facts | {f"data {key}": value for key, value in self.data.items()}

    def markdown(self) -> str:
        """The card for people."""
        parts = [
            f"# Robustness card: {self.name}",
            "" if self.complete else "**Interrupted: only the images done so far are counted.**",
            self._summary(),
            self._attacks(),
            self._classes(),
            self._warnings(),
            "## What this does not show\n\n" + "\n".join(f"- {limit}" for limit in LIMITS),
            f"## How to repeat it\n\n```\n{self.repeat()}\n```",
            self._settings(),
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def figure(self) -> "Figure":
        """Accuracy after each attack, with intervals."""
        from advlib import plots

        fig, axes = plots.figure(height=0.6 + 0.36 * (len(self.rows) + 1))
        shares = [self.clean, *(row.accuracy for row in self.rows)]
        colors = [plots.CLEAN] + [
            plots.NOISE if row.knows == "nothing" else plots.ADVERSARIAL for row in self.rows
        ]
        values = [100 * share.value for share in shares]
        low = [100 * (share.value - share.low) for share in shares]
        high = [100 * (share.high - share.value) for share in shares]
        bars = {"xerr": [low, high], "color": colors, "capsize": 2, "height": 0.7}
        axes.barh(range(len(shares)), values, **bars)
        names = ["no attacker", *(f"+ {row.name}" for row in self.rows)]
        axes.set_yticks(range(len(shares)), names)
        axes.invert_yaxis()
        axes.set_xlim(0, 100)
        axes.set_xlabel("accuracy so far (%)")
        return fig

    def save(self, folder: str | Path) -> Path:
        """Write ``card.html``, ``.md``, ``.json`` and ``.png`` to `folder`; return the folder."""
        folder = check_writable(Path(folder), "the report folder")
        write_whole(folder / "card.json", self.to_json())
        write_whole(folder / "card.html", self.html())
        self.figure().savefig(folder / "card.png", dpi=150)
        words = f"\n![Accuracy after each attack, as in the table](card.png)\n\n{_TABLE}"
        text = self.markdown().replace(f"\n{_TABLE}", words, 1)
        write_whole(folder / "card.md", text)
        return folder

    def _summary(self) -> str:
        rows = [
            ("Threat model", f"{self.threat}; pixels stay in [0, 1]"),
            ("The attacker", self.attacker),
            ("Accuracy, no attacker", self.clean),
            ("**Accuracy, worst case over all attacks**", f"**{self.robust}**"),
            ("Data", f"{self.data['name']}, {self.clean.total} images of {self.data['shape']}"),
            ("Warnings", len(self.warnings) or "none"),
        ]
        return _table(("", ""), rows)

    def _attacks(self) -> str:
        heads = ("attack", "sees", "settings", "worked on", "fooled", "so far", "95 % interval")
        rows = [(*one.cells(), *_percent(one.accuracy)) for one in self.rows]
        words = "Each attack works on the images left by those before. So far: worst case."
        return f"{_TABLE}\n{words}\n\n{_table(heads, rows)}"

    def _classes(self) -> str:
        heads = ("class", "images", "correct", "in the worst case")
        rows = [
            (one.name, one.clean.total, _percent(one.clean)[0], _percent(one.robust)[0])
            for one in self.by_class
        ]
        return f"## Classes\n\n{_table(heads, rows)}" if rows else ""

    def _warnings(self) -> str:
        if not self.findings:
            return "## Warnings\n\nNone: no symptom of a broken measurement was found."
        lines = [f"- **{f.severity}** ({f.name}): {f.message}" for f in self.findings]
        return "\n".join(["## Warnings", "", *lines])

    def _settings(self) -> str:
        return f"## Settings\n\n{_table(('setting', 'value'), self.facts().items())}"


_TABLE = "## Attacks\n"


def _table(heads: Iterable[object], rows: Iterable[Iterable[object]]) -> str:
    heads = tuple(heads)
    lines = (heads, ["---"] * len(heads), *rows)
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _percent(share: Proportion) -> tuple[str, str]:
    low, high = 100 * share.low, 100 * share.high
    return f"{100 * share.value:.1f} %", f"{low:.1f} to {high:.1f} %"


def _share(share: Proportion) -> dict[str, float | None]:
    return {**asdict(share), "value": share.value if share.total else None}  # JSON has no NaN


def _proportion(share: dict[str, Any]) -> Proportion:
    return Proportion(share["count"], share["total"], share["low"], share["high"])
