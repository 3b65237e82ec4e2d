"""Finish the book: every built page goes through `STEPS`, in their order.

Sphinx and the theme write pages that load a dozen style sheets and a drawing program for icons, and
that leave formulas to a script. The steps turn them into pages that load little, move nothing and
may run nothing but what is theirs. Each step is a pure function of a page and of the book as the
steps before it left it; each page is read once and written once.
"""

from dataclasses import replace
from pathlib import Path

from sphinx.application import Sphinx

from finish import (
    drawings,
    formulas,
    icons,
    large,
    policy,
    repairs,
    scripts,
    sizes,
    styles,
    tables,
    vendor,
)
from finish.pages import Book, Page, Step, of_html

STEPS: tuple[Step, ...] = (
    # Formulas first: they are found by the markup that Sphinx gives them, and a page whose formulas
    # are typeset loses the script that would do it.
    formulas.typeset_formulas,
    # The theme's elements, before icons: some repairs concern `<i>` elements that icons replace.
    of_html(repairs.repair),
    of_html(repairs.tidy_head),
    scripts.defer,
    of_html(icons.draw),
    drawings.inline,
    # What is large leaves the page before what remains gets its size.
    large.move_out,
    of_html(sizes.count_columns),
    of_html(sizes.split_lines),
    of_html(tables.label),
    sizes.size_images,
    # Now each element and class of every page is there: rules that none of them needs can go.
    styles.link,
    # Last: the policy names scripts by their hashes, so nothing may change a script after it.
    of_html(policy.guard),
)


def finished(book: Book) -> Book:
    """Return the book after all steps."""
    for step in STEPS:
        book = replace(book, pages=tuple(step(page, book) for page in book.pages))
    return book


def finish(app: Sphinx, error: Exception | None) -> None:
    """Read the built pages, finish them, and write those that have changed and what they need."""
    if error is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    icons.remove_script(out)
    scripts.ask_what_shows(out)
    paths = sorted(out.glob("**/*.html"))
    built = [Page(path.relative_to(out).as_posix(), path.read_text("utf-8")) for path in paths]
    pages = finished(Book(out, tuple(built), vendor.mathjax(Path(app.srcdir)))).pages
    for name, content in {n: c for page in pages for n, c in page.files.items()}.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_bytes(content)
    for path, before, page in zip(paths, built, pages, strict=True):
        if page.html != before.html:
            path.write_text(page.html, encoding="utf-8")
    large.remove_unused(out, pages)
    drawings.remove_inlined(out)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    scripts.drop_thebe(app)
    app.connect("config-inited", vendor.serve_fonts)
    # After the table of contents has written the front door (500).
    app.connect("build-finished", finish, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
