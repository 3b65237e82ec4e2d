"""What any attack must pass before its numbers mean anything.

A broken attack raises no error. It returns images, the images fool the model more or less
often, and the report that follows is wrong: too high if the attack is weak, too low if it takes
more than its budget. `inspect_attack` runs an attack on a few images that the model classifies
correctly and looks for the traces that mistakes leave.
"""

import copy
import itertools
import math
import random
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advlib import threats
from advlib.attacks.fgsm import fgsm
from advlib.attacks.noise import noise
from advlib.contracts import Model, check_batch, check_eps
from advlib.errors import InputError
from advlib.evaluation import BudgetAttack, predict
from advlib.gradients import margin

_BUDGETS = (1.0, 1 / 2, 1 / 8)  # of eps; in the smallest ball the loss is close to linear
_SINGLE_IMAGES = 6  # that are attacked one at a time as well
_TOLERANCE = 1e-3  # of eps: rounding, and no mistake that matters


@dataclass(frozen=True)
class Check:
    """What one check of an attack found.

    Attributes
    ----------
    name
        One of `CHECKS`.
    ok
        Whether the attack passed; None where the check could not be made.
    message
        What was measured, and for a failure what is expected and how to fix it.
    """

    name: str
    ok: bool | None
    message: str


@dataclass(frozen=True, repr=False)
class Inspection:
    """What `inspect_attack` found; it prints itself as a table.

    Attributes
    ----------
    checks
        One for each of `CHECKS`.
    """

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every check was passed."""
        return all(check.ok for check in self.checks)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that found a mistake."""
        return tuple(check.name for check in self.checks if check.ok is False)

    def __repr__(self) -> str:
        passed = sum(check.ok is True for check in self.checks)
        lines = [f"attack inspection: {passed} of {len(self.checks)} checks passed"]
        for check in sorted(self.checks, key=lambda check: check.ok is not False):
            word = {True: "passed", False: "FAILED", None: "not run"}[check.ok]
            lines.append(hanging(f"{word:<8}{check.name:<10}", check.message, width=72))
        return "\n".join(lines)


