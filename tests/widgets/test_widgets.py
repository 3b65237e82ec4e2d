"""The Python side of the explorers, guesses and quizzes: plain functions, no browser."""

import base64
import io
import json
import re
import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from course import explorers
from PIL import Image
from repository import LESSONS
from stored_widgets import notebook, states, view

from advlib import widgets
from advlib.plots import palette
from advlib.widgets import base, scene
from advlib.widgets.base import PageWidget
from advlib.widgets.controls import check_controls, grid, values_at
from advlib.widgets.explorer import answer

GREY = np.full((3, 4, 5), 0.5)
SIZE = ("width", "height")


def image(array=GREY, **more):
    return {"array": array, "title": "an image", "alt": "what it shows", **more}


def compute(eps, direction):
    """Show one constant image and one that follows eps; fails for eps 3."""
    if eps == 3:
        raise ValueError("eps 3 is not for this model")
    return {
        "images": [image(), image(np.full((1, 4, 4), eps / 10), title="moving")],
        "bars": [{"label": direction, "value": eps / 10, "role": "adversarial"}],
        "text": f"{direction} at {eps}",
    }


CONTROLS = [
    widgets.slider("eps", range(6), stored=[0, 1, 2], format="{}/255"),
    widgets.choice("direction", ["noise", "gradient"]),
]


def make(function=compute, controls=CONTROLS, **more):
    return widgets.explorer(function, controls, title="Title", alt="What it shows", **more)


# -- controls


def test_values_reach_compute_as_the_objects_that_the_lesson_put_in():
    marker = object()
    controls = [widgets.choice("model", {"standard": marker, "robust": None})]
    assert values_at(controls, {"model": 0})["model"] is marker
    assert controls[0].labels == ("standard", "robust")


def test_slider_takes_floats_ranges_and_arrays():
    eps = np.linspace(0, 8 / 255, 9)
    control = widgets.slider("eps", eps, format=widgets.per_255, stored=eps[::4], initial=eps[4])
    assert control.labels[4] == "4/255"
    assert control.stored == (0, 4, 8)
    assert control.initial == 4


def test_grid_steps_through_the_stored_positions_only():
    assert list(grid(CONTROLS)) == [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]


@pytest.mark.parametrize(
    ("at", "said"),
    [
        ({"eps": 0, "direction": 0, "speed": 1}, "unknown controls: ['speed']"),
        ({"eps": 0}, "missing: ['direction']"),
        ({"eps": 6, "direction": 0}, "positions 0 to 5"),
        ({"eps": -1, "direction": 0}, "positions 0 to 5"),
        ({"eps": 1.0, "direction": 0}, "positions 0 to 5"),
        ({"eps": True, "direction": 0}, "positions 0 to 5"),
    ],
)
def test_a_request_that_the_controls_cannot_make_is_refused(at, said):
    with pytest.raises(widgets.ControlError, match=re.escape(said)):
        values_at(CONTROLS, at)


@pytest.mark.parametrize(
    ("describe", "said"),
    [
        (lambda: widgets.slider("two words", [1]), "keyword argument"),
        (lambda: widgets.slider("eps", []), "at least one value"),
        (lambda: widgets.slider("eps", [0.1, 0.12], format="{:.1f}"), "change format"),
        (lambda: widgets.slider("eps", [1, 2], stored=[3]), "not a value"),
        (lambda: widgets.slider("eps", [1, 2], stored=[]), "at least one value"),
        (lambda: widgets.slider("eps", [1, 2], stored=[1], initial=2), "not stored"),
        (lambda: widgets.choice("d", ["a"], initial="b"), "not a value"),
        (lambda: check_controls([widgets.choice("d", [1]), widgets.choice("d", [2])]), "its own"),
        (lambda: check_controls(["eps"]), "slider"),
    ],
)
def test_a_control_described_wrongly_is_refused(describe, said):
    with pytest.raises(widgets.ControlError, match=said):
        describe()


# -- images and scenes


@pytest.mark.parametrize("shape", [(3, 4, 5), (4, 5, 3)])
def test_colour_images_come_channel_first_or_last(shape):
    assert scene.pixels(np.zeros(shape)).shape == (4, 5, 3)


def test_grey_images_and_tensors_that_require_a_gradient():
    assert scene.pixels(torch.zeros(1, 4, 5, requires_grad=True)).shape == (4, 5)
    assert scene.pixels(torch.zeros(4, 5)).shape == (4, 5)


