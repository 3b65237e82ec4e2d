"""Leave sphinx-thebe out.

Jupyter Book 1 loads sphinx-thebe for every book. It declares the same constants twice, which
throws on each page, and names a third-party host. The course does not use it.
"""

from sphinx.application import Sphinx


def drop_thebe(app: Sphinx) -> None:
    """Disconnect what sphinx-thebe has connected, and unlist its style sheet."""
    for listeners in app.events.listeners.values():
        for listener in list(listeners):
            if listener.handler.__module__.split(".")[0] == "sphinx_thebe":
                listeners.remove(listener)
    app.registry.css_files[:] = [
        entry for entry in app.registry.css_files if entry[0] != "sphinx-thebe.css"
    ]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    # Loaded here, it cannot come back after us.
    app.setup_extension("sphinx_thebe")
    drop_thebe(app)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
