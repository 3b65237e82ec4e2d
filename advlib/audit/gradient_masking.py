r"""Does a network withstand attacks, or does it only hide its gradient?

An attack that fails says little: the network may be robust, or the attack may not see where to go.
Gradient masking leaves traces, because something that needs no gradient, or another gradient, does
better than the attack that failed. `masking_symptoms` looks for these traces: the checklists of
Athalye, Carlini & Wagner 2018 and of Carlini et al. 2019, as code.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advlib import threats
from advlib.attacks.adaptive import undetected
from advlib.attacks.fgsm import fgsm
from advlib.attacks.pgd import pgd
from advlib.attacks.square import square
from advlib.audit.attack_checks import hanging
from advlib.contracts import Model, are_probabilities, check_batch, check_eps, check_logits
from advlib.errors import ModelOutputError, ThreatError
from advlib.gradients import Loss, cross_entropy, look, margin, undisturbed

_WITHOUT_ATTACK = ("random", "outputs", "gradient", "slope")
_BY_ATTACK = ("one step", "loss", "samples", "search", "budget", "unbounded", "transfer")
SYMPTOMS = _WITHOUT_ATTACK + _BY_ATTACK
"""Names of the symptoms, in the order of the report."""

MOST_IMAGES = 64
"""At most so many images are used: the first that the model classifies correctly."""

_FEWEST_IMAGES = 8  # with fewer nothing is concluded
_STEPS = 10  # of every bounded attack
_UNBOUNDED_STEPS = 20
_DIRECTIONS = 8  # in which the slope is measured
_POINTS = 16  # drawn at random for each image
_QUERIES = 100  # of Square Attack, per image
_VANISHED_SHARE = 0.1  # of images with a gradient of 0; more call for an explanation
_CORRELATION = 0.5  # of gradient and measured slope; honest networks lie above 0.9


@dataclass(frozen=True)
class Symptom:
    """What one question of the checklist found.

    Attributes
    ----------
    name
        One of `SYMPTOMS`.
    suspicious
        Whether it suggests a hidden gradient; None where it could not be examined.
    message
        What was measured, and for a suspicion what to do about it.
    """

    name: str
    suspicious: bool | None
    message: str


@dataclass(frozen=True, repr=False)
class Symptoms:
    """What `masking_symptoms` found; it prints itself as a table.

    Attributes
    ----------
    symptoms
        One for each of `SYMPTOMS`.
    """

    symptoms: tuple[Symptom, ...]

    @property
    def suspicious(self) -> bool:
        """Whether any symptom suggests a hidden gradient."""
        return any(symptom.suspicious for symptom in self.symptoms)

    @property
    def found(self) -> tuple[str, ...]:
        """Names of the symptoms that suggest a hidden gradient."""
        return tuple(symptom.name for symptom in self.symptoms if symptom.suspicious)

    def __repr__(self) -> str:
        examined = sum(symptom.suspicious is not None for symptom in self.symptoms)
        lines = [f"gradient masking: {len(self.found)} of {examined} symptoms found"]
        for symptom in self.symptoms:
            word = {True: "FOUND", False: "no", None: "not run"}[symptom.suspicious]
            lines.append(hanging(f"{word:<8}{symptom.name:<10}", symptom.message, width=76))
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
    Symptom       Suspicious if
    ============  ============================================================================
    random        two calls give different logits for the same images
    outputs       the rows are probabilities already: softmax would be applied twice
    gradient      the gradient of the cross-entropy is exactly 0, or not finite, for more than a
                  tenth of the images
    slope         the gradient does not predict how the loss changes in random directions
                  (correlation below one half)
    one step      FGSM fools more images than PGD
    loss          PGD with the margin fools more than PGD with the cross-entropy
    samples       random points in the ball fool images that PGD does not
    search        Square Attack, which asks only for logits, fools images that PGD does not
    budget        PGD with four times the budget fools fewer
    unbounded     PGD that may change everything does not fool all
    transfer      images made for `surrogate` fool the model where PGD on it does not
    ============  ============================================================================

    "More" is more than 5 % of the images and at least 2 (for *loss*, where honest networks
    differ as well, 12 % and at least 3): smaller differences are random. A symptom is a reason to
    investigate, not a proof, and the absence of all symptoms proves nothing either.

    Parameters
    ----------
    model, y, norm
        As for `advlib.fgsm`; `y` are the true classes.
    x
        Images, shape (n, c, h, w) or (n, d), floating point, pixels in [0, 1]. The first
        `MOST_IMAGES` that the model classifies correctly are used.
    eps
        Budget that robustness is claimed for, in `norm`, in units of pixels, > 0.
    generator
        Source of randomness. None: a new one with seed 0.
    reject
        Number of the class that means "rejected", if the model has one: to be rejected is no
        success of the attacker. The second loss is then `advlib.attacks.adaptive.undetected`.
    surrogate
        Another network for the same images, for *transfer*; None leaves it out.

    Returns
    -------
    Symptoms
        ``suspicious``, ``found``, ``symptoms``; prints itself as a table.

    Raises
    ------
    PixelError, LabelError, DeviceError, ThreatError, ModelOutputError
        As for `advlib.fgsm`, and for an `eps` of 0.

    References
    ----------
    Athalye, Carlini & Wagner 2018, "Obfuscated Gradients Give a False Sense of Security"
    (identifying masked gradients); Carlini et al. 2019, "On Evaluating Adversarial Robustness".
    """
    threats.check_norm(norm)
    if (eps := check_eps(eps)) == 0:
        raise ThreatError("eps is 0; a budget > 0 is expected, the one robustness is claimed for.")
    x, y = check_batch(model, x, y)
    generator = generator or torch.Generator(x.device).manual_seed(0)
    if len(x) == 0:
        return _not_run("there are no images")
    random, outputs, correct = _outputs(model, x[: 4 * MOST_IMAGES], y[: 4 * MOST_IMAGES])
    rows = correct.nonzero().squeeze(1)[:MOST_IMAGES]
    if len(rows) < _FEWEST_IMAGES:
        words = f"the model classifies {len(rows)} of {len(correct)} images correctly"
        return _not_run(f"{words} and {_FEWEST_IMAGES} are needed", random, outputs)
    case = _Case(model, x[rows], y[rows], eps, norm, reject, generator)
    found = [random, outputs, *_derivatives(case)]
    try:
        found += _attacks(case, surrogate)
    except ModelOutputError as error:  # gradients that are not finite stop an attack
        return _not_run(str(error), *found)
    return Symptoms(tuple(found))


