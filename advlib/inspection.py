r"""What any attack must pass before its numbers mean anything.

A broken attack raises no error. It returns pictures, the pictures fool the model more or less
often, and the report that follows is wrong: too high if the attack is weak, too low if it takes
more than its budget. `inspect_attack` runs an attack on a few pictures whose model is known to be
right and looks for the traces that mistakes leave.
"""

import copy
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advlib import threats
from advlib.attacks import fgsm, noise
from advlib.contracts import Model, check_device, check_labels, check_pictures
from advlib.errors import InputError
from advlib.evaluation import BudgetAttack, predict
from advlib.gradients import margin

CHECKS = (
    "result",
    "finite",
    "box",
    "budget",
    "zero",
    "used",
    "ascent",
    "noise",
    "one step",
    "more",
    "batch",
    "arguments",
    "model",
    "gradients",
    "random",
)
"""Names of the checks, in the order of the report."""

_LEVELS = (1.0, 1 / 2, 1 / 8)  # of eps; in the smallest ball the loss is close to linear
_ALONE = 6  # pictures that are attacked one at a time as well
_SLACK = 1e-3  # of eps: rounding, and no mistake that matters


@dataclass(frozen=True)
class Finding:
    """What one check of an attack saw.

    Attributes
    ----------
    check
        Its name, one of `CHECKS`.
    ok
        Whether the attack passed; None where the check could not be made.
    message
        What was measured, and for a failure what is expected and how to mend it.
    """

    check: str
    ok: bool | None
    message: str


@dataclass(frozen=True, repr=False)
class Inspection:
    """What `inspect_attack` found; it prints itself as a table.

    Attributes
    ----------
    findings
        One for each of `CHECKS`.
    """

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether every check was passed."""
        return all(finding.ok for finding in self.findings)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that found a mistake."""
        return tuple(finding.check for finding in self.findings if finding.ok is False)

    def __repr__(self) -> str:
        wrong = [finding for finding in self.findings if finding.ok is False]
        passed = sum(finding.ok is True for finding in self.findings)
        lines = [f"attack inspection: {passed} of {len(self.findings)} checks passed"]
        for finding in wrong:
            lines.append(_folded(f"FAILED  {finding.check:<10}", finding.message))
        for finding in self.findings:
            if finding.ok is not False:
                word = "passed" if finding.ok else "not run"
                lines.append(_folded(f"{word:<8}{finding.check:<10}", finding.message))
        return "\n".join(lines)


def _folded(head: str, text: str, width: int = 72) -> str:
    import textwrap

    return textwrap.fill(
        text, width, initial_indent=head, subsequent_indent=" " * len(head), break_long_words=False
    )


