"""Measure, and write benchmarks/results.json and the page "How fast" of the book.

python -m benchmarks               all workloads, nine rounds each
python -m benchmarks --rounds 3    less exact, in a third of the time
"""

import argparse
import json
import os
import platform
from pathlib import Path

import torch

import advlib
from benchmarks import page
from benchmarks.contestants import HALF, OURS, peers
from benchmarks.speed import race
from benchmarks.workloads import workloads

HERE = Path(__file__).resolve().parent


def machine() -> dict[str, str]:
    """What the numbers depend on."""
    name = platform.processor() or platform.machine()
    cpu = Path("/proc/cpuinfo")
    if cpu.exists():
        models = [line for line in cpu.read_text().splitlines() if line.startswith("model name")]
        name = models[0].split(": ")[1] if models else name
    return {
        "processor": name,
        "cores": str(os.cpu_count()),
        "torch threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "advlib": advlib.__version__,
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", default="", help="letters of the workloads, for instance: ab")
    options = parser.parse_args()
    others, versions = peers()
    for name, version in versions.items():
        print(f"{name}: {version}", flush=True)
    tables = []
    for load in workloads():
        if options.only and load.name[0] not in options.only:
            continue
        for steps in (1, load.steps):
            for frozen in (False, True):
                contestants = {**OURS, **HALF, **others}
                rows = race(load, contestants, steps, rounds=options.rounds, frozen=frozen)
                title = load.name.replace(f"PGD-{load.steps}", "FGSM" if steps == 1 else "")
                title = load.name if steps > 1 else title
                tables.append({"workload": title, "frozen": frozen, "rows": rows})
                print(f"\n{title}, {'frozen' if frozen else 'parameters require grad'}")
                for name, row in rows.items():
                    low, high = row["quartiles"]
                    print(f"  {name:22} {row['ratio']:6.2f}  ({low:.2f} to {high:.2f})", flush=True)
    results = {"machine": machine(), "libraries": versions, "tables": tables}
    if not options.only:
        path = HERE / "results.json"
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        page.write(results)


if __name__ == "__main__":
    main()
