"""What the tests of the book share."""

from pathlib import Path

import pytest
from built import small_book


@pytest.fixture(scope="session")
def fork(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages of a small book, built in somebody's fork."""
    folder = tmp_path_factory.mktemp("fork")
    done = small_book(folder, "# Page\n\nNothing wrong here.\n")
    assert done.returncode == 0, done.stderr
    return folder / "_build" / "html"
