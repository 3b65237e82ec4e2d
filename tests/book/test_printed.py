"""The printed book: what folds lies open, and a long table breaks in columns that fit its words."""

from pathlib import Path

import printed
import pytest
from course import lab
from course.labs import Lab
from docutils import nodes
from docutils.utils import new_document


def table(*rows: list[str]) -> nodes.table:
    group = nodes.tgroup("", *(nodes.colspec(colwidth=1) for _ in rows[0]), cols=len(rows[0]))
    body = nodes.tbody()
    for row in rows:
        body += nodes.row("", *(nodes.entry("", nodes.paragraph("", text)) for text in row))
    group += body
    return nodes.table("", group)


def opened(*parts: nodes.Node) -> nodes.document:
    """A document of these parts after what print changes in it."""
    document = new_document("page")
    document += parts
    printed.LieOpen(document).run()
    return document


@pytest.mark.parametrize(
    ("classes", "left"),
    [
        (["cell", "tag_hide-cell", "tag_solution"], ["cell", "tag_solution"]),
        (["cell", "tag_hide-output"], ["cell"]),
        (["cell", "tag_remove-cell"], ["cell", "tag_remove-cell"]),
    ],
)
def test_a_folded_cell_is_printed(classes: list[str], left: list[str]) -> None:
    (cell,) = opened(nodes.container("", classes=classes)).children
    assert cell["classes"] == printed.unfold_cell(classes) == left


def test_what_unfolds_is_printed_under_its_word() -> None:
    fold = nodes.raw("", "<details><summary> Hint\n</summary>", format="html")
    other = nodes.raw("", "<hr>", format="html")
    document = opened(fold, nodes.paragraph("", "Look at the sign."), other)
    assert document.astext().split("\n\n")[1:3] == ["Hint", "Look at the sign."]
    assert r"\needspace" in document[0].astext() and document[3] is other


def test_a_column_has_room_for_its_longest_word() -> None:
    words = ["incomprehensibilities", "a", "b c"]
    (share,) = printed.widths([words])
    assert share >= printed.PADDING + len(words[0])


def test_a_short_cell_stays_on_one_line() -> None:
    (share,) = printed.widths([["0, 1, 2", "0"]])
    assert share == printed.PADDING + len("0, 1, 2")


def test_a_column_of_long_text_is_wider_but_not_in_proportion() -> None:
    short, long = printed.widths([["a few words"] * 3, ["a few words" * 16] * 3])
    assert 2 * short < long < 8 * short


def test_one_long_cell_counts_for_more_than_the_mean() -> None:
    even, uneven = printed.widths([["word " * 8] * 4, ["word " * 29] + ["word "] * 3])
    assert uneven > even


def test_an_empty_column_has_a_width() -> None:
    assert printed.widths([["", ""]]) == [printed.PADDING + 1]


def test_a_long_table_breaks_and_a_short_one_stays_whole() -> None:
    row = ["word", "a word or two"]
    long, short = opened(*(table(*[row] * n) for n in (printed.ROWS + 1, printed.ROWS)))
    assert long["classes"] == ["longtable", "colwidths-given"] and short["classes"] == []
    given = [spec["colwidth"] for spec in long.findall(nodes.colspec)]
    assert given == printed.widths([[row[0]], [row[1]]])


def test_a_table_wider_than_the_paper_is_set_small() -> None:
    wide = table(*[["incomprehensibility"] * 8] * (printed.ROWS + 1))
    before, kept, after = opened(wide)
    assert before.astext() == r"{\footnotesize" and kept is wide and after.astext() == "}"


def test_the_lab_is_printed_as_an_image_with_the_address_of_the_book(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab, "still", lambda path: f"described in {path.name}")
    monkeypatch.setattr(printed.LieOpen, "app", type("App", (), {"outdir": tmp_path}))
    config = type("Config", (), {"html_baseurl": "https://book.example/"})
    monkeypatch.setattr(printed.LieOpen, "config", config)
    sentence, image, described = opened(Lab(name="live-lab"))
    (link,) = sentence.findall(nodes.reference)
    assert link["refuri"] == "https://book.example/"
    assert f"{{{printed.STILL}}}" in image.astext()
    assert described.astext() == f"described in {printed.STILL}"
