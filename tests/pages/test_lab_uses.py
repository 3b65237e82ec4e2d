"""The Live Lab as a reader uses it, and a round against the network."""

import base64
import re

import numpy as np
import pytest
from course import lab
from lab_page import (
    DRAWN,
    begin,
    channels_last,
    check_drawn,
    hears,
    pick,
    play,
    ready,
    respond,
    settled,
    status,
    verdicts,
)
from scripts import VIEWS, faults

import advlib
from advlib.data import signs

# -- uses


@pytest.mark.parametrize("place", ["served", "disk"])
def test_it_computes_served_and_from_disk(lab_site, lab_address, lab_visit, place):
    page = lab_visit(
        f"{lab_address}one.html" if place == "served" else (lab_site / "one.html").as_uri()
    )
    opening = verdicts(page)
    assert opening[0] != opening[1]
    ready(page)
    assert verdicts(page) == opening  # nothing changes when the networks arrive
    slider = page.get_by_role("slider", name="epsilon")
    slider.fill("0")
    settled(page)
    assert verdicts(page) == ["predicts stop", "predicts stop"]
    pick(page, "Targeted PGD")
    slider.fill("8")
    page.get_by_role("combobox", name="target").select_option("no entry")
    settled(page)
    assert verdicts(page)[0] == "predicts no entry"
    assert "no entry" in page.locator(".advlib-chart").inner_text()


def test_the_opening_state_needs_no_network(lab_address, lab_visit):
    """Epsilon moves it while the weights are still on their way; another attack has to wait."""
    page = lab_visit(
        f"{lab_address}one.html", prepare=lambda p: p.route("**/weights.bin*", lambda r: None)
    )
    slider = page.get_by_role("slider", name="epsilon")
    seen = []
    for key in ("Home", "End"):
        slider.press(key)
        settled(page)
        seen.append(page.locator(".lab-column").all_inner_texts())
    assert "predicts stop" in seen[0][0] and "predicts stop" in seen[0][1]
    assert "predicts stop" not in seen[1][0] and "predicts stop" in seen[1][1]
    assert status(page) == ""
    pick(page, "PGD")
    hears(page, "[role=status]", "Loading the networks")
    assert page.locator(".lab-stale").count() == 2


def test_what_is_drawn_first_is_the_stored_result(lab_address, lab_visit, lab_opening):
    page = lab_visit(
        f"{lab_address}one.html", prepare=lambda p: p.route("**/weights.bin*", lambda r: None)
    )
    x = np.frombuffer(base64.b64decode(lab_opening["pixels"]), np.uint8).astype(float)
    settled(page)
    for column, stored in zip(page.evaluate(DRAWN), lab_opening["networks"].values(), strict=True):
        direction = np.frombuffer(base64.b64decode(stored["direction"]), np.int8)
        x_adv = (x + 4 * direction).clip(0, 255)
        check_drawn(column, x, x_adv, stored["probabilities"][4], stored["losses"])
        # FGSM with 4/255: grey, 40 brighter or darker, but for pixels that met the box.
        free = (x >= 4) & (x <= 251) & (direction != 0)
        assert free.mean() > 0.5
        assert set(np.array(column["change"])[free]) <= {87, 88, 167, 168}


@pytest.mark.parametrize("norm", ["L∞", "L2"])
def test_what_is_drawn_is_what_advlib_finds(lab_address, lab_visit, norm):
    page = ready(lab_visit(f"{lab_address}one.html"))
    page.get_by_role("radio", name="yield", exact=True).check(force=True)
    pick(page, norm)
    pick(page, "PGD")
    page.get_by_role("slider", name="epsilon").fill("3")
    settled(page)
    eps, kind = {"L∞": (3 / 255, "linf"), "L2": (0.75, "l2")}[norm]
    place = signs.CLASS_NAMES.index("yield") * lab.IMAGES_PER_CLASS
    x, y = (part[place : place + 1] for part in lab.images())
    x = (x.double() * 255).round() / 255
    for column, title in zip(page.evaluate(DRAWN), lab.NETWORKS.values(), strict=True):
        model = advlib.models.load(title).double()
        losses: list[float] = []
        x_adv = advlib.pgd(
            model, x, y, eps, norm=kind, steps=10, random_start=False,
            on_step=lambda *seen, losses=losses: losses.append(float(seen[3])),
        )  # fmt: skip
        images = [255 * channels_last(part).ravel() for part in (x, x_adv)]
        check_drawn(column, *images, model(x_adv).softmax(1)[0].detach(), losses)