def hanging(head: str, text: str, width: int) -> str:
    """`text` behind `head`, its further lines indented as far."""
    indent = " " * len(head)
    return textwrap.fill(
        text, width, initial_indent=head, subsequent_indent=indent, break_long_words=False
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
    """Run an untargeted attack on a few images and look for the traces of mistakes.

    The attack gets copies: whatever it breaks, the caller's model, images and random state stay
    as they are. It is called about a dozen times, with the budgets `eps`, ``eps / 2``,
    ``eps / 8`` and 0, on the whole batch and on single images, with the model in eval mode.

    ============  ==============================================================================
    Check         What is expected
    ============  ==============================================================================
    result        a tensor of the shape, dtype and device of `x`, outside of any graph
    finite        no NaN, no infinity
    box           pixels in [0, 1]
    budget        ``norm(x_adv - x) <= eps`` for every budget, up to a thousandth
    zero          a budget of 0 changes nothing
    used          images still classified correctly have moved by (nearly) the whole budget
    ascent        the loss rises on nearly every image
    noise         it rises by more than random noise of the same size makes it rise
    one step      it rises about as much as `advlib.fgsm` makes it rise, or more
    more          more budget does not fool fewer images
    batch         what happens to an image does not depend on the others in the batch
    arguments     `x` and `y` are not changed
    model         training mode, weights and buffers are not changed; eval mode while attacking
    gradients     the ``.grad`` of the weights is not touched
    random        the global random state does not move
    ============  ==============================================================================

    It cannot see an attack that works as intended and is merely weaker than it could be (too few
    steps, one restart, the last point instead of the best), nor a model whose gradient is masked.

    Parameters
    ----------
    attack
        Called as ``attack(model, x, y, eps)`` with the true classes; returns perturbed images.
        Untargeted; wrap others with a lambda.
    model, y
        As for `advlib.fgsm`; `y` are the true classes.
    x
        Images, shape (n, c, h, w), floating point, pixels in [0, 1]. Only those that the model
        classifies correctly are used; 12 to 30 are plenty, of several classes.
    eps
        Budget in `norm`, > 0, in units of pixels: one at which the attack is to be used.
    norm
        ``"linf"``, ``"l2"`` or ``"l1"``: the norm that the attack claims to keep.

    Returns
    -------
    Inspection
        ``ok``, ``failed`` (names of checks), and ``checks`` with a sentence each.

    Raises
    ------
    InputError
        `eps` is 0, or the model classifies fewer than 8 of the images correctly. Otherwise as for
        `advlib.fgsm`.

    References
    ----------
    Carlini et al. 2019, "On Evaluating Adversarial Robustness"; Tramèr et al. 2020, "On Adaptive
    Attacks to Adversarial Example Defenses", for what no fixed list of checks can see.
    """
    threats.check_norm(norm)
    if (eps := check_eps(eps)) == 0:
        raise InputError("eps is 0; a budget > 0 is expected. What happens at 0 is tried anyway.")
    x, y = check_batch(model, x, y)
    correct = predict(model, x).argmax(1) == y if len(x) else y.bool()
    if int(correct.sum()) < 8:
        raise InputError(
            f"the model classifies {int(correct.sum())} of {len(x)} images correctly; at least 8 "
            "are expected, or a failure of the attack could not be told from one of the model."
        )
    return Inspection(tuple(_checks(_Trial(attack, model, x[correct], y[correct], eps, norm))))


# -- running the attack ----------------------------------------------------------------------------


@dataclass
class _Run:
    """One call of the attack: what came back, what else moved, and the margins of its rivals."""

    model: Model
    x: Tensor
    y: Tensor
    eps: float
    norm: str
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
        """The whole change from the clean image."""
        return self.x_adv.to(self.x) - self.x

    def margin(self, x: Tensor) -> Tensor:
        """The lead of the best wrong class; unlike a loss it does not level off."""
        return margin(predict(self.model, x.detach().to(self.x).clamp(0, 1)), self.y)

    @cached_property
    def clean(self) -> Tensor:
        return self.margin(self.x)

    @cached_property
    def attacked(self) -> Tensor:
        return self.margin(self.x_adv)

    @cached_property
    def noisy(self) -> Tensor:
        distribution = "sign" if self.norm == "linf" else "uniform"
        return self.margin(noise(self.x, self.eps, norm=self.norm, distribution=distribution))

    @cached_property
    def stepped(self) -> Tensor:
        return self.margin(fgsm(self.model, self.x, self.y, self.eps, norm=self.norm))


class _Trial:
    """The attack with all that is needed to try it, and the runs made so far."""

    def __init__(
        self, attack: BudgetAttack, model: Model, x: Tensor, y: Tensor, eps: float, norm: str
    ) -> None:
        self.attack, self.model, self.norm = attack, model, norm
        self.x, self.y, self.eps = x, y, eps
        self.runs = [self.run(x, y, part * eps) for part in _BUDGETS]
        self.at_zero = self.run(x, y, 0.0)
        # Few images reach black and white; with more contrast they show whether the attack clips.
        self.contrasted = self.run((4 * (x[:8] - 0.5) + 0.5).clamp(0, 1), y[:8], eps)

    def run(self, x: Tensor, y: Tensor, eps: float) -> _Run:
        """Call the attack on copies and note what it moves."""
        run = _Run(self.model, x, y, eps, self.norm)
        model, training = _copy(self.model)
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
            _compare(self.model, model, training, run.moved)
        return run


def _copy(model: Model) -> tuple[Model, list[bool]]:
    """A copy of the model in eval mode that could be trained, and its mode at every call."""
    training: list[bool] = []
    if not isinstance(model, nn.Module):
        return model, training
    copied = copy.deepcopy(model).eval()
    for parameter in copied.parameters():  # or a gradient that lands in the weights would not show
        parameter.grad = None
        parameter.requires_grad_(parameter.is_floating_point())
    for module in copied.modules():
        module.register_forward_pre_hook(lambda module, _: training.append(module.training))
    return copied, training


def _compare(
    model: nn.Module, copied: nn.Module, training: list[bool], moved: dict[str, str]
) -> None:
    """Note what the attack did to its copy of the model."""
    if any(module.training for module in copied.modules()):
        moved["model"] = "it is left in train mode"
    elif any(training):
        moved["model"] = "it is called in train mode"
    before, after = model.state_dict(), copied.state_dict()
    changed = [name for name in before if not after[name].equal(before[name])]
    if changed:
        also = f"{moved['model']}, and " if "model" in moved else ""
        moved["model"] = f"{also}{changed[0]} has changed"
    if any(parameter.grad is not None for parameter in copied.parameters()):
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


# -- the checks ------------------------------------------------------------------------------------

_Verdict = tuple[bool | None, str]


def _checks(trial: _Trial) -> Iterator[Check]:
    runs = [*trial.runs, trial.at_zero]
    yield Check("result", *_result(runs))
    yield Check("finite", *_finite(runs))
    measurable = all(run.usable for run in trial.runs)
    for name, check in _MEASURED.items():
        usable = trial.at_zero.usable if name == "zero" else measurable
        found = check(trial) if usable else (None, "there is no result to measure.")
        yield Check(name, *found)
    for name, (good, mend) in _SIDE_EFFECTS.items():
        what = next((run.moved[name] for run in runs if name in run.moved), "")
        yield Check(name, not what, f"{what} {mend}" if what else good)


def _result(runs: Sequence[_Run]) -> _Verdict:
    for run in runs:
        if run.error:
            return False, f"at eps = {run.eps:.4g} the attack stops with {run.error}."
        if not isinstance(run.x_adv, Tensor):
            what = type(run.x_adv).__name__
            return False, f"a {what} comes back; a tensor is expected."
        names = ("shape", "dtype", "device")
        for name, given, expected in zip(names, _kind(run.x_adv), _kind(run.x), strict=True):
            if given != expected:
                return False, (
                    f"x_adv has {name} {given}; that of x is expected, {expected}. Whoever "
                    "measures x_adv would measure another input."
                )
        if run.in_graph:
            return False, (
                "x_adv is still part of a graph; a plain tensor is expected. Return "
                "x_adv.detach(), or each use of it keeps the whole attack in memory."
            )
    return True, "shape, dtype and device are those of x."


def _kind(x: Tensor) -> tuple:
    return tuple(x.shape), x.dtype, x.device


def _finite(runs: Sequence[_Run]) -> _Verdict:
    tensors = [run.x_adv for run in runs if isinstance(run.x_adv, Tensor)]
    if not tensors:
        return None, "there is no tensor to look at."
    bad = [int((~x_adv.isfinite().flatten(1).all(1)).sum()) for x_adv in tensors if x_adv.ndim > 1]
    if any(bad):
        return False, (
            f"{max(bad)} of {len(runs[0].x)} images hold NaN or infinity; numbers are expected. "
            "Look for a division by the norm of a gradient that is 0."
        )
    return True, "no NaN, no infinity."


def _box(trial: _Trial) -> _Verdict:
    runs = [run for run in (*trial.runs, trial.contrasted) if run.usable]
    low = min(float(run.x_adv.min()) for run in runs)
    high = max(float(run.x_adv.max()) for run in runs)
    if low < -1e-6 or high > 1 + 1e-6:
        return False, (
            f"pixels reach from {low:.4f} to {high:.4f}; [0, 1] is expected: no camera delivers "
            "others. Clip x_adv after every step."
        )
    return True, f"pixels from {max(low, 0):.2f} to {min(high, 1):.2f}."


def _longest(run: _Run, norm: str) -> float:
    """The length of the longest change in the batch."""
    return float(threats.norm(run.delta, norm).max())


def _budget(trial: _Trial) -> _Verdict:
    # Rounding of single pixels adds up in l1 and l2.
    rounding = float(threats.norm(torch.full_like(trial.x[:1], 1e-6), trial.norm))
    ratios = [(_longest(run, trial.norm) - rounding) / run.eps for run in trial.runs]
    worst = max(ratios)
    if worst <= 1 + _TOLERANCE:
        return True, f"no change is longer than eps in {trial.norm}."
    run = trial.runs[ratios.index(worst)]
    return False, (
        f"the longest change measures {worst:.3g} times eps in {trial.norm} (at eps = "
        f"{run.eps:.4g}); at most 1 is expected. {_why_too_long(trial, run, worst)}"
    )


def _why_too_long(trial: _Trial, run: _Run, ratio: float) -> str:
    """A guess at the mistake, from the size of the excess."""
    if abs(ratio - 255 / 225) < 2e-3:
        return "255/225 is 1.13: is there a 225 in the place of 255?"
    lengths = [_longest(other, trial.norm) for other in trial.runs]
    if max(lengths) - min(lengths) < 0.05 * max(lengths):
        return "It is the same for every eps: the attack does not use the budget it is given."
    others = {norm: _longest(run, norm) / run.eps for norm in threats.NORMS if norm != trial.norm}
    kept = {norm: length for norm, length in others.items() if length <= 1 + _TOLERANCE}
    if kept:
        norm = max(kept, key=lambda name: kept[name])
        return f"In {norm} it is at most eps: the change is projected in the wrong norm."
    return (
        "Project x_adv - x, the whole change from the clean image, after every step; a "
        "projection around the last iterate lets the path walk away."
    )


def _zero(trial: _Trial) -> _Verdict:
    change = float(trial.at_zero.delta.abs().max())
    if change > 1e-6:
        return False, (
            f"with eps = 0 a pixel value changes by {change:.4f}; 0 is expected, or accuracy at "
            "epsilon 0 is not the clean accuracy. Give a random start the size of eps."
        )
    return True, "a budget of 0 changes nothing."


def _used(trial: _Trial) -> _Verdict:
    shares, channels = [], []
    for run in trial.runs:
        delta = run.delta[run.attacked < 0]
        if len(delta) == 0:
            continue
        shares.append(float(threats.norm(delta, trial.norm).median()) / run.eps)
        if delta.ndim == 4:
            channels.append(delta.abs().amax((0, 2, 3)) / run.eps)
    if not shares:
        return True, "no image was still classified correctly at any budget tried."
    if min(shares) >= 0.9:
        words = "images still classified correctly have moved by"
        return True, f"{words} {min(shares):.2f} eps or more."
    message = (
        f"images that are still classified correctly have moved by {min(shares):.2f} eps in "
        f"{trial.norm} (median); about 1 is expected: where the attack fails, nothing should be "
        "left to spend. "
    )
    if max(shares) == 0:
        return False, message + "Nothing is changed at all."
    if channels and trial.norm == "linf":
        by_channel = torch.stack(channels).amax(0)
        if float(by_channel.max()) < 0.9:
            values = ", ".join(f"{float(value):.2f}" for value in by_channel)
            return False, message + (
                f"The largest change by channel is {values} eps: is eps applied to normalised "
                "pixels? Put the normalisation inside the model."
            )
    return False, message + "Look at step size times steps, and at how the step is normalised."


def _ascent(trial: _Trial) -> _Verdict:
    run = trial.runs[-1]
    rises, total = int((run.attacked > run.clean).sum()), len(run.x)
    if rises >= 0.8 * total:
        return True, f"the margin rises on {rises} of {total} images at eps / 8."
    message = f"the margin rises on {rises} of {total} images at eps / 8; nearly all expected. "
    if rises <= 0.3 * total and float(run.delta.abs().max()) > 0:
        return False, message + (
            "The attack goes downhill: look at the sign of the step and at the labels."
        )
    return False, message + "The attack does not climb: look at its gradient, step and labels."


def _noise(trial: _Trial) -> _Verdict:
    better, total = 0, 0
    for run in trial.runs:
        # Where both fool the model they are equal: how far beyond does not matter.
        both = (run.attacked > 0) & (run.noisy > 0)
        better += int(((run.attacked > run.noisy) | both).sum())
        total += len(run.x)
    message = f"stronger than random noise of the same size in {better} of {total} trials"
    if better >= 0.85 * total:
        return True, message + "."
    return False, message + (
        "; nearly all expected. What comes back is no better than noise: does the attack return "
        "its start, or a point that it should have thrown away?"
    )


def _one_step(trial: _Trial) -> _Verdict:
    run, total = trial.runs[-1], len(trial.x)
    by_fgsm = float((run.stepped - run.clean).mean())
    gain = float((run.attacked - run.clean).mean()) / max(by_fgsm, 1e-12)
    missed = max(int((r.stepped > 0).sum()) - int((r.attacked > 0).sum()) for r in trial.runs)
    if gain >= 0.7 and missed <= _few(trial):
        return True, f"at eps / 8 the margin rises {gain:.2f} times as much as under FGSM."
    return False, (
        f"at eps / 8 the margin rises {gain:.2f} times as much as under one step of FGSM, and at "
        f"one budget FGSM fools {max(missed, 0)} of {total} images more. An attack should not "
        "be weaker than its first step: look at the gradient, the labels and the step."
    )


def _few(trial: _Trial) -> int:
    """How many images may differ by accident."""
    return max(1, math.floor(0.1 * len(trial.x)))


def _more(trial: _Trial) -> _Verdict:
    counts = [int((run.attacked > 0).sum()) for run in reversed(trial.runs)]
    listed = ", ".join(str(count) for count in counts)
    if any(after < before - _few(trial) for before, after in itertools.pairwise(counts)):
        return False, (
            f"at eps / 8, eps / 2 and eps the attack fools {listed} of {len(trial.x)} images; a "
            "larger ball holds the smaller one, so the number cannot fall. Look at a step size "
            "that jumps to and fro, and return the best point, not the last."
        )
    return True, f"at eps / 8, eps / 2 and eps it fools {listed} of {len(trial.x)}."


def _batch(trial: _Trial) -> _Verdict:
    run = trial.runs[-1]
    some = min(_SINGLE_IMAGES, len(run.x))
    alone = [trial.run(run.x[i : i + 1], run.y[i : i + 1], run.eps) for i in range(some)]
    if any(not one.usable for one in alone):
        return False, (
            "on a batch of one image the attack does not return an image; it should not need "
            "others."
        )
    single = float(torch.cat([one.attacked - one.clean for one in alone]).mean())
    together = float((run.attacked - run.clean)[:some].mean())
    by_fgsm = float((run.stepped - run.clean)[:some].mean())
    if single > 0.3 * by_fgsm and together < 0.6 * single:
        return False, (
            f"attacked alone, {some} images gain {single:.3g} of margin each; in "
            f"the batch {together:.3g}. The same is expected. Are labels and "
            "images out of step, or the gradient scaled by the norm of the whole batch?"
        )
    same, others = _first_half_twice(trial)
    if same < 0.02 and others > 0.05:
        return False, (
            f"with other images beside them, {others:.0%} of an image's pixel values come out "
            "different; none is expected. Look for a norm, a mean or a maximum over the batch "
            "dimension, and for batch normalisation in train mode."
        )
    return True, "an image's result does not depend on the others in its batch."


def _first_half_twice(trial: _Trial) -> tuple[float, float]:
    """Share of pixel values that differ: on a second call, and with other images beside them."""
    run = trial.runs[-1]
    half = len(run.x) // 2
    beside = torch.cat([run.x[:half], 1 - run.x[half:].flip(-1)])
    again, among_others = (trial.run(x, run.y, run.eps) for x in (run.x, beside))
    if not (again.usable and among_others.usable):
        return 0.0, 1.0
    differs = [
        (other.x_adv - run.x_adv)[:half].abs() > 0.02 * run.delta.abs().max()
        for other in (again, among_others)
    ]
    return float(differs[0].float().mean()), float(differs[1].float().mean())


_MEASURED: dict[str, Callable[[_Trial], _Verdict]] = {
    "box": _box,
    "budget": _budget,
    "zero": _zero,
    "used": _used,
    "ascent": _ascent,
    "noise": _noise,
    "one step": _one_step,
    "more": _more,
    "batch": _batch,
}

_SIDE_EFFECTS = {
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

CHECKS = ("result", "finite", *_MEASURED, *_SIDE_EFFECTS)
"""Names of the checks, in the order of the report."""
