"""How cost grows: with the steps, with the images, at start-up, and over several processes."""

import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

import advlib
from advlib import models
from advlib.data import signs

STEPS = (5, 10, 20, 40, 80)
IMAGES = (8, 16, 32, 64, 128, 256)
ROUNDS = 5


def growth(rounds: int = ROUNDS) -> dict[str, Any]:
    """Seconds of PGD on the standard sign model for several numbers of steps and of images.

    Returns
    -------
    dict
        ``steps`` and ``images``: rows of [number, seconds], and under ``exponents`` the slope of
        each on logarithmic axes: 1 is linear growth.
    """
    model = models.load("signs-standard")
    x, y = signs.render(max(IMAGES), seed=7_000_000)
    few = x[:32], y[:32]

    def pgd(x: Tensor, y: Tensor, steps: int) -> Callable[[], Tensor]:
        return lambda: advlib.pgd(model, x, y, 4 / 255, steps=steps)

    rows = {
        "steps": _timed({n: pgd(*few, n) for n in STEPS}, rounds),
        "images": _timed({n: pgd(x[:n], y[:n], 10) for n in IMAGES}, rounds),
    }
    return {**rows, "exponents": {name: slope(values) for name, values in rows.items()}}


def _timed(calls: dict[int, Callable[[], Tensor]], rounds: int) -> list[list[float]]:
    """The median over the rounds, interleaved, after one call of each to warm up."""
    seconds: dict[int, list[float]] = {n: [] for n in calls}
    for turn in range(rounds + 1):
        for n, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                seconds[n].append(time.perf_counter() - start)
    return [[n, round(median(spent), 5)] for n, spent in seconds.items()]


def slope(rows: list[list[float]]) -> float:
    """Least-squares slope of log seconds over log number."""
    logs = [(math.log(n), math.log(seconds)) for n, seconds in rows]
    mean_x, mean_y = (sum(values) / len(logs) for values in zip(*logs, strict=True))
    above = sum((a - mean_x) * (b - mean_y) for a, b in logs)
    return round(above / sum((a - mean_x) ** 2 for a, _ in logs), 3)


_IMPORT = """
import time
start = time.perf_counter()
import torch
middle = time.perf_counter()
import advlib
print(middle - start, time.perf_counter() - middle)
"""


def startup(rounds: int = ROUNDS) -> dict[str, float]:
    """Seconds in which a new Python imports torch, and then advlib as well: ``difference`` more."""
    spent = []
    for _ in range(rounds):  # in one process, because starts differ more than advlib takes
        done = subprocess.run(
            [sys.executable, "-c", _IMPORT], check=True, capture_output=True, text=True
        )
        spent.append([float(seconds) for seconds in done.stdout.split()])
    torch_alone, more = (median(times) for times in zip(*spent, strict=True))
    return {
        "torch": round(torch_alone, 3),
        "advlib": round(torch_alone + more, 3),
        "difference": round(more, 3),
    }


_LOST = "torchrun wrote nothing that names the error"


def processes(images: int = 1024, level: str = "quick") -> list[dict[str, Any]]:
    """The audit of the robust sign model by one process and by two, one core each.

    Raises
    ------
    RuntimeError
        One of them failed.
    """
    rows = []
    for count in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            command = [
                *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
                *(f"--nproc-per-node={count}", "-m", "advlib", "audit", "--model=signs-robust"),
                *(f"--data=signs:{images}", "--eps=4/255", f"--level={level}"),
                *("--piece-size=64", "--batch-size=64", "--device=cpu", "--no-progress"),
                f"--out={folder}/card",
            ]
            run = subprocess.run(
                command,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
                cwd=folder,
            )
            if run.returncode:
                why = re.findall(r"^.*Error.*$", run.stderr, re.MULTILINE) or [_LOST]
                raise RuntimeError(f"{count} processes: {why[-1]}")
            card = json.loads(Path(folder, "card", "card.json").read_text(encoding="utf-8"))
        rows.append(
            {
                "processes": count,
                "seconds": card["cost"]["seconds"],
                "clean": card["clean"]["count"],
                "robust": card["robust"]["count"],
                "fooled": [row["fooled"] for row in card["rows"]],
                "images": images,
            }
        )
    return rows


def memory(model: nn.Module | None = None) -> list[dict[str, float]]:
    """Most memory that PGD holds beside model and images, for few and many steps; CUDA only."""
    if not torch.cuda.is_available():
        return []
    model = (model or models.load("signs-standard")).cuda()
    x, y = (part.cuda() for part in signs.render(64, seed=7_000_000))
    rows = []
    for steps in (2, 20, 200):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        advlib.pgd(model, x, y, 4 / 255, steps=steps)
        rows.append({"steps": steps, "MiB": (torch.cuda.max_memory_allocated() - before) / 2**20})
    return rows
