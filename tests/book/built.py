"""The built book, page by page, and small books that are built for a test."""

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import bs4
import pytest
from repository import ROOT

HTML = ROOT / "_build" / "html"
PAGES = sorted(path for path in HTML.glob("**/*.html") if "_static" not in path.parts)

built = pytest.mark.skipif(not PAGES, reason="the book is not built: run `make book`")

BADGE = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://a.b)"


@cache
def soup(path: Path) -> "bs4.BeautifulSoup":
    return bs4.BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def code(name: str, metadata: dict[str, Any], source: str) -> dict[str, Any]:
    """Return an executed cell without outputs."""
    cell = {"cell_type": "code", "execution_count": 1, "outputs": []}
    return {**cell, "id": name, "metadata": metadata, "source": source}


def small_book(
    folder: Path, page: str, lesson: str = "notebooks/lesson"
) -> subprocess.CompletedProcess[str]:
    """Build a book of one page and one small lesson with this book's own configuration."""
    shutil.copy(ROOT / "_config.yml", folder)
    shutil.copytree(ROOT / "book", folder / "book", ignore=shutil.ignore_patterns("*.md"))
    # Not the extension's parent folder: it reads the package's scripts.
    shutil.copytree(ROOT / "advlib" / "widgets", folder / "advlib" / "widgets")
    vendored = ROOT / "_build" / "vendor"
    if vendored.exists():
        shutil.copytree(vendored, folder / "_build" / "vendor")
    toc = f"format: jb-book\nroot: index\nchapters:\n- file: {lesson}\n"
    (folder / "_toc.yml").write_text(toc)
    (folder / "index.md").write_text(page)
    checked = {"tags": ["checked"], "jupyter": {"source_hidden": True, "outputs_hidden": True}}
    content = {
        "cells": [
            {"cell_type": "markdown", "id": "a", "metadata": {}, "source": f"# Lesson\n\n{BADGE}"},
            code("b", checked, "assert True"),
            code("c", {"tags": ["hide-cell", "colab"]}, "import google.colab"),
        ],
        "metadata": {
            "kernelspec": {"name": "python3", "display_name": "Python 3"},
            "language_info": {"name": "python", "pygments_lexer": "ipython3"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    (folder / lesson).parent.mkdir(exist_ok=True)
    (folder / f"{lesson}.ipynb").write_text(json.dumps(content))
    command = [Path(sys.executable).with_name("jupyter-book"), "build", "-W", "-n", "."]
    environ = {k: v for k, v in os.environ.items() if not k.startswith("GITHUB_")}
    environ["GITHUB_REPOSITORY"] = "someone/fork"
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True)
