"""A claim of a lesson beside the strongest rival explanation, measured on the same images.

Whether the claim stands is computed: it cannot where the rival does as well.
"""

import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any

import torch
from torch import Tensor

from advlib.analysis.paired import Difference, Median, paired, rounded, summary
from advlib.errors import InputError
from advlib.evaluation import Proportion

MIME = "application/vnd.advlib.claim+json"
"""Under which the output of a cell holds the claim as data."""

VERDICTS = {
    1: "stands",
    0: "not shown: the rival does as well",
    -1: "not shown: the rival does better",
}
_BOX = "border: 1px solid #8888; border-left: 4px {edge} #888; margin: 1em 0; padding: 0.3em 1em"
"""No colour of text or paper, so that it is legible in light and dark notebooks."""


@dataclass(frozen=True)
class Claim:
    """What `claim` measured. A notebook shows it as a box and keeps it as data."""

    lesson: int
    claim: str
    measurement: str
    n: int
    interval: list[float]
    rival: str
    rival_measurement: str
    rival_interval: list[float]
    difference: str
    verdict: str
    standing: bool
    left: str
    again: list[str] = field(default_factory=list)

    def data(self) -> dict[str, Any]:
        """The claim as plain data, `again` only if there is any."""
        return {key: value for key, value in asdict(self).items() if value != []}

    def _rows(self) -> dict[str, str]:
        again = {"Measured again": "; ".join(self.again)} if self.again else {}
        return {
            f"Claim ({self.verdict})": self.claim,
            "Measured": self.measurement,
            "Strongest rival": self.rival,
            "Measured for the rival": self.rival_measurement,
            "Difference": self.difference,
            **again,
            "What is left": self.left,
        }

    def __repr__(self) -> str:
        lines = [f"{name}: {text}" for name, text in self._rows().items()]
        return "\n".join(textwrap.fill(line, 88, subsequent_indent="  ") for line in lines)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        rows = "".join(
            f'<p style="margin: 0.4em 0"><strong>{escape(name)}:</strong> {escape(text)}</p>'
            for name, text in self._rows().items()
        )
        kind, edge = ("", "solid") if self.standing else (" not-shown", "dashed")
        box = f'<div class="advlib-claim{kind}" style="{_BOX.format(edge=edge)}">{rows}</div>'
        return {MIME: self.data(), "text/html": box, "text/plain": repr(self)}


def claim(
    *,
    lesson: int,
    claim: str,
    measure: str,
    values: Tensor,
    rival: str,
    rival_values: Tensor,
    left: str,
    smaller: bool = False,
    again: Mapping[str, tuple[Tensor, Tensor]] | None = None,
) -> Claim:
    """Hold a claim against its strongest rival; as the last line of a cell it shows both.

    Parameters
    ----------
    lesson
        The number of the lesson.
    claim, rival, left
        One sentence each: the claim; the strongest other explanation; what is left of the claim
        after the comparison.
    measure
        What `values` count or measure: ``"signs misclassified"``.
    values, rival_values
        The measure for the claim and for its rival, shape (n,): one value for each image or seed,
        the same ones in the same order. Booleans are shown as a share, numbers as their median.
    smaller
        Whether the claim is that its values are smaller than the rival's, not larger.
    again
        The claim on other networks or images: by their name the same measure, of both.

    Raises
    ------
    InputError
        An empty sentence; samples that `advlib.analysis.paired.paired` refuses.
    """
    texts = {"claim": claim, "measure": measure, "rival": rival, "left": left}
    for name, text in texts.items():
        if not text.strip():
            raise InputError(
                f"`{name}` is empty. A claim says what was measured, what its strongest rival is, "
                "and what is left."
            )
    gap, verdict = paired(values, rival_values), _verdict(values, rival_values, smaller)
    own, other = summary(values), summary(rival_values)
    return Claim(
        lesson=lesson,
        claim=claim,
        measurement=f"{measure}: {own}",
        n=own.total,
        interval=_ends(own),
        rival=rival,
        rival_measurement=f"{measure}: {other}",
        rival_interval=_ends(other),
        difference=_difference(gap, shares=values.dtype == torch.bool),
        verdict=verdict,
        standing=verdict == VERDICTS[1],
        left=left,
        again=[
            f"{name} (n = {len(one)}): {_short(one)} against {_short(two)}, "
            f"{_verdict(one, two, smaller)}"
            for name, (one, two) in (again or {}).items()
        ],
    )


def _verdict(values: Tensor, rival_values: Tensor, smaller: bool) -> str:
    return VERDICTS[paired(values, rival_values).sign * (-1 if smaller else 1)]


def _short(values: Tensor) -> str:
    return str(summary(values)).partition(" (")[0]


def _ends(measured: Proportion | Median) -> list[float]:
    return [float(f"{end:.3g}") for end in (measured.low, measured.high)]


def _difference(gap: Difference, *, shares: bool) -> str:
    if shares:
        value, low, high = (f"{100 * end:+.1f}" for end in (gap.value, gap.low, gap.high))
        what, test = f"{value} points", "McNemar's exact test"
    else:
        value, low, high = map(rounded, (gap.value, gap.low, gap.high))
        what, test = f"{value} (median of the paired differences)", "sign test"
    luck = f"p = {gap.p:.2g}" if gap.p >= 0.001 else "p < 0.001"
    return f"{what}; 95 % interval {low} to {high}; {test}, {luck}"
