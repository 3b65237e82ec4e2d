r"""Training, with the attack and the objective as arguments.

Standard training minimises the average loss on the images as they are; adversarial training
(Madry et al. 2018) minimises it on what an attacker makes of them:

.. math:: \min_\theta \; \mathbb{E}_{(x, y)} \max_{\|\delta\| \le \epsilon}
          \ell(f_\theta(x + \delta), y)

The inner maximum is the only difference, so here it is one argument, `perturb`. What is minimised
is another, `objective`: `standard`, or one of `advlib.defences.losses`.
"""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advlib.contracts import progress_bar
from advlib.errors import InputError, LabelError

Objective = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]
"""``objective(model, x, y) -> logits, loss``: shapes (n, classes) and (), with their graph."""

Perturb = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""``perturb(model, x, y) -> x_adv``, for instance ``lambda m, x, y: pgd(m, x, y, 4 / 255)``."""

Augment = Callable[[Tensor, torch.Generator], Tensor]
"""``augment(x, generator) -> x``, applied to each batch before `perturb`."""

OnEpoch = Callable[[int, "Epoch"], None]
"""``on_epoch(index, epoch)``, called after each pass, to print or to draw."""


def standard(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """The standard objective: cross-entropy, averaged over the batch."""
    logits = model(x)
    return logits, F.cross_entropy(logits, y)


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
    objective: Objective = standard,
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
    model, x, y
        As for `advlib.fgsm`; each batch is moved to where the parameters of `model` are.
    perturb, augment, on_epoch
        See `Perturb`, `Augment` and `OnEpoch`. None: the images as they are, and no call.
    objective
        What is minimised on the batch as `perturb` left it, with the model in train mode; see
        `Objective`. For instance ``partial(trades, eps=4 / 255)``.
    epochs, batch_size
        Passes over the data, and images a step. What does not fill a batch is left out.
    lr, momentum, weight_decay, warmup
        Highest learning rate, momentum, the factor of the weights in the gradient, and the part of
        all steps, in [0, 1), during which the learning rate rises.
    average
        Decay, in (0, 1), of an exponential moving average of the weights, which `model` holds in
        the end. None keeps the last weights.
    seed
        Decides the order of the images and what `augment` draws.
    progress
        A bar on stderr. None shows it in a terminal only, so that stored outputs stay clean.

    Returns
    -------
    list of Epoch
        Mean loss and accuracy of each epoch, on the images trained on (perturbed ones, if so).

    References
    ----------
    Madry et al. 2018; Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima".
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
    show = sys.stderr.isatty() if progress is None else progress
    for step, rows in enumerate(progress_bar(batches, show=show, unit="step", total=steps)):
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
    correct = (logits.detach().argmax(1) == y).float().mean()
    return torch.stack([loss.detach(), correct])


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


def _check(
    x: Tensor, y: Tensor, epochs: int, batch_size: int, warmup: float, average: float | None
) -> None:
    if y.shape != x.shape[:1]:
        raise LabelError(
            f"`y` must hold one class for each of the {len(x)} images; got {tuple(y.shape)}."
        )
    if epochs < 1 or not 1 <= batch_size <= len(x):
        raise InputError(
            f"train needs at least one epoch and one full batch; got epochs={epochs}, "
            f"batch_size={batch_size} and {len(x)} images. Lower `batch_size` or add images."
        )
    if not 0 <= warmup < 1:
        raise InputError(f"`warmup` is a part of all steps, in [0, 1); got {warmup}.")
    if average is not None and not 0 < average < 1:
        raise InputError(f"`average` is a decay in (0, 1), or None; got {average}.")