def inspect_attack(
    attack: BudgetAttack,
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float = 8 / 255,
    *,
    norm: str = "linf",
) -> Inspection:
    r"""Run an untargeted attack on a few pictures and look for the traces of mistakes.

    The attack gets copies: whatever it breaks, the caller's model, pictures and random state stay
    as they are. It is called about a dozen times, with the budgets `eps`, ``eps / 2``,
    ``eps / 8`` and 0, on the whole batch and on single pictures, with the model in eval mode.

    ============  ==============================================================================
    Check         What is expected
    ============  ==============================================================================
    result        a tensor of the shape, dtype and device of `x`, outside of any graph
    finite        no NaN, no infinity
    box           pixels in [0, 1]
    budget        ``norm(x_adv - x) <= eps`` for every budget, up to a thousandth
    zero          a budget of 0 changes nothing
    used          pictures that are still right have been moved by (nearly) the whole budget
    ascent        the loss rises on nearly every picture
    noise         it rises by more than random noise of the same size makes it rise
    one step      it rises about as much as `advlib.fgsm` makes it rise, or more
    more          more budget does not fool fewer pictures
    batch         what happens to a picture does not depend on the others in the batch
    arguments     `x` and `y` are not changed
    model         training mode, weights and buffers are not changed; eval mode while attacking
    gradients     the ``.grad`` of the weights is not touched
    random        the global random state does not move
    ============  ==============================================================================

    What it cannot see: an attack that works as intended and is merely weaker than it could be
    (too few steps, one restart, the last point instead of the best), and a model whose gradient
    lies.

    Parameters
    ----------
    attack
        Called as ``attack(model, x, y, eps)`` with the true classes; returns perturbed pictures.
        Untargeted; wrap others with a lambda.
    model
        Classifier from pixels in [0, 1] to logits (n, classes).
    x
        Pictures, shape (n, c, h, w), floating point, pixels in [0, 1]. Only those that the model
        gets right are used; 12 to 30 are plenty, of several classes.
    y
        True classes, shape (n,), integer.
    eps
        Budget in `norm`, > 0, in units of pixels: one at which the attack is to be used.
    norm
        ``"linf"``, ``"l2"`` or ``"l1"``: the norm that the attack claims to keep.

    Returns
    -------
    Inspection
        ``ok``, ``failed`` (names of checks), and ``findings`` with a sentence each.

    Raises
    ------
    PixelError, LabelError, DeviceError, ThreatError, ModelOutputError
        An argument, or what the model makes of it, cannot be used.
    InputError
        `eps` is 0, or the model gets fewer than 8 of the pictures right.

    References
    ----------
    Carlini et al. 2019, "On Evaluating Adversarial Robustness"; Tramèr et al. 2020, "On Adaptive
    Attacks to Adversarial Example Defenses", for what no fixed list of checks can see.
    """
    threats.check_norm(norm)
    if (eps := threats.check_eps(eps)) == 0:
        raise InputError("eps is 0; a budget > 0 is expected. What happens at 0 is tried anyway.")
    x = check_pictures(x)
    y = check_labels(y, x)
    check_device(model, x)
    right = predict(model, x).argmax(1) == y if len(x) else y.bool()
    if int(right.sum()) < 8:
        raise InputError(
            f"the model gets {int(right.sum())} of {len(x)} pictures right; at least 8 are "
            "expected, or a failure of the attack could not be told from one of the model."
        )
    bench = _Bench(attack, model, x[right], y[right], eps, norm)
    return Inspection(tuple(_findings(bench)))


# -- Running the attack ----------------------------------------------------------------------


@dataclass
class _Run:
    """One call of the attack: what came back, and what else moved."""

    x: Tensor
    y: Tensor
    eps: float
    x_adv: Any = None
    error: str = ""
    in_graph: bool = False
    moved: dict[str, str] = field(default_factory=dict)

    @property
    def usable(self) -> bool:
        """Whether the result can be measured at all."""
        good = isinstance(self.x_adv, Tensor) and self.x_adv.shape == self.x.shape
        return good and bool(self.x_adv.isfinite().all())

    @property
    def delta(self) -> Tensor:
        """The whole change from the clean picture."""
        return self.x_adv.to(self.x) - self.x


@dataclass
class _Level(_Run):
    """A call at one of the budgets, with the model's answers to it and to its rivals."""

    model: Any = None
    norm: str = "linf"

    def margin(self, x: Tensor) -> Tensor:
        """How far the best wrong class is ahead; it does not level off where a model is sure."""
        return margin(predict(self.model, x.detach().to(self.x).clamp(0, 1)), self.y)

    @cached_property
    def clean(self) -> Tensor:
        return self.margin(self.x)

    @cached_property
    def attacked(self) -> Tensor:
        return self.margin(self.x_adv)

    @cached_property
    def noisy(self) -> Tensor:
        corner = "sign" if self.norm == "linf" else "uniform"
        return self.margin(noise(self.x, self.eps, norm=self.norm, distribution=corner))

    @cached_property
    def stepped(self) -> Tensor:
        return self.margin(fgsm(self.model, self.x, self.y, self.eps, norm=self.norm))


