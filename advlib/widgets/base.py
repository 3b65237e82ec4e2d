"""The base class of the explorers, guesses and quizzes.

A widget is a `kind` and a dict of `data`, both saved with the notebook; `widgets.js` draws it. The
same file draws it in JupyterLab, VS Code and Colab (through anywidget) and in the static page.
"""

from __future__ import annotations

import hashlib
from abc import ABCMeta, abstractmethod
from functools import cache
from pathlib import Path
from typing import Any

import anywidget
import traitlets


@cache
def source(name: str) -> str:
    """Return the text of one of this package's browser files, such as ``"widgets.js"``."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def module() -> str:
    """Return the one ES module that draws every widget everywhere."""
    return source("progress.js") + source("widgets.js")


def short_key(*parts: str) -> str:
    """Return a short hash of a text; the reader's progress is stored under it."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:10]


class _AbstractWidget(type(anywidget.AnyWidget), ABCMeta):  # type: ignore[misc]
    """Lets a widget have abstract methods: a subclass without them cannot be made."""


class PageWidget(anywidget.AnyWidget, metaclass=_AbstractWidget):
    """A widget whose state is plain data, with a text and perhaps an image where no script runs.

    Attributes
    ----------
    kind : str
        Which function of `widgets.js` draws it.
    data : dict
        All that this function needs, ready for JSON.
    guess : int, float or None
        The reader's locked guess (an option's number, or a value); used by `guess` only.
    """

    _esm = module()
    _css = source("widgets.css")
    # ipywidgets 7 shows a widget through this method, without the text and the image.
    _ipython_display_ = None

    kind = traitlets.Unicode().tag(sync=True)
    data = traitlets.Dict().tag(sync=True)
    guess = traitlets.Any(None, allow_none=True).tag(sync=True)

    @abstractmethod
    def as_text(self) -> str:
        """Return the text that replaces the widget where no script runs."""

    def as_png(self) -> bytes | None:
        """Return a still image of the widget, or None where the text is enough."""
        return None

    def __repr__(self) -> str:
        return self.as_text()

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        bundle: Any = super()._repr_mimebundle_(**kwargs)  # a pair or, in old versions, a dict
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
        data = {**data, "text/plain": self.as_text()}
        if png := self.as_png():
            data["image/png"] = png
            metadata = {**metadata, "image/png": {"alt": self.data.get("alt", "")}}
        return data, dict(metadata)
