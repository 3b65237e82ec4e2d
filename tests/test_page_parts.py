"""The finished pages' parts: icons, pictures, states, formulas, scripts, minutes to read."""

import base64
import json
import re
import shutil
import struct
from pathlib import Path
from types import SimpleNamespace

import page_assets
import page_formulas
import page_icons
import page_outputs
import page_pictures
import page_scripts
import page_states
import page_times
import pytest

ROOT = Path(__file__).parents[1]
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 40, 30)


def cell(kind: str, source: str, *tags: str) -> dict:
    return {"cell_type": kind, "source": source, "metadata": {"tags": list(tags)}}


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_names_the_minutes_that_its_words_take(path: Path) -> None:
    first = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"])
    computed = page_times.of_lesson(path)
    assert f"*{computed} minutes to read, " in first, f"write: {computed} minutes to read"


def test_minutes_count_prose_and_code_that_is_shown() -> None:
    prose = cell("markdown", "word " * 10 * page_times.WORDS)
    code = cell("code", "x = 1\n\n" * 10 * page_times.LINES)
    folded = cell("code", "x = 1\n" * 10 * page_times.LINES, "hide-input")
    assert page_times.minutes([prose]) == page_times.minutes([code]) == 10
    assert page_times.minutes([prose, code, folded]) == 20
    assert page_times.minutes([cell("markdown", "a few words")]) == page_times.STEP


def test_a_formula_is_one_word_and_an_address_none() -> None:
    assert page_times.words("see [lesson 3](03-fgsm.ipynb), where $a + b = c$") == 5


def test_icons_are_drawn_with_what_the_page_says_of_them() -> None:
    regular, solid = 'sun:[512,512,[9728],"f185","M1 1"]', 'sun:[640,512,[],"f185","M2 2"]'
    script = f'x={{{regular},x:[1,1,[],"f0","M0"]}},y={{{solid}}}'
    page = (
        '<script defer src="_static/scripts/fontawesome.js?digest=1"></script>\n'
        '<i class="theme-switch fa-solid fa-sun fa-lg" data-mode="light"></i><i>kept</i>'
    )
    drawn = page_icons.drawn(page, script)
    assert "fontawesome" not in drawn and "<i>kept</i>" in drawn
    assert '<svg class="svg-inline--fa theme-switch fa-lg"' in drawn
    assert 'data-mode="light"' in drawn and 'viewBox="0 0 640 512"' in drawn and "M2 2" in drawn
    assert page_icons.drawn(drawn, script) == drawn


def test_pictures_get_their_sizes_and_wait_behind_the_first_section(tmp_path: Path) -> None:
    (tmp_path / "_images").mkdir()
    (tmp_path / "_images" / "a.png").write_bytes(PNG)
    still = base64.b64encode(PNG).decode()
    page = (
        "<h2>Contents</h2><article>"
        '<img src="../_images/a.png"><h2>Section</h2><img alt="a" src="../_images/a.png"/>'
        f'<img src="data:image/png;base64,{still}" width="4" height="3"><img src="gone.png">'
    )
    placed = page_pictures.placed(page, "book/page.html", tmp_path)
    first, second, third, gone = re.findall("<img[^>]*>", placed)
    assert first == '<img src="../_images/a.png" width="40" height="30">'
    assert 'width="40" height="30"' in second and 'loading="lazy"' in second
    file = re.search(r'src="\.\./(_images/\w+\.png)"', third)[1]
    assert (tmp_path / file).read_bytes() == PNG and 'width="4" height="3"' in third
    assert "width" not in gone
    assert page_pictures.placed(placed, "book/page.html", tmp_path) == placed


def widget(state: str) -> str:
    return (
        '<div class="advlib-widget"><div class="advlib-still"><img src="s.png"></div>'
        f'<script type="application/json">{state}</script></div>'
        '<script src="../_static/advlib-widgets.js?v=1"></script>'
    )


def test_large_states_leave_the_page_and_small_ones_stay(tmp_path: Path) -> None:
    large, small = json.dumps({"a": "x" * page_states.SMALL}), '{"b": 1}'
    page = page_states.without_states(widget(small) + widget(large), "notebooks/a.html", tmp_path)
    assert page.startswith(widget(small)) and large not in page
    (file,) = (tmp_path / page_states.FOLDER).iterdir()
    assert json.dumps(large) in file.read_text(encoding="utf-8")
    # The script that draws comes after the states, and neither holds up the text.
    scripts = re.findall(r'<script defer src="([^"]*)"', page)
    assert scripts == [f"../_static/states/{file.name}", "../_static/advlib-widgets.js?v=1"]
    assert page_states.without_states(page, "notebooks/a.html", tmp_path) == page


