"""Adaptive attacks: attack a defence instead of the network behind it.

A defence may stop the attacks that do not know of it, and nothing else. An *adaptive* attack is
made for the defence (Tramer et al. 2020). Each function here turns a defended network, or its loss,
into something that the attacks of `advlib.attacks` can use as it is.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from advlib.contracts import Model, check_steps
from advlib.errors import InputError, ModelOutputError
from advlib.gradients import Loss

Map = Callable[[Tensor], Tensor]
"""From a tensor to a tensor, for instance from images to images."""


def straight_through(forward: Map, backward: Map | None = None) -> Map:
    r"""Compute one function, differentiate another: backward pass differentiable approximation.

    .. math:: x \mapsto f(x), \qquad
              \frac{\partial}{\partial x} := \frac{\partial g(x)}{\partial x}
              \quad\text{with } g(x) \approx f(x)

    Rounding, compression and the like have a gradient of 0, or none, and yet return nearly what
    they were given. Passing the gradient *straight through*, as if they did nothing, shows an
    attacker the direction.

    Parameters
    ----------
    forward
        What the defence computes; it may leave torch's graph (numpy, a file, a lookup).
    backward
        A differentiable stand-in of the same result's shape. None: the identity, where `forward`
        keeps the shape.

    References
    ----------
    Athalye, Carlini & Wagner 2018, "Obfuscated Gradients Give a False Sense of Security"; the
    straight-through estimator: Bengio et al. 2013.

    Examples
    --------
    >>> x = torch.tensor([0.2, 0.8], requires_grad=True)
    >>> straight_through(torch.round)(x).sum().backward()
    >>> x.grad
    tensor([1., 1.])
    """

    def combined(x: Tensor) -> Tensor:
        with torch.no_grad():
            exact = forward(x)
        stand_in = x if backward is None else backward(x)
        if exact.shape != stand_in.shape:
            raise ModelOutputError(
                f"forward returned shape {tuple(exact.shape)}, the stand-in for its gradient "
                f"{tuple(stand_in.shape)}; the same shape is expected. Pass backward, a "
                "differentiable function that returns the shape of forward."
            )
        return _StraightThrough.apply(stand_in, exact)

    return combined


class _StraightThrough(torch.autograd.Function):
    """The value of the second argument with the gradient of the first.

    ``stand_in + (exact - stand_in).detach()`` would do the same up to rounding; here it is exact.
    """

    @staticmethod
    def forward(ctx: Any, stand_in: Tensor, exact: Tensor) -> Tensor:
        return exact.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def averaged(model: Model, samples: int) -> Model:
    r"""A random network's mean logits over several draws: expectation over transformation.

    .. math:: \nabla_x\, \mathbb{E}_t f(t(x)) = \mathbb{E}_t \nabla_x f(t(x))
              \approx \frac1k \sum_{i=1}^k \nabla_x f(t_i(x))

    The gradient of one draw leads to points where *that* draw is fooled; the mean leads to points
    where the next, unseen draw is fooled too.

    Parameters
    ----------
    model
        A classifier that draws at random in every call.
    samples
        How many draws, >= 1; the cost of an attack grows by this factor.

    References
    ----------
    Athalye, Engstrom, Ilyas & Kwok 2018, "Synthesizing Robust Adversarial Examples"; Athalye,
    Carlini & Wagner 2018 (against random defences).
    """
    samples = check_steps("samples", samples)

    def mean(x: Tensor) -> Tensor:
        return torch.stack([model(x) for _ in range(samples)]).mean(0)

    return mean


def undetected(reject: int) -> Loss:
    r"""Joint loss against a network that can reject: misclassified *and* not rejected.

    .. math:: \max_{j \ne y,\, r} z_j - \max(z_y, z_r)

    with the logit :math:`z_r` of the class `reject`. It is positive exactly when a wrong class is
    ahead of both the true one and the rejection.

    Parameters
    ----------
    reject
        Number of the class that means "rejected"; -1 for the last one.

    Returns
    -------
    Callable
        A loss for `advlib.pgd`: from logits (n, classes) and classes (n,) to values (n,).

    References
    ----------
    Carlini & Wagner 2017, "Adversarial Examples Are Not Easily Detected" (one classifier with one
    class more); Tramer et al. 2020 (against detectors).
    """

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        classes = logits.shape[1]
        if classes < 3 or not -classes <= reject < classes:
            raise InputError(
                f"reject is {reject} and there are {classes} logits; a class among them, and two "
                "others at least, are expected."
            )
        own, rejected = y[:, None], torch.full_like(y[:, None], reject % classes)
        both = torch.cat([own, rejected], 1)
        others = logits.scatter(1, both, -torch.inf).amax(1)
        return others - logits.gather(1, both).amax(1)

    return loss
