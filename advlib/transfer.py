r"""Attacks that travel: made with one network, shown to another, or made once for all pictures.

An attacker who cannot see a network attacks a stand-in, the *surrogate*, and hopes that what fools
the one fools the other, the *target*. How often that works is a share among pictures that both
read rightly before the attack: what the target misreads anyway has not travelled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advlib import threats
from advlib.contracts import (
    Model,
    check_device,
    check_labels,
    check_logits,
    check_pictures,
    check_step_size,
    check_steps,
)
from advlib.errors import InputError, ModelOutputError
from advlib.evaluation import Attack, Proportion, predict, wilson
from advlib.gradients import Loss, input_gradient, resolve_loss, undisturbed, value_and_gradient

Transform = Callable[[Tensor, torch.Generator], Tensor]
"""From pictures and a source of randomness to pictures; differentiable, for instance `resized`."""

Matrix = dict[str, dict[str, Proportion]]
"""``matrix[surrogate][target]``: the share of pictures on which the attack travelled."""


# -- measuring -------------------------------------------------------------------------------------


def transfer_matrix(
    models: Mapping[str, Model],
    x: Tensor,
    y: Tensor,
    attack: Attack,
    *,
    targets: Mapping[str, Model] | None = None,
    batch_size: int = 256,
) -> Matrix:
    """Make adversarial pictures with each model, and show them to every model.

    Parameters
    ----------
    models
        The surrogates by name: from pixels in [0, 1] to logits (n, classes).
    x
        Pictures, shape (n, c, h, w), floating point, pixels in [0, 1].
    y
        True classes, shape (n,), integer.
    attack
        Called as ``attack(surrogate, x, y)`` on each batch, as for `advlib.accuracy`.
    targets
        Who is shown the pictures; the surrogates themselves by default.
    batch_size
        How many pictures at a time, >= 1.

    Returns
    -------
    dict of dict of Proportion
        ``matrix[surrogate][target]``: among the pictures that surrogate and target both read
        rightly before the attack, the share that the target misreads after it.

    Raises
    ------
    InputError
        No surrogate or no target.
    PixelError, LabelError, DeviceError, ModelOutputError, ThreatError
        An argument, or what a model makes of it, cannot be used.

    References
    ----------
    Papernot, McDaniel & Goodfellow 2016, "Transferability in Machine Learning"; Liu et al. 2017,
    section 3.
    """
    targets = models if targets is None else targets
    if not models or not targets:
        raise InputError("transfer_matrix got no model; at least one surrogate and one target.")
    x = check_pictures(x)
    y = check_labels(y, x)
    batch_size = check_steps("batch_size", batch_size)
    everyone = {**targets, **models}
    right = {name: _reads(model, x, y, batch_size) for name, model in everyone.items()}
    matrix: Matrix = {}
    for surrogate, model in models.items():
        x_adv = _attacked(model, x, y, attack, batch_size)
        matrix[surrogate] = {
            name: _share(right[surrogate] & right[name], _reads(target, x_adv, y, batch_size))
            for name, target in targets.items()
        }
    return matrix


def transfer_rate(
    target: Model,
    x: Tensor,
    x_adv: Tensor,
    y: Tensor,
    *,
    surrogate: Model | None = None,
    batch_size: int = 256,
) -> Proportion:
    """Share of pictures that `target` reads rightly as `x` and misreads as `x_adv`.

    Parameters
    ----------
    target
        From pixels in [0, 1] to logits (n, classes).
    x, x_adv
        Pictures before and after the attack, both (n, c, h, w), pixels in [0, 1].
    y
        True classes, shape (n,), integer.
    surrogate
        Whose pictures these are: then only those count that it reads rightly, too.
    batch_size
        How many pictures at a time, >= 1.

    Returns
    -------
    Proportion
        Its `total` counts the pictures that were read rightly before.

    Raises
    ------
    InputError
        `x` and `x_adv` differ in shape.
    PixelError, LabelError, DeviceError, ModelOutputError, ThreatError
        An argument, or what a model makes of it, cannot be used.
    """
    x, x_adv = check_pictures(x), check_pictures(x_adv)
    y = check_labels(y, x)
    if x.shape != x_adv.shape:
        raise InputError(
            f"x has shape {tuple(x.shape)} and x_adv {tuple(x_adv.shape)}; the same pictures "
            "before and after the attack are expected."
        )
    before = _reads(target, x, y, batch_size)
    if surrogate is not None:
        before = before & _reads(surrogate, x, y, batch_size)
    return _share(before, _reads(target, x_adv, y, batch_size))


def alignment(first: Model, second: Model, x: Tensor, y: Tensor) -> Tensor:
    r"""Cosine of the angle between two models' input gradients, for each picture.

    .. math:: \cos\angle(\nabla_x \ell(f(x), y), \nabla_x \ell(g(x), y))

    Parameters
    ----------
    first, second
        From pixels in [0, 1] to logits (n, classes).
    x
        Pictures, shape (n, c, h, w), floating point, pixels in [0, 1].
    y
        Classes, shape (n,), integer.

    Returns
    -------
    Tensor
        Shape (n,), in [-1, 1]; 0 where a gradient vanishes. The loss is the margin, whose
        gradient does not fade on pictures that a model is sure of.

    Raises
    ------
    PixelError, LabelError, DeviceError, ModelOutputError
        An argument, or what a model makes of it, cannot be used.

    References
    ----------
    Demontis et al. 2019, "Why Do Adversarial Attacks Transfer?", section 3 (gradient alignment).
    """
    a, b = (input_gradient(model, x, y, loss="margin").grad.flatten(1) for model in (first, second))
    return F.cosine_similarity(a.double(), b.double(), dim=1, eps=1e-30).to(a.dtype)


# -- what raises transfer --------------------------------------------------------------------------


def ensemble(models: Sequence[Model], *, average: str = "logits") -> nn.Module:
    r"""Several models as one, to be attacked together.

    Parameters
    ----------
    models
        From pixels in [0, 1] to logits (n, classes), all with the same classes.
    average
        ``"logits"``: the mean of the logits (Dong et al. 2018, equation 9). ``"probabilities"``:
        the logarithm of the mean softmax, whose cross-entropy is the loss of Liu et al. 2017,

        .. math:: -\log \frac{1}{k} \sum_{i=1}^{k} \mathrm{softmax}(f_i(x))_y

    Returns
    -------
    nn.Module
        From pixels to logits (n, classes). It holds the given models, not copies.

    Raises
    ------
    InputError
        No model, or another `average`.
    ModelOutputError
        When it is called: the models do not agree about the number of classes.

    References
    ----------
    Liu, Chen, Liu & Song 2017, "Delving into Transferable Adversarial Examples and Black-box
    Attacks"; Dong et al. 2018, "Boosting Adversarial Attacks with Momentum".
    """
    if not models:
        raise InputError("ensemble got no model; a list of at least one is expected.")
    if average not in ("logits", "probabilities"):
        raise InputError(f'average is {average!r}; "logits" or "probabilities" is expected.')
    return _Ensemble(models, average)


class _Ensemble(nn.Module):
    def __init__(self, models: Sequence[Model], average: str) -> None:
        super().__init__()
        self.average = average
        self.everyone = list(models)
        # As submodules they are frozen, moved and put into eval mode together.
        self.members = nn.ModuleList(model for model in models if isinstance(model, nn.Module))

    def forward(self, x: Tensor) -> Tensor:
        said = [model(x) for model in self.everyone]
        if len({logits.shape for logits in said}) > 1:
            raise ModelOutputError(
                f"the models return {[tuple(logits.shape) for logits in said]}; logits of the same "
                "classes are expected. An ensemble needs one set of classes."
            )
        together = torch.stack(said)
        if self.average == "logits":
            return together.mean(0)
        return together.log_softmax(2).logsumexp(0) - math.log(len(said))


def momentum(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float = 8 / 255,
    *,
    steps: int = 10,
    step_size: float | None = None,
    decay: float = 1.0,
    targeted: bool = False,
    loss: str | Loss = "ce",
    transform: Transform | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Iterated FGSM with momentum, in the L-infinity ball: steadier steps travel further.

    .. math:: g^{t+1} = \mu g^t + \frac{\nabla_x \ell}{\|\nabla_x \ell\|_1}, \qquad
              x^{t+1} = \Pi\left(x^t + \alpha\, \mathrm{sign}(g^{t+1})\right)

    It begins at `x` and returns the last point, whether or not `model` is fooled: what counts is
    what another model reads.

    Parameters
    ----------
    model
        The surrogate: from pixels in [0, 1] to logits (n, classes).
    x
        Pictures, shape (n, c, h, w), floating point, pixels in [0, 1].
    y
        Classes, shape (n,), integer: the true ones, or the targets if `targeted`.
    eps
        Budget in the L-infinity norm, in units of pixels.
    steps
        Gradient steps, >= 1.
    step_size
        In units of pixels; ``eps / steps`` by default.
    decay
        :math:`\mu`, >= 0; 0 is the iterated FGSM of Kurakin et al. 2017.
    targeted
        False: leave class `y`. True: reach it.
    loss
        As for `advlib.pgd`.
    transform
        Applied to the pictures before each gradient: with `resized`, the input diversity of Xie
        et al. 2019.
    generator
        For `transform`. None: a new one with seed 0.

    Returns
    -------
    Tensor
        Adversarial pictures, shape, dtype and device of `x`.

    Raises
    ------
    InputError
        A `decay` that is not a number >= 0.
    PixelError, LabelError, DeviceError, ThreatError, ModelOutputError
        An argument, or what the model makes of it, cannot be used; nothing was changed.

    References
    ----------
    Dong et al. 2018, algorithm 1; Xie et al. 2019, "Improving Transferability of Adversarial
    Examples with Input Diversity".
    """
    eps, steps, loss = threats.check_eps(eps), check_steps("steps", steps), resolve_loss(loss)
    if isinstance(decay, bool) or not 0 <= decay < math.inf:
        raise InputError(f"decay is {decay!r}; a finite number >= 0 is expected.")
    x = check_pictures(x)
    y = check_labels(y, x)
    check_device(model, x)
    if len(x) == 0 or eps == 0:
        return x.clone()
    step_size = eps / steps if step_size is None else check_step_size(step_size)
    generator = generator or torch.Generator(x.device).manual_seed(0)

    def seen(pictures: Tensor) -> Tensor:
        return model(pictures if transform is None else transform(pictures, generator))

    with undisturbed(model, x.device):
        x, y = x.clone(), y.clone()
        low, high = threats.bounds(x, eps)
        x_adv, direction = x.clone(), torch.zeros_like(x)
        for step in range(steps):
            grad = value_and_gradient(seen, x_adv, y, loss, check=step == 0).grad
            size = grad.abs().flatten(1).sum(1).clamp_min(torch.finfo(grad.dtype).tiny)
            direction = decay * direction + grad / threats.per_picture(size, grad)
            move = -direction.sign() if targeted else direction.sign()
            x_adv = torch.clamp(x_adv + step_size * move, low, high)
        return x_adv


