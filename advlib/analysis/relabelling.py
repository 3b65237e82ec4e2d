r"""A training set whose labels only the perturbations explain."""

import torch
from torch import Tensor, nn

from advlib.attacks import noise, pgd
from advlib.contracts import check_images, check_steps
from advlib.errors import InputError


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
    r"""Images attacked towards classes drawn at random, with those classes as their labels.

    Each label is drawn uniformly from all classes, independently of the image, so what the image
    shows says nothing about it. Only the perturbation does:

    .. math:: x_{adv} = \arg\min_{\|x' - x\| \le \epsilon} \ell(f(x'), t), \qquad
              t \sim \mathrm{uniform}\{0, \ldots, k - 1\}

    Parameters
    ----------
    model, x, eps, norm, steps
        As for `advlib.pgd`; `model` is the network whose features the images take over.
    classes
        Number of classes k, >= 2.
    control
        True: random noise of the same size in place of the attack, with the same labels.
    seed
        Decides the labels, the attack's start and the noise.
    batch_size
        Images per batch, >= 1.

    Returns
    -------
    x_adv : Tensor (n, c, h, w)
        The images to train on, with ``norm(x_adv - x) <= eps``.
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
    x = check_images(x)
    if classes < 2:
        raise InputError(f"`classes` is {classes}; at least two are needed to choose a target.")
    batch_size = check_steps("batch_size", batch_size)
    labels = torch.Generator().manual_seed(seed)
    target = torch.randint(0, classes, (len(x),), generator=labels).to(x.device)
    generator = torch.Generator(x.device).manual_seed(seed)
    if control:
        return noise(x, eps, norm=norm, generator=generator), target
    parts = [
        pgd(model, part, y, eps, norm=norm, steps=steps, targeted=True, generator=generator)
        for part, y in zip(x.split(batch_size), target.split(batch_size), strict=True)
    ]
    return torch.cat(parts) if parts else x.clone(), target
