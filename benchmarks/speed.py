"""Time, as a ratio to the bare loop: in one process, interleaved, medians and spread."""

import time
from collections.abc import Mapping
from statistics import median, quantiles
from typing import Any

import torch

from benchmarks.contestants import Attack, Make, floor
from benchmarks.workloads import Workload


def _seconds(attack: Attack, load: Workload) -> float:
    start = time.perf_counter()
    attack(load.x, load.y)
    if load.x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def race(
    load: Workload, contestants: Mapping[str, Make], steps: int, *, rounds: int, frozen: bool
) -> dict[str, dict[str, Any]]:
    """Each contestant once a round, in turn; its time over that of the floor in the same round.

    Parameters
    ----------
    load
        Model and batch.
    contestants
        What is compared, beside the floor.
    steps
        Gradient steps; 1 is FGSM.
    rounds
        How often each runs, after one run to warm up.
    frozen
        Whether the model's parameters are frozen, as a careful caller does. The floor's always
        are.

    Returns
    -------
    dict
        For each name the median ratio, its quartiles, and the median in seconds.
    """
    load.model.requires_grad_(False)
    bare = floor(load.model, load.x, load.eps, steps)
    attacks = {}
    for name, make in contestants.items():
        load.model.requires_grad_(not frozen)
        attacks[name] = make(load.model, load.x, load.eps, steps)
    ratios: dict[str, list[float]] = {name: [] for name in attacks}
    seconds: dict[str, list[float]] = {name: [] for name in ["floor", *attacks]}
    for turn in range(rounds + 1):
        load.model.requires_grad_(False)
        base = _seconds(bare, load)
        load.model.requires_grad_(not frozen)
        times = {name: _seconds(attack, load) for name, attack in attacks.items()}
        load.model.zero_grad(set_to_none=True)
        if turn == 0:
            continue
        seconds["floor"].append(base)
        for name, spent in times.items():
            ratios[name].append(spent / base)
            seconds[name].append(spent)
    result: dict[str, dict[str, Any]] = {"floor": _summary([1.0] * rounds, seconds["floor"])}
    return result | {name: _summary(ratios[name], seconds[name]) for name in attacks}


def _summary(ratios: list[float], seconds: list[float]) -> dict[str, Any]:
    low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    return {
        "ratio": round(median(ratios), 3),
        "quartiles": [round(low, 3), round(high, 3)],
        "seconds": round(median(seconds), 4),
    }
