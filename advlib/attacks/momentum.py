r"""Attacks that transfer: iterated FGSM with momentum, and two helpers that any attack can use.

An attack made with one network, the *surrogate*, may also fool another, the *target*. Momentum
steadies the steps, `resized` shows the surrogate every image in random sizes, and `ensemble` makes
one surrogate of several. `advlib.audit.transfer` measures how often it works.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advlib.contracts import Model, check_batch, check_eps, check_step_size, check_steps
from advlib.errors import InputError, ModelOutputError
from advlib.gradients import Loss, look, resolve_loss, undisturbed
from advlib.threats import Ball, per_image

Transform = Callable[[Tensor, torch.Generator], Tensor]
"""From images and a random generator to images; differentiable, for instance `resized`."""


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
    r"""Iterated FGSM with momentum, in the L-infinity ball.

    .. math:: g^{t+1} = \mu g^t + \frac{\nabla_x \ell}{\|\nabla_x \ell\|_1}, \qquad
              x^{t+1} = \Pi\left(x^t + \alpha\, \mathrm{sign}(g^{t+1})\right)

    It starts at `x` and returns the last point, whether or not `model` is fooled: what counts is
    whether another model is.

    Parameters
    ----------
    model
        The surrogate.
    x, y, eps, targeted, loss
        As for `advlib.pgd`, with `eps` in the L-infinity norm.
    steps
        Gradient steps, >= 1.
    step_size
        In units of pixels; ``eps / steps`` by default.
    decay
        :math:`\mu`, >= 0; 0 is the iterated FGSM of Kurakin et al. 2017.
    transform
        Applied to the images before each gradient: with `resized`, the input diversity of Xie
        et al. 2019.
    generator
        For `transform`. None: a new one with seed 0.

    Returns
    -------
    Tensor
        Adversarial images, shape, dtype and device of `x`.

    Raises
    ------
    InputError
        `decay` is not a number >= 0. Otherwise as for `advlib.pgd`.

    References
    ----------
    Dong et al. 2018, algorithm 1; Xie et al. 2019, "Improving Transferability of Adversarial
    Examples with Input Diversity".
    """
    eps, steps, loss = check_eps(eps), check_steps("steps", steps), resolve_loss(loss)
    if isinstance(decay, bool) or not 0 <= decay < math.inf:
        raise InputError(f"decay is {decay!r}; a finite number >= 0 is expected.")
    x, y = check_batch(model, x, y)
    step_size = eps / steps if step_size is None else check_step_size(step_size)
    generator = generator or torch.Generator(x.device).manual_seed(0)

    def transformed(images: Tensor) -> Tensor:
        return model(images if transform is None else transform(images, generator))

    with undisturbed(model, x.device):
        ball, y = Ball(x.clone(), eps), y.clone()
        if len(x) == 0 or eps == 0:
            return ball.x
        x_adv, direction = ball.x, torch.zeros_like(x)
        for step in range(steps):
            grad = look(transformed, x_adv, y, loss, check=step == 0).grad
            size = grad.abs().flatten(1).sum(1).clamp_min(torch.finfo(grad.dtype).tiny)
            direction = decay * direction + grad / per_image(size, grad)
            x_adv = ball.step(x_adv, -direction if targeted else direction, step_size)
        return ball.settle(x_adv)


def resized(x: Tensor, generator: torch.Generator, *, smallest: float = 0.85) -> Tensor:
    """Shrink the images at random and put them at a random place on grey, every second time.

    Parameters
    ----------
    x
        Images, shape (n, c, h, w), pixels in [0, 1].
    generator
        Decides the size, the place, and that one call in two leaves `x` as it is.
    smallest
        Smallest size as a part of the image's, in (0, 1].

    Returns
    -------
    Tensor
        Shape of `x`, in [0, 1]; gradients flow through it.

    References
    ----------
    Xie et al. 2019, section 3.3 (there the image is enlarged first; here it keeps its size).
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
        From pixels to logits (n, classes). It holds the given models, not copies, and raises
        `ModelOutputError` if they do not agree about the number of classes.

    Raises
    ------
    InputError
        No model, or another `average`.

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
        self.average, self.models = average, list(models)
        # As submodules they are frozen, moved and put into eval mode together.
        self.members = nn.ModuleList(model for model in models if isinstance(model, nn.Module))

    def forward(self, x: Tensor) -> Tensor:
        logits = [model(x) for model in self.models]
        if len({each.shape for each in logits}) > 1:
            raise ModelOutputError(
                f"the models return {[tuple(each.shape) for each in logits]}; logits of the same "
                "classes are expected. An ensemble needs one set of classes."
            )
        together = torch.stack(logits)
        if self.average == "logits":
            return together.mean(0)
        return together.log_softmax(2).logsumexp(0) - math.log(len(logits))
