"""The pages of claims and networks say what the executed lessons and the model cards say."""

import json
import re
import sys

import lists
import pytest
from built import HTML, built, soup
from course import lists as pages
from repository import LESSONS, ROOT

from advlib.lessons.claims import Claim
from advlib.models import MiniLM, efficientnet, shipped, wordllama
from advlib.models.minilm import PACKAGE as ENCODER

CLAIMS = json.loads(lists.CLAIMS.read_text(encoding="utf-8"))
NETWORKS = json.loads(lists.NETWORKS.read_text(encoding="utf-8"))
RENEW = "run `python book/_tools/lists.py`"


def words(html) -> str:
    text = html.get_text("").translate(str.maketrans("‘’“”", "''\"\""))  # the page sets quotes
    return " ".join(text.split())


def test_what_looks_like_markup_is_shown_as_it_is() -> None:
    assert pages.plain("2*x_i < $5 `a`") == r"2\*x\_i \< \$5 \`a\`"


def test_the_list_of_claims_is_what_the_executed_lessons_show() -> None:
    assert CLAIMS and [each for path in LESSONS for each in lists.claims_in(path)] == CLAIMS, RENEW


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.stem)
def test_a_claim_names_its_own_lesson_and_is_shown_where_it_is_made(path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    making = {cell["id"] for cell in cells if re.search(r"\bclaim\(\n", "".join(cell["source"]))}
    found = lists.claims_in(path)
    assert making == {each["cell"] for each in found}, "end the cell with the claim"
    assert all(each["lesson"] == int(path.name[:2]) for each in found)


@pytest.mark.parametrize("entry", CLAIMS, ids=lambda entry: entry["cell"])
def test_no_claim_lacks_its_rival_or_stands_against_its_own_numbers(entry) -> None:
    stored = Claim(**{key: value for key, value in entry.items() if key != "cell"})
    assert all(text.strip() for text in vars(stored).values() if isinstance(text, str))
    assert stored.n >= 6 and stored.interval[0] <= stored.interval[1]
    low, high = re.search(r"interval (\S+) to (\S+);", stored.difference).groups()
    includes_zero = float(low.replace(",", "")) <= 0 <= float(high.replace(",", ""))
    luck = re.search(r"p ([=<]) (\S+)$", stored.difference)
    tie = includes_zero or (luck[1] == "=" and float(luck[2]) >= 0.05)
    assert tie == (stored.verdict == "not shown: the rival does as well")
    assert stored.standing == (stored.verdict == "stands")


@built
def test_the_page_of_claims_says_what_the_list_says() -> None:
    page = soup(HTML / "book" / "claims.html")
    boxes = page.select("div.claim")
    assert len(boxes) == len(CLAIMS)
    for box, entry in zip(boxes, CLAIMS, strict=True):
        for key in ("claim", "measurement", "rival", "rival_measurement", "difference", "left"):
            assert entry[key] in words(box)
        assert "; ".join(entry.get("again", [])) in words(box)
        assert ("Measured again:" in words(box)) == ("again" in entry)
        assert entry["verdict"].capitalize() in words(box)
        assert ("not-shown" in box["class"]) == (not entry["standing"])
        (link,) = box.select("a")
        target, _, anchor = link["href"].partition("#")
        lesson = soup((HTML / "book" / target).resolve())
        assert entry["claim"] in words(lesson.find(id=anchor).select_one(".advlib-claim"))


def test_lessons_that_are_gone_and_older_claims_are_forgotten(tmp_path) -> None:
    for name in ("01-a.ipynb", "02-b.ipynb"):
        (tmp_path / name).write_text('{"cells": []}')
    file = tmp_path / "claims.json"
    lists.write(file, [{"lesson": number, "claim": "c"} for number in (1, 2, 3)])
    lists.renew_claims(tmp_path / "02-b.ipynb", file)
    assert [each["lesson"] for each in json.loads(file.read_text())] == [1]


def test_the_list_of_networks_is_what_the_cards_say_and_complete() -> None:
    assert [lists.network(name) for name in shipped.NAMES] == NETWORKS, RENEW
    shown = {path.stem for path in shipped.WEIGHTS.glob("*.safetensors")}
    assert {each["name"] for each in NETWORKS} == shown
    known = {each["name"]: each for each in NETWORKS}
    for each in NETWORKS:
        assert each["parent"] is None or each["parent"] in known
        text = shipped.card(each["name"])
        assert f"| clean accuracy | {each['clean']:.2f} |" in text
        assert f"| {lists.ROBUST} | {each['robust']:.2f} |" in text
    assert known["signs-robust"]["parent"] == "signs-standard"
    assert known["signs-robust"]["training_eps"] == "4/255 in L-infinity"


def test_the_tree_has_every_network_once_below_its_parent() -> None:
    lines = [line for line in pages.tree(NETWORKS).splitlines() if line.lstrip().startswith("- ")]
    depth = {re.search(r"`(\S+) <", line)[1]: line.index("-") // 2 for line in lines}
    assert len(lines) == len(depth) == len(NETWORKS)
    for each in NETWORKS:
        assert depth[each["name"]] == (depth[each["parent"]] + 1 if each["parent"] else 0)


@built
def test_the_page_of_networks_shows_every_network_and_its_links_arrive() -> None:
    page = soup(HTML / "book" / "networks.html")
    rows = {row.td.get_text(strip=True): row for row in page.select("table tbody tr")}
    assert list(rows) == [each["name"] for each in NETWORKS]
    for each in NETWORKS:
        cells = [cell.get_text(" ", strip=True) for cell in rows[each["name"]].select("td")]
        assert str(each["clean"]) in cells and str(each["robust"]) in cells
    links = page.select(".family a")
    assert {link.get_text() for link in links} == set(rows)
    for link in links:
        assert page.find(id=link["href"].lstrip("#")) is rows[link.get_text()]


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="wordllama is not for this Python")
def test_the_entries_of_the_networks_from_packages_are_true() -> None:
    text = (ROOT / "book" / "networks.md").read_text(encoding="utf-8")
    networks = (
        ([*efficientnet.EfficientNetLite0().parameters()], efficientnet.PACKAGE),
        ([*MiniLM().parameters()], ENCODER),
        ([wordllama.wordllama().table], wordllama.PACKAGE),
    )
    sizes = [f"{sum(part.numel() for part in parameters):,}" for parameters, _ in networks]
    assert re.findall(r"\*Architecture:\* (\S+) parameters", text) == sizes
    packages = re.findall(r"package `(\S+)`, version (\S+)", text)
    assert [package for package, _ in packages] == [package for _, package in networks]
    for package, version in packages:
        assert f"{package}=={version}" in (ROOT / "requirements.txt").read_text(encoding="utf-8")


def test_both_pages_are_in_the_book() -> None:
    toc = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    assert "book/claims" in toc and "book/networks" in toc
