"""Measure, and write benchmarks/results.json and the page "How fast, how strong" of the book.

python -m benchmarks                     everything
python -m benchmarks speed --rounds 3    one part, less exactly; the others stay as they were
"""

import argparse
import ctypes
import json
import os
import platform
import time
import warnings
from pathlib import Path
from typing import Any

import torch

import advlib
from benchmarks import distances, growth, page, strength
from benchmarks.contestants import HALF, OURS, Make, peers
from benchmarks.speed import race
from benchmarks.workloads import workloads

RESULTS = Path(__file__).resolve().parent / "results.json"
PARTS = ("speed", "growth", "startup", "processes", "strength", "distances", "decisions")


def machine(device: str, kept: bool) -> dict[str, str]:
    """What the numbers depend on."""
    name = platform.processor() or platform.machine()
    cpu = Path("/proc/cpuinfo")
    if cpu.exists():
        models = [line for line in cpu.read_text().splitlines() if line.startswith("model name")]
        name = models[0].split(": ")[1] if models else name
    gpu = {"GPU": torch.cuda.get_device_name()} if device == "cuda" else {}
    return {
        **gpu,
        "processor": name,
        "cores": str(os.cpu_count()),
        "torch threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "advlib": advlib.__version__,
        "freed memory": "kept by the process" if kept else "as the C library likes",
    }


def keep_memory() -> bool:
    """Have the C library keep what is freed; False where it cannot be told to.

    Whether it hands freed pages back, to be asked for and filled with zeros again a moment later,
    depends on where the last small block happens to lie. A small network would be timed by that
    coincidence as much as by the code.
    """
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # the names' numbers in glibc's malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, TypeError, OSError):
        return False
    limits = {trim_threshold: 2**31 - 1, top_pad: 2**26, mmap_max: 0}
    return all(mallopt(name, value) == 1 for name, value in limits.items())


def speed(contestants: dict[str, Make], rounds: int, device: str) -> list[dict[str, Any]]:
    """Every workload, by FGSM and by PGD, with and without frozen parameters."""
    tables = []
    for load in workloads(device):
        for steps in (1, load.steps):
            for frozen in (False, True):
                rows = race(load, contestants, steps, rounds=rounds, frozen=frozen)
                attack = "FGSM" if steps == 1 else f"PGD-{steps}"
                title = f"{load.name}, {attack}"
                tables.append({"workload": title, "frozen": frozen, "rows": rows})
                print(f"\n{title}, {'frozen' if frozen else 'parameters require grad'}")
                for name, row in rows.items():
                    low, high = row["quartiles"]
                    print(f"  {name:22} {row['ratio']:6.2f}  ({low:.2f} to {high:.2f})", flush=True)
    return tables


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS) + "; all")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--device", default="cpu", choices=("cpu", "cuda"), help="of the part speed"
    )
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"there is no part {unknown.pop()!r}; {', '.join(PARTS)} are expected.")
    warnings.filterwarnings("ignore", module=r".*peers.*")  # the other libraries' own
    others, versions = peers()
    for name, version in versions.items():
        print(f"{name}: {version}", flush=True)
    results: dict[str, Any] = {
        "machine": machine(options.device, keep_memory()),
        "libraries": versions,
    }
    parts = options.parts or PARTS
    if set(parts) != set(PARTS):
        held = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else results
        if any(held[key] != results[key] for key in results):
            parser.error("results.json is of another machine or other versions; measure all parts.")
        results = {**held, **results}
    measure = {
        "speed": lambda: speed({**OURS, **HALF, **others}, options.rounds, options.device),
        "growth": growth.growth,
        "startup": growth.startup,
        "processes": growth.processes,
        "strength": strength.strength,
        "distances": distances.distances,
        "decisions": distances.decisions,
    }
    for part in parts:
        start = time.perf_counter()
        results[part] = measure[part]()
        print(f"{part}: {time.perf_counter() - start:.0f} s", flush=True)
        # After each part, because all of them take long.
        RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if missing := set(PARTS) - set(results):
        print(f"the page is not written: {', '.join(sorted(missing))} not measured yet")
        return
    page.write(results)


if __name__ == "__main__":
    main()