def test_states_that_no_page_shows_any_more_are_removed(tmp_path: Path) -> None:
    app = SimpleNamespace(outdir=tmp_path, builder=SimpleNamespace(format="html"))
    page, folder = tmp_path / "a.html", tmp_path / page_states.FOLDER
    first, second = (json.dumps({"a": letter * page_states.SMALL}) for letter in "xy")
    page.write_text(widget(first), encoding="utf-8")
    page_states.take_states_out(app, None)
    (kept,) = folder.iterdir()
    page_states.take_states_out(app, None)  # the page was not written again
    assert list(folder.iterdir()) == [kept]
    page.write_text(widget(second), encoding="utf-8")
    page_states.take_states_out(app, None)
    (kept,) = folder.iterdir()
    assert json.dumps(second) in kept.read_text(encoding="utf-8")


def test_light_or_dark_is_known_before_the_page_is_painted() -> None:
    page = (
        '<html lang="en" data-theme="auto"><head><script>\n'
        '    document.documentElement.dataset.mode = localStorage.getItem("mode") || "light";\n'
        '    document.documentElement.dataset.theme = localStorage.getItem("theme") || "auto";\n'
        "</script></head><body>"
    )
    lean = page_scripts.lean(page, "")
    assert '"auto"' not in lean and "prefers-color-scheme" in lean
    assert lean.index(page_scripts.STORAGE) < lean.index("dataset.mode =")
    assert page_scripts.lean(lean, "") == lean


def test_scripts_wait_and_keep_their_order() -> None:
    page = (
        '<head><link rel="preload" as="script" href="a.js" />\n'
        '<script src="../_static/documentation_options.js?v=1"></script>\n'
        '<script src="a.js"></script><script>inside()</script><script async src="b.js"></script>\n'
        '<script src="../searchindex.js"></script>\n</head>'
        '<body><script src="c.js"></script></body>'
    )
    lean = page_scripts.lean(page, "const OPTIONS = {};\n")
    assert "<script>const OPTIONS = {};</script>" in lean
    assert '<script defer src="a.js">' in lean and '<script async src="b.js">' in lean
    assert '<script src="c.js">' in lean  # it stands where it belongs
    assert "searchindex" not in lean and "preload" not in lean
    assert page_scripts.lean(lean, "const OPTIONS = {};\n") == lean
    search = page.replace("<body>", '<body><div id="search-results"></div>')
    assert '<script defer src="../searchindex.js">' in page_scripts.lean(search, "")


@pytest.fixture
def mathjax() -> Path:
    setter = page_assets.setter(ROOT)
    if setter is None or shutil.which("node") is None:
        pytest.skip("MathJax is not there: `sudo apt-get install npm` and build the book")
    return setter


def test_formulas_are_set_with_their_meaning(mathjax: Path) -> None:
    page = (
        '<head></head><p><span class="math notranslate nohighlight">\\(a &lt; b\\)</span></p>'
        '<div class="math notranslate nohighlight">\n\\[ \\|\\delta\\|_\\infty \\]</div>'
    )
    found = page_formulas.formulas(page)
    assert found == [
        {"tex": "a < b", "display": False},
        {"tex": " \\|\\delta\\|_\\infty ", "display": True},
    ]
    done = page_formulas.typeset(mathjax, {"a.html": {"formulas": found, "fonts": "../fonts"}})
    written = page_formulas.with_formulas(page, done["a.html"]["style"], done["a.html"]["html"])
    assert written.count("<mjx-container") == 2 and 'display="true"' in written
    assert "<math" in written and "<mo>&lt;</mo>" in written
    assert 'url("../fonts/MathJax_Main-Regular.woff")' in written
    assert page_formulas.formulas(written) == []


def test_a_formula_that_is_wrong_is_reported(mathjax: Path) -> None:
    wrong = {"a.html": {"formulas": [{"tex": r"\frac{1", "display": False}], "fonts": "."}}
    with pytest.raises(page_formulas.subprocess.CalledProcessError) as caught:
        page_formulas.typeset(mathjax, wrong)
    assert "a.html" in caught.value.stderr and r"\frac{1" in caught.value.stderr


def test_text_a_little_too_wide_for_a_telephone_says_so() -> None:
    def output(columns: int) -> str:
        text = "x" * (columns - 1) + "&lt;"
        return f'<div class="output stream"><div class="highlight"><pre><span></span>{text}\n</pre>'

    assert "--columns: 60" in page_outputs.measured(output(60))
    for columns in (page_outputs.FITS, page_outputs.SHRINKS + 1):
        assert page_outputs.measured(output(columns)) == output(columns)
    once = page_outputs.measured(output(60))
    assert page_outputs.measured(once) == once
