r"""Interval bounds: what no attack in an :math:`\ell_\infty` ball can exceed, layer by layer.

If each value of a layer lies between two bounds, so does each value of the next one. An affine
layer takes the centre :math:`c` and the radius :math:`r` of the intervals to

.. math:: c' = W c + b, \qquad r' = |W|\, r,

and ReLU takes both ends as they are. The bounds hold for every attack, and become loose with every
layer, unless the network was trained for them (Gowal et al. 2018).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from advlib import exact
from advlib.errors import ModelOutputError
from advlib.models.architectures import MLP, PIXEL_MEAN, PIXEL_SCALE, PlainCNN


def worst_logits(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    r"""How far each logit can rise above that of the class `y` in the ball, at most.

    The last layer is taken together with the difference of two logits, which is tighter.

    Parameters
    ----------
    model
        A `PlainCNN` or `MLP`: convolutions, linear layers, average pooling and ReLUs.
    x, y, eps
        As for `advlib.fgsm`, in the L-infinity norm.

    Returns
    -------
    Tensor
        Shape (n, classes), with its graph: an upper bound of the logit less that of `y`, 0 for `y`
        itself. Where all others are below 0, no attack in the ball changes the prediction.

    Raises
    ------
    ModelOutputError, PixelError, ThreatError
        Another network; as for `advlib.fgsm`.

    References
    ----------
    Gowal et al. 2018, "On the Effectiveness of Interval Bound Propagation for Training Verifiably
    Robust Models".
    """
    if isinstance(model, PlainCNN):
        layers = (*model.layers, nn.Flatten())
    elif isinstance(model, MLP):
        layers = (model.pool, nn.Flatten(), *model.layers)
    else:
        raise ModelOutputError(
            f"Interval bounds are known for PlainCNN and MLP; got {type(model).__name__}."
        )
    low, high = ((end - PIXEL_MEAN) * PIXEL_SCALE for end in exact.bounds(x, eps))
    for layer in layers:
        if isinstance(layer, nn.ReLU):
            low, high = low.relu(), high.relu()
            continue
        parts = layer.named_parameters()
        sizes = {k: p.abs() if k == "weight" else torch.zeros_like(p) for k, p in parts}
        centre, radius = layer((low + high) / 2), (high - low) / 2
        radius = functional_call(layer, sizes, radius)
        low, high = centre - radius, centre + radius
    weight, bias = model.head.weight, model.head.bias
    apart = weight - weight[y][:, None]  # (n, classes, features)
    centre, radius = ((high + low) / 2)[..., None], ((high - low) / 2)[..., None]
    return (apart @ centre + apart.abs() @ radius)[..., 0] + bias - bias[y][:, None]


@torch.no_grad()
def certified(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """For each image, whether interval bounds prove that all of the ball is classified as `y`.

    Shape (n,), bool. The bounds are those of `worst_logits`; a bound within 1e-4 of 0 proves
    nothing, because the arithmetic rounds.
    """
    rises = worst_logits(model, x, y, eps).scatter(1, y[:, None], -torch.inf)
    return rises.amax(1) < -1e-4


def interval_bounds(
    model: nn.Module, x: Tensor, y: Tensor, *, eps: float, share: float
) -> tuple[Tensor, Tensor]:
    r"""An objective: cross-entropy of the image, and of the worst logits that the bounds allow.

    .. math:: L = (1 - s)\, \ell(f(x), y) + s\, \ell(\text{worst logits}, y)

    with `share` :math:`s` in [0, 1]; `model`, `x`, `y` and `eps` as for `worst_logits`.
    """
    logits, worst = model(x), worst_logits(model, x, y, eps)
    return logits, torch.lerp(F.cross_entropy(logits, y), F.cross_entropy(worst, y), share)
