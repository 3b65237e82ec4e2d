"""The best device at hand, in one call."""

import torch


def best_device() -> torch.device:
    """Return the fastest device that this machine offers: CUDA, then Apple's MPS, then the CPU.

    `advlib` computes wherever its tensors live. Lessons call this once and put model and
    pictures there.

    Returns
    -------
    torch.device
        ``cuda``, ``mps`` or ``cpu``.

    Examples
    --------
    >>> best_device().type in {"cuda", "mps", "cpu"}
    True
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")