def test_the_keyboard_does_it_all(lab_address, lab_visit):
    page = ready(lab_visit(f"{lab_address}one.html"))
    image = page.get_by_role("radio", checked=True).first
    image.focus()
    image.press("ArrowRight")
    settled(page)
    page.keyboard.press("Tab")  # the file
    assert page.evaluate("document.activeElement.type") == "file"
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("radio", name="PGD", exact=True).is_checked()
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.getAttribute('aria-valuetext')") == "5/255"
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("radio", name="L2").is_checked()
    settled(page)
    slider = page.get_by_role("slider", name="epsilon")
    assert slider.get_attribute("aria-valuetext") == "1.25"
    said = page.locator("[aria-live=polite]")
    page.wait_for_function(
        "e => e.textContent.includes('Robust network: predicts')", arg=said.element_handle()
    )


def test_a_finger_does_it_too(lab_address, lab_visit):
    page = ready(
        lab_visit(f"{lab_address}one.html", has_touch=True, viewport={"width": 390, "height": 844})
    )
    page.locator(".lab-strip label").nth(4).tap()
    page.locator("label", has_text="Targeted PGD").tap()
    slider = page.get_by_role("slider", name="epsilon")
    box = slider.bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] - 4, box["y"] + box["height"] / 2)
    settled(page)
    assert slider.get_attribute("aria-valuetext") == "12/255"
    assert page.get_by_role("radio", name="speed limit 30", exact=True).is_checked()


def test_it_fits_and_axe_finds_nothing(lab_address, lab_visit, axe):
    page = ready(lab_visit(f"{lab_address}one.html"))
    pick(page, "Targeted PGD")
    settled(page)
    card = "getComputedStyle(document.querySelector('.advlib-lab')).backgroundColor"
    colour = {"light": "rgb(255, 255, 255)", "dark": "rgb(23, 27, 32)"}
    for width, scheme in VIEWS:
        assert faults(page, axe, width, scheme) == []
        assert page.evaluate(card) == colour[scheme]
        other = "light" if scheme == "dark" else "dark"
        page.evaluate(f"document.documentElement.dataset.theme = '{other}'")
        assert page.evaluate(card) == colour[other]
        page.evaluate("delete document.documentElement.dataset.theme")


def test_what_follows_the_lab_does_not_move(lab_address, lab_visit):
    watch = (
        "window.shift = 0; new PerformanceObserver(list => list.getEntries()"
        ".forEach(e => window.shift += e.value)).observe({type: 'layout-shift', buffered: true})"
    )
    page = ready(lab_visit(f"{lab_address}one.html", script=watch))
    page.wait_for_timeout(300)
    assert page.evaluate("window.shift") < 0.001


# -- you against the network


def test_a_round_counts_whose_errors_are_more(lab_address, lab_visit):
    page = ready(lab_visit(f"{lab_address}one.html"))
    page.get_by_text("You against the network").focus()
    for key in ("Enter", "Tab", "Enter"):
        page.keyboard.press(key)
    options = page.locator(".lab-option")
    for number in range(1, 21):
        page.get_by_text(f"Sign {number} of 20").wait_for()
        assert len(set(options.all_inner_texts())) == 4
        # The keyboard came along when the button made place for the sign.
        assert options.first.evaluate("e => e === document.activeElement")
        page.keyboard.press("Enter")
    result = page.locator(".lab-said")
    again = page.get_by_role("button", name="Play again")
    again.wait_for()
    assert again.evaluate("e => e === document.activeElement")
    yours, its = map(int, re.findall(r"on (\d+)", result.inner_text()))
    assert its >= 15  # PGD within 8/255 on a network that nobody protected
    assert 0 < yours <= 20  # the first button, whatever it said
    assert "Sign 20 was" in result.inner_text()
    whose = {yours > its: "You make more errors.", yours < its: "The network makes more errors."}
    assert result.inner_text().endswith(whose.get(True, "You make equally many errors."))