class _Bench:
    """The attack with all that is needed to try it, and the runs made so far."""

    def __init__(
        self, attack: BudgetAttack, model: Model, x: Tensor, y: Tensor, eps: float, norm: str
    ) -> None:
        self.attack, self.model, self.norm = attack, model, norm
        self.x, self.y, self.eps = x, y, eps
        self.levels = [self.run(x, y, level * eps) for level in _LEVELS]
        self.nothing = self.run(x, y, 0.0)
        # Few pictures reach black and white; stretched ones show whether the attack stops there.
        self.stretched = self.run((4 * (x[:8] - 0.5) + 0.5).clamp(0, 1), y[:8], eps)

    def run(self, x: Tensor, y: Tensor, eps: float) -> _Level:
        """Call the attack on copies and note what it moves."""
        run = _Level(x, y, eps, model=self.model, norm=self.norm)
        model, seen = _copy(self.model)
        given_x, given_y = x.clone(), y.clone()
        with _same_random_state(x.device):
            before = _random_state(x.device)
            try:
                run.x_adv = self.attack(model, given_x, given_y, eps)
            except Exception as error:
                run.error = f"{type(error).__name__}: {str(error)[:120]}"
            if _random_state(x.device) != before:
                run.moved["random"] = "the global random state"
        if isinstance(run.x_adv, Tensor):
            run.in_graph, run.x_adv = run.x_adv.requires_grad, run.x_adv.detach()
        if not (given_x.equal(x) and given_y.equal(y)):
            run.moved["arguments"] = "y" if given_x.equal(x) else "x"
        if isinstance(model, nn.Module) and isinstance(self.model, nn.Module):
            _compare(self.model, model, seen, run.moved)
        return run


def _copy(model: Model) -> tuple[Model, list[bool]]:
    """A copy of the model in eval mode that could be trained, and whether it was called in it."""
    seen: list[bool] = []
    if not isinstance(model, nn.Module):
        return model, seen
    twin = copy.deepcopy(model).eval()
    for parameter in twin.parameters():  # or a gradient that lands in the weights would not show
        parameter.grad = None
        parameter.requires_grad_(parameter.is_floating_point())
    for module in twin.modules():
        module.register_forward_pre_hook(lambda module, _: seen.append(module.training))
    return twin, seen


def _compare(model: nn.Module, twin: nn.Module, seen: list[bool], moved: dict[str, str]) -> None:
    """Note what the attack did to its copy of the model."""
    if any(module.training for module in twin.modules()):
        moved["model"] = "it is left in train mode"
    elif any(seen):
        moved["model"] = "it is called in train mode"
    before, after = model.state_dict(), twin.state_dict()
    other = [name for name in before if not after[name].equal(before[name])]
    if other:
        also = f"{moved['model']}, and " if "model" in moved else ""
        moved["model"] = f"{also}{other[0]} has changed"
    if any(parameter.grad is not None for parameter in twin.parameters()):
        moved["gradients"] = "the weights hold a gradient"


def _random_state(device: torch.device) -> tuple:
    algorithm, keys, *rest = np.random.get_state()
    gpu = torch.cuda.get_rng_state(device).tolist() if device.type == "cuda" else None
    own = (algorithm, np.asarray(keys).tolist(), rest)
    return torch.get_rng_state().tolist(), gpu, own, random.getstate()


@contextmanager
def _same_random_state(device: torch.device) -> Iterator[None]:
    """Start every run from one global random state, and put the caller's back afterwards."""
    ours, theirs = random.getstate(), np.random.get_state()
    gpu = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(gpu, device_type="cuda"):
        torch.manual_seed(1)
        random.seed(1)
        np.random.seed(1)
        try:
            yield
        finally:
            random.setstate(ours)
            np.random.set_state(theirs)


# -- The checks ------------------------------------------------------------------------------


def _findings(bench: _Bench) -> Iterator[Finding]:
    runs = [*bench.levels, bench.nothing]
    results = _result(runs), _finite(runs)
    yield from results
    measurable = all(run.usable for run in bench.levels)
    for name, look in _MEASURED:
        if name == "zero" and not bench.nothing.usable:
            yield Finding(name, None, "there is no result at eps = 0 to measure.")
        elif not measurable:
            yield Finding(name, None, "there is no result to measure.")
        else:
            yield Finding(name, *look(bench))
    for name in ("arguments", "model", "gradients", "random"):
        what = next((run.moved[name] for run in runs if name in run.moved), "")
        good, mend = _TRACES[name]
        yield Finding(name, not what, f"{what} {mend}" if what else good)


