"""Sliders and choices: what the reader may change, as plain data.

The browser sees positions (0, 1, 2, ...) and their labels only. The values stay in Python, so
`compute` gets exactly the objects that the lesson put in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from advlib.widgets.errors import ControlError


@dataclass(frozen=True)
class Control:
    """One thing that the reader can change; made by `slider` or `choice`."""

    name: str
    label: str
    kind: str
    values: tuple[Any, ...]
    labels: tuple[str, ...]
    stored: tuple[int, ...]
    initial: int


def slider(
    name: str,
    values: Iterable[Any],
    *,
    label: str | None = None,
    format: str | Callable[[Any], str] = "{:g}",
    stored: Iterable[Any] | None = None,
    initial: Any = None,
) -> Control:
    """Describe a slider over a list of values.

    Parameters
    ----------
    name : str
        The keyword under which `compute` receives the value.
    values : iterable
        All positions, in order: a list, a `range`, or the output of `numpy.linspace`.
    label : str, optional
        What the reader sees; by default `name`.
    format : str or callable
        How a value is written: a format string such as ``"{:.2f}"``, or a function such as
        `per_255`.
    stored : iterable, optional
        The values stored for readers without a kernel; by default all of them. With a kernel the
        slider offers every value and computes the others on demand.
    initial : optional
        The value at the start; by default the first stored one.

    Raises
    ------
    ControlError
        There are no values, values repeat, or `stored` or `initial` is not among them.
    """
    write = format.format if isinstance(format, str) else format
    values = tuple(values)
    labels = tuple(write(value) for value in values)
    return _control(name, label, "slider", values, labels, stored, initial)


def choice(
    name: str,
    options: Iterable[Any] | Mapping[str, Any],
    *,
    label: str | None = None,
    stored: Iterable[Any] | None = None,
    initial: Any = None,
) -> Control:
    """Describe a choice of one among a few named options.

    Parameters
    ----------
    options : iterable or mapping
        The options; a mapping gives a label to each value: ``{"uniform noise": make_noise}``.
    name, label, stored, initial
        As for `slider`, with the same result and errors.
    """
    if isinstance(options, Mapping):
        labels, values = tuple(options), tuple(options.values())
    else:
        values = tuple(options)
        labels = tuple(map(str, values))
    return _control(name, label, "choice", values, labels, stored, initial)


def per_255(eps: float) -> str:
    """Write a size in [0, 1] as papers do: ``8/255``."""
    return f"{eps * 255:.3g}/255"


def grid(controls: Sequence[Control]) -> Iterator[tuple[int, ...]]:
    """Yield every combination of the stored positions, one index per control."""
    return product(*(control.stored for control in controls))


def values_at(controls: Sequence[Control], at: Mapping[str, int]) -> dict[str, Any]:
    """Return the keyword arguments of `compute` for the positions that a browser asks for.

    `at` holds one index for each control's name; `ControlError` says where it does not.
    """
    names = [control.name for control in controls]
    unknown, missing = sorted(set(at) - set(names)), sorted(set(names) - set(at))
    if unknown or missing:
        raise ControlError(f"unknown controls: {unknown}; missing: {missing}; expected: {names}")
    for control in controls:
        index = at[control.name]
        if type(index) is not int or not 0 <= index < len(control.values):
            raise ControlError(
                f"{control.name!r} has positions 0 to {len(control.values) - 1}, not {index!r}"
            )
    return {control.name: control.values[at[control.name]] for control in controls}


def check_controls(controls: Sequence[Control]) -> None:
    """Raise `ControlError` unless `controls` are `Control`s with different names."""
    for control in controls:
        if not isinstance(control, Control):
            raise ControlError(f"make controls with slider(...) or choice(...), not {control!r}")
    names = [control.name for control in controls]
    if len(set(names)) < len(names):
        raise ControlError(f"each control needs a name of its own, got {names}")


def control_data(control: Control) -> dict[str, Any]:
    """Return what the browser needs to draw the control, ready for JSON."""
    return {
        "name": control.name,
        "label": control.label,
        "kind": control.kind,
        "labels": list(control.labels),
        "stored": list(control.stored),
    }


def _control(
    name: str,
    label: str | None,
    kind: str,
    values: tuple[Any, ...],
    labels: tuple[str, ...],
    stored: Iterable[Any] | None,
    initial: Any,
) -> Control:
    if not name.isidentifier():
        raise ControlError(f"{name!r} cannot be a keyword argument of compute")
    if not values:
        raise ControlError(f"{name!r} needs at least one value")
    if len(set(labels)) < len(labels):
        raise ControlError(f"values of {name!r} have the same label: {list(labels)}; change format")
    indices = list(range(len(values)))
    if stored is not None:
        indices = sorted({_index(name, values, value) for value in stored})
        if not indices:
            raise ControlError(f"{name!r} must store at least one value")
    start = indices[0] if initial is None else _index(name, values, initial)
    if start not in indices:
        raise ControlError(f"{name!r} starts at {initial!r}, which is not stored; add it to stored")
    return Control(name, label or name, kind, values, labels, tuple(indices), start)


def _index(name: str, values: tuple[Any, ...], wanted: Any) -> int:
    for index, value in enumerate(values):
        if value is wanted or value == wanted:
            return index
    raise ControlError(f"{wanted!r} is not a value of {name!r}: {list(values)}")
