"""The page "How fast, how strong" of the book, written from benchmarks/results.json alone."""

import json
from pathlib import Path
from typing import Any

from benchmarks import distances, figures, strength
from benchmarks.speed import AGAIN, FLOOR

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "book" / "how-fast.md"

_HEAD = """---
myst:
  html_meta:
    description: FGSM and PGD of advlib and of six other libraries, timed against a bare loop on one machine, and what each finds with the same number of gradients.
---

# How fast, how strong

% Written by `make bench` from benchmarks/results.json; not edited by hand.

An attack spends its time inside the model. How much does a library add, and how much does it find for
the same number of gradients? `make bench` measures both on your machine and writes this page anew.

## Time beside a bare loop

```{{figure}} how-fast-time.*
:alt: Time of seven libraries as a multiple of a bare loop's, a point for each of {loads} workloads. {alt}

Time of FGSM and PGD on {networks}: a point for each of {loads} workloads.
The grey band is the bare loop timed a second time, which is noise.
```

Each number is a time divided by that of the **floor**: a bare loop of forward pass, gradient with
respect to the input, and step in place. Where two bare loops were measured, one on a frozen model and
one on weights that require gradients, the faster one is the floor. All ran in one process, once in each
round, in random order. A point is the median over the rounds.

A model's parameters require gradients unless its owner froze them. A library that calls
`loss.backward()` then computes the gradients of all weights as well, which takes time. The two halves
of the figure show both cases.

"""  # noqa: E501

_ROWS = {
    "advlib": "is {py:func}`advlib.attacks.pgd` as one calls it. It returns the best point "
    "visited, so\n  it measures the last one: one forward pass more than the floor.",
    "advlib, accelerated": "does that on the copy that {py:func}`advlib.fast.accelerated` makes, "
    "with\n  the same result up to float32 rounding.",
    "advlib, bfloat16": "does it on a copy that changes the result, made on request only.",
}
"""What the page says of the rows of advlib that were measured."""

_MEMORY = """
The C library keeps freed memory for the next call, where it can be told to. Otherwise it depends
on chance how much of it is handed back and filled with zeros again, which a small network feels.
"""

_AGAIN = f"*{AGAIN}* is the frozen loop once more: its distance from the floor is noise."

_FIXED = """
advlib checks what it is given, freezes the model and puts everything back, and ends exactly inside
the ball. The cost grows with the pixels and the number of layers, not with what the layers compute.
It is {cost:.1f} ms of the {all:.0f} ms of FGSM on the {name}, where it shows most.
"""

_GROWTH = """
```{{figure}} how-fast-growth.*
:alt: {alt}

PGD on the standard sign network: seconds over steps (32 images) and over images (10 steps). The
dashed line is proportional to the number.
```

On logarithmic axes the slope is {steps:.2f} over the steps and {images:.2f} over the images;
1 is linear growth.

A new Python imports torch in {torch:.2f} s, and advlib with torch in {advlib:.2f} s:
{difference:.2f} s more.
"""

_PROCESSES = """
## Over two processes

The audit of lesson 13 at its quick level, on {images} signs and the robust network, with one
core for each process (`torchrun`). The counts {agree}.

| processes | seconds | speed-up | correct without attack | correct under every attack |
|---|---|---|---|---|
"""


def write(results: dict[str, Any], page: Path = PAGE) -> None:
    """Write the page, and its figures beside it."""
    page.write_text(text(results), encoding="utf-8")
    figures.save(results, page.parent)


