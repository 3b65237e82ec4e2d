"""The Photo Lab's network in two browsers: its numbers against PyTorch's, its attacks, its kernel.

`photolab.mjs` is what runs in the page. PyTorch has the same weights, rounded to half precision.
"""

import base64
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from browsing import missing
from cases import attacked
from course import lab, photo_lab, photo_networks
from finish import policy, vendor
from repository import ROOT
from torch import Tensor, nn

import advlib
from advlib.attacks.eight_bit import eight_bit
from advlib.data.photographs import PHOTOGRAPHS, photograph
from advlib.errors import WeightsError
from advlib.gradients import input_gradient
from advlib.models.efficientnet import EfficientNetLite0
from advlib.models.imagenet import Normalised

COMPARED, DOUBLES = 20, 3
KERNELS = [True, False]
"""The compiled kernel, and the one in JavaScript."""
PAGE = '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Photo Lab</title>\
<link rel="icon" href="data:,"></head><body><div class="advlib-photolab"></div></body></html>'
SIZES = [[1, 1, 8], [2, 7, 16], [3, 27, 8], [5, 9, 24], [49, 33, 8], [67, 8, 40], [130, 13, 8]]


@pytest.fixture(scope="session")
def model() -> Normalised:
    """Return the network with the page's weights."""
    try:
        whole = advlib.models.imagenet("efficientnet_lite0")
    except WeightsError as error:
        missing(str(error))
    whole.net = photo_networks.halved(whole.net)
    return whole


@pytest.fixture(scope="session")
def images() -> Tensor:
    """Return the photographs and random pieces of them, mirrored or not, in 8 bits."""
    generator = torch.Generator().manual_seed(21)
    x = [photograph(name) for name in PHOTOGRAPHS]
    while len(x) < COMPARED:
        whole = photograph(list(PHOTOGRAPHS)[len(x) % len(PHOTOGRAPHS)], resize=300, crop=300)
        top, left, mirrored = (int(torch.randint(76, (), generator=generator)) for _ in range(3))
        piece = whole[..., top : top + 224, left : left + 224]
        x.append(piece.flip(3) if mirrored % 2 else piece)
    return (torch.cat(x) * 255).round() / 255


class Site(NamedTuple):
    """What the page is given, and the two most likely classes of each image."""

    root: Path
    net: EfficientNetLite0
    first: list[int]
    second: list[int]


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, model: Normalised, images: Tensor) -> Site:
    """Return a folder with the modules, the images and what PyTorch makes of them."""
    root = tmp_path_factory.mktemp("photolab")
    for modules in (lab.MODULES, photo_lab.MODULES):
        shutil.copytree(modules, root / modules.name)
    shutil.copy(Path(__file__).with_name("photolab.mjs"), root)
    kernel = vendor.kernel(ROOT)
    if kernel is None:
        missing("The kernel is not compiled: `sudo apt-get install npm` and build the book")
    shutil.copy(kernel, root)
    (root / "lite0.bin").write_bytes(photo_networks.weights(model.net))
    (root / "compared.bin").write_bytes(_channels_last((images * 255).to(torch.uint8)).tobytes())
    first, second = _write_compared(root, "lite0", model, images)
    (root / "index.html").write_text(policy.guard(PAGE), encoding="utf-8")
    return Site(root, model.net, first, second)


def _write_compared(
    root: Path, name: str, model: nn.Module, images: Tensor
) -> tuple[list[int], list[int]]:
    """Write what PyTorch makes of the images; return the two most likely classes of each."""
    with torch.no_grad():
        first, second = torch.cat([model(x[None]).topk(2).indices for x in images]).T
    # The second most likely class: the slope of the most likely one, p - 1, may be all rounding.
    each = zip(images[:, None], second[:, None], strict=True)
    found = [input_gradient(model, x, y) for x, y in each]
    logits = torch.cat([f.logits for f in found])
    (root / f"{name}-logits.bin").write_bytes(logits.numpy().tobytes())
    grads = torch.cat([f.grad for f in found])
    (root / f"{name}-grads.bin").write_bytes(_channels_last(grads).tobytes())
    return first.tolist(), second.tolist()


def _doubles(text: str) -> np.ndarray:
    return np.frombuffer(bytearray(base64.b64decode(text)), np.float64)


def _channels_last(x: Tensor) -> np.ndarray:
    return x.permute(0, 2, 3, 1).contiguous().numpy()


