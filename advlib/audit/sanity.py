"""What an audit checks beside the attacks: does the model do what the numbers assume?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advlib.contracts import Model, are_probabilities, check_device, check_logits, forward
from advlib.errors import ModelOutputError
from advlib.gradients import cross_entropy, look, undisturbed
from advlib.threats import check_norm

ENOUGH_IMAGES = 200
"""Fewer images leave an interval of several points on each side."""
DRAWS, VOTES = 4, 9
"""Of a random model: the draws whose mean an attack sees; the new ones, of which most decide."""


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
class ModelCheck:
    """What is known of a model before it is attacked."""

    classes: int
    differentiable: bool
    random: bool
    findings: tuple[Finding, ...]


def check_model(model: Model, x: Tensor, y: Tensor) -> ModelCheck:
    """Put a few images through the model, checked and on its device, and judge what comes out.

    Raises
    ------
    ModelOutputError
        Not one row of logits per image, probabilities instead of logits, or the same logits for
        every image.
    LabelError, DeviceError
        A class that the model does not know; model and images on different devices.
    """
    check_device(model, x)
    with undisturbed(model, x.device):
        with torch.no_grad():
            logits = forward(model, x.clone())
            check_logits(logits, x, y)
            again = model(x.clone())
        # More than the rounding of sums in another order, as GPUs do them.
        random = not torch.allclose(logits, again, 1e-4, 1e-5)
        if are_probabilities(logits):
            raise ModelOutputError(
                "the model returns probabilities (no value below 0, rows that sum to 1); logits "
                f"are expected. {_mend(logits)}"
            )
        if not random and len(logits) > 1 and bool((logits == logits[0]).all()):
            raise ModelOutputError(
                "the model returns the same logits for every image; an audit needs one that looks "
                "at them. Were the trained weights loaded, and do the images differ?"
            )
        differentiable, vanished = _gradient(model, x, y)
    findings = []
    if isinstance(model, nn.Module) and any(module.training for module in model.modules()):
        words = "the model was in training mode; it was audited in eval mode, as it is deployed."
        findings.append(Finding("training-mode", "note", words))
    if random:
        differ = (logits.argmax(1) != again.argmax(1)).float().mean().item()
        words = (
            "the model is random at test time: two passes over the same images differ"
            f" ({100 * differ:.0f} % in their decision). The attacks saw the mean logits of "
            f"{DRAWS} draws, and most of {VOTES} new ones decided whether an image was "
            "misclassified. More draws for the attacks may find more (lesson 10)."
        )
        findings.append(Finding("random-model", "warning", words))
    decisions = logits.argmax(1).unique()
    if len(logits) >= 10 and len(decisions) == 1:
        words = f"the model gives class {decisions.item()} to every image of the first batch."
        findings.append(Finding("one-class", "warning", words))
    if not differentiable:
        words = (
            "no gradient reaches the pixels (a rounding, a detach or an operation without "
            "derivative on the path), so only attacks without gradients ran. That bounds nothing: "
            "attack a differentiable stand-in as well (lesson 10)."
        )
        findings.append(Finding("no-gradient", "warning", words))
    elif vanished > 0.1:
        words = (
            f"{100 * vanished:.0f} % of the images have a gradient of exactly 0. Saturated outputs "
            "or a defence that masks gradients do that; attacks by cross-entropy are blind there."
        )
        findings.append(Finding("zero-gradient", "warning", words))
    return ModelCheck(logits.shape[1], differentiable, random, tuple(findings))


def check_budget(eps: float, norm: str, x: Tensor, total: int, batch_size: int) -> list[Finding]:
    """Whether budget and number of images can support a claim."""
    everything, half = eps >= check_norm(norm).diameter(x), 98 / math.sqrt(total)
    checks = {
        "no-budget": (eps == 0, "eps is 0: no attacker may do anything."),
        "whole-box": (
            everything,
            f"eps {eps:.4g} reaches every image there is; nothing can be robust to that. For grey "
            "levels: 8 / 255.",
        ),
        "large-budget": (
            norm == "linf" and eps >= 0.5 and not everything,
            "eps >= 0.5 lets the attacker turn every image into uniform grey.",
        ),
        "few-images": (
            total < ENOUGH_IMAGES,
            f"{total} images fix a share only to about ±{half:.0f} points. Use {ENOUGH_IMAGES} or "
            "more; 1,000 for a claim.",
        ),
    }
    findings = [Finding(name, "warning", words) for name, (found, words) in checks.items() if found]
    if total < batch_size:
        words = f"the data ({total} images) are smaller than a batch ({batch_size}); that is fine"
        findings.append(Finding("small-data", "note", f"{words}, one smaller batch was used."))
    return findings


def check_clean(correct: int, total: int, classes: int) -> list[Finding]:
    """Whether the labels can belong to the model."""
    guessing = 1 / classes
    spread = 2 * math.sqrt(guessing * (1 - guessing) / total) if total else 0.0
    if total < 10 or correct / total > guessing + spread:
        return []
    words = (
        f"the model classifies {correct} of {total} images correctly without any attacker, no "
        f"better than guessing among {classes} classes. Do the labels count in the model's order, "
        "and are the pixels prepared as in its training (normalisation belongs inside the model)?"
    )
    return [Finding("chance", "warning", words)]


def check_order(rows: Sequence[tuple[str, int]], robust: int) -> list[Finding]:
    """Whether an attack that knows little found what those that know more had missed.

    `rows` say for each attack, in order, what it knows and how many images it was the first to
    fool; no attack fooled the `robust` images.
    """
    late = sum(fooled for knows, fooled in rows if knows in ("logits", "decisions"))
    total = robust + late
    if all(knows != "gradients" for knows, _ in rows) or late < max(3, 0.05 * total):
        return []
    words = (
        f"the black-box attack fooled {late} of {total} images that no attack with gradients had "
        "fooled. An attacker who knows more should not find less: the gradients may be masked. "
        "Attack an adapted copy of the model (lesson 10) before believing them."
    )
    return [Finding("black-box-beats-white-box", "warning", words)]


def _mend(logits: Tensor) -> str:
    """What to do about probabilities; all 0 or 1, they are decisions, or a softmax of them."""
    if bool(((logits == 0) | (logits == 1)).all()):
        return (
            "All are 0 or 1: these are decisions, which say nothing of how near others were. Take "
            "the logits from before the argmax or the saturated softmax. Where there are decisions "
            "only, advlib.attacks.hop_skip_jump needs no more."
        )
    return (
        "A softmax at the end hides the gradient from the attack. Remove it, or undo it: lambda x: "
        "model(x).clamp_min(1e-30).log()."
    )


def _gradient(model: Model, x: Tensor, y: Tensor) -> tuple[bool, float]:
    """Whether a gradient reaches `x`, and the share of images where it is exactly 0."""
    try:
        grad = look(model, x.clone(), y, cross_entropy).grad
    except (ModelOutputError, RuntimeError):  # torch: an operation without a derivative
        return False, 1.0
    return True, float((grad.flatten(1) == 0).all(1).float().mean())
