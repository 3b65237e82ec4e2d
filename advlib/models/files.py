"""Weights in files: found where a package installed them, checked, loaded without running code."""

import hashlib
from collections.abc import Callable
from importlib import metadata
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


def installed(
    package: str, file: str, sha256: str, advice: str, what: str, missing: str = ""
) -> Path:
    """Where a `file` of an installed `package` lies, which holds the weights of `what`.

    `WeightsError` if it is missing or not the known one, and how to get it: by the command
    `advice`, or `missing` where the package is not installed at all.
    """
    try:
        path = Path(str(metadata.distribution(package).locate_file(file)))
    except metadata.PackageNotFoundError:
        raise WeightsError(
            f"the weights of {what} are not installed: {missing or advice}"
        ) from None
    if not path.is_file():
        raise WeightsError(f"{path} is missing, a part of the package {package}: {advice}")
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if digest != sha256:
        raise WeightsError(
            f"{path} has SHA-256 {digest[:16]}..., but {sha256[:16]}... is expected: it is "
            f"damaged, or another file. Nothing of it was loaded. {advice}"
        )
    return path
