"""What finishes the pages: icons, images, states, scripts, formulas, and all of it at once."""

import base64
import json
import re
import shutil
import struct
from pathlib import Path
from types import SimpleNamespace

import finish
import pytest
from finish import drawings, formulas, icons, large, scripts, sizes, tables, vendor
from finish.pages import Book, Page
from repository import ROOT
from sphinx.errors import ExtensionError

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 40, 30)


def test_icons_are_drawn_with_what_the_page_says_of_them() -> None:
    regular, solid = 'sun:[512,512,[9728],"f185","M1 1"]', 'sun:[640,512,[],"f185","M2 2"]'
    script = f'x={{{regular},x:[1,1,[],"f0","M0"]}},y={{{solid}}}'
    page = (
        '<script defer src="_static/scripts/fontawesome.js?digest=1"></script>\n'
        '<i class="theme-switch fa-solid fa-sun fa-lg" data-mode="light"></i><i>kept</i>'
    )
    drawn = icons.draw(page, script)
    assert "fontawesome" not in drawn and "<i>kept</i>" in drawn
    assert '<svg class="svg-inline--fa theme-switch fa-lg"' in drawn
    assert 'data-mode="light"' in drawn and 'viewBox="0 0 640 512"' in drawn and "M2 2" in drawn
    assert icons.draw(drawn, script) == drawn


def test_images_get_their_sizes_and_wait_behind_the_first_section(tmp_path: Path) -> None:
    (tmp_path / "_images").mkdir()
    (tmp_path / "_images" / "a.png").write_bytes(PNG)
    still = base64.b64encode(PNG).decode()
    html = (
        "<h2>Contents</h2><article>"
        '<img src="../_images/a.png"><h2>Section</h2><img alt="a" src="../_images/a.png"/>'
        f'<img src="data:image/png;base64,{still}" width="4" height="3"><img src="gone.png">'
    )
    book = Book(tmp_path, ())
    page = sizes.size_images(large.move_out(Page("book/page.html", html), book), book)
    first, second, third, gone = re.findall("<img[^>]*>", page.html)
    assert first == '<img src="../_images/a.png" width="40" height="30">'
    assert 'width="40" height="30"' in second and 'loading="lazy"' in second
    file = re.search(r'src="\.\./(_images/\w+\.png)"', third)[1]
    assert page.files == {file: PNG} and 'width="4" height="3"' in third
    assert "width" not in gone
    assert sizes.size_images(large.move_out(page, book), book) == page


DRAWING = (
    drawings.MARK + ' fill="currentColor">\n<defs><path id="m1" d="M 0 0 \nL 1 1"/></defs>\n'
    '<use href="#m1" style="stroke: #000000; fill: #0072b2"/> <g clip-path="url(#c1)">\n'
    '<image href="data:image/png;base64,AAA\nBBB"/></g><path style="fill: #ffffff"/>'
    "<text>#0072b2 &lt; 1</text></svg>\n"
)


def test_drawings_become_part_of_their_page_and_follow_its_theme(tmp_path: Path) -> None:
    (tmp_path / "_images").mkdir()
    file, logo = (tmp_path / "_images" / name for name in ("a.svg", "logo.svg"))
    file.write_text(DRAWING, encoding="utf-8")
    logo.write_text("<svg></svg>", encoding="utf-8")
    kept = '<img alt="logo" src="../_images/logo.svg"/>'
    image = '<img alt="It &quot;rises&quot; &gt; 1" src="../_images/a.svg" />'
    page = drawings.inline(Page("notebooks/a.html", kept + image + image), Book(tmp_path, ()))
    assert page.html.startswith(kept) and page.html.count('role="img"') == 2
    assert 'aria-label="It &quot;rises&quot; &gt; 1"' in page.html
    names = re.findall(r'\bid="(.*?)"', page.html)
    assert len(set(names)) == len(names) == 2
    assert re.findall(r'href="#(.*?)"', page.html) == names
    assert "stroke: currentColor; fill: light-dark(#0072B2, #56B4E9)" in page.html
    assert "fill: var(--pst-color-background)" in page.html
    assert "#0072b2 &lt; 1" in page.html and "AAA BBB" in page.html
    drawings.remove_inlined(tmp_path)
    assert not file.exists() and logo.exists()


def explorer(letter: str) -> str:
    """Return the state of an explorer with two scenes, as JSON; the second is large."""
    states = {
        "0": {"lines": [{"series": [1]}], "text": "a < b"},
        "1": {"lines": [{"series": [0]}], "text": letter * large.SMALL},
    }
    images, series = ["data:image/png;base64,AAAA"], [{"x": [0]}, {"x": [1]}]
    data = {"initial": [0], "states": states, "images": images, "series": series}
    return json.dumps({"kind": "explorer", "data": data}).replace("<", "\\u003c")