_Look = tuple[bool, str]


def _result(runs: Sequence[_Run]) -> Finding:
    for run in runs:
        at = f"at eps = {run.eps:.4g}"
        if run.error:
            return Finding("result", False, f"{at} the attack stops with {run.error}.")
        if not isinstance(run.x_adv, Tensor):
            what = type(run.x_adv).__name__
            return Finding("result", False, f"a {what} comes back; a tensor is expected.")
        wanted = tuple(run.x.shape), run.x.dtype, run.x.device
        got = tuple(run.x_adv.shape), run.x_adv.dtype, run.x_adv.device
        for name, is_, should in zip(("shape", "dtype", "device"), got, wanted, strict=True):
            if is_ != should:
                return Finding(
                    "result",
                    False,
                    f"x_adv has {name} {is_}; that of x is expected, {should}. Whoever measures "
                    "x_adv would measure another input.",
                )
        if run.in_graph:
            return Finding(
                "result",
                False,
                "x_adv is still part of a graph; a plain tensor is expected. Return "
                "x_adv.detach(), or each use of it keeps the whole attack in memory.",
            )
    return Finding("result", True, "shape, dtype and device are those of x.")


def _finite(runs: Sequence[_Run]) -> Finding:
    tensors = [run.x_adv for run in runs if isinstance(run.x_adv, Tensor)]
    if not tensors:
        return Finding("finite", None, "there is no tensor to look at.")
    bad = [int((~x_adv.isfinite().flatten(1).all(1)).sum()) for x_adv in tensors if x_adv.ndim > 1]
    if any(bad):
        return Finding(
            "finite",
            False,
            f"{max(bad)} of {len(runs[0].x)} pictures hold NaN or infinity; numbers are expected. "
            "Look for a division by the norm of a gradient that is 0.",
        )
    return Finding("finite", True, "no NaN, no infinity.")


def _box(bench: _Bench) -> _Look:
    runs = [run for run in (*bench.levels, bench.stretched) if run.usable]
    low = min(float(run.x_adv.min()) for run in runs)
    high = max(float(run.x_adv.max()) for run in runs)
    if low < -1e-6 or high > 1 + 1e-6:
        return False, (
            f"pixels reach from {low:.4f} to {high:.4f}; [0, 1] is expected: no camera delivers "
            "others. Clip x_adv after every step."
        )
    return True, f"pixels from {max(low, 0):.2f} to {min(high, 1):.2f}."


def _budget(bench: _Bench) -> _Look:
    worst, at = 0.0, bench.levels[0]
    for run in bench.levels:
        # Rounding of single pixels adds up in l1 and l2.
        rounding = float(threats.norm(torch.full_like(run.x[:1], 1e-6), bench.norm))
        ratio = (float(threats.norm(run.delta, bench.norm).max()) - rounding) / run.eps
        if ratio > worst:
            worst, at = ratio, run
    if worst <= 1 + _SLACK:
        return True, f"no change is longer than eps in {bench.norm}."
    message = (
        f"the longest change measures {worst:.3g} times eps in {bench.norm} (at eps = "
        f"{at.eps:.4g}); at most 1 is expected. "
    )
    return False, message + _why_too_long(bench, at, worst)


def _why_too_long(bench: _Bench, run: _Run, ratio: float) -> str:
    """A guess at the mistake, from the size of the excess."""
    if abs(ratio - 255 / 225) < 2e-3:
        return "255/225 is 1.13: is there a 225 in the place of 255?"
    fixed = [float(threats.norm(r.delta, bench.norm).max()) for r in bench.levels]
    if max(fixed) - min(fixed) < 0.05 * max(fixed):
        return "It is the same for every eps: the attack does not use the budget it is given."
    lengths = {
        other: float(threats.norm(run.delta, other).max()) / run.eps
        for other in threats.NORMS
        if other != bench.norm
    }
    kept = {other: length for other, length in lengths.items() if length <= 1 + _SLACK}
    if kept:
        other = max(kept, key=lambda name: kept[name])
        return f"In {other} it is at most eps: the change is projected in the wrong norm."
    return (
        "Project x_adv - x, the whole change from the clean picture, after every step; a "
        "projection around the last iterate lets the path walk away."
    )


