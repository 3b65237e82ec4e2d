"""Ask the explorers of each lesson for what is not stored, and the lesson for the time it took.

What is stored is computed again whenever nbval runs a lesson. What the controls offer beyond it
would otherwise be computed for the first time under a reader's hand. This is a plug-in of pytest:
behind the cells of each notebook it adds one of its own, which runs in the same kernel.
"""

import gc
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, product
from pathlib import Path
from typing import Any

import pytest

ASK = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import explorers
explorers.check_time()
explorers.ask_all()
"""
LIMIT = 600
"""Processor seconds of a lesson: beside other work a clock would say nothing about it."""


def check_time() -> None:
    """Raise if this process and its children took more than the processor time of a lesson."""
    spent = sum(os.times()[:4])
    assert spent <= LIMIT, f"the lesson took {spent:.0f} s of the processor; at most {LIMIT} s"


def unstored(controls: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, int]]:
    """Yield every position that an explorer with these controls offers and does not store."""
    names = [control["name"] for control in controls]
    for at in product(*(range(len(control["labels"])) for control in controls)):
        if any(i not in control["stored"] for control, i in zip(controls, at, strict=True)):
            yield dict(zip(names, at, strict=True))


def ask_all() -> None:
    """Ask every explorer of this process for all that it does not store; raise what it raises."""
    from advlib.widgets.explorer import Explorer

    for explorer in [one for one in gc.get_objects() if issubclass(type(one), Explorer)]:
        for at in unstored(explorer.data["controls"]):
            explorer._on_message(explorer, {"ask": "test", "at": at}, [])
            if explorer.error:
                explorer.error.add_note(f"while {explorer.data['title']!r} answered for {at}")
                raise explorer.error


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put one more item behind the cells of each notebook that nbval has found."""
    longer: list[Any] = []
    for parent, found in groupby(items, key=lambda item: item.parent):
        longer += found
        last = longer[-1]
        if type(last).__name__ == "IPyNbCell":
            # Like the pixels of a figure: its last digits depend on the machine.
            parent.skip_compare += ("image/svg+xml",)
            more = {"cell_num": last.cell_num + 1, "options": defaultdict(bool)}
            cell = type(last.cell)({**last.cell, "source": ASK, "outputs": []})
            longer.append(type(last).from_parent(parent, name="Explorers", cell=cell, **more))
    items[:] = longer
