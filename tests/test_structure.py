"""How the package is built: imports run downward, the core is short, only the edge draws."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest
from repository import ROOT

from advlib import attacks

PACKAGE = ROOT / "advlib"
FILES = sorted(PACKAGE.rglob("*.py"))
CORE = (
    "threats.py",
    "gradients.py",
    "attacks/noise.py",
    "attacks/fgsm.py",
    "attacks/pgd.py",
    "evaluation.py",
    "training.py",
)
DRAWS = {"matplotlib", "ipywidgets", "anywidget", "IPython"}
LATE = DRAWS | {"torchvision", "skimage", "scipy", "tqdm", "safetensors"}
"""What `import advlib` must not load."""


def lint(folder: Path) -> tuple[int, str]:
    """Check the contracts of `folder`/pyproject.toml: 0 if they are kept, and the report."""
    command = shutil.which("lint-imports", path=os.path.dirname(sys.executable))
    assert command, "import-linter is missing: pip install -r requirements.txt"
    # From a folder without setup.cfg; the package is looked for there first.
    done = subprocess.run(
        [command, "--no-cache", "--no-logo"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def test_imports_run_downward_and_not_in_a_circle() -> None:
    status, report = lint(ROOT)
    assert status == 0, report


@pytest.mark.parametrize(
    ("path", "line", "broken"),
    [
        ("errors.py", "from advlib.contracts import check_eps", "The ground, the core"),
        ("gradients.py", "from advlib.attacks.pgd import pgd", "The ground, the core"),
        ("evaluation.py", "from advlib.audit import audit", "The ground, the core"),
        ("attacks/fgsm.py", "from advlib.attacks.square import square", "The core's attacks"),
        ("attacks/pool.py", "from advlib.attacks.autopgd import apgd", "No imports run in"),
    ],
)
def test_an_import_upwards_is_noticed(path: str, line: str, broken: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    ignored = shutil.ignore_patterns("__pycache__", "weights")
    shutil.copytree(PACKAGE, tmp_path / "advlib", ignore=ignored)
    with (tmp_path / "advlib" / path).open("a", encoding="utf-8") as file:
        file.write(f"\n\ndef late():\n    {line}\n")  # inside a function as well
    status, report = lint(tmp_path)
    assert status == 1
    assert re.search(rf"{broken}[^.]*? BROKEN", report), report


def loaded_by(path: Path) -> set[str]:
    """What a file imports when it is loaded."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_that_computes_draws(path: Path) -> None:
    draws = path.relative_to(PACKAGE).parts[0] in ("plots", "widgets")
    assert not loaded_by(path) & ({"torchvision"} if draws else DRAWS | {"torchvision"})


def test_importing_the_package_loads_nothing_that_draws_and_no_torchvision() -> None:
    code = (
        "import sys, torch; before = set(sys.modules); import advlib; "
        "print({name.split('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert not ast.literal_eval(done.stdout.decode()) & LATE


# -- size ------------------------------------------------------------------------------------------


def lines(*paths: Path) -> int:
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def test_the_package_has_few_entries_at_its_top() -> None:
    entries = {path.name for path in PACKAGE.iterdir()} - {"__pycache__"}
    assert len(entries) <= 20, sorted(entries)


def test_the_core_can_be_read_as_a_text() -> None:
    assert lines(*(PACKAGE / name for name in CORE)) <= 1_200


def test_the_package_stays_small() -> None:
    # A limit, so that what the package gains is weighed against what it costs to read.
    assert lines(*FILES) <= 20_480


# -- the reference ---------------------------------------------------------------------------------

GATHERED = {"audit", "data", "lessons", "models", "plots", "widgets"}
"""Packages whose `__init__` gathers what is public; some of their modules are listed beside it."""
UNLISTED = {"__main__", "defences.model_cards", "defences.recipes"}
"""What serves the command line and the shipped weights."""
APART = {"data", "errors", "models", "plots"}
"""What others use wherever the reference lists it."""


def test_the_reference_lists_every_public_module_from_the_ground_up() -> None:
    graph = grimp.build_graph("advlib", cache_dir=None)
    modules = {name.removeprefix("advlib.") for name in graph.modules - {"advlib"}}
    toc = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    pages = [ROOT / f"{name}.md" for name in re.findall(r"file: (book/api\S*)", toc)]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    listed = re.findall(r"automodule:: advlib\.(\S+)", text)
    assert len(listed) == len(set(listed))
    packages = {name for name in modules if graph.find_children(f"advlib.{name}")}
    inside = {name for name in modules if "." in name and name.split(".")[0] in GATHERED}
    # As functions of the package, because a function has the name of its module.
    inside |= {f"attacks.{name}" for name in attacks.__all__}
    public = modules - inside - packages - UNLISTED | GATHERED | {"attacks"}
    assert public - set(listed) == set(listed) - public - inside == set()

    def entry(module: str) -> str:
        """Where the reference documents a module: in a section of its own, or in its package's."""
        name = module.removeprefix("advlib.")
        return name if name in listed else name.rpartition(".")[0]

    place = {name: i for i, name in enumerate(listed)}
    for module in graph.modules - {"advlib"}:
        own = entry(module)
        for used in map(entry, graph.find_modules_directly_imported_by(module)):
            if {own, used} <= set(place) and used != own and used.split(".")[0] not in APART:
                assert place[used] < place[own], f"{own} stands above {used}, which it uses"
