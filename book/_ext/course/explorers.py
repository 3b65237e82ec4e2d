"""Explorers, guesses and quizzes without a kernel, and the script and style that draw them.

For each stored widget view the page gets one element that holds the state as data and, for readers
without scripts, its still image or text. The package's files (`advlib/widgets`) draw it, served
once for the whole book as one classic script and one style sheet, so that they also work from
``file://`` and under a strict Content-Security-Policy. Nothing comes from another server.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"
SCRIPT, STYLE = "advlib-widgets.js", "advlib-widgets.css"
MODULE = ("progress.js", "widgets.js")
PAGE = ("overview.js", "static.js")

_VIEW_IN_PAGE = re.compile(rf'<script type="{re.escape(VIEW)}">(.*?)</script>', re.DOTALL)
MISSED = "A file could not be loaded, so this is a static view; reloading the page may help."
# In the page itself, because it speaks of files that did not come. What is drawn last is drawn by
# deferred scripts, and the event follows all of them.
WATCH = f"""addEventListener("DOMContentLoaded", () => {{
  for (const place of document.querySelectorAll(".advlib-widget:not([data-drawn=all])")) {{
    if (place.dataset.drawn) {{
      place.querySelector(".advlib")?.remove();
      place.querySelector(".advlib-still").hidden = false;
    }}
    const note = document.createElement("p");
    note.textContent = {json.dumps(MISSED)};
    place.append(note);
  }}
}});"""
NO_SCRIPTS = "JavaScript is off, so this is a static view."

_EXPORT = "export default { render };"
_SHOWN = ("kind", "data", "guess")


@dataclass(frozen=True)
class Stored:
    """One widget as the notebook keeps it: its state, and what stands for it without scripts."""

    state: Mapping[str, Any]
    text: str
    png: str
    alt: str


def read_notebook(path: Path) -> dict[str, Stored]:
    """Return the widgets of an executed notebook by their model's id.

    Parameters
    ----------
    path : Path
        An ``.ipynb`` file; for any other file the result is empty.

    Returns
    -------
    dict of str to Stored
        Only widgets of this course; a view whose state was not saved is left out.
    """
    if path.suffix != ".ipynb":
        return {}
    notebook = json.loads(path.read_text(encoding="utf-8"))
    states = notebook.get("metadata", {}).get("widgets", {}).get(STATE, {}).get("state", {})
    found = {}
    for output in _outputs(notebook):
        model_id = output["data"].get(VIEW, {}).get("model_id")
        state = states.get(model_id, {}).get("state", {})
        if "kind" in state and "data" in state:
            found[model_id] = Stored(
                state={name: state.get(name) for name in _SHOWN},
                text=_joined(output["data"].get("text/plain", "")),
                png=_joined(output["data"].get("image/png", "")).replace("\n", ""),
                alt=output.get("metadata", {}).get("image/png", {}).get("alt", ""),
            )
    return found


def widget_html(stored: Stored, script: str) -> str:
    """Return the element for one widget, followed by the script that draws it.

    The script is loaded again behind each widget (from the browser's cache): a widget is then drawn
    before what follows it, and the page does not move.

    Parameters
    ----------
    stored : Stored
    script : str
        Where the page finds the script.
    """
    return (
        f'<div class="advlib-widget"><div class="advlib-still">{_still(stored)}</div>'
        f'<script type="application/json">{json_for_html(stored.state)}</script></div>'
        f'<script src="{escape(script)}"></script>'
    )


def replace_views(body: str, widgets: Mapping[str, Stored], script: str) -> str:
    """Return a page's body with every stored widget view replaced by the widget itself.

    A view that is not among `widgets` becomes one sentence; the rest of the page stays as it is.
    """

    def replacement(match: re.Match[str]) -> str:
        try:
            return widget_html(widgets[json.loads(match[1])["model_id"]], script)
        except (ValueError, KeyError, TypeError):
            return (
                '<p class="advlib-missing">An interactive figure belongs here, but its state was '
                "not saved with this notebook; run the notebook to see it.</p>"
            )

    return _VIEW_IN_PAGE.sub(replacement, body)


def classic_script(module: str, page: str) -> str:
    """Turn the module that draws widgets and the page's own part into one classic script.

    Lines that are comments are for those who read the sources: no reader of the book loads them.

    Raises
    ------
    ValueError
        If the module does not end in the one export that is replaced here.
    """
    if module.count("export ") != 1 or _EXPORT not in module:
        raise ValueError(f"the widgets' module must have exactly one export, {_EXPORT!r}")
    code = re.sub(r"(?m)^ *//.*\n", "", module.replace(_EXPORT, page))
    return f'"use strict";\n(() => {{\n{code}\n}})();\n'


def json_for_html(value: Any) -> str:
    """Return `value` as JSON that no HTML parser can take for the end of a script."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def write_assets(static: Path, sources: Path) -> None:
    """Write script and style into the book's folder `static`, from the package's `sources`."""

    def joined(names: tuple[str, ...]) -> str:
        return "\n".join((sources / name).read_text(encoding="utf-8") for name in names)

    static.mkdir(parents=True, exist_ok=True)
    script = classic_script(joined(MODULE), joined(PAGE))
    (static / SCRIPT).write_text(script, encoding="utf-8")
    (static / STYLE).write_text((sources / "widgets.css").read_text(encoding="utf-8"), "utf-8")


def _outputs(notebook: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    cells = notebook.get("cells", [])
    return [output for cell in cells for output in cell.get("outputs", []) if "data" in output]


def _joined(text: str | list[str]) -> str:
    return text if isinstance(text, str) else "".join(text)


def _still(stored: Stored) -> str:
    text = f"<pre>{escape(stored.text)}</pre>"
    if stored.state["kind"] == "reveal":  # folds without any script
        return f"<details><summary>The answer (guess first)</summary>{text}</details>"
    if stored.png:
        width, height = struct.unpack(">II", b64decode(stored.png[:44])[16:24])
        text = (
            f'<img src="data:image/png;base64,{stored.png}" width="{width}" height="{height}" '
            f'alt="{escape(stored.alt or stored.text)}">'
        )
    return f"{text}<noscript><p>{NO_SCRIPTS}</p></noscript>"


def script_for(app: Any, pagename: str) -> str:
    """Return where a page finds the script, with a query that changes with the script."""
    content = (Path(app.outdir) / "_static" / SCRIPT).read_bytes()
    root = "../" * pagename.count("/")
    return f"{root}_static/{SCRIPT}?v={hashlib.sha256(content).hexdigest()[:8]}"


def _prepare(app: Any) -> None:
    if app.builder.format == "html":
        # The repository's own files, so that building the book need not import the package.
        sources = Path(__file__).resolve().parents[3] / "advlib" / "widgets"
        write_assets(Path(app.outdir) / "_static", sources)


def _on_page(
    app: Any, pagename: str, _template: str, context: dict[str, Any], doctree: Any
) -> None:
    """Put the widgets into one page; pages without widgets are left alone."""
    context["script_files"][:] = [
        js
        for js in context.get("script_files", [])
        if getattr(js, "attributes", {}).get("type") != STATE
    ]
    if doctree is None or VIEW not in context.get("body", ""):
        return
    widgets = read_notebook(Path(app.env.doc2path(pagename)))
    context["body"] = replace_views(context["body"], widgets, script_for(app, pagename))
    app.add_js_file(None, body=WATCH)


def register(app: Any) -> None:
    """Register with Sphinx."""
    app.connect("builder-inited", _prepare)
    app.add_css_file(STYLE)
    # After MyST-NB (500), which puts the whole saved state of a notebook into its page.
    app.connect("html-page-context", _on_page, priority=900)
