"""What `compute` returns, checked and made ready for the browser: images become data URLs."""

from __future__ import annotations

import base64
import io
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from advlib.plots.palette import ROLES
from advlib.widgets.errors import SceneError

_ENCODINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "png": ("PNG", {"optimize": True}),
    "webp": ("WEBP", {"quality": 90, "method": 4}),
}
_SCENE_KEYS = {"images", "bars", "lines", "text"}

_KEYS = {  # of each part: those that it needs, and those that it may have
    "an image": (["array", "title", "alt"], ["caption", "encoding"]),
    "a group of bars": (["bars"], ["title"]),
    "a bar": (["label", "value"], ["role", "text"]),
    "a line chart": (["series", "xlabel", "ylabel", "alt"], ["title", "at", "ylim"]),
    "a series": (["label", "x", "y"], ["role"]),
}


Keep = Callable[[str, Any], Any]
"""Takes ``"images"`` and a data URL, or ``"series"`` and one; returns what a scene holds for it."""


def in_place(_kind: str, value: Any) -> Any:
    """Keep every image and series where it is used."""
    return value


class Tables:
    """Images and series by number; what is kept twice is stored once."""

    def __init__(self) -> None:
        self.values: dict[str, list[Any]] = {"images": [], "series": []}
        self._numbers: dict[tuple[str, str], int] = {}

    def keep(self, kind: str, value: Any) -> int:
        """Return the number of `value` in the table of its kind."""
        table = self.values[kind]
        number = self._numbers.setdefault((kind, json.dumps(value)), len(table))
        if number == len(table):
            table.append(value)
        return number


def pixels(array: Any) -> np.ndarray:
    """Turn one image into the bytes of a PNG.

    Parameters
    ----------
    array : tensor or ndarray, shape (c, h, w), (h, w, c) or (h, w)
        One or three channels, floating point in [0, 1].

    Returns
    -------
    ndarray of uint8, shape (h, w) or (h, w, 3)

    Raises
    ------
    SceneError
        Another shape, type or range.
    """
    if hasattr(array, "detach"):  # a torch tensor, recognised without importing torch
        array = array.detach().cpu().numpy()
    array = np.asarray(array)
    if array.ndim == 4:
        raise SceneError(f"one image at a time, got a batch of shape {array.shape}; pass x[0]")
    if array.ndim == 3 and array.shape[0] in (1, 3):
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] != 3) or not array.size:
        raise SceneError(f"an image is (c, h, w) or (h, w, c) with 1 or 3 channels: {array.shape}")
    if not np.issubdtype(array.dtype, np.floating):
        raise SceneError(f"an image is floating point in [0, 1], not {array.dtype}")
    low, high = float(array.min()), float(array.max())
    if not (low >= -1e-5 and high <= 1 + 1e-5):
        raise SceneError(
            f"an image is in [0, 1], this one reaches from {low:.3g} to {high:.3g}; "
            "show a perturbation as 0.5 + scale * delta, clipped"
        )
    return np.rint(np.clip(array, 0, 1) * 255).astype(np.uint8)


def data_url(array: Any, encoding: str = "png") -> str:
    """Encode one image as a data URL.

    Parameters
    ----------
    array : tensor or ndarray
        As for `pixels`.
    encoding : {"png", "webp"}
        ``"png"`` keeps every pixel. ``"webp"`` is lossy (quality 90) and about five times smaller:
        for photographs that are only looked at.

    Raises
    ------
    SceneError
        The image or the encoding cannot be used.
    """
    from PIL import Image

    if encoding not in _ENCODINGS:
        raise SceneError(f"encoding is one of {sorted(_ENCODINGS)}, not {encoding!r}")
    name, options = _ENCODINGS[encoding]
    buffer = io.BytesIO()
    Image.fromarray(pixels(array)).save(buffer, name, **options)
    return f"data:image/{encoding};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def encode_scene(scene: Mapping[str, Any], keep: Keep = in_place) -> dict[str, Any]:
    """Check what `compute` returned and make it ready for JSON.

    Parameters
    ----------
    scene : mapping
        With any of the keys ``images``, ``bars``, ``lines`` and ``text``; see `explorer`.
    keep : callable
        Where images and series go: `in_place`, or `Tables.keep` for their numbers.

    Raises
    ------
    SceneError
        A part is unknown, incomplete or out of range.
    """
    if not isinstance(scene, Mapping):
        raise SceneError(f"compute returns a dict, not {type(scene).__name__}")
    if unknown := sorted(set(scene) - _SCENE_KEYS):
        raise SceneError(f"a scene has {sorted(_SCENE_KEYS)}, not {unknown}")
    bars, lines = scene.get("bars", []), scene.get("lines", [])
    groups = [{"bars": bars}] if bars and "bars" not in bars[0] else bars
    charts = [lines] if isinstance(lines, Mapping) else lines
    return {
        "images": [_image(item, keep) for item in scene.get("images", [])],
        "bars": [_bar_group(group) for group in groups],
        "lines": [_chart(chart, keep) for chart in charts],
        "text": str(scene.get("text", "")),
    }


