"""The built book in a browser: what the tests of the pages share.

Where a tool is missing, the tests that need it are skipped; with CI=true in the environment they
fail. Both say in one sentence what brings the tool.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import bidi
import pytest
import system
from browsing import missing, readers, serving
from lab_page import lab_address, lab_attack, lab_opening, lab_site, lab_visit
from photolab_page import photo_address, photo_site, photo_visit
from repository import LESSONS, ROOT
from xdist.scheduler import LoadGroupScheduling

# Fixtures of several files of tests.
__all__ = ["lab_address", "lab_attack", "lab_opening", "lab_site", "lab_visit"]
__all__ += ["photo_address", "photo_site", "photo_visit"]

HTML = ROOT / "_build" / "html"
AXE = ROOT / "_build" / "vendor" / "axe.min.js"
LESSON_NAMES = {path.stem for path in LESSONS}


def pages() -> list[str]:
    """Return every built page, relative to the book's folder."""
    return sorted(path.relative_to(HTML).as_posix() for path in HTML.glob("**/*.html"))


# What takes long to begin is begun once: the tests of these files, or folders, share one worker.
TOGETHER = {
    "tests/book/": "book",  # each page is parsed once, and one small book is built
    "test_firefox.py": "firefox",
    "test_photolab.py": "firefox",  # and PyTorch computes once what is compared
    "test_photolab_page.py": "photolab page",  # its stored answers are computed once
    "test_photolab_files.py": "photolab page",
    "test_jupyterlab.py": "jupyterlab",
}


class _Together(LoadGroupScheduling):
    """What is said in TOGETHER, and the tests of one lesson's page, which is opened once.

    The names of groups cannot come from marks: pytest 9.2 has no `_nodeid`, where pytest-xdist 3.8
    would write them.
    """

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        if file.endswith("test_lesson_pages.py"):
            lesson = test.rpartition("[")[2].rstrip("]")
            return lesson if lesson in LESSON_NAMES else nodeid
        groups = [group for part, group in TOGETHER.items() if part in file]
        return groups[0] if groups else nodeid


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep together what is begun once, where `--dist loadgroup` asks for it."""
    return _Together(config, log) if config.getoption("dist") == "loadgroup" else None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test that asks for a `page_path` every built page."""
    if "page_path" in metafunc.fixturenames:
        # The theme writes its macros' sources into _static; no reader opens them.
        built = [path for path in pages() if not path.startswith("_static/")]
        metafunc.parametrize("page_path", built or ["no page"])


@pytest.fixture(scope="session")
def book() -> Path:
    """Return the folder of the built book."""
    if not (HTML / "index.html").exists():
        missing("The book is not built: run `make book`, or `jupyter-book build -W -n .`")
    if not (HTML / "_static" / "mathjax").exists():
        missing(f"The book asks another host for MathJax. {system.TOOLS['npm'].remedy}")
    return HTML


@pytest.fixture(scope="session")
def axe() -> str:
    """Return the source of axe-core."""
    if not AXE.exists():
        missing(f"axe-core is not there. {system.TOOLS['npm'].remedy}")
    return AXE.read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[[Path], str]]:
    """Return a function that serves a folder on this machine and returns its address."""
    with ExitStack() as stack:
        yield lambda folder: stack.enter_context(serving(folder))


@pytest.fixture(scope="session")
def address(book: Path, serve: Callable[[Path], str]) -> str:
    """Serve the book on this machine and return its address."""
    return serve(book)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Start the system's Chromium, or Playwright's own."""
    playwright = pytest.importorskip("playwright.sync_api")
    found = system.find("chromium")
    with playwright.sync_playwright() as driver:
        if found is None and not Path(driver.chromium.executable_path).exists():
            missing(system.TOOLS["chromium"].remedy)
        try:
            chromium = driver.chromium.launch(executable_path=found)
        except playwright.Error as error:
            if not re.search("missing dependencies|shared libraries", str(error)):
                raise
            missing(
                "Playwright's Chromium lacks libraries of the system: "
                "`sudo .venv/bin/playwright install-deps chromium`."
            )
        yield chromium
        chromium.close()


@pytest.fixture
def reader(browser: Any) -> Iterator[Callable[..., Any]]:
    """Return the function of `readers`."""
    with readers(browser) as start:
        yield start


# Firefox 140 mixes AVX with SSE in the code that it compiles. On some Intel processors each change
# between them waits, and the lab takes a hundred times as long.
NO_AVX = {"javascript.options.wasm_simd_avx": False}
DARK = {"layout.css.prefers-color-scheme.content-override": 0}
NO_COOKIES = {"network.cookie.cookieBehavior": 2}


def _firefox(profile: Path, settings: dict[str, Any]) -> AbstractContextManager[bidi.Firefox]:
    found = system.find("firefox")
    if found is None:
        missing(system.TOOLS["firefox"].remedy)
    return bidi.running(found, profile, settings | NO_AVX)


@pytest.fixture(scope="session")
def firefox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[bidi.Firefox]:
    """Start the system's Firefox, on a system that asks for dark colours."""
    with _firefox(tmp_path_factory.mktemp("firefox"), DARK) as started:
        yield started


@pytest.fixture
def forgetful_firefox(tmp_path: Path) -> Iterator[bidi.Firefox]:
    """Start a Firefox of its own, in which the reader has forbidden cookies and storage."""
    with _firefox(tmp_path, DARK | NO_COOKIES) as started:
        yield started