def widget(state: str) -> str:
    return (
        '<div class="advlib-widget"><div class="advlib-still"><img src="s.png"></div>'
        f'<script type="application/json">{state}</script></div>'
        '<script src="../_static/advlib-widgets.js?v=1"></script>'
    )


def test_large_states_leave_the_page_and_small_ones_stay(tmp_path: Path) -> None:
    long, short = explorer("x"), '{"b": 1}'
    book = Book(tmp_path, ())
    page = large.move_out(Page("notebooks/a.html", widget(short) + widget(long)), book)
    assert page.html.startswith(widget(short)) and long not in page.html
    ((file, content),) = page.files.items()
    assert file.startswith(large.FOLDER) and json.dumps(long) in content.decode()
    # The first scene stays, its lines in place and without images: it is drawn at once, to hold the
    # place of the others.
    (first,) = re.findall(r'<script type="application/json">([^<]*)', page.html)[1:]
    scene = {"lines": [{"series": [{"x": [1]}]}], "text": "a < b"}
    data = {"initial": [0], "states": {"0": scene}, "images": None}
    assert json.loads(first)["data"] == data
    # The script that draws comes again after the states, and neither holds up the text.
    found = re.findall(r'<script defer src="([^"]*)"', page.html)
    assert found == [f"../{file}", "../_static/advlib-widgets.js?v=1"]
    assert large.move_out(page, book) == page


def test_states_that_no_page_shows_any_more_are_removed(tmp_path: Path) -> None:
    app = SimpleNamespace(outdir=tmp_path, srcdir=tmp_path, builder=SimpleNamespace(format="html"))
    page, folder = tmp_path / "a.html", tmp_path / large.FOLDER
    folder.parent.mkdir()
    (folder.parent / "documentation_options.js").touch()
    first, second = (explorer(letter) for letter in "xy")
    page.write_text(widget(first), encoding="utf-8")
    finish.finish(app, None)
    (kept,) = folder.iterdir()
    written = page.read_text(encoding="utf-8")
    finish.finish(app, None)  # the page was not written again
    assert list(folder.iterdir()) == [kept] and page.read_text(encoding="utf-8") == written
    page.write_text(widget(second), encoding="utf-8")
    finish.finish(app, None)
    (kept,) = folder.iterdir()
    assert json.dumps(second) in kept.read_text(encoding="utf-8")


def test_after_an_error_and_in_print_nothing_is_finished(tmp_path: Path) -> None:
    page = tmp_path / "a.html"
    page.write_text(widget("x" * large.SMALL), encoding="utf-8")
    for kind, error in (("html", ValueError()), ("latex", None)):
        app = SimpleNamespace(outdir=tmp_path, builder=SimpleNamespace(format=kind))
        finish.finish(app, error)
    assert list(tmp_path.iterdir()) == [page]
    assert page.read_text(encoding="utf-8") == widget("x" * large.SMALL)


def test_light_or_dark_is_known_before_the_page_is_painted() -> None:
    page = (
        '<html lang="en" data-theme="auto"><head><script>\n'
        '    document.documentElement.dataset.mode = localStorage.getItem("mode") || "light";\n'
        '    document.documentElement.dataset.theme = localStorage.getItem("theme") || "auto";\n'
        "</script></head><body>"
    )
    lean = scripts.lean(page, "")
    assert '"auto"' not in lean and "prefers-color-scheme" in lean
    assert lean.index(scripts.STORAGE) < lean.index("dataset.mode =")
    assert scripts.lean(lean, "") == lean


def test_scripts_wait_and_keep_their_order() -> None:
    page = (
        '<head><link rel="preload" as="script" href="a.js" />\n'
        '<script src="../_static/documentation_options.js?v=1"></script>\n'
        '<script src="a.js"></script><script>inside()</script><script async src="b.js"></script>\n'
        '<script src="../searchindex.js"></script>\n</head>'
        '<body><script src="c.js"></script></body>'
    )
    lean = scripts.lean(page, "const OPTIONS = {};\n")
    assert "<script>const OPTIONS = {};</script>" in lean
    assert '<script defer src="a.js">' in lean and '<script async src="b.js">' in lean
    assert '<script src="c.js">' in lean  # it stands where it belongs
    assert "searchindex" not in lean and "preload" not in lean
    assert scripts.lean(lean, "const OPTIONS = {};\n") == lean
    search = page.replace("<body>", '<body><div id="search-results"></div>')
    lean = scripts.lean(search, "const OPTIONS = {};\n")
    assert '<script defer src="../searchindex.js">' in lean and scripts.TITLES_ONLY in lean


@pytest.fixture
def mathjax() -> Path:
    found = vendor.mathjax(ROOT)
    if found is None or shutil.which("node") is None:
        pytest.skip("MathJax is not there: `sudo apt-get install npm` and build the book")
    return found


