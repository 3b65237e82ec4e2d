r"""How often an attack transfers: made with one network, shown to another.

An attacker who cannot see a network, the *target*, attacks another one, the *surrogate*, and hopes
that what fools the one fools the other. How often that works is measured among the images that
both classify correctly before the attack.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from advlib.contracts import Model, check_images, check_labels, check_logits, check_steps
from advlib.errors import InputError
from advlib.evaluation import Attack, Proportion, predict, wilson
from advlib.gradients import input_gradient

Matrix = dict[str, dict[str, Proportion]]
"""``matrix[surrogate][target]``: the share of images on which the attack transferred."""


def transfer_matrix(
    models: Mapping[str, Model],
    x: Tensor,
    y: Tensor,
    attack: Attack,
    *,
    targets: Mapping[str, Model] | None = None,
    batch_size: int = 256,
) -> Matrix:
    """Make adversarial images with each model, and show them to every model.

    Parameters
    ----------
    models
        The surrogates by name.
    x, y, attack, batch_size
        As for `advlib.accuracy`; `attack` is called as ``attack(surrogate, x, y)``.
    targets
        The models that are shown the images, by name; the surrogates themselves by default.

    Returns
    -------
    dict of dict of Proportion
        ``matrix[surrogate][target]``: among the images that surrogate and target both classify
        correctly before the attack, the share that the target misclassifies after it.

    Raises
    ------
    InputError
        No surrogate or no target. Otherwise as for `advlib.accuracy`.

    References
    ----------
    Papernot, McDaniel & Goodfellow 2016, "Transferability in Machine Learning"; Liu et al. 2017,
    section 3.
    """
    targets = models if targets is None else targets
    if not models or not targets:
        raise InputError("transfer_matrix got no model; at least one surrogate and one target.")
    x = check_images(x)
    y = check_labels(y, x)
    batch_size = check_steps("batch_size", batch_size)
    clean = {
        name: _correct(model, x, y, batch_size) for name, model in {**targets, **models}.items()
    }
    matrix: Matrix = {}
    for surrogate, model in models.items():
        parts = zip(x.split(batch_size), y.split(batch_size), strict=True)
        attacked = [attack(model, *part) if len(x) else x for part in parts]
        x_adv = torch.cat(attacked)
        matrix[surrogate] = {
            name: _share(clean[surrogate] & clean[name], _correct(target, x_adv, y, batch_size))
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
    """Share of images that `target` classifies correctly as `x` and misclassifies as `x_adv`.

    Parameters
    ----------
    target
        The model that is shown the images.
    x, x_adv
        Images before and after the attack, both (n, c, h, w), pixels in [0, 1].
    y, batch_size
        As for `advlib.accuracy`.
    surrogate
        The model that `x_adv` was made with: only images that it classifies correctly count then.

    Returns
    -------
    Proportion
        Its `total` counts the images that were classified correctly before.

    Raises
    ------
    InputError
        `x` and `x_adv` differ in shape. Otherwise as for `advlib.accuracy`.
    """
    x, x_adv = check_images(x), check_images(x_adv)
    y = check_labels(y, x)
    if x.shape != x_adv.shape:
        raise InputError(
            f"x has shape {tuple(x.shape)} and x_adv {tuple(x_adv.shape)}; the same images "
            "before and after the attack are expected."
        )
    before = _correct(target, x, y, batch_size)
    if surrogate is not None:
        before = before & _correct(surrogate, x, y, batch_size)
    return _share(before, _correct(target, x_adv, y, batch_size))


def alignment(first: Model, second: Model, x: Tensor, y: Tensor) -> Tensor:
    r"""Cosine of the angle between two models' input gradients, for each image.

    .. math:: \cos\angle(\nabla_x \ell(f(x), y), \nabla_x \ell(g(x), y))

    Parameters
    ----------
    first, second
        The models.
    x, y
        As for `advlib.input_gradient`.

    Returns
    -------
    Tensor
        Shape (n,), in [-1, 1]; 0 where a gradient vanishes. The loss is the margin, whose
        gradient does not fade on images that a model is sure of.

    Raises
    ------
    PixelError, LabelError, DeviceError, ModelOutputError
        As for `advlib.input_gradient`.

    References
    ----------
    Demontis et al. 2019, "Why Do Adversarial Attacks Transfer?", section 3 (gradient alignment).
    """
    a, b = (input_gradient(model, x, y, loss="margin").grad.flatten(1) for model in (first, second))
    return F.cosine_similarity(a.double(), b.double(), dim=1, eps=1e-30).to(a.dtype)


def _correct(model: Model, x: Tensor, y: Tensor, batch_size: int) -> Tensor:
    """Whether each image is classified correctly, (n,)."""
    if len(x) == 0:
        return torch.zeros(0, dtype=torch.bool, device=x.device)
    logits = predict(model, x, batch_size=batch_size)
    check_logits(logits, x, y)
    return logits.argmax(1) == y


def _share(before: Tensor, after: Tensor) -> Proportion:
    """Of the images classified correctly before, those misclassified after."""
    return wilson(int((before & ~after).sum()), int(before.sum()))
