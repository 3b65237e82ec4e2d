"""Adversarial examples, hands on: attacks, defences and measurements, written to be read.

The floors of the package, from the ground up; imports run downward only:

1. `threats` (the balls), `data` (pictures), `models` (networks)
2. `gradients` (where an input gradient is taken); on it `landscape`, `linearity`, `activations` and
   `attribution` (what lies around a picture and inside a network), `adaptive` (through defences
   and chance), `fast` with `folding`, `packing` and `winograd` (the same in less time)
3. `attacks` (noise, FGSM, PGD), `autopgd`, `square` (queries only), `patches`; `evaluation`,
   `robustness` (robust accuracy for a price)
4. `defences`, `inspection` (of attacks), `masking` (of defences), `smoothing` (a certificate),
   `transfer`, `objectives` (what training minimises)
5. `training`, `auditing` (of any classifier)
6. `recipes`, `checks`, `plots`, `widgets` (what only the reader's edge needs)
"""

from advlib import data, models, threats
from advlib.attacks import fgsm, noise, pgd
from advlib.auditing import audit
from advlib.device import best_device
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