def test_png_keeps_every_pixel():
    array = np.random.default_rng(0).integers(0, 256, (3, 7, 9)) / 255
    encoded = scene.data_url(array).removeprefix("data:image/png;base64,")
    decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))
    assert np.array_equal(decoded, np.moveaxis(array * 255, 0, -1).round().astype(np.uint8))


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.zeros((2, 3, 4, 5)), r"pass x\[0\]"),
        (np.zeros((2, 4, 5)), "1 or 3 channels"),
        (np.zeros((3, 0, 5)), "1 or 3 channels"),
        (np.zeros(5), "1 or 3 channels"),
        (np.zeros((3, 4, 5), dtype=np.uint8), "floating point"),
        (np.full((3, 4, 5), 1.1), "0.5 \\+ scale"),
        (np.full((3, 4, 5), -0.1), "0.5 \\+ scale"),
        (np.full((3, 4, 5), np.nan), "0.5 \\+ scale"),
    ],
)
def test_what_is_not_an_image_is_refused(array, said):
    with pytest.raises(widgets.SceneError, match=said):
        scene.pixels(array)


CHART = {
    "xlabel": "x",
    "ylabel": "y",
    "alt": "a line",
    "series": [{"label": "l", "x": [], "y": []}],
}


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (None, "returns a dict"),
        ({"image": []}, "not \\['image'\\]"),
        ({"images": [{"array": GREY}]}, "missing: \\['title', 'alt'\\]"),
        ({"images": [image(alt=" ")]}, "alt text"),
        ({"images": [image(size=3)]}, "unknown: \\['size'\\]"),
        ({"images": [image(encoding="gif")]}, "encoding is one of"),
        ({"images": [GREY]}, "is a dict"),
        ({"bars": [{"label": "stop", "value": 97}]}, "value is in \\[0, 1\\]"),
        ({"bars": [{"label": "stop", "value": float("nan")}]}, "value is in \\[0, 1\\]"),
        ({"bars": [{"label": "stop", "value": 1, "role": "evil"}]}, "role is one of"),
        ({"lines": CHART}, "0 x and 0 y"),
        ({"lines": {**CHART, "series": []}}, "at least one series"),
        (
            {"lines": {**CHART, "series": [{"label": "l", "x": [1], "y": [float("inf")]}]}},
            "not finite",
        ),
    ],
)
def test_a_scene_that_cannot_be_shown_is_refused(returned, said):
    with pytest.raises(widgets.SceneError, match=said):
        scene.encode_scene(returned)


def test_a_share_is_never_rounded_to_a_certainty():
    assert [scene.percent(value) for value in (0, 0.001, 0.5, 0.999, 1)] == [
        "0 %",
        "< 1 %",
        "50 %",
        "> 99 %",
        "100 %",
    ]


# -- explorer


def test_every_stored_state_is_there_and_equal_images_are_kept_once():
    data = make().data
    assert set(data["states"]) == {"0,0", "0,1", "1,0", "1,1", "2,0", "2,1"}
    assert len(data["images"]) == 1 + 3  # the constant image once, the moving one per eps
    assert data["states"]["2,1"]["text"] == "gradient at 2"
    assert data["initial"] == [0, 0]


def test_equal_series_are_kept_once_and_drawn_in_the_still():
    fixed = {"label": "every state has it", "x": [0, 1], "y": [0.1, 0.7]}

    def two(eps):
        series = [fixed, {"label": "moves", "x": [0, 1], "y": [0, eps]}]
        return {"lines": {**CHART, "series": series}}

    widget = make(two, [widgets.slider("eps", [1, 2, 3])])
    table = widget.data["series"]
    assert [one["label"] for one in table] == ["every state has it", *["moves"] * 3]
    numbers = [state["lines"][0]["series"] for state in widget.data["states"].values()]
    assert numbers == [[0, 1], [0, 2], [0, 3]]
    assert table[3]["y"] == [0, 3]
    assert widget.as_png() != make(two, [widgets.slider("eps", [2])]).as_png()


def test_the_state_is_plain_json_and_its_size_is_as_reported():
    widget = make()
    text = json.dumps(widget.data, separators=(",", ":"), ensure_ascii=False)
    assert len(text.encode()) == widget.stored_bytes < 10_000


def test_without_precomputing_only_the_initial_state_is_stored():
    assert set(make(precompute=False).data["states"]) == {"0,0"}