def text(results: dict[str, Any]) -> str:
    """The page as Markdown."""
    parts = [
        _head(results["speed"]) + _rows(results["speed"]),
        _MEMORY,
        _fixed(results["speed"]),
        *_speed(results["speed"]),
        "## How cost grows",
        _growth(results["growth"], results["startup"]),
        _processes(results["processes"]),
        strength.text(results["strength"]),
        distances.text(results["distances"], results["decisions"]),
        *_machine(results),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _head(tables: list[dict[str, Any]]) -> str:
    """How the figure of times is read, in words and in the numbers that it shows."""
    loads = list(dict.fromkeys(table["workload"] for table in tables))
    networks = list(dict.fromkeys(load.split(",")[0] for load in loads))
    own = [table["rows"][figures.OWN]["ratio"] for table in tables]
    others = [
        row["ratio"]
        for table in tables
        for name, row in table["rows"].items()
        if not name.startswith((figures.OWN, FLOOR))
    ]
    return _HEAD.format(
        loads=len(loads),
        networks=f"{', '.join(networks[:-1])} and {networks[-1]}",
        alt=f"advlib lies between {min(own):.2f} and {max(own):.2f}, "
        f"the others between {min(others):.2f} and {max(others):.2f}.",
    )


def _rows(tables: list[dict[str, Any]]) -> str:
    measured = set.intersection(*(set(table["rows"]) for table in tables))
    return "\n".join(f"- *{name}* {words}" for name, words in _ROWS.items() if name in measured)


def _fixed(tables: list[dict[str, Any]]) -> str:
    """What one call of advlib adds, seen where the floor is shortest."""
    least = min((t for t in tables if t["frozen"]), key=lambda t: t["rows"][FLOOR]["seconds"])
    own = least["rows"]["advlib"]
    # Of the ratio in each round: the machine was not equally fast in all, as two medians would be.
    cost = own["seconds"] * (1 - 1 / own["ratio"])
    name = least["workload"].split(",")[0]
    return _FIXED.format(cost=1000 * cost, all=1000 * own["seconds"], name=name)


def _speed(tables: list[dict[str, Any]]) -> list[str]:
    lines = ["<details><summary>The times as tables, with quartiles</summary>\n", _AGAIN, ""]
    for title in dict.fromkeys(table["workload"] for table in tables):
        free, frozen = (
            next(t["rows"] for t in tables if t["workload"] == title and t["frozen"] == state)
            for state in (False, True)
        )
        lines += [
            f"**{title[0].upper()}{title[1:]}**",
            "",
            "| library | parameters require grad | frozen | seconds, frozen |",
            "|---|---|---|---|",
            *(
                f"| {name} | {_ratio(free[name])} | {_ratio(row)} | {row['seconds']:.3f} |"
                for name, row in frozen.items()
            ),
            "",
        ]
    return [*lines, "</details>", ""]


def _ratio(row: dict[str, Any]) -> str:
    low, high = row["quartiles"]
    return f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"


def _growth(growth: dict[str, Any], startup: dict[str, float]) -> str:
    slopes = growth["exponents"]
    alt = (
        "Two lines on logarithmic axes, seconds over steps and over images, both close to the "
        f"dashed line of proportional growth: slopes {slopes['steps']:.2f} and "
        f"{slopes['images']:.2f}."
    )
    return _GROWTH.format(alt=alt, **slopes, **startup)


def _processes(rows: list[dict[str, Any]]) -> str:
    counts = {(row["clean"], row["robust"], tuple(row["fooled"])) for row in rows}
    agree = "are the same, attack by attack" if len(counts) == 1 else "**differ**"
    head = _PROCESSES.format(images=rows[0]["images"], agree=agree)
    return head + "".join(
        f"| {row['processes']} | {row['seconds']:.1f} | {rows[0]['seconds'] / row['seconds']:.2f} "
        f"| {row['clean']} | {row['robust']} |\n"
        for row in rows
    )


def _machine(results: dict[str, Any]) -> list[str]:
    return [
        "",
        "## On what",
        "",
        "| what | version |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in results["machine"].items()),
        *(f"| {name} | {value} |" for name, value in results["libraries"].items()),
        "",
        "The networks of the first section have random weights and attack noise: only time is "
        "measured there. Another processor gives other ratios.",
    ]


if __name__ == "__main__":
    write(json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8")))
