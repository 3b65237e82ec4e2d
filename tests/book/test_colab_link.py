"""The link to Colab below the title of each lesson: a fork's own, or none."""

from pathlib import Path

import address
import pytest
from built import HTML, built, soup
from repository import LESSONS, ROOT

OPTIONS = {
    "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    "repository_url": "https://github.com/someone/fork",
    "repository_branch": "main",
}
FORK = "https://colab.research.google.com/github/someone/fork/blob/main"


def links(page: Path) -> list[str]:
    """Return the addresses of the link, wherever it stands; and that it comes after the title."""
    found = soup(page).select("article h1 + p.run-in-colab > a")
    assert len(found) == page.read_text(encoding="utf-8").count("Run in Colab")
    return [link["href"] for link in found]


@built
@pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)
def test_a_lesson_opens_in_colab_where_the_book_has_an_address(lesson: Path) -> None:
    """The address of this build: a hosted one names its repository, others may have none."""
    options = {}
    url = address.repository(ROOT)
    if url.startswith("https://github.com/"):
        options = {
            **OPTIONS,
            "repository_url": url,
            "repository_branch": address.branch(ROOT),
        }
    expected = address.in_colab(options, f"notebooks/{lesson.stem}")
    assert links(HTML / "notebooks" / f"{lesson.stem}.html") == ([expected] if expected else [])


def test_a_lesson_of_a_fork_opens_the_fork(fork: Path) -> None:
    assert links(fork / "notebooks" / "lesson.html") == [f"{FORK}/notebooks/lesson.ipynb"]
    assert links(fork / "index.html") == []


def test_without_a_repository_on_github_there_is_no_link() -> None:
    assert address.in_colab(OPTIONS, "notebooks/01-a") == f"{FORK}/notebooks/01-a.ipynb"
    assert address.in_colab({}, "notebooks/01-a") == ""
    assert address.in_colab({**OPTIONS, "launch_buttons": {}}, "notebooks/01-a") == ""
