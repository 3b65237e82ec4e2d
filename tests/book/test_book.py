"""The built book against its sources: links, hosts, figures, addresses; and a strict build."""

import base64
import hashlib
import html
import json
import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import address
import cover
import pytest
from built import HTML, PAGES, built, small_book, soup
from finish import policy, repairs, vendor
from repository import LESSONS, ROOT

# What a page loads by itself; an <a href> is followed only by the reader.
LOADS = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}
LOADS |= {"video": "src", "audio": "src", "embed": "src", "object": "data"}
# A <link> of this kind names an address and loads nothing.
NAMES = {"canonical", "author", "license", "next", "prev", "index", "search"}

NO_MATHJAX = "MathJax could not be fetched: `sudo apt-get install npm` and build again"


@cache
def identities(path: Path) -> frozenset[str]:
    return frozenset(element["id"] for element in soup(path).find_all(id=True))


@built
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(HTML).as_posix())
def test_no_page_names_a_foreign_host_to_load_from(page: Path) -> None:
    if not (HTML / "_static" / "mathjax").exists():
        pytest.skip(NO_MATHJAX)
    for name, attribute in LOADS.items():
        for element in soup(page).find_all(name):
            target = element.get(attribute) or ""
            if name == "link" and NAMES & set(element.get("rel", [])):
                continue
            assert not re.match(r"(?:\w+:)?//", target), f"{name} loads {target}"


@built
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(HTML).as_posix())
def test_every_page_says_what_it_may_run(page: Path) -> None:
    if soup(page).head is None:
        return  # the front door: one line that leads to the welcome page
    rules = soup(page).select('head > meta[http-equiv="Content-Security-Policy"]')
    assert len(rules) == 1
    text = rules[0]["content"]
    assert "default-src 'self'" in text and "object-src 'none'" in text
    code = re.search(r"script-src ([^;]*)", text)[1]
    assert "'unsafe-inline'" not in code and "'unsafe-eval'" not in code
    # Written last: whatever the page runs is named as it stands there.
    written = page.read_text(encoding="utf-8")
    bare = re.sub(r"\s*<meta http-equiv=.Content-Security-Policy[^>]*>", "", written)
    assert policy.policy(bare) == html.unescape(text)


def test_a_policy_names_scripts_and_handlers_by_their_hashes() -> None:
    page = (
        "<html><head><meta charset='utf-8'><script>one()</script>"
        "<script type='application/json'>{}</script></head>"
        '<body><button onclick="two(&quot;x&quot;)">b</button></body></html>'
    )
    guarded = policy.guard(page)
    assert policy.guard(guarded) == guarded

    def named(script: str) -> bool:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        return f"'sha256-{digest}'" in guarded

    assert named("one()") and named('two("x")') and not named("{}")


@built
def test_no_style_names_a_foreign_host() -> None:
    for path in (HTML / "_static").glob("**/*.css"):
        assert not re.search(
            r"(?:url\(|@import)\s*['\"]?(?:https?:)?//", path.read_text("utf-8")
        ), path


@built
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(HTML).as_posix())
def test_every_link_inside_the_book_arrives(page: Path) -> None:
    dead = []
    for element in soup(page).find_all(href=True):
        parts = urlsplit(element["href"])
        if parts.scheme or parts.netloc:
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        if not target.exists():
            dead.append(element["href"])
        elif parts.fragment and target.suffix == ".html":
            wanted = unquote(parts.fragment)
            if wanted not in identities(target):
                dead.append(element["href"])
    assert not dead


@built
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(HTML).as_posix())
def test_nothing_stands_for_what_is_missing(page: Path) -> None:
    assert not soup(page).select(".advlib-missing"), "run `make notebooks`, then build again"


@built
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.name)
def test_a_page_shows_the_outputs_that_are_committed(lesson: Path) -> None:
    page = soup(HTML / "notebooks" / f"{lesson.stem}.html")
    shown = re.sub(r"\s+", "", page.get_text())
    # A figure's file is named by what is in it, so equal bytes are enough.
    files = (HTML / "_images").glob("*.png")
    images = {path.read_bytes() for path in files}
    for cell in json.loads(lesson.read_text(encoding="utf-8"))["cells"]:
        hidden = {"remove-output", "remove-cell"} & set(cell["metadata"].get("tags", []))
        for output in cell.get("outputs", []) if not hidden else []:
            data = output.get("data", {})
            if output.get("name") == "stdout":
                stream = re.sub(r"\x1b\[[\d;]*m|\s+", "", "".join(output["text"]))
                assert stream in shown
            elif "image/svg+xml" in data:
                names = re.findall(r"<text.*?</text>", "".join(data["image/svg+xml"]), re.DOTALL)
                said = html.unescape(re.sub(r"<[^>]*>|\s+", "", "".join(names)))
                assert re.sub(r"\s+", "", said) in shown
            elif "image/png" in data and not any("widget" in kind for kind in data):
                assert base64.b64decode("".join(data["image/png"])) in images


