"""What each cell of a lesson was when it was executed, as hashes in outputs.json beside this file.

The tests execute each lesson again and compare its text. That does not cover images, widgets and
the cells whose text may differ from machine to machine. `execute.py` therefore seals each cell: one
hash of its source and one of its outputs, with the state of the widget that it shows. A test
compares them, so that an output can only change by a new execution, and a source cannot change
without one.

The cell for Colab has no seal: where lessons are executed it does nothing.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("outputs.json")
VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
CODE = ("_esm", "_css")
"""What a widget's state holds of the package's own: a test compares it with the package."""
DIGITS = 16
"""Hexadecimal digits that are kept of a SHA-256: enough against accident, short enough to read."""


def digest(value: Any) -> str:
    """Return the first digits of the hash of a JSON value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:DIGITS]


def _shown(output: dict[str, Any], states: dict[str, Any]) -> dict[str, Any]:
    """Return an output with its widget's state in place of a name that each run makes anew."""
    data = output.get("data", {})
    if VIEW not in data:
        return output
    state = states.get(data[VIEW]["model_id"], {}).get("state", {})
    kept = {name: value for name, value in state.items() if name not in ("layout", *CODE)}
    return {**output, "data": {**data, VIEW: kept}}


def seals(notebook: dict[str, Any]) -> dict[str, str]:
    """Return the two hashes of each code cell, source and outputs, by the cell's name."""
    states = notebook["metadata"].get("widgets", {}).get(STATE, {}).get("state", {})
    return {
        cell["id"]: f"{digest(''.join(cell['source']))} "
        f"{digest([_shown(output, states) for output in cell['outputs']])}"
        for cell in notebook["cells"]
        if cell["cell_type"] == "code" and "colab" not in cell["metadata"].get("tags", [])
    }


def read(file: Path = FILE) -> dict[str, dict[str, str]]:
    """Return the seals of every lesson, by its name."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def seal(lesson: Path, file: Path = FILE) -> None:
    """Keep the seals of the lesson that was just executed; forget lessons that are gone."""
    notebook = json.loads(lesson.read_text(encoding="utf-8"))
    kept = {**read(file), lesson.stem: seals(notebook)}
    there = {name: kept[name] for name in sorted(kept) if lesson.with_stem(name).exists()}
    file.write_text(json.dumps(there, indent=1) + "\n", encoding="utf-8")
