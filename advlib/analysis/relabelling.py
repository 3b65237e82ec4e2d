r"""Training sets whose labels contradict what the images show, and agree with a perturbation."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advlib.attacks import noise, pgd
from advlib.contracts import check_images, check_steps
from advlib.errors import InputError
from advlib.evaluation import predict
from advlib.gradients import Loss


def relabelled(
    model: nn.Module,
    x: Tensor,
    eps: float,
    *,
    classes: int,
    y: Tensor | None = None,
    norm: str = "l2",
    steps: int = 10,
    control: bool = False,
    hidden_from: nn.Module | None = None,
    seed: int = 0,
    batch_size: int = 64,
) -> tuple[Tensor, Tensor]:
    r"""Images attacked towards other classes, with those classes as their labels.

    .. math:: x_{adv} = \arg\min_{\|x' - x\| \le \epsilon} \ell(f(x'), t)

    In :math:`D_{rand}` the label :math:`t` is drawn uniformly from all classes, so what the image
    shows says nothing about it: only the perturbation does. In :math:`D_{det}` it is
    :math:`(y + 1) \bmod k`, so what the image shows predicts it as well as the perturbation does,
    and predicts the wrong class on images as they are.

    Parameters
    ----------
    model, x, eps, norm, steps
        As for `advlib.pgd`; `model` is the network whose features the images take over.
    classes
        Number of classes k, >= 2.
    y
        The classes that the images show, shape (n,): the labels of :math:`D_{det}`. None: those of
        :math:`D_{rand}`.
    control
        True: random noise of the same size in place of the attack, with the same labels.
    hidden_from
        A second network, to which the attack must not make the label more probable than it is on
        the image as it is: the change fools `model` and does not transfer (Nakkiran 2019).
    seed
        Decides the labels of :math:`D_{rand}`, the attack's start and the noise.
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
    Nakkiran (2019), Adversarial Examples are Just Bugs, Too, Distill, 10.23915/distill.00019.5.
    """
    x = check_images(x)
    if classes < 2:
        raise InputError(f"`classes` is {classes}; at least two are needed to choose a target.")
    batch_size = check_steps("batch_size", batch_size)
    if y is None:
        labels = torch.Generator().manual_seed(seed)
        target = torch.randint(0, classes, (len(x),), generator=labels).to(x.device)
    else:
        target = (y + 1) % classes
    generator = torch.Generator(x.device).manual_seed(seed)
    if control:
        return noise(x, eps, norm=norm, generator=generator), target
    parts = []
    for part, t in zip(x.split(batch_size), target.split(batch_size), strict=True):
        f, loss = (model, "ce") if hidden_from is None else _hiding(model, hidden_from, part, t)
        parts.append(
            pgd(
                f,
                part,
                t,
                eps,
                norm=norm,
                steps=steps,
                targeted=True,
                loss=loss,
                generator=generator,
            )
        )
    return torch.cat(parts) if parts else x.clone(), target


class _Both(nn.Module):
    """The logits of one network, and far below them the log-probabilities of another."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.first(x), self.second(x).log_softmax(1) - _BELOW], 1)


_BELOW = 1000.0
"""So far that the prediction is the first network's."""


def _hiding(
    model: nn.Module, other: nn.Module, x: Tensor, target: Tensor
) -> tuple[nn.Module, Loss]:
    """The cross-entropy of `model`, and what `other` believes in the label beyond the image."""
    allowed = predict(other, x).log_softmax(1).gather(1, target[:, None])[:, 0]

    def loss(logits: Tensor, t: Tensor) -> Tensor:
        classes = logits.shape[1] // 2
        believed = logits[:, classes:].gather(1, t[:, None])[:, 0] + _BELOW
        return F.cross_entropy(logits[:, :classes], t, reduction="none") + F.relu(
            believed - allowed
        )

    return _Both(model, other), loss
