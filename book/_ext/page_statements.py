"""Theorems and definitions of a lesson, set apart in the page.

A lesson is read in the page, in JupyterLab and in Colab, and a Sphinx directive shows as raw text
in the last two. So a statement is written as a quotation that begins with its name in bold,
`> **Theorem 3.1** (...). ...`. Here such a quotation becomes a box with an address of its own.
"""

import re

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

NAME = re.compile(r"(Theorem|Proposition|Lemma|Corollary|Definition) (\d+)\.(\d+)\.?$")


class SetStatementsApart(SphinxTransform):
    """Give every quotation that begins with a statement's name a class and an identity."""

    default_priority = 400

    def apply(self, **kwargs: object) -> None:
        """Walk through the quotations of one page."""
        for quote in self.document.findall(nodes.block_quote):
            first = quote.next_node(nodes.strong)
            match = first is not None and NAME.match(first.astext())
            if match and quote.astext().startswith(first.astext()):
                kind, *number = match.groups()
                quote["classes"] += ["statement", f"statement-{kind.lower()}"]
                quote["ids"].append("-".join([kind.lower(), *number]))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.add_transform(SetStatementsApart)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
