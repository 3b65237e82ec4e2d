"""What the course adds to Jupyter Book: lessons, explorers, the reader's progress, the labs, the
lists of claims and networks, and where the reference is used."""

from sphinx.application import Sphinx

from course import explorers, labs, lesson, lists, live_lab, photo_page, progress, uses


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    for part in (lesson, explorers, progress, labs, live_lab, photo_page, lists, uses):
        part.register(app)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
