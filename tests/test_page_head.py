"""What a page loads first and says of itself: one style sheet, a tidy head, a preview elsewhere."""

import re
import struct
from pathlib import Path
from types import SimpleNamespace

import cover
import page_address
import page_head
import page_styles
import pytest

WORDS = {"used", "also", "part"}


def test_a_rule_goes_only_if_no_page_can_use_it() -> None:
    sheet = (
        "/* .used { } */ .used{a:1}.gone{b:1}.gone,.also{c:1}#gone p{d:1}p{e:1}.used .gone{f:1}"
        ".bs-tooltip-auto{g:1}.used:not(.gone){h:1}:is(.gone) p{i:1}[class*='.gone']{j:1}"
        "@font-face{k:1}"
    )
    assert re.findall(r"(\w):1", page_styles.lean(sheet, WORDS)) == list("aceghijk")


def test_what_only_looks_like_a_rule_is_left_alone() -> None:
    sheet = """p{content:"}.gone{"}.used{background:url(data:a;b)}@import 'x.css';"""
    assert page_styles.lean(sheet, WORDS) == sheet


def test_a_group_of_rules_goes_when_none_of_them_stays() -> None:
    sheet = "@media print{.gone{a:1}.used{b:1}}@media screen{@supports (a:b){.gone{c:1}}}"
    assert page_styles.lean(sheet, WORDS) == "@media print{.used{b:1}}"


def test_a_sheet_is_read_with_what_it_imports_from_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.css").write_text(
        "@charset \"UTF-8\";@import '../two.css';b{x:url('../c.png')}i{y:url(data:z)}"
    )
    (tmp_path / "two.css").write_text('u{x:url("d.png")}')
    read = page_styles.read(tmp_path, "a/one.css")
    assert read == "u{x:url(\"d.png\")}b{x:url('c.png')}i{y:url(data:z)}"


@pytest.mark.parametrize(
    ("lists", "order"),
    [
        ([["a", "b", "d"], ["a", "c", "d"], []], ["abcd", "acbd"]),
        ([["b", "a"], ["a", "c"]], ["bac"]),
        ([["a"], []], ["a"]),
    ],
)
def test_sheets_keep_the_order_of_every_page(lists: list[list[str]], order: list[str]) -> None:
    assert "".join(page_styles.in_order(lists)) in order


def page_of(*names: str) -> str:
    links = "\n".join(
        f'<link rel="stylesheet" type="text/css" href="../_static/{name}?v=1" />' for name in names
    )
    icon = '<link rel="icon" href="../_static/logo.svg">'
    return f'<head>\n{icon}\n{links}\n<style>b{{}}</style></head><p class="used">'


def test_one_sheet_stands_for_all_and_a_second_build_changes_nothing(tmp_path: Path) -> None:
    static, pages = tmp_path / "_static", tmp_path / "book"
    static.mkdir(), pages.mkdir()
    large = "".join(f".gone-{i}{{color:red}}" for i in range(page_styles.LARGE // 10))
    (static / "large.css").write_text(f".used{{a:1}}{large}")
    (static / "small.css").write_text(".gone-too{b:1}")
    (static / "widget.css").write_text(".w{c:1}")
    (pages / "a.html").write_text(page_of("large.css", "small.css"))
    (pages / "b.html").write_text(page_of("large.css", "widget.css", "small.css"))
    app = SimpleNamespace(outdir=str(tmp_path), builder=SimpleNamespace(format="html"))
    for _ in range(2):
        page_styles.merge_all(app, None)
        sheet = (static / page_styles.TARGET).read_text()
        assert sheet == '@charset "UTF-8";\n.used{a:1}.w{c:1}.gone-too{b:1}'
        links = [re.findall("<link[^>]*sheet[^>]*>", p.read_text()) for p in pages.iterdir()]
        assert all(
            len(found) == 1 and f'href="../_static/{page_styles.TARGET}?v=' in found[0]
            for found in links
        )
    assert "logo.svg" in (pages / "a.html").read_text()


def test_a_head_says_each_thing_once() -> None:
    window = '<meta name="viewport" content="width=device-width, initial-scale=1" />'
    page = (
        f'<head>{window}{window}\n<meta content="My own." name="description" />\n'
        '<meta property="og:url" content="book/index.html" />\n'
        '<meta property="og:description" content="Text of the page, cut o..." />\n'
        f"<title>Name &#8212; Name</title>\n{window}\n</head><body>"
    )
    tidy = page_head.tidy(page)
    assert tidy.count('name="viewport"') == 1 and "<title>Name</title>" in tidy
    assert 'property="og:description" content="My own."' in tidy and "og:url" not in tidy
    assert page_head.tidy(tidy) == tidy


def test_a_head_keeps_a_full_address_and_another_title() -> None:
    page = (
        '<head><meta property="og:url" content="https://a.example/b.html" />'
        "<title>Lesson &#8212; Name</title></head>"
    )
    assert page_head.tidy(page) == page


def test_a_description_ends_with_a_whole_word() -> None:
    page = '<head><meta property="og:description" content="with 99.3 % co..." /></head>'
    assert 'content="with 99.3 % …"' in page_head.tidy(page)


def test_the_preview_has_the_size_that_the_pages_name() -> None:
    assert cover.SOCIAL.name in page_address.PREVIEW
    size = struct.unpack(">II", cover.SOCIAL.read_bytes()[16:24])
    named = re.findall(r'og:image:(?:width|height)" content="(\d+)"', "".join(page_address.TAGS))
    assert size == tuple(map(int, named)) == (cover.WIDTH, cover.HEIGHT)
