"""Random noise of the same size as an attack, to compare with."""

import torch
from torch import Tensor

from advlib import threats
from advlib.contracts import check_images, check_reach, check_where, teaches_names
from advlib.errors import ThreatError
from advlib.threats import Where, check_norm


@teaches_names
def noise(
    x: Tensor,
    eps: float = 8 / 255,
    *,
    norm: str = "linf",
    distribution: str = "uniform",
    generator: torch.Generator | None = None,
    where: Where = None,
) -> Tensor:
    r"""Random perturbation of the same size as an attack, which knows nothing of the model.

    Parameters
    ----------
    x, eps, norm, where
        As for `advlib.fgsm`.
    distribution
        ``"uniform"``: drawn uniformly from the ball. ``"sign"``: from its corners, the largest
        noise there is; every pixel value moves by exactly `eps` up or down (``"linf"`` only).
    generator
        Source of randomness. None: a new one with seed 0, so that equal calls give equal noise.

    Returns
    -------
    Tensor
        Noisy images, with what `advlib.fgsm` promises of its result.
    """
    if distribution not in ("uniform", "sign") or (distribution == "sign" and norm != "linf"):
        raise ThreatError(
            f'distribution is {distribution!r} with norm={norm!r}; "uniform", or "sign" with '
            'norm="linf", is expected.'
        )
    x, eps = check_images(x), check_reach(eps, check_norm(norm).diameter(x))
    if len(x) == 0:
        return x.clone()
    where = check_where(where, x)
    delta = threats.random_point(x, eps, norm, generator, where=where)
    if distribution == "sign":
        delta = threats.keep(torch.where(delta < 0, -eps, eps).to(x.dtype), where)
    return threats.confine(x, delta, eps, norm)
