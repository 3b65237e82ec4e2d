r"""Training, with the attack and the objective as arguments.

Standard training minimises the average loss on the pictures as they are; adversarial training
(Madry et al. 2018) minimises it on what an attacker makes of them:

.. math:: \min_\theta \; \mathbb{E}_{(x, y)} \max_{\|\delta\| \le \epsilon}
          \ell(f_\theta(x + \delta), y)

The inner maximum is the only difference, so here it is one argument, `perturb`. What is minimised
is another, `objective`: the cross-entropy, or one of `advlib.objectives`.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from advlib import threats
from advlib.attacks import noise, pgd
from advlib.contracts import Model, check_pictures, check_steps
from advlib.errors import InputError, LabelError
from advlib.gradients import input_gradient
from advlib.objectives import Objective, cross_entropy

Perturb = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""``perturb(model, x, y) -> x_adv``, for instance ``lambda m, x, y: pgd(m, x, y, 4 / 255)``."""

Augment = Callable[[Tensor, torch.Generator], Tensor]
"""``augment(x, generator) -> x``, applied to each batch before `perturb`."""

OnEpoch = Callable[[int, "Epoch"], None]
"""Called as ``on_epoch(index, epoch)`` after each pass, to print or to draw."""


class Epoch(NamedTuple):
    """What one pass over the training set measured, on the batches as they were trained on."""

    loss: float
    accuracy: float


