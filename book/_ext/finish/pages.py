"""What the steps hand on: the pages of the book."""

import posixpath
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path


@dataclass(frozen=True)
class Page:
    """One page."""

    name: str
    """Its path in the book, with slashes."""
    html: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Files of the book that it needs and that are not written yet, by their paths."""

    def path_to(self, file: str) -> str:
        """Return the address of a file of the book, as seen from this page."""
        return posixpath.relpath(file, posixpath.dirname(self.name) or ".")


@dataclass(frozen=True, eq=False)
class Book:
    """All pages. Equal only to itself, so that what is computed for all pages can be cached."""

    out: Path
    """The folder of the built book."""
    pages: tuple[Page, ...]
    mathjax: Path | None = None
    """MathJax for Node.js, or None where it could not be fetched."""


Step = Callable[[Page, Book], Page]


def of_html(change: Callable[[str], str]) -> Step:
    """Return the step that changes a page's HTML and needs nothing else."""
    return lambda page, _book: replace(page, html=change(page.html))