Call = Callable[..., Any]


@pytest.fixture(scope="session")
def chromium(browser: Any, site: Site, serve: Callable[[Path], str]) -> Call:
    """Return a function that calls one of `photolab.mjs` in a page of Chromium."""
    page = browser.new_page()
    page.goto(serve(site.root))
    return lambda name, *values: page.evaluate(_expression(name, values))


@pytest.fixture(scope="session")
def in_firefox(firefox: Any, site: Site, serve: Callable[[Path], str]) -> Call:
    """Return a function that calls one of `photolab.mjs` in a page of Firefox."""
    address = serve(site.root)

    def call(name: str, *values: Any) -> Any:
        firefox.open(address, "index.html")
        return firefox.evaluate(_expression(name, values))

    return call


@pytest.fixture
def call(request: pytest.FixtureRequest) -> Iterator[Call]:
    """Return the function of the browser that a test is given."""
    return request.getfixturevalue(request.param)


def _expression(name: str, values: tuple[Any, ...]) -> str:
    return f"import('./photolab.mjs').then((m) => m.{name}(...{json.dumps(values)}))"


in_both = pytest.mark.parametrize("call", ["chromium", "in_firefox"], indirect=True)


# -- numbers


def agree(grads: list[float]) -> None:
    """Check the errors of gradients, the first two of them those of the cat and the coffee.

    Where what enters a ReLU6 is within rounding of 0 or 6, the gradient jumps. So on most images
    PyTorch's own, in single and in double precision, are up to 2e-3 apart; on these two, 1e-6.
    """
    assert max(grads[:2]) < 1e-4
    assert max(grads) < 1e-2


@in_both
def test_logits_and_input_gradients_are_pytorchs(call: Call, site: Site) -> None:
    found = call("errors", True, list(range(COMPARED)), site.second)
    assert [each["predicted"] for each in found] == site.first
    assert max(each["logits"] for each in found) < 1e-4
    agree([each["grads"] for each in found])


@pytest.fixture(scope="session")
def squeezenet(site: Site, images: Tensor) -> tuple[list[int], list[int]]:
    """Write what the page is to compare; return the two most likely classes of each image."""
    model = photo_networks.squeezenet()
    if model is None:
        pytest.skip("SqueezeNet's weights: advlib.models.imagenet('squeezenet1_1') fetches them")
    (site.root / "squeezenet.bin").write_bytes(photo_networks.weights(model.net))
    return _write_compared(site.root, "squeezenet", model, images)


@pytest.mark.parametrize(
    ("call", "simd"),
    [("chromium", True), ("chromium", False), ("in_firefox", True)],
    indirect=["call"],
)
def test_squeezenets_logits_and_input_gradients_are_pytorchs(
    call: Call, squeezenet: tuple[list[int], list[int]], simd: bool
) -> None:
    """In single precision, where gradients jump: PyTorch's own are up to 8e-3 from its double's."""
    first, second = squeezenet
    places = list(range(COMPARED if simd else 2))
    found = call("errors", simd, places, second, "squeezenet")
    assert [each["predicted"] for each in found] == first[: len(places)]
    assert max(each["logits"] for each in found) < 1e-4
    assert max(each["grads"] for each in found) < 0.05
    assert found[0]["grads"] < 1e-4  # the cat


def test_in_double_precision_nothing_jumps(
    chromium: Call, site: Site, squeezenet: tuple[list[int], list[int]], images: Tensor
) -> None:
    """The same layers on arrays of doubles: what is left in single precision is rounding.

    What is flat in a photograph has equal maxima, of which rounding chooses one: a thousandth of
    noise tells them apart.
    """
    model = photo_networks.squeezenet()
    assert model is not None
    x = 0.999 * images[:DOUBLES].double()
    x += 1e-3 * torch.rand(x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)
    (site.root / "doubles.bin").write_bytes(_channels_last(x).tobytes())
    _, second = _write_compared(site.root, "squeezenet-double", model.double(), x)
    found = chromium("doubleErrors", list(range(DOUBLES)), second, "squeezenet")
    assert max(each["logits"] for each in found) < 1e-9
    assert max(each["grads"] for each in found) < 1e-9


