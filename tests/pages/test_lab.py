"""The Live Lab in a browser: its numbers against PyTorch's, its speed, its place in the book.

test_lab_uses.py, test_lab_files.py and test_lab_faults.py test what a reader does there.
"""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browsing import Quiet, serving
from cases import attacked
from clocks import thread_time
from course import lab, live_lab
from lab_page import (
    FRAME,
    channels_last,
    pick,
    ready,
    settled,
)

import advlib
from advlib.data import signs

COMPARED = 100
ERRORS = """async ({image, y, names}) => {
  const { makeNetwork } = await import("./_static/lab/network.mjs");
  const { classifier } = await import("./_static/lab/attacks.mjs");
  const { readWeights } = await import("./_static/lab/load.mjs");
  const file = async (name) => (await fetch(name)).arrayBuffer();
  const { networks, numbers, shape } = readWeights(await file("./_static/lab/weights.bin"));
  const pixels = new Uint8Array(await file("./compared.bin"));
  const furthest = (ours, theirs) => {
    let apart = 0, largest = 0;
    for (let i = 0; i < ours.length; i++) {
      apart = Math.max(apart, Math.abs(ours[i] - theirs[i]));
      largest = Math.max(largest, Math.abs(theirs[i]));
    }
    return apart / largest;
  };
  const worst = {};
  for (const name of names) {
    const network = makeNetwork(networks[name], numbers, shape);
    const model = classifier(network);
    const logits = new Float64Array(await file(`./${name}-logits.bin`));
    const grads = new Float64Array(await file(`./${name}-grads.bin`));
    worst[name] = { logits: 0, grads: 0 };
    for (let n = 0; n < y.length; n++) {
      const x = Float64Array.from(pixels.subarray(n * image, (n + 1) * image), (v) => v / 255);
      const ours = Float64Array.from(network.forward(x));
      model.look(x, y[n]);
      const grad = model.gradient(y[n]);
      const nth = (all, length) => all.subarray(n * length, (n + 1) * length);
      const errors = {
        logits: furthest(ours, nth(logits, ours.length)),
        grads: furthest(grad, nth(grads, image)),
      };
      for (const kind in errors) worst[name][kind] = Math.max(worst[name][kind], errors[kind]);
    }
  }
  return worst;
}"""


# -- numbers


@pytest.fixture(scope="session")
def compared(lab_site: Path) -> list[int]:
    """Write 100 images and what PyTorch makes of them; return their classes."""
    x, y = signs.render(COMPARED, seed=77)
    x = (x * 255).round()
    (lab_site / "compared.bin").write_bytes(channels_last(x.to(torch.uint8)).tobytes())
    for name, title in lab.NETWORKS.items():
        # PyTorch in double precision. In float32 its own gradients are up to 100 % away from it:
        # where the network is sure, the loss's slope p - 1 is what rounding leaves of it.
        model = advlib.models.load(title).double()
        found = advlib.gradients.input_gradient(model, x.double() / 255, y)
        (lab_site / f"{name}-logits.bin").write_bytes(found.logits.numpy().tobytes())
        (lab_site / f"{name}-grads.bin").write_bytes(channels_last(found.grad).tobytes())
    return y.tolist()


def test_logits_and_input_gradients_are_pytorchs(compared, lab_address, lab_visit):
    page = lab_visit(f"{lab_address}one.html")
    names = list(lab.NETWORKS)
    worst = page.evaluate(ERRORS, {"image": 64 * 64 * 3, "y": compared, "names": names})
    assert set(worst) == set(names)
    for errors in worst.values():
        # What is asked is 1e-4. Both compute in double precision, so far less is left.
        assert errors["logits"] < 1e-10
        assert errors["grads"] < 1e-6


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("attack", ["fgsm", "pgd", "targeted"])
@pytest.mark.parametrize("network", lab.NETWORKS)
def test_the_attacks_are_advlibs(lab_attack, network, attack, norm):
    x, y = (part[2:3] for part in lab.images())
    goal = torch.tensor([9]) if attack == "targeted" else y
    eps, steps = {"linf": 4 / 255, "l2": 1.5}[norm], 5
    model, x = advlib.models.load(lab.NETWORKS[network]).double(), x.double()
    x = (x * 255).round() / 255
    task = {"attack": attack, "norm": norm, "eps": eps, "steps": steps, "y": int(goal)}
    x_adv, losses = attacked(model, x, **task)
    pixels = (x * 255).round().to(torch.uint8)
    found = lab_attack(network=network, x=channels_last(pixels).ravel().tolist(), task=task)
    np.testing.assert_allclose(found["losses"], losses, rtol=1e-4)
    np.testing.assert_allclose(found["probabilities"], model(x_adv).softmax(1)[0], atol=1e-4)
    delta = np.array(found["image"]) - channels_last(x).ravel()
    size = np.abs(delta).max() if norm == "linf" else np.linalg.norm(delta)
    assert size <= eps * (1 + 1e-9)
    assert min(found["image"]) >= 0 and max(found["image"]) <= 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_noise_has_the_size_it_says(lab_attack, norm):
    eps = {"linf": 4 / 255, "l2": 1.5}[norm]
    task = {"attack": "noise", "norm": norm, "eps": eps, "steps": 1, "y": 0}
    x = [128] * 64 * 64 * 3
    delta = np.array(lab_attack(network="standard", x=x, task=task)["image"])
    delta -= 128 / 255
    if norm == "linf":
        np.testing.assert_allclose(np.abs(delta), eps)
        assert abs((delta > 0).mean() - 0.5) < 0.05
    else:
        assert np.linalg.norm(delta) == pytest.approx(eps)


