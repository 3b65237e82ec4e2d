"""Small pages with one Live Lab or two, made by the book's own extension; what a reader does."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import readers
from course import lab, labs, live_lab
from finish import policy
from torch import Tensor

from advlib.data import signs
from advlib.widgets import base

DRAWN = """() => {
  const values = (canvas) => Array.from(canvas.getContext("2d").getImageData(0, 0, 64, 64).data)
    .filter((_, i) => i % 4 !== 3);
  const chart = document.querySelector(".advlib-chart");
  const [bottom, , top] = [...chart.querySelectorAll("line.advlib-grid")].map((line) => {
    return { at: Number(line.getAttribute("y1")), value: Number(line.nextSibling.textContent) };
  });
  const loss = (point) => {
    const share = (bottom.at - Number(point.split(",")[1])) / (bottom.at - top.at);
    return share * top.value;
  };
  const wide = (element) => element.getBoundingClientRect().width;
  return [...document.querySelectorAll(".lab-column")].map((column, n) => {
    const [image, change] = [...column.querySelectorAll("canvas")].map(values);
    const bars = [...column.querySelectorAll(".lab-bar")].map((bar) => [
      bar.querySelector(".lab-class").textContent,
      wide(bar.querySelector(".advlib-fill")) / wide(bar.querySelector(".advlib-track")),
      bar.querySelector(".advlib-value").textContent,
    ]);
    const curve = chart.querySelectorAll("svg[role=img] polyline")[n];
    const points = curve.getAttribute("points").split(" ");
    const across = points.map((point) => Number(point.split(",")[0]));
    return { image, change, bars, across, losses: points.map(loss) };
  });
}"""

FRAME = """(stop) => {
  const slider = document.querySelector("input[type=range]");
  slider.value = stop;
  slider.dispatchEvent(new Event("input", { bubbles: true }));
  return new Promise((go) => requestAnimationFrame(() => go()));
}"""

# One attack by the lab's own modules.
ATTACK = """async ({network, x, task}) => {
  const { makeNetwork } = await import("./_static/lab/network.mjs");
  const { classifier, run } = await import("./_static/lab/attacks.mjs");
  const { readWeights } = await import("./_static/lab/load.mjs");
  const file = await (await fetch("./_static/lab/weights.bin")).arrayBuffer();
  const { networks, numbers, shape } = readWeights(file);
  window.model ??= {};
  window.model[network] ??= classifier(makeNetwork(networks[network], numbers, shape));
  const attack = run(window.model[network], Float64Array.from(x, (v) => v / 255), task);
  let turn = attack.next();
  while (!turn.done) turn = attack.next();
  return { ...turn.value, image: Array.from(turn.value.image) };
}"""

# The page's workers, so that a test can break them, and the addresses of their scripts.
WATCHED = """window.workers = [];
const Plain = window.Worker;
window.Worker = class extends Plain {
  constructor(...all) { super(...all); window.workers.push(this); }
  terminate() { this.ended = true; super.terminate(); }
};
window.addresses = new Set();
const { createObjectURL, revokeObjectURL } = URL;
URL.createObjectURL = (blob) => {
  const address = createObjectURL.call(URL, blob);
  window.addresses.add(address);
  return address;
};
URL.revokeObjectURL = (address) => {
  window.addresses.delete(address);
  revokeObjectURL.call(URL, address);
};"""


@pytest.fixture(scope="session")
def lab_opening() -> dict[str, Any]:
    """Return what a lab shows before its networks are there."""
    return lab.opening()


@pytest.fixture(scope="session")
def lab_site(tmp_path_factory: pytest.TempPathFactory, lab_opening: dict[str, Any]) -> Path:
    """Return a folder with the lab's files and pages that hold one lab, two, and a brush."""
    root = tmp_path_factory.mktemp("lab")
    folder = root / live_lab.FOLDER
    alt = lab.write(folder)
    for module in lab.MODULES.iterdir():
        shutil.copy(module, folder)
    shutil.copy(Path(base.__file__).parent / "widgets.css", root / "_static")
    version = labs.digest(folder)
    element = live_lab.lab_html(lab_opening, alt, live_lab.FOLDER, version)
    brush = live_lab.brush_html(lab.brush(), live_lab.FOLDER, version)
    for name, elements in (("one", element), ("two", element * 2), ("brush", brush)):
        page = (
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Lab</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<link rel="icon" href="data:,"><link rel="stylesheet" href="_static/widgets.css">'
            '<link rel="stylesheet" href="_static/lab/lab.css"></head>'
            f"<body><main><h1>Lab</h1>{elements}<p>after</p></main></body></html>"
        )
        # Under the policy of the book's pages.
        (root / f"{name}.html").write_text(policy.guard(page), encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def lab_address(lab_site: Path, serve: Callable[[Path], str]) -> str:
    """Serve the small pages and return their address."""
    return serve(lab_site)


@pytest.fixture
def lab_visit(reader: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that opens an address; its options are those of `reader`."""

    def go(
        address: str, prepare: Callable[[Any], object] = lambda page: None, **options: Any
    ) -> Any:
        page = reader(**options).new_page()
        page.set_default_timeout(60_000)  # other work may keep this machine busy
        prepare(page)
        page.goto(address)
        return page

    return go


@pytest.fixture(scope="session")
def lab_attack(browser: Any, lab_address: str) -> Iterator[Callable[..., Any]]:
    """Return a function that attacks one image with the lab's modules, all in one page."""
    with readers(browser) as reader:
        page = reader().new_page()
        page.goto(f"{lab_address}one.html")
        yield lambda **sent: page.evaluate(ATTACK, sent)


def ready(page: Any) -> Any:
    """Wait until the networks have answered at the present setting."""
    page.locator(".lab-strip input:enabled").nth(5).wait_for()
    settled(page)
    return page


def settled(page: Any) -> None:
    # The next frame has been drawn, and nothing in it is out of date.
    page.evaluate("new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))")
    page.wait_for_function("() => !document.querySelector('.lab-stale')")


def verdicts(page: Any) -> list[str]:
    return page.locator(".lab-verdict").all_inner_texts()


def status(page: Any) -> str:
    return page.get_by_role("status").first.inner_text()


def hears(page: Any, place: str, said: str) -> None:
    """Wait until `said` stands at the first place of that kind."""
    page.locator(place, has_text=said).first.wait_for(state="attached")


def pick(page: Any, name: str) -> None:
    page.get_by_role("radio", name=name, exact=True).check(force=True)


def begin(page: Any, name: str = "Begin") -> None:
    """Begin a round, in a page or in one lab's part of it."""
    if not page.locator(".lab-option").first.evaluate("e => e.closest('details').open"):
        page.get_by_text("You against the network").click()
    page.get_by_role("button", name=name).click()


def play(page: Any, first: int, last: int) -> None:
    """Answer these signs of the round with the first button, whatever it says."""
    for number in range(first, last + 1):
        page.get_by_text(f"Sign {number} of 20").wait_for()
        page.locator(".lab-option").first.click()


def respond(page: Any, name: str, **answer: Any) -> None:
    page.route(f"**/{name}*", lambda route: route.fulfill(**answer))


def channels_last(x: Tensor) -> np.ndarray:
    return x.permute(0, 2, 3, 1).contiguous().numpy()


def check_drawn(
    column: dict[str, Any],
    x: np.ndarray,
    x_adv: np.ndarray,
    probabilities: Any,
    losses: list[float],
) -> None:
    """Compare what a column shows with images in [0, 255], channels last, and with numbers."""
    image, change = (np.array(column[name]) for name in ("image", "change"))
    # A canvas rounds. Where the gradient is all but 0, its sign is anyone's.
    assert (np.abs(image - x_adv) <= 1).mean() > 0.999
    expected = (127.5 + 10 * (x_adv - x)).clip(0, 255)
    assert (np.abs(change - expected) <= 1).mean() > 0.999
    names, widths, said = zip(*column["bars"], strict=True)
    order = np.argsort(-np.asarray(probabilities))[:3]
    assert names[0] == signs.CLASS_NAMES[order[0]]
    for name, width, text in zip(names, widths, said, strict=True):
        share = float(probabilities[signs.CLASS_NAMES.index(name)])
        assert width == pytest.approx(share, abs=0.01)
        assert float(text.strip("<> %")) == pytest.approx(100 * share, abs=0.11)
    np.testing.assert_allclose(column["losses"], losses, atol=0.01)
    np.testing.assert_allclose(np.diff(column["across"]), np.diff(column["across"])[0])