def _not_run(why: str, *found: Symptom) -> Symptoms:
    rest = (Symptom(name, None, why) for name in SYMPTOMS[len(found) :])
    return Symptoms((*found, *rest))


@dataclass(frozen=True)
class _Case:
    """A model and the images, all classified correctly, that it is examined on."""

    model: Model
    x: Tensor
    y: Tensor
    eps: float
    norm: str
    reject: int | None
    generator: torch.Generator

    @property
    def second_loss(self) -> Loss:
        """What the attacker wants, without a softmax."""
        return margin if self.reject is None else undetected(self.reject)

    def gain(self, x_adv: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """The second loss of each of the images `rows`, inside `undisturbed`."""
        y = self.y[rows]
        return look(self.model, x_adv, y, self.second_loss, gradient=False, check=False).loss

    def fooled(self, x_adv: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        """Whether each of the images `rows` fools the model and is not rejected."""
        with undisturbed(self.model, x_adv.device):
            return self.gain(x_adv, rows) > 0

    def count(self, x_adv: Tensor, rows: Tensor | slice = slice(None)) -> int:
        """How many images fool the model."""
        return int(self.fooled(x_adv, rows).sum())

    def attacked(
        self, loss: Loss, eps: float, model: Model | None = None, **options: Any
    ) -> Tensor:
        """Images made for `model`, by default the one that is examined."""
        # A rejected image is misclassified, but no success, so it must not stop the attack.
        options = {"steps": _STEPS, "early_stop": self.reject is None, **options}
        options |= {"norm": self.norm, "loss": loss, "generator": self.generator}
        return pgd(model or self.model, self.x, self.y, eps, **options)

    def threshold(self, share: float, least: int) -> int:
        """How many images must differ before a difference means something."""
        return max(least, int(share * len(self.x)) + 1)


def _outputs(model: Model, x: Tensor, y: Tensor) -> tuple[Symptom, Symptom, Tensor]:
    """Symptoms "random" and "outputs", and which images are classified correctly."""
    # Both calls in one context: it puts the global random state back at its end.
    with undisturbed(model, x.device), torch.no_grad():
        logits = model(x.clone())
        check_logits(logits, x, y)
        first, second = logits.float(), model(x.clone()).float()
    change = float((first - second).abs().max() / first.std().clamp_min(1e-30))
    # Rounding may differ between two runs on a GPU; a random defence changes far more.
    differ = change > 1e-3
    random = Symptom(
        "random",
        differ,
        "two calls give different logits for the same images. One gradient is that of one draw: "
        "average over draws (advlib.attacks.adaptive.averaged)."
        if differ
        else "two calls give the same logits.",
    )
    probabilities = are_probabilities(first)
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
    """Symptoms "gradient" and "slope"."""
    with undisturbed(case.model, case.x.device):
        x, y = case.x.clone(), case.y.clone()
        try:
            grad = look(case.model, x, y, cross_entropy).grad
            second_grad = look(case.model, x, y, case.second_loss).grad
        except ModelOutputError as error:
            return Symptom("gradient", True, str(error)), Symptom("slope", None, "no gradient.")
        return _vanishing(grad), _slope(case, second_grad)


def _vanishing(grad: Tensor) -> Symptom:
    flat = grad.flatten(1)
    vanished = int(((flat == 0).all(1) | ~flat.isfinite().all(1)).sum())
    suspicious = vanished > _VANISHED_SHARE * len(grad)
    message = f"it is 0 or not finite for {vanished} of {len(grad)} images."
    if suspicious:
        message += (
            " Something rounds, cuts or saturates: pass the gradient straight through "
            "(advlib.attacks.adaptive.straight_through), or take a loss without softmax."
        )
    return Symptom("gradient", suspicious, message)


def _slope(case: _Case, grad: Tensor) -> Symptom:
    """Does the loss change in random directions as the gradient predicts?"""
    predictions, changes = [], []
    for _ in range(_DIRECTIONS):
        delta = threats.random_point(case.x, case.eps / 8, case.norm, case.generator)
        up, down = (case.x + delta).clamp(0, 1), (case.x - delta).clamp(0, 1)
        predictions.append((grad * (up - down)).flatten(1).sum(1))
        changes.append(case.gain(up) - case.gain(down))
    predicted, measured = torch.cat(predictions), torch.cat(changes)
    if not measured.abs().max() > 0:
        return Symptom("slope", None, "the loss does not change in random directions.")
    predicted, measured = predicted - predicted.mean(), measured - measured.mean()
    size = (predicted.norm() * measured.norm()).clamp_min(1e-30)
    finite = bool(predicted.isfinite().all())
    correlation = float((predicted * measured).sum() / size) if finite else 0.0
    message = f"gradient and measured change of the loss: correlation {correlation:.2f}."
    if correlation < _CORRELATION:
        message += " The gradient does not predict the loss: trust no attack that uses it."
    return Symptom("slope", correlation < _CORRELATION, message)


def _attacks(case: _Case, surrogate: Model | None) -> list[Symptom]:
    """Run the standard attack, and what should not do better than it."""
    total, enough = len(case.x), case.threshold(0.05, 2)
    fooled = case.fooled(case.attacked(cross_entropy, case.eps))
    by_pgd = int(fooled.sum())
    by_fgsm = case.count(fgsm(case.model, case.x, case.y, case.eps, norm=case.norm))
    by_second_loss = case.fooled(case.attacked(case.second_loss, case.eps))
    more = int((by_second_loss & ~fooled).sum())
    robust = (~(fooled | by_second_loss)).nonzero().squeeze(1)
    everywhere = threats.check_norm(case.norm).diameter(case.x)
    far = case.count(case.attacked(cross_entropy, min(4 * case.eps, everywhere)))
    end = case.attacked(cross_entropy, everywhere, steps=_UNBOUNDED_STEPS, random_start=False)
    kept = total - case.count(end)
    one_step = f"FGSM fools {by_fgsm} of {total} images, PGD {by_pgd}."
    loss = f"PGD without the softmax fools {more} images that PGD with it does not."
    budget = f"with four times the budget PGD fools {far} of {total}, with the budget {by_pgd}."
    unbounded = f"PGD that may change everything does not fool {kept} of {total}."
    return [
        Symptom("one step", by_fgsm - by_pgd >= enough, one_step),
        Symptom("loss", more >= case.threshold(0.12, 3), loss),
        *_without_gradient(case, robust, enough),
        Symptom("budget", by_pgd - far >= enough, budget),
        Symptom("unbounded", kept >= enough, unbounded),
        _transfer(case, robust, enough, surrogate),
    ]


def _without_gradient(case: _Case, robust: Tensor, enough: int) -> tuple[Symptom, Symptom]:
    """Symptoms "samples" and "search", on the images that PGD with neither loss fooled."""
    if len(robust) < enough:
        message = f"PGD did not fool {len(robust)} images: too few to do better on."
        return Symptom("samples", False, message), Symptom("search", False, message)
    rest = f"of the {len(robust)} images that PGD did not fool."
    found = _fooled_at_random(case, robust)
    samples = Symptom("samples", found >= enough, f"random points fool {found} {rest}")
    if case.x.ndim != 4 or case.reject is not None:
        why = "Square Attack needs images (n, c, h, w) and a model that rejects none."
        return samples, Symptom("search", None, why)
    x_adv = square(
        case.model, case.x[robust], case.y[robust], case.eps, norm=case.norm, queries=_QUERIES,
        generator=case.generator,
    )  # fmt: skip
    found = case.count(x_adv, robust)
    message = f"{_QUERIES} queries of Square Attack fool {found} {rest}"
    return samples, Symptom("search", found >= enough, message)


def _fooled_at_random(case: _Case, rows: Tensor) -> int:
    """How many images have a random point that fools; in l-infinity a corner of the ball."""
    x = case.x[rows]
    found = torch.zeros(len(rows), dtype=torch.bool, device=x.device)
    for _ in range(_POINTS):
        delta = threats.random_point(x, case.eps, case.norm, case.generator)
        if case.norm == "linf":  # its corners are farther away than most of it
            delta = case.eps * delta.sign()
        found |= case.fooled(threats.confine(x, delta, case.eps, case.norm), rows)
    return int(found.sum())


def _transfer(case: _Case, robust: Tensor, enough: int, surrogate: Model | None) -> Symptom:
    if surrogate is None:
        return Symptom("transfer", None, "no surrogate was given.")
    found = case.count(case.attacked(margin, case.eps, surrogate)[robust], robust)
    message = f"images made for the surrogate fool {found} of the {len(robust)} that PGD did not."
    return Symptom("transfer", found >= enough, message)
