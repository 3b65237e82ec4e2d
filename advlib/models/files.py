"""Weights in files of `torch.save`: loaded without running code, and checked."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from advlib.errors import WeightsError


def built(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A new network with initial weights from `seed`; global random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPUs too
        return build()


def fill(model: nn.Module, path: Path, name: str, advice: str) -> None:
    """Load the weights in `path` into `model`.

    `WeightsError` says that the file is damaged or does not belong to the network called `name`,
    and ends with `advice`.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, pickle and torch each have their own for damaged bytes
        raise WeightsError(
            f"{path} cannot be read as weights ({type(error).__name__}: {str(error)[:120]}); it is "
            f"damaged or cut short: {advice}"
        ) from error
    try:
        model.load_state_dict(state)
    except (RuntimeError, AttributeError, TypeError) as error:
        raise WeightsError(
            f"{path} does not hold the weights of {name} ({str(error)[:200]}): {advice}"
        ) from error
    if not all(value.isfinite().all() for value in model.state_dict().values()):
        raise WeightsError(f"{path} holds values that are not finite: {advice}")
