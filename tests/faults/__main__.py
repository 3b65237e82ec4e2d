"""Put each fault into a copy of the package, run its tests, and count the faults they notice.

python -m tests.faults              all faults
python -m tests.faults attacks/pgd  those of one module
python -m tests.faults -k targeted  those whose name contains a word

The exit status is 1 if fewer than 95 % are noticed, or if the tests fail without a fault. Every
copy is made of one made at the start: the tree may be edited meanwhile.
"""

import argparse
import multiprocessing
import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from .catalogue import FAULTS
from .trial import PRELOAD, TESTS, copy, noticed, status_of

WANTED = 0.95


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("module", nargs="?", choices=sorted(TESTS))
    parser.add_argument("-k", dest="word", default="")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    faults = [
        fault
        for fault in FAULTS
        if options.module in (None, fault.module) and options.word in fault.name
    ]
    os.environ["OMP_NUM_THREADS"] = "1"
    can_fork = "forkserver" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if can_fork else "spawn")
    context.set_forkserver_preload(PRELOAD)
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(options.jobs) as pool:
        base = Path(name).resolve()
        copy(base)
        files = sorted({file for fault in faults for file in TESTS[fault.module]})
        status, said = status_of(context, base, files)
        if status:
            print(f"The tests fail without any fault:\n{said[-2000:]}")
            return 1
        found = []
        results = pool.map(partial(noticed, context, base), faults)
        for fault, seen in zip(faults, results, strict=True):
            found.append(seen)
            print(f"{'noticed' if seen else 'MISSED ':8} {fault.module}: {fault.name}", flush=True)
    share = sum(found) / len(found)
    print(f"{sum(found)} of {len(found)} faults noticed ({100 * share:.1f} %; {WANTED:.0%} wanted)")
    return 0 if share >= WANTED else 1


if __name__ == "__main__":
    raise SystemExit(main())
