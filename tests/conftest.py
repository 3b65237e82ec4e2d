"""What all tests share: devices, Hypothesis profiles, and a watch on the global random state."""

import os
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from explorers import pytest_collection_modifyitems  # noqa: F401  (asks them in each lesson)
from hypothesis import HealthCheck, Phase, settings

_common = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
# Quick: the same few cases every time. Long: 2,000 new cases every week. A slow property takes a
# part of either number, see cases.py.
# Faults: as quick, but any case that fails will do, not only the smallest.
settings.register_profile("quick", max_examples=25, derandomize=True, database=None, **_common)
settings.register_profile(
    "faults", settings.get_profile("quick"), phases=(Phase.explicit, Phase.generate)
)
# Hypothesis would repeat the same cases wherever CI is set.
settings.register_profile("long", max_examples=2_000, derandomize=False, **_common)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


if torch.cuda.is_available():  # answers are compared: no convolution in 11 bits (TF32)
    if hasattr(torch.backends, "fp32_precision"):  # torch >= 2.9
        torch.backends.cudnn.conv.fp32_precision = torch.backends.cudnn.rnn.fp32_precision = "ieee"
    else:
        torch.backends.cudnn.allow_tf32 = False


@pytest.fixture(scope="session", params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every test that asks for it runs on the CPU, and on CUDA where there is one."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device: torch.cuda.is_available() is False")
    return torch.device(request.param)


def _random_state() -> tuple:
    algorithm, keys, *rest = np.random.get_state()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return (
        torch.get_rng_state().tolist(),
        [state.tolist() for state in cuda],
        (algorithm, keys.tolist(), rest),
        random.getstate(),
    )


@pytest.fixture(autouse=True)
def random_state_is_left_alone(request: pytest.FixtureRequest) -> Iterator[None]:
    """In modules with ``RANDOM_STATE_IS_WATCHED = True``, no test may move a global generator.

    The tests there draw everything from generators of their own, so that any movement is the
    package's fault. Other modules are left alone: training may well seed the global state.
    """
    if not getattr(request.module, "RANDOM_STATE_IS_WATCHED", False):
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.init()
    before = _random_state()
    yield
    assert _random_state() == before, "a global random state was changed"
