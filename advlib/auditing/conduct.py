"""An audit from beginning to end: look, attack piece by piece, gather, report."""

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advlib import threats
from advlib.auditing import plan, sanity
from advlib.auditing.engine import STANDS, UNSEEN, WRONG, Bench, Piece, attack_piece, seed_of
from advlib.auditing.plan import Attack
from advlib.auditing.report import Audit, Row
from advlib.auditing.sanity import Finding
from advlib.auditing.sharding import ProcessLostError, Team
from advlib.auditing.sources import Stream, digest, raw_bytes, stream
from advlib.auditing.store import Store, check_writable, fingerprint
from advlib.contracts import Model, check_steps
from advlib.errors import AdvlibError
from advlib.evaluation import wilson
from advlib.masking import masking_symptoms

LOOK = 128
"""How many pictures the first look takes."""

Attacks = Sequence[Attack] | Mapping[str, Callable[..., Tensor]]


class AuditInterrupted(KeyboardInterrupt):
    """Ctrl-C during an audit. `partial` is the `Audit` of what was done until then."""

    def __init__(self, message: str, partial: Audit) -> None:
        super().__init__(message)
        self.partial = partial


def audit(
    model: Model,
    x: Any,
    y: Tensor | None = None,
    eps: float = 8 / 255,
    *,
    norm: str = "linf",
    level: str = "standard",
    attacks: Attacks | None = None,
    batch_size: int = 128,
    piece_size: int | None = None,
    seed: int = 0,
    name: str | None = None,
    masking: bool = True,
    progress: bool | None = None,
    resume: str | os.PathLike | None = None,
    report: str | os.PathLike | None = None,
) -> Audit:
    """How often a classifier is right in the worst case over an ensemble of attacks.

    The model and the data are looked at first. Then every attack works on the pictures that the
    ones before it did not fool, the cheap attacks first. What an attack returns is put through the
    model once more, and must lie in ball and box. Under `torch.distributed` the processes share
    the work, and each returns the same result.

    Parameters
    ----------
    model
        Classifier from pixels in [0, 1] to logits (n, classes); normalisation lives inside it.
    x
        Pictures (n, c, h, w), floating point in [0, 1]; or a map-style data set whose items are
        (picture, class); or `advlib.auditing.Stream`, which renders or reads piece by piece. Of
        the last two only one piece is in memory at a time.
    y
        True classes (n,), integer, if `x` is a tensor.
    eps
        Budget in `norm`, in units of pixels.
    norm
        ``"linf"``, ``"l2"`` or ``"l1"``.
    level
        ``"quick"``, ``"standard"`` or ``"thorough"``; see `advlib.auditing.plan`.
    attacks
        An ensemble of your own instead: a mapping from names to functions of (model, x, y), or
        `advlib.auditing.Attack` objects.
    batch_size
        Pictures put through the model at once.
    piece_size
        Pictures attacked together, and lost at most by an interruption: a multiple of the batch
        lets batches be refilled as pictures fall. None: four batches.
    seed
        Of all that is random. Equal seeds give equal counts, on however many processes.
    name
        What the report calls the model. None: its class.
    masking
        Look for symptoms of masked gradients on the first pictures.
    progress
        Show a progress bar on standard error. None: where that is a terminal.
    resume
        Folder for finished pieces; the same call goes on where it was interrupted. None: a folder
        ``pieces`` in `report`, or nothing is kept.
    report
        Folder to write the card to (`Audit.save`). None: it is not written.

    Returns
    -------
    Audit

    Raises
    ------
    PixelError, LabelError, DeviceError, ThreatError, ModelOutputError, InputError
        An argument cannot be used, `report` or `resume` cannot be written (found out before the
        work), or `resume` holds an audit with other settings.
    ProcessLostError
        One of several processes died; finished pieces are kept.
    AuditInterrupted
        Ctrl-C; finished pieces are kept, and `partial` holds what they say.
    """
    began = time.perf_counter()
    threats.check_norm(norm)
    eps = threats.check_eps(eps)
    batch_size = check_steps("batch_size", batch_size)
    piece_size = check_steps("piece_size", 4 * batch_size if piece_size is None else piece_size)
    source = stream(x, y)
    folder = None if report is None else check_writable(Path(report), "report")
    pieces = Path(resume) if resume is not None else folder and folder / "pieces"
    team = Team.assemble()
    job = _Job.prepare(model, source, eps, norm, level, attacks, batch_size, piece_size, seed)
    job.name = name or type(model).__name__
    team.agree(fingerprint(job.identity()), "model, data or settings")
    store = Store.open(pieces, job.identity())
    board = _work(job, team, store, progress, began)
    findings = (_symptoms(job) if masking else (_NOT_LOOKED,)) if team.leads else ()
    result = _conclude(job, team, board, findings, began)
    if folder is not None and team.leads:
        result.save(folder)
    return result


