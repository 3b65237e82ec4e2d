"""What the tests of the book share."""

from pathlib import Path

import pytest
from built import small_book


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep these tests on one worker: each page is parsed once, and one small book is built."""
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.xdist_group("book"))


@pytest.fixture(scope="session")
def fork(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of a small book, built in somebody's fork."""
    folder = tmp_path_factory.mktemp("fork")
    done = small_book(folder, "# Page\n\nNothing wrong here.\n")
    assert done.returncode == 0, done.stderr
    return folder / "_build" / "html"
