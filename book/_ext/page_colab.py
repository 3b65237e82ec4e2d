"""Below the title of a lesson, a link that opens the lesson in Colab.

It leads to the repository that `page_address` has found. Without one on GitHub there is no link.
The theme's launch button leads to the same address, but hides it behind an icon.
"""

from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sphinx.application import Sphinx


def address(options: dict[str, Any], page: str) -> str:
    """Return where Colab opens the notebook `page`, from the theme's options, or ""."""
    colab = options.get("launch_buttons", {}).get("colab_url")
    if not colab:
        return ""
    repository = urlsplit(options["repository_url"]).path
    return f"{colab}/github{repository}/blob/{options['repository_branch']}/{page}.ipynb"


def headed(body: str, link: str) -> str:
    """Return the body of a page with the link below its title."""
    title, end, rest = body.partition("</h1>")
    return (
        f'{title}{end}\n<p class="run-in-colab"><a href="{escape(link)}">Run in Colab</a></p>{rest}'
    )


def _on_page(
    app: Sphinx, pagename: str, _template: str, context: dict[str, Any], doctree: Any
) -> None:
    if doctree is None or Path(app.env.doc2path(pagename)).suffix != ".ipynb":
        return
    link = address(app.config.html_theme_options, pagename)
    if link:
        context["body"] = headed(context["body"], link)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("html-page-context", _on_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
