"""The Photo Lab as a reader uses it, before and with its network, and what goes wrong.

test_photolab.py tests its engine, and test_photolab_files.py what becomes of files.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clocks import thread_time
from course import photo_lab, photo_networks, photo_page
from photolab_page import drawn, epsilon, load, pick, settled, verdicts

import advlib

# A Worker keeps its own WebAssembly: there it is taken away by the first line of its script.
NO_WASM_IN_WORKER = """const Plain = window.Blob;
window.Blob = class extends Plain {
  constructor(parts, options) {
    super(options ? ["delete self.WebAssembly;", ...parts] : parts, options);
  }
};"""
NO_WORKER = "delete window.Worker"
NO_STORE = "Object.defineProperty(window, 'caches', {get() { throw new Error('blocked') }})"
NO_CANVAS = "HTMLCanvasElement.prototype.getContext = () => null"


# -- before the network


@pytest.mark.parametrize("home", ["served", "disk"])
def test_the_stored_answers_need_no_network(
    photo_visit: Any, photo_site: Path, photo_address: str, home: str
) -> None:
    asked: list[str] = []
    page = photo_visit(
        photo_address if home == "served" else (photo_site / "one.html").as_uri(),
        prepare=lambda p: p.on("request", lambda r: asked.append(r.url)),
    )
    settled(page)
    clean, attacked = verdicts(page)
    assert clean == "predicts tripod" != attacked
    pick(page, "Noise")
    settled(page)
    assert verdicts(page) == [clean, clean]
    pick(page, "FGSM")
    epsilon(page, 0)
    settled(page)
    assert verdicts(page) == [clean, clean]
    pick(page, "coffee")
    page.get_by_text("Rachel Michetti, CC0").wait_for()
    page.locator(".photo-verdict", has_text="espresso").first.wait_for()
    pick(page, "PGD")
    epsilon(page, 5)
    settled(page)
    assert verdicts(page)[1] not in ("", "predicts espresso")
    assert "Loss of “espresso”" in page.locator(".advlib-chart").inner_text()
    page.get_by_role("slider", name="steps").fill("4")
    page.get_by_role("status").filter(has_text="This needs the network: load it above.").wait_for()
    assert page.locator(".photo-stale").count()
    assert not any("/lite0." in url for url in asked)


def test_stored_pgd_is_drawn_as_it_was_classified(photo_visit: Any) -> None:
    page = photo_visit()
    pick(page, "PGD")
    settled(page)
    model, x = photo_networks.lite0(), photo_lab.shipped("camera")
    y = model(x).argmax(1)
    x_adv = advlib.pgd(model, x, y, 2 / 255, steps=10, random_start=False)
    expected = 255 * x_adv[0].permute(1, 2, 0).numpy()
    # Where the gradient is all but 0, its sign is anyone's, and a canvas rounds.
    assert (np.abs(drawn(page)[1] - expected) <= 0.51).mean() > 0.99
    predicted = model.categories[int(model(x_adv).argmax())]
    assert verdicts(page) == ["predicts tripod", f"predicts {predicted}"]
    assert len(page.locator(".advlib-chart > svg polyline").get_attribute("points").split()) == 11


def test_without_the_stored_pgd_it_needs_the_network(photo_visit: Any) -> None:
    page = photo_visit(
        prepare=lambda p: p.route("**/*_pgd_*", lambda route: route.fulfill(status=404)),
        expected="Failed to load resource",
    )
    pick(page, "PGD")
    page.get_by_role("status").filter(has_text="This needs the network: load it above.").wait_for()


def test_on_whole_levels_a_budget_is_worth_the_lower_level(photo_visit: Any) -> None:
    """The stored answers show that: 1.5/255 are worth 1/255, and 3/4 nothing."""
    page = photo_visit()
    epsilon(page, 5)
    settled(page)
    one = drawn(page)[1]
    epsilon(page, 6)
    settled(page)
    assert not np.array_equal(drawn(page)[1], one)
    page.get_by_role("checkbox", name="End on whole 8-bit levels").check()
    settled(page)
    assert np.array_equal(drawn(page)[1], one)
    epsilon(page, 4)
    settled(page)
    assert page.get_by_text("change: none").is_visible()


def test_the_first_answer_needs_no_script(browser: Any, photo_address: str) -> None:
    page = browser.new_page(java_script_enabled=False)
    page.goto(photo_address)
    group = page.get_by_role("group", name="What does an ImageNet network predict?")
    for change, predicted in (
        ("The photograph as it is", "tripod"),
        ("Random noise of 2/255", "tripod"),
        ("One gradient step of 2/255", "harmonica"),
    ):
        choice = group.get_by_role("radio", name=change)
        choice.check()
        (shown,) = [image for image in group.get_by_role("img").all() if image.is_visible()]
        said = shown.get_attribute("alt")
        assert said.startswith(f"{change}. The network predicts {predicted}, ")
        label = group.locator(f"label[for={choice.get_attribute('id')}]").inner_text()
        assert predicted in label and said.rsplit(", ")[-1].rstrip(".") in label
        assert shown.evaluate("e => e.naturalWidth") == 224
    page.close()


@pytest.mark.parametrize("attack", ["Noise", "FGSM"])
def test_what_is_drawn_first_is_what_was_classified(photo_visit: Any, attack: str) -> None:
    page = photo_visit()
    pick(page, attack)
    settled(page)
    x = photo_lab.shipped("camera")
    if attack == "Noise":
        signs = photo_lab.noise()
    else:
        model = photo_networks.lite0()
        y = model(x).argmax(1)
        signs = photo_lab.input_gradient(model, x, y).grad.sign()
    before, after = (t[0].permute(1, 2, 0).numpy() for t in (255 * x, 255 * x + 2 * signs))
    clean, attacked, change = drawn(page)
    assert np.array_equal(clean, before.round())
    close = np.abs(attacked - after.clip(0, 255)) <= 1
    assert close.mean() > 0.999  # where the gradient is all but 0, its sign is anyone's
    inside = (before >= 2) & (before <= 253)
    assert set(np.unique(change[inside])) <= {27, 28, 227, 228}  # grey, 50 times 2 up or down


def test_the_reader_swipes_between_clean_and_attacked(photo_visit: Any) -> None:
    page = photo_visit()
    pick(page, "Swipe")
    swipe = page.get_by_role("slider", name="swipe")
    swipe.fill("30")
    over = page.get_by_role("img", name="The photograph with the change")
    assert over.evaluate("e => getComputedStyle(e).clipPath") == "inset(0px 0px 0px 30%)"
    assert page.get_by_role("img", name="The photograph as it is", exact=True).is_visible()
    pick(page, "Side by side")
    assert over.evaluate("e => getComputedStyle(e).clipPath") == "none"
    assert not swipe.is_visible()


# -- with the network


@pytest.mark.parametrize("home", ["served", "disk"])
def test_the_network_makes_a_photograph_a_gibbon(
    photo_visit: Any, photo_site: Path, photo_address: str, home: str
) -> None:
    page = photo_visit(photo_address if home == "served" else (photo_site / "one.html").as_uri())
    page.evaluate("""() => {
      window.seen = new Set();
      const line = document.querySelector(".advlib-chart > svg polyline");
      new MutationObserver(() => seen.add(line.getAttribute("points").split(" ").length))
        .observe(line, { attributes: true });
    }""")
    load(page)
    page.get_by_role("button", name="gibbon").click()
    settled(page)
    assert verdicts(page) == ["predicts tripod", "predicts gibbon"]
    assert page.get_by_role("radio", name="Targeted PGD").is_checked()
    assert page.get_by_role("combobox", name="target").input_value() == "gibbon"
    assert "Loss of “gibbon”" in page.locator(".advlib-chart").inner_text()
    # The path grows step by step; a busy machine may draw two at once.
    assert len(page.evaluate("[...window.seen]")) > 3 and 11 in page.evaluate("[...window.seen]")
    pick(page, "L2")
    settled(page)
    assert verdicts(page)[1] == "predicts gibbon"
    assert 1 < float(page.locator("figcaption").last.inner_text().split()[-1]) <= 1.5


def test_any_class_is_found_by_its_name(photo_visit: Any) -> None:
    page = load(photo_visit())
    field = page.get_by_role("combobox", name="target")
    field.fill("no such thing")
    field.press("Tab")
    page.get_by_text("“no such thing” is not one of the 1000 classes.").wait_for()
    field.fill("SHUTTLE")
    field.press("Tab")
    settled(page)
    assert verdicts(page)[1] == "predicts space shuttle"
    assert field.input_value() == "space shuttle"
    assert not page.get_by_text("is not one of").count()
    assert page.locator("datalist option").count() == 1000


def test_a_download_can_be_cancelled(photo_visit: Any) -> None:
    page = photo_visit(prepare=lambda p: p.route("**/lite0.bin*", lambda route: None))
    button = page.get_by_role("button", name="Load the network, 9 MB")
    button.click()
    cancel = page.get_by_role("button", name="Cancel")
    cancel.wait_for()
    assert page.get_by_role("progressbar", name="Download of the network").is_visible()
    assert page.get_by_text("0.0 of 9.").is_visible()
    cancel.press("Enter")
    button.wait_for()
    assert not page.get_by_role("alert").is_visible()
    page.unroute("**/lite0.bin*")
    load(page)


def test_the_network_is_kept_for_the_next_time(photo_visit: Any) -> None:
    page = load(photo_visit())
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    page.get_by_text("The network is loaded").wait_for()  # it starts by itself
    assert asked and not any("/lite0." in url for url in asked)


# -- the second network


def test_the_second_network_has_answers_of_its_own(
    photo_visit: Any, photo_site: Path, photo_address: str
) -> None:
    if not (photo_site / photo_page.FOLDER / "squeezenet.bin").exists():
        pytest.skip("SqueezeNet's weights: advlib.models.imagenet('squeezenet1_1') fetches them")
    page = photo_visit()
    pick(page, "SqueezeNet 1.1")
    page.get_by_text("Nothing is stored of what this network predicts").wait_for()
    assert verdicts(page) == ["", ""]
    page.get_by_role("button", name="Load the network, 2 MB").click()
    page.get_by_text("The network is loaded").wait_for()
    page.locator(".photo-verdict", has_text="predicts").nth(1).wait_for()
    settled(page)
    model, x = photo_networks.squeezenet(), photo_lab.shipped("camera")
    assert model is not None
    y = model(x).argmax(1)
    both = [model(image).argmax(1) for image in (x, advlib.fgsm(model, x, y, 2 / 255))]
    expected = [f"predicts {model.categories[int(predicted)]}" for predicted in both]
    assert verdicts(page) == expected
    pick(page, "EfficientNet-Lite0")
    settled(page)
    assert verdicts(page) == ["predicts tripod", "predicts harmonica"]
    assert page.get_by_role("button", name="Load the network, 9 MB").is_visible()
    page.goto("about:blank")
    page.goto(f"{photo_address}#photo-lab?network=squeezenet")  # it was kept, and starts by itself
    page.locator(".photo-verdict", has_text=expected[1]).wait_for()


def test_a_build_without_its_weights_offers_only_the_first(
    photo_visit: Any, photo_site: Path, photo_address: str
) -> None:
    """test_photolab_export.py says that such a build describes one network."""
    html = (photo_site / "one.html").read_text(encoding="utf-8")
    (data,) = re.findall(r'<script type="application/json">(.*?)</script>', html)
    opening = json.loads(data)
    opening["networks"] = [one for one in opening["networks"] if one["name"] == "lite0"]
    (photo_site / "first.html").write_text(html.replace(data, json.dumps(opening)))
    page = photo_visit(photo_address.replace("one.html", "first.html#photo-lab?network=squeezenet"))
    assert verdicts(page)[0] == "predicts tripod"
    assert page.get_by_role("group", name="attack").is_visible()
    assert not page.get_by_role("group", name="network", exact=True).count()


# -- speed

# Moves the slider to a stop that is not computed yet; the time until its answer has been drawn.
ANSWER = """async (stop) => {
  const frame = () => new Promise((go) => requestAnimationFrame(go));
  const slider = document.querySelector(".advlib-photolab input[type=range]");
  const since = performance.now();
  slider.value = stop;
  slider.dispatchEvent(new Event("input", { bubbles: true }));
  await frame();
  while (document.querySelector(".photo-stale")) await frame();
  return performance.now() - since;
}"""


@pytest.mark.clock
@pytest.mark.parametrize(("attack", "norm", "limit"), [("FGSM", "L2", 500), ("PGD", "L∞", 2500)])
def test_an_answer_is_there_in_time(photo_visit: Any, attack: str, norm: str, limit: int) -> None:
    """The best of several: other work may keep the machine busy."""
    page = load(photo_visit())
    pick(page, norm)
    pick(page, attack)
    settled(page)
    waited = [page.evaluate(ANSWER, stop) for stop in (8, 9, 10, 11, 12)]
    print(f"{attack}: {min(waited):.0f} ms")
    assert 5 < min(waited) < limit  # less would be something stored


@pytest.mark.clock
def test_the_page_has_time_for_sixty_frames_a_second_while_it_computes(photo_visit: Any) -> None:
    page = load(photo_visit())
    pick(page, "PGD")
    page.get_by_role("slider", name="steps").fill("5")  # forty of them
    settled(page)
    seconds = thread_time(page)
    frames = []
    epsilon(page, 9)
    while page.locator(".photo-stale").count() or not frames:
        before = seconds()
        page.evaluate("new Promise((go) => requestAnimationFrame(() => go()))")
        frames.append(seconds() - before)
    print(f"{len(frames)} frames, 95 % of them below {1000 * np.quantile(frames, 0.95):.1f} ms")
    assert len(frames) > 20
    assert np.quantile(frames, 0.95) < 1 / 60
    assert max(frames) < 0.05


# -- what goes wrong


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("missing", "The server answered 404."),
        ("cut", "The file of weights is incomplete."),
        ("wrong", "The file of weights is incomplete."),
        ("offline", "The server could not be reached."),
    ],
)
def test_a_network_that_does_not_come_leaves_the_stored_answers(
    photo_visit: Any, photo_site: Path, fault: str, said: str
) -> None:
    whole = (photo_site / photo_page.FOLDER / "lite0.bin").read_bytes()
    answers = {
        "missing": {"status": 404, "body": "gone"},
        "cut": {"body": whole[:5_000_000]},
        "wrong": {"body": whole[:-2] + b"\0\0"},
    }

    def prepare(page: Any) -> None:
        def answer(route: Any) -> None:
            route.abort() if fault == "offline" else route.fulfill(**answers[fault])

        page.route("**/lite0.bin*", answer)

    page = photo_visit(prepare=prepare, expected="Failed to load resource")
    page.get_by_role("button", name="Load the network").click()
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert alert.inner_text() == (
        f"The network could not be loaded. {said} The stored answers are still here."
    )
    pick(page, "Noise")
    settled(page)
    assert verdicts(page) == ["predicts tripod"] * 2


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (NO_WASM_IN_WORKER, "It runs as JavaScript here"),
        (NO_WORKER, "This browser lets no Worker run"),
        (NO_STORE, ""),
    ],
)
def test_it_computes_without_webassembly_worker_and_store(
    photo_visit: Any, script: str, said: str
) -> None:
    page = load(photo_visit(script=script))
    assert said in page.locator(".photo-download").inner_text()
    pick(page, "L2")
    settled(page)
    assert verdicts(page)[0] == "predicts tripod" != verdicts(page)[1]


def test_a_photograph_that_does_not_come_is_named(photo_visit: Any) -> None:
    page = photo_visit(
        prepare=lambda p: p.route("**/coffee.js*", lambda route: route.fulfill(status=404)),
        expected="Failed to load resource",
    )
    pick(page, "coffee")
    page.get_by_role("alert").filter(has_text="The file did not arrive. Choose it again").wait_for()
    assert verdicts(page)[0] == "predicts tripod"
    page.unroute("**/coffee.js*")
    pick(page, "camera")
    pick(page, "coffee")
    page.locator(".photo-verdict", has_text="espresso").first.wait_for()
    assert not page.get_by_role("alert").is_visible()


def test_a_network_that_stops_says_so_and_starts_again(photo_visit: Any) -> None:
    page = load(photo_visit(script="""window.workers = [];
      const Plain = window.Worker;
      window.Worker = class extends Plain {
        constructor(...all) { super(...all); window.workers.push(this); }
      };"""))  # fmt: skip
    pick(page, "L2")
    settled(page)
    before = verdicts(page)
    page.evaluate("window.workers.forEach((w) => w.dispatchEvent(new ErrorEvent('error')))")
    page.get_by_role("alert").filter(has_text="its worker ended").wait_for()
    assert verdicts(page) == before
    load(page)
    assert not page.get_by_role("alert").is_visible()


def test_without_any_canvas_a_sentence_stands_there(photo_visit: Any) -> None:
    page = photo_visit(script=NO_CANVAS, shown=False)
    page.get_by_text("The Photo Lab could not be drawn in this browser.").wait_for()
    assert page.get_by_text("after").is_visible()


def test_without_scripts_the_readings_stand_there(browser: Any, photo_address: str) -> None:
    page = browser.new_page(java_script_enabled=False)
    page.goto(photo_address)
    text = page.locator(".lab-still").inner_text()
    assert "needs its script" in text and "Lav Varshney, CC0" in text
    assert "predicts tripod (94.1 %); with random noise of 2/255, tripod" in text
    assert page.locator(".lab-still img").evaluate("e => e.naturalWidth") == 224
    page.close()


# -- for everyone


def test_the_keyboard_does_it_all(photo_visit: Any) -> None:
    page = photo_visit()
    camera = page.get_by_role("radio", name="camera")
    camera.focus()
    page.keyboard.press("ArrowRight")
    page.locator(".photo-verdict", has_text="espresso").first.wait_for()
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.type") == "file"
    page.keyboard.press("Tab")
    if page.get_by_role("group", name="network", exact=True).count():
        assert page.evaluate("document.activeElement.value") == "lite0"
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowLeft")
    assert page.get_by_role("radio", name="Noise", exact=True).is_checked()
    page.get_by_role("button", name="Load the network").focus()
    page.keyboard.press("Enter")
    page.get_by_text("The network is loaded").wait_for()
    assert page.evaluate("document.activeElement.value") == "noise"  # not lost with the button
    said = page.locator("[aria-live=polite]")
    said.filter(has_text="attacked: predicts espresso").wait_for(state="attached")


def test_it_fits_and_axe_finds_nothing(photo_visit: Any, axe: str) -> None:
    """In one page, light and dark, wide and narrow, with all that the network brings."""
    page = photo_visit(viewport={"width": 1280, "height": 844})
    page.evaluate(axe)

    def check(scheme: str, width: int, rules: str = "{}") -> None:
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 844})
        settled(page)
        page.wait_for_timeout(200)  # colours fade
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        found = page.evaluate(f"axe.run({rules}).then(r => r.violations)")
        assert [(v["id"], [n["html"] for n in v["nodes"]]) for v in found] == []

    colours = "{runOnly: ['color-contrast', 'link-in-text-block']}"
    check("light", 1280)
    check("dark", 1280, colours)
    load(page)
    pick(page, "Targeted PGD")
    pick(page, "Swipe")
    check("light", 390)
    check("dark", 390, colours)
