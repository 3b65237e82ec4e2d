"""The scoreboard: judged as it says, written from measurements, and silent about nothing."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import scoreboard
from repository import ROOT
from scoreboard import Result, Row

from advlib import plots
from advlib.errors import DownloadError, InputError, WeightsError
from advlib.evaluation import wilson

STORED = json.loads(scoreboard.STORED.read_text(encoding="utf-8"))
ROW = Row("madry2018towards", "a setting", 93.2, 0.5, "luck")


@pytest.mark.parametrize(
    ("count", "verdict"),
    [(927, "pass"), (932, "pass"), (937, "pass"), (926, "fail"), (938, "fail")],
)
def test_a_row_passes_within_its_tolerance_and_fails_outside(count: int, verdict: str) -> None:
    result = scoreboard.judge(ROW, wilson(count, 1000))
    assert result.verdict == verdict
    assert result.count == count and result.total == 1000


def test_three_networks_on_the_same_images_do_not_make_the_sample_larger() -> None:
    shares = [wilson(count, 1000) for count in (930, 932, 937)]
    assert scoreboard.mean(shares) == wilson(933, 1000)
    assert scoreboard.together(shares) == wilson(930 + 932 + 937, 3000)
    with pytest.raises(ValueError):
        scoreboard.mean([wilson(1, 2), wilson(1, 3)])


def test_what_cannot_be_had_is_said_with_its_reason_and_without_a_path() -> None:
    def missing() -> list[Result]:
        raise DownloadError("MNIST is not in /some/data and could not be fetched. Connect.")

    (result,) = scoreboard._rows([ROW], missing)()
    assert result.verdict == "not run" and not result.ours
    assert result.reason == "MNIST is not in a folder and could not be fetched."


def test_without_data_no_group_fails_and_every_row_of_mnist_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def nothing(*arguments, **settings):
        raise DownloadError("MNIST is not here.")

    monkeypatch.setattr(scoreboard, "classic", nothing)
    monkeypatch.setattr(scoreboard, "published", nothing)
    monkeypatch.delenv("ADVLIB_IMAGENET", raising=False)
    scoreboard.digits.cache_clear()
    groups = set(scoreboard.GROUPS) - {scoreboard.ilyas, scoreboard.cohen}
    results = [result for group in groups for run in group() for result in run()]
    assert len(results) >= 12
    assert all(result.verdict == "not run" and result.reason for result in results)


def test_weights_that_are_not_torchvisions_own_are_not_measured_as_if_they_were(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = b"official"
    digits = hashlib.sha256(whole).hexdigest()[:8]

    class Entry:
        url = f"https://download.pytorch.org/models/net-{digits}.pth"

    monkeypatch.setattr(scoreboard, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr(
        "torchvision.models.get_model_weights", lambda name: {"IMAGENET1K_V1": Entry}
    )
    path = tmp_path / f"net-{digits}.pth"
    path.write_bytes(whole)
    scoreboard.check_weights("net")
    path.write_bytes(b"rebuilt from an export")
    with pytest.raises(WeightsError, match=f"not torchvision's own.* instead of {digits}"):
        scoreboard.check_weights("net")


def test_one_group_is_measured_and_the_others_stay_where_they_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(scoreboard, "STORED", tmp_path / "scoreboard.json")
    versions = scoreboard.versions()
    kept = {entry["group"] for entry in STORED["rows"]}
    names = [group.__name__ for group in scoreboard.GROUPS if group.__name__ in kept]

    def madry():
        yield lambda: [scoreboard.judge(ROW, wilson(930, 1000))]

    groups = tuple(madry if group.__name__ == "madry" else group for group in scoreboard.GROUPS)
    monkeypatch.setattr(scoreboard, "GROUPS", groups)
    scoreboard.STORED.write_text(json.dumps(STORED | {"versions": versions}), encoding="utf-8")
    measured = scoreboard.measure(["madry"])
    assert list(dict.fromkeys(entry["group"] for entry in measured["rows"])) == names
    rows = {name: [e for e in measured["rows"] if e["group"] == name] for name in names}
    for name in set(names) - {"madry"}:
        assert rows[name] == [entry for entry in STORED["rows"] if entry["group"] == name]
    (row,) = rows["madry"]
    assert row["count"] == 930 and row["verdict"] == "pass"
    scoreboard.STORED.write_text(json.dumps(STORED | {"versions": {}}), encoding="utf-8")
    with pytest.raises(InputError, match="measure all"):
        scoreboard.measure(["madry"])


def test_the_page_says_what_was_measured_and_nothing_else() -> None:
    assert scoreboard.PAGE.read_text(encoding="utf-8") == scoreboard.page(STORED)


def test_the_figure_is_that_of_the_stored_numbers(tmp_path: Path) -> None:
    figure = scoreboard.draw(STORED)
    plots.save(figure, tmp_path / "again")
    stored = scoreboard.PAGE.with_suffix(".svg").read_text(encoding="utf-8")
    assert (tmp_path / "again.svg").read_text(encoding="utf-8") == stored
    (axes,) = figure.axes
    marks = [line for line in axes.lines if line.get_marker() in ("o", "X")]
    points = [mark.get_xdata()[0] for mark in marks]
    rows = [entry for entry in STORED["rows"] if entry["total"]]
    assert [mark.get_marker() for mark in marks] == ["oX"[e["verdict"] == "fail"] for e in rows]
    assert points == pytest.approx(
        [100 * e["count"] / e["total"] - e["row"]["published"] for e in rows], abs=1e-9
    )
    assert [text.get_text() for text in axes.texts] == [e["row"]["setting"] for e in rows]


def test_the_verdicts_follow_from_the_counts() -> None:
    for entry in STORED["rows"]:
        row = Row(**entry["row"])
        if entry["verdict"] == "not run":
            assert entry["reason"] and not entry["ours"]
        elif row.tolerance is not None:
            again = scoreboard.judge(row, wilson(entry["count"], entry["total"]))
            assert (again.verdict, again.ours) == (entry["verdict"], entry["ours"])


def test_every_row_of_every_group_is_stored_and_cited() -> None:
    papers = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    sources = {entry["row"]["cite"] for entry in STORED["rows"]}
    assert len(STORED["rows"]) >= 15 and len(sources) >= 8
    for cite in sources:
        assert re.search(rf"(?m)^@\w+\{{{cite},", papers), cite


def test_a_row_that_fails_is_seen_at_once() -> None:
    failed = json.loads(json.dumps(STORED))
    failed["rows"][0]["verdict"] = "fail"
    assert "**fail**" in scoreboard.page(failed)
    known = {"MNIST, the released network under AutoAttack, eps 0.3"}
    assert scoreboard.failing(STORED) == known
