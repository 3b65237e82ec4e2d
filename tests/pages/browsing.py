"""What the tests of the pages call: a server, readers whose browsers complain of nothing, and what
to do where a tool is missing."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest


def missing(sentence: str) -> None:
    """Fail where nothing may be left out, skip elsewhere; both with `sentence`."""
    if os.environ.get("CI") == "true":
        pytest.fail(sentence, pytrace=False)
    pytest.skip(sentence)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        """Say nothing: the tests report what fails."""


@contextmanager
def serving(folder: Path, handler: type[SimpleHTTPRequestHandler] = Quiet) -> Iterator[str]:
    """Serve a folder on this machine and say its address."""
    answer = partial(handler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@contextmanager
def readers(browser: Any) -> Iterator[Callable[..., Any]]:
    """Yield a function that starts a browser of a new reader; at the end no page complained.

    It takes a `script` that comes before those of every page, what complaints the test itself
    provokes (`expected`, a part of them), and Playwright's options of a context.
    """
    contexts, complaints = [], []

    def start(script: str = "", expected: str | None = None, **options: Any) -> Any:
        context = browser.new_context(**options)
        contexts.append(context)
        if script:
            context.add_init_script(script)

        def complain(text: str) -> None:
            if not (expected and expected in text):
                complaints.append(text)

        def listen(page: Any) -> None:
            page.on("pageerror", lambda error: complain(str(error)))
            page.on("console", lambda said: said.type == "error" and complain(said.text))

        context.on("page", listen)
        return context

    yield start
    for context in contexts:
        context.close()
    assert complaints == []