def _zero(bench: _Bench) -> _Look:
    change = float(bench.nothing.delta.abs().max())
    if change > 1e-6:
        return False, (
            f"with eps = 0 a pixel value changes by {change:.4f}; 0 is expected, or accuracy at "
            "epsilon 0 is not the clean accuracy. Give a random start the size of eps."
        )
    return True, "a budget of 0 changes nothing."


def _used(bench: _Bench) -> _Look:
    shares, channels = [], []
    for run in bench.levels:
        still = run.attacked < 0
        if not still.any():
            continue
        delta = run.delta[still]
        shares.append(float(threats.norm(delta, bench.norm).median()) / run.eps)
        if delta.ndim == 4:
            channels.append(delta.abs().amax((0, 2, 3)) / run.eps)
    if not shares:
        return True, "no picture was still right at any budget tried."
    if min(shares) >= 0.9:
        return True, f"pictures still right have moved by {min(shares):.2f} eps or more."
    message = (
        f"pictures that are still right have moved by {min(shares):.2f} eps in {bench.norm} "
        "(median); about 1 is expected: where the attack fails, nothing should be left to spend. "
    )
    if max(shares) == 0:
        return False, message + "Nothing is changed at all."
    if channels and bench.norm == "linf":
        by_channel = torch.stack(channels).amax(0)
        if float(by_channel.max()) < 0.9:
            values = ", ".join(f"{float(value):.2f}" for value in by_channel)
            return False, message + (
                f"The largest change by channel is {values} eps: is eps applied to normalised "
                "pixels? Put the normalisation inside the model."
            )
    return False, message + "Look at step size times steps, and at how the step is normalised."


def _ascent(bench: _Bench) -> _Look:
    run = bench.levels[-1]
    rises = int((run.attacked > run.clean).sum())
    total = len(run.x)
    if rises >= 0.8 * total:
        return True, f"the margin rises on {rises} of {total} pictures at eps / 8."
    message = f"the margin rises on {rises} of {total} pictures at eps / 8; nearly all expected. "
    if rises <= 0.3 * total and float(run.delta.abs().max()) > 0:
        return False, message + (
            "The attack goes downhill: look at the sign of the step and at the labels."
        )
    return False, message + "The attack does not climb: look at its gradient, step and labels."


def _noise(bench: _Bench) -> _Look:
    better, total = 0, 0
    for run in bench.levels:
        # Where both fool the model they are equal: how far beyond is nobody's aim.
        both = (run.attacked > 0) & (run.noisy > 0)
        better += int(((run.attacked > run.noisy) | both).sum())
        total += len(run.x)
    message = f"stronger than random noise of the same size in {better} of {total} trials"
    if better >= 0.85 * total:
        return True, message + "."
    return False, message + (
        "; nearly all expected. What comes back is no better than chance: does the attack return "
        "its start, or a point that it should have thrown away?"
    )


def _one_step(bench: _Bench) -> _Look:
    run = bench.levels[-1]
    by_step = float((run.stepped - run.clean).mean())
    gain = float((run.attacked - run.clean).mean()) / max(by_step, 1e-12)
    lost = max(int((r.stepped > 0).sum()) - int((r.attacked > 0).sum()) for r in bench.levels)
    few = max(1, math.floor(0.1 * len(run.x)))
    if gain >= 0.7 and lost <= few:
        return True, f"at eps / 8 the margin rises {gain:.2f} times as much as under FGSM."
    return False, (
        f"at eps / 8 the margin rises {gain:.2f} times as much as under one step of FGSM, and at "
        f"one budget FGSM fools {max(lost, 0)} of {len(run.x)} pictures more. An attack should not "
        "be weaker than its first step: look at the gradient, the labels and the step."
    )