def resized(x: Tensor, generator: torch.Generator, *, smallest: float = 0.85) -> Tensor:
    """Shrink the pictures by chance and put them at a random place on grey: other eyes.

    Parameters
    ----------
    x
        Pictures, shape (n, c, h, w), pixels in [0, 1].
    generator
        Decides the size, the place, and that one call in two leaves `x` as it is.
    smallest
        Smallest size as a part of the picture's, in (0, 1].

    Returns
    -------
    Tensor
        Shape of `x`, in [0, 1]; gradients flow through it.

    References
    ----------
    Xie et al. 2019, section 3.3 (there the picture is enlarged first; here it keeps its size).
    """
    height, width = x.shape[2:]
    keep, part, down, right = torch.rand(
        4, generator=generator, device=generator.device, dtype=torch.float64
    ).tolist()
    if keep < 0.5:
        return x
    scale = smallest + (1 - smallest) * part
    size = (max(1, round(scale * height)), max(1, round(scale * width)))
    small = F.interpolate(x, size=size, mode="bilinear", antialias=True, align_corners=False)
    top, left = int(down * (height - size[0] + 1)), int(right * (width - size[1] + 1))
    edges = (left, width - size[1] - left, top, height - size[0] - top)
    return F.pad(small, edges, value=0.5)


