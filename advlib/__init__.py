"""Adversarial examples, hands on: attacks, defences and measurements, written to be read.

Begin with the core, which reads as a text: `threats` (the norms, and the ball around an image),
`gradients` (losses, and where an input gradient is taken), `attacks.noise`, `attacks.fgsm`,
`attacks.pgd`, `evaluation` (accuracy, curves, intervals) and `training`. It stands on `contracts`
(what is checked, and left as it was), `errors`, `exact` (arithmetic), `data` and `models`. On it
stand the wings:

- `attacks`: Auto-PGD, Square Attack, the smallest perturbation by gradients or decisions, momentum,
  universal perturbations, patches, adaptive attacks, attacks that end on the grid of 8 bits, words
  added to a text
- `analysis`: the loss around an image, linearity, activations, attribution
- `defences`: smoothing, transforms and detectors, training losses and recipes, augmentation
- `audit`: robust accuracy, attack checks, gradient masking, transfer, the robustness card
- `fast`: an accelerated copy of a model

What only a reader needs is `lessons` (checks of the exercises), `plots` and `widgets`. Imports run
downward only; `pyproject.toml` says so, and a test checks it.
"""

from advlib import data, models, threats
from advlib.attacks import fgsm, noise, pgd
from advlib.audit import audit
from advlib.contracts import best_device
from advlib.errors import (
    AdvlibError,
    DeviceError,
    DownloadError,
    InputError,
    LabelError,
    ModelOutputError,
    PixelError,
    ThreatError,
    WeightsError,
)
from advlib.evaluation import accuracy, wilson
from advlib.gradients import input_gradient

__version__ = "0.1.0"

__all__ = [
    "AdvlibError",
    "DeviceError",
    "DownloadError",
    "InputError",
    "LabelError",
    "ModelOutputError",
    "PixelError",
    "ThreatError",
    "WeightsError",
    "accuracy",
    "audit",
    "best_device",
    "data",
    "fgsm",
    "input_gradient",
    "models",
    "noise",
    "pgd",
    "threats",
    "wilson",
]
