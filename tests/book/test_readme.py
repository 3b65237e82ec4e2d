"""The README lists the lessons as the book does, with links to Colab of one repository or none."""

import json
import re
from pathlib import Path

import pytest
import readme
from repository import LESSONS, ROOT

BADGE = re.compile(r" \[!\[Open in Colab\]\(\S+\)\]\((\S+)\)")


def test_the_list_follows_the_table_of_contents_and_the_titles() -> None:
    listed = readme.LIST.search((ROOT / "README.md").read_text(encoding="utf-8"))[0]
    assert BADGE.sub("", listed) == readme.lessons(ROOT, readme.badges(ROOT, "")), "run make readme"
    links = BADGE.findall(listed)
    names = [f"notebooks/{path.name}" for path in LESSONS]
    if links:
        home = links[0].removesuffix(names[0])
        assert links == [home + name for name in names]


def test_a_fork_opens_its_own_lessons_in_colab() -> None:
    links = readme.badges(ROOT, "https://github.com/someone/fork", "trunk")
    listed = readme.lessons(ROOT, links)
    home = "https://colab.research.google.com/github/someone/fork/blob/trunk"
    assert BADGE.findall(listed) == [f"{home}/notebooks/{path.name}" for path in LESSONS]


def test_without_github_there_is_no_link_to_colab() -> None:
    links = readme.badges(ROOT, "https://example.org/someone/course")
    assert not BADGE.search(readme.lessons(ROOT, links))


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_a_notebook_has_one_link_below_its_title_or_none(lesson: Path) -> None:
    text = lesson.read_text(encoding="utf-8")
    (home, fork) = (
        readme.badges(ROOT, f"https://github.com/{owner}/course")[f"notebooks/{lesson.stem}"]
        for owner in ("someone", "another")
    )
    without = readme.with_badge(text, "")
    once = readme.with_badge(readme.with_badge(text, home), fork)
    first = json.loads(once)["cells"][0]["source"]
    assert first[2] == f"{fork}\n" and home not in once
    assert readme.with_badge(once, "") == without
    assert text in (without, readme.with_badge(text, first_link(text)))


def first_link(notebook: str) -> str:
    """Return the link that stands in a notebook; "" if none does."""
    found = BADGE.search(" " + " ".join(json.loads(notebook)["cells"][0]["source"]))
    return found[0].strip() if found else ""


def test_a_page_shows_nothing_that_its_notebook_has_for_colab(fork: Path) -> None:
    page = (fork / "notebooks" / "lesson.html").read_text(encoding="utf-8")
    assert "assert" in page
    assert not any(text in page for text in ("colab-badge", "https://a.b", "google.colab"))
