"""The one base under the explorers, guesses and quizzes.

A widget is a `kind` and a dict of `data`, both saved with the notebook; `widgets.js` draws it. The
same file draws it in JupyterLab, VS Code and Colab (through anywidget) and in the static page.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import anywidget
import traitlets

_HERE = Path(__file__).parent


@cache
def source(name: str) -> str:
    """Return the text of one of this package's browser files, such as ``"widgets.js"``."""
    return (_HERE / name).read_text(encoding="utf-8")


def module() -> str:
    """Return the one ES module that draws every widget, in every home."""
    return source("progress.js") + source("widgets.js")


def short_key(*parts: str) -> str:
    """Return a short name for a text, the same on every run, under which progress is kept."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:10]


class PageWidget(anywidget.AnyWidget):
    """A widget whose state is plain data, with a text and perhaps a picture for other places.

    Attributes
    ----------
    kind : str
        Which drawing of `widgets.js` is meant.
    data : dict
        All that the drawing needs, ready for JSON.
    guess : int, float or None
        The reader's locked guess (an option's number, or a value); used by `predict` only.
    """

    _esm = module()
    _css = source("widgets.css")
    # ipywidgets 7 shows a widget through this method and would leave out the text and the picture.
    _ipython_display_ = None

    kind = traitlets.Unicode().tag(sync=True)
    data = traitlets.Dict().tag(sync=True)
    guess = traitlets.Any(None, allow_none=True).tag(sync=True)

    def as_text(self) -> str:
        """Return what stands for the widget where no script runs."""
        raise AssertionError("every kind of widget says what stands for it")  # pragma: no cover

    def as_png(self) -> bytes | None:
        """Return a still picture of the widget, or None where text says it all."""
        return None

    def __repr__(self) -> str:
        return self.as_text()

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        data, metadata = _pair(super()._repr_mimebundle_(**kwargs))
        data["text/plain"] = self.as_text()
        if png := self.as_png():
            data["image/png"] = png
            metadata = {**metadata, "image/png": {"alt": self.data.get("alt", "")}}
        return data, metadata


def _pair(bundle: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return data and metadata, whichever way this version of anywidget reports them."""
    data, metadata = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
    return dict(data), dict(metadata)