def _more(bench: _Bench) -> _Look:
    counts = [int((run.attacked > 0).sum()) for run in reversed(bench.levels)]
    said = ", ".join(str(count) for count in counts)
    few = max(1, math.floor(0.1 * len(bench.x)))
    if any(after < before - few for before, after in zip(counts, counts[1:], strict=False)):
        return False, (
            f"at eps / 8, eps / 2 and eps the attack fools {said} of {len(bench.x)} pictures; a "
            "larger ball holds the smaller one, so the number cannot fall. Look at a step size "
            "that jumps to and fro, and return the best point, not the last."
        )
    return True, f"at eps / 8, eps / 2 and eps it fools {said} of {len(bench.x)}."


def _batch(bench: _Bench) -> _Look:
    run = bench.levels[-1]
    some = min(_ALONE, len(run.x))
    alone = [bench.run(run.x[i : i + 1], run.y[i : i + 1], run.eps) for i in range(some)]
    if any(not one.usable for one in alone):
        return False, (
            "on a batch of one picture the attack does not return a picture; it should not need "
            "others."
        )
    single = float(torch.cat([one.attacked - one.clean for one in alone]).mean())
    together = float((run.attacked - run.clean)[:some].mean())
    by_step = float((run.stepped - run.clean)[:some].mean())
    if single > 0.3 * by_step and together < 0.6 * single:
        return False, (
            f"attacked alone, {some} pictures gain {single:.3g} of margin each; in "
            f"the batch {together:.3g}. The same is expected. Are labels and "
            "pictures out of step, or the gradient scaled by the norm of the whole batch?"
        )
    same, others = _first_half_twice(bench)
    if same < 0.02 and others > 0.05:
        return False, (
            f"with other pictures beside them, {others:.0%} of a picture's pixel values come out "
            "different; none is expected. Look for a norm, a mean or a maximum over the batch "
            "dimension, and for batch normalisation in train mode."
        )
    return True, "a picture's result does not depend on the others in its batch."


def _first_half_twice(bench: _Bench) -> tuple[float, float]:
    """Share of pixel values that differ: on a second call, and with other pictures beside them."""
    run = bench.levels[-1]
    half = len(run.x) // 2
    beside = torch.cat([run.x[:half], 1 - run.x[half:].flip(-1)])
    first = run.x_adv[:half]
    again, among_others = bench.run(run.x, run.y, run.eps), bench.run(beside, run.y, run.eps)
    if not (again.usable and among_others.usable):
        return 0.0, 1.0
    differs = [
        float(((other.x_adv[:half] - first).abs() > 0.02 * run.delta.abs().max()).float().mean())
        for other in (again, among_others)
    ]
    return differs[0], differs[1]


_MEASURED: tuple[tuple[str, Callable[[_Bench], _Look]], ...] = (
    ("box", _box),
    ("budget", _budget),
    ("zero", _zero),
    ("used", _used),
    ("ascent", _ascent),
    ("noise", _noise),
    ("one step", _one_step),
    ("more", _more),
    ("batch", _batch),
)

_TRACES = {
    "arguments": (
        "x and y are as before.",
        "is changed in place; the caller's tensors are expected as before, or whoever measures "
        "the clean accuracy next measures something else. Work on x.clone().",
    ),
    "model": (
        "mode, weights and buffers are as before.",
        "after the attack; eval mode and the same weights are expected. In train mode batch "
        "normalisation and dropout make another network of it.",
    ),
    "gradients": (
        "the weights' gradients are as before.",
        "after the attack, and the next optimiser step would use it. Take the gradient of x "
        "alone, with torch.autograd.grad.",
    ),
    "random": (
        "the global random state is as before.",
        "has moved, so later results depend on whether the attack ran. Draw from a "
        "torch.Generator, and never call torch.manual_seed in an attack.",
    ),
}
