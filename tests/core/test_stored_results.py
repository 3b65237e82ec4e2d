"""Noise, FGSM and PGD give what an earlier, independent implementation of them gave.

`stored_results.safetensors` holds its results for three norms, three dtypes and the settings below,
on a small network with weights and images of a fixed seed. Steps in l-infinity are signs, so there
the results must agree bit by bit; in l2 and l1 up to rounding.
"""

from pathlib import Path

import pytest
import reference
import torch
from safetensors.torch import load_file
from torch import Tensor

import advlib

RANDOM_STATE_IS_WATCHED = True

STORED = Path(__file__).with_name("stored_results.safetensors")
BUDGET = {"linf": 0.1, "l2": 0.5, "l1": 2.0}
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}
ROUNDING = {"float32": 2e-6, "float64": 1e-12, "bfloat16": 0.02}
WHERE = torch.arange(12).reshape(3, 2, 2) % 3 > 0
SETTINGS: dict[str, dict] = {
    "noise": {},
    "noise where": {"where": WHERE},
    "fgsm": {},
    "fgsm targeted": {"targeted": True},
    "fgsm where": {"where": WHERE, "loss": "margin"},
    "pgd": {},
    "pgd targeted": {"targeted": True, "steps": 7, "loss": "margin"},
    "pgd restarts": {"restarts": 3, "steps": 4},
    "pgd early": {"early_stop": True, "restarts": 2, "steps": 5},
    "pgd where": {"where": WHERE, "steps": 6, "step_size": 0.05},
    "pgd at x": {"random_start": False, "steps": 5, "early_stop": True, "where": WHERE},
}


def attacked(setting: str, norm: str, dtype: torch.dtype) -> Tensor:
    x, y = reference.images(5, 3, 2, 2, seed=7, ends=0.1).to(dtype), reference.classes(5, seed=7)
    model = reference.mlp(12, seed=3).to(dtype)
    options = {"norm": norm, **SETTINGS[setting]}
    if setting.startswith("noise"):
        return advlib.noise(x, BUDGET[norm], **options)
    return getattr(advlib, setting.split()[0])(model, x, y, BUDGET[norm], **options)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("norm", BUDGET)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_results_are_the_stored_ones(setting: str, norm: str, dtype: str) -> None:
    found, stored = attacked(setting, norm, DTYPES[dtype]), load_file(STORED)
    wanted = stored[f"{setting} {norm} {dtype}"]
    if norm == "linf":
        assert torch.equal(found, wanted)
    else:
        torch.testing.assert_close(found, wanted, rtol=0, atol=ROUNDING[dtype])