def train(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    perturb: Perturb | None = None,
    objective: Objective = cross_entropy,
    epochs: int = 10,
    batch_size: int = 64,
    lr: float = 0.2,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    warmup: float = 0.2,
    augment: Augment | None = None,
    average: float | None = None,
    seed: int = 0,
    progress: bool | None = None,
    on_epoch: OnEpoch | None = None,
) -> list[Epoch]:
    r"""Train `model` in place by stochastic gradient descent with Nesterov momentum.

    The learning rate rises linearly to `lr` and falls to zero along a cosine. The same seed gives
    the same weights on the same machine with the same number of threads; global random state is
    left alone. The model comes back in the mode in which it was given.

    Parameters
    ----------
    model : nn.Module
        Pixels in [0, 1] to logits. Trained where its parameters are.
    x : Tensor (n, c, h, w)
        Pictures in [0, 1]; each batch is moved to the model's device.
    y : Tensor (n,)
        True classes, int64.
    perturb : callable, optional
        ``perturb(model, x, y) -> x_adv``. None trains on the pictures as they are.
    objective : callable
        ``objective(model, x, y) -> logits, loss`` on the batch as `perturb` left it, with the
        model in train mode; for instance ``partial(label_smoothing, share=0.1)``.
    epochs, batch_size : int
        Passes over the data, and pictures a step. What does not fill a batch is left out.
    lr, momentum, weight_decay : float
        Highest learning rate, momentum, and the factor of the weights in the gradient.
    warmup : float
        Part of all steps, in [0, 1), during which the learning rate rises.
    augment : callable, optional
        ``augment(x, generator) -> x``, before the perturbation.
    average : float, optional
        Decay, in (0, 1), of an exponential moving average of the weights, which `model` holds in
        the end. None keeps the last weights.
    seed : int
        Decides the order of the pictures and what `augment` draws.
    progress : bool, optional
        A bar on stderr. None shows it in a terminal only, so that stored outputs stay clean.
    on_epoch : callable, optional
        Called after each epoch with its index and what it measured.

    Returns
    -------
    list of Epoch
        Mean loss and accuracy of each epoch, on the pictures trained on (perturbed ones, if so).

    Raises
    ------
    InputError
        Fewer pictures than a batch, a setting out of its range, a frozen model, or an objective
        whose loss is not one number.
    LabelError
        Not one label for each picture.

    References
    ----------
    Madry et al. (2018), Towards Deep Learning Models Resistant to Adversarial Attacks, ICLR.
    Izmailov et al. (2018), Averaging Weights Leads to Wider Optima, UAI (the weight average).
    """
    _check(x, y, epochs, batch_size, warmup, average)
    if not any(p.requires_grad for p in model.parameters()):
        raise InputError("The model is frozen. Call model.requires_grad_(True) before training it.")
    was_training = model.training
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=True
    )
    steps = epochs * (len(x) // batch_size)
    averaged = copy.deepcopy(model) if average is not None else None
    history: list[Epoch] = []
    seen: list[Tensor] = []
    batches = _batches(len(x), epochs, batch_size, generator)
    for step, rows in enumerate(_with_bar(batches, steps, progress)):
        batch, labels = x[rows].to(device), y[rows].to(device)
        batch = batch if augment is None else augment(batch, generator)
        batch = batch if perturb is None else perturb(model, batch, labels)
        for group in optimizer.param_groups:
            group["lr"] = lr * schedule(step / steps, warmup)
        seen.append(_step(model, optimizer, batch, labels, objective))
        if averaged is not None and average is not None:
            _blend(averaged, model, min(average, (step + 1) / (step + 10)))
        if len(seen) == steps // epochs:
            history.append(Epoch(*torch.stack(seen).mean(0).tolist()))
            seen.clear()
            if on_epoch is not None:
                on_epoch(len(history) - 1, history[-1])
    if averaged is not None:
        model.load_state_dict(averaged.state_dict())
    model.train(was_training)
    return history


def fast_fgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float,
    *,
    start: float = 1.0,
    step: float = 1.25,
    project: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""One step from a random point of the ball: adversarial training at the price of two passes.

    .. math:: x_{adv} = \Pi\left(x + \eta + \alpha\,
              \mathrm{sign}\, \nabla_x\, \ell(f(x + \eta), y)\right), \qquad
              \eta \sim \mathrm{uniform}[-k\epsilon, k\epsilon]

    For training, not for judging: a single step says little about what an attacker can do.

    Parameters
    ----------
    model, x, y
        As for `advlib.fgsm`.
    eps : float
        Budget in the L-infinity norm, in units of pixels.
    start, step : float
        Reach :math:`k` of the random start and length :math:`\alpha` of the step, both in units of
        `eps`. Wong et al. take 1 and 1.25, de Jorge et al. 2 and 1.
    project : bool
        True: back into the ball (Wong et al.). False: only into [0, 1] (de Jorge et al.), so that
        the result may lie up to ``(start + step) * eps`` away.
    generator : torch.Generator, optional
        For the start; training passes one that goes on. None starts at the same place each time.

    Returns
    -------
    Tensor (n, c, h, w)
        The pictures to train on, in [0, 1].

    Raises
    ------
    InputError
        A negative `start` or `step`.
    PixelError, LabelError, DeviceError, ThreatError, ModelOutputError
        As for `advlib.fgsm`.

    References
    ----------
    Wong, Rice & Kolter (2020), Fast is Better than Free: Revisiting Adversarial Training, ICLR,
    algorithm 3. de Jorge et al. (2022), Make Some Noise: Reliable and Efficient Single-Step
    Adversarial Training, NeurIPS (the noise that reaches beyond the ball, and no projection).
    """
    if not (start >= 0 and step >= 0):
        raise InputError(f"`start` and `step` are lengths, 0 or more; got {start} and {step}.")
    eps = threats.check_eps(eps)
    x = check_pictures(x)
    begin = noise(x, start * eps, generator=generator)
    delta = begin - x + step * eps * input_gradient(model, begin, y).grad.sign()
    return threats.confine(x, delta, eps if project else (start + step) * eps, "linf")


def relabelled(
    model: nn.Module,
    x: Tensor,
    eps: float,
    *,
    classes: int,
    norm: str = "l2",
    steps: int = 10,
    control: bool = False,
    seed: int = 0,
    batch_size: int = 256,
) -> tuple[Tensor, Tensor]:
    r"""Pictures steered to classes drawn by lot, with those classes as their labels.

    Each label is drawn uniformly from all classes, whatever the picture shows, so what the eye
    sees says nothing about it. Only the perturbation does:

    .. math:: x_{adv} = \arg\min_{\|x' - x\| \le \epsilon} \ell(f(x'), t), \qquad
              t \sim \mathrm{uniform}\{0, \ldots, k - 1\}

    Parameters
    ----------
    model : nn.Module
        The network whose features are to be taken.
    x : Tensor (n, c, h, w)
        Pictures in [0, 1].
    eps : float
        Largest length of the perturbation in `norm`, in units of pixels.
    classes : int
        Number of classes k, >= 2.
    norm : str
        ``"linf"``, ``"l2"`` or ``"l1"``.
    steps : int
        Steps of targeted PGD.
    control : bool
        True: random noise of the same size in place of the attack, with the same labels.
    seed : int
        Decides the labels, the attack's start and the noise.
    batch_size : int
        Pictures attacked at a time, >= 1.

    Returns
    -------
    x_adv : Tensor (n, c, h, w)
        The pictures to train on, with ``norm(x_adv - x) <= eps``.
    target : Tensor (n,), int64
        Their labels, in 0..classes - 1.

    Raises
    ------
    InputError
        Fewer than two classes.
    PixelError, DeviceError, ThreatError, ModelOutputError
        As for `advlib.pgd`.

    References
    ----------
    Ilyas et al. (2019), Adversarial Examples Are Not Bugs, They Are Features, NeurIPS, section 3.2.
    """
    x = check_pictures(x)
    if classes < 2:
        raise InputError(f"`classes` is {classes}; at least two are needed to steer anywhere.")
    batch_size = check_steps("batch_size", batch_size)
    draws = torch.Generator().manual_seed(seed)
    target = torch.randint(0, classes, (len(x),), generator=draws).to(x.device)
    start = torch.Generator(x.device).manual_seed(seed)
    if control:
        return noise(x, eps, norm=norm, generator=start), target
    parts = [
        pgd(model, part, labels, eps, norm=norm, steps=steps, targeted=True, generator=start)
        for part, labels in zip(x.split(batch_size), target.split(batch_size), strict=True)
    ]
    return torch.cat(parts) if parts else x.clone(), target


def schedule(done: float, warmup: float = 0.2) -> float:
    """Part of the highest learning rate after the part `done` of all steps, both in [0, 1]."""
    if done < warmup:
        return 0.05 + 0.95 * done / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (done - warmup) / (1 - warmup))


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, objective: Objective
) -> Tensor:
    """One step of descent; the loss and accuracy that it started from, as a tensor of two."""
    model.train()
    optimizer.zero_grad(set_to_none=True)
    logits, loss = objective(model, x, y)
    if loss.ndim:
        raise InputError(
            f"The objective returned a loss of shape {tuple(loss.shape)}; training descends one "
            "number. Average it over the batch: return logits, loss.mean()."
        )
    loss.backward()
    optimizer.step()
    right = (logits.detach().argmax(1) == y).float().mean()
    return torch.stack([loss.detach(), right])


@torch.no_grad()
def _blend(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the average a little towards the model; the running statistics of batch norm too."""
    ours, theirs = averaged.state_dict(), model.state_dict()
    for name, value in ours.items():
        if value.is_floating_point():
            value.lerp_(theirs[name], 1 - decay)
        else:
            value.copy_(theirs[name])


