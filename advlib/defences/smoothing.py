r"""Randomised smoothing: a classifier that votes under noise, with a certified radius.

The smoothed classifier :math:`g` asks a base classifier :math:`f` about many noisy copies of an
image and predicts the class that most of them get:

.. math:: g(x) = \arg\max_c \; p_c(x), \qquad
          p_c(x) = P\left(f(x + \sigma u) = c\right), \quad u \sim N(0, I)

If the top class :math:`c` has :math:`p_c(x) > 1/2`, no change of :math:`\ell_2` length below
:math:`\sigma\,\Phi^{-1}(p_c(x))` changes the prediction of :math:`g`, whatever :math:`f` is
(theorem 1). The probabilities cannot be computed, so they are estimated from votes: a certificate
is wrong with a probability of at most `alpha`, which the caller chooses.

A setting out of its range is an `InputError`, a count that is no whole number >= 1 a `ThreatError`.

References
----------
Cohen, Rosenfeld & Kolter 2019, "Certified Adversarial Robustness via Randomized Smoothing". Salman
et al. 2019, "Provably Robust Deep Learning via Adversarially Trained Smoothed Classifiers".
"""

import functools
import math
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor, nn

from advlib.contracts import (
    Model,
    check_device,
    check_images,
    check_labels,
    check_logits,
    check_steps,
    undisturbed,
)
from advlib.errors import InputError
from advlib.evaluation import Proportion, wilson

ABSTAIN = -1
"""Stands in place of a class where the votes do not decide."""


class Certificate(NamedTuple):
    """What the votes prove about each image."""

    label: Tensor
    """Class of the smoothed classifier, shape (n,), int64; `ABSTAIN` where nothing is proved."""
    radius: Tensor
    """No l2 change shorter than this changes the class, shape (n,), in units of pixels; 0 where
    the certificate abstains."""


def certify(
    model: Model,
    x: Tensor,
    sigma: float = 0.25,
    *,
    samples: int = 1000,
    select: int = 100,
    alpha: float = 0.001,
    batch_size: int = 256,
    generator: torch.Generator | None = None,
) -> Certificate:
    r"""Class of the smoothed classifier, and a radius within which no change alters it.

    The procedure CERTIFY of Cohen et al. (section 3.2): the first `select` votes choose a class,
    `samples` new ones bound its probability from below (`lower_bound`), and the bound gives the
    radius (`certified_radius`).

    Parameters
    ----------
    model
        Base classifier from pixels to logits (n, classes). It sees pixels outside [0, 1]: noise is
        added and nothing is clipped.
    x
        Images, shape (n, c, h, w), floating point, pixels in [0, 1].
    sigma
        Standard deviation of the noise, > 0, in units of pixels.
    samples, select
        Noisy copies of each image for the bound and for the choice, >= 1. The largest radius
        that `samples` unanimous votes can prove is ``sigma * Phi^-1(alpha ** (1 / samples))``.
    alpha
        Probability that an image's certificate is wrong, in (0, 1).
    batch_size
        How many noisy images the model sees at a time, >= 1.
    generator
        Source of randomness. None: a new one with seed 0, so that equal calls agree.

    Raises
    ------
    PixelError, DeviceError, ModelOutputError, ThreatError, InputError
        An argument, or what the model makes of it, cannot be used.
    """
    sigma, alpha = _check_sigma(sigma), _check_alpha(alpha)
    samples, select = check_steps("samples", samples), check_steps("select", select)
    x = check_images(x)
    generator = generator or torch.Generator(x.device).manual_seed(0)
    # New votes for the bound: those that chose the class are biased in its favour.
    chosen = votes(model, x, sigma, samples=select, batch_size=batch_size, generator=generator)
    counts = votes(model, x, sigma, samples=samples, batch_size=batch_size, generator=generator)
    if len(x) == 0:
        return Certificate(counts.new_zeros(0), x.new_zeros(0))
    label = chosen.argmax(1)
    own = counts.gather(1, label[:, None]).squeeze(1).tolist()
    radius = x.new_tensor([certified_radius(sigma, lower_bound(k, samples, alpha)) for k in own])
    return Certificate(torch.where(radius > 0, label, ABSTAIN), radius)


