"""What the Photo Lab is given when the book is built; tests/pages/test_photolab.py drives it."""

import base64
import hashlib
import json
import re
import struct
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from course import lab, labs, photo_lab, photo_networks, photo_page
from docutils.statemachine import StringList
from docutils.utils import new_document
from finish import policy, vendor
from repository import ROOT
from torch import Tensor, nn

import advlib
from advlib.data.photographs import photograph
from advlib.errors import InputError, WeightsError
from advlib.evaluation import predict
from advlib.models.efficientnet import EfficientNetLite0, load_installed


@pytest.fixture(scope="module")
def trained() -> EfficientNetLite0:
    net = EfficientNetLite0()
    load_installed(net)
    return net.eval()


@pytest.fixture(scope="module")
def halved(trained: EfficientNetLite0) -> EfficientNetLite0:
    return photo_networks.halved(trained)


@pytest.fixture(scope="module")
def x() -> Tensor:
    return (photograph("coffee") * 255 - 127) / 128


def test_half_precision_changes_little(
    trained: EfficientNetLite0, halved: EfficientNetLite0, x: Tensor
) -> None:
    with torch.no_grad():
        before, after = trained(x), halved(x)
    assert 0 < (before - after).abs().max() < 0.05
    assert before.argmax() == after.argmax()


def test_every_weight_is_a_number_of_half_precision(halved: EfficientNetLite0) -> None:
    for values in halved.parameters():
        assert torch.equal(values, values.half().float())


def test_the_weights_are_one_small_file_that_counts_its_numbers(
    halved: EfficientNetLite0,
) -> None:
    file = photo_networks.weights(halved)
    assert len(file) <= 9.6e6
    assert file == photo_networks.weights(halved)
    (length,) = struct.unpack("<I", file[:4])
    header = json.loads(file[4 : 4 + length])
    numbers = np.frombuffer(file[4 + length :], "<f2")
    assert header["count"] == len(numbers) and np.isfinite(numbers).all()
    stem = header["layers"][1]
    stored = numbers[stem["weight"] :][: 32 * 27].reshape(32, 3, 3, 3)
    conv = halved.stem[1]
    assert isinstance(conv, nn.Conv2d)
    np.testing.assert_array_equal(stored, conv.weight.detach().permute(0, 2, 3, 1))
    assert header["layers"][-1]["out"] == 1000


def test_the_layers_are_those_of_the_network(halved: EfficientNetLite0) -> None:
    packed = lab.Packed("<f2")
    layers = photo_networks.describe(halved, packed)
    flat = [each for layer in layers for each in layer.get("branches", [[layer]])[0]]
    assert [layer["op"] for layer in layers].count("sum") == sum(b.residual for b in halved.blocks)
    assert [layer["op"] for layer in flat].count("depthwise") == len(halved.blocks) == 16
    # The kernel reads eight channels at once, and sixteen where each has a kernel of its own.
    for layer in flat:
        unit = {"conv": 8, "depthwise": 16}.get(layer["op"])
        assert unit is None or layer["out"] % unit == 0


def test_the_files_carry_a_hash(tmp_path: Path, halved: EfficientNetLite0) -> None:
    file = photo_networks.weights(halved)
    told = photo_lab.write_weights(tmp_path, "lite0", file)
    assert (tmp_path / "lite0.bin").read_bytes() == file
    assert told["sha256"] == hashlib.sha256(file).hexdigest() and told["bytes"] == len(file)
    (stored,) = re.findall(r'lite0 = "(.*)";', (tmp_path / "lite0.js").read_text())
    assert base64.b64decode(stored) == file


def test_the_script_holds_the_kernel_and_every_module(tmp_path: Path) -> None:
    kernel = tmp_path / "kernel.wasm"
    kernel.write_bytes(b"\0asm")
    script = photo_lab.script(kernel, ["export function start(engineScope) {}\n"])
    assert 'const KERNEL = base64Bytes("AGFzbQ==");' in script
    assert script.index("function slowKernel") < script.index("serve(port, openNetwork);")
    assert "const KERNEL = null;" in photo_lab.script(None, [])
    whole = photo_lab.script(kernel, photo_lab.sources(photo_lab.INTERFACE))
    assert not re.search(r"^\s*(import|export)\b", whole, re.MULTILINE)
    assert len(whole) < 95_000
    modules = {f"photolab/{path.stem}" for path in photo_lab.MODULES.glob("*.mjs")}
    assert modules <= {*photo_lab.IN_WORKER, *photo_lab.IN_PAGE, *photo_lab.INTERFACE}


def test_stored_answers_are_what_the_network_makes_of_the_attacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(photo_lab, "BUDGETS", {"linf": (0, 2)})
    model, x = photo_networks.lite0(), photo_lab.shipped("camera")
    known = photo_lab.answers(model, x)
    y = predict(model, x).argmax(1)
    shown = known["answers"]
    tripod = model.categories.index("tripod")
    assert [shown[name][0]["rows"][0][0] for name in ("noise", "fgsm")] == [tripod, tripod]
    packed = np.frombuffer(base64.b64decode(known["fgsm"]), np.uint8)
    signs = torch.from_numpy(2.0 * np.unpackbits(packed) - 1).reshape(1, 224, 224, 3)
    x_adv = (x + 2 / 255 * signs.permute(0, 3, 1, 2)).clamp(0, 1).float()
    same = torch.isclose(x_adv, advlib.fgsm(model, x, y, 2 / 255), atol=1e-6)
    assert same.float().mean() > 0.999  # where the gradient is all but 0, its sign is anyone's
    logits = predict(model, x_adv)
    shares = logits.softmax(1)[0]
    found = shown["fgsm"][1]
    assert found["rows"][0][0] == int(shares.argmax())
    assert model.categories[int(shares.argmax())] == "harmonica"  # as the welcome page says
    assert shown["noise"][1]["rows"][0][0] == tripod
    assert tripod in [place for place, _ in found["rows"]] and len(found["rows"]) == 5
    for place, share in found["rows"]:
        assert share == pytest.approx(float(shares[place]), abs=1e-4)
    assert found["loss"] == pytest.approx(-float(logits.log_softmax(1)[0, tripod]), abs=1e-3)


