"""What goes wrong at the Live Lab, and what a reader is told then."""

import shutil
from typing import Any

import pytest
from course import live_lab
from lab_page import (
    WATCHED,
    begin,
    pick,
    play,
    ready,
    respond,
    settled,
    verdicts,
)

# -- what goes wrong


def test_a_script_that_fails_leaves_a_sentence(lab_address, lab_visit):
    page = lab_visit(
        f"{lab_address}one.html",
        prepare=lambda p: respond(p, "lab.js", status=404, body=""),
        expected="Failed to load resource",
    )
    page.get_by_text("needs its script").wait_for()


def test_the_image_for_readers_without_scripts_is_not_fetched_by_others(lab_address, lab_visit):
    fetched = []
    watch = lambda page: page.on("request", lambda r: fetched.append(r.url))  # noqa: E731
    ready(lab_visit(f"{lab_address}one.html", prepare=watch))
    assert not any("lab.png" in url for url in fetched)


def test_sliders_dragged_wildly_end_where_they_stop(lab_address, lab_visit):
    page = ready(lab_visit(f"{lab_address}one.html"))
    pick(page, "PGD")
    page.evaluate("""async () => {
      const [eps, steps] = document.querySelectorAll("input[type=range]");
      for (let i = 0; i < 300; i++) {
        const slider = i % 3 ? eps : steps;
        slider.value = (i * 7) % (Number(slider.max) + 1);
        slider.dispatchEvent(new Event("input", { bubbles: true }));
        if (i % 20 === 0) await new Promise((go) => setTimeout(go));
      }
      steps.value = 2;
      steps.dispatchEvent(new Event("input", { bubbles: true }));
      eps.value = 0;
      eps.dispatchEvent(new Event("input", { bubbles: true }));
    }""")
    settled(page)
    assert verdicts(page) == ["predicts stop", "predicts stop"]
    assert page.get_by_role("slider", name="epsilon").get_attribute("aria-valuetext") == "0/255"


def test_two_labs_do_not_touch_each_other(lab_address, lab_visit):
    fetched = []
    page = lab_visit(
        f"{lab_address}two.html",
        viewport={"width": 1280, "height": 4000},
        prepare=lambda p: p.on("request", lambda r: fetched.append(r.url)),
    )
    page.wait_for_function(
        "() => document.querySelectorAll('.lab-strip input:enabled').length > 60"
    )
    first, second = page.get_by_role("group", name="Live Lab").all()
    second.get_by_role("slider", name="epsilon").fill("0")
    first.get_by_role("radio", name="PGD", exact=True).check(force=True)
    second.get_by_role("radio", name="Noise", exact=True).check(force=True)
    settled(page)
    assert first.locator(".lab-verdict").first.inner_text() != "predicts stop"
    assert second.locator(".lab-verdict").all_inner_texts() == ["predicts stop"] * 2
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(set(ids)) == len(ids)
    assert sum("weights.bin" in url for url in fetched) == 1


def test_without_scripts_an_image_and_a_sentence_stand_there(lab_address, browser):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{lab_address}one.html")
    assert page.get_by_text("needs its script").is_visible()
    still = page.get_by_role("img")
    assert "standard network classifies it as" in still.get_attribute("alt")
    assert still.evaluate("e => e.naturalWidth") > 300
    context.close()


NO_WORKER = "delete window.Worker"
WORKER_THROWS = "window.Worker = class { constructor() { throw new Error('forbidden') } }"
WORKER_FAILS = """window.Worker = class {
  postMessage() {}
  terminate() { window.ended = (window.ended ?? 0) + 1; }
  constructor() { setTimeout(() => this.onerror(new Event("error"))); }
}"""
NO_STORAGE = "Object.defineProperty(window, 'localStorage', {get() { throw new Error('blocked') }})"
FULL_STORAGE = "Storage.prototype.setItem = () => { throw new DOMException('full') }"
NO_OBSERVER = "delete window.IntersectionObserver"
NO_WEBGL = """delete window.WebGLRenderingContext; delete window.WebGL2RenderingContext;
const plain = HTMLCanvasElement.prototype.getContext;
HTMLCanvasElement.prototype.getContext = function (kind, ...more) {
  if (kind !== "2d") throw new Error("forbidden");
  return plain.call(this, kind, ...more);
}"""
NO_CANVAS = "HTMLCanvasElement.prototype.getContext = () => null"


@pytest.mark.parametrize(
    "script", [NO_WORKER, WORKER_THROWS, WORKER_FAILS, NO_STORAGE, FULL_STORAGE, NO_WEBGL]
)
def test_it_computes_without_worker_storage_and_webgl(lab_address, lab_visit, script):
    page = ready(lab_visit(f"{lab_address}one.html", script=script))
    pick(page, "PGD")
    settled(page)
    assert verdicts(page)[0] != "predicts stop"
    begin(page)
    play(page, 1, 2)
    page.get_by_text("Sign 3 of 20").wait_for()
    if script is WORKER_FAILS:
        assert page.evaluate("window.ended") == 3  # two of the lab, one of the round


