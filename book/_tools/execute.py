"""Execute the lessons again; save their outputs and widget states in place, their seals and claims.

python book/_tools/execute.py                         every lesson
python book/_tools/execute.py notebooks/04-*.ipynb    these
python book/_tools/execute.py --scripts               execute nothing: renew the script and style of
                                                      the stored widgets
"""

import os
import sys
import time
from pathlib import Path

import lists
import nbformat
import seals
from nbclient import NotebookClient

from advlib.widgets.base import PageWidget

ROOT = Path(__file__).resolve().parents[2]
CELL_TIMEOUT = 1800
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def clean(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Remove what differs from run to run: times of execution, the exact Python, cell states."""
    kept = {key: value for key, value in notebook.metadata.items() if key in ("mystnb", "widgets")}
    notebook.metadata = nbformat.from_dict(
        {**kept, "kernelspec": KERNEL, "language_info": {"name": "python"}}
    )
    for cell in notebook.cells:
        for key in ("execution", "collapsed", "ExecuteTime", "scrolled"):
            cell.metadata.pop(key, None)
    return notebook


def execute(path: Path) -> float:
    """Run the notebook at `path` in its own folder, save it, and return the seconds it took."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("widgets", None)
    start = time.monotonic()
    NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name=KERNEL["name"],
        resources={"metadata": {"path": str(path.parent)}},
        store_widget_state=True,
    ).execute()
    nbformat.write(clean(notebook), path)
    seals.seal(path)
    lists.renew_claims(path)
    return time.monotonic() - start


def renew_scripts(path: Path) -> None:
    """Put the script and style of `advlib.widgets` into the stored widgets of one notebook."""
    notebook = nbformat.read(path, as_version=4)
    for stored in notebook.metadata["widgets"][seals.STATE]["state"].values():
        if stored["state"].get("_anywidget_id", "").startswith("advlib."):
            stored["state"].update(_esm=str(PageWidget._esm), _css=str(PageWidget._css))
    nbformat.write(notebook, path)


def main() -> None:
    """Execute the notebooks named on the command line, or all of them."""
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    names = [name for name in sys.argv[1:] if name != "--scripts"]
    for path in map(Path, names) if names else sorted((ROOT / "notebooks").glob("*.ipynb")):
        if "--scripts" in sys.argv:
            renew_scripts(path)
        else:
            print(f"{path.name}: {execute(path):.0f} s", flush=True)


if __name__ == "__main__":
    main()
