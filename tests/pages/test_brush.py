"""The brush of lesson 7 in a browser: its attack against PyTorch's, and what a reader does."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from course import lab, live_lab
from lab_page import channels_last, pick, respond
from scripts import VIEWS, faults

import advlib
from advlib.data import signs

# Each row's pixels that are not dimmed, and its attacked sign; the first row is not attacked.
ROWS = """() => {
  const values = (canvas) => Array.from(canvas.getContext("2d").getImageData(0, 0, 64, 64).data)
    .filter((_, i) => i % 4 !== 3);
  const rows = [...document.querySelectorAll(".lab-row")].map((row) => ({
    drawn: [...row.querySelectorAll("canvas")].map(values),
    said: row.querySelector(".lab-class").textContent,
    share: row.querySelector(".advlib-value").textContent,
  }));
  const clean = rows[0].drawn[1];
  return rows.map(({ drawn: [mask, image], said, share }) => {
    const lit = Array.from({ length: 4096 }, (_, p) => [0, 1, 2].some(
      (c) => clean[3 * p + c] > 3 && mask[3 * p + c] > 0.75 * clean[3 * p + c]));
    return { lit, clean, image, said, share: parseFloat(share.replace(/[<>]/, "")) };
  });
}"""


def settled(page: Any) -> Any:
    """Wait until the network has answered for every choice of pixels."""
    page.locator(".lab-strip input:enabled").nth(5).wait_for()
    page.wait_for_function("() => !document.querySelector('.lab-stale')")
    return page


def painted(page: Any) -> int:
    return int(re.match(r"\d+", page.get_by_role("status").first.inner_text())[0])


def stroke(page: Any, begin: tuple[float, float], end: tuple[float, float]) -> None:
    """Paint with the mouse between two places, in shares of the side."""
    pad = page.get_by_role("application")
    pad.scroll_into_view_if_needed()
    box = pad.bounding_box()
    places = [(box["x"] + a * box["width"], box["y"] + b * box["height"]) for a, b in (begin, end)]
    page.mouse.move(*places[0])
    page.mouse.down()
    page.mouse.move(*places[1], steps=5)
    page.mouse.up()
    settled(page)


@pytest.mark.parametrize("attack", ["fgsm", "pgd"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_only_the_chosen_pixels_are_attacked_and_as_in_advlib(
    lab_attack: Callable[..., Any], attack: str, norm: str
) -> None:
    x, y = (part[2:3] for part in lab.images())
    x, model = (x.double() * 255).round() / 255, advlib.models.load("signs-standard").double()
    where = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    where[..., 20:34, 25:40] = True
    eps = {"linf": 6 / 255, "l2": 1.5}[norm]
    more = {} if attack == "fgsm" else {"steps": 5, "random_start": False}
    x_adv = getattr(advlib, attack)(model, x, y, eps, norm=norm, where=where, **more)
    task = {"attack": attack, "norm": norm, "eps": eps, "steps": 5, "y": int(y)}
    sent = {
        "network": "standard",
        "x": channels_last((x * 255).round()).ravel().tolist(),
        "task": task | {"where": where.flatten().int().tolist()},
    }
    found = lab_attack(**sent)
    image = np.array(found["image"]).reshape(1, 64, 64, 3)
    np.testing.assert_allclose(image, channels_last(x_adv), atol=1e-5)
    outside = ~where[0, 0].numpy()
    np.testing.assert_array_equal(image[0][outside], channels_last(x)[0][outside])


@pytest.mark.parametrize("place", ["served", "disk"])
def test_what_is_painted_is_attacked_beside_as_many_pixels_of_each_choice(
    lab_site: Path, lab_address: str, lab_visit: Callable[..., Any], place: str
) -> None:
    address = (
        f"{lab_address}brush.html" if place == "served" else (lab_site / "brush.html").as_uri()
    )
    page = settled(lab_visit(address))
    assert painted(page) == 0
    assert len({row["said"] for row in page.evaluate(ROWS)}) == 1  # no pixel, no effect
    stroke(page, (0.3, 0.5), (0.7, 0.45))
    clean, own, *others = page.evaluate(ROWS)
    count = painted(page)
    assert 50 < count < lab.BRUSH_MOST and sum(own["lit"]) == count
    assert all(abs(sum(row["lit"]) - count) <= 3 for row in others)  # black pixels look dimmed
    assert len(others) == 4 and len({tuple(row["lit"]) for row in others}) == 4
    # What PyTorch makes of the reader's pixels.
    x = torch.tensor(clean["clean"]).view(1, 64, 64, 3).permute(0, 3, 1, 2).double() / 255
    where = torch.tensor(own["lit"]).view(1, 1, 64, 64)
    model = advlib.models.load("signs-standard").double()
    y = torch.tensor([signs.CLASS_NAMES.index(lab.BRUSH_CLASS)])
    x_adv = advlib.pgd(model, x, y, 6 / 255, steps=10, random_start=False, where=where)
    shares = model(x_adv).softmax(1)[0]
    assert own["said"] == f"predicts {signs.CLASS_NAMES[int(shares.argmax())]}"
    assert own["share"] == pytest.approx(100 * float(shares[y]), abs=0.2)
    drawn = torch.tensor(own["image"]).view(1, 64, 64, 3).permute(0, 3, 1, 2)
    assert (drawn - 255 * x_adv).abs().max() <= 1
    assert not (drawn - 255 * x).abs().amax(1, keepdim=True)[~where].any()


def test_the_choices_are_copied_erased_and_limited(
    lab_address: str, lab_visit: Callable[..., Any]
) -> None:
    page = settled(lab_visit(f"{lab_address}brush.html"))
    for place, name in enumerate(("support", "steep", "disc", "random"), 2):
        page.get_by_role("button", name=name).click()
        settled(page)
        rows = page.evaluate(ROWS)
        assert painted(page) == 205 and rows[1]["lit"] == rows[place]["lit"]
        assert rows[1]["share"] == rows[place]["share"]
    pick(page, "eraser")
    stroke(page, (0.2, 0.2), (0.8, 0.8))
    assert 0 < painted(page) < 205
    pick(page, "broad")
    for down in (0.2, 0.4, 0.6, 0.8):
        stroke(page, (0.1, down), (0.9, down))
    assert painted(page) == lab.BRUSH_MOST
    page.get_by_text("no more than a tenth").wait_for()
    page.get_by_role("button", name="clear").click()
    assert painted(page) == 0


def test_keyboard_and_finger_paint_and_another_sign_keeps_the_pixels(
    lab_address: str, lab_visit: Callable[..., Any]
) -> None:
    phone = {"has_touch": True, "viewport": {"width": 390, "height": 844}}
    page = settled(lab_visit(f"{lab_address}brush.html", **phone))
    pad = page.get_by_role("application")
    pad.press("Space")
    by_key = painted(page)
    assert by_key > 20
    for key in ("ArrowUp", "ArrowUp", "ArrowUp", "ArrowLeft", "Space"):
        page.keyboard.press(key)
    assert painted(page) > by_key
    box = pad.bounding_box()
    page.touchscreen.tap(box["x"] + 30, box["y"] + 30)
    touched = painted(page)
    assert touched > by_key + 20
    page.locator(".lab-strip label").nth(4).tap()
    settled(page)
    assert painted(page) == touched
    assert "speed limit 30" in page.locator(".lab-brush").inner_text()
    said = page.locator("[aria-live=polite]")
    page.wait_for_function("e => /Random: predicts/.test(e.textContent)", arg=said.element_handle())


def test_it_fits_and_axe_finds_nothing(
    lab_address: str, lab_visit: Callable[..., Any], axe: str
) -> None:
    page = settled(lab_visit(f"{lab_address}brush.html"))
    stroke(page, (0.3, 0.5), (0.7, 0.5))
    for width, scheme in VIEWS:
        assert faults(page, axe, width, scheme) == []


def test_without_the_network_it_says_so_and_tries_again(
    lab_address: str, lab_visit: Callable[..., Any]
) -> None:
    page = lab_visit(
        f"{lab_address}brush.html",
        prepare=lambda p: respond(p, "weights.bin", status=404, body=""),
        expected="Failed to load resource",
    )
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert "The network could not be loaded. The server answered 404." in alert.inner_text()
    page.unroute("**/weights.bin*")
    page.get_by_role("button", name="Try again").click()
    settled(page)
    assert alert.is_hidden()


def test_the_page_holds_its_data_and_no_parser_takes_it_for_a_tag() -> None:
    html = live_lab.brush_html({"classes": ["</script>"]}, "../lab/", "?v=1")
    assert html.count("</script>") == 2
    assert '<script src="../lab/lab.js?v=1"></script>' in html