def test_a_round_that_cannot_be_played_says_so(lab_address, lab_visit):
    page = lab_visit(
        f"{lab_address}one.html",
        prepare=lambda p: respond(p, "weights.bin", status=404, body=""),
        expected="Failed to load resource",
    )
    page.get_by_role("alert").wait_for()
    page.get_by_text("You against the network").click()
    begin(page)
    page.get_by_text("This round cannot be played now. The server answered 404.").wait_for()


def test_a_fault_in_a_round_is_told_from_a_network_that_did_not_come(lab_address, lab_visit):
    page = ready(lab_visit(f"{lab_address}one.html"))
    page.evaluate("() => { Math.random = () => { throw new Error('no chance') } }")
    with page.expect_console_message(lambda said: "no chance" in said.text):
        begin(page)
    page.get_by_text("cannot be played now. A script failed here").wait_for()


def test_two_labs_keep_scores_of_their_own(lab_address, lab_visit):
    page = lab_visit(f"{lab_address}two.html", viewport={"width": 1280, "height": 5000})
    first, second = page.locator(".lab-round").all()
    begin(first)
    play(first, 1, 1)
    first.get_by_text("Sign 2 of 20").wait_for()
    begin(second)
    play(second, 1, 2)
    second.get_by_text("Sign 3 of 20").wait_for()
    page.reload()
    first.get_by_text("You against the network").click()
    second.get_by_text("You against the network").click()
    assert first.get_by_role("button", name="Go on with sign 2").is_visible()
    assert second.get_by_role("button", name="Go on with sign 3").is_visible()


@pytest.mark.parametrize("place", ["served", "disk"])
def test_a_round_and_its_scores_survive_a_reload(lab_site, lab_address, lab_visit, place):
    page = lab_visit(
        f"{lab_address}one.html" if place == "served" else (lab_site / "one.html").as_uri()
    )
    begin(page)
    play(page, 1, 7)
    page.get_by_text("Sign 8 of 20").wait_for()
    page.reload()
    begin(page, "Go on with sign 8")
    play(page, 8, 20)
    page.get_by_role("button", name="Play again").wait_for()
    yours, its = map(int, re.findall(r"on (\d+)", page.locator(".lab-said").inner_text()))
    assert its >= 15 and 0 < yours <= 20
    page.reload()
    page.get_by_text("You against the network").click()
    said = f"the one round that you finished: you made errors on {yours} of 20 signs"
    assert f"{said}, the standard network on {its}." in page.locator(".lab-round").inner_text()
    assert page.get_by_role("button", name="Play again").is_visible()
    page.evaluate("localStorage.clear()")
    page.reload()
    page.get_by_text("You against the network").click()
    assert page.get_by_role("button", name="Begin").is_visible()
    assert "you finished" not in page.locator(".lab-round").inner_text()


SCORES = [
    "", "3", "null", "[]", '{"rounds": 3, "places": "x", "errors": []}',
    '{"rounds": [[1], [-1, 2], [21, 0], ["1", "2"], null]}',
    '{"rounds": [], "places": [99], "errors": [0, 0]}', '{"places": [0, 1], "errors": [99, 0]}',
    '{"places": [], "errors": [0, 0]}', '{"places": [0.5], "errors": [0, 0]}',
]  # fmt: skip


def test_scores_that_are_none_count_as_none(lab_address, lab_visit):
    page = lab_visit(f"{lab_address}one.html")
    for kept in SCORES:
        page.evaluate("text => localStorage.setItem('advlib:/one:round', text)", kept)
        page.reload()
        page.get_by_text("You against the network").click()
        assert page.get_by_role("button", name="Begin").is_visible(), kept
        assert "you finished" not in page.locator(".lab-round").inner_text()
    begin(page)
    play(page, 1, 1)
    page.get_by_text("Sign 2 of 20").wait_for()
    assert "places" in page.evaluate("localStorage.getItem('advlib:/one:round')")
