r"""One perturbation for all images (Moosavi-Dezfooli et al. 2017)."""

import math

import torch
from torch import Tensor

from advlib import threats
from advlib.contracts import Model, check_batch, check_eps, check_step_size, check_steps
from advlib.errors import InputError
from advlib.gradients import cross_entropy, look, undisturbed


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
    r"""One perturbation to fool a model on every image, unseen ones included.

    .. math:: \max_{\|\delta\| \le \epsilon} \; \frac{1}{n} \sum_{i=1}^{n}
              \min\{\ell(f(x_i + \delta), y_i), \beta\}

    by ascent over batches, in the direction that is steepest for the norm, with steps that shrink
    to zero. The cap :math:`\beta` keeps images that are fooled already from outweighing the rest.

    Parameters
    ----------
    model, x, y, eps, norm
        As for `advlib.fgsm`; the images to make it with, at least one.
    epochs, batch_size
        Passes over the images, and images a step.
    step_size
        Length of the first step in `norm`; ``eps / 4`` by default.
    cap
        :math:`\beta`, the largest cross-entropy of one image that counts, in nats.
    generator
        Order of the images. None: a new one with seed 0.

    Returns
    -------
    Tensor
        `delta`, shape (1, c, h, w), with ``norm(delta) <= eps``. Add it to images with
        ``threats.confine(x, delta.expand_as(x), eps, norm)``, which keeps pixels in [0, 1].

    Raises
    ------
    InputError
        No image, or `cap` is not a number > 0. Otherwise as for `advlib.fgsm`.

    References
    ----------
    Moosavi-Dezfooli, Fawzi, Fawzi & Frossard 2017, "Universal Adversarial Perturbations"; Shafahi
    et al. 2020, "Universal Adversarial Training" (the ascent, and the clipped loss).
    """
    threats.check_norm(norm)
    eps, epochs = check_eps(eps), check_steps("epochs", epochs)
    batch_size = check_steps("batch_size", batch_size)
    x, y = check_batch(model, x, y)
    if len(x) == 0:
        raise InputError("universal got no image; at least one is needed to learn from.")
    if isinstance(cap, bool) or not 0 < cap < math.inf:
        raise InputError(f"cap is {cap!r}; a finite number > 0 is expected.")
    step_size = eps / 4 if step_size is None else check_step_size(step_size)
    generator = generator or torch.Generator().manual_seed(0)
    delta = torch.zeros_like(x[:1])
    if eps == 0:
        return delta

    def capped(logits: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(logits, y).clamp(max=cap)

    batches = []
    for _ in range(epochs):
        order = torch.randperm(len(x), generator=generator, device=generator.device)
        batches += order.to(x.device).split(batch_size)
    with undisturbed(model, x.device):
        for step, rows in enumerate(batches):
            moved = x[rows] + delta
            clamped = moved.clamp(0, 1)
            grad = look(model, clamped, y[rows], capped, check=step == 0).grad
            grad = (grad * (clamped == moved)).mean(0, keepdim=True)  # clamped pixels stay there
            size = step_size * (1 - step / len(batches))
            delta = threats.project(delta + threats.steepest(grad, size, norm), eps, norm)
            while (threats.norm(delta, norm) > eps).any():  # rounding, in the dtype of `x`
                delta = delta * (1 - 2 * torch.finfo(delta.dtype).eps)
    return delta