def predict_smoothed(
    model: Model,
    x: Tensor,
    sigma: float = 0.25,
    *,
    samples: int = 1000,
    alpha: float = 0.001,
    batch_size: int = 256,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Class of the smoothed classifier, (n,), int64; `ABSTAIN` where the votes are too close.

    The procedure PREDICT of Cohen et al. (section 3.2), with the binomial test of Hung & Fithian
    (2019).

    Parameters
    ----------
    alpha
        Probability that a class is returned that is not the smoothed classifier's, in (0, 1).
    model, x, sigma, samples, batch_size, generator
        As for `certify`, which raises the same errors.
    """
    sigma, alpha = _check_sigma(sigma), _check_alpha(alpha)
    counts = votes(model, x, sigma, samples=samples, batch_size=batch_size, generator=generator)
    if len(counts) == 0:
        return counts.new_zeros(0)
    top = counts.topk(2, dim=1)
    # If both classes were equally probable, how often would one lead by so much?
    p_values = [2 * math.exp(_log_tail(a, a + b, 0.5)) for a, b in top.values.tolist()]
    decided = torch.tensor([p <= alpha for p in p_values], device=counts.device)
    return torch.where(decided, top.indices[:, 0], ABSTAIN)


def votes(
    model: Model,
    x: Tensor,
    sigma: float,
    *,
    samples: int,
    batch_size: int = 256,
    generator: torch.Generator | None = None,
) -> Tensor:
    """How many noisy copies of each image the model assigns to each class: (n, classes), int64.

    Parameters
    ----------
    model, x, sigma, samples, batch_size, generator
        As for `certify`, which raises the same errors.
    """
    sigma = _check_sigma(sigma)
    samples, batch_size = check_steps("samples", samples), check_steps("batch_size", batch_size)
    x = check_images(x)
    check_device(model, x)
    counts = torch.zeros(len(x), 0, dtype=torch.int64, device=x.device)
    generator = generator or torch.Generator(x.device).manual_seed(0)
    # A batch may hold copies of several images, so that few votes on many images are fast too.
    owner = torch.arange(len(x), device=x.device).repeat_interleave(samples)
    with undisturbed(model, x.device), torch.no_grad():
        for rows in owner.split(batch_size) if len(x) else ():
            noisy = x[rows] + sigma * _normal(rows.shape + x.shape[1:], x, generator)
            logits = model(noisy)
            check_logits(logits, noisy)
            if counts.shape[1] == 0:
                counts = counts.new_zeros(len(x), logits.shape[1])
            one = torch.ones_like(rows)
            counts.index_put_((rows, logits.argmax(1)), one, accumulate=True)
    return counts


def lower_bound(count: int, total: int, alpha: float = 0.001) -> float:
    r"""Clopper and Pearson's (1934) lower bound of a probability: `count` successes of `total`.

    The smallest :math:`p` under which at least `count` successes would not be rarer than `alpha`:
    the solution of :math:`P(\mathrm{Bin}(n, p) \ge k) = \alpha`, which is the `alpha` quantile of
    the beta distribution :math:`B(k, n - k + 1)`. Whatever the true probability is, the bound
    exceeds it with a probability of at most `alpha`, also for a small `total`.

    Parameters
    ----------
    count, total
        0 <= count <= total, total >= 1.
    alpha
        Probability of a bound that is too high, in (0, 1).
    """
    if not (0 <= count <= total and total >= 1):
        raise InputError(
            f"{count} of {total} was given; 0 <= count <= total with total >= 1 is expected."
        )
    return _quantile(int(count), int(total), _check_alpha(alpha))


def certified_radius(sigma: float, probability: float) -> float:
    r"""L2 radius that the top class's probability proves: :math:`\sigma\,\Phi^{-1}(p)`.

    Theorem 1 of Cohen et al., with the second class's probability bounded by ``1 - probability``.

    Parameters
    ----------
    sigma
        Standard deviation of the noise, > 0, in units of pixels.
    probability
        Lower bound of the top class's probability, in [0, 1). Up to 1/2 it proves nothing, and the
        radius is 0.
    """
    sigma = _check_sigma(sigma)
    if not 0 <= probability < 1:
        raise InputError(
            f"probability is {probability}; a number in [0, 1) is expected. Votes never prove "
            "certainty: lower_bound(samples, samples) is below 1."
        )
    return sigma * NormalDist().inv_cdf(probability) if probability > 0.5 else 0.0


def certified_accuracy(certificate: Certificate, y: Tensor, radius: float) -> Proportion:
    """Share of images that are certified as their true class up to `radius` at least.

    Parameters
    ----------
    certificate
        What `certify` returned.
    y
        True classes, shape (n,), integer.
    radius
        L2 length, >= 0, in units of pixels. At 0: correct and not abstained.

    Raises
    ------
    LabelError, InputError
        Not one class for each image, or a negative `radius`.
    """
    y = check_labels(y, certificate.label)
    if not radius >= 0:
        raise InputError(f"radius is {radius}; an l2 length >= 0 is expected, in units of pixels.")
    certified = (certificate.label == y) & (certificate.radius >= radius)
    return wilson(int(certified.sum()), len(y))


class Smoothed(nn.Module):
    """What `smoothed` returns: every call uses the same draws, so it is a plain function of x."""

    def __init__(self, model: Model, sigma: float, samples: int, seed: int) -> None:
        super().__init__()
        self.model = model
        self.sigma, self.samples, self.seed = sigma, samples, seed

    def forward(self, x: Tensor) -> Tensor:
        """Logarithms of the averaged probabilities, shape (n, classes)."""
        generator = torch.Generator(x.device).manual_seed(self.seed)
        u = _normal((self.samples, *x.shape[1:]), x, generator)
        noisy = (x[:, None] + self.sigma * u).flatten(0, 1)
        shares = self.model(noisy).log_softmax(1).view(len(x), self.samples, -1)
        return shares.logsumexp(1) - math.log(self.samples)


def smoothed(
    model: Model, sigma: float = 0.25, samples: int = 32, generator: torch.Generator | None = None
) -> Smoothed:
    r"""The average of a model's probabilities under noise, as a model that has gradients.

    .. math:: \log \frac{1}{m} \sum_{i=1}^m \mathrm{softmax}(f(x + \sigma u_i))

    Votes have no gradient; this average stands in for them (Salman et al., section 2.2). It is
    attacked like any model: ``pgd(smoothed(model), x, y, eps, norm="l2")``. Every image meets the
    same :math:`m` draws.

    Parameters
    ----------
    model, sigma
        As for `certify`; the model is used as it is, not copied, and decides the mode.
    samples
        Draws :math:`m` in the average, >= 1: more give a better gradient. A batch of n images
        takes the memory of n * samples.
    generator
        Decides the draws. None: a new one with seed 0.
    """
    sigma, samples = _check_sigma(sigma), check_steps("samples", samples)
    generator = generator or torch.Generator().manual_seed(0)
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    built = Smoothed(model, sigma, samples, seed)
    return built.train(model.training) if isinstance(model, nn.Module) else built.eval()


def _normal(shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal values, drawn on the generator's device, with dtype and device of `like`."""
    draw = torch.randn(shape, generator=generator, device=generator.device, dtype=torch.float32)
    return draw.to(like.device, like.dtype)


@functools.lru_cache(maxsize=4096)  # many images share a count, often that of unanimous votes
def _quantile(count: int, total: int, alpha: float) -> float:
    """The p at which `count` or more successes have the probability `alpha`, by bisection."""
    if count == 0:
        return 0.0
    low, high, goal = 0.0, 1.0, math.log(alpha)
    while (middle := (low + high) / 2) not in (low, high):
        low, high = (middle, high) if _log_tail(count, total, middle) <= goal else (low, middle)
    return low


def _log_tail(count: int, total: int, p: float) -> float:
    """Logarithm of the probability of `count` or more successes in `total` trials, 0 < p < 1."""
    k = torch.arange(count, total + 1, dtype=torch.float64)
    ways = math.lgamma(total + 1) - (k + 1).lgamma() - (total - k + 1).lgamma()
    return float((ways + k * math.log(p) + (total - k) * math.log1p(-p)).logsumexp(0))


def _check_sigma(sigma: float) -> float:
    if not 0 < sigma < math.inf:
        raise InputError(
            f"sigma is {sigma}; a finite standard deviation > 0 is expected, in units of pixels."
        )
    return float(sigma)


def _check_alpha(alpha: float) -> float:
    if not 0 < alpha < 1:
        raise InputError(
            f"alpha is {alpha}; the probability of an error is expected, between 0 and 1."
        )
    return float(alpha)