def test_too_much_to_store_says_what_to_reduce_before_all_is_computed():
    calls = []

    def noisy(seed):
        calls.append(seed)
        return {"images": [image(np.random.default_rng(seed).random((3, 64, 64)))]}

    with pytest.raises(widgets.StoredSizeError, match="stored=.*smaller images.*webp"):
        make(noisy, [widgets.slider("seed", range(100))], max_bytes=50_000)
    assert len(calls) < 6


def test_webp_is_much_smaller_for_a_photograph_like_image():
    yy, xx = np.mgrid[0:96, 0:96] / 96
    smooth = np.stack([yy, xx, (xx + yy) / 2]) * 0.8
    array = np.clip(smooth + 0.03 * np.random.default_rng(0).standard_normal(smooth.shape), 0, 1)
    assert len(scene.data_url(array, "webp")) < len(scene.data_url(array)) / 4


def test_an_exception_while_precomputing_is_raised_and_names_the_values():
    with pytest.raises(ValueError, match="eps 3 is not") as caught:
        make(controls=[widgets.slider("eps", [2, 3]), CONTROLS[1]])
    assert "'eps': 3" in caught.value.__notes__[0]


def test_a_request_outside_the_stored_grid_is_computed():
    reply, error = answer(compute, CONTROLS, {"eps": 4, "direction": 1})
    assert error is None
    assert reply["scene"]["text"] == "gradient at 4"
    assert reply["scene"]["images"][0]["src"].startswith("data:image/png;base64,")


@pytest.mark.parametrize(
    ("at", "said", "kind"),
    [
        ({"eps": 3, "direction": 0}, "ValueError: eps 3 is not for this model", ValueError),
        ({"eps": 3}, "ControlError: unknown controls: []", widgets.ControlError),
    ],
)
def test_an_exception_is_shown_to_the_reader_and_kept(at, said, kind):
    reply, error = answer(compute, CONTROLS, at)
    assert reply["error"].startswith(said)
    assert isinstance(error, kind)


def test_messages_are_answered_with_their_own_number_and_the_error_is_kept():
    widget, sent = make(), []
    widget.send = sent.append
    widget._on_message(widget, {"ask": "a:1", "at": {"eps": 3, "direction": 0}}, [])
    assert sent[0] == {"answer": "a:1", "error": "ValueError: eps 3 is not for this model"}
    assert isinstance(widget.error, ValueError)
    widget._on_message(widget, {"ask": "a:2", "at": {"eps": 5, "direction": 0}}, [])
    assert sent[1]["answer"] == "a:2"
    assert widget.error is None
    widget._on_message(widget, {"hello": 1}, [])
    assert len(sent) == 2


UNCHANGED = {
    "One gradient, three balls",  # drawings
    "What a student of wrong labels answers",  # clean images
}
"""Explorers in whose images nothing is attacked."""


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_changed_image_is_shown_beside_the_clean_one(path):
    for state in states(path, "explorer"):
        for scene_ in state["data"]["states"].values():
            images = scene_["images"]
            titles = [image["title"] for image in images]
            if not titles or state["data"]["title"] in UNCHANGED:
                continue
            assert len(set(titles)) == len(titles)
            clean = next(i for i, title in enumerate(titles) if title.startswith("clean"))
            sizes = {name: [image[name] for image in images[clean : clean + 2]] for name in SIZE}
            assert all(len(both) == 2 and len(set(both)) == 1 for both in sizes.values())


def test_a_widget_without_a_text_cannot_be_made():
    class Silent(PageWidget):
        pass

    with pytest.raises(TypeError, match="as_text"):
        Silent(kind="silent", data={})


def test_an_explorer_needs_title_and_alt():
    with pytest.raises(widgets.SceneError, match="title and an alt"):
        widgets.explorer(compute, CONTROLS, title="Title", alt=" ")


def test_text_is_stable_and_the_still_image_has_alt_text():
    first, second = make(), make()
    assert repr(first) == repr(second) == "Explorer: Title\nWhat it shows\nnoise at 0"
    data, metadata = first._repr_mimebundle_()
    assert data["text/plain"] == repr(first)
    assert metadata["image/png"] == {"alt": "What it shows"}
    assert Image.open(io.BytesIO(data["image/png"])).format == "PNG"
    assert explorers.VIEW in data


def test_what_colab_asks_for_stays_beside_the_image(monkeypatch):
    output = types.ModuleType("google.colab.output")
    output.enable_custom_widget_manager = lambda: None
    output._widgets = types.SimpleNamespace(_installed_url="https://colab.example/manager.js")
    monkeypatch.setitem(sys.modules, "google.colab.output", output)
    data, metadata = make()._repr_mimebundle_()
    assert set(metadata) == {"image/png", explorers.VIEW}
    assert set(data) == {"image/png", "text/plain", explorers.VIEW}