def test_without_any_canvas_a_sentence_stands_there(lab_address, lab_visit):
    page = lab_visit(f"{lab_address}two.html", script=NO_CANVAS)
    assert page.get_by_text("could not be drawn in this browser").count() == 2
    assert page.get_by_text("after").is_visible()


WRONG_TASKS = "window.workers.forEach((worker) => worker.postMessage({ ask: 1e9, tasks: 5 }))"
ENDED = "window.workers.forEach((worker) => worker.dispatchEvent(new ErrorEvent('error')))"


@pytest.mark.parametrize(
    ("fault", "said"), [(WRONG_TASKS, "TypeError"), (ENDED, "its worker ended")]
)
def test_networks_that_stop_later_say_so_and_start_again(lab_address, lab_visit, fault, said):
    page = ready(lab_visit(f"{lab_address}one.html", script=WATCHED))
    pick(page, "PGD")
    settled(page)
    before = verdicts(page)
    page.evaluate(fault)
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert "A network stopped computing (" in alert.inner_text() and said in alert.inner_text()
    assert verdicts(page) == before
    page.evaluate("window.workers.length = 0")
    alert.get_by_role("button", name="Try again").click()
    page.wait_for_function("() => window.workers.length === 2")
    page.get_by_role("radio", name="yield", exact=True).check(force=True)
    ready(page)
    assert not alert.is_visible()
    page.evaluate(fault)
    alert.wait_for()
    page.get_by_role("radio", name="stop", exact=True).check(force=True)
    pick(page, "Targeted PGD")  # asking for more starts them, too
    ready(page)
    assert not alert.is_visible()


# The second of two workers is given no layers.
ONE_FAILS = """let made = 0;
const { postMessage } = Worker.prototype;
Worker.prototype.postMessage = function (message, ...more) {
  if (message.load && ++made === 2) message = { load: { layers: 5 } };
  postMessage.call(this, message, ...more);
};"""
# The first fails as soon as it is ready, while the second has not begun.
FAILS_EARLY = """let made = 0;
const { postMessage } = Worker.prototype;
Worker.prototype.postMessage = function (message, ...more) {
  const post = (what) => postMessage.call(this, what, ...more);
  if (message.load && ++made === 2) {
    setTimeout(post, 1000, message);
    return;
  }
  post(message);
  if (message.load) post({ ask: 1e9, tasks: 5 });
};"""


@pytest.mark.parametrize("script", [ONE_FAILS, FAILS_EARLY])
def test_a_network_that_cannot_start_is_heard_and_the_other_one_ends(
    lab_address, lab_visit, script
):
    page = lab_visit(f"{lab_address}one.html", script=f"{script}\n{WATCHED}")
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert "The network could not run: TypeError" in alert.inner_text()
    assert page.evaluate("window.workers.map((worker) => worker.ended)") == [True, True]


def test_workers_send_short_numbers_and_leave_no_address_behind(lab_address, lab_visit):
    page = ready(lab_visit(f"{lab_address}one.html", script=WATCHED))
    page.evaluate("""window.kinds = new Set(); window.workers.forEach((worker) => {
      worker.addEventListener("message", ({ data }) => {
        if (data.found) window.kinds.add(data.found.image.constructor.name);
      });
    })""")
    pick(page, "PGD")
    settled(page)
    assert page.evaluate("[...window.kinds]") == ["Float32Array"]  # 31 MB a lab in double precision
    assert page.evaluate("window.addresses.size") == 0


def test_without_worker_an_engine_that_is_stopped_stops(lab_address, lab_visit):
    page = lab_visit(f"{lab_address}one.html", script=f"""{NO_WORKER};
      window.engines = new Set();
      window.breaths = 0;
      const {{ postMessage }} = MessagePort.prototype;
      MessagePort.prototype.postMessage = function (message, ...more) {{
        if (message === null) window.breaths += 1;  // between two gradients
        if (message?.load) window.engines.add(this);
        postMessage.call(this, message, ...more);
      }}""")  # fmt: skip
    ready(page)
    pick(page, "PGD")
    page.wait_for_function("() => window.breaths > 3")
    page.evaluate("[...window.engines][0].postMessage({ ask: 1e9, tasks: 5 })")
    page.get_by_role("alert").wait_for()
    page.wait_for_timeout(200)
    before = page.evaluate("window.breaths")
    page.wait_for_timeout(500)
    assert page.evaluate("window.breaths") == before