def test_the_repairs_leave_a_repaired_page_alone() -> None:
    page = '<button class="btn search-button-field" title="Search" aria-label="Search">'
    once = repairs.repair(page)
    assert "aria-label" not in once
    assert repairs.repair(once) == once


@pytest.mark.parametrize(
    ("remote", "found"),
    [
        ("https://github.com/someone/course.git", "https://github.com/someone/course"),
        ("https://name:secret@github.com/someone/course", "https://github.com/someone/course"),
        ("git@github.com:someone/course.git", "https://github.com/someone/course"),
        ("ssh://git@example.org:2222/group/sub/course.git", "https://example.org/group/sub/course"),
        ("/srv/git/course.git", ""),
        ("../course", ""),
        ("file:///srv/git/course", ""),
        ("", ""),
    ],
)
def test_the_address_of_a_remote(remote: str, found: str) -> None:
    assert address.from_remote(remote) == found


def test_the_address_comes_from_the_hosting_environment_first() -> None:
    environ = {"GITHUB_REPOSITORY": "someone/fork", "GITHUB_SERVER_URL": "https://github.com"}
    assert address.repository(ROOT, environ) == "https://github.com/someone/fork"


def test_without_an_address_there_is_none(tmp_path: Path) -> None:
    assert address.repository(tmp_path, {}) == ""
    assert address.site("", {}) == ""


@pytest.mark.parametrize(
    ("repository", "site"),
    [
        ("https://github.com/Someone/course", "https://someone.github.io/course/"),
        ("https://github.com/someone/someone.github.io", "https://someone.github.io/"),
        ("https://example.org/someone/course", ""),
    ],
)
def test_the_address_of_the_published_book(repository: str, site: str) -> None:
    assert address.site(repository, {}) == site


def test_without_npm_the_build_says_what_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vendor.shutil, "which", lambda name: None)
    sentence = vendor.fetch(tmp_path / "vendor")
    assert "content delivery network" in sentence
    assert "apt-get install npm" in sentence
    assert not (tmp_path / "vendor").exists()


def test_a_fork_launches_the_fork(fork: Path) -> None:
    page = (fork / "notebooks" / "lesson.html").read_text(encoding="utf-8")
    launch = (
        "https://colab.research.google.com/github/someone/fork/blob/main/notebooks/lesson.ipynb"
    )
    assert launch in page
    assert "https://someone.github.io/fork/" in page
    listed = (fork / "sitemap.xml").read_text(encoding="utf-8")
    assert (
        "https://someone.github.io/fork/notebooks/lesson.html" in listed
        and "404.html" not in listed
    )
    assert '"https://someone.github.io/fork/_static/social.png"' in page
    assert '<meta name="twitter:card" content="summary_large_image"' in page
    missing = (fork / "404.html").read_text(encoding="utf-8")
    assert 'href="https://someone.github.io/fork/book/index.html"' in missing


def test_a_dead_reference_ends_the_build(tmp_path: Path) -> None:
    done = small_book(tmp_path, "# Page\n\nSee [the page that is not there](nowhere.md).\n")
    assert done.returncode != 0
    assert "nowhere.md" in done.stdout + done.stderr


@built
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_every_statement_is_set_apart_and_can_be_linked(lesson: Path) -> None:
    cells = json.loads(lesson.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    written = re.findall(r"^> \*\*(\w+) (\d+\.\d+)\.?\*\*", text, re.MULTILINE)
    page = soup(HTML / "notebooks" / f"{lesson.stem}.html")
    boxes = {box.get("id") for box in page.select("blockquote.statement")}
    assert boxes == {f"{kind.lower()}-{number.replace('.', '-')}" for kind, number in written}


def test_the_cover_is_described_as_it_was_measured() -> None:
    said = cover.alt(cover.columns())
    for page in ("README.md", "book/index.md"):
        assert said in (ROOT / page).read_text(encoding="utf-8"), (
            f"{page}: run book/_tools/cover.py"
        )


@built
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.relative_to(HTML).as_posix())
def test_no_formula_is_left_as_typed(page: Path) -> None:
    article = soup(page).find("article")
    for text in article.find_all(string=re.compile(r"\$")) if article else ():
        around = {parent.name for parent in text.parents}
        around |= {name for parent in text.parents for name in parent.get("class", [])}
        assert around & {"code", "pre", "script", "math"}, f"a formula is not set: {text[:80]!r}"


@built
def test_the_words_of_the_glossary_stand_in_order_and_lead_to_each_other() -> None:
    page = (HTML / "book/glossary.html").read_text(encoding="utf-8")
    words = re.findall(r'<dt id="(term-[^"]+)"', page)
    assert len(words) > 40 and words == sorted(words, key=str.lower)
    assert all(f'href="#{word}"' in page for word in ("term-norm", "term-box", "term-PGD"))
