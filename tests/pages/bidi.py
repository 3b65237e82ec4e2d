"""Firefox, driven through WebDriver BiDi (https://www.w3.org/TR/webdriver-bidi/).

Playwright drives a Firefox of its own making. This is the reader's: the system's, as it is. Only
what the tests of the pages need of the protocol is here: JSON messages over one web socket, where
each command has a number that its answer repeats, and events come in between.
"""

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import websocket

PATIENCE = 60  # seconds for one answer: other work may keep this machine busy
EVENTS = ["log.entryAdded", "network.beforeRequestSent", "network.fetchError"]
EVENTS += ["network.responseCompleted"]
# Firefox reports no requests for files on disk, and violations of a policy to the page alone.
LISTEN = """() => {
  const note = (text) => (window.noted ??= []).push(text);
  addEventListener("error", ({ target }) => {
    if (target !== window) note(`failed: ${target.src ?? target.href}`);
  }, true);
  addEventListener("securitypolicyviolation", (event) => {
    note(`policy ${event.violatedDirective}: ${event.blockedURI}`);
  });
}"""
KEYS = {"Tab": "\ue004", "Enter": "\ue006", "Space": " ", "End": "\ue010", "Home": "\ue011"}
KEYS |= {"ArrowLeft": "\ue012", "ArrowUp": "\ue013", "ArrowRight": "\ue014", "ArrowDown": "\ue015"}

# Firefox logs this by itself, at no place of any script, now and then even for an empty page.
OWN = 'Error: Permission denied to access property "length"'


class Firefox:
    """One tab of a running Firefox.

    Attributes
    ----------
    problems : list of str
        What has gone wrong in the page since `open`: messages on the console, requests.
    """

    def __init__(self, address: str) -> None:
        # With an `Origin`, Firefox would take the client for a web page and refuse it.
        self._socket = websocket.create_connection(
            f"{address}/session", timeout=PATIENCE, suppress_origin=True
        )
        self._number = 0
        self._root = ""
        self.problems: list[str] = []
        self.call("session.new", capabilities={})
        self.call("session.subscribe", events=EVENTS)
        self.call("script.addPreloadScript", functionDeclaration=LISTEN)
        # In the tab that is there at the start, the keyboard belongs to the address bar.
        self._tab = self.call("browsingContext.create", type="tab")["context"]
        self.call("browsingContext.activate", context=self._tab)

    def call(self, method: str, **params: Any) -> Any:
        """Give one command and return what it results in."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv())
            if message["type"] == "event":
                self._hear(message["method"], message["params"])
            elif message["id"] == self._number:
                if message["type"] == "error":
                    raise RuntimeError(f"{method}: {message['error']}: {message['message']}")
                return message["result"]

    def _hear(self, event: str, said: dict[str, Any]) -> None:
        if event == "log.entryAdded":
            if said["level"] == "error" and not (said["text"] == OWN and "stackTrace" not in said):
                self.problems.append(f"console: {said['text']}")
            return
        address = said["request"]["url"]
        if not address.startswith((self._root, "data:", "blob:")):
            self.problems.append(f"foreign: {address}")
        elif event == "network.fetchError":
            self.problems.append(f"{said['errorText']}: {address}")
        elif event == "network.responseCompleted" and said["response"]["status"] >= 400:
            self.problems.append(f"{said['response']['status']}: {address}")

    # -- the page

    def open(self, root: str, path: str) -> None:
        """Open a page, wait until it has loaded, and begin to note problems."""
        self._go("about:blank")
        self.problems, self._root = [], root
        self._go(root + path)

    def _go(self, address: str) -> None:
        self.call("browsingContext.navigate", context=self._tab, url=address, wait="complete")

    def reload(self) -> None:
        """Load the page again, and wait until it has loaded."""
        self.call("browsingContext.reload", context=self._tab, wait="complete")

    def evaluate(self, expression: str) -> Any:
        """Return what a JavaScript expression, or the promise that it is, comes to."""
        answer = self.call(
            "script.evaluate",
            expression=f"(async () => JSON.stringify((await ({expression})) ?? null))()",
            target={"context": self._tab},
            awaitPromise=True,
        )
        if answer["type"] == "exception":
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']['text']}")
        return json.loads(answer["result"]["value"])

    def wait(self, expression: str) -> Any:
        """Wait until an expression is true, and return what it is."""
        end = time.monotonic() + PATIENCE
        while not (found := self.evaluate(expression)):
            assert time.monotonic() < end, f"{expression}: not true for {PATIENCE} seconds"
            time.sleep(0.05)
        return found

    def complaints(self) -> list[str]:
        """Return all that has gone wrong in the page so far."""
        noted = self.evaluate("window.noted ?? []")  # and every event before it has come, too
        return self.problems + noted

    def resize(self, width: int, height: int) -> None:
        """Give the page another size, in CSS pixels."""
        size = {"width": width, "height": height}
        self.call("browsingContext.setViewport", context=self._tab, viewport=size)

    # -- the reader's hands

    def press(self, *keys: str) -> None:
        """Press keys, by name or letter, one after the other."""
        steps = [
            {"type": kind, "value": KEYS.get(key, key)}
            for key in keys
            for kind in ("keyDown", "keyUp")
        ]
        self._act({"type": "key", "id": "keyboard", "actions": steps})

    def click(self, element: str, at: float = 0.5) -> None:
        """Click an element, given as an expression, at a share of its width."""
        self.evaluate(f"{element}.scrollIntoView({{block: 'center', behavior: 'instant'}})")
        box = self.evaluate(f"{element}.getBoundingClientRect().toJSON()")
        x, y = box["x"] + at * box["width"], box["y"] + box["height"] / 2
        press = [{"type": f"pointer{way}", "button": 0} for way in ("Down", "Up")]
        move = {"type": "pointerMove", "x": round(x), "y": round(y)}
        self._act({"type": "pointer", "id": "mouse", "actions": [move, *press]})

    def upload(self, element: str, path: Path) -> None:
        """Choose a file in an ``input``, given as an expression."""
        found = self.call(
            "script.evaluate", expression=element, target={"context": self._tab}, awaitPromise=False
        )
        node = {"sharedId": found["result"]["sharedId"]}
        self.call("input.setFiles", context=self._tab, element=node, files=[str(path)])

    def _act(self, source: dict[str, Any]) -> None:
        self.call("input.performActions", context=self._tab, actions=[source])


@contextmanager
def running(executable: str, profile: Path, settings: dict[str, Any]) -> Iterator[Firefox]:
    """Start Firefox without a window and with an empty profile; end it at the end."""
    lines = [f"user_pref({json.dumps(n)}, {json.dumps(v)});\n" for n, v in settings.items()]
    (profile / "user.js").write_text("".join(lines), encoding="utf-8")
    command = [executable, "--headless", "--no-remote", "--profile", str(profile)]
    process = subprocess.Popen(
        [*command, "--remote-debugging-port", "0"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # it may be started by a script, and starts many processes itself
    )
    try:
        yield Firefox(_address(process))
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _address(process: subprocess.Popen[str]) -> str:
    """Read where Firefox listens; it says so on its standard error."""
    assert process.stderr
    said = []
    stop = threading.Timer(PATIENCE, process.kill)
    stop.start()
    for line in process.stderr:
        said.append(line)
        if found := re.search(r"WebDriver BiDi listening on (ws://\S+)", line):
            stop.cancel()
            # Read on, so that Firefox never waits for a reader.
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return found[1]
    raise RuntimeError(f"Firefox did not start:\n{''.join(said)}")
