"""FGSM from a random start: the attack of the cheapest adversarial training."""

import torch
from torch import Tensor

from advlib import threats
from advlib.attacks.noise import noise
from advlib.contracts import Model, check_eps, check_images
from advlib.errors import InputError
from advlib.gradients import input_gradient


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
    r"""FGSM from a random start: adversarial training at twice the cost of standard training.

    .. math:: x_{adv} = \Pi\left(x + \eta + \alpha\epsilon\,
              \mathrm{sign}\, \nabla_x\, \ell(f(x + \eta), y)\right), \qquad
              \eta \sim \mathrm{uniform}[-k\epsilon, k\epsilon]

    For training, not for evaluation: one step says little about what an attacker can do.

    Parameters
    ----------
    model, x, y, eps
        As for `advlib.fgsm`, in the L-infinity norm.
    start, step
        Reach :math:`k` of the random start and length :math:`\alpha` of the step, both in units of
        `eps`. Wong et al. take 1 and 1.25, de Jorge et al. 2 and 1.
    project
        True: back into the ball (Wong et al.). False: only into [0, 1] (de Jorge et al.), so that
        the result may lie up to ``(start + step) * eps`` away.
    generator
        As for `advlib.pgd`. Training passes one generator to all calls; None draws the same start
        in every call.

    Returns
    -------
    Tensor
        As for `advlib.fgsm`.

    Raises
    ------
    InputError, PixelError, LabelError, DeviceError, ThreatError, ModelOutputError
        As for `advlib.fgsm`; a negative `start` or `step`.

    References
    ----------
    Wong, Rice & Kolter 2020, "Fast is Better than Free: Revisiting Adversarial Training", algorithm
    3; de Jorge et al. 2022, "Make Some Noise: Reliable and Efficient Single-Step Adversarial
    Training" (the noise that reaches beyond the ball, and no projection).
    """
    if not (start >= 0 and step >= 0):
        raise InputError(f"`start` and `step` are lengths, 0 or more; got {start} and {step}.")
    eps = check_eps(eps)
    x = check_images(x)
    begin = noise(x, start * eps, generator=generator)
    delta = begin - x + step * eps * input_gradient(model, begin, y).grad.sign()
    return threats.confine(x, delta, eps if project else (start + step) * eps, "linf")
