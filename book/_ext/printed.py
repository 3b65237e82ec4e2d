"""The printed book: what folds on a screen lies open on paper.

Hints, solutions and outputs that a reader of the page unfolds are printed, each under the word that
stands on its fold. The cell that only Colab needs stays away. The Live Lab becomes an image, with
the book's address if it has one. A long table may go on over the page.
"""

import math
import re
from collections.abc import Iterable
from pathlib import Path

from course import labs, live_lab
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

STILL = "live-lab.png"
ROWS = 10
"""A table with more rows may not fit on what is left of a page."""
SHORT = 8
"""Characters of a cell that does not go over two lines."""
LINE = 90
"""Characters of a line; a table that asks for more is set in small letters."""
PADDING = 3
"""Characters that the space between two columns takes."""
_SUMMARY = re.compile(r"<summary>(.*?)</summary>", re.DOTALL)


def unfold_cell(classes: Iterable[str]) -> list[str]:
    """Return a cell's classes without those that would keep it off the paper.

    >>> unfold_cell(["cell", "tag_hide-cell", "tag_solution"])
    ['cell', 'tag_solution']
    """
    return [name for name in classes if name not in ("tag_hide-cell", "tag_hide-output")]


def widths(columns: Iterable[list[str]]) -> list[int]:
    """Return the shares of a line for the columns of a table, from what stands in their cells.

    A column needs its longest word on one line, and all of a cell that is short; beyond that, text
    can go over several lines, and the long cells decide how many.
    """
    shares = []
    for cells in columns:
        lengths = [len(cell) for cell in cells]
        longest = max((len(word) for cell in cells for word in cell.split()), default=1)
        text = math.sqrt(longest * math.sqrt(sum(n * n for n in lengths) / len(lengths)))
        shares.append(PADDING + math.ceil(max(longest, text, min(SHORT, max(lengths)))))
    return shares


class LieOpen(SphinxPostTransform):
    """Show in print what folds in a page."""

    # Before the extension that leaves out the folded cells (400).
    default_priority = 300
    formats = ("latex",)

    def run(self, **kwargs: object) -> None:
        """Walk through the assembled book."""
        for cell in self.document.findall(nodes.container):
            cell["classes"] = unfold_cell(cell["classes"])
        for raw in list(self.document.findall(nodes.raw)):
            fold = _SUMMARY.search(raw.astext())
            if fold:
                # Not as the last line of a page.
                room = nodes.raw("", r"\needspace{5\baselineskip}", format="latex")
                word = nodes.paragraph("", "", nodes.strong("", fold[1].strip()))
                raw.replace_self([room, word])
        for table in list(self.document.findall(nodes.tgroup)):
            _let_break(table)
        for lab in list(self.document.findall(labs.Lab)):
            if lab["name"] == live_lab.NAME:
                lab.replace_self(self._still_lab())

    def _still_lab(self) -> list[nodes.Node]:
        from course import lab  # with the networks: only a book that has a lab needs it

        alt = lab.still(Path(self.app.outdir) / STILL)
        address = self.config.html_baseurl
        sentence = nodes.paragraph("", "In the book's pages the Live Lab computes as you drag")
        if address:
            sentence += [nodes.Text(": "), nodes.reference("", address, refuri=address)]
        sentence += nodes.Text(". This is what it shows first.")
        image = rf"\noindent\sphinxincludegraphics[width=0.7\linewidth]{{{STILL}}}"
        return [sentence, nodes.raw("", image, format="latex"), nodes.paragraph("", alt)]


def _let_break(table: nodes.tgroup) -> None:
    """Let a long table go on over the page; LaTeX then no longer finds the widths by itself."""
    rows = [[cell.astext() for cell in row] for row in table.findall(nodes.row)]
    specs = list(table.findall(nodes.colspec))
    if len(rows) <= ROWS or any(len(row) != len(specs) for row in rows):
        return
    table.parent["classes"] += ["longtable", "colwidths-given"]
    shares = widths(map(list, zip(*rows, strict=True)))
    for spec, width in zip(specs, shares, strict=True):
        spec["colwidth"] = width
    if sum(shares) > LINE:
        small, end = (nodes.raw("", text, format="latex") for text in (r"{\footnotesize", "}"))
        table.parent.replace_self([small, table.parent, end])


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_post_transform(LieOpen)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