def test_without_the_kernel_the_numbers_are_the_same(chromium: Call, site: Site) -> None:
    found = chromium("errors", False, [0, 1], site.second)
    assert [each["predicted"] for each in found] == site.first[:2]
    assert max(each["logits"] for each in found) < 1e-4
    agree([each["grads"] for each in found])


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("attack", ["fgsm", "pgd", "targeted"])
def test_the_attacks_are_advlibs(
    chromium: Call, model: Normalised, images: Tensor, attack: str, norm: str
) -> None:
    place, steps = 1, 5
    x = images[place : place + 1]
    y = model(x).argmax(1)
    goal = torch.tensor([model.categories.index("teapot")]) if attack == "targeted" else y
    eps = {"linf": 2 / 255, "l2": 2.0}[norm]
    task = {"attack": attack, "norm": norm, "eps": eps, "steps": steps, "y": int(goal)}
    x_adv, losses = attacked(model, x, **task)
    found = chromium("attack", True, place, task)
    assert found["predicted"] == int(model(x_adv).argmax(1))
    if attack != "fgsm":
        assert (found["predicted"] == int(goal)) == (attack == "targeted")  # it reaches its goal
    # Of the page's own result: where a gradient is nearly zero, its sign is rounding's, and step by
    # step a path drifts.
    there = torch.from_numpy(_doubles(found["image"])).float().view(1, 224, 224, 3)
    there = there.permute(0, 3, 1, 2)
    probability = model(there).softmax(1)[0, found["predicted"]].detach()
    assert found["probability"] == pytest.approx(float(probability), abs=1e-3)
    np.testing.assert_allclose(found["losses"][:3], losses[:3], rtol=0.01)
    assert len(found["losses"]) == len(losses)
    assert found["path"] == (found["losses"][:-1] if attack != "fgsm" else [])
    assert found["inBox"] and found["sizes"][norm == "l2"] <= eps * (1 + 1e-9)
    assert found["sizes"][norm == "l2"] == pytest.approx(eps, rel=1e-3)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("attack", ["fgsm", "pgd", "targeted"])
def test_on_whole_levels_they_end_inside_ball_and_box(
    chromium: Call, model: Normalised, images: Tensor, attack: str, norm: str
) -> None:
    """The budgets lie between two levels. In L-infinity 1.7 are worth one."""
    place = 1
    x = images[place : place + 1]
    y = model(x).argmax(1)
    goal = torch.tensor([model.categories.index("teapot")]) if attack == "targeted" else y
    eps = {"linf": 1.7 / 255, "l2": 500.5 / 255}[norm]
    task = {"attack": attack, "norm": norm, "eps": eps, "steps": 10, "y": int(goal)}
    found = chromium("attack", True, place, {**task, "levels": True})
    values = 255 * _doubles(found["image"])
    change = values.round() - 255 * _channels_last(x).ravel().astype(float)
    np.testing.assert_allclose(values, values.round(), atol=1e-9)
    assert values.min() >= 0 and values.max() <= 255
    np.testing.assert_allclose(change, change.round(), atol=1e-4)
    change = change.round()
    if norm == "linf":
        assert np.abs(change).max() == 1
    else:
        assert 450 < np.linalg.norm(change) <= 500.5
    there = torch.tensor(values / 255, dtype=torch.float32).view(1, 224, 224, 3)
    shares = model(there.permute(0, 3, 1, 2)).softmax(1)[0].detach()
    assert found["probability"] == pytest.approx(float(shares[found["predicted"]]), abs=1e-3)
    if attack == "fgsm":
        expected = eight_bit(advlib.fgsm)(model, x, y, eps, norm=norm)
        same = np.abs(255 * (_channels_last(expected).ravel()) - values) < 0.01
        assert same.mean() > 0.999  # where the gradient is all but 0, its sign is anyone's
    else:
        assert (found["predicted"] == int(goal)) == (attack == "targeted")  # it reaches its goal
        assert len(found["losses"]) == 11 and found["path"] == found["losses"][:-1]


