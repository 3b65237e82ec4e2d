"""The audit on very many images: killed in the middle, it goes on to the same counts.

python -m tests.soak                    100,000 rendered signs, twice
python -m tests.soak --images 5000    fewer

One audit runs from beginning to end. Beside it, another is killed with SIGKILL when half of its
pieces are on disk, and started again. Both must find the same for every image, and neither may
grow: its memory is measured while it works. The exit status is 1 if one of these fails.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
EPS = 2 / 255
GROWTH = 32.0
"""MiB by which an audit may grow: a leak of 1 kB for each of 100,000 images is three times it."""


class Run(NamedTuple):
    """What is seen of an audit from outside."""

    seconds: float
    status: int
    memory: list[tuple[int, float]]
    """Pieces on disk, and resident memory in MiB, from time to time."""


class Outcome(NamedTuple):
    """What two audits of the same images, the second one killed in its middle, came to."""

    whole: Run
    killed: Run
    resumed: Run
    kept: int
    """Pieces that were on disk after the kill."""
    equal: bool
    """Whether both audits find the same for every image."""
    repeated: int
    """Pieces among the kept that were done again."""
    card: dict[str, Any]
    """Of the whole audit."""


def audit(folder: Path, images: int, piece_size: int) -> None:
    """Audit the standard sign network on rendered signs with noise and FGSM."""
    import advlib
    from advlib.audit.command_line import load_data
    from advlib.audit.plan import plan

    advlib.audit(
        advlib.models.load("signs-standard"),
        load_data(f"signs:{images}"),
        eps=EPS,
        attacks=plan("quick", classes=16)[:2],  # noise and FGSM
        masking=False,
        piece_size=piece_size,
        report=folder,
    )


def soak(place: Path, images: int, piece_size: int = 512, pause: float = 1.0) -> Outcome:
    """Run both audits at once in folders below `place`; look at them every `pause` seconds."""
    command = [sys.executable, "-m", "tests.soak", "--images", str(images)]
    command += ["--piece-size", str(piece_size), "--folder"]
    whole, broken = place / "whole", place / "broken"
    half = -(-images // piece_size) // 2

    with ThreadPoolExecutor(1) as beside:
        unbroken = beside.submit(_watch, [*command, str(whole)], whole, pause)
        killed = _watch([*command, str(broken)], broken, pause, until=lambda done: done >= half)
        kept = {path: path.stat().st_mtime_ns for path in _pieces(broken)}
        resumed = _watch([*command, str(broken)], broken, pause)
    return Outcome(
        unbroken.result(),
        killed,
        resumed,
        kept=len(kept),
        equal=agree(whole, broken),
        repeated=sum(path.stat().st_mtime_ns != at for path, at in kept.items()),
        card=_card(whole),
    )


def agree(one: Path, other: Path) -> bool:
    """Whether two finished audits find the same for every image, and count the same."""
    same_pieces = _verdicts(one) == _verdicts(other)
    return same_pieces and _counts(_card(one)) == _counts(_card(other))


def growth(memory: Sequence[tuple[int, float]]) -> float:
    """By how many MiB memory at rest grew from the second fifth of the measurements to the last.

    The first fifth is left out: there the libraries are loaded and the first buffers made. At rest,
    between two pieces, is the lowest quarter; at work, memory comes and goes by 200 MiB.
    """
    fifth = len(memory) // 5
    if fifth == 0:
        return 0.0
    early, late = (
        sorted(held for _, held in part)[fifth // 4]
        for part in (memory[fifth : 2 * fifth], memory[-fifth:])
    )
    return late - early


def _watch(
    command: list[str], folder: Path, pause: float, until: Callable[[int], bool] | None = None
) -> Run:
    """Run `command`, and measure; kill it without a warning once `until` says so."""
    began = time.perf_counter()
    memory = []
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": paths})
    try:
        while process.poll() is None:
            done = len(_pieces(folder))
            memory.append((done, _resident(process.pid)))
            if until is not None and until(done):
                process.send_signal(signal.SIGKILL)
                process.wait()
            time.sleep(pause)
    finally:
        process.kill()
        process.wait()
    return Run(time.perf_counter() - began, process.returncode, [m for m in memory if m[1] > 0])


def _resident(process: int) -> float:
    """Resident memory of a process in MiB; 0 once it has ended."""
    done = subprocess.run(
        ["ps", "-o", "rss=", "-p", str(process)], capture_output=True, text=True, check=False
    )
    return int(done.stdout.strip() or 0) / 1024


def _pieces(folder: Path) -> list[Path]:
    return sorted((folder / "pieces").glob("piece-*.json"))


def _verdicts(folder: Path) -> list[tuple[str, list[int]]]:
    """For each piece the digest of its images, and which attack fooled each of them."""
    held = [json.loads(path.read_text(encoding="utf-8")) for path in _pieces(folder)]
    return [(piece["data"], piece["fooled_by"]) for piece in held]


def _card(folder: Path) -> dict[str, Any]:
    path = folder / "card.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _counts(card: dict[str, Any]) -> list[Any]:
    rows = [(row["name"], row["attacked"], row["fooled"]) for row in card.get("rows", ())]
    return [card.get("clean"), card.get("robust"), card.get("complete"), rows]


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--piece-size", type=int, default=512)
    parser.add_argument("--folder", type=Path, help="audit once, from beginning to end, into it")
    options = parser.parse_args()
    if options.folder:
        audit(options.folder, options.images, options.piece_size)
        return 0
    with tempfile.TemporaryDirectory() as name:
        outcome = soak(Path(name), options.images, options.piece_size)
    return _report(outcome)


def _report(outcome: Outcome) -> int:
    """Print what was found; 0 if it is what must be."""
    runs = {"whole": outcome.whole, "killed": outcome.killed, "resumed": outcome.resumed}
    for name, run in runs.items():
        some = run.memory[:: max(1, len(run.memory) // 10)]
        course = " ".join(f"{memory:.0f}" for _, memory in some)
        print(f"{name:8} exit {run.status:3}  {run.seconds:7.0f} s  memory {course} MiB")
    card = outcome.card
    for share in ("clean", "robust"):
        print(f"{share:8} {card[share]['count']} of {card[share]['total']} correct")
    for row in card["rows"]:
        print(f"{row['name']:8} fooled {row['fooled']} of {row['attacked']}")
    more = max(growth(run.memory) for run in (outcome.whole, outcome.resumed))
    expected = {
        f"killed with {outcome.kept} pieces on disk": outcome.killed.status == -signal.SIGKILL,
        "finished after that": outcome.whole.status == outcome.resumed.status == 0,
        f"{outcome.repeated} pieces done twice (0 expected)": outcome.repeated == 0,
        "equal counts, image by image": outcome.equal and bool(card.get("complete")),
        f"grew by {more:.1f} MiB (at most {GROWTH:.0f})": more <= GROWTH,
    }
    for words, good in expected.items():
        print(f"{'good' if good else 'WRONG':6} {words}")
    return 0 if all(expected.values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
