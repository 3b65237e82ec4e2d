"""The page that a host shows where there is none: 404.html at the top of the book.

A host sends it for any address, at any depth, so it brings its own style and its links name the
book by its full address. Without an address (a book on a disk) they are relative.
"""

import html
from pathlib import Path

from sphinx.application import Sphinx

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>Not found: {title}</title>
<link rel="icon" href="data:,">
<style>
html {{ background: #ffffff; color: #222832; color-scheme: light; }}
a {{ color: #00539c; }}
@media (prefers-color-scheme: dark) {{
html {{ background: #14181e; color: #ced6dd; color-scheme: dark; }}
a {{ color: #79b8ff; }}
}}
body {{ font: 1.1rem/1.6 system-ui, sans-serif; margin: 15vh auto; max-width: 34rem; }}
body {{ padding: 0 1rem; }}
h1 {{ font-size: 1.6rem; }}
</style>
</head>
<body>
<main>
<h1>There is no such page</h1>
<p>The address may be misspelt, or the page may have moved.</p>
<ul>
<li><a href="{base}book/index.html">{title}: the welcome page and all lessons</a></li>
<li><a href="{base}search.html">Search the book</a></li>
</ul>
</main>
</body>
</html>
"""


def page(title: str, base: str) -> str:
    """The page of a book that lies at `base`, an address that ends in a slash, or ``""``."""
    return PAGE.format(title=html.escape(title), base=html.escape(base, quote=True))


def write(app: Sphinx, error: Exception | None) -> None:
    """Write the page into the finished book."""
    if error is None and app.builder.format == "html":
        text = page(app.config.project, app.config.html_baseurl or "")
        (Path(app.outdir) / "404.html").write_text(text, encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    # Before the policies are written into all pages (990).
    app.connect("build-finished", write, priority=800)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
