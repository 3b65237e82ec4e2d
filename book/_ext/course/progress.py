"""How far the reader is: a line at the end of each lesson, and ``{reader-progress}`` for all.

The page only holds which questions there are. What the reader has answered is kept in the browser;
`advlib/widgets/overview.js` reads it there and draws both. Without scripts neither shows, and
nothing else is missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive

from course.explorers import Stored, json_for_html, read_notebook, script_for

ANCHOR = "your-progress"
_MARK = "reader_progress"


class ReaderProgress(nodes.General, nodes.Element):
    """The place of the list of all lessons."""


class _ReaderProgressDirective(Directive):
    def run(self) -> list[nodes.Node]:
        env = self.state.document.settings.env
        env.metadata[env.docname][_MARK] = True
        return [ReaderProgress()]


def questions(widgets: Mapping[str, Stored]) -> dict[str, int]:
    """Return what is kept under each key: 0 for a guess, else a quiz of so many questions."""
    counts = {}
    for stored in widgets.values():
        kind, data = stored.state["kind"], stored.state["data"]
        if kind in ("predict", "quiz"):
            counts[data["key"]] = len(data["questions"]) if kind == "quiz" else 0
    return counts


def overview_html(data: Mapping[str, Any], script: str, anchor: str = "") -> str:
    """Return the element that shows progress, followed by the script that draws it.

    Parameters
    ----------
    data : mapping
        ``lessons``: for each ``title``, ``href`` and ``questions``; and either ``home``, the
        address of the list of all lessons, or ``root``, the address of the book.
    script : str
        Where the page finds the script.
    anchor : str
        A name that links can lead to.
    """
    name = f' id="{anchor}"' if anchor else ""
    return (
        f'<div class="advlib advlib-overview"{name}>'
        f'<script type="application/json">{json_for_html(data)}</script></div>'
        f'<script src="{escape(script)}"></script>'
    )


def _lessons(env: Any) -> list[tuple[str, dict[str, int]]]:
    """Return each lesson's name and questions, in order."""
    found = [(doc, questions(read_notebook(Path(env.doc2path(doc))))) for doc in env.all_docs]
    return sorted((doc, counts) for doc, counts in found if counts)


def _visit_html(translator: Any, _node: ReaderProgress) -> None:
    builder = translator.builder
    here = builder.current_docname
    lessons = [
        {
            "title": builder.env.titles[doc].astext(),
            "href": builder.get_relative_uri(here, doc),
            "questions": counts,
        }
        for doc, counts in _lessons(builder.env)
    ]
    data = {"lessons": lessons, "root": "../" * here.count("/") or "./"}
    translator.body.append(overview_html(data, script_for(builder.app, here), ANCHOR))
    raise nodes.SkipNode


def _visit_other(_translator: Any, _node: ReaderProgress) -> None:
    raise nodes.SkipNode


def _home(env: Any) -> str | None:
    """Return the page that holds the list of all lessons, or None."""
    return next((doc for doc, kept in env.metadata.items() if _MARK in kept), None)


def _on_page(
    app: Any, pagename: str, _template: str, context: dict[str, Any], doctree: Any
) -> None:
    """End a lesson with its line."""
    home = _home(app.env)
    if doctree is None or home is None:
        return
    counts = questions(read_notebook(Path(app.env.doc2path(pagename))))
    if not counts:
        return
    lesson = {"title": context.get("title", pagename), "href": "", "questions": counts}
    data = {"lessons": [lesson], "home": f"{context['pathto'](home)}#{ANCHOR}"}
    context["body"] += overview_html(data, script_for(app, pagename))


def _outdated(
    _app: Any, env: Any, added: set[str], changed: set[str], removed: set[str]
) -> Sequence[str]:
    """With any page that changed, the list may have changed."""
    home = _home(env)
    return [home] if home and home not in removed and added | changed | removed else []


def register(app: Any) -> None:
    """Register with Sphinx."""
    other = (_visit_other, None)
    app.add_node(ReaderProgress, html=(_visit_html, None), latex=other, text=other)
    app.add_directive("reader-progress", _ReaderProgressDirective)
    app.connect("env-get-outdated", _outdated)
    app.connect("html-page-context", _on_page, priority=910)
