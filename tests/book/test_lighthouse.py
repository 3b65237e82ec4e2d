"""Reading Lighthouse's reports: which points count, what costs them, what ends in failure."""

import gzip
import urllib.request
from pathlib import Path

import lighthouse
import pytest


def report(performance: float = 1, **audits: float | None) -> lighthouse.Report:
    """A report whose audits all belong to the performance and weigh the same."""
    parts = [{"id": name, "weight": 1} for name in audits] + [{"id": "informs", "weight": 0}]
    said = {name: {"score": score, "title": f"{name} said"} for name, score in audits.items()}
    categories = {name: {"score": 1, "auditRefs": []} for name in lighthouse.WANTED}
    categories["performance"] = {"score": performance, "auditRefs": parts}
    return {"categories": categories, "audits": {**said, "informs": {"score": 0, "title": ""}}}


def test_audits_that_weigh_and_miss_cost_points() -> None:
    found = lighthouse.lost(report(0.9, slow=0.5, fine=1, unknown=None), "performance")
    assert found == {"slow": "slow said"}


def test_a_category_that_could_not_be_measured_has_no_points() -> None:
    assert lighthouse.scores(report(None))["performance"] == 0
    assert lighthouse.scores(report(0.905))["performance"] == 90


@pytest.mark.parametrize(
    ("performance", "reasons", "missed"),
    [
        (0.9, {}, []),
        (0.89, {}, ["slow", "late"]),
        (0.89, {"slow": "why"}, ["late"]),
        (0.89, {"slow": "why", "late": "why"}, []),
    ],
)
def test_points_below_the_wanted_ones_need_a_reason(
    performance: float, reasons: dict[str, str], missed: list[str]
) -> None:
    assert lighthouse.unexplained(report(performance, slow=0.5, late=0), reasons) == missed


def test_the_median_run_counts() -> None:
    runs = [report(score) for score in (0.5, 0.99, 0.9)]
    assert lighthouse.median(runs) is runs[2]


def test_the_table_names_scores_and_what_cost_them() -> None:
    table = lighthouse.table({"a.html": report(0.8, slow=0.5)})
    assert " 80 " in table and "a.html: performance: slow: slow said" in table


def test_text_is_served_compressed_and_images_as_they_are(tmp_path: Path) -> None:
    files = {"a.html": b"<p>text</p>" * 100, "a.png": b"\x89PNG" * 100}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    with lighthouse.served(tmp_path) as address:
        answers = {name: urllib.request.urlopen(address + name) for name in files}
        bodies = {name: answer.read() for name, answer in answers.items()}
    assert all(answer.headers["Cache-Control"] == "max-age=600" for answer in answers.values())
    assert gzip.decompress(bodies["a.html"]) == files["a.html"]
    assert answers["a.html"].headers["Content-Type"].startswith("text/html")
    assert bodies["a.png"] == files["a.png"]