def test_a_still_image_shows_charts_too():
    lines = {**CHART, "at": 1, "ylim": (0, 2), "series": [{"label": "l", "x": [0, 1], "y": [1, 2]}]}
    widget = make(lambda eps: {"lines": lines}, [widgets.slider("eps", [0, 1])])
    assert Image.open(io.BytesIO(widget.as_png())).width == 640


# -- guess, lock, answer


def test_a_guess_is_returned_as_the_option():
    guess = widgets.guess("Which?", ["noise", "gradient"])
    assert guess.guessed is None
    guess.guess = 1
    assert guess.guessed == "gradient"


def test_reveal_follows_the_guess():
    guess = widgets.guess("How many?", widgets.number(0, 100, unit="%"))
    shown = guess.reveal(0.4, "because")
    assert shown.data["answer"] == 0.4
    assert shown.guess is None
    guess.guess = 60
    assert shown.guess == guess.guessed == 60
    assert repr(shown) == "How many?\nAnswer: 0.4 %\nbecause"


def test_the_question_s_text_does_not_tell_the_answer():
    guess = widgets.guess("Which?", ["noise", "gradient"], answer="gradient", explanation="why")
    assert guess.data["answer"] == 1
    assert repr(guess) == "Your guess: Which?\n  ( ) noise\n  ( ) gradient"


@pytest.mark.parametrize(
    "describe",
    [
        lambda: widgets.guess("Which?", ["one"]),
        lambda: widgets.guess("Which?", ["one", "one"]),
        lambda: widgets.guess("Which?", ["one", "two"], answer="three"),
        lambda: widgets.guess("Which?", ["one", "two"]).reveal("three"),
        lambda: widgets.guess("How many?", widgets.number(0, 9)).reveal("many"),
        lambda: widgets.number(1, 1),
        lambda: widgets.number(0, 1, step=0),
    ],
)
def test_questions_that_do_not_fit_are_refused(describe):
    with pytest.raises(widgets.QuestionError):
        describe()


def test_a_number_starts_in_the_middle_on_a_step():
    assert widgets.number(0, 1, step=0.25).initial == 0.5
    assert widgets.number(0, 1, step=0.25).digits == 2
    assert widgets.number(0, 100).digits == 0


# -- quiz


def test_a_quiz_is_plain_data_and_its_text_does_not_tell_the_answers():
    questions = [
        widgets.single("A?", [widgets.right("yes", "well seen"), widgets.wrong("no", "mistake")]),
        widgets.multiple("B?", [widgets.right("b"), widgets.right("c")]),
        widgets.numeric("C?", 0.031, tolerance=0.001, mistakes={8: "in 255ths"}),
    ]
    quiz = widgets.quiz(questions)
    assert json.loads(json.dumps(quiz.data)) == quiz.data
    assert repr(quiz) == (
        "Check yourself\n1. A?\n   ( ) no\n   ( ) yes\n2. B?\n   [ ] c\n   [ ] b\n3. C?"
    )


def test_options_are_shuffled_alike_however_they_are_listed():
    options = [widgets.right("1", "one"), widgets.wrong("2", "two"), widgets.wrong("3", "three")]
    shuffled = widgets.single("Which?", options)["options"]
    assert shuffled == widgets.single("Which?", options[::-1])["options"]
    assert {option["text"]: option["why"] for option in shuffled} == {
        option["text"]: option["why"] for option in options
    }


def test_an_answer_to_other_options_is_not_taken_for_one_to_these():
    options = [widgets.right("1"), widgets.wrong("2", "two")]
    one = widgets.quiz([widgets.single("Which?", options)])
    other = widgets.quiz([widgets.single("Which?", [*options, widgets.wrong("3", "three")])])
    assert one.data["key"] != other.data["key"]


def test_the_right_option_stands_first_in_few_of_the_course_s_questions():
    first = [
        question["options"][0]["right"]
        for path in LESSONS
        for state in states(path, "quiz")
        for question in state["data"]["questions"]
        if question["kind"] != "numeric"
    ]
    assert len(first) >= 30
    assert sum(first) <= 0.4 * len(first)


