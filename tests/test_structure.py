"""The package is built in floors: modules import from the floors below, and only the edge draws."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS: list[set[str]] = [
    {"errors", "palette", "device", "cost"},
    {"contracts", "download", "threats", "data", "models", "augmentation"},
    {"gradients"},
    {
        "activations",
        "adaptive",
        "attribution",
        "fast",
        "folding",
        "landscape",
        "linearity",
        "packing",
        "winograd",
    },
    {"attacks", "autopgd", "patches", "robustness", "square", "evaluation"},
    {"defences", "inspection", "masking", "objectives", "smoothing", "transfer"},
    {"training", "auditing"},
    {"recipes", "checks", "plots", "widgets"},
    {"__main__", "__init__"},
]
"""From the ground up; packages are one room. Within a floor imports must not run in a circle."""

EDGE = {"matplotlib", "ipywidgets", "anywidget", "IPython"}
DRAWS = {"plots", "widgets"}
"""Rooms that may import what draws, where they are loaded; others only inside a function."""


def room(path: Path) -> str:
    return path.relative_to(ROOT / "advlib").parts[0].removesuffix(".py")


def imports(path: Path, *, at_load: bool = False) -> set[str]:
    """What a file imports, as dotted names; only what is imported when it is loaded if asked."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if at_load else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


FILES = sorted((ROOT / "advlib").rglob("*.py"))
HEIGHT = {name: height for height, floor in enumerate(FLOORS) for name in floor}


def rooms_used(path: Path) -> set[str]:
    names = [name.split(".") for name in imports(path)]
    used = {parts[1] for parts in names if parts[0] == "advlib" and len(parts) > 1}
    return (used & set(HEIGHT)) - {room(path)}


def test_every_module_has_its_floor_and_every_floor_its_modules() -> None:
    assert {room(path) for path in FILES} == set(HEIGHT)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_run_downward(path: Path) -> None:
    above = {name for name in rooms_used(path) if HEIGHT[name] > HEIGHT[room(path)]}
    # Only where a function writes its own figure or runs a command may it look up.
    late = above & {"plots"}
    at_load = {name.split(".")[1] for name in imports(path, at_load=True) if "." in name}
    assert not above - late and not late & at_load


def test_no_imports_run_in_a_circle() -> None:
    below: dict[str, set[str]] = {name: set() for name in HEIGHT}
    for path in FILES:
        below[room(path)] |= {n for n in rooms_used(path) if HEIGHT[n] <= HEIGHT[room(path)]}
    done: set[str] = set()
    while ready := {name for name in below if name not in done and below[name] <= done}:
        done |= ready
    assert done == set(below), f"a circle among {sorted(set(below) - done)}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_that_computes_draws(path: Path) -> None:
    loaded = {name.split(".")[0] for name in imports(path, at_load=True)}
    assert room(path) in DRAWS or not loaded & EDGE


def test_importing_the_package_loads_nothing_that_draws_and_no_torchvision() -> None:
    def loaded(module: str) -> set[str]:
        code = f"import sys, {module}; print(sorted({{n.split('.')[0] for n in sys.modules}}))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        return set(ast.literal_eval(done.stdout.decode()))

    ours = loaded("advlib") - loaded("torch")
    assert not ours & (EDGE | {"torchvision", "skimage", "scipy", "tqdm", "safetensors"})


def test_the_reference_lists_every_module_from_the_ground_up() -> None:
    toc = (ROOT / "_toc.yml").read_text(encoding="utf-8")
    pages = [ROOT / f"{name}.md" for name in re.findall(r"file: (book/api\S*)", toc)]
    lines = "\n".join(page.read_text(encoding="utf-8") for page in pages).splitlines()
    listed = [line.split(":: advlib.")[1] for line in lines if ":: advlib." in line]
    public = set(HEIGHT) - {"__init__", "__main__", "contracts", "download", "palette", "recipes"}
    assert {name.split(".")[0] for name in listed} == public
    edge = {"checks", "plots", "widgets", "device", "errors"}
    order = [name for name in listed if "." not in name and name not in edge]
    for place, name in enumerate(order):
        used = set().union(*(rooms_used(path) for path in FILES if room(path) == name))
        later = used & set(order[place:])
        assert not later, f"{name} stands above {sorted(later)}, which it uses"
