r"""Does a network withstand attacks, or does it only hide its gradient?

An attack that fails says little: the network may be robust, or the attack may not see where to go.
Defences of the second kind leave traces, because something that needs no gradient, or another
gradient, does better than the attack that failed. `masking_symptoms` looks for these traces: the
checklists of Athalye, Carlini & Wagner 2018 and of Carlini et al. 2019, as code.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from advlib import threats
from advlib.adaptive import undetected
from advlib.attacks import fgsm, pgd
from advlib.contracts import Model, check_device, check_labels, check_logits, check_pictures
from advlib.errors import ModelOutputError, ThreatError
from advlib.gradients import Loss, cross_entropy, margin, undisturbed, value_and_gradient
from advlib.square import square

SYMPTOMS = (
    "random",
    "outputs",
    "gradient",
    "slope",
    "one step",
    "loss",
    "samples",
    "search",
    "budget",
    "unbounded",
    "transfer",
)
"""Names of the findings, in the order of the report."""

PICTURES = 64
"""At most so many pictures are used: the first that the model reads correctly."""

_FEWEST = 8  # pictures below which nothing is said
_STEPS = 10  # of every bounded attack
_FAR = 20  # steps of the unbounded attack
_DIRECTIONS = 8  # in which the slope is measured
_SAMPLES = 16  # random points per picture
_QUERIES = 100  # of Square Attack, per picture
_VANISHED = 0.1  # share of pictures with a gradient of 0 that calls for an explanation
_AGREEMENT = 0.5  # correlation of gradient and measured slope; honest networks lie above 0.9


@dataclass(frozen=True)
class Symptom:
    """What one question of the checklist found.

    Attributes
    ----------
    name
        One of `SYMPTOMS`.
    suspicious
        Whether it speaks for a hidden gradient; None where it could not be asked.
    message
        What was measured, and where it is suspicious what to do about it.
    """

    name: str
    suspicious: bool | None
    message: str


@dataclass(frozen=True, repr=False)
class Symptoms:
    """What `masking_symptoms` found; it prints itself as a table.

    Attributes
    ----------
    findings
        One for each of `SYMPTOMS`.
    """

    findings: tuple[Symptom, ...]

    @property
    def suspicious(self) -> bool:
        """Whether any finding speaks for a hidden gradient."""
        return any(finding.suspicious for finding in self.findings)

    @property
    def found(self) -> tuple[str, ...]:
        """Names of the findings that speak for a hidden gradient."""
        return tuple(finding.name for finding in self.findings if finding.suspicious)

    def __repr__(self) -> str:
        import textwrap

        asked = sum(finding.suspicious is not None for finding in self.findings)
        lines = [f"masking: {len(self.found)} of {asked} symptoms found"]
        for finding in self.findings:
            word = {True: "FOUND", False: "no", None: "not run"}[finding.suspicious]
            head = f"{word:<8}{finding.name:<10}"
            lines.append(
                textwrap.fill(
                    finding.message, 76, initial_indent=head, subsequent_indent=" " * len(head)
                )
            )
        return "\n".join(lines)


def masking_symptoms(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float = 8 / 255,
    *,
    norm: str = "linf",
    generator: torch.Generator | None = None,
    reject: int | None = None,
    surrogate: Model | None = None,
) -> Symptoms:
    r"""Look for the traces that a hidden gradient leaves.

    ============  ============================================================================
    Finding       Suspicious if
    ============  ============================================================================
    random        two calls give different logits for the same pictures
    outputs       the rows are probabilities already: softmax would be applied twice
    gradient      the gradient of the cross-entropy is exactly 0, or not finite, for more than a
                  tenth of the pictures
    slope         the gradient does not predict how the loss changes in random directions
                  (correlation below one half)
    one step      FGSM fools more pictures than PGD
    loss          PGD with the margin fools more than PGD with the cross-entropy
    samples       random points in the ball fool pictures that PGD does not
    search        Square Attack, which asks only for logits, fools pictures that PGD does not
    budget        PGD with four times the budget fools fewer
    unbounded     PGD that may change everything does not fool all
    transfer      pictures made for `surrogate` fool the model where PGD on it does not
    ============  ============================================================================

    "More" is more than 5 % of the pictures and at least 2 (for *loss*, where honest networks
    differ as well, 12 % and at least 3): so much is luck. A finding is a reason to look, no proof;
    and none found proves nothing either.

    Parameters
    ----------
    model
        Classifier from pixels in [0, 1] to logits (n, classes).
    x
        Pictures, shape (n, c, h, w) or (n, d), floating point, pixels in [0, 1]. The first
        `PICTURES` that the model reads correctly are used.
    y
        True classes, shape (n,), integer.
    eps
        Budget that robustness is claimed for, in `norm`, in units of pixels, > 0.
    norm
        ``"linf"``, ``"l2"`` or ``"l1"``.
    generator
        Source of randomness. None: a new one with seed 0.
    reject
        Number of the class that means "rejected", if the model has one: such an answer is no
        success of the attacker. The second loss is then `advlib.adaptive.undetected`.
    surrogate
        Another network for the same pictures, for *transfer*; None leaves it out.

    Returns
    -------
    Symptoms
        ``suspicious``, ``found``, ``findings``; prints itself as a table.

    Raises
    ------
    PixelError, LabelError, DeviceError, ThreatError, ModelOutputError
        An argument, or what the model makes of it, cannot be used; nothing was changed.

    References
    ----------
    Athalye, Carlini & Wagner 2018, "Obfuscated Gradients Give a False Sense of Security"
    (identifying masked gradients); Carlini et al. 2019, "On Evaluating Adversarial Robustness".
    """
    threats.check_norm(norm)
    eps = threats.check_eps(eps)
    if eps == 0:
        raise ThreatError("eps is 0; a budget > 0 is expected, the one robustness is claimed for.")
    x = check_pictures(x)
    y = check_labels(y, x)
    check_device(model, x)
    generator = generator or torch.Generator(x.device).manual_seed(0)
    if len(x) == 0:
        return _nothing("there are no pictures")
    random, outputs, right = _answers(model, x[: 4 * PICTURES], y[: 4 * PICTURES])
    chosen = right.nonzero().squeeze(1)[:PICTURES]
    if len(chosen) < _FEWEST:
        return _nothing(
            f"the model reads {len(chosen)} of {len(right)} pictures correctly and "
            f"{_FEWEST} are needed",
            random,
            outputs,
        )
    case = _Case(model, x[chosen], y[chosen], eps, norm, reject, generator)
    findings = [random, outputs, *_derivatives(case)]
    try:
        findings += _attacks(case, surrogate)
    except ModelOutputError as error:  # gradients that are not finite stop an attack
        findings += [Symptom(name, None, str(error)) for name in SYMPTOMS[4:]]
    return Symptoms(tuple(findings))


def _nothing(why: str, *made: Symptom) -> Symptoms:
    rest = (Symptom(name, None, why) for name in SYMPTOMS[len(made) :])
    return Symptoms((*made, *rest))


@dataclass(frozen=True)
class _Case:
    """A model and the pictures, all read correctly, that it is examined on."""

    model: Model
    x: Tensor
    y: Tensor
    eps: float
    norm: str
    reject: int | None
    generator: torch.Generator

    @property
    def other_loss(self) -> Loss:
        """What the attacker wants, without a softmax."""
        return margin if self.reject is None else undetected(self.reject)

    def fooled(self, x_adv: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """Whether each answer is wrong and no refusal: booleans, one for each of `rows`."""
        with undisturbed(self.model, x_adv.device), torch.no_grad():
            return self.other_loss(_wide(self.model(x_adv)), self.y[rows]) > 0

    def luck(self, share: float, least: int) -> int:
        """How many pictures must differ before a difference means something."""
        return max(least, int(share * len(self.x)) + 1)


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _answers(model: Model, x: Tensor, y: Tensor) -> tuple[Symptom, Symptom, Tensor]:
    """Findings "random" and "outputs", and which pictures are read correctly."""
    # Both calls in one context: it puts the global random state back at its end.
    with undisturbed(model, x.device), torch.no_grad():
        first = _wide(model(x.clone()))
        check_logits(first, x, y)
        second = _wide(model(x.clone()))
    size = first.std().clamp_min(1e-30)
    change = float((first - second).abs().max() / size)
    # Rounding may differ between two runs on a GPU; a random defence changes far more.
    moves = change > 1e-3
    random = Symptom(
        "random",
        moves,
        "two calls give different logits for the same pictures. One gradient is that of one draw: "
        "average over draws (advlib.adaptive.averaged)."
        if moves
        else "two calls give the same logits.",
    )
    sums = first.sum(1)
    probabilities = bool((first >= 0).all() and ((sums - 1).abs() < 1e-3).all())
    outputs = Symptom(
        "outputs",
        probabilities,
        "each row is >= 0 and sums to 1: these are probabilities. The loss applies a softmax of "
        "its own, and two of them flatten the gradient: return logits."
        if probabilities
        else "the rows are no probabilities.",
    )
    return random, outputs, first.argmax(1) == y


def _derivatives(case: _Case) -> tuple[Symptom, Symptom]:
    """Findings "gradient" and "slope"."""
    with undisturbed(case.model, case.x.device):
        x, y = case.x.clone(), case.y.clone()
        try:
            grad = value_and_gradient(case.model, x, y, cross_entropy).grad
            other = value_and_gradient(case.model, x, y, case.other_loss).grad
        except ModelOutputError as error:
            return Symptom("gradient", True, str(error)), Symptom("slope", None, "no gradient.")
        return _vanishing(grad), _slope(case, other)


def _vanishing(grad: Tensor) -> Symptom:
    flat = grad.flatten(1)
    gone = (flat == 0).all(1) | ~flat.isfinite().all(1)
    count, total = int(gone.sum()), len(gone)
    message = f"it is 0 or not finite for {count} of {total} pictures."
    if count > _VANISHED * total:
        message += (
            " Something rounds, cuts or saturates: pass the gradient straight through "
            "(advlib.adaptive.straight_through), or take a loss without softmax."
        )
    return Symptom("gradient", count > _VANISHED * total, message)


def _slope(case: _Case, grad: Tensor) -> Symptom:
    """Does the loss change in random directions as the gradient says?"""
    said, measured = [], []
    for _ in range(_DIRECTIONS):
        delta = threats.random_point(case.x, case.eps / 8, case.norm, case.generator)
        ends = ((case.x + delta).clamp(0, 1), (case.x - delta).clamp(0, 1))
        with torch.no_grad():
            up, down = (case.other_loss(_wide(case.model(end)), case.y) for end in ends)
        said.append((grad * (ends[0] - ends[1])).flatten(1).sum(1))
        measured.append(up - down)
    told, seen = torch.cat(said), torch.cat(measured)
    if not seen.abs().max() > 0:
        return Symptom("slope", None, "the loss does not change in random directions.")
    told, seen = told - told.mean(), seen - seen.mean()
    size = (told.norm() * seen.norm()).clamp_min(1e-30)
    agreement = float((told * seen).sum() / size) if told.isfinite().all() else 0.0
    message = f"gradient and measured change of the loss: correlation {agreement:.2f}."
    if agreement < _AGREEMENT:
        message += " The gradient does not say how the loss changes: trust no attack that uses it."
    return Symptom("slope", agreement < _AGREEMENT, message)


def _attacks(case: _Case, surrogate: Model | None) -> list[Symptom]:
    """Run the standard attack, and what should not do better than it."""
    total, luck = len(case.x), case.luck(0.05, 2)
    fooled = case.fooled(_pgd(case, cross_entropy))
    by_pgd = int(fooled.sum())
    by_fgsm = int(case.fooled(fgsm(case.model, case.x, case.y, case.eps, norm=case.norm)).sum())
    other = case.fooled(_pgd(case, case.other_loss))
    gain = int((other & ~fooled).sum())
    left = (~(fooled | other)).nonzero().squeeze(1)
    far = int(case.fooled(_pgd(case, cross_entropy, 4 * case.eps)).sum())
    across = threats.diameter(case.x, case.norm)
    end = _pgd(case, cross_entropy, across, steps=_FAR, random_start=False)
    kept = total - int(case.fooled(end).sum())
    return [
        Symptom(
            "one step",
            by_fgsm - by_pgd >= luck,
            f"FGSM fools {by_fgsm} of {total} pictures, PGD {by_pgd}.",
        ),
        Symptom(
            "loss",
            gain >= case.luck(0.12, 3),
            f"PGD without the softmax fools {gain} pictures that PGD with it does not.",
        ),
        *_leftover(case, left, luck),
        Symptom(
            "budget",
            by_pgd - far >= luck,
            f"with four times the budget PGD fools {far} of {total}, with the budget {by_pgd}.",
        ),
        Symptom(
            "unbounded",
            kept >= luck,
            f"PGD that may change everything leaves {kept} of {total} right.",
        ),
        _transfer(case, left, luck, surrogate),
    ]


def _pgd(
    case: _Case,
    loss: Loss,
    eps: float | None = None,
    *,
    steps: int = _STEPS,
    random_start: bool = True,
    of: Model | None = None,
) -> Tensor:
    return pgd(
        of or case.model,
        case.x,
        case.y,
        case.eps if eps is None else eps,
        norm=case.norm,
        steps=steps,
        random_start=random_start,
        loss=loss,
        generator=case.generator,
        # Leaving the true class for the refusal is no success, so it must not stop the attack.
        early_stop=case.reject is None,
    )


def _leftover(case: _Case, left: Tensor, luck: int) -> tuple[Symptom, Symptom]:
    """Findings "samples" and "search": without a gradient, on what PGD with either loss left."""
    if len(left) < luck:
        message = f"PGD left {len(left)} pictures right: too few to do better on."
        return Symptom("samples", False, message), Symptom("search", False, message)
    with undisturbed(case.model, case.x.device), torch.no_grad():
        found = int(_random_points(case, left).sum())
    samples = Symptom(
        "samples",
        found >= luck,
        f"random points fool {found} of the {len(left)} pictures that PGD left right.",
    )
    if case.x.ndim != 4 or case.reject is not None:
        why = "Square Attack wants pictures (n, c, h, w) and knows no refusal."
        return samples, Symptom("search", None, why)
    x_adv = square(
        case.model, case.x[left], case.y[left], case.eps, norm=case.norm, queries=_QUERIES,
        generator=case.generator,
    )  # fmt: skip
    found = int(case.fooled(x_adv, left).sum())
    return samples, Symptom(
        "search",
        found >= luck,
        f"{_QUERIES} queries of Square Attack fool {found} of the {len(left)} pictures that PGD "
        "left right.",
    )


def _random_points(case: _Case, rows: Tensor) -> Tensor:
    """Whether any of several random points, corners of the ball in l-infinity, fools the model."""
    x = case.x[rows]
    found = torch.zeros(len(rows), dtype=torch.bool, device=x.device)
    for _ in range(_SAMPLES):
        delta = threats.random_point(x, case.eps, case.norm, case.generator)
        if case.norm == "linf":  # its corners are farther away than most of it
            delta = case.eps * delta.sign()
        found |= case.fooled(threats.confine(x, delta, case.eps, case.norm), rows)
    return found


def _transfer(case: _Case, left: Tensor, luck: int, surrogate: Model | None) -> Symptom:
    if surrogate is None:
        return Symptom("transfer", None, "no surrogate was given.")
    x_adv = _pgd(case, margin, of=surrogate)
    found = int(case.fooled(x_adv[left], left).sum())
    return Symptom(
        "transfer",
        found >= luck,
        f"pictures made for the surrogate fool {found} of the {len(left)} that PGD left right.",
    )