class _Linear(nn.Module):
    """Two classes, the second less and less improbable along `slope`."""

    def __init__(self, slope: Tensor) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor) -> Tensor:
        second = 0.05 * (x.flatten(1) @ self.slope).unsqueeze(1) - 3
        return torch.cat([torch.zeros_like(second), second], 1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
def test_where_they_end_on_whole_levels_is_where_advlib_ends(
    chromium: Call, attack: str, norm: str
) -> None:
    """For any budget, on pixels of which many lie at the edge of the box."""
    generator = torch.Generator().manual_seed(8)
    pixels = torch.randint(-40, 296, (192,), generator=generator).clamp(0, 255)
    slope = torch.randn(192, generator=generator, dtype=torch.float64)
    most = {"linf": 12, "l2": 60}[norm] / 255
    budgets = (most * torch.rand(40, generator=generator, dtype=torch.float64)).tolist()
    tasks = [{"attack": attack, "norm": norm, "eps": eps, "steps": 7} for eps in budgets]
    found = chromium("levelled", pixels.tolist(), slope.tolist(), tasks)
    x, y = (pixels.double() / 255).view(1, 3, 8, 8), torch.tensor([0])
    more = {"steps": 7, "random_start": False} if attack == "pgd" else {}
    for eps, ours in zip(budgets, found, strict=True):
        theirs = eight_bit(getattr(advlib, attack))(_Linear(slope), x, y, eps, norm=norm, **more)
        change = np.array(ours) - pixels.numpy()
        size = np.abs(change).max() if norm == "linf" else np.linalg.norm(change)
        assert size <= 255 * eps * (1 + 1e-9)
        np.testing.assert_allclose(ours, 255 * theirs.flatten(), atol=1e-6)


@pytest.mark.parametrize(("norm", "eps"), [("linf", 2 / 255), ("l2", 2.0)])
def test_noise_changes_no_prediction_and_has_the_size_it_says(
    chromium: Call, site: Site, norm: str, eps: float
) -> None:
    y = site.first[1]
    task = {"attack": "noise", "norm": norm, "eps": eps, "steps": 1, "y": y}
    found = chromium("attack", True, 1, task)
    assert found["predicted"] == y and found["inBox"]
    assert found["sizes"][norm == "l2"] == pytest.approx(eps, rel=0.01)
    assert found["sizes"][norm == "l2"] <= eps * (1 + 1e-9)


def test_the_noise_of_the_stored_answers_is_the_engines(chromium: Call) -> None:
    np.testing.assert_array_equal(
        _doubles(chromium("noise")), _channels_last(photo_lab.noise()).ravel()
    )


# -- the kernel alone


@pytest.mark.parametrize("simd", KERNELS)
@in_both
def test_products_of_odd_sizes_are_a_plain_loops(call: Call, simd: bool) -> None:
    assert max(call("productErrors", simd, SIZES)) < 1e-5


@pytest.mark.parametrize("simd", KERNELS)
@in_both
def test_depthwise_convolutions_of_odd_sizes_are_a_plain_loops(call: Call, simd: bool) -> None:
    sizes = [
        [16, 1, 1, 1, 1, 3, 1, 1],
        [32, 5, 7, 5, 7, 5, 1, 2],
        [16, 6, 6, 3, 3, 3, 2, 0],
        [48, 8, 10, 4, 5, 5, 2, 1],
        [16, 7, 9, 4, 5, 3, 2, 1],
        [16, 7, 3, 4, 2, 5, 2, 2],
    ]
    assert max(call("depthwiseErrors", simd, sizes)) < 1e-5


@pytest.mark.parametrize("simd", KERNELS)
@in_both
def test_gradients_stop_where_relu6_is_flat(call: Call, simd: bool) -> None:
    values = [-1, 0, 1e-7, 3, 5.999999, 6, 6.5, 0]
    assert call("gated", simd, values, 0, 6) == [0, 0, 3, 4, 5, 0, 0, 0]


def test_every_half_is_read_as_numpy_reads_it(chromium: Call, site: Site) -> None:
    packed = lab.Packed("<u2")
    packed.put(torch.arange(65536))
    header = {"layers": [], "shape": [], "count": packed.count}
    (site.root / "halves.bin").write_bytes(packed.file(header))
    read = np.array(chromium("halves", "halves.bin"), np.float32)
    np.testing.assert_array_equal(read, np.arange(65536, dtype="<u2").view("<f2"))


# -- the engine in its Worker

START = """export function start(engineScope) {
  window.lab = { engineScope, keptFile, fetchedFile, startNetwork, KERNEL };
}"""
LOAD = """async (weights) => {
  const heard = [];
  const control = new AbortController();
  const options = { signal: control.signal, progress: (bytes) => {
    heard.push(bytes);
    if (weights.stopAt < bytes) control.abort();
  } };
  try {
    const { engineScope, keptFile, fetchedFile, startNetwork, KERNEL } = window.lab;
    const failed = (reason) => { throw new Error(reason); };
    const file = (await keptFile(weights)) ?? (await fetchedFile(weights, options));
    const { engine, simd } = await startNetwork(file, engineScope, KERNEL, failed);
    window.engine = engine;
    return { heard, simd };
  } catch (error) {
    return { heard, name: error.name, message: error.message };
  }
}"""
WATCH = """async ({ task, first }) => {
  const x = new Float64Array(224 * 224 * 3).fill(0.5);
  const heard = [];
  // An earlier question, which the second one drops.
  const dropped = { ...task, steps: 1000 };
  await new Promise((go) => engine.send({ ask: first, x, tasks: [dropped], wanted: 0 }, go));
  return new Promise((resolve) => {
    const message = { ask: first + 1, x, tasks: [task], wanted: 0 };
    engine.send(message, (place, found, point) => {
      heard.push(point ? [point.step, point.loss, point.image.length] : found.losses);
      if (found) resolve(heard);
    });
  });
}"""


@pytest.fixture(scope="session")
def page_of_lab(site: Site) -> dict[str, Any]:
    """Write a page with the lab's one script, under the book's policy; return its weights."""
    written = photo_lab.write_weights(site.root, "lite0", photo_networks.weights(site.net))
    script = photo_lab.script(vendor.kernel(ROOT), [START])
    (site.root / "lab.js").write_text(script, encoding="utf-8")
    page = PAGE.replace("</body>", '<script src="lab.js"></script></body>')
    (site.root / "lab.html").write_text(policy.guard(page), encoding="utf-8")
    return {"folder": "./", "version": "?v=1", **written}


@pytest.mark.parametrize("home", ["served", "disk"])
def test_the_engine_answers_from_a_worker_and_says_every_step(
    reader: Any, serve: Any, site: Site, page_of_lab: dict[str, Any], home: str
) -> None:
    page = reader().new_page()
    page.goto(f"{serve(site.root) if home == 'served' else site.root.as_uri() + '/'}lab.html")
    loaded = page.evaluate(LOAD, page_of_lab)
    assert loaded["simd"] is True
    if home == "served":
        assert loaded["heard"][-1] == (site.root / "lite0.bin").stat().st_size
    task = {"place": 0, "attack": "targeted", "norm": "linf", "eps": 1e-4, "steps": 5, "y": 7}
    *points, losses = page.evaluate(WATCH, {"task": {**task, "watched": True}, "first": 1})
    assert [step for step, _, _ in points] == list(range(5))
    assert [loss for _, loss, _ in points] == losses[:5]
    assert min(losses) < losses[0] and points[0][2] == 224 * 224 * 3


def test_a_network_is_kept_and_no_wrong_one_is_taken(
    reader: Any, serve: Any, site: Site, page_of_lab: dict[str, Any]
) -> None:
    page = reader().new_page()
    page.goto(f"{serve(site.root)}lab.html")
    wrong = page.evaluate(LOAD, {**page_of_lab, "sha256": "0" * 64})
    assert wrong["message"] == "The file of weights is incomplete."
    stopped = page.evaluate(LOAD, {**page_of_lab, "stopAt": 0})
    assert stopped["name"] == "AbortError"
    assert page.evaluate(LOAD, page_of_lab)["heard"]
    assert page.evaluate(LOAD, page_of_lab) == {"heard": [], "simd": True}  # nothing is fetched


# -- speed


@pytest.mark.clock
def test_a_gradient_takes_about_as_long_as_with_pytorch_and_one_thread(
    chromium: Call, model: Normalised, images: Tensor
) -> None:
    """The best of several on either side: other work may keep the machine busy.

    A page has vectors of 128 bits, PyTorch those of the processor, of up to 512: where it has
    these, PyTorch may be a little ahead.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    ours, theirs = np.inf, np.inf
    try:
        for _ in range(5):
            ours = min(ours, chromium("milliseconds", True, 10))
            for _ in range(10):
                since = time.perf_counter()
                input_gradient(model, images[:1], torch.tensor([0]))
                theirs = min(theirs, 1000 * (time.perf_counter() - since))
    finally:
        torch.set_num_threads(threads)
    print(f"gradient: {ours:.0f} ms in the page, {theirs:.0f} ms with PyTorch")
    assert ours < 200 and ours < 1.5 * theirs
