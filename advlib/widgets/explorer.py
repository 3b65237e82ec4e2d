"""An explorer: the reader turns a knob and sees what `compute` says about it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from advlib.widgets.base import PageWidget, short_key
from advlib.widgets.controls import (
    Control,
    check_controls,
    control_data,
    grid,
    initial_position,
    values_at,
)
from advlib.widgets.errors import SceneError, StoredSizeError
from advlib.widgets.scene import ImageTable, encode_scene
from advlib.widgets.still import draw_scene

MAX_STORED_BYTES = 1_500_000
"""What an explorer may add to a notebook and to a page, in bytes of JSON."""

Compute = Callable[..., Mapping[str, Any]]


class Explorer(PageWidget):
    """The widget that `explorer` returns.

    Attributes
    ----------
    error : Exception or None
        The last exception of `compute` that a reader's move caused; the widget shows it too.
    stored_bytes : int
        What the stored states take, in bytes of JSON.
    """

    def __init__(self, compute: Compute, controls: Sequence[Control], data: dict[str, Any]) -> None:
        self.error: Exception | None = None
        self._compute = compute
        self._controls = tuple(controls)
        self._png: bytes | None = None
        super().__init__(kind="explorer", data=data)
        self.on_msg(self._on_message)

    @property
    def stored_bytes(self) -> int:
        """Size of the stored states, in bytes of JSON."""
        return json_size(self.data)

    def as_text(self) -> str:
        """Return title, description and the sentence of the initial state."""
        parts = [f"Explorer: {self.data['title']}", self.data["alt"], self._initial()["text"]]
        return "\n".join(part for part in parts if part)

    def as_png(self) -> bytes:
        """Return a still picture of the initial state."""
        if self._png is None:
            self._png = draw_scene(self.data["title"], self._initial(), self.data["images"])
        return self._png

    def _initial(self) -> dict[str, Any]:
        return self.data["states"][state_key(self.data["initial"])]

    def _on_message(self, _widget: Any, content: Mapping[str, Any], _buffers: Any) -> None:
        if "ask" in content:
            reply, self.error = answer(self._compute, self._controls, content.get("at", {}))
            self.send({"answer": content["ask"], **reply})


def explorer(
    compute: Compute,
    controls: Sequence[Control],
    *,
    title: str,
    alt: str,
    precompute: bool = True,
    max_bytes: int = MAX_STORED_BYTES,
) -> Explorer:
    """Show the result of a function under the reader's hand, with a kernel or without one.

    Parameters
    ----------
    compute : callable
        A plain function ``compute(**values) -> dict``, called with one value per control. The dict
        has any of these keys:

        - ``images``: list of dicts with ``array`` (one picture, see `pixels`), ``title``, ``alt``
          (for readers who cannot see it), and perhaps ``caption`` and ``encoding`` (``"png"``, or
          ``"webp"``: lossy, for photographs).
        - ``bars``: list of dicts with ``label``, ``value`` in [0, 1], and perhaps ``role``
          (``"clean"``, ``"noise"``, ``"adversarial"``: the colour) and ``text`` (in place of the
          value in per cent). Or a list of groups: ``{"title": ..., "bars": [...]}``.
        - ``lines``: a chart (or a list of them): ``series`` (list of dicts with ``label``, ``x``,
          ``y`` and perhaps ``role``), ``xlabel``, ``ylabel`` (with units), ``alt``, and perhaps
          ``title``, ``at`` (x where the reader stands) and ``ylim``.
        - ``text``: one sentence that says the result; screen readers announce it.
    controls : sequence of Control
        What the reader may change: `slider` and `choice`.
    title : str
        Heading of the explorer.
    alt : str
        What it shows, for readers who cannot see it.
    precompute : bool
        Compute and store the state for every combination of stored values now, for readers without
        a kernel. If False only the initial state is stored.
    max_bytes : int
        Most that the stored states may take, in bytes of JSON.

    Returns
    -------
    Explorer
        End the cell with it to show it. ``.error`` holds the last exception of `compute` that a
        reader's move caused; ``.stored_bytes`` the size of what is stored.

    Raises
    ------
    ControlError
        If the controls are not usable.
    SceneError
        If `compute` returns something that cannot be shown.
    StoredSizeError
        If the stored states take more than `max_bytes`.
    Exception
        Whatever `compute` itself raises while the states are computed, with a note that names the
        values.
    """
    check_controls(controls)
    if not (title.strip() and alt.strip()):
        raise SceneError("an explorer needs a title and an alt text that says what it shows")
    start = initial_position(controls)
    positions = list(grid(controls)) if precompute else [start]
    data = {
        "key": short_key(title, *(control.name for control in controls)),
        "title": title,
        "alt": alt,
        "controls": [control_data(control) for control in controls],
        "initial": list(start),
        **compute_states(compute, controls, positions, max_bytes=max_bytes),
    }
    return Explorer(compute, controls, data)


def state_key(position: Sequence[int]) -> str:
    """Return the name under which the state at these indices is stored."""
    return ",".join(map(str, position))


def json_size(value: Any) -> int:
    """Return the length of `value` as compact JSON, in bytes."""
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


def compute_states(
    compute: Compute,
    controls: Sequence[Control],
    positions: Sequence[tuple[int, ...]],
    *,
    max_bytes: int = MAX_STORED_BYTES,
) -> dict[str, Any]:
    """Compute the states at `positions`; a picture that occurs in several is kept once.

    Returns
    -------
    dict
        ``{"states": {key: scene}, "images": [data URL, ...]}``

    Raises
    ------
    StoredSizeError
        As soon as the states so far take more than `max_bytes`.
    """
    table, states, size = ImageTable(), {}, 0
    for done, position in enumerate(positions, start=1):
        at = {control.name: i for control, i in zip(controls, position, strict=True)}
        values = values_at(controls, at)
        known = len(table.urls)
        try:
            state = encode_scene(compute(**values), table.add)
        except Exception as error:
            error.add_note(f"while the explorer computed its state for {values}")
            raise
        states[state_key(position)] = state
        size += json_size(state) + sum(map(len, table.urls[known:]))
        if size > max_bytes:
            raise StoredSizeError(_too_large(done, len(positions), size, max_bytes, table.urls))
    return {"states": states, "images": table.urls}


def answer(
    compute: Compute, controls: Sequence[Control], at: Mapping[str, int]
) -> tuple[dict[str, Any], Exception | None]:
    """Answer one request of a browser.

    Parameters
    ----------
    compute : callable
    controls : sequence of Control
    at : mapping
        One index for each control's name.

    Returns
    -------
    reply : dict
        ``{"scene": ...}``, or ``{"error": "ValueError: ..."}`` if anything went wrong.
    error : Exception or None
        What went wrong; never swallowed: the reader sees it and the explorer keeps it.
    """
    try:
        return {"scene": encode_scene(compute(**values_at(controls, at)), str)}, None
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}, error


def _too_large(done: int, total: int, size: int, max_bytes: int, urls: Sequence[str]) -> str:
    pictures = sum(map(len, urls))
    return (
        f"{done} of {total} states already take {size / 1e6:.2f} MB and the limit is "
        f"{max_bytes / 1e6:.2f} MB; {len(urls)} different pictures are {pictures / 1e6:.2f} MB of "
        "it. Store fewer values (slider(..., stored=[...])), show smaller pictures, use "
        'the encoding "webp" for photographs, or pass precompute=False.'
    )
