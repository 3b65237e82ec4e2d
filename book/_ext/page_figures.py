"""Alternative text for the figures of a lesson.

A figure says what it shows in the metadata of its output, `{"image/png": {"alt": "..."}}`.
myst-nb reads an alternative text only from the cell, where two figures would have to share one.
"""

from docutils import nodes
from myst_nb.core.render import MimeData, NbElementRenderer
from sphinx.application import Sphinx
from sphinx.util import logging

LOG = logging.getLogger(__name__)

_render_image = NbElementRenderer.render_image


def render_image(self: NbElementRenderer, data: MimeData) -> list[nodes.Element]:
    """Render as myst-nb does, with the output's own alternative text; warn if there is none."""
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


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    NbElementRenderer.render_image = render_image
    return {"parallel_read_safe": True, "parallel_write_safe": True}
