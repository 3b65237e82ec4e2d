"""Begin a lesson: the frame that every lesson has, its checks, and their test.

python book/_tools/new_lesson.py 15-what-can-be-proved "A proof covers less than a measurement"

The frame runs and passes the tests of the frame as it is. What stands in capitals is to be
written; the frame itself is in book/_tools/frame.
"""

import re
import sys
from pathlib import Path

import nbformat
from execute import clean
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

FRAME = Path(__file__).resolve().parent / "frame"
ROOT = FRAME.parents[2]
FOLDED = {"jp-MarkdownHeadingCollapsed": True}
"""The metadata of a heading that JupyterLab folds, with what follows it."""


def filled(name: str, lesson: str, title: str) -> str:
    """One file of the frame, with the lesson's number and title."""
    text = (FRAME / name).read_text(encoding="utf-8")
    digits = lesson[:2]
    for word, value in {"DIGITS": digits, "NUMBER": str(int(digits)), "TITLE": title}.items():
        text = text.replace(word, value)
    return text


def notebook(text: str, first: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Make the cells that `text` describes; the cell for Colab is that of the `first` lesson."""
    (colab,) = [cell for cell in first.cells if "colab" in cell.metadata.get("tags", [])]
    cells = []
    for number, part in enumerate(re.split(r"(?m)^%% ", text)[1:]):
        head, _, body = part.partition("\n")
        kind, _, tags = head.partition(": ")
        metadata = {"tags": tags.split(", ")} if tags else {}
        body = body.strip("\n")
        if kind == "colab":
            cell = new_code_cell(colab.source, metadata=dict(colab.metadata))
        elif kind == "code":
            cell = new_code_cell(body, metadata=metadata)
        else:
            cell = new_markdown_cell(body, metadata=FOLDED if body == "### Answer" else {})
        cell["id"] = f"cell-{number:02d}"
        cells.append(cell)
    return clean(new_notebook(cells=cells))


def begin(root: Path, lesson: str, title: str) -> list[Path]:
    """Write the files of a lesson below `root`; nothing that exists is overwritten."""
    digits = lesson[:2]
    first = nbformat.read(ROOT / "notebooks" / "01-see-it-happen.ipynb", as_version=4)
    files = {
        root / "notebooks" / f"{lesson}.ipynb": nbformat.writes(
            notebook(filled("lesson.txt", lesson, title), first)
        )
        + "\n",
        root / "advlib" / "lessons" / f"lesson_{digits}.py": filled("checks.txt", lesson, title),
        root / "tests" / "lessons" / f"test_lesson_{digits}.py": filled("test.txt", lesson, title),
    }
    there = [path for path in files if path.exists()]
    there += root.glob(f"notebooks/{digits}-*.ipynb")
    if there:
        raise SystemExit(f"{there[0].relative_to(root)} exists already; choose another number.")
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return list(files)


def main() -> None:
    """Run the command line."""
    arguments = sys.argv[1:]
    if len(arguments) != 2 or not re.fullmatch(r"\d\d(-[a-z0-9]+)+", arguments[0]):
        raise SystemExit('make new-lesson NAME=15-two-words TITLE="The finding, in one line"')
    for path in begin(ROOT, *arguments):
        print(f"wrote {path.relative_to(ROOT)}")
    print(f"Next: add notebooks/{arguments[0]} to _toc.yml, write what stands in capitals, and")
    print(f"refresh the outputs: python book/_tools/execute.py notebooks/{arguments[0]}.ipynb")


if __name__ == "__main__":
    main()