def _batches(n: int, epochs: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Rows of each batch, in a new random order each epoch."""
    for _ in range(epochs):
        order = torch.randperm(n, generator=generator)
        for start in range(0, n - batch_size + 1, batch_size):
            yield order[start : start + batch_size]


def _with_bar(batches: Iterator, steps: int, progress: bool | None) -> Iterator:
    """The batches, with a progress bar if one is wanted and tqdm is there."""
    if progress is None:
        progress = sys.stderr.isatty()
    if not progress:
        return batches
    try:
        from tqdm import tqdm
    except ImportError:  # a convenience only
        return batches
    return iter(tqdm(batches, total=steps, unit="step", file=sys.stderr))


def _check(
    x: Tensor, y: Tensor, epochs: int, batch_size: int, warmup: float, average: float | None
) -> None:
    if y.shape != x.shape[:1]:
        raise LabelError(
            f"`y` must hold one class for each of the {len(x)} pictures; got {tuple(y.shape)}."
        )
    if epochs < 1 or not 1 <= batch_size <= len(x):
        raise InputError(
            f"train needs at least one epoch and one full batch; got epochs={epochs}, "
            f"batch_size={batch_size} and {len(x)} pictures. Lower `batch_size` or add pictures."
        )
    if not 0 <= warmup < 1:
        raise InputError(f"`warmup` is a part of all steps, in [0, 1); got {warmup}.")
    if average is not None and not 0 < average < 1:
        raise InputError(f"`average` is a decay in (0, 1), or None; got {average}.")
