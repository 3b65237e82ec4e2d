r"""Defences that only seem to work, each around a trained network: what lesson 10 takes apart.

Each was proposed in earnest, stops an attack that does not know of it, and falls to one that does
(`advlib.attacks.adaptive`). They change the image before the network sees it (`Quantised`, `JPEG`,
`Randomised`), scale the logits (`Scaled`), or reject an image (`Detector`). All are modules from
pixels in [0, 1] to logits, so that what attacks or measures a network works with them too. A
setting out of its range is an `InputError`, or a `ThreatError` if it must be a whole number >= 1.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advlib.contracts import check_images, check_steps
from advlib.errors import InputError

Score = Callable[[Tensor], Tensor]
"""From images (n, c, h, w) to one number each, (n,); a large one is suspicious."""

Draw = Callable[[Tensor, torch.Generator], Tensor]
"""From images and a random generator to images that were changed at random."""


def quantise(x: Tensor, levels: int) -> Tensor:
    """Pixels in [0, 1], rounded to `levels` equally spaced values, at least 2: 256 for 8 bits.

    The gradient is 0 wherever it exists.

    References
    ----------
    Xu, Evans & Qi 2018, "Feature Squeezing" (squeezing colour bits).
    """
    return (x * (levels - 1)).round() / (levels - 1)


class Transformed(nn.Module, ABC):
    """A network that sees each image as `prepare`, which a subclass defines, has changed it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @abstractmethod
    def prepare(self, x: Tensor) -> Tensor:
        """The images as the network sees them."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, c, h, w) in [0, 1]."""
        return self.model(self.prepare(x))


class Quantised(Transformed):
    """A network that sees rounded pixels only.

    Parameters
    ----------
    model
        Classifier from pixels in [0, 1] to logits.
    levels
        How many values a pixel may have, >= 2.
    """

    def __init__(self, model: nn.Module, levels: int = 16) -> None:
        super().__init__(model)
        if check_steps("levels", levels) < 2:
            raise InputError(f"levels is {levels}; 2 (black and white) or more are expected.")
        self.levels = levels

    def prepare(self, x: Tensor) -> Tensor:
        """The images, rounded."""
        return quantise(x, self.levels)


# Tables K.1 and K.2 of the JPEG standard (ITU-T T.81), for luminance and for chrominance.
_LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8 for _ in range(4)),
)
_TO_YCC = (
    (0.299, 0.587, 0.114),
    (-0.168735892, -0.331264108, 0.5),
    (0.5, -0.418687589, -0.081312411),
)


