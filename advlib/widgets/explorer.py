"""An explorer: the reader moves a control and sees what `compute` returns for its value."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from advlib.widgets.base import PageWidget, short_key
from advlib.widgets.controls import Control, check_controls, control_data, grid, values_at
from advlib.widgets.errors import SceneError, StoredSizeError
from advlib.widgets.scene import Tables, encode_scene
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
        """Return a still image of the initial state."""
        if self._png is None:
            self._png = draw_scene(self.data, self._initial())
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
    drag: Sequence[Sequence[float]] = (),
    precompute: bool = True,
    max_bytes: int = MAX_STORED_BYTES,
) -> Explorer:
    """Show the result of a function for the values that the reader sets, with or without a kernel.

    Parameters
    ----------
    compute : callable
        A plain function ``compute(**values) -> dict``, called with one value per control. The dict
        has any of these keys:

        - ``images``: list of dicts with ``array`` (one image, see `pixels`), ``title``, ``alt``
          (for readers who cannot see it), and perhaps ``caption`` and ``encoding`` (``"png"``, or
          ``"webp"``: lossy, for photographs).
        - ``bars``: list of dicts with ``label``, ``value`` in [0, 1], and perhaps ``role``
          (``"clean"``, ``"noise"``, ``"adversarial"``: the colour) and ``text`` (in place of the
          value in per cent). Or a list of groups: ``{"title": ..., "bars": [...]}``.
        - ``lines``: a chart (or a list of them): ``series`` (list of dicts with ``label``, ``x``,
          ``y`` and perhaps ``role``), ``xlabel``, ``ylabel`` (with units), ``alt``, and perhaps
          ``title``, ``at`` (the reader's place on the x axis) and ``ylim``.
        - ``text``: one sentence with the result; screen readers announce it.
    controls : sequence of Control
        What the reader may change: `slider` and `choice`.
    title : str
        Heading of the explorer.
    alt : str
        What it shows, for readers who cannot see it.
    drag : sequence, optional
        Places in the first image, ``[x, y, position, ...]`` with x and y from 0 to 1 and a stored
        position of each slider: whoever drags there moves the sliders to the nearest place.
    precompute : bool
        Compute and store the state for every combination of stored values now, for readers without
        a kernel. If False only the initial state is stored.
    max_bytes : int
        Most that the stored states may take, in bytes of JSON.

    Returns
    -------
    Explorer
        Shown where it ends a cell. ``.error`` is the last exception of `compute` that a reader's
        move caused, ``.stored_bytes`` the size of what is stored.

    Raises
    ------
    ControlError, SceneError, StoredSizeError
        Unusable controls; a scene that cannot be shown; states that exceed `max_bytes`. What
        `compute` raises comes with a note that names the values.
    """
    check_controls(controls)
    if not (title.strip() and alt.strip()):
        raise SceneError("an explorer needs a title and an alt text that says what it shows")
    start = tuple(control.initial for control in controls)
    positions = list(grid(controls)) if precompute else [start]
    data = {
        "key": short_key(title, *(control.name for control in controls)),
        "title": title,
        "alt": alt,
        "controls": [control_data(control) for control in controls],
        "initial": list(start),
        **({"drag": [list(place) for place in drag]} if drag else {}),
        **_compute_states(compute, controls, positions, max_bytes),
    }
    return Explorer(compute, controls, data)


def state_key(position: Sequence[int]) -> str:
    """Return the name under which the state at these indices is stored."""
    return ",".join(map(str, position))


def json_size(value: Any) -> int:
    """Return the length of `value` as compact JSON, in bytes."""
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


def answer(
    compute: Compute, controls: Sequence[Control], at: Mapping[str, int]
) -> tuple[dict[str, Any], Exception | None]:
    """Answer one request of a browser for the state at the positions `at`.

    Returns
    -------
    reply : dict
        ``{"scene": ...}``, or ``{"error": "ValueError: ..."}`` for the reader.
    error : Exception or None
        What went wrong, for the explorer to keep.
    """
    try:
        return {"scene": encode_scene(compute(**values_at(controls, at)))}, None
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}, error


def _compute_states(
    compute: Compute,
    controls: Sequence[Control],
    positions: Sequence[tuple[int, ...]],
    max_bytes: int,
) -> dict[str, Any]:
    """Return ``{"states": {key: scene}, "images": [...], "series": [...]}``, each of both once.

    Raises `StoredSizeError` as soon as the states so far take more than `max_bytes`.
    """
    tables, states, size = Tables(), {}, 0
    urls, series = tables.values["images"], tables.values["series"]
    for done, position in enumerate(positions, start=1):
        at = {control.name: i for control, i in zip(controls, position, strict=True)}
        values = values_at(controls, at)
        known = len(urls), len(series)
        try:
            state = encode_scene(compute(**values), tables.keep)
        except Exception as error:
            error.add_note(f"while the explorer computed its state for {values}")
            raise
        states[state_key(position)] = state
        new = [*urls[known[0] :], *series[known[1] :]]
        size += sum(map(json_size, [state, *new]))
        if size > max_bytes:
            raise StoredSizeError(
                f"{done} of {len(positions)} states already take {size / 1e6:.2f} MB, and the "
                f"limit is {max_bytes / 1e6:.2f} MB; {len(urls)} different images are "
                f"{sum(map(len, urls)) / 1e6:.2f} MB of it. Store fewer values "
                "(slider(..., stored=[...])), show smaller images, use the encoding "
                '"webp" for photographs, or pass precompute=False.'
            )
    return {"states": states, **tables.values}
