"""Small pages that hold a Photo Lab, made by the book's own extension; what a reader does there."""

import base64
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import missing
from course import lab, labs, photo_lab, photo_page
from finish import policy, vendor
from repository import ROOT

from advlib.errors import WeightsError
from advlib.widgets import base

PHOTOGRAPHS = {name: photo_lab.PHOTOGRAPHS[name] for name in ("camera", "coffee")}
PGD_STOPS = (5, 7)
"""Two of each, because the answers take time."""
DRAWN = """() => [...document.querySelectorAll(".photo-views canvas")].map((canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, 224, 224);
  return btoa(Array.from(data, (value) => String.fromCharCode(value)).join(""));
})"""


@pytest.fixture(scope="session")
def photo_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the lab's files and a page that holds it."""
    root = tmp_path_factory.mktemp("photolab-page")
    folder = root / photo_page.FOLDER
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(photo_lab, "PHOTOGRAPHS", PHOTOGRAPHS)
        patch.setattr(photo_lab, "PGD_STOPS", PGD_STOPS)
        try:
            opening = photo_lab.write(folder, vendor.kernel(ROOT))
        except WeightsError as error:
            missing(str(error))
    sheets = (Path(base.__file__).parent / "widgets.css", lab.MODULES / "lab.css")
    for sheet in (*sheets, photo_lab.MODULES / "photolab.css"):
        shutil.copy(sheet, root)
    place = photo_page.FOLDER, labs.digest(folder)
    element = photo_page.answer_html(opening, *place) + photo_page.lab_html(opening, *place)
    links = "".join(
        f'<link rel="stylesheet" href="{name}.css">' for name in ("widgets", "lab", "photolab")
    )
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Lab</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,">{links}</head>'
        f"<body><main><h1>Lab</h1>{element}<p>after</p></main></body></html>"
    )
    (root / "one.html").write_text(policy.guard(page), encoding="utf-8")
    return root


@pytest.fixture(scope="session")
def photo_address(photo_site: Path, serve: Callable[[Path], str]) -> str:
    """Serve the page and return its address."""
    return f"{serve(photo_site)}one.html"


@pytest.fixture
def photo_visit(reader: Callable[..., Any], photo_address: str) -> Callable[..., Any]:
    """Return a function that opens the page, and waits for the photograph unless told otherwise."""

    def go(
        address: str = photo_address,
        prepare: Callable[[Any], object] = lambda page: None,
        shown: bool = True,
        **options: Any,
    ) -> Any:
        page = reader(**options).new_page()
        page.set_default_timeout(60_000)  # other work may keep this machine busy
        prepare(page)
        page.goto(address)
        if shown:
            page.locator(".photo-verdict", has_text="predicts").first.wait_for()
        return page

    return go


def load(page: Any) -> Any:
    """Load the network, and wait until it is there."""
    page.get_by_role("button", name="Load the network").click()
    page.get_by_text("The network is loaded").wait_for()
    return page


def drawn(page: Any) -> list[np.ndarray]:
    """What stands on the canvases: the clean image, the attacked one, the change, all 0 to 255."""
    found = [np.frombuffer(base64.b64decode(text), np.uint8) for text in page.evaluate(DRAWN)]
    return [values.reshape(224, 224, 4)[..., :3].astype(int) for values in found]


def settled(page: Any) -> None:
    page.evaluate("new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))")
    page.wait_for_function("() => !document.querySelector('.photo-stale')")


def verdicts(page: Any) -> list[str]:
    """What the network predicts on the clean and on the attacked image."""
    return page.locator(".photo-verdict").all_inner_texts()


def status(page: Any) -> str:
    return page.locator(".advlib-status").inner_text()


def pick(page: Any, name: str) -> None:
    page.get_by_role("radio", name=name, exact=True).check(force=True)


def epsilon(page: Any, stop: int) -> None:
    page.get_by_role("slider", name="epsilon").fill(str(stop))