@dataclass
class _Job:
    """What is to be done; the same in every process."""

    bench: Bench
    source: Stream
    look: sanity.Look
    findings: tuple[Finding, ...]
    piece_size: int
    level: str
    model_digest: str
    data_digest: str
    shape: tuple[int, ...]
    name: str = ""

    @classmethod
    def prepare(
        cls,
        model: Model,
        source: Stream,
        eps: float,
        norm: str,
        level: str,
        attacks: Attacks | None,
        batch_size: int,
        piece_size: int,
        seed: int,
    ) -> "_Job":
        """Look at model and data, and choose the attacks."""
        first = source.piece(0, min(LOOK, source.count))
        device = _device(model, first[0])
        x, y = (part.to(device) for part in first)
        look = sanity.look_at_model(model, x, y)
        about = sanity.look_at_budget(eps, norm, x, source.count, batch_size)
        if attacks is None:
            members = plan.plan(level, look.classes, differentiable=look.differentiable)
        else:
            members, level = plan.chosen(attacks), "own attacks"
        last = source.piece(max(0, source.count - LOOK), source.count)
        known = [str(source.count), digest(*first), digest(*last), source.known]
        return cls(
            Bench(model, members, eps, norm, batch_size, seed, device),
            source,
            look,
            (*look.findings, *about),
            piece_size,
            level,
            _model_digest(model, x),
            hashlib.sha256(" ".join(known).encode()).hexdigest(),
            tuple(x.shape[1:]),
        )

    @property
    def pieces(self) -> int:
        return -(-self.source.count // self.piece_size)

    def identity(self) -> dict[str, Any]:
        """All that the counts depend on."""
        bench = self.bench
        return {
            "attacks": {a.name: dict(a.settings) for a in bench.attacks},
            "batch_size": bench.batch_size,
            "data": self.data_digest,
            "device": bench.device.type,
            "eps": bench.eps,
            "model": self.model_digest,
            "norm": bench.norm,
            "piece_size": self.piece_size,
            "pictures": self.source.count,
            "seed": bench.seed,
            "versions": _versions(),
        }

    def attack(self, number: int) -> Piece:
        start = number * self.piece_size
        stop = min(start + self.piece_size, self.source.count)
        return attack_piece(self.bench, start, *self.source.piece(start, stop))


class _Board:
    """What is known so far: one small number for each picture, and the cost of each attack."""

    def __init__(self, job: _Job) -> None:
        self.fooled_by = torch.full((job.source.count,), UNSEEN, dtype=torch.int32)
        # Piece by piece, so that a piece that two processes found is not counted twice.
        self.effort = torch.zeros(job.pieces, len(job.bench.attacks), 4, dtype=torch.float64)
        self.done = torch.zeros(job.pieces, dtype=torch.int32)

    def note(self, number: int, piece: Piece) -> None:
        self.fooled_by[piece.start : piece.stop] = torch.tensor(piece.fooled_by, dtype=torch.int32)
        for row, spent in zip(self.effort[number], piece.effort, strict=True):
            row[:] = torch.tensor([getattr(spent, key) for key in _EFFORT], dtype=torch.float64)
        self.done[number] = 1

    def gather(self, team: Team) -> None:
        """Learn what the others know."""
        self.fooled_by = team.largest(self.fooled_by)
        self.effort = team.largest(self.effort)
        self.done = team.largest(self.done)

    @property
    def pictures(self) -> int:
        return int((self.fooled_by != UNSEEN).sum())


_EFFORT = ("attacked", "seconds", "forward", "backward")


def _work(job: _Job, team: Team, store: Store, progress: bool | None, began: float) -> _Board:
    """Attack the pieces that are not done yet, this process's share of them."""
    board = _Board(job)
    for number in range(job.pieces):
        held = store.get(number)
        if held is not None and len(held.effort) == len(job.bench.attacks):
            board.note(number, held)
    board.gather(team)
    missing = (board.done == 0).nonzero().squeeze(1).tolist()
    kept = board.pictures
    rounds = -(-len(missing) // team.size)
    mine = missing[team.rank :: team.size]
    try:
        with _bar(job, progress and team.leads, team, kept) as show:
            for turn in range(rounds):
                if turn < len(mine):
                    piece = job.attack(mine[turn])
                    store.keep(mine[turn], piece)
                    board.note(mine[turn], piece)
                show(board, team.meet(min(turn + 1, len(mine))))
            team.settle()
    except KeyboardInterrupt:
        raise _interrupted(job, store, board, began) from None
    except ProcessLostError:
        raise
    except BaseException:
        _tell(team)
        raise
    board.gather(team)
    return board


def _tell(team: Team) -> None:
    """Let the others know that this process stops; whether they hear it cannot matter here."""
    try:
        team.meet(0, failed=True)
        team.settle()
    except Exception:  # noqa: BLE001
        return


def _interrupted(job: _Job, store: Store, board: _Board, began: float) -> AuditInterrupted:
    done = board.pictures
    where = (
        f"They are kept in {str(store.folder)!r}: the same call goes on from there"
        if store.folder is not None
        else "Give resume= or report= to keep them on disk"
    )
    partial = _conclude(job, Team(), board, (), began, complete=False)
    return AuditInterrupted(
        f"interrupted with {done} of {job.source.count} pictures done. {where}.", partial
    )


@contextmanager
def _bar(
    job: _Job, progress: bool | None, team: Team, kept: int
) -> Iterator[Callable[[_Board, int | None], None]]:
    wanted = sys.stderr.isatty() and team.leads if progress is None else progress
    if not wanted:
        yield lambda board, done: None
        return
    from tqdm.auto import tqdm

    total = job.source.count
    with tqdm(total=total, initial=kept, desc="audit", unit="picture", file=sys.stderr) as bar:

        def show(board: _Board, done: int | None) -> None:
            seen = kept + (done or 0) * job.piece_size
            seen = board.pictures if team.size == 1 else min(seen, total)
            bar.update(max(0, seen - bar.n))
            looked = board.fooled_by[board.fooled_by != UNSEEN]
            if len(looked):
                share = 100 * float((looked == STANDS).float().mean())
                bar.set_postfix_str(f"standing {share:.1f} %")

        yield show


def _conclude(
    job: _Job,
    team: Team,
    board: _Board,
    findings: Sequence[Finding],
    began: float,
    complete: bool = True,
) -> Audit:
    seen = board.fooled_by[board.fooled_by != UNSEEN]
    total, standing = len(seen), int((seen != WRONG).sum())
    clean = wilson(standing, total)
    effort = board.effort.sum(0)
    rows = []
    for number, attack in enumerate(job.bench.attacks):
        fooled = int((seen == number).sum())
        standing -= fooled
        spent = effort[number].tolist()
        rows.append(
            Row(
                name=attack.name,
                knows=attack.knows,
                settings=dict(attack.settings),
                attacked=int(spent[0]),
                fooled=fooled,
                accuracy=wilson(standing, total),
                seconds=round(spent[1], 2),
                forward=int(spent[2]),
                backward=int(spent[3]),
            )
        )
    about = list(job.findings)
    about += sanity.look_at_clean(clean.count, total, job.look.classes) if total else []
    fooled_by = {row.name: row.fooled for row in rows}
    about += sanity.look_at_order(fooled_by, {row.name: row.knows for row in rows}, standing)
    return Audit(
        name=job.name,
        eps=job.bench.eps,
        norm=job.bench.norm,
        level=job.level,
        clean=clean,
        robust=wilson(standing, total),
        rows=tuple(rows),
        findings=(*about, *findings),
        settings={
            "seed": job.bench.seed,
            "batch_size": job.bench.batch_size,
            "piece_size": job.piece_size,
        },
        model={"digest": job.model_digest[:16], "classes": job.look.classes},
        data={
            "name": job.source.name,
            "digest": job.data_digest[:16],
            "shape": list(job.shape),
            "pictures": job.source.count,
        },
        versions={**_versions(), "device": _device_name(job.bench.device)},
        cost={
            "seconds": round(time.perf_counter() - began, 1),
            "peak_memory_mib": _peak_memory(job.bench.device),
            "processes": team.size,
        },
        complete=complete,
        fooled_by=board.fooled_by,
    )


_NOT_LOOKED = Finding(
    "masking-not-run", "note", "the symptoms of masked gradients were not looked for."
)


def _symptoms(job: _Job) -> tuple[Finding, ...]:
    """What `advlib.masking` finds suspicious on the first pictures."""
    bench = job.bench
    if bench.eps == 0 or not job.look.differentiable:
        return ()
    first = job.source.piece(0, min(LOOK, job.source.count))
    x, y = (part.to(bench.device) for part in first)
    generator = torch.Generator().manual_seed(seed_of(bench.seed, "masking"))
    try:
        symptoms = masking_symptoms(
            bench.model, x, y, bench.eps, norm=bench.norm, generator=generator
        )
    except AdvlibError as error:  # hours of attacks are done and must not be lost for this
        words = f"the symptoms of masked gradients could not be looked for: {error}"
        return (Finding("masking-not-run", "note", words),)
    return tuple(
        Finding(f"masking-{one.name.replace(' ', '-')}", "warning", one.message)
        for one in symptoms.findings
        if one.suspicious and one.name not in ("random", "outputs", "gradient")  # looked at before
    )


def _device(model: Model, x: Tensor) -> torch.device:
    """Where the model lives; the pictures are brought there piece by piece."""
    if isinstance(model, nn.Module):
        weight = next(model.parameters(), None)
        if weight is not None:
            return weight.device
    return x.device


def _model_digest(model: Model, x: Tensor) -> str:
    """Digest of structure and weights; of a plain function, of its decisions on `x`."""
    hashed = hashlib.sha256(repr(type(model)).encode())
    if isinstance(model, nn.Module):
        hashed.update(repr(model).encode())
        for key, value in model.state_dict().items():
            if isinstance(value, Tensor):
                hashed.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
                hashed.update(raw_bytes(value))
    else:
        with torch.no_grad():
            hashed.update(model(x.clone()).argmax(1).cpu().numpy().tobytes())
    return hashed.hexdigest()


def _versions() -> dict[str, str]:
    import platform

    from advlib import __version__

    return {"advlib": __version__, "torch": torch.__version__, "python": platform.python_version()}


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _peak_memory(device: torch.device) -> float:
    """Most memory held so far, in MiB: of the GPU, or of this whole process."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    try:
        import resource
    except ImportError:  # Windows
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