# -- one perturbation for all pictures -------------------------------------------------------------


def universal(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float = 8 / 255,
    *,
    norm: str = "linf",
    epochs: int = 5,
    batch_size: int = 64,
    step_size: float | None = None,
    cap: float = 5.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""One perturbation that is to fool a model on every picture, unseen ones included.

    .. math:: \max_{\|\delta\| \le \epsilon} \; \frac{1}{n} \sum_{i=1}^{n}
              \min\{\ell(f(x_i + \delta), y_i), \beta\}

    by ascent over batches, in the direction that is steepest for the norm, with steps that shrink
    to nothing. The cap :math:`\beta` keeps pictures that are fooled already from drowning the rest.

    Parameters
    ----------
    model
        From pixels in [0, 1] to logits (n, classes).
    x
        Pictures to make it with, shape (n, c, h, w), pixels in [0, 1]; n >= 1.
    y
        Their true classes, shape (n,), integer.
    eps
        Budget in `norm`, in units of pixels.
    norm
        ``"linf"`` or ``"l2"`` (or ``"l1"``).
    epochs, batch_size
        Passes over the pictures, and pictures a step.
    step_size
        Length of the first step in `norm`; ``eps / 4`` by default.
    cap
        :math:`\beta`, the largest cross-entropy of one picture that counts, in nats.
    generator
        Order of the pictures. None: a new one with seed 0.

    Returns
    -------
    Tensor
        `delta`, shape (1, c, h, w), with ``norm(delta) <= eps``. Lay it on pictures with
        ``threats.confine(x, delta.expand_as(x), eps, norm)``, which keeps pixels in [0, 1].

    Raises
    ------
    InputError
        No picture, or a `cap` that is not a number > 0.
    PixelError, LabelError, DeviceError, ThreatError, ModelOutputError
        An argument, or what the model makes of it, cannot be used; nothing was changed.

    References
    ----------
    Moosavi-Dezfooli, Fawzi, Fawzi & Frossard 2017, "Universal Adversarial Perturbations"; Shafahi
    et al. 2020, "Universal Adversarial Training" (the ascent, and the clipped loss).
    """
    threats.check_norm(norm)
    eps, epochs = threats.check_eps(eps), check_steps("epochs", epochs)
    batch_size = check_steps("batch_size", batch_size)
    x = check_pictures(x)
    y = check_labels(y, x)
    check_device(model, x)
    if len(x) == 0:
        raise InputError("universal got no picture; at least one is needed to learn from.")
    if isinstance(cap, bool) or not 0 < cap < math.inf:
        raise InputError(f"cap is {cap!r}; a finite number > 0 is expected.")
    step_size = eps / 4 if step_size is None else check_step_size(step_size)
    generator = generator or torch.Generator().manual_seed(0)
    rows = [part for _ in range(epochs) for part in _order(len(x), generator).split(batch_size)]
    delta = torch.zeros_like(x[:1])
    if eps == 0:
        return delta
    with undisturbed(model, x.device):
        for done, part in enumerate(rows):
            part = part.to(x.device)
            grad = _shared_gradient(model, x[part], y[part], delta, cap, check=done == 0)
            now = step_size * (1 - done / len(rows))
            step = threats.steepest(grad, now, norm)
            delta = _inside(delta + step, eps, norm)
    return delta


def _shared_gradient(
    model: Model, x: Tensor, y: Tensor, delta: Tensor, cap: float, *, check: bool
) -> Tensor:
    """Gradient of the mean capped loss with respect to the one `delta`: (1, c, h, w)."""

    def capped(logits: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(logits, y, reduction="none").clamp(max=cap)

    moved = x + delta
    shown = moved.clamp(0, 1)
    grad = value_and_gradient(model, shown, y, capped, check=check).grad
    return (grad * (shown == moved)).mean(0, keepdim=True)  # a clamped pixel moves no further


def _inside(delta: Tensor, eps: float, norm: str) -> Tensor:
    """`delta` back in its ball, in its own dtype to the last bit."""
    delta = threats.project(delta, eps, norm)
    while (threats.norm(delta, norm) > eps).any():
        delta = delta * (1 - 2 * torch.finfo(delta.dtype).eps)
    return delta


def _order(n: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(n, generator=generator, device=generator.device)


# -- counting --------------------------------------------------------------------------------------


def _reads(model: Model, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    """Whether each picture is read rightly: (n,), boolean."""
    if len(x) == 0:
        return torch.zeros(0, dtype=torch.bool, device=x.device)
    logits = predict(model, x, batch_size=batch_size)
    check_logits(logits, x, y)
    return logits.argmax(1) == y


def _attacked(model: Model, x: Tensor, y: Tensor, attack: Attack, batch_size: int) -> Tensor:
    if len(x) == 0:
        return x.clone()
    parts = zip(x.split(batch_size), y.split(batch_size), strict=True)
    return torch.cat([attack(model, part, labels) for part, labels in parts])


def _share(before: Tensor, after: Tensor) -> Proportion:
    """Of the pictures read rightly before, those misread after."""
    return wilson(int((before & ~after).sum()), int(before.sum()))
