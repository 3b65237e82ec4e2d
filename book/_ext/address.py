"""Where the repository and the published book live: found out, never written down.

A fork's pages link to the fork. The address comes from the hosting environment
(GITHUB_REPOSITORY) or from git's remote "origin". With neither, the pages show no launch
button, no link to Colab, no repository link, no canonical address and no site map.
"""

import os
import re
import subprocess
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sphinx.application import Sphinx
from sphinx.config import Config

_REMOTE = re.compile(r"^(?:(?:https?|ssh|git)://(?:[^@/]+@)?|[\w.-]+@)([\w.-]+)(?::\d+)?[:/](.+)$")

PREVIEW = "_static/social.png"
TAGS = (
    '<meta property="og:image:width" content="1200" />',
    '<meta property="og:image:height" content="630" />',
    '<meta name="twitter:card" content="summary_large_image" />',
)
"""The image that a link to the book shows elsewhere (book/_tools/cover.py), its size, and how."""


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def from_remote(remote: str) -> str:
    """Return the web address of a git remote, or "" if it is not on a web host.

    >>> from_remote("git@github.com:someone/course.git")
    'https://github.com/someone/course'
    """
    match = _REMOTE.match(remote)
    if match is None:
        return ""
    path = match[2].strip("/").removesuffix(".git")
    return f"https://{match[1]}/{path}" if path.count("/") else ""


def repository(root: Path, environ: Mapping[str, str] = os.environ) -> str:
    """Return the repository's web address, or ""."""
    name = environ.get("GITHUB_REPOSITORY", "")
    if name:
        server = environ.get("GITHUB_SERVER_URL", "https://github.com")
        return f"{server.rstrip('/')}/{name}"
    # A folder inside somebody else's repository is not that repository.
    if not (root / ".git").exists():
        return ""
    return from_remote(_git(root, "remote", "get-url", "origin"))


def branch(root: Path, environ: Mapping[str, str] = os.environ) -> str:
    """Return the branch that links name: the one that is built if it is published, else main."""
    if environ.get("GITHUB_REF_TYPE") == "branch" and "/" not in environ["GITHUB_REF_NAME"]:
        return environ["GITHUB_REF_NAME"]
    head = _git(root, "symbolic-ref", "--short", "refs/remotes/origin/HEAD")
    return head.removeprefix("origin/") or "main"


def site(repository_url: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return the address of the published book: BOOK_URL, else GitHub Pages', else ""."""
    if environ.get("BOOK_URL"):
        return environ["BOOK_URL"].rstrip("/") + "/"
    parts = urlsplit(repository_url)
    if parts.hostname != "github.com":
        return ""
    owner, name = parts.path.strip("/").split("/")[:2]
    host = f"{owner.lower()}.github.io"
    return f"https://{host}/" if name.lower() == host else f"https://{host}/{name}/"


def set_addresses(app: Sphinx, config: Config) -> None:
    """Fill the theme's options from the address."""
    root = Path(app.srcdir)
    url = repository(root)
    options = config.html_theme_options
    options["launch_buttons"] = {}
    if url:
        options["repository_url"] = url
        options["repository_branch"] = branch(root)
        options["use_repository_button"] = True
        options["use_issues_button"] = True
    if urlsplit(url).hostname == "github.com":
        options["launch_buttons"] = {"colab_url": "https://colab.research.google.com"}
    config.html_baseurl = config.ogp_site_url = site(url)
    if site(url):  # what a link to the book shows elsewhere; it needs a full address
        config.ogp_image = PREVIEW
        config.ogp_image_alt = "A stop sign, the same with noise, and the same under attack"
        config.ogp_custom_meta_tags = list(TAGS)
    config.sitemap_url_scheme = "{link}"
    config.sitemap_show_lastmod = False
    config.sitemap_excludes = ["404.html"]


def in_colab(options: Mapping[str, Any], page: str) -> str:
    """Return where Colab opens the notebook `page`, from the theme's options, or ""."""
    colab = options.get("launch_buttons", {}).get("colab_url")
    if not colab:
        return ""
    path = urlsplit(options["repository_url"]).path
    return f"{colab}/github{path}/blob/{options['repository_branch']}/{page}.ipynb"


def link_to_colab(
    app: Sphinx, pagename: str, _template: str, context: dict[str, Any], doctree: Any
) -> None:
    """Open a lesson in Colab from below its title: the theme hides its launch button in a menu."""
    if doctree is None or Path(app.env.doc2path(pagename)).suffix != ".ipynb":
        return
    if address := in_colab(app.config.html_theme_options, pagename):
        link = f'<p class="run-in-colab"><a href="{escape(address)}">Run in Colab</a></p>'
        context["body"] = context["body"].replace("</h1>", f"</h1>\n{link}", 1)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.setup_extension("sphinxext.opengraph")
    # sphinx-sitemap warns where there is no address, and a warning ends our build.
    if site(repository(Path(app.srcdir))):
        app.setup_extension("sphinx_sitemap")
    # Before the extensions that read these values.
    app.connect("config-inited", set_addresses, priority=100)
    app.connect("html-page-context", link_to_colab)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