def _image(item: Mapping[str, Any], keep: Keep) -> dict[str, Any]:
    _check(item, "an image")
    height, width = pixels(item["array"]).shape[:2]
    return {
        "src": keep("images", data_url(item["array"], item.get("encoding", "png"))),
        "title": str(item["title"]),
        "alt": str(item["alt"]),
        "caption": str(item.get("caption", "")),
        "width": width,
        "height": height,
    }


def _bar_group(group: Mapping[str, Any]) -> dict[str, Any]:
    _check(group, "a group of bars")
    return {"title": str(group.get("title", "")), "bars": [_bar(bar) for bar in group["bars"]]}


def _bar(bar: Mapping[str, Any]) -> dict[str, Any]:
    _check(bar, "a bar")
    value = float(bar["value"])
    if not 0 <= value <= 1 + 1e-6:
        raise SceneError(f"a bar's value is in [0, 1]; {bar['label']!r} has {value:.4g}")
    return {
        "label": str(bar["label"]),
        "value": round(min(value, 1.0), 4),
        "role": bar.get("role") or "neutral",
        "text": str(bar.get("text", percent(value))),
    }


def percent(value: float) -> str:
    """Write a share of 1 in per cent, never rounded to certainty: 0.999 is "> 99 %"."""
    rounded = f"{100 * value:.0f}"
    if rounded == "100" and value < 1:
        return "> 99 %"
    if rounded == "0" and value > 0:
        return "< 1 %"
    return f"{rounded} %"


def _chart(chart: Mapping[str, Any], keep: Keep) -> dict[str, Any]:
    _check(chart, "a line chart")
    series = [keep("series", _series(item)) for item in chart["series"]]
    if not series:
        raise SceneError("a line chart needs at least one series")
    at, ylim = chart.get("at"), chart.get("ylim")
    return {
        "title": str(chart.get("title", "")),
        "alt": str(chart["alt"]),
        "xlabel": str(chart["xlabel"]),
        "ylabel": str(chart["ylabel"]),
        "series": series,
        "at": None if at is None else float(at),
        "ylim": None if ylim is None else [float(ylim[0]), float(ylim[1])],
    }


def _series(item: Mapping[str, Any]) -> dict[str, Any]:
    _check(item, "a series")
    x, y = ([float(f"{float(value):.5g}") for value in item[axis]] for axis in "xy")
    if len(x) != len(y) or not x:
        raise SceneError(f"series {item['label']!r} has {len(x)} x and {len(y)} y values")
    if not all(map(math.isfinite, x + y)):
        raise SceneError(f"series {item['label']!r} holds a value that is not finite")
    return {"label": str(item["label"]), "role": item.get("role") or "neutral", "x": x, "y": y}


def _check(item: Mapping[str, Any], what: str) -> None:
    """Raise `SceneError` unless `item` has the keys of `what`, an alt text and a known role."""
    required, optional = _KEYS[what]
    if not isinstance(item, Mapping):
        raise SceneError(f"{what} is a dict with {required}, not {type(item).__name__}")
    missing = [key for key in required if key not in item]
    unknown = sorted(set(item) - set(required) - set(optional))
    if missing or unknown:
        raise SceneError(
            f"{what} has the keys {required} and perhaps {optional}; "
            f"missing: {missing}, unknown: {unknown}"
        )
    if not str(item.get("alt", "-")).strip():
        raise SceneError(f"{what} needs an alt text: what it shows, for readers who cannot see it")
    if (role := item.get("role")) is not None and role not in ROLES:
        raise SceneError(f"a role is one of {list(ROLES)} or None, not {role!r}")
