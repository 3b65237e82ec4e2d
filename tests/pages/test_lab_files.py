"""Files at the Live Lab: the reader's own image, figures, and links."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lab_page import (
    DRAWN,
    FRAME,
    WATCHED,
    hears,
    pick,
    ready,
    respond,
    settled,
    status,
    verdicts,
)
from PIL import Image

# -- the reader's own image


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write files that a reader may choose; return them by name."""
    folder = tmp_path_factory.mktemp("images")
    ramp = np.tile(np.linspace(0, 255, 200, dtype=np.uint8), (120, 1))
    colour = np.stack([ramp, ramp[:, ::-1], ramp // 2], -1)
    clear = np.dstack([colour, ramp])
    frames = [Image.fromarray(colour), Image.fromarray(colour[:, ::-1].copy())]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:], duration=50)
    Image.fromarray(colour).save(folder / "plain.jpg")
    Image.fromarray(clear).save(folder / "clear.png")
    Image.fromarray(ramp).save(folder / "grey.png")
    Image.fromarray(colour).convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(colour[:1, :1].copy()).save(folder / "dot.png")
    Image.new("1", (16_000, 16_000)).save(folder / "huge.png")
    Image.new("1", (10_000, 9_999), 1).save(folder / "large.png")
    wide = np.tile(np.linspace(0, 255, 1500, dtype=np.uint8), (1500, 1))
    Image.fromarray(np.dstack([wide] * 4)).save(folder / "wide.png")
    whole = (folder / "plain.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) * 2 // 3])
    (folder / "stump.jpg").write_bytes(whole[: len(whole) // 3])
    (folder / "wrong.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 400)
    (folder / "text.txt").write_text("not an image")
    (folder / "empty.png").write_bytes(b"")
    with (folder / "heavy.png").open("wb") as file:
        file.truncate(61_000_000)
    return {path.name: path for path in folder.iterdir()}


def _as_pillow_sees_it(path: Path) -> np.ndarray:
    """Read the middle square, on white, in 64 x 64 pixels from 0 to 255."""
    with Image.open(path) as opened:
        image = opened.convert("RGBA" if path.stem == "clear" else "RGB")
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    image = image.crop((left, top, left + side, top + side))
    small = image.resize((64, 64), Image.Resampling.BOX).convert("RGBA")
    white = Image.new("RGBA", small.size, "white")
    return np.asarray(Image.alpha_composite(white, small).convert("RGB"), float)


def _check_shown(page: Any, expected: np.ndarray) -> None:
    """Compare the image that the networks read, without a change, with `expected`."""
    slider = page.get_by_role("slider", name="epsilon")
    slider.fill("0")
    settled(page)
    shown = np.array(page.evaluate(DRAWN)[0]["image"]).reshape(64, 64, 3)
    assert np.abs(shown - expected).max() <= 3  # each rounds and averages in its own way
    slider.fill("4")
    settled(page)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("plain.jpg", "Its middle was cut out as a square, it was resized to 64 × 64 pixels."),
        ("clear.png", "what was transparent became white"),
        ("moving.gif", "resized"),
        ("grey.png", "resized"),
        ("cmyk.jpg", "resized"),
        ("dot.png", "resized"),
    ],
)
def test_an_image_of_any_kind_is_attacked(lab_address, lab_visit, images, name, said):
    page = ready(lab_visit(f"{lab_address}one.html"))
    page.locator("input[type=file]").set_input_files(images[name])
    page.get_by_role("combobox", name="true class").wait_for()
    settled(page)
    assert said in status(page)
    assert "The standard network predicts" in status(page)
    _check_shown(page, _as_pillow_sees_it(images[name]))
    page.get_by_role("combobox", name="true class").select_option("yield")
    pick(page, "PGD")
    settled(page)
    assert "yield" in page.locator(".advlib-chart").inner_text()
    page.get_by_role("radio", name="stop", exact=True).check(force=True)
    settled(page)
    assert not page.get_by_role("combobox", name="true class").is_visible()
    assert status(page) == ""


GIVE = """({ bytes, event, place }) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], "mine", { type: "image/png" }));
  const lab = document.querySelectorAll(".advlib-livelab")[place];
  lab.scrollIntoView({ block: "center" });
  const made = event === "drop"
    ? new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true })
    : new ClipboardEvent("paste", { clipboardData: data, bubbles: true, cancelable: true });
  (event === "drop" ? lab : document.body).dispatchEvent(made);
}"""


@pytest.mark.parametrize("event", ["drop", "paste"])
@pytest.mark.parametrize("place", [0, 1])
def test_a_file_is_for_the_lab_where_it_is_dropped_or_that_is_in_view(
    lab_address, lab_visit, images, event, place
):
    page = lab_visit(f"{lab_address}two.html")
    given = list(images["grey.png"].read_bytes())
    page.evaluate(GIVE, {"bytes": given, "event": event, "place": place})
    labs_in_page = page.get_by_role("group", name="Live Lab").all()
    labs_in_page[place].get_by_text("The standard network predicts").wait_for()
    truth = [lab_in_page.get_by_role("combobox", name="true class") for lab_in_page in labs_in_page]
    assert truth[place].is_visible() and not truth[1 - place].is_visible()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("huge.png", "16000 × 16000 pixels, too many"),
        ("heavy.png", "61 MB; the lab reads up to 60 MB"),
        ("wrong.png", "could not be read as an image"),
        ("text.txt", "could not be read as an image"),
        ("empty.png", "could not be read as an image"),
        ("stump.jpg", "could not be read as an image"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_in_a_sentence(
    lab_address, lab_visit, images, name, said
):
    page = ready(lab_visit(f"{lab_address}one.html"))
    before = verdicts(page)
    page.locator("input[type=file]").set_input_files(images[name])
    page.wait_for_function(
        "t => document.querySelector('[role=status]').textContent.includes(t)", arg=said
    )
    assert verdicts(page) == before
    pick(page, "PGD")
    settled(page)


def test_a_slider_moved_while_an_image_is_read_does_not_lose_it(lab_address, lab_visit, images):
    page = ready(lab_visit(f"{lab_address}one.html", script=WATCHED))
    pick(page, "PGD")
    page.evaluate("""() => {
      const slider = document.querySelector("input[type=range]");
      const { postMessage } = Worker.prototype;
      Worker.prototype.postMessage = function (message, ...more) {
        postMessage.call(this, message, ...more);
        if (message.tasks?.length !== 1) return;  // one question: what does it show?
        slider.value = 9;
        slider.dispatchEvent(new Event("input", { bubbles: true }));
        window.moved = true;
      };
    }""")
    page.locator("input[type=file]").set_input_files(images["plain.jpg"])
    hears(page, "[role=status]", "The standard network predicts")
    settled(page)
    assert page.evaluate("window.moved")
    assert page.get_by_role("slider", name="epsilon").get_attribute("aria-valuetext") == "9/255"
    assert page.get_by_role("combobox", name="true class").is_visible()


# The first image stays undecoded until the test lets it go.
SLOW_DECODE = """const src = Object.getOwnPropertyDescriptor(HTMLImageElement.prototype, "src");
Object.defineProperty(HTMLImageElement.prototype, "src", { ...src, set(value) {
  const go = () => src.set.call(this, value);
  if (window.release) go(); else window.release = go;
} })"""


@pytest.mark.parametrize("later", ["upload", "file that is none", "pick"])
def test_what_is_chosen_last_is_shown(lab_address, lab_visit, images, later):
    """However long an earlier image takes."""
    page = ready(lab_visit(f"{lab_address}one.html", script=SLOW_DECODE))
    field = page.locator("input[type=file]")
    field.set_input_files(images["clear.png"])
    page.wait_for_function("() => window.release")
    said = ""
    if later == "pick":
        page.get_by_role("radio", name="yield", exact=True).check(force=True)
    elif later == "upload":
        field.set_input_files(images["grey.png"])
        said = "The standard network predicts"
    else:
        field.set_input_files(images["text.txt"])
        said = "could not be read as an image"
    hears(page, "[role=status]", said)
    settled(page)
    before = status(page), page.evaluate(DRAWN)[0]["image"]
    page.evaluate("window.release()")
    page.wait_for_timeout(400)
    settled(page)
    assert (status(page), page.evaluate(DRAWN)[0]["image"]) == before


def test_an_image_waits_for_networks_that_do_not_come_at_once(lab_address, lab_visit, images):
    page = lab_visit(
        f"{lab_address}one.html",
        prepare=lambda p: respond(p, "weights.bin", status=404, body=""),
        expected="Failed to load resource",
    )
    page.get_by_role("alert").wait_for()
    page.locator("input[type=file]").set_input_files(images["grey.png"])
    hears(page, "[role=status]", "Your image waits for the networks.")
    page.get_by_role("alert").wait_for()
    page.unroute("**/weights.bin*")
    page.get_by_role("button", name="Try again").click()
    hears(page, "[role=status]", "The standard network predicts")


def test_a_sentence_is_written_once_however_often_the_lab_is_drawn(lab_address, lab_visit, images):
    """A screen reader says again what is written again."""
    page = ready(lab_visit(f"{lab_address}one.html"))
    page.locator("input[type=file]").set_input_files(images["dot.png"])
    hears(page, "[role=status]", "The standard network predicts")
    for stop in (0, 1, 2):  # else it says that it computes
        page.evaluate(FRAME, stop)
        settled(page)
    page.evaluate("""() => {
      window.written = 0;
      new MutationObserver((all) => (window.written += all.length))
        .observe(document.querySelector("[role=status]"), { childList: true });
    }""")
    for stop in (0, 1, 2):
        page.evaluate(FRAME, stop)
    settled(page)
    assert page.evaluate("window.written") == 0


def test_an_image_that_was_cut_short_is_shown_as_far_as_it_goes(lab_address, lab_visit, images):
    page = ready(lab_visit(f"{lab_address}one.html"))
    page.locator("input[type=file]").set_input_files(images["cut.jpg"])
    hears(page, "[role=status]", "64 × 64 pixels, what was transparent became white. The standard")
    page.get_by_role("slider", name="epsilon").fill("0")
    settled(page)
    shown = np.array(page.evaluate(DRAWN)[0]["image"]).reshape(64, 64, 3)
    whole = _as_pillow_sees_it(images["plain.jpg"])
    assert np.abs(shown - whole)[:16].max() <= 3
    assert (shown[-4:] == 255).all()


def test_an_image_just_below_the_limit_is_taken(lab_address, lab_visit, images):
    page = ready(lab_visit(f"{lab_address}one.html"))
    page.locator("input[type=file]").set_input_files(images["large.png"])
    hears(page, "[role=status]", "Its middle was cut out as a square, it was resized to 64 × 64")
    _check_shown(page, np.full((64, 64, 3), 255))


def test_a_large_image_is_made_small_before_its_pixels_are_read(lab_address, lab_visit, images):
    page = ready(lab_visit(f"{lab_address}one.html", script="""window.widest = 0;
      const { getImageData } = CanvasRenderingContext2D.prototype;
      CanvasRenderingContext2D.prototype.getImageData = function (...all) {
        window.widest = Math.max(window.widest, all[2]);
        return getImageData.apply(this, all);
      }"""))  # fmt: skip
    page.locator("input[type=file]").set_input_files(images["wide.png"])
    hears(page, "[role=status]", "what was transparent became white")
    assert page.evaluate("window.widest") == 64


@pytest.mark.parametrize(
    "pixels",
    [
        "throw new Error('forbidden')",
        "return {data: crypto.getRandomValues(new Uint8Array(16384))}",
    ],
)
def test_a_browser_that_hides_pixels_is_named_in_a_sentence(lab_address, lab_visit, images, pixels):
    hide = f"CanvasRenderingContext2D.prototype.getImageData = () => {{ {pixels} }}"
    page = ready(lab_visit(f"{lab_address}one.html", script=hide))
    before = verdicts(page)
    page.locator("input[type=file]").set_input_files(images["plain.jpg"])
    hears(page, "[role=status]", "does not let this page read the image's pixels")
    assert verdicts(page) == before


def test_no_upload_leaves_the_page(lab_address, lab_visit, images):
    sent = []
    page = ready(lab_visit(f"{lab_address}one.html"))
    page.on("request", lambda request: sent.append(request.url))
    page.locator("input[type=file]").set_input_files(images["plain.jpg"])
    page.get_by_role("combobox", name="true class").wait_for()
    settled(page)
    assert [url for url in sent if not url.startswith("blob:")] == []


# -- figures and links


def test_a_figure_holds_what_is_shown(lab_address, lab_visit, tmp_path):
    page = lab_visit(f"{lab_address}one.html", accept_downloads=True)
    settled(page)
    button = page.get_by_role("button", name="Download figure")
    with page.expect_download() as download:
        button.click()
    assert download.value.suggested_filename == "FGSM-L-4-255.png"
    download.value.save_as(tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as opened:
        figure = np.asarray(opened.convert("RGB")).astype(int)
    high = (figure.shape[0] - 100) // 2
    for row, column in enumerate(page.evaluate(DRAWN)):
        for place, name in ((1, "change"), (2, "image")):
            left, top = 32 + 480 * place, 104 + row * high
            shown = np.array(column[name]).reshape(64, 64, 3)
            assert np.array_equal(figure[top + 3 : top + 448 : 7, left + 3 : left + 448 : 7], shown)
            letters = figure[top + 450 : top + high, left : left + 448].min(2) < 100
            assert letters.sum() > 400
    page.route("**/weights.bin*", lambda route: None)
    page.reload()
    pick(page, "PGD")
    hears(page, "[role=status]", "Loading the networks")
    button.click()
    page.get_by_text("There is no result to draw yet.").wait_for()


def test_a_link_opens_the_same_state(lab_address, lab_visit):
    link = "#live-lab?attack=targeted&norm=l2&eps=1.50&image=yield+2&steps=20&target=no+entry"
    page = ready(lab_visit(f"{lab_address}one.html{link}"))
    for name in ("yield, 2", "Targeted PGD", "L2"):
        assert page.get_by_role("radio", name=name, exact=True).is_checked()
    sliders = [page.get_by_role("slider", name=name) for name in ("epsilon", "steps")]
    assert [s.get_attribute("aria-valuetext") for s in sliders] == ["1.50", "20"]
    target = page.get_by_role("combobox", name="target")
    assert target.locator(":checked").inner_text() == "no entry"
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy link").click()
    page.get_by_text("The link is copied.").wait_for()
    assert (
        page.evaluate("navigator.clipboard.readText()")
        == page.url
        == f"{lab_address}one.html{link}"
    )
    page.evaluate("location.hash = '#live-lab?attack=noise'")  # another link, in the same page
    page.wait_for_function("() => document.querySelector('input[value=noise]')?.checked")
    ready(page)


def test_an_image_of_the_readers_own_is_not_in_the_link(lab_address, lab_visit, images):
    page = ready(lab_visit(f"{lab_address}one.html"))
    page.locator("input[type=file]").set_input_files(images["plain.jpg"])
    page.get_by_role("combobox", name="true class").wait_for()
    page.evaluate("delete Navigator.prototype.clipboard")
    page.get_by_role("button", name="Copy link").click()
    page.get_by_text("The link stands in the address bar.").wait_for()
    assert page.url.endswith("#live-lab?attack=fgsm&norm=linf&eps=4/255")