# -- speed

FRESH_PGD = """async (norm) => {
  const click = (label) => [...document.querySelectorAll(".advlib-segments label")]
    .find((element) => element.innerText === label).click();
  const frame = () => new Promise((go) => requestAnimationFrame(go));
  if (norm !== "L∞") click(norm);
  const clicked = performance.now();
  click("PGD");
  await frame();
  const columns = [...document.querySelectorAll(".lab-column")];
  const waited = columns.map((column) => column.classList.contains("lab-stale") ? null : 0);
  while (waited.includes(null)) {
    await frame();
    columns.forEach((column, n) => {
      if (!column.classList.contains("lab-stale")) waited[n] ??= performance.now() - clicked;
    });
  }
  return waited;
}"""


@pytest.mark.clock
@pytest.mark.parametrize("norm", ["L∞", "L2"])
def test_ten_steps_of_pgd_take_less_than_a_second(lab_address, lab_visit, norm):
    """From the click until both networks have answered, in a fresh page.

    This is time on the clock, and other work may keep the machine busy: the best of a few counts.
    """
    page = lab_visit(f"{lab_address}one.html")
    best = {name: np.inf for name in lab.NETWORKS}
    for _ in range(6):
        waited = ready(page).evaluate(FRESH_PGD, norm)
        assert min(waited) > 0
        best = {name: min(best[name], new) for name, new in zip(best, waited, strict=True)}
        if max(best.values()) < 1000:
            break
        page.reload()
    assert max(best.values()) < 1000, best


@pytest.mark.clock
@pytest.mark.parametrize("width", [390, 1280])
def test_a_dragged_slider_leaves_time_for_sixty_frames_a_second(lab_address, lab_visit, width):
    page = ready(lab_visit(f"{lab_address}one.html", viewport={"width": width, "height": 844}))
    pick(page, "PGD")
    slider = page.get_by_role("slider", name="epsilon")
    for stop in range(13):  # all are computed before the clock runs
        slider.fill(str(stop))
        settled(page)
    seconds = thread_time(page)
    frames = []
    for i in range(104):
        before = seconds()
        page.evaluate(FRAME, i % 13)
        frames.append(seconds() - before)
    assert np.quantile(frames, 0.95) < 1 / 60
    assert max(frames) < 0.05
    assert min(frames) > 0
    assert page.locator(".lab-stale").count() == 0


def test_the_files_are_small(lab_site):
    folder = lab_site / live_lab.FOLDER
    assert (folder / "weights.bin").stat().st_size <= 1.5e6
    assert len((folder / "lab.js").read_text()) < 75_000


# -- in the book


class _Packed(Quiet):
    """Sends text packed and keeps connections open, as the hosts of pages do."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        file = Path(self.translate_path(self.path))
        if file.suffix not in (".html", ".css", ".js"):
            super().do_GET()
            return
        body = gzip.compress(file.read_bytes())
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(str(file)))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def packed(book: Path) -> Iterator[str]:
    """Serve the book as a host of pages does, and return its address."""
    with serving(book, _Packed) as address:
        yield address


# When the verdicts changed, in milliseconds since the reader set out for this page.
READ = """window.read = [];
new MutationObserver(() => {
  const said = [...document.querySelectorAll(".lab-verdict")].map((e) => e.innerText).join();
  if (!said || said === window.read.at(-1)?.said) return;
  const seen = { said };
  window.read.push(seen);
  requestAnimationFrame(() => requestAnimationFrame(() => (seen.at = performance.now())));
}).observe(document, { subtree: true, childList: true, characterData: true });"""


@pytest.mark.clock
def test_in_the_book_it_answers_within_two_seconds_on_fast_3g(packed, lab_visit):
    page = lab_visit("about:blank", script=READ)
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    speed = {"offline": False, "latency": 150, "downloadThroughput": 1.6e6 / 8}
    session.send("Network.emulateNetworkConditions", {**speed, "uploadThroughput": 0.75e6 / 8})
    page.goto(f"{packed}book/index.html", wait_until="load")
    page.locator(".advlib-livelab").get_by_role("slider", name="epsilon").press("Home")
    page.wait_for_function("() => window.read.length > 1 && window.read.at(-1).at")
    first, *_, last = page.evaluate("window.read")
    assert last["said"] == "predicts stop,predicts stop"
    loaded = page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
    assert 0 < last["at"] - loaded < 2000
    assert first["at"] < 3000


def test_in_the_book_the_page_weighs_little(address, book, lab_visit):
    bodies: dict[str, int] = {}

    def weigh(response: Any) -> None:
        path = book / response.url.removeprefix(address).partition("?")[0]
        if path.is_file():
            packed = path.suffix in (".woff2", ".png", ".woff")
            body = path.read_bytes()
            bodies[response.url] = len(body if packed else gzip.compress(body))

    page = lab_visit(f"{address}book/index.html", prepare=lambda p: p.on("response", weigh))
    page.locator(".advlib-livelab").scroll_into_view_if_needed()
    ready(page)
    assert any("weights.bin" in url for url in bodies)
    assert sum(bodies.values()) <= 2.5e6, json.dumps(bodies, indent=1)