def test_a_theme_that_asks_in_other_words_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "_static" / "scripts" / "pydata-sphinx-theme.js"
    path.parent.mkdir(parents=True)
    path.write_text("e.tabIndex=e.offsetWidth>9?0:-1")
    with pytest.raises(ExtensionError, match="no longer"):
        scripts.ask_what_shows(tmp_path)


def test_only_a_page_with_formulas_left_to_typeset_loads_mathjax(tmp_path: Path) -> None:
    loads = (
        '<script>window.MathJax = {"options": {}}</script>\n'
        '<script defer="defer" src="https://cdn.example/mathjax@3/tex.js"></script>\n'
    )
    formula = '<span class="math notranslate nohighlight">\\(a\\)</span>'
    with_one, without = (
        Page(name, f"<head>{loads}<script>kept()</script></head>{body}")
        for name, body in (("a.html", formula), ("b.html", "<p>b</p>"))
    )
    book = Book(tmp_path, (with_one, without))  # no npm: there is no MathJax to typeset with
    assert formulas.typeset_formulas(with_one, book) == with_one
    left = formulas.typeset_formulas(without, book).html
    assert "mathjax" not in left.lower() and "<script>kept()</script>" in left


def test_formulas_are_typeset_with_their_meaning(mathjax: Path) -> None:
    page = (
        '<head></head><p><span class="math notranslate nohighlight">\\(a &lt; b\\)</span></p>'
        '<div class="math notranslate nohighlight">\n\\[ \\|\\delta\\|_\\infty \\]</div>'
    )
    found = formulas.formulas(page)
    assert found == [
        {"tex": "a < b", "display": False},
        {"tex": " \\|\\delta\\|_\\infty ", "display": True},
    ]
    done = formulas.typeset(mathjax, {"a.html": {"formulas": found, "fonts": "../fonts"}})
    written = formulas.with_formulas(page, done["a.html"]["style"], done["a.html"]["html"])
    assert written.count("<mjx-container") == 2 and 'display="true"' in written
    assert "<math" in written and "<mo>&lt;</mo>" in written
    assert 'url("../fonts/MathJax_Main-Regular.woff")' in written
    assert formulas.formulas(written) == []


def test_a_formula_that_is_wrong_is_reported(mathjax: Path) -> None:
    wrong = {"a.html": {"formulas": [{"tex": r"\frac{1", "display": False}], "fonts": "."}}
    with pytest.raises(formulas.subprocess.CalledProcessError) as caught:
        formulas.typeset(mathjax, wrong)
    assert "a.html" in caught.value.stderr and r"\frac{1" in caught.value.stderr


def test_text_a_little_too_wide_for_a_telephone_says_so() -> None:
    def output(columns: int) -> str:
        text = "x" * (columns - 1) + "&lt;"
        return f'<div class="output stream"><div class="highlight"><pre><span></span>{text}\n</pre>'

    assert "--columns: 60" in sizes.count_columns(output(60))
    for columns in (sizes.FITS, sizes.SHRINKS + 1):
        assert sizes.count_columns(output(columns)) == output(columns)
    once = sizes.count_columns(output(60))
    assert sizes.count_columns(once) == once


def test_each_line_of_text_is_an_element_and_no_character_is_lost() -> None:
    text = '<span></span><span class="k">if</span> a &lt; b:\n\n    c\n'
    page = f'<div class="highlight"><pre>{text}</pre></div>'
    split = sizes.split_lines(page)
    assert split.count('<span class="line">') == 2  # an empty line cannot be broken
    assert re.sub("<[^>]*>", "", split) == re.sub("<[^>]*>", "", page)
    assert sizes.split_lines(split) == split


def test_the_cells_of_a_wide_table_say_what_they_are() -> None:
    def table(columns: int) -> str:
        head = "".join(f'<th class="head"><p>name &amp; {i}</p></th>' for i in range(columns))
        row = "<td><p>1</p></td>" * (columns - 1) + "<td></td>"
        return (
            f'<table class="table">\n<thead>\n<tr class="row-odd">{head}</tr>\n</thead>\n'
            f'<tbody>\n<tr class="row-even">{row}</tr>\n</tbody>\n</table>'
        )

    assert tables.label(table(tables.WIDE - 1)) == table(tables.WIDE - 1)
    wide = tables.label(table(tables.WIDE))
    assert re.findall('data-label="([^"]*)"', wide) == [
        f"name &amp; {i}" for i in range(tables.WIDE - 1)
    ]
    roles = ("table", "rowgroup", "row", "columnheader", "cell")
    assert [wide.count(f'role="{role}"') for role in roles] == [1, 2, 2, tables.WIDE, tables.WIDE]
    assert tables.label(wide) == wide
