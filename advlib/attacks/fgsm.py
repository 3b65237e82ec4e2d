"""The fast gradient sign method: one step."""

from torch import Tensor

from advlib.contracts import Model, check_batch, teaches_names
from advlib.gradients import Loss, check_finite, look, resolve_loss, undisturbed
from advlib.threats import Ball, Where


@teaches_names
def fgsm(
    model: Model,
    x: Tensor,
    y: Tensor,
    eps: float = 8 / 255,
    *,
    norm: str = "linf",
    targeted: bool = False,
    loss: str | Loss = "ce",
    where: Where = None,
) -> Tensor:
    r"""Fast gradient sign method: the best single step for the linearised loss.

    .. math:: x_{adv} = x + \arg\max_{\|\delta\|\le\epsilon} \langle\nabla_x \ell(f(x), y),
              \delta\rangle

    over the perturbations that keep pixels in [0, 1]; for :math:`\ell_\infty` that is
    ``(x + eps * grad.sign()).clamp(0, 1)``.

    Parameters
    ----------
    model
        Classifier from pixels in [0, 1] to logits (n, classes); normalisation lives inside it.
    x
        Images, shape (n, c, h, w), floating point, pixels in [0, 1].
    y
        Classes, shape (n,), integer: the true ones, or the targets if `targeted`.
    eps
        Budget in `norm`, in units of pixels: four grey levels of 255 are ``4 / 255``.
    norm
        ``"linf"``, ``"l2"`` or ``"l1"``.
    targeted
        False: raise the loss of class `y`. True: lower it.
    loss
        ``"ce"``, ``"margin"``, or a function of (logits, y) that returns one value per image.
    where
        Which pixel values may change: None for all, or a tensor of booleans (or of 0 and 1) that
        broadcasts to `x`, for instance (n, 1, h, w). Elsewhere the result equals `x` exactly.

    Returns
    -------
    Tensor
        Adversarial images, a new tensor of the shape, dtype and device of `x`, with
        ``norm(x_adv - x) <= eps`` exactly as computed in that dtype, and pixels in [0, 1].

    Raises
    ------
    PixelError, LabelError, DeviceError, ThreatError, ModelOutputError
        An argument, or what the model makes of it, cannot be used; nothing was changed.

    References
    ----------
    Goodfellow, Shlens & Szegedy 2015, "Explaining and Harnessing Adversarial Examples", section 4.
    """
    loss = resolve_loss(loss)
    x, y = check_batch(model, x, y)
    with undisturbed(model, x.device):
        ball = Ball(x.clone(), eps, norm, where)
        if x.numel() == 0:
            return ball.x
        seen = look(model, ball.x, y.clone(), loss)
        check_finite(seen.finite())
        return ball.maximiser(-seen.grad if targeted else seen.grad)
