"""An audit from beginning to end: check the model, attack piece by piece, gather, report."""

import hashlib
import io
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advlib.attacks.adaptive import straight_through
from advlib.attacks.fmn import fmn
from advlib.audit import plan, sanity
from advlib.audit.card import Near
from advlib.audit.engine import MISCLASSIFIED, PENDING, ROBUST, Piece, Setup, attack_piece, seed_of
from advlib.audit.gradient_masking import MOST_IMAGES, masking_symptoms
from advlib.audit.photos import photo_folder
from advlib.audit.plan import Attack
from advlib.audit.report import Audit, ClassShare, Row
from advlib.audit.sanity import DRAWS, VOTES, Finding
from advlib.audit.sharding import ProcessLostError, Team
from advlib.audit.sources import Stream, digest, raw_bytes, stream
from advlib.audit.store import Store, check_writable, fingerprint
from advlib.contracts import Model, check_eps, check_steps, progress_bar, undisturbed
from advlib.errors import AdvlibError, InputError
from advlib.evaluation import predict, wilson
from advlib.gradients import look, margin
from advlib.threats import check_norm

CHECKED_IMAGES = 128
"""How many images the model is checked on before and after the attacks."""

LARGE = 100_000
"""So many values make an image large: a network for it fills the memory with few of them."""
NEAREST, NEAREST_AMONG, NEAREST_STEPS = 4, 32, 20
"""How many of the nearest images the card shows, of how many, found in how many steps."""

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
    batch_size: int | None = None,
    piece_size: int | None = None,
    seed: int = 0,
    name: str | None = None,
    jpeg: int | None = None,
    masking: bool = True,
    progress: bool | None = None,
    resume: str | os.PathLike | None = None,
    report: str | os.PathLike | None = None,
) -> Audit:
    """How often a classifier is correct in the worst case over an ensemble of attacks.

    The model and the data are checked first. Then every attack works on the images that the ones
    before it did not fool, the cheap attacks first. What an attack returns is classified once
    more, and must lie in ball and box. Under `torch.distributed` the processes share the work, and
    each returns the same result.

    Parameters
    ----------
    model, eps, norm
        As for `advlib.fgsm`.
    x
        Images (n, c, h, w), floating point in [0, 1]; or a map-style data set whose items are
        (image, class), or its `DataLoader`, whose order and batches do not matter; or the path of
        a folder of photographs (`advlib.audit.photo_folder`); or `advlib.audit.Stream`, which
        renders or reads piece by piece. Only one piece of these is in memory at a time.
    y
        True classes (n,), integer, if `x` is a tensor.
    level
        ``"quick"``, ``"standard"`` or ``"thorough"``; see `advlib.audit.plan`.
    attacks
        An ensemble of your own instead: a mapping from names to functions of (model, x, y), or
        `advlib.audit.Attack` objects.
    batch_size
        Images put through the model at once. None: 128, and 16 of large ones.
    piece_size
        Images attacked together, and lost at most by an interruption: a multiple of the batch
        lets batches be refilled as images are fooled. None: four batches.
    seed
        Of all that is random. Equal seeds give equal counts, on however many processes.
    name
        What the report calls the model. None: its class.
    jpeg
        The model sees every image, attacked or not, as a JPEG file of this quality, 1 to 100; the
        attacks know, and pass the gradient straight through. None: as it is.
    masking
        Look for symptoms of gradient masking on the first images.
    progress
        Show a progress bar on standard error. None: where that is a terminal.
    resume
        Folder for finished pieces; the same call goes on where it was interrupted. None: a folder
        ``pieces`` in `report`, or nothing is kept.
    report
        Folder to write the card to (`Audit.save`). None: it is not written.

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
    check_norm(norm)
    eps = check_eps(eps)
    show = sys.stderr.isatty() if progress is None else progress
    name = name or type(model).__name__
    model = model if jpeg is None else _SeenAsJPEG(model, jpeg)
    if isinstance(x, (str, os.PathLike)) and y is None:
        source = photo_folder(x, model, _device(model, torch.zeros(())), progress=show)
    else:
        source = stream(x, y)
    if batch_size is None:
        batch_size = 128 if source.piece(0, 1)[0].numel() < LARGE else 16
    batch_size = check_steps("batch_size", batch_size)
    piece_size = check_steps("piece_size", 4 * batch_size if piece_size is None else piece_size)
    folder = None if report is None else check_writable(Path(report), "report")
    pieces = Path(resume) if resume is not None else folder and folder / "pieces"
    team = Team.assemble()
    chosen = level if attacks is None else attacks
    job = _Job(model, source, chosen, eps, norm, batch_size, piece_size, seed, name, jpeg)
    team.agree(fingerprint(job.identity()), "model, data or settings")
    store = Store.open(pieces, job.identity())
    if show and team.leads:
        print(_estimate(job, team.size, masking), file=sys.stderr)
    results = _work(job, team, store, show and team.leads, began)
    symptoms: Sequence[Finding] = ()
    nearest: Sequence[Near] = ()
    if team.leads:
        try:
            with progress_bar(show=show, unit="part", desc="beside the attacks", total=2) as bar:
                symptoms = _symptoms(job, masking)
                bar.update()
                nearest = _nearest(job)
        except KeyboardInterrupt:
            raise _interrupted(job, store, results, began) from None
    result = _conclude(job, results, began, symptoms, nearest, processes=team.size)
    if folder is not None and team.leads:
        result.save(folder)
    return result


class _Job:
    """What is to be done; the same in every process."""

    def __init__(
        self,
        model: Model,
        source: Stream,
        attacks: str | Attacks,
        eps: float,
        norm: str,
        batch_size: int,
        piece_size: int,
        seed: int,
        name: str,
        jpeg: int | None = None,
    ) -> None:
        """Check the model and the budget, and choose the attacks."""
        self.source, self.piece_size = source, piece_size
        self.pieces = -(-source.count // piece_size)
        self.name, self.jpeg = name, jpeg
        first = source.piece(0, min(CHECKED_IMAGES, source.count))
        device = _device(model, first[0])
        x, y = (part.to(device) for part in first)
        checked = sanity.check_model(model, x, y)
        about_budget = sanity.check_budget(eps, norm, x, source.count, batch_size)
        self.findings = (*source.notes, *checked.findings, *about_budget)
        self.classes, self.differentiable = checked.classes, checked.differentiable
        if isinstance(attacks, str):
            members = plan.plan(attacks, self.classes, differentiable=self.differentiable)
            self.level = attacks
        else:
            members, self.level = plan.chosen(attacks), "own attacks"
        self.setup = Setup(model, members, eps, norm, batch_size, seed, device, checked.random)
        last = source.piece(max(0, source.count - CHECKED_IMAGES), source.count)
        known = [str(source.count), digest(*first), digest(*last), source.known]
        self.data_digest = hashlib.sha256(" ".join(known).encode()).hexdigest()
        self.model_digest = _model_digest(model, x)
        self.shape = list(x.shape[1:])
        self.names = source.classes or getattr(model, "categories", ())

    def name_of(self, number: int) -> str:
        """A class in words, or its number."""
        return str(self.names[number]) if number < len(self.names) else str(number)

    def identity(self) -> dict[str, Any]:
        """All that the counts depend on."""
        names = ("batch_size", "eps", "norm", "seed")
        return {
            **{name: getattr(self.setup, name) for name in names},
            "attacks": {a.name: dict(a.settings) for a in self.setup.attacks},
            "data": self.data_digest,
            "device": self.setup.device.type,
            "model": self.model_digest,
            "piece_size": self.piece_size,
            "images": self.source.count,
            "versions": _versions(),
        }

    def attack(self, number: int) -> Piece:
        start = number * self.piece_size
        stop = min(start + self.piece_size, self.source.count)
        return attack_piece(self.setup, start, *self.source.piece(start, stop))


class _SeenAsJPEG(nn.Module):
    """A model that is sent files; the gradient passes as if nothing were lost in them."""

    def __init__(self, model: Model, quality: int) -> None:
        super().__init__()
        self.model, self.quality = model, check_steps("jpeg", quality)
        if quality > 100:
            raise InputError(f"jpeg is {quality}; a quality from 1 to 100 is expected.")
        self.look, self.training = straight_through(self.saved), getattr(model, "training", False)
        for name in ("categories", "preparation"):
            setattr(self, name, getattr(model, name, ()))

    def saved(self, x: Tensor) -> Tensor:
        """The images (n, c, h, w) as Pillow writes and reads them."""
        from PIL import Image

        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise InputError(f"jpeg: images (n, 1 or 3, h, w) are expected; got {tuple(x.shape)}.")
        levels = (x * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
        read = []
        for image in levels[..., 0] if x.shape[1] == 1 else levels:
            file = io.BytesIO()
            Image.fromarray(image).save(file, "JPEG", quality=self.quality)
            read.append(torch.from_numpy(np.array(Image.open(file))).view(*x.shape[2:], -1))
        return torch.stack(read).permute(0, 3, 1, 2).to(x) / 255

    def forward(self, x: Tensor) -> Tensor:
        return self.model(self.look(x))

    def extra_repr(self) -> str:
        return f"quality {self.quality}"


class _Results:
    """What is known so far: one small number for each image, and the cost of each attack."""

    def __init__(self, job: _Job) -> None:
        self.fooled_by = torch.full((job.source.count,), PENDING, dtype=torch.int32)
        self.classes = torch.full_like(self.fooled_by, -1)
        # Piece by piece, so that a piece that two processes found is not counted twice.
        self.costs = torch.zeros(job.pieces, len(job.setup.attacks), 4, dtype=torch.float64)
        self.done = torch.zeros(job.pieces, dtype=torch.int32)

    def add(self, number: int, piece: Piece) -> None:
        self.fooled_by[piece.start : piece.stop] = torch.tensor(piece.fooled_by, dtype=torch.int32)
        self.classes[piece.start : piece.stop] = torch.tensor(piece.classes, dtype=torch.int32)
        costs = [astuple(cost) for cost in piece.costs]
        self.costs[number] = torch.tensor(costs, dtype=torch.float64)
        self.done[number] = 1

    def gather(self, team: Team) -> None:
        """Learn what the others know."""
        self.fooled_by = team.largest(self.fooled_by)
        self.classes = team.largest(self.classes)
        self.costs = team.largest(self.costs)
        self.done = team.largest(self.done)

    @property
    def attacked(self) -> Tensor:
        """The entries of `fooled_by` that are known."""
        return self.fooled_by[self.fooled_by != PENDING]


def _work(job: _Job, team: Team, store: Store, show: bool, began: float) -> _Results:
    """Attack the pieces that are not done yet, this process's share of them."""
    results = _Results(job)
    for number in range(job.pieces):
        kept = store.get(number)
        if kept is not None and len(kept.costs) == len(job.setup.attacks):
            results.add(number, kept)
    results.gather(team)
    missing = (results.done == 0).nonzero().squeeze(1).tolist()
    mine = missing[team.rank :: team.size]
    before, total = len(results.attacked), job.source.count
    try:
        with progress_bar(show=show, unit="image", desc="audit", total=total) as bar:
            bar.update(before)
            bar.refresh()
            for turn in range(-(-len(missing) // team.size)):
                if turn < len(mine):
                    piece = job.attack(mine[turn])
                    store.keep(mine[turn], piece)
                    results.add(mine[turn], piece)
                done = team.meet(min(turn + 1, len(mine))) or 0
                if show:
                    known = results.attacked
                    images = min(before + done * job.piece_size, total)
                    bar.update(max(0, (len(known) if team.size == 1 else images) - bar.n))
                    robust = 100 * float((known == ROBUST).float().mean())
                    bar.set_postfix_str(f"robust {robust:.1f} %")
            team.settle()
    except KeyboardInterrupt:
        raise _interrupted(job, store, results, began) from None
    except ProcessLostError:
        raise
    except BaseException:
        with suppress(Exception):  # tell the others; whether they hear it cannot matter here
            team.meet(0, failed=True)
            team.settle()
        raise
    results.gather(team)
    return results


def _at_most(job: _Job, processes: int, masking: bool) -> tuple[float, float]:
    """Seconds of a gradient, and of all there is at most, from one batch that is tried."""
    setup, images = job.setup, job.source.count
    x, y = (part.to(setup.device) for part in job.source.piece(0, min(setup.batch_size, images)))
    times = []
    with undisturbed(setup.model, setup.device):
        for gradient in (True, True, False):  # the first pass is slower
            began = time.perf_counter()
            look(setup.model, x, y, margin, gradient=gradient and job.differentiable)
            times.append((time.perf_counter() - began) / len(x))
    _, backward, forward = times
    passes = [plan.at_most(attack) for attack in setup.attacks]
    draws, votes = (DRAWS, VOTES) if setup.random else (1, 0)
    passes = [(draws * f + votes, draws * b) for f, b in passes]
    total = images * sum(f * forward + b * backward for f, b in passes) / processes
    total += min(images, NEAREST_AMONG) * NEAREST_STEPS * backward
    if masking:  # of each of them as many passes as its measurements took at most
        total += min(images, MOST_IMAGES) * (145 * forward + 35 * backward)
    return backward, total


def _estimate(job: _Job, processes: int, masking: bool) -> str:
    gradient, total = _at_most(job, processes, masking)
    time_ = f"{total:.0f} s" if total < 90 else f"{total / 60:.0f} min"
    return (
        f"{job.source.count} images, {gradient:.2g} s a gradient: at most about {time_}, less as "
        f"images are fooled; {_peak_memory(job.setup.device) / 1024:.1f} GiB of memory."
    )


def _interrupted(job: _Job, store: Store, results: _Results, began: float) -> AuditInterrupted:
    where = (
        f"They are kept in {str(store.folder)!r}: the same call goes on from there"
        if store.folder is not None
        else "Give resume= or report= to keep them on disk"
    )
    done = f"{len(results.attacked)} of {job.source.count} images"
    partial = _conclude(job, results, began, complete=False)
    return AuditInterrupted(f"interrupted with {done} done. {where}.", partial)


def _conclude(
    job: _Job,
    results: _Results,
    began: float,
    symptoms: Sequence[Finding] = (),
    nearest: Sequence[Near] = (),
    *,
    processes: int = 1,
    complete: bool = True,
) -> Audit:
    setup, known = job.setup, results.attacked
    total, robust = len(known), int((known != MISCLASSIFIED).sum())
    clean = wilson(robust, total)
    rows = []
    for number, attack in enumerate(setup.attacks):
        fooled = int((known == number).sum())
        robust -= fooled
        attacked, seconds, forward, backward = results.costs[:, number].sum(0).tolist()
        accuracy, seconds = wilson(robust, total), round(seconds, 2)
        counts = int(attacked), fooled, accuracy, seconds, int(forward), int(backward)
        rows.append(Row(attack.name, attack.knows, dict(attack.settings), *counts))
    findings = [*job.findings, *sanity.check_clean(clean.count, total, job.classes)]
    findings += sanity.check_order([(row.knows, row.fooled) for row in rows], robust)
    settings = {name: getattr(setup, name) for name in ("seed", "batch_size")}
    settings |= {} if job.jpeg is None else {"jpeg": job.jpeg}
    gpu = setup.device.type == "cuda"
    device = torch.cuda.get_device_name(setup.device) if gpu else str(setup.device)
    return Audit(
        name=job.name,
        eps=setup.eps,
        norm=setup.norm,
        level=job.level,
        clean=clean,
        robust=wilson(robust, total),
        rows=tuple(rows),
        findings=(*findings, *symptoms),
        settings={**settings, "piece_size": job.piece_size},
        model={"digest": job.model_digest[:16], "classes": job.classes},
        data={
            "name": job.source.name,
            "digest": job.data_digest[:16],
            "shape": job.shape,
            "images": job.source.count,
        },
        versions={**_versions(), "device": device},
        cost={
            "seconds": round(time.perf_counter() - began, 1),
            "peak_memory_mib": _peak_memory(setup.device),
            "processes": processes,
        },
        complete=complete,
        by_class=_by_class(job, results),
        nearest=tuple(nearest),
        fooled_by=results.fooled_by,
    )


def _by_class(job: _Job, results: _Results) -> tuple[ClassShare, ...]:
    known = results.fooled_by != PENDING
    fooled_by, classes = results.fooled_by[known], results.classes[known]
    shares = []
    for number in classes.unique().tolist():
        own = fooled_by[classes == number]
        counts = int((own != MISCLASSIFIED).sum()), int((own == ROBUST).sum())
        clean, robust = (wilson(count, len(own)) for count in counts)
        shares.append(ClassShare(job.name_of(number), clean, robust))
    return tuple(shares)


def _nearest(job: _Job) -> tuple[Near, ...]:
    """Of the first images, those that need the least to be misclassified."""
    setup = job.setup
    x, y = job.source.piece(0, min(NEAREST_AMONG, job.source.count))
    x, y = x.to(setup.device), y.to(setup.device)
    if setup.eps == 0 or not job.differentiable or x.ndim != 4 or x.shape[1] not in (1, 3):
        return ()
    model, many = setup.model, setup.batch_size
    try:
        found = fmn(model, x, y, norm=setup.norm, steps=NEAREST_STEPS, batch_size=many)
        then = predict(model, found.x_adv, batch_size=many).argmax(1)
    except AdvlibError:  # as for the symptoms
        return ()
    shown = ((found.eps > 0) & found.fooled).nonzero().squeeze(1)
    return tuple(
        Near(
            x[row],
            found.x_adv[row],
            found.eps[row].item(),
            job.name_of(int(y[row])),
            job.name_of(int(then[row])),
        )
        for row in shown[found.eps[shown].argsort()][:NEAREST].tolist()
    )


def _symptoms(job: _Job, wanted: bool) -> tuple[Finding, ...]:
    """What `advlib.audit.gradient_masking` finds suspicious on the first images."""
    setup = job.setup
    missing = "the symptoms of gradient masking were not looked for"
    if not wanted:
        return (Finding("masking-not-run", "note", f"{missing}."),)
    if setup.eps == 0 or not job.differentiable:
        return ()
    first = job.source.piece(0, min(CHECKED_IMAGES, job.source.count))
    x, y = (part.to(setup.device) for part in first)
    generator = torch.Generator().manual_seed(seed_of(setup.seed, "masking"))
    try:
        found = masking_symptoms(setup.model, x, y, setup.eps, norm=setup.norm, generator=generator)
    except AdvlibError as error:  # hours of attacks are done and must not be lost for this
        return (Finding("masking-not-run", "note", f"{missing}: {error}"),)
    last = found.symptoms[-2]  # before "transfer", for which there is no surrogate
    if last.suspicious is None:
        return (Finding("masking-not-run", "note", f"{missing}: {last.message}."),)
    return tuple(
        Finding(f"masking-{one.name.replace(' ', '-')}", "warning", one.message)
        for one in found.symptoms
        if one.suspicious and one.name not in ("random", "outputs", "gradient")  # checked before
    )


def _device(model: Model, x: Tensor) -> torch.device:
    """Where the model lives; the images are brought there piece by piece."""
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
