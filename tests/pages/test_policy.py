"""What the pages' content security policy stops."""

from pathlib import Path
from typing import Any

import pytest

INTRUDERS = {
    "a script in the page": "const s = document.createElement('script');"
    "s.textContent = 'window.intruded = true'; document.head.append(s)",
    "a handler on an element": "document.body.insertAdjacentHTML("
    "'beforeend', '<img src=\"data:,\" onerror=\"window.intruded = true\">')",
    "an address that is a script": "const a = document.createElement('a');"
    "a.href = 'javascript:window.intruded = true'; document.body.append(a); a.click()",
    "a script from elsewhere": "const s = document.createElement('script');"
    "s.src = 'http://127.0.0.1:9/intruder.js'; document.head.append(s)",
    "a message to elsewhere": "fetch('http://127.0.0.1:9/steal').catch(() => {})",
}


@pytest.mark.parametrize("home", ["served", "disk"])
@pytest.mark.parametrize("intruder", INTRUDERS)
def test_an_intruder_is_stopped(
    intruder: str, home: str, address: str, book: Path, browser: Any
) -> None:
    root = address if home == "served" else f"{book.as_uri()}/"
    page = browser.new_page()
    try:
        page.goto(root + "book/index.html", wait_until="load")
        # `evaluate` speaks for the test, not for the page, so no policy stops it.
        page.evaluate(
            "window.stopped = [];"
            "document.addEventListener('securitypolicyviolation', e => stopped.push(e.blockedURI))"
        )
        page.evaluate(INTRUDERS[intruder])
        page.wait_for_function("window.stopped.length > 0", timeout=5000)
        assert page.evaluate("window.intruded") is None
    finally:
        page.close()
