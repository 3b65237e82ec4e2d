"""What an audit looks at before it attacks: does the model do what the numbers will assume?"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advlib import threats
from advlib.contracts import Model, check_device, check_logits
from advlib.errors import ModelOutputError
from advlib.gradients import cross_entropy, undisturbed, value_and_gradient

FEW = 200
"""Fewer pictures than this leave an interval of several points on each side."""


@dataclass(frozen=True)
class Finding:
    """Something that a reader of the report should know.

    Attributes
    ----------
    name
        Short and stable, for programs.
    severity
        ``"note"``, or ``"warning"``: the numbers may not mean what they seem to.
    message
        One or two sentences for people.
    """

    name: str
    severity: str
    message: str


@dataclass(frozen=True)
class Look:
    """What the first look found."""

    classes: int
    differentiable: bool
    findings: tuple[Finding, ...]


def look_at_model(model: Model, x: Tensor, y: Tensor) -> Look:
    """Put a few pictures through the model and judge what comes out.

    Parameters
    ----------
    model
        Classifier from pixels in [0, 1] to logits (n, classes).
    x, y
        Pictures and true classes, checked, on the model's device.

    Returns
    -------
    Look

    Raises
    ------
    ModelOutputError
        Not one row of logits per picture, probabilities instead of logits, or the same logits for
        every picture.
    LabelError
        A class that the model does not know.
    DeviceError
        Model and pictures on different devices.
    """
    check_device(model, x)
    with undisturbed(model, x.device):
        with torch.no_grad():
            logits = model(x.clone())
            check_logits(logits, x, y)
            again = model(x.clone())
        _check_not_probabilities(logits)
        random = not torch.equal(logits, again)
        if not random:
            _check_not_constant(logits)
        differentiable, silent = _gradient(model, x, y)
    findings = [*_training(model), *_random(random, logits, again)]
    findings += _one_class(logits)
    if not differentiable:
        findings.append(Finding("no-gradient", "warning", _NO_GRADIENT))
    elif silent > 0.1:
        words = f"{100 * silent:.0f} % of the pictures have a gradient of exactly 0. {_SILENT}"
        findings.append(Finding("zero-gradient", "warning", words))
    return Look(logits.shape[1], differentiable, tuple(findings))


def look_at_budget(eps: float, norm: str, x: Tensor, total: int, batch_size: int) -> list[Finding]:
    """Whether budget and number of pictures can carry a claim."""
    findings = []
    if eps == 0:
        findings.append(Finding("no-budget", "warning", "eps is 0: no attacker may do anything."))
    if eps >= threats.diameter(x, norm):
        words = f"eps {eps:.4g} reaches every picture there is; nothing can be robust to that."
        findings.append(Finding("whole-box", "warning", f"{words} For grey levels: 8 / 255."))
    elif norm == "linf" and eps >= 0.5:
        words = "eps >= 0.5 lets the attacker turn every picture into uniform grey."
        findings.append(Finding("large-budget", "warning", words))
    if total < FEW:
        half = 100 * 0.98 / math.sqrt(total)
        words = f"{total} pictures fix a share only to about +-{half:.0f} points. Use {FEW} or more"
        findings.append(Finding("few-pictures", "warning", f"{words}; 1,000 for a claim."))
    if total < batch_size:
        words = f"the data ({total} pictures) are smaller than a batch ({batch_size}); that is fine"
        findings.append(Finding("small-data", "note", f"{words}, one smaller batch was used."))
    return findings


def look_at_clean(correct: int, total: int, classes: int) -> list[Finding]:
    """Whether the labels can belong to the model."""
    chance = 1 / classes
    spread = 2 * math.sqrt(chance * (1 - chance) / total)
    if correct / total > chance + spread or total < 10:
        return []
    words = (
        f"the model is right on {correct} of {total} pictures without any attacker, no better than "
        f"guessing among {classes} classes. Do the labels count in the model's order, and are the "
        "pixels prepared as in its training (normalisation belongs inside the model)?"
    )
    return [Finding("chance", "warning", words)]


def look_at_order(fooled: dict[str, int], knows: dict[str, str], standing: int) -> list[Finding]:
    """Whether an attack that knows little found what those that know more had missed.

    Parameters
    ----------
    fooled
        For each attack how many pictures it fooled that had stood until then, in order.
    knows
        For each attack what it knows.
    standing
        Pictures right under all attacks.
    """
    before = any(knows[name] == "gradients" for name in fooled)
    late = sum(count for name, count in fooled.items() if knows[name] == "logits")
    stood = standing + late
    if not before or late < max(3, 0.05 * stood):
        return []
    words = (
        f"the black-box attack fooled {late} of {stood} pictures that had stood against every "
        "attack with gradients. An attacker who knows more should not find less: the gradients "
        "may be masked. Attack an adapted copy of the model (lesson 10) before believing them."
    )
    return [Finding("black-box-beats-white-box", "warning", words)]


def _check_not_probabilities(logits: Tensor) -> None:
    sums = logits.float().sum(1)
    if bool((logits >= 0).all()) and bool(((sums - 1).abs() < 1e-3).all()):
        raise ModelOutputError(
            "the model returns probabilities (no value below 0, rows that sum to 1); logits are "
            "expected. A softmax at the end hides the gradient from the attack. Remove it, or "
            "undo it: lambda x: model(x).clamp_min(1e-30).log()."
        )


def _check_not_constant(logits: Tensor) -> None:
    if len(logits) > 1 and bool((logits == logits[0]).all()):
        raise ModelOutputError(
            "the model returns the same logits for every picture; an audit needs one that looks "
            "at them. Were the trained weights loaded, and do the pictures differ?"
        )


def _gradient(model: Model, x: Tensor, y: Tensor) -> tuple[bool, float]:
    """Whether a gradient reaches `x`, and the share of pictures where it is exactly 0."""
    try:
        grad = value_and_gradient(model, x.clone(), y, cross_entropy).grad
    except ModelOutputError:
        return False, 1.0
    except RuntimeError:  # torch's own: an operation without a derivative
        return False, 1.0
    return True, float((grad.flatten(1) == 0).all(1).float().mean())


def _training(model: Model) -> list[Finding]:
    if isinstance(model, nn.Module) and any(module.training for module in model.modules()):
        words = "the model was in training mode; it was audited in eval mode, as it is deployed."
        return [Finding("training-mode", "note", words)]
    return []


def _random(random: bool, logits: Tensor, again: Tensor) -> list[Finding]:
    if not random:
        return []
    differ = (logits.argmax(1) != again.argmax(1)).float().mean().item()
    words = (
        "the model is random at test time: two passes over the same pictures differ"
        f" ({100 * differ:.0f} % in their decision). Attacks that take its gradients as they come "
        "understate what an attacker can do; average them over many draws (lesson 10)."
    )
    return [Finding("random-model", "warning", words)]


def _one_class(logits: Tensor) -> list[Finding]:
    decisions = logits.argmax(1).unique()
    if len(logits) < 10 or len(decisions) > 1:
        return []
    words = f"the model gives class {decisions.item()} to every picture of the first batch."
    return [Finding("one-class", "warning", words)]


_NO_GRADIENT = (
    "no gradient reaches the pixels (a rounding, a detach or an operation without derivative on "
    "the way), so only attacks without gradients ran. That bounds nothing: attack a differentiable "
    "stand-in as well (lesson 10)."
)
_SILENT = (
    "Saturated outputs or a masking defence do that; attacks by cross-entropy are blind there."
)