def test_a_round_whose_network_stops_goes_on_with_the_same_sign(lab_address, lab_visit):
    page = lab_visit(f"{lab_address}one.html", script=WATCHED)
    begin(page)
    play(page, 1, 3)
    page.get_by_text("Sign 4 of 20").wait_for()
    page.get_by_role("slider", name="epsilon").focus()  # the reader has gone elsewhere
    page.evaluate(WRONG_TASKS)
    said = page.locator(".lab-said", has_text="The network stopped computing (TypeError")
    said.wait_for()
    assert page.evaluate("document.activeElement.type") == "range"
    assert not page.locator(".lab-table").is_visible()
    begin(page, "Go on with sign 4")
    play(page, 4, 5)
    page.get_by_text("Sign 6 of 20").wait_for()


def test_without_observer_the_first_touch_loads(lab_address, lab_visit):
    page = lab_visit(f"{lab_address}one.html", script=NO_OBSERVER)
    page.wait_for_timeout(200)
    assert page.locator(".lab-strip input:enabled").count() == 1
    page.get_by_role("slider", name="epsilon").focus()
    ready(page)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("missing", "The server answered 404."),
        ("truncated", "The file of weights is incomplete."),
        ("page instead", "The file of weights is incomplete."),
        ("empty", "The file of weights is incomplete."),
        ("damaged", "The file of weights is incomplete."),
        ("offline", "The server could not be reached."),
    ],
)
def test_weights_that_fail_leave_the_stored_result_and_a_sentence(
    lab_site, lab_address, lab_visit, fault, said
):
    whole = (lab_site / live_lab.FOLDER / "weights.bin").read_bytes()
    answers = {
        "missing": {"status": 404, "body": "gone"},
        "truncated": {"body": whole[:600_000]},
        "page instead": {"body": "<!doctype html><title>Welcome</title>" * 50},
        "empty": {"body": b""},
        "damaged": {"body": whole[:-400] + b"\xff" * 400},
    }

    def prepare(page: Any) -> None:
        if fault == "offline":
            page.route("**/weights.bin*", lambda route: route.abort())
        else:
            respond(page, "weights.bin", **answers[fault])

    page = lab_visit(f"{lab_address}one.html", prepare=prepare, expected="Failed to load resource")
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert said in alert.inner_text()
    page.get_by_role("slider", name="epsilon").fill("0")
    settled(page)
    assert verdicts(page) == ["predicts stop", "predicts stop"]
    assert page.get_by_text("after").is_visible()
    page.unroute("**/weights.bin*")
    page.get_by_role("button", name="Try again").click()
    pick(page, "PGD")
    ready(page)
    assert not alert.is_visible()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"status": 404}, "The file did not arrive."),
        ({"body": '(window.advlibLab ??= {}).images = "AAAA";'}, "images is incomplete"),
        ({"body": '(window.advlibLab ??= {}).images = "?";'}, "images is incomplete"),
    ],
)
def test_images_that_fail_are_named(lab_address, lab_visit, answer, said):
    page = lab_visit(
        f"{lab_address}one.html",
        prepare=lambda p: respond(p, "images.js", **answer),
        expected="Failed to load resource",
    )
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert said in alert.inner_text()
    assert page.locator(".lab-strip input:enabled").count() == 1


@pytest.mark.parametrize(
    ("file", "limit", "said"),
    [
        ("weights.bin", 20_000, "The server has sent nothing for 20 seconds."),
        ("images.js", 60_000, "The file did not arrive."),
    ],
)
def test_a_server_that_falls_silent_is_not_waited_for(lab_address, lab_visit, file, limit, said):
    # That time passes in a moment.
    hurry = f"""const plain = setTimeout;
      window.setTimeout = (f, ms, ...all) => plain(f, ms === {limit} ? 50 : ms, ...all)"""
    page = lab_visit(
        f"{lab_address}one.html",
        script=hurry,
        prepare=lambda p: p.route(f"**/{file}*", lambda route: None),
    )
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert said in alert.inner_text()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("missing", "The file did not arrive."),
        ("no base64", "The file of weights is incomplete."),
        ("cut short", "The file of weights is incomplete."),
    ],
)
def test_from_disk_weights_that_fail_are_named_too(lab_site, lab_visit, tmp_path, fault, said):
    copy = shutil.copytree(lab_site, tmp_path / "copy")
    file = copy / live_lab.FOLDER / "weights.js"
    if fault == "missing":
        file.unlink()
    else:
        text = file.read_text()
        middle = len(text) // 2
        left = text[:middle] + "?" + text[middle:] if fault == "no base64" else text[:4000] + '";'
        file.write_text(left)
    page = lab_visit((copy / "one.html").as_uri(), expected="Failed to load resource")
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert said in alert.inner_text()


def test_a_damaged_opening_state_harms_nothing_else(lab_site, lab_address, lab_visit):
    text = (lab_site / "two.html").read_text(encoding="utf-8")
    (lab_site / "damaged.html").write_text(text.replace('"eps":', '"eps"', 1), encoding="utf-8")
    page = lab_visit(f"{lab_address}damaged.html")
    assert page.get_by_text("could not be drawn").count() == 1
    assert page.get_by_role("slider", name="epsilon").count() == 1
