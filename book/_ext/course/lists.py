"""``{claims}``, every claim of the lessons, and ``{networks}``, the family of the shipped networks.

Both draw what `book/_tools/lists.py` has gathered: book/claims.json from the executed lessons,
book/networks.json from the model cards. Each cell with a claim gets an address of its own.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from docutils import nodes
from myst_nb.core.render import MimeData, NbElementRenderer
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective

DATA = "application/vnd.advlib.claim+json"
Entries = Sequence[Mapping[str, Any]]


def read(env: Any, name: str) -> Entries:
    """Return one of the two lists; the page is built again when it changes."""
    path = Path(env.srcdir) / "book" / name
    env.note_dependency(str(path))
    return json.loads(path.read_text(encoding="utf-8"))


class AddressClaims(SphinxTransform):
    """Give each cell that shows a claim the name that the list of claims links to."""

    default_priority = 400

    def apply(self, **kwargs: object) -> None:
        """Walk through the cells of one lesson."""
        path = Path(self.env.doc2path(self.env.docname))
        if path.suffix != ".ipynb" or not path.name[:2].isdigit():
            return
        lesson = int(path.name[:2])
        wanted = {
            each["cell"] for each in read(self.env, "claims.json") if each["lesson"] == lesson
        }
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"] if wanted else []
        for node in list(self.document.findall(nodes.container)) if cells else []:
            if node.get("nb_element") != "cell_code":
                continue
            cell = cells[node["cell_index"]]["id"]
            if cell in wanted:
                node["names"].append(address(lesson, cell))
                self.document.note_explicit_target(node)


def address(lesson: int, cell: str) -> str:
    """Return the name of a cell that shows a claim, unique in the book."""
    return f"claim-{lesson}-{cell}"


_render_unhandled = NbElementRenderer.render_unhandled


def render_unhandled(self: NbElementRenderer, data: MimeData) -> list[nodes.Element]:
    """Show a claim by its box alone; the same output holds it as data too."""
    return [] if data.mime_type == DATA else _render_unhandled(self, data)


def plain(text: str) -> str:
    """Return Markdown that shows `text` as it is, as the box in the lesson does."""
    return re.sub(r"([\\`*_{}\[\]<>$#|])", r"\\\1", text)


def claims(entries: Entries) -> str:
    """Return the claims of one lesson as Markdown."""
    lines = []
    for entry in entries:
        each = {key: plain(str(value)) for key, value in entry.items()}
        verdict = each["verdict"].capitalize()
        again = plain("; ".join(entry.get("again", [])))
        target = address(entry["lesson"], entry["cell"])
        lines += [
            f"```{{container}} claim{'' if entry['standing'] else ' not-shown'}",
            f"**{verdict}.** {each['claim']} {{ref}}`In the lesson <{target}>`",
            "",
            f"- *Measured:* {each['measurement']}",
            f"- *Strongest rival:* {each['rival']}",
            f"- *Measured for the rival:* {each['rival_measurement']}",
            f"- *Difference:* {each['difference']}",
            *[f"- *Measured again:* {again}"] * bool(again),
            f"- *What is left:* {each['left']}",
            "```",
            "",
        ]
    return "\n".join(lines)


def tree(entries: Entries) -> str:
    """Return the networks as a nested Markdown list, each below the one that it comes from."""

    def below(parent: str | None, indent: str) -> Iterable[str]:
        for each in entries:
            if each["parent"] == parent:
                said = [f"{each['robust']:.1f} % robust"]
                if each["training_eps"] != "none":
                    said.insert(0, f"trained against {each['training_eps']}")
                if each["parent_gives"]:
                    said.insert(0, each["parent_gives"])
                link = f"{{ref}}`{each['name']} <{row_name(each['name'])}>`"
                yield f"{indent}- {link}: {', '.join(said)}"
                yield from below(each["name"], f"{indent}  ")

    return "\n".join(["```{container} family", *below(None, ""), "```", ""])


COLUMNS = {
    "network": "name",
    "architecture": "architecture",
    "recipe": "recipe",
    "training budget": "training_eps",
    "seed": "seed",
    "clean (%)": "clean",
    "robust (%)": "robust",
}


def table(entries: Entries) -> str:
    """Return the networks as a Markdown table."""
    rows = [list(COLUMNS), ["---"] * len(COLUMNS)]
    rows += [[str(each[key]) for key in COLUMNS.values()] for each in entries]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def row_name(network: str) -> str:
    """Return the name of a network's row, to link to."""
    return f"network-{network}"


class Claims(SphinxDirective):
    """The list of all claims, with a section for each lesson."""

    def run(self) -> list[nodes.Node]:
        """Return how many claims stand, and the sections."""
        entries = read(self.env, "claims.json")
        docs = {Path(doc).name[:2]: doc for doc in self.env.found_docs}
        stand = sum(each["standing"] for each in entries)
        found: list[nodes.Node] = [nodes.paragraph("", f"{stand} of {len(entries)} claims stand.")]
        for lesson, of_lesson in groupby(entries, key=lambda each: each["lesson"]):
            section = nodes.section("", nodes.title("", f"Lesson {lesson}"))
            section["names"].append(f"lesson-{lesson}")
            self.state.document.note_implicit_target(section)
            link = f"{{doc}}`/{docs[f'{lesson:02d}']}`\n\n"
            section += self.parse_text_to_nodes(link + claims(list(of_lesson)))
            found.append(section)
        return found


class Networks(SphinxDirective):
    """The tree of the networks, and the table whose rows it links to."""

    def run(self) -> list[nodes.Node]:
        """Return both."""
        entries = read(self.env, "networks.json")
        family = self.parse_text_to_nodes(tree(entries))
        listed = self.parse_text_to_nodes(table(entries))
        for body in listed[0].findall(nodes.tbody):
            for row in body:
                row["names"].append(row_name(row[0].astext()))
                self.state.document.note_explicit_target(row)
        return [*family, *listed]


def register(app: Sphinx) -> None:
    """Register with Sphinx."""
    app.add_transform(AddressClaims)
    NbElementRenderer.render_unhandled = render_unhandled
    app.add_directive("claims", Claims)
    app.add_directive("networks", Networks)