@pytest.mark.parametrize(
    "describe",
    [
        lambda: widgets.wrong("no", " "),
        lambda: widgets.single("A?", [widgets.right("yes")]),
        lambda: widgets.single("A?", [widgets.right("yes"), widgets.right("no")]),
        lambda: widgets.multiple("A?", [widgets.wrong("a", "w"), widgets.wrong("b", "w")]),
        lambda: widgets.single("A?", [widgets.right("yes"), widgets.wrong("yes", "w")]),
        lambda: widgets.numeric("A?", float("nan")),
        lambda: widgets.numeric("A?", 1, tolerance=-1),
        lambda: widgets.numeric("A?", 1, tolerance=0.5, mistakes={1.2: "near"}),
        lambda: widgets.quiz([]),
        lambda: widgets.quiz(["A?"]),
    ],
)
def test_quiz_questions_that_do_not_fit_are_refused(describe):
    with pytest.raises(widgets.QuestionError):
        describe()


# -- one source for every place


def test_style_and_palette_name_the_same_colours():
    style = base.source("widgets.css")
    for role in ("clean", "noise", "adversarial", "neutral"):
        light = getattr(palette, role.upper())
        dark = getattr(palette, f"{role.upper()}_DARK")
        assert f"--{role}: light-dark({light}, {dark});" in style


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_enough_in_both_modes():
    named = re.findall(r"--([a-z-]+): light-dark\((#\w{6}), (#\w{6})\)", base.source("widgets.css"))
    colours = {name: pair for name, *pair in named}
    for mode in (0, 1):
        card, sunk = colours["card"][mode], colours["sunk"][mode]
        for text in ("ink", "soft", "accent"):
            assert contrast(colours[text][mode], card) >= 4.5
            assert contrast(colours[text][mode], sunk) >= 4.5
        assert contrast(colours["on-accent"][mode], colours["accent"][mode]) >= 4.5
        for mark in ("clean", "noise", "adversarial", "neutral"):
            assert contrast(colours[mark][mode], card) >= 3


def test_the_classic_script_has_no_module_syntax():
    script = explorers.classic_script(base.module(), base.source("static.js"))
    assert not re.search(r"^\s*(export|import)\b", script, re.MULTILINE)
    script = re.sub(r"//.*", "", script)
    assert not re.search(r"\beval\b|innerHTML|new Function|setAttribute\(.style", script)
    with pytest.raises(ValueError, match="exactly one export"):
        explorers.classic_script("export const x = 1;", "")


def test_importing_the_package_imports_no_widgets():
    code = "import sys, advlib; print({'anywidget', 'ipywidgets', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# -- the page's extension


def test_a_stored_view_becomes_data_and_a_still_image(tmp_path):
    widget = make()
    found = explorers.read_notebook(notebook(tmp_path, widget))
    page = explorers.replace_views(f"<p>a</p>{view(widget.model_id)}<p>b</p>", found, "w.js")
    assert page.startswith('<p>a</p><div class="advlib-widget">')
    assert page.endswith('<script src="w.js"></script><p>b</p>')
    assert 'alt="What it shows"' in page and 'width="640"' in page
    assert "_esm" not in page and "_css" not in page
    state = re.search(r'<script type="application/json">(.*?)</script>', page)[1]
    assert json.loads(state) == {"kind": "explorer", "data": widget.data, "guess": None}


def test_a_state_cannot_close_its_script_element(tmp_path):
    widget = widgets.guess("</script><b>Which?", ["<!--<script>", "\u2028"])
    found = explorers.read_notebook(notebook(tmp_path, widget))
    page = explorers.replace_views(view(widget.model_id), found, "w.js")
    state = re.search(r'<script type="application/json">(.*?)</script>', page)[1]
    assert "<" not in state
    assert json.loads(state)["data"]["question"] == "</script><b>Which?"
    assert "<b>" not in page


def test_a_reveal_folds_without_scripts(tmp_path):
    widget = widgets.guess("Which?", ["a", "b"]).reveal("a", "why")
    found = explorers.read_notebook(notebook(tmp_path, widget))
    assert "<details><summary>" in explorers.widget_html(found[widget.model_id], "w.js")


@pytest.mark.parametrize("body", [view("unknown"), view("").replace("{", "no json"), view("1")])
def test_a_view_whose_state_is_not_there_says_so(body):
    page = explorers.replace_views(f"<p>a</p>{body}<p>b</p>", {}, "w.js")
    assert page.startswith("<p>a</p><p") and page.endswith("</p><p>b</p>")
    assert "was not saved" in page


def test_notebooks_without_widgets_and_other_files_hold_none(tmp_path):
    path = notebook(tmp_path, make(), drop_state=True)
    assert explorers.read_notebook(path) == {}
    assert explorers.read_notebook(tmp_path / "page.md") == {}
