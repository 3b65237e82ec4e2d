"""Time, as a ratio to the bare loop: in one process, interleaved, medians and spread."""

import math
import random
import time
from collections.abc import Mapping
from statistics import median, quantiles
from typing import Any

import torch

from benchmarks.contestants import Attack, Make, floor
from benchmarks.workloads import Workload

LEAST, SPAN = 0.1, 2.0
"""Seconds that one measurement of the floor takes at least, and all of them: what is shorter is
repeated, and has more rounds."""
FLOOR, FREE, AGAIN = "floor", "floor, weights free", "floor, again"
"""The bare loop on a frozen model, on one whose weights require gradients, and the first once more:
how far its time is from that of the first is the noise."""


def _seconds(attack: Attack, load: Workload, repeats: int = 1) -> float:
    """Of one call, on average over `repeats`."""
    start = time.perf_counter()
    for _ in range(repeats):
        attack(load.x, load.y)
    if load.x.is_cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def race(
    load: Workload, contestants: Mapping[str, Make], steps: int, *, rounds: int, frozen: bool
) -> dict[str, dict[str, Any]]:
    """Each contestant once a round, in random order; its time over that of the floor there.

    The floor is the faster one of two bare loops: a transformer's gradient takes less time on
    weights that require gradients, see `advlib.contracts.undisturbed`.

    Parameters
    ----------
    load
        Model and batch.
    contestants
        What is compared, beside the floor.
    steps
        Gradient steps; 1 is FGSM.
    rounds
        How often each runs at least, after one run to warm up.
    frozen
        Whether the model's parameters are frozen for the contestants, as a careful caller does.

    Returns
    -------
    dict
        For each name, those of the floors too, the median ratio, its quartiles, and the median in
        seconds.
    """
    load.model.requires_grad_(False)
    attacks = {name: floor(load.model, load.x, load.eps, steps) for name in (FLOOR, FREE, AGAIN)}
    for name, make in contestants.items():
        load.model.requires_grad_(not frozen)
        attacks[name] = make(load.model, load.x, load.eps, steps)
    seconds: dict[str, list[float]] = {name: [] for name in attacks}
    order, shuffle = list(attacks), random.Random(0).shuffle
    repeats, turn = 1, 0
    while turn <= rounds:
        shuffle(order)
        for name in order:
            free = name == FREE or not (frozen or name in (FLOOR, AGAIN))
            load.model.requires_grad_(free)
            seconds[name].append(_seconds(attacks[name], load, repeats))
            load.model.zero_grad(set_to_none=True)
        if turn == 0:
            once = seconds[FLOOR].pop()
            repeats = math.ceil(LEAST / once)
            rounds = max(rounds, math.ceil(SPAN / (repeats * once)))
            seconds = {name: [] for name in attacks}
        turn += 1
    base = min(seconds[FLOOR], seconds[FREE], key=median)
    return {
        name: _summary([own / bare for own, bare in zip(spent, base, strict=True)], spent)
        for name, spent in seconds.items()
    }


def _summary(ratios: list[float], seconds: list[float]) -> dict[str, Any]:
    low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else [ratios[0]] * 3
    return {
        "ratio": round(median(ratios), 3),
        "quartiles": [round(low, 3), round(high, 3)],
        "seconds": round(median(seconds), 4),
    }
