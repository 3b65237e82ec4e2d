"""Each function of the reference names the lessons and the examples that use it."""

import ast
import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

SECTION = re.compile(r"^\((example-\S+)\)=\n### (.+)\n((?:(?!\(example-|##).*\n)*)", re.M)
CODE = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
MOST = 3
"""Examples that an entry names at most; what attacks is used in most of them."""


def sections(page: str) -> dict[str, tuple[str, str]]:
    """Return the title and the code of each section of the page with the examples, by its label."""
    found = SECTION.findall(page)
    return {label: (title, "\n".join(CODE.findall(body))) for label, title, body in found}


def name(value: Any) -> str:
    """Return what a function or class of `advlib` is called where it is defined; else ""."""
    home, own = (getattr(value, part, None) for part in ("__module__", "__qualname__"))
    return f"{home}.{own}" if own and str(home).split(".")[0] == "advlib" else ""


def names(code: str) -> set[str]:
    """Return the names of the functions and classes of `advlib` that Python code uses.

    To import one is not to use it, nor is another thing that is called the same.
    """
    nodes = list(ast.walk(ast.parse(code)))
    given: dict[str, Any] = {}
    for node in nodes:
        if not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        for each in node.names:
            home = each.name if isinstance(node, ast.Import) else str(node.module)
            if home.split(".")[0] != "advlib":
                continue
            if isinstance(node, ast.ImportFrom):
                given[each.asname or each.name] = member(home, each.name)
            else:
                whole = import_module(home)
                given[each.asname or "advlib"] = whole if each.asname else import_module("advlib")

    def value(node: ast.AST) -> Any:
        if isinstance(node, ast.Attribute):
            return getattr(value(node.value), node.attr, None)
        return given.get(node.id) if isinstance(node, ast.Name) else None

    return {name(value(node)) for node in nodes} - {""}


def member(module: str, name: str) -> Any:
    """Return what ``from module import name`` gives."""
    home = import_module(module)
    return getattr(home, name) if hasattr(home, name) else import_module(f"{module}.{name}")


def sources(root: Path) -> Iterator[tuple[str, str]]:
    """Yield what a lesson or an example is referred to by, and its code."""
    for path in sorted(root.glob("notebooks/[0-9]*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = "\n".join("".join(each["source"]) for each in cells if each["cell_type"] == "code")
        yield f":doc:`{int(path.name[:2])} </notebooks/{path.stem}>`", code
    for label, (title, code) in sections(_text(root / "book/examples.md")).items():
        yield f":ref:`{title} <{label}>`", code
    code = "\n".join(["import advlib", *CODE.findall(_text(root / "book/api-coming-from.md"))])
    yield ":doc:`coming from other libraries </book/api-coming-from>`", code


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def uses(root: Path) -> dict[str, list[str]]:
    """Return for each name what refers to the lessons and examples that use it."""
    found: dict[str, list[str]] = {}
    for reference, code in sources(root):
        for each in names(code):
            found.setdefault(each, []).append(reference)
    return found


def sentence(references: Sequence[str]) -> str:
    """Return where something is used, in a line for the reference."""
    lessons = [each for each in references if each.startswith(":doc:`") and each[6].isdigit()]
    examples = [each for each in references if each not in lessons][:MOST]
    said = []
    if lessons:
        said.append(f"Used in lesson{'s' * (len(lessons) > 1)} {', '.join(lessons)}.")
    if examples:
        said.append(f"Example{'s' * (len(examples) > 1)}: {'; '.join(examples)}")
    return " ".join(said)


def tell(app: Sphinx, kind: str, _: str, value: Any, __: Any, lines: list[str]) -> None:
    """Add to an entry of the reference where the lessons and examples use it."""
    if said := sentence(uses(Path(app.srcdir)).get(name(value), [])):
        lines += ["", said, ""]


def register(app: Sphinx) -> None:
    """Register with Sphinx."""
    # After the docstring has been read as NumPy's style (500).
    app.connect("autodoc-process-docstring", tell, priority=900)
