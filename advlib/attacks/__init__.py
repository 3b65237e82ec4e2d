"""Attacks, one a file: random noise to compare with, one step, many steps, and what goes further.

All return a new tensor `x_adv` with the shape, dtype and device of `x`, with ``norm(x_adv - x) <=
eps`` exactly as computed in that dtype, and pixels in [0, 1]. They compute where the tensors live
and leave nothing behind: the caller's tensors, the model's mode, buffers and gradients, and the
global random state are as before, also after an error.

One module attacks no images: `advlib.attacks.token_exchange` adds words to a text.
"""

from advlib.attacks.fast_fgsm import fast_fgsm
from advlib.attacks.fgsm import fgsm
from advlib.attacks.noise import noise
from advlib.attacks.pgd import pgd

__all__ = ["fast_fgsm", "fgsm", "noise", "pgd"]
