"""Files at the Photo Lab: the reader's own image, saved images, and links."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from course import photo_networks
from photolab_page import drawn, epsilon, load, pick, settled, status, verdicts
from PIL import Image

from advlib.evaluation import predict

FILES = ("PNG", "JPEG 90", "JPEG 75", "JPEG 50")

# -- the reader's own image


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write files that a reader may choose; return them by name."""
    folder = tmp_path_factory.mktemp("images")
    ramp = np.tile(np.linspace(0, 255, 400, dtype=np.uint8), (300, 1))
    turned = Image.Exif()
    turned[0x0112] = 6  # held on its side
    Image.fromarray(ramp).convert("RGB").save(folder / "turned.jpg", exif=turned, quality=95)
    Image.new("1", (16_000, 16_000)).save(folder / "huge.png")
    (folder / "text.txt").write_text("not an image")
    return {path.name: path for path in folder.iterdir()}


GIVE = """async ({ bytes, type, event }) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], "mine", { type }));
  const lab = document.querySelector(".advlib-photolab");
  const made = event === "drop"
    ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
    : new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
  (event === "drop" ? lab : document.body).dispatchEvent(made);
}"""


@pytest.mark.parametrize("way", ["choose", "drop", "paste"])
def test_an_image_of_the_readers_own_waits_for_the_network(
    photo_visit: Any, images: dict[str, Path], way: str
) -> None:
    sent: list[str] = []
    page = photo_visit(prepare=lambda p: p.on("request", lambda r: sent.append(r.url)))
    if way == "choose":
        page.locator("input[type=file]").set_input_files(images["turned.jpg"])
    else:
        given = list(images["turned.jpg"].read_bytes())
        page.evaluate(GIVE, {"bytes": given, "type": "image/jpeg", "event": way})
    page.get_by_role("status").filter(has_text="resized to 224 × 224 pixels.").wait_for()
    assert "This needs the network: load it above." in status(page)
    assert verdicts(page) == ["", ""]
    # Upright, it grows brighter from top to bottom.
    shown = drawn(page)[0]
    assert shown[0].max() < 40 and shown[-1].min() > 215
    if way == "choose":
        load(page)
        page.locator(".photo-verdict", has_text="predicts").nth(1).wait_for()
        settled(page)
    assert page.get_by_text("Your own image.").is_visible()
    assert not any("mine" in url or "turned" in url for url in sent if url[:5] != "blob:")
    pick(page, "camera")
    page.locator(".photo-verdict", has_text="tripod").first.wait_for()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("text.txt", "could not be read as an image"),
        ("huge.png", "16000 × 16000 pixels, too many"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_in_a_sentence(
    photo_visit: Any, images: dict[str, Path], name: str, said: str
) -> None:
    page = photo_visit()
    before = verdicts(page)
    page.locator("input[type=file]").set_input_files(images[name])
    page.get_by_role("status").filter(has_text=said).wait_for()
    assert verdicts(page) == before


# -- files


def test_the_files_are_classified_as_they_are(photo_visit: Any, tmp_path: Path) -> None:
    page = photo_visit(accept_downloads=True)
    save = page.get_by_role("button", name="Save and classify again")
    assert save.is_disabled() and page.get_by_text("This needs the network.").is_visible()
    load(page)
    page.get_by_role("button", name="gibbon").click()
    settled(page)
    attacked = drawn(page)[1]
    save.click()
    items = page.locator(".photo-saving li")
    items.nth(3).wait_for()
    assert [text.partition(":")[0] for text in items.all_inner_texts()] == list(FILES)
    model = photo_networks.lite0()
    for item, text in zip(items.all(), items.all_inner_texts(), strict=True):
        with page.expect_download() as download:
            item.get_by_role("link").click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        with Image.open(path) as opened:
            pixels = np.asarray(opened.convert("RGB"))
        if path.suffix == ".png":
            assert path.name == "camera-png.png" and np.array_equal(pixels, attacked)
        x = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255
        shares = predict(model, x).softmax(1)[0]
        predicted = model.categories[int(shares.argmax())]
        survived = "survived" if predicted == "gibbon" else "did not survive"
        said = re.fullmatch(rf".*: predicts {predicted}, (.*) %\. The attack {survived}\.", text)
        assert said, (text, predicted)
        # Pillow's JPEG decoder and the browser's may differ by a level.
        most, apart = 100 * float(shares.max()), 0.1 if path.suffix == ".png" else 3
        assert float(said[1].strip("<> ")) == pytest.approx(most, abs=apart)
    epsilon(page, 1)
    settled(page)
    assert items.count() == 0  # they belong to another image


def test_a_png_of_whole_levels_is_the_attacked_image(photo_visit: Any) -> None:
    page = load(photo_visit())
    page.get_by_role("checkbox", name="End on whole 8-bit levels").check()
    epsilon(page, 5)
    page.get_by_role("button", name="gibbon").click()
    settled(page)
    attacked = page.get_by_role("region", name="attacked")
    assert attacked.locator(".photo-verdict").inner_text() == "predicts gibbon"
    share = attacked.locator(".advlib-value").first.inner_text()
    assert page.get_by_text("so a PNG keeps it as it is").is_visible()
    page.get_by_role("button", name="Save and classify again").click()
    png = page.locator(".photo-saving li", has_text="PNG")
    png.wait_for()
    assert png.inner_text() == f"PNG: predicts gibbon, {share}. The attack survived."


def test_a_figure_holds_what_is_shown(photo_visit: Any, tmp_path: Path) -> None:
    page = photo_visit(accept_downloads=True)
    settled(page)
    button = page.get_by_role("button", name="Download figure")
    with page.expect_download() as download:
        button.click()
    assert download.value.suggested_filename == "FGSM-L-2-255-EfficientNet-Lite0.png"
    download.value.save_as(tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as opened:
        figure = np.asarray(opened.convert("RGB")).astype(int)
    clean, attacked, change = drawn(page)
    for place, image in enumerate((clean, change, attacked)):
        left, top = 32 + 480 * place, 104
        assert np.array_equal(figure[top : top + 448 : 2, left : left + 448 : 2], image)
        below = figure[top + 450 :, left : left + 448]
        assert (below.min(2) < 100).sum() > 500  # letters
    pick(page, "L2")
    page.locator(".photo-stale").first.wait_for()
    button.click()
    page.get_by_text("There is no result to draw yet.").wait_for()


def test_a_browser_that_hides_pixels_saves_nothing(photo_visit: Any) -> None:
    page = load(photo_visit())
    page.evaluate("() => { CanvasRenderingContext2D.prototype.getImageData = null }")
    page.get_by_role("button", name="Save and classify again").click()
    said = page.locator(".photo-saving li", has_text="PNG: The browser does not let this page read")
    said.wait_for()


# -- links

LINK = (
    "#photo-lab?attack=targeted&norm=l2&eps=1.5&levels=whole&image=coffee&steps=20"
    "&target=space+shuttle"
)


def test_a_link_opens_the_same_state(photo_visit: Any, photo_address: str) -> None:
    page = photo_visit(photo_address + LINK)
    page.locator(".photo-verdict", has_text="espresso").first.wait_for()
    for name in ("coffee", "Targeted PGD", "L2"):
        assert page.get_by_role("radio", name=name, exact=True).is_checked()
    sliders = [page.get_by_role("slider", name=name) for name in ("epsilon", "steps")]
    assert [s.get_attribute("aria-valuetext") for s in sliders] == ["1.5", "20"]
    assert page.get_by_role("combobox", name="target").input_value() == "space shuttle"
    assert page.get_by_role("checkbox", name="End on whole 8-bit levels").is_checked()
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy link").click()
    page.get_by_text("The link is copied.").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == page.url == photo_address + LINK


def test_a_link_to_nothing_opens_the_lab(photo_visit: Any, photo_address: str) -> None:
    link = "#photo-lab?attack=magic&eps=-1&image=../x&steps=1e9&target=<b>&norm=l7"
    page = photo_visit(photo_address + link)
    settled(page)
    assert verdicts(page)[0] == "predicts tripod"
    assert page.get_by_role("radio", name="FGSM", exact=True).is_checked()


def test_an_image_of_the_readers_own_is_not_in_the_link(
    photo_visit: Any, images: dict[str, Path]
) -> None:
    page = photo_visit(script="delete Navigator.prototype.clipboard")
    page.locator("input[type=file]").set_input_files(images["turned.jpg"])
    page.get_by_text("Your own image.").wait_for()
    page.get_by_role("button", name="Copy link").click()
    page.get_by_text("The link stands in the address bar.").wait_for()
    assert page.url.endswith("#photo-lab?attack=fgsm&norm=linf&eps=2/255")
