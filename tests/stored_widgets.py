"""Widgets as an executed notebook stores them and as a built page shows them, for the tests."""

import base64
import json
from pathlib import Path
from typing import Any

from course.explorers import STATE, VIEW

from advlib.widgets.base import PageWidget


def notebook(tmp_path: Path, *shown: PageWidget, drop_state: bool = False) -> Path:
    """Write a notebook that shows the widgets, as nbclient saves one."""
    outputs, states = [], {}
    for widget in shown:
        data, metadata = widget._repr_mimebundle_()
        if "image/png" in data:
            data["image/png"] = base64.encodebytes(data["image/png"]).decode()
        outputs.append({"output_type": "execute_result", "data": data, "metadata": metadata})
        states[widget.model_id] = {"state": widget.get_state()}
    saved = {STATE: {"state": {} if drop_state else states}}
    path = tmp_path / "lesson.ipynb"
    cells = [{"cell_type": "markdown"}, {"cell_type": "code", "outputs": outputs}]
    path.write_text(json.dumps({"cells": cells, "metadata": {"widgets": saved}}, default=str))
    return path


def states(lesson: Path, kind: str) -> list[dict[str, Any]]:
    """Return the state of each widget of that kind that a lesson stores."""
    saved = json.loads(lesson.read_text(encoding="utf-8"))["metadata"]["widgets"][STATE]["state"]
    return [one["state"] for one in saved.values() if one["state"].get("kind") == kind]


def view(model_id: str) -> str:
    """Return the element that stands for a stored widget in a page that Sphinx has written."""
    return f'<script type="{VIEW}">{json.dumps({"model_id": model_id})}</script>'
