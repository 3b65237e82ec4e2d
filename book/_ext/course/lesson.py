"""A lesson in the page: statements set apart, answers and checks folded, figures described."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from docutils import nodes
from myst_nb.core.render import MimeData, NbElementRenderer
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util import logging
from sphinx.util.docutils import SphinxRole

LOG = logging.getLogger(__name__)


# -- statements ------------------------------------------------------------------------------------

_NAME = re.compile(r"(Theorem|Proposition|Lemma|Corollary|Definition) (\d+)\.(\d+)\.?$")


class SetStatementsApart(SphinxTransform):
    """Give every quotation that begins with a statement's name a class and an identity.

    A lesson is read in the page, in JupyterLab and in Colab, and a Sphinx directive shows as raw
    text in the last two. So a statement is written as a quotation that begins with its name in
    bold, `> **Theorem 3.1** (...). ...`, and becomes a box with an address of its own here.
    """

    default_priority = 400

    def apply(self, **kwargs: object) -> None:
        """Walk through the quotations of one page."""
        for quote in self.document.findall(nodes.block_quote):
            first = quote.next_node(nodes.strong)
            match = first is not None and _NAME.match(first.astext())
            if match and quote.astext().startswith(first.astext()):
                kind, *number = match.groups()
                quote["classes"] += ["statement", f"statement-{kind.lower()}"]
                quote["ids"].append("-".join([kind.lower(), *number]))


# -- checks ----------------------------------------------------------------------------------------

CHECKED = "How this was checked"


class FoldChecks(SphinxTransform):
    """Fold a cell with the tag `checked`, which proves what the text says and is not to be read."""

    default_priority = 400

    def apply(self, **kwargs: object) -> None:
        """Walk through the cells of one page."""
        for cell in self.document.findall(nodes.container):
            if "tag_checked" in cell["classes"]:
                cell["hide_mode"] = "all"
                cell["prompt_show"] = cell["prompt_hide"] = CHECKED


# -- answers ---------------------------------------------------------------------------------------

ANSWER = "Answer"
NOTE = "It opens when you lock your guess; you can also open it now."

# Paper shows every answer, and images that the reader has not come near.
PRINT = """addEventListener("beforeprint", () => {
  for (const fold of document.querySelectorAll("details.answer:not([open])")) {
    fold.open = true;
    addEventListener("afterprint", () => { fold.open = false; }, { once: true });
  }
  for (const image of document.querySelectorAll("img[loading=lazy]")) image.loading = "eager";
});"""


class Answer(nodes.General, nodes.Element):
    """The answer to a guess: no section, so that no table of contents lists it."""


class FoldAnswers(SphinxTransform):
    """Fold what follows the heading `### Answer`, up to the next heading of its level.

    JupyterLab folds it by the metadata of the heading's cell. In the page it opens by hand, and the
    script that draws the widgets opens it with the guess that it answers.
    """

    default_priority = 400

    def apply(self, **kwargs: object) -> None:
        """Walk through the sections of one page."""
        for section in list(self.document.findall(nodes.section)):
            title, *content = section.children
            if title.astext() == ANSWER:
                section.replace_self(Answer("", *content, ids=section["ids"]))


def _begin_html(translator: Any, node: Answer) -> None:
    translator.body.append(translator.starttag(node, "details", CLASS="answer"))
    translator.body.append(f"<summary>{ANSWER} <span>{NOTE}</span></summary>\n")


def _end_html(translator: Any, _node: Answer) -> None:
    translator.body.append("</details>\n")


def _begin_latex(translator: Any, _node: Answer) -> None:
    # Not as the last line of a page.
    translator.body.append(f"\n\\needspace{{5\\baselineskip}}\n\\paragraph*{{{ANSWER}}}\\par\n")


def _pass(_translator: Any, _node: Answer) -> None:
    pass


# -- the link to Colab -----------------------------------------------------------------------------


class LeaveOutColab(SphinxTransform):
    """Leave out what a notebook holds for Colab: its cell, and its link; the page has its own."""

    default_priority = 400

    def apply(self, **kwargs: object) -> None:
        """Walk through the cells and the images of one page."""
        for cell in list(self.document.findall(nodes.container)):
            if "tag_colab" in cell["classes"]:
                cell.parent.remove(cell)
        for image in list(self.document.findall(nodes.image)):
            if image["uri"].endswith("/colab-badge.svg"):
                paragraph = image.parent.parent
                paragraph.parent.remove(paragraph)


# -- figures ---------------------------------------------------------------------------------------

_render_image = NbElementRenderer.render_image


def render_image(self: NbElementRenderer, data: MimeData) -> list[nodes.Element]:
    """Render as myst-nb does, with the output's own alternative text; warn if there is none.

    A figure says what it shows in the metadata of its output, `{"image/png": {"alt": "..."}}`.
    myst-nb reads an alternative text only from the cell, where two figures would have to share one.
    """
    rendered = _render_image(self, data)
    alt = data.output_metadata.get(data.mime_type, {}).get("alt")
    for node in rendered:
        if isinstance(node, nodes.image):
            if alt:
                node["alt"] = str(alt)
            if not node.get("alt"):
                LOG.warning(
                    "cell %s shows a figure without alternative text",
                    data.cell_index,
                    location=(self.renderer.document["source"], data.line),
                )
    return rendered


# -- minutes to read -------------------------------------------------------------------------------

WORDS, LINES = 180, 20
"""Words of prose and lines of code that a careful reader reads in a minute."""
STEP = 5
"""Minutes are rounded to a multiple of this: nobody reads to the minute."""

_FOLDED = {"checked", "hide-cell", "hide-input", "remove-cell", "remove-input"}
_FORMULA = re.compile(r"\$\$.+?\$\$|\$[^$\n]+\$", re.DOTALL)
_ADDRESS = re.compile(r"(?<=\])\([^)\s]*\)|<[^>]*>")
_WORD = re.compile(r"\w[\w'’.,/-]*")


def words(markdown: str) -> int:
    """Count the words of a text; a formula is one of them, an address none."""
    return len(_WORD.findall(_ADDRESS.sub(" ", _FORMULA.sub(" x ", markdown))))


def minutes(cells: Sequence[Mapping[str, Any]]) -> int:
    """Return the minutes that it takes to read the cells of a notebook, at least `STEP`.

    Folded code and the exercises' solutions do not count. The lessons name the same minutes in
    their own words; a test compares the two.
    """
    prose = code = 0
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            prose += words(source)
        elif cell["cell_type"] == "code" and not _FOLDED & set(cell["metadata"].get("tags", [])):
            code += sum(1 for line in source.splitlines() if line.strip())
    return max(1, round((prose / WORDS + code / LINES) / STEP)) * STEP


def minutes_of(path: Path) -> int:
    """Return the minutes that it takes to read the notebook at `path`."""
    return minutes(json.loads(path.read_text(encoding="utf-8"))["cells"])


class LessonTime(SphinxRole):
    """The minutes of the lesson named, as in ``{lesson-time}`01-see-it-happen` ``."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """Return the text, or a message of what is missing."""
        path = Path(self.env.srcdir) / "notebooks" / f"{self.text}.ipynb"
        if not path.exists():
            message = self.inliner.reporter.warning(f"there is no lesson {self.text!r}")
            return [], [message]
        self.env.note_dependency(str(path))
        text = f"{minutes_of(path)} min"
        return [nodes.inline("", text, classes=["lesson-time"])], []


def register(app: Sphinx) -> None:
    """Register with Sphinx."""
    app.add_transform(SetStatementsApart)
    app.add_transform(FoldChecks)
    app.add_transform(FoldAnswers)
    app.add_transform(LeaveOutColab)
    app.add_node(
        Answer, html=(_begin_html, _end_html), latex=(_begin_latex, _pass), text=(_pass, _pass)
    )
    app.add_js_file(None, body=PRINT)
    NbElementRenderer.render_image = render_image
    app.add_role("lesson-time", LessonTime())
