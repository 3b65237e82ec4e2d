"""What the Live Lab is given when the book is built; tests/pages/test_lab.py drives it."""

import base64
import json
import re
import struct

import numpy as np
import pytest
import torch
from course import lab, labs, live_lab
from torch import nn

import advlib
from advlib.data import signs
from advlib.evaluation import predict
from advlib.models.architectures import SignNet
from advlib.plots import palette


@pytest.fixture(scope="module")
def opening():
    return lab.opening()


def read(file: bytes) -> tuple[dict, np.ndarray]:
    (length,) = struct.unpack("<I", file[:4])
    return json.loads(file[4 : 4 + length]), np.frombuffer(file[4 + length :], "<f4")


def test_the_weights_are_one_file_that_counts_its_numbers():
    file = lab.weights()
    assert len(file) <= 1.5e6
    assert file == lab.weights()
    header, numbers = read(file)
    assert header["numbers"] == len(numbers)
    assert set(header["networks"]) == {"standard", "robust"}
    stem = header["networks"]["robust"][1]
    model = advlib.models.load("signs-robust")
    size = model.stem.weight.numel()
    stored = numbers[stem["weight"] :][:size].reshape(-1, 3, 3, 3)
    np.testing.assert_array_equal(stored, model.stem.weight.permute(0, 2, 3, 1))
    variance = numbers[stem["norm"]["places"][3] :][: stem["out"]]
    np.testing.assert_array_equal(variance, model.norm.running_var)


def test_every_shape_of_a_sign_net_can_be_described():
    packed = lab.Packed()
    model = SignNet(widths=(4, 4, 8), depths=(2, 1, 1))
    layers = lab.describe(model, packed)
    assert [layer["op"] for layer in layers].count("sum") == 4
    # All but the counters of the batch norms.
    state = [value for value in model.state_dict().values() if value.is_floating_point()]
    assert packed.count == sum(value.numel() for value in state)


def test_another_network_is_refused():
    with pytest.raises(TypeError, match="runs a SignNet; Linear"):
        lab.describe(nn.Linear(2, 2), lab.Packed())


def test_images_are_as_the_page_has_them():
    x, y = lab.images()
    assert len(x) == len(signs.CLASS_NAMES) * lab.IMAGES_PER_CLASS
    assert y.tolist() == sorted(y.tolist())
    assert torch.equal(x, (x * 255).round() / 255)
    decoded = np.frombuffer(base64.b64decode(lab.pixels(x[:1])), np.uint8).reshape(64, 64, 3)
    np.testing.assert_array_equal(decoded, (x[0] * 255).round().permute(1, 2, 0))


def test_the_opening_state_is_what_the_networks_make_of_it(opening):
    pixels = np.frombuffer(base64.b64decode(opening["pixels"]), np.uint8).astype(int)
    assert opening["classes"][opening["y"]] == "stop"
    for name, title in lab.NETWORKS.items():
        stored = opening["networks"][name]
        direction = np.frombuffer(base64.b64decode(stored["direction"]), np.int8)
        for stop, shares in enumerate(stored["probabilities"]):
            moved = (pixels + stop * direction).clip(0, 255).reshape(1, 64, 64, 3) / 255
            x = torch.from_numpy(moved).permute(0, 3, 1, 2)
            found = predict(advlib.models.load(title).double(), x).softmax(1)[0]
            np.testing.assert_allclose(shares, found, atol=1e-5)
            assert stored["losses"][stop] == pytest.approx(-float(found[0].log()), abs=1e-4)


def test_the_opening_state_tells_the_story(opening):
    at = opening["eps"]
    standard, robust = (opening["networks"][n]["probabilities"] for n in ("standard", "robust"))
    assert np.argmax(standard[0]) == np.argmax(robust[0]) == opening["y"]
    assert np.argmax(standard[at]) != opening["y"] and max(standard[at]) > 0.8
    assert robust[at][opening["y"]] > 0.9


def _module(name: str) -> str:
    return (lab.MODULES / f"{name}.mjs").read_text(encoding="utf-8")


def test_the_page_has_the_stops_for_which_the_opening_state_is_stored(opening):
    settings = _module("settings")
    (stops,) = re.findall(r"STOPS = (\d+);", settings)
    (linf,) = re.findall(r"linf: .* eps: \(stop\) => stop / (\d+),", settings)
    assert [stop / int(linf) for stop in range(int(stops))] == lab.EPS
    assert 0 <= opening["eps"] < int(stops)


def test_the_page_says_how_much_it_fetches():
    (said,) = re.findall(r"Loading the networks \((.*?)\)", _module("panel"))
    assert said == f"{len(lab.weights()) / 1e6:.1f} MB"


def test_the_scripts_are_one_function_and_the_worker_is_inside():
    worker, page = ([_module(name) for name in names] for names in (lab.IN_WORKER, lab.IN_PAGE))
    script = lab.bundle(worker, page)
    assert not re.search(r"^\s*(import|export)\b", script, re.MULTILINE)
    assert script.startswith('"use strict";\n(() => {\nfunction engineScope(port) {')
    worker = script.index("serve(port, openNetwork);")
    assert script.index("function makeNetwork") < worker < script.index("function makePanel")
    assert {path.stem for path in lab.MODULES.glob("*.mjs")} == {*lab.IN_WORKER, *lab.IN_PAGE}


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ('import x from "./other.mjs";\n', "cannot be joined: 'import x"),
        ("export default 3;\n", "cannot be joined: 'export default"),
        ("const size = 1;\nexport function size() {}\n", "use the same name: size"),
    ],
)
def test_a_module_that_cannot_be_joined_is_named(module, message):
    with pytest.raises(ValueError, match=message):
        lab.bundle([module], [])


def test_the_colours_are_the_courses():
    style = (lab.MODULES / "lab.css").read_text(encoding="utf-8")
    assert set(re.findall(r"#[0-9A-Fa-f]{6}\b", style)) == {palette.STANDARD, palette.ROBUST}


def test_the_page_holds_its_data_and_no_parser_takes_it_for_a_tag(opening):
    html = live_lab.lab_html({**opening, "classes": ["</script>"]}, 'a "b"', "../lab/", "?v=1")
    assert html.count("</script>") == 2
    assert 'alt="a &quot;b&quot;"' in html
    assert '<script src="../lab/lab.js?v=1"></script>' in html
    assert html.index("<img") < html.index("application/json")


def test_the_files_are_the_same_each_time(tmp_path):
    alt = lab.write(tmp_path / "first")
    assert alt == lab.write(tmp_path / "second")
    assert "standard network classifies it as" in alt
    names = sorted(path.name for path in (tmp_path / "first").iterdir())
    assert names == ["images.js", "lab.js", "lab.png", "weights.bin", "weights.js"]
    for name in names:
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()
    assert labs.digest(tmp_path / "first") == labs.digest(tmp_path / "second")
    (tmp_path / "second" / "weights.bin").write_bytes(b"")
    assert labs.digest(tmp_path / "first") != labs.digest(tmp_path / "second")
