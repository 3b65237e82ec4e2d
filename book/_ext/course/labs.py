"""How a lab comes into a page: its directive, its place in the document, its files, its HTML."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ASSETS = Path(__file__).resolve().parents[2] / "assets"
HERE = Path(__file__).parent

Html = Callable[[str, str], str]
"""The HTML of a lab, from where the page finds its files, with a slash at the end, and a query that
changes with them, so that no browser mixes old ones with new ones."""


class Kind(NamedTuple):
    """What there is to know of a lab."""

    folder: str
    """Where its files stand in the built book, with a slash at the end."""
    write: Callable[[Sphinx, Path], Html]
    """Writes the files into a folder; called once in a build, and only if a page has the lab."""


KINDS: dict[str, Kind] = {}


class Lab(nodes.General, nodes.Element):
    """The place of a lab in a page; its `name` is that of its directive."""


class _LabDirective(SphinxDirective):
    has_content = True  # for readers of the notebook; in the book the lab itself stands there

    def run(self) -> list[nodes.Node]:
        # A page is built again when what its lab is made of has changed.
        for pattern in ("lab/*", "photolab/*"):
            for path in sorted(ASSETS.glob(pattern)):
                self.env.note_dependency(str(path))
        for path in sorted(HERE.glob("*lab*.py")):
            self.env.note_dependency(str(path))
        return [Lab(name=self.name)]


def digest(folder: Path) -> str:
    """Return a query that changes with any of the lab's files."""
    files = sorted(path for path in folder.iterdir() if path.suffix in (".js", ".bin"))
    together = hashlib.sha256(b"".join(path.read_bytes() for path in files))
    return f"?v={together.hexdigest()[:8]}"


def _visit_html(translator: Any, node: Lab) -> None:
    builder = translator.builder
    kind = KINDS[node["name"]]
    out = Path(builder.outdir) / kind.folder
    made = builder.app.__dict__.setdefault("advlib_labs", {})
    if node["name"] not in made:
        out.mkdir(parents=True, exist_ok=True)
        made[node["name"]] = kind.write(builder.app, out), digest(out)
    html, version = made[node["name"]]
    home = builder.get_relative_uri(builder.current_docname, "index").rpartition("/")[0]
    translator.body.append(html(f"{home}/{kind.folder}".lstrip("/"), version))
    raise nodes.SkipNode


def _visit_other(_translator: Any, _node: Lab) -> None:
    raise nodes.SkipNode


def add(app: Sphinx, name: str, kind: Kind) -> None:
    """Make ``{name}`` a directive that puts the lab into a page."""
    KINDS[name] = kind
    app.add_directive(name, _LabDirective)


def register(app: Sphinx) -> None:
    """Register with Sphinx."""
    other = (_visit_other, None)
    app.add_node(Lab, html=(_visit_html, None), latex=other, text=other)
    app.add_css_file("lab/lab.css")
    app.add_css_file("photolab/photolab.css")
