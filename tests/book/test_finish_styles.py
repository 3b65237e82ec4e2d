"""What a page loads first and says of itself: one style sheet, a tidy head, a preview elsewhere."""

import re
import struct
from pathlib import Path

import address
import cover
from finish import repairs, styles
from finish.pages import Book, Page

WORDS = {"used", "also", "part"}


def test_a_rule_goes_only_if_no_page_can_use_it() -> None:
    sheet = (
        "/* .used { } */ .used{a:1}.gone{b:1}.gone,.also{c:1}#gone p{d:1}p{e:1}.used .gone{f:1}"
        ".bs-tooltip-auto{g:1}.used:not(.gone){h:1}:is(.gone) p{i:1}[class*='.gone']{j:1}"
        "@font-face{k:1}"
    )
    assert re.findall(r"(\w):1", styles.lean(sheet, WORDS)) == list("aceghijk")


def test_what_only_looks_like_a_rule_is_left_alone() -> None:
    sheet = """p{content:"}.gone{"}.used{background:url(data:a;b)}@import 'x.css';"""
    assert styles.lean(sheet, WORDS) == sheet


def test_a_group_of_rules_goes_when_none_of_them_stays() -> None:
    sheet = "@media print{.gone{a:1}.used{b:1}}@media screen{@supports (a:b){.gone{c:1}}}"
    assert styles.lean(sheet, WORDS) == "@media print{.used{b:1}}"


def test_a_sheet_is_read_with_what_it_imports_from_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one.css").write_text(
        "@charset \"UTF-8\";@import '../two.css';b{x:url('../c.png')}i{y:url(data:z)}"
    )
    (tmp_path / "two.css").write_text('u{x:url("d.png")}')
    read = styles.read(tmp_path, "a/one.css")
    assert read == "u{x:url(\"d.png\")}b{x:url('c.png')}i{y:url(data:z)}"


def page_of(*names: str) -> str:
    links = "\n".join(
        f'<link rel="stylesheet" type="text/css" href="../_static/{name}?v=1" />' for name in names
    )
    icon = '<link rel="icon" href="../_static/logo.svg">'
    return f'<head>\n{icon}\n{links}\n<style>b{{}}</style></head><p class="used">'


def test_one_sheet_stands_for_all_and_a_second_build_changes_nothing(tmp_path: Path) -> None:
    static = tmp_path / "_static"
    static.mkdir()
    large = "".join(f".gone-{i}{{color:red}}" for i in range(styles.LARGE // 10))
    (static / "large.css").write_text(f".used{{a:1}}.in-code{{b:1}}.in-state{{c:1}}{large}")
    (static / "small.css").write_text(".gone-too{d:1}")
    (static / "code.js").write_text("add('in-code')")
    (static / "states").mkdir()
    (static / "states" / "1.js").write_text("fill('in-state')")
    html = page_of("large.css", "small.css")
    book = Book(tmp_path, tuple(Page(f"book/{name}.html", html) for name in "ab"))
    linked = tuple(styles.link(page, book) for page in book.pages)
    for page in linked:
        sheet = page.files[f"{styles.FOLDER}/{styles.TARGET}"].decode()
        assert sheet == '@charset "UTF-8";\n.used{a:1}.in-code{b:1}.gone-too{d:1}'
        (found,) = re.findall("<link[^>]*sheet[^>]*>", page.html)
        assert f'href="../_static/{styles.TARGET}?v=' in found and "logo.svg" in page.html
    again = Book(tmp_path, linked)
    assert tuple(styles.link(page, again) for page in again.pages) == linked


def test_a_head_says_each_thing_once() -> None:
    window = '<meta name="viewport" content="width=device-width, initial-scale=1" />'
    page = (
        f'<head>{window}{window}\n<meta content="My own." name="description" />\n'
        '<meta property="og:url" content="book/index.html" />\n'
        '<meta property="og:description" content="Text of the page, cut o..." />\n'
        f"<title>Name &#8212; Name</title>\n{window}\n</head><body>"
    )
    tidy = repairs.tidy_head(page)
    assert tidy.count('name="viewport"') == 1 and "<title>Name</title>" in tidy
    assert 'property="og:description" content="My own."' in tidy and "og:url" not in tidy
    assert repairs.tidy_head(tidy) == tidy


def test_a_head_keeps_a_full_address_and_another_title() -> None:
    page = (
        '<head><meta property="og:url" content="https://a.example/b.html" />'
        "<title>Lesson &#8212; Name</title></head>"
    )
    assert repairs.tidy_head(page) == page


def test_a_description_ends_with_a_whole_word() -> None:
    page = '<head><meta property="og:description" content="with 99.3 % co..." /></head>'
    assert 'content="with 99.3 % …"' in repairs.tidy_head(page)


def test_the_preview_has_the_size_that_the_pages_name() -> None:
    assert cover.SOCIAL.name in address.PREVIEW
    size = struct.unpack(">II", cover.SOCIAL.read_bytes()[16:24])
    named = re.findall(r'og:image:(?:width|height)" content="(\d+)"', "".join(address.TAGS))
    assert size == tuple(map(int, named)) == (cover.WIDTH, cover.HEIGHT)
