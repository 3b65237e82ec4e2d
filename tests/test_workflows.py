"""What the hosted machines run: pinned, with few rights, with an end, and green for a reason."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import left_out
import pytest
import release
import scoreboard
import yaml
from repository import ROOT

FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in FILES}
WORKFLOWS: dict[str, dict[Any, Any]] = {name: yaml.safe_load(text) for name, text in TEXTS.items()}
JOBS = {
    f"{name}: {job}": content
    for name, workflow in WORKFLOWS.items()
    for job, content in workflow["jobs"].items()
}
STEPS = [step for job in JOBS.values() for step in job["steps"]]
WEEKLY = WORKFLOWS["weekly.yml"]["jobs"]["check"]
COMMANDS = WEEKLY["strategy"]["matrix"]["command"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
TARGETS = set(re.findall(r"(?m)^([a-z-]+):", MAKEFILE))

each_workflow = pytest.mark.parametrize("name", WORKFLOWS)
each_job = pytest.mark.parametrize("name", JOBS)
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def commands(step: dict[str, Any]) -> set[str]:
    """The targets that a step hands to make."""
    called = re.findall(r"\bmake ((?:--?\w+ )*)([^;&|)\n]*)", step.get("run", ""))
    words = " ".join(targets for _, targets in called).split()
    return {word for word in words if re.fullmatch(r"[a-z-]+", word)}


# -- what may run, and with which rights -----------------------------------------------------------


@each_workflow
def test_every_action_is_pinned_by_commit_and_says_its_version(name: str) -> None:
    lines = [line for line in TEXTS[name].splitlines() if "uses:" in line]
    assert lines
    for line in lines:
        assert re.search(r"uses: [\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


def test_an_action_has_one_pin_in_all_workflows() -> None:
    pins = set(re.findall(r"uses: (\S+)@(\S+ # \S+)", "\n".join(TEXTS.values())))
    assert len(pins) == len({action for action, _ in pins})


def test_the_pins_are_looked_after() -> None:
    settings = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text(encoding="utf-8"))
    (update,) = settings["updates"]
    assert update["package-ecosystem"] == "github-actions" and update["directory"] == "/"
    assert update["schedule"]["interval"] == "weekly"


@each_workflow
def test_a_workflow_may_only_read(name: str) -> None:
    assert WORKFLOWS[name]["permissions"] == {"contents": "read"}


@each_job
def test_a_job_that_may_write_runs_nothing_of_the_repository(name: str) -> None:
    job = JOBS[name]
    if "write" not in job.get("permissions", {}).values():
        return
    assert not [step for step in job["steps"] if "actions/checkout" in step.get("uses", "")]
    said = " ".join(step.get("run", "") for step in job["steps"])
    assert not re.search(r"\b(make|pip|npm|python)\b", said)


@each_job
def test_every_job_has_an_end(name: str) -> None:
    assert "timeout-minutes" in JOBS[name]


def test_a_checkout_leaves_no_credentials_behind() -> None:
    checkouts = [step for step in STEPS if "actions/checkout" in step.get("uses", "")]
    assert len(checkouts) >= 4
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


@each_workflow
def test_a_workflow_is_started_by_something(name: str) -> None:
    assert WORKFLOWS[name][True]  # YAML reads the key `on` as a truth


# -- what runs -------------------------------------------------------------------------------------


def test_every_command_is_one_of_the_makefile() -> None:
    assert commands({"run": "make --silent one two PYTHON=python\n$(make three)"}) == {
        "one",
        "two",
        "three",
    }
    assert commands({"run": "make ${{ matrix.command }}"}) == set()
    named = set(COMMANDS).union(*map(commands, STEPS))
    assert named > {"book", "lint", "units", "dist", "pdf", "print-packages"}
    assert named <= TARGETS, named - TARGETS


def test_every_python_that_is_promised_is_tested() -> None:
    matrix = WORKFLOWS["test.yml"]["jobs"]["test"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.11", "3.12", "3.13", "3.14"]
    said = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert f"Python {matrix['python'][0]} to {matrix['python'][-1]}" in said
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'requires-python = ">={matrix["python"][0]}"' in project


def test_what_tests_the_tests_runs_every_week_and_none_is_set_up_for_nothing() -> None:
    assert {"coverage", "faults", "long", "soak", "flakes", "pdf", "dist"} <= set(COMMANDS)
    assert {entry["command"] for entry in WEEKLY["strategy"]["matrix"]["include"]} <= set(COMMANDS)
    asked = set(re.findall(r"matrix\.command == '([^']*)'", TEXTS["weekly.yml"]))
    assert asked and asked <= set(COMMANDS)


@needs_make
def test_the_packages_of_tex_are_listed_once() -> None:
    (line,) = re.findall(r"(?m)^PRINT := (.*)$", MAKEFILE)
    done = subprocess.run(
        ["make", "--silent", "print-packages"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == line.split()
    for name, text in TEXTS.items():
        assert "texlive" not in text and "latexmk" not in text
        assert ("pdf" in text) == ("make --silent print-packages" in text), name


def test_no_property_has_a_number_of_cases_of_its_own() -> None:
    """`make long` would try no more cases of it."""
    for path in (ROOT / "tests").glob("test_*.py"):
        assert not re.search(r"max_examples\s*=", path.read_text(encoding="utf-8")), path.name


@needs_make
@pytest.mark.skipif(os.name == "nt", reason="the command is for Linux and macOS")
@pytest.mark.parametrize("status", [0, 2])
def test_the_ci_command_leaves_no_copy_of_the_data_behind(tmp_path: Path, status: int) -> None:
    """In a course with data beside it, whose `make test` writes down what it sees."""
    (tmp_path / "course" / ".ci").mkdir(parents=True)
    script = tmp_path / "course" / ".ci" / "run"
    script.write_bytes((ROOT / ".ci" / "run").read_bytes())
    recipe = (
        'test:\n\t@[ $$CI = true ] && ls "$$ADVLIB_DATA" && printf "%s" "$$ADVLIB_DATA" > seen'
        f" && exit {status}\n"
    )
    (tmp_path / "course" / "Makefile").write_text(recipe, encoding="utf-8")
    (tmp_path / "shared" / "testdata" / "data").mkdir(parents=True)
    (tmp_path / "shared" / "testdata" / "data" / "digits").touch()
    environ = {name: value for name, value in os.environ.items() if name != "ADVLIB_DATA"}
    environ["TMPDIR"] = str(tmp_path)
    done = subprocess.run(["bash", script], env=environ, capture_output=True, text=True)
    seen = Path((tmp_path / "course" / "seen").read_text(encoding="utf-8"))
    assert "digits" in done.stdout and done.returncode == status
    assert seen.parent == tmp_path and not seen.exists()


# -- green for a reason ----------------------------------------------------------------------------


def test_a_row_that_fails_as_it_did_not_before_fails_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = json.loads(scoreboard.STORED.read_text(encoding="utf-8"))
    monkeypatch.setattr(scoreboard, "STORED", tmp_path / "scoreboard.json")
    monkeypatch.setattr(scoreboard, "PAGE", tmp_path / "scoreboard.md")
    monkeypatch.setattr("sys.argv", ["scoreboard.py"])
    monkeypatch.setattr(scoreboard, "measure", lambda groups: stored)
    # What is stored already and fails is no news.
    scoreboard.STORED.write_text(json.dumps(stored), encoding="utf-8")
    assert scoreboard.main() == 0
    stored["rows"][2]["verdict"] = "fail"
    assert scoreboard.main() == 1
    assert stored["rows"][2]["row"]["setting"] in capsys.readouterr().err
    assert "**fail**" in scoreboard.PAGE.read_text(encoding="utf-8")


def test_a_lesson_that_left_out_its_photographs_is_noticed() -> None:
    """In what it printed: the sentence itself stands in its code."""
    lessons = {
        path.name: json.loads(path.read_text(encoding="utf-8"))
        for path in (ROOT / "notebooks").glob("*.ipynb")
    }
    able = [
        name
        for name, lesson in lessons.items()
        if any(left_out.EMPTY in "".join(cell["source"]) for cell in lesson["cells"])
    ]
    assert {name[:2] for name in able} >= {"01", "02", "11"}
    for lesson in lessons.values():
        assert left_out.from_lesson(lesson) == []
    said = f"The photograph network is {left_out.EMPTY}."
    for name in able:
        cell = next(c for c in lessons[name]["cells"] if c.get("outputs"))
        cell["outputs"].append({"output_type": "stream", "text": ["All is well.\n", f"{said}\n"]})
        assert left_out.from_lesson(lessons[name]) == [said]


def test_a_scoreboard_without_mnist_is_noticed() -> None:
    stored = json.loads(scoreboard.STORED.read_text(encoding="utf-8"))
    assert left_out.from_scoreboard(stored) == []
    error = scoreboard.DownloadError("MNIST is not in /data and could not be fetched (no. Sorry).")

    def missing() -> list[scoreboard.Result]:
        raise error

    row = scoreboard.Row("madry2018towards", "a setting", 93.2, 0.5, "luck")
    (result,) = scoreboard._rows([row], missing)()
    stored["rows"].append({"reason": result.reason})
    assert left_out.from_scoreboard(stored) == [result.reason]


def test_the_weekly_run_asks_what_was_left_out_and_shows_the_scoreboard() -> None:
    steps = {step["run"]: step.get("if", "") for step in WEEKLY["steps"] if "run" in step}
    asked = steps[".venv/bin/python book/_tools/left_out.py"]
    assert "'notebooks'" in asked and "'scoreboard'" in asked
    (shown,) = [run for run in steps if "GITHUB_STEP_SUMMARY" in run]
    assert "book/scoreboard.md" in shown and steps[shown].startswith("always()")


def test_a_release_has_the_tag_of_its_version() -> None:
    (version,) = set(release.versions().values())  # each file says the same
    release.check_tag(f"v{version}")
    for tag in (version, f"v{version}.1", "v9.9.9"):
        with pytest.raises(SystemExit, match=f"v{version} is expected"):
            release.check_tag(tag)
    assert 'book/_tools/release.py --tag "$GITHUB_REF_NAME"' in TEXTS["release.yml"]