def jpeg_steps(quality: int) -> Tensor:
    """Rounding steps of luminance and chrominance, in grey levels of 255: shape (3, 8, 8).

    The Independent JPEG Group's rule: tables K.1 and K.2 of the standard at quality 50, finer above
    and coarser below.
    """
    quality = check_steps("quality", quality)
    if quality > 100:
        raise InputError(f"quality is {quality}; 1 (coarse) to 100 (fine) is expected.")
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    table = torch.tensor((_LUMINANCE, _CHROMINANCE, _CHROMINANCE))
    return ((table * percent + 50) // 100).clamp(1, 255).float()


def dct_matrix() -> Tensor:
    r"""The orthonormal cosine transform of 8 values, shape (8, 8): :math:`C C^\top = 1`."""
    k = torch.arange(8, dtype=torch.float64)
    matrix = torch.cos(torch.pi / 8 * (k + 0.5) * k[:, None]) / 2
    matrix[0] /= 2**0.5
    return matrix.float()


class JPEG(Transformed):
    r"""A network that sees images compressed as JPEG and decompressed again.

    Colours are separated into luminance and chrominance, blocks of 8 x 8 pixels are transformed to
    cosines, and each coefficient is rounded to a multiple of its step, which loses information.
    Left out are the Huffman codes, which change no pixel, the halved resolution of chrominance, and
    the last rounding to 8 bits.

    Parameters
    ----------
    model
        As for `Quantised`, with 3 colours.
    quality
        1 (coarse) to 100 (fine), as in image programs.

    References
    ----------
    Guo et al. 2018, "Countering Adversarial Images using Input Transformations"; ITU-T T.81.
    """

    steps: Tensor
    dct: Tensor
    to_ycc: Tensor
    to_rgb: Tensor

    def __init__(self, model: nn.Module, quality: int = 50) -> None:
        super().__init__(model)
        to_ycc = torch.tensor(_TO_YCC)
        self.register_buffer("steps", jpeg_steps(quality)[:, None, None] / 255, persistent=False)
        self.register_buffer("dct", dct_matrix(), persistent=False)
        self.register_buffer("to_ycc", to_ycc, persistent=False)
        self.register_buffer("to_rgb", torch.linalg.inv(to_ycc), persistent=False)

    def prepare(self, x: Tensor) -> Tensor:
        """The images (n, 3, h, w), compressed and decompressed; 8 need not divide their sides."""
        height, width = x.shape[2:]
        full = F.pad(x, (0, -width % 8, 0, -height % 8), mode="replicate")
        ycc = torch.einsum("ij,njhw->nihw", self.to_ycc, full - 0.5)
        blocks = ycc.unflatten(3, (-1, 8)).unflatten(2, (-1, 8)).transpose(3, 4)
        coefficients = self.dct @ blocks @ self.dct.T
        rounded = (coefficients / self.steps).round() * self.steps
        back = (self.dct.T @ rounded @ self.dct).transpose(3, 4).flatten(4).flatten(2, 3)
        rgb = torch.einsum("ij,njhw->nihw", self.to_rgb, back) + 0.5
        return rgb[:, :, :height, :width].clamp(0, 1)


class Randomised(Transformed):
    """A network that sees each image changed at random, anew in every call.

    With Gaussian noise and a denoiser in front of the classifier it *purifies* images.

    Parameters
    ----------
    model
        As for `Quantised`.
    draw
        The change: `resized`, or one of `advlib.defences.augmentation`.
    seed
        Of the module's own random generator, on the CPU.

    References
    ----------
    Xie et al. 2018, "Mitigating Adversarial Effects Through Randomization"; Liu et al. 2018,
    "Towards Robust Neural Networks via Random Self-Ensemble" (noise); Nie et al. 2022, "Diffusion
    Models for Adversarial Purification".
    """

    def __init__(self, model: nn.Module, draw: Draw, seed: int = 0) -> None:
        super().__init__(model)
        self.draw, self.generator = draw, torch.Generator().manual_seed(seed)

    def prepare(self, x: Tensor) -> Tensor:
        """The images, changed; another call gives others."""
        return self.draw(x, self.generator)


def resized(x: Tensor, generator: torch.Generator, *, smallest: float = 0.8) -> Tensor:
    """Each image shrunk by a random factor and placed at random on grey.

    Parameters
    ----------
    x, generator
        Images (n, c, h, w) in [0, 1], and a random generator on the CPU.
    smallest
        The smallest factor, in (0, 1]; factors are uniform from there to 1.
    """
    if not 0 < smallest <= 1:
        raise InputError(f"smallest is {smallest}; a scale in (0, 1] is expected.")
    drawn = torch.rand(3, len(x), generator=generator).to(x.device, x.dtype)
    scale = smallest + (1 - smallest) * drawn[0]
    theta = x.new_zeros(len(x), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / scale
    # The centre may go 1 - scale aside; affine_grid asks where each pixel comes from.
    theta[:, :, 2] = ((2 * drawn[1:] - 1) * (1 / scale - 1)).T
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    # grid_sample puts 0 around the image: 0 stands for grey temporarily.
    return (F.grid_sample(x - 0.5, grid, align_corners=False) + 0.5).clamp(0, 1)


class Scaled(nn.Module):
    """A network whose logits are multiplied: the same predictions, with extreme confidence.

    Defensive distillation has this effect: the network is trained at a high temperature and used
    without it.

    Parameters
    ----------
    model
        As for `Quantised`.
    factor
        Multiplies the logits, > 0.

    References
    ----------
    Papernot et al. 2016, "Distillation as a Defense to Adversarial Perturbations"; Carlini & Wagner
    2017, "Towards Evaluating the Robustness of Neural Networks" (why it only seems to work).
    """

    def __init__(self, model: nn.Module, factor: float = 100.0) -> None:
        super().__init__()
        if not factor > 0:
            raise InputError(f"factor is {factor}; a number > 0 is expected.")
        self.model, self.factor = model, factor

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, c, h, w) in [0, 1]."""
        return self.factor * self.model(x)


def roughness(x: Tensor, size: float = 2 / 255) -> Tensor:
    r"""How much of each image, shape (n, c, h, w), is not smooth: shape (n,), in [0, 1).

    .. math:: \operatorname{mean}_i \tanh(|x_i - \bar x_i| / s)

    where :math:`\bar x` is the mean of the 3 x 3 pixels around, and `size`, :math:`s > 0`, is the
    difference that counts as rough, in units of pixels. An edge counts at most 1, so that a few
    strong edges weigh little and faint noise everywhere weighs much.
    """
    around = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, 1)
    return ((x - around).abs() / size).tanh().flatten(1).mean(1)


class Detector(nn.Module):
    r"""A network that rejects an image where a statistic of it is too large.

    Rejected images are classified as one class more than the network has, with the logit

    .. math:: z_r = \max_j z_j + \text{sharpness} \cdot (s(x) / \text{threshold} - 1)

    Parameters
    ----------
    model
        As for `Quantised`.
    threshold
        Scores above it are rejected, > 0; see `threshold_for`.
    score
        The statistic: from images (n, c, h, w) to one number each. By default `roughness`.
    sharpness
        Slope of the logit :math:`z_r`, > 0; it changes no prediction.

    References
    ----------
    Carlini & Wagner 2017, "Adversarial Examples Are Not Easily Detected: Bypassing Ten Detection
    Methods" (statistics of the image as detectors, and network and detector as one classifier
    with one class more).
    """

    def __init__(
        self, model: nn.Module, threshold: float, score: Score = roughness, sharpness: float = 10.0
    ) -> None:
        super().__init__()
        if not (threshold > 0 and sharpness > 0):
            raise InputError(
                f"threshold is {threshold} and sharpness {sharpness}; numbers > 0 are expected."
            )
        self.model, self.threshold, self.score = model, threshold, score
        self.sharpness = sharpness

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes + 1) of images (n, c, h, w) in [0, 1]; the last class: rejected."""
        logits = self.model(x)
        excess = self.score(x) / self.threshold - 1
        reject = logits.amax(1) + self.sharpness * excess
        return torch.cat([logits, reject[:, None]], 1)


def threshold_for(x: Tensor, score: Score = roughness, *, false_alarms: float = 0.05) -> float:
    """Threshold at which a `Detector` rejects this share of clean images.

    Parameters
    ----------
    x
        Clean images, shape (n, c, h, w); the `Detector` is then tested on others.
    score
        As for `Detector`.
    false_alarms
        Share of `x` that may be rejected, in [0, 1).

    Raises
    ------
    InputError, PixelError
        A share outside [0, 1), no images, or images that cannot be used.
    """
    if not 0 <= false_alarms < 1:
        raise InputError(f"false_alarms is {false_alarms}; a share in [0, 1) is expected.")
    x = check_images(x)
    if len(x) == 0:
        raise InputError("x holds no images; a threshold needs some, a few hundred if possible.")
    return float(score(x).quantile(1 - false_alarms))
