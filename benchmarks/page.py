"""The page "How fast" of the book, written from benchmarks/results.json and nothing else."""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "book" / "how-fast.md"

HEAD = """---
myst:
  html_meta:
    description: The time of FGSM and PGD in advlib and in other libraries, as a ratio to a bare loop on the same machine.
---

# How fast

% Written by `make bench` from benchmarks/results.json; not edited by hand.

An attack spends its time inside the model. How much does a library add? Each number is a time divided
by that of the **floor**: a bare loop of forward pass, gradient with respect to the input, and step in
place, on a frozen model. All ran in one process, one after the other in each round; the table shows the
median over the rounds and the quartiles. Less is better.

A model's parameters require gradients unless its owner froze them. A library that calls
`loss.backward()` then computes the gradients of all weights as well, and pays for it. The two columns
show both cases.

*advlib, accelerated* is the same attack on {py:func}`advlib.fast.accelerated`, a copy of the model that
gives the same answer up to float32 rounding. *bfloat16* changes the result and is there on request only.
"""  # noqa: E501


def write(results: dict[str, Any], path: Path = PAGE) -> None:
    """Write the page."""
    path.write_text(text(results), encoding="utf-8")


def text(results: dict[str, Any]) -> str:
    """The page as Markdown."""
    tables = results["tables"]
    lines = [HEAD]
    for title in dict.fromkeys(table["workload"] for table in tables):
        free, frozen = (
            next(t["rows"] for t in tables if t["workload"] == title and t["frozen"] == state)
            for state in (False, True)
        )
        lines += [
            f"## {title[0].upper()}{title[1:].rstrip(', ')}",
            "",
            "| library | parameters require grad | frozen | seconds, frozen |",
            "|---|---|---|---|",
            *(
                f"| {name} | {_ratio(free[name])} | {_ratio(row)} | {row['seconds']:.3f} |"
                for name, row in frozen.items()
            ),
            "",
        ]
    lines += ["## On what", "", "| what | version |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in results["machine"].items()]
    lines += [f"| {name} | {value} |" for name, value in results["libraries"].items()]
    lines += [
        "",
        "The weights are random and the pictures noise: only time is measured here. Another "
        "processor gives other ratios; `make bench` measures yours.",
        "",
    ]
    return "\n".join(lines)


def _ratio(row: dict[str, Any]) -> str:
    low, high = row["quartiles"]
    return f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    write(json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8")))
