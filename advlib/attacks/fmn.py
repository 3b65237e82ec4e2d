r"""How far is this image? The smallest budget that fools the model, image by image.

An attack with a budget answers yes or no. Fast minimum-norm (Pintor et al. 2021) asks how much was
needed: it steps along the gradient and, after each step, projects into a ball whose radius shrinks
while the image is fooled and grows while it is not. One run gives the smallest budget found for
every image, and with it robust accuracy at all budgets.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from advlib.contracts import Model, check_batch, check_steps, teaches_names, undisturbed
from advlib.evaluation import Proportion, wilson
from advlib.exact import add_towards, keep, per_image
from advlib.gradients import check_finite, look, margin
from advlib.threats import NORMS, Where, check_norm, check_where

FIRST_STEP = {"linf": 2.0, "l2": 1.0, "l1": 1.0}
"""Length of the first step, in linf in parts of the radius; the last is a hundredth of it."""
FIRST_CHANGE, LAST_CHANGE = 0.05, 0.001
"""By which part the radius changes at the first step and at the last, on a cosine."""


@dataclass(frozen=True)
class MinimalPerturbations:
    """The nearest adversarial image that was found for each image, and how near it is.

    Attributes
    ----------
    x_adv
        Adversarial images, shape, dtype and device of `x`; `x` itself where none was found.
    eps
        The budget each of them needs, shape (n,), in units of pixels: its distance from `x`, with
        what rounding asks for. 0 where `x` itself does, infinity where nothing was found. An upper
        bound of the true distance: a stronger attack can only lower it.
    fooled
        Whether an adversarial image was found, shape (n,), boolean.
    """

    x_adv: Tensor
    eps: Tensor
    fooled: Tensor

    def accuracy(self, eps: float) -> Proportion:
        """Share of images for which nothing was found within `eps`: robust accuracy at most."""
        return wilson(int((self.eps > eps).sum()), len(self.eps))

    def curve(self) -> tuple[Tensor, Tensor]:
        """Robust accuracy for all budgets: those at which it falls, and what is left from there on.

        Both have the shape (k,), the budgets ascend from 0. To be drawn as steps
        (``where="post"`` in matplotlib).
        """
        zero = self.eps.new_zeros(1)
        budgets = torch.cat([zero, self.eps[self.fooled]]).unique()
        robust = (self.eps > budgets[:, None]).to(zero.dtype).mean(1)
        return budgets, robust


@teaches_names
def fmn(
    model: Model,
    x: Tensor,
    y: Tensor,
    *,
    norm: str = "linf",
    steps: int = 100,
    targeted: bool = False,
    where: Where = None,
    batch_size: int = 256,
) -> MinimalPerturbations:
    r"""Fast minimum-norm attack: the smallest perturbation that fools the model.

    .. math:: \min_\delta \|\delta\| \quad \text{such that} \quad f(x + \delta) \ne y,
              \quad x + \delta \in [0, 1]

    Each step climbs the margin :math:`L = \max_{j \ne y} z_j - z_y` and projects into ball and box
    of radius :math:`\epsilon`. Until the image is fooled for the first time, the radius is where
    the linearised margin would reach 0, :math:`\|\delta\| + |L| / \|\nabla L\|_*`; from then on it
    shrinks by the factor :math:`1 - \gamma` while the image is fooled, and grows by
    :math:`1 + \gamma` while it is not. Steps and :math:`\gamma` shrink along a cosine. Unlike
    in the paper, the first step in :math:`\ell_\infty` goes along the sign and is twice as long as
    the radius: a fixed length suits one distance only.

    Parameters
    ----------
    model, x, y, targeted, where
        As for `advlib.fgsm`, and so are the errors.
    norm
        ``"linf"``, ``"l2"`` or ``"l1"``: what is to be small.
    steps
        Input gradients for each image, >= 1; one forward pass measures the last point.
    batch_size
        Images at work at a time, >= 1.

    Returns
    -------
    MinimalPerturbations
        ``x_adv``, ``eps`` (n,) and ``fooled`` (n,) for each image; ``accuracy(eps)`` and
        ``curve()`` for all together. Equal calls give equal results: nothing is random.

    References
    ----------
    Pintor, Roli, Brendel & Biggio 2021, "Fast Minimum-norm Adversarial Attacks through Adaptive
    Norm Constraints", algorithm 1 and equation 5.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    >>> x = torch.rand(5, 1, 2, 2)
    >>> found = fmn(model, x, model(x).argmax(1), norm="l2", steps=20)
    >>> found.accuracy(0.0).value, found.x_adv.shape
    (1.0, torch.Size([5, 1, 2, 2]))
    """
    check_norm(norm, FIRST_STEP)
    steps, batch_size = check_steps("steps", steps), check_steps("batch_size", batch_size)
    x, y = check_batch(model, x, y)
    where = check_where(where, x)
    with undisturbed(model, x.device):
        x_adv, found = x.clone(), torch.zeros_like(y, dtype=torch.bool)
        for rows in torch.arange(len(x), device=x.device).split(batch_size) if len(x) else ():
            allowed = None if where is None else where[rows]
            search = _Search(model, x[rows], y[rows], norm, targeted, allowed)
            search.run(steps)
            x_adv[rows], found[rows] = search.nearest, search.distance < math.inf
        return MinimalPerturbations(x_adv, needed(x, x_adv, norm, found), found)


def needed(x: Tensor, x_adv: Tensor, norm: str, found: Tensor) -> Tensor:
    """The smallest budgets whose balls hold `x_adv`, in whatever order one sums; else infinity."""
    delta = (x_adv - x).flatten(1)
    exact = NORMS[norm].length(delta.to(torch.float32 if x.is_mps else torch.float64))
    if norm != "linf":  # a maximum does not round
        exact = exact * (1 + 8 * torch.finfo(torch.promote_types(x.dtype, torch.float32)).eps)
    own = NORMS[norm].length(delta).to(exact.dtype)
    return torch.where(found, torch.maximum(exact, own), math.inf)


class _Search:
    """One batch of images: where the search is, and the nearest adversarial images so far."""

    def __init__(
        self, model: Model, x: Tensor, y: Tensor, norm: str, targeted: bool, where: Where
    ) -> None:
        self.model, self.x, self.y, self.name = model, x, y, norm
        self.norm, self.targeted, self.where = NORMS[norm], targeted, where
        self.wide = torch.promote_types(x.dtype, torch.float32)
        self.flat = x.flatten(1).to(self.wide)  # projected row by row, each with its own radius
        self.nearest = x.clone()
        self.distance = self.flat.new_full((len(x),), math.inf)
        self.radius = self.distance.clone()
        # No image of the box is farther away.
        self.farthest = self.norm.length(torch.maximum(self.flat, 1 - self.flat))

    def run(self, steps: int) -> None:
        sign = -1.0 if self.targeted else 1.0
        x_adv, finite = self.x, torch.tensor(True, device=self.x.device)
        for step in range(steps + 1):
            last = step == steps
            seen = look(self.model, x_adv, self.y, margin, gradient=not last, check=step == 0)
            finite &= seen.finite()
            fooled = (seen.logits.argmax(1) == self.y) == self.targeted
            delta = (x_adv - self.x).flatten(1).to(self.wide)
            self._note(x_adv, delta, fooled)
            if not last:
                phase = (1 + math.cos(math.pi * step / steps)) / 2
                grad = sign * keep(seen.grad, self.where).flatten(1).to(self.wide)
                self._resize(delta, seen.loss.abs(), grad, fooled, phase)
                x_adv = self._moved(delta, grad, phase)
        check_finite(finite)

    def _note(self, x_adv: Tensor, delta: Tensor, fooled: Tensor) -> None:
        length = self.norm.length(delta)
        nearer = fooled & (length < self.distance)
        self.distance = torch.where(nearer, length, self.distance)
        self.nearest = torch.where(per_image(nearer, x_adv), x_adv, self.nearest)

    def _resize(
        self, delta: Tensor, loss: Tensor, grad: Tensor, fooled: Tensor, phase: float
    ) -> None:
        """Set the radius in which the next point lies."""
        change = LAST_CHANGE + (FIRST_CHANGE - LAST_CHANGE) * phase
        slope = self.norm.dual(grad).clamp_min(torch.finfo(self.wide).tiny)
        to_boundary = self.norm.length(delta) + loss.to(self.wide) / slope
        found = self.distance < math.inf
        # A little farther than to the boundary: what lies on it fools nobody.
        larger = torch.where(found, self.radius, to_boundary) * (1 + change)
        smaller = torch.minimum(self.radius * (1 - change), self.distance)
        self.radius = torch.where(fooled, smaller, larger).minimum(self.farthest)

    def _moved(self, delta: Tensor, grad: Tensor, phase: float) -> Tensor:
        """One step along the gradient, and back into ball and box."""
        size = FIRST_STEP[self.name] * (0.01 + 0.99 * phase)
        if self.name == "linf":
            step = self.norm.steepest(grad, size * self.radius)
        else:
            step = NORMS["l2"].steepest(grad, size)
        delta = self.norm.project(delta + step, self.radius[:, None], self.flat)
        return add_towards(self.x, delta.to(self.x.dtype).view_as(self.x)).clamp_(0, 1)