def test_the_stored_pgd_is_an_attack_within_its_budget() -> None:
    model, x = photo_networks.lite0(), photo_lab.shipped("coffee")
    y = predict(model, x).argmax(1)
    known = photo_lab.pgd_answer(model, x, y, 1)
    letters = np.frombuffer(known["change"].encode(), np.uint8).astype(int) - 35
    quarters = np.stack([letters // 9, letters % 9], -1).reshape(1, 224, 224, 3) - 4
    assert np.abs(quarters).max() == 4
    delta = torch.from_numpy(quarters / 4 / 255).permute(0, 3, 1, 2)
    x_adv = (x + delta).clamp(0, 1).float()
    found = advlib.pgd(model, x, y, 1 / 255, steps=10, random_start=False)
    same = torch.isclose(x_adv, found, atol=1e-6)  # but for values that have met the box
    assert same.float().mean() > 0.99
    shares = predict(model, x_adv).softmax(1)[0]
    (first, share), *_ = known["rows"]
    assert first == int(shares.argmax()) != int(y)
    assert share == pytest.approx(float(shares[first]), abs=1e-4)
    assert len(known["losses"]) == 11 and known["losses"][-1] > known["losses"][0]


@pytest.mark.parametrize("error", [WeightsError("no weights"), InputError("no photographs")])
def test_without_network_or_photographs_build_and_page_say_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    heard: list[str] = []
    monkeypatch.setattr(photo_page.LOG, "info", lambda text, *values: heard.append(text % values))
    monkeypatch.setattr(photo_networks, "lite0", Mock(side_effect=error))
    app = Mock(srcdir=tmp_path)
    for html in (photo_page.lab_html, photo_page.answer_html):
        written = photo_page._write(html, app, tmp_path)("./", "?v=1")
        assert "not part of this build" in written and "<script" not in written
    assert heard[-1] == f"The Photo Lab is left out of the book: {error}"
    assert "kernel is not compiled" in heard[0]  # nor is there any, below this folder


def test_a_page_is_built_again_when_what_its_lab_is_made_of_changes() -> None:
    noted: list[str] = []
    document = new_document("page")
    document.settings.env = SimpleNamespace(note_dependency=noted.append)
    state = SimpleNamespace(document=document)
    directive = labs._LabDirective("photo-lab", [], {}, StringList(), 1, 0, "", state, Mock())
    (lab,) = directive.run()
    assert lab["name"] == "photo-lab"
    made_of = {Path(path).name for path in noted}
    assert {"attacks.mjs", "levels.mjs", "kernel.ts", "photo_lab.py", "lab.py"} <= made_of


def test_wrong_weights_of_the_second_network_leave_it_out_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    monkeypatch.setattr(photo_networks.LOG, "info", lambda text, *all: heard.append(text % all))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "squeezenet1_1-b8a52dc0.pth").write_bytes(b"other weights")
    assert photo_networks.squeezenet() is None
    assert len(heard) == 1 and "SqueezeNet is left out of the Photo Lab" in heard[0]


def test_without_its_weights_the_second_network_is_not_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photo_networks, "cache_folder", lambda: tmp_path / "none")
    monkeypatch.setattr(photo_lab, "_write_photograph", Mock())
    opening = photo_lab.write(tmp_path / "lab", None)
    assert [network["name"] for network in opening["networks"]] == ["lite0"]
    assert not (tmp_path / "lab" / "squeezenet.bin").exists()


def test_only_the_page_with_the_lab_may_run_a_compiled_kernel() -> None:
    page = '<head><meta charset="utf-8"></head><body>{}</body>'
    assert "wasm" not in policy.policy(page.format('<div class="advlib-lab"></div>'))
    allowed = policy.policy(page.format('<div class="advlib advlib-photolab"></div>'))
    assert "'wasm-unsafe-eval'" in allowed and "'unsafe-eval'" not in allowed


def test_the_kernel_is_compiled_where_npm_is() -> None:
    kernel = vendor.kernel(ROOT)
    if kernel is None:
        pytest.skip("the kernel is not compiled: `sudo apt-get install npm` and build the book")
    assert kernel.read_bytes()[:4] == b"\0asm" and kernel.stat().st_size < 4000


def test_a_source_that_is_no_program_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []
    monkeypatch.setattr(vendor.LOG, "info", lambda text, *values: heard.append(text % values))
    vendor._compile(tmp_path / "node_modules", tmp_path / "kernel.wasm")  # no compiler there
    assert "kernel could not be compiled" in heard[0]
    assert not (tmp_path / "kernel.wasm").exists()
