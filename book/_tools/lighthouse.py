"""Measure three pages of the built book with Lighthouse.

python book/_tools/lighthouse.py LIGHTHOUSE

`LIGHTHOUSE` is the script of the npm package; `make lighthouse` fetches it and runs this. Each page
is measured as a telephone with a slow network would load it, three times, because a busy machine
loads more slowly; the run with the median performance counts. A score below the wanted one ends the
program with a failure, unless each audit that lost points stands in `REASONS`.
"""

import gzip
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

HTML = Path(__file__).resolve().parents[2] / "_build" / "html"
PAGES = ("book/index.html", "notebooks/04-pgd.html", "book/api-attacks.html")
WANTED = {"performance": 90, "accessibility": 100, "best-practices": 100, "seo": 100}
ROUNDS = 3
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

REASONS: dict[str, str] = {}
"""Which part of the theme costs the points of an audit, by the audit's name."""

Report = dict[str, Any]


class Host(SimpleHTTPRequestHandler):
    """Serve files as a host of static pages does: compressed, on open connections, to be kept."""

    protocol_version = "HTTP/1.1"
    packed = (".html", ".css", ".js", ".mjs", ".json", ".svg", ".txt", ".xml")

    def send_head(self) -> BytesIO | BinaryIO | None:
        """Send the headers; return what follows them, text in fewer bytes."""
        path = Path(self.translate_path(self.path))
        if path.suffix not in self.packed or not path.is_file():
            return super().send_head()
        body = gzip.compress(path.read_bytes())
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(str(path)))
        self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        return BytesIO(body)

    def end_headers(self) -> None:
        """Let the browser keep each file for ten minutes, as GitHub Pages does."""
        self.send_header("Cache-Control", "max-age=600")
        super().end_headers()

    def log_message(self, *arguments: Any) -> None:
        """Say nothing: the table is the report."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve `folder` on this machine temporarily; yield its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Host, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def measure(script: str, browser: str, url: str) -> Report:
    """Load a page once, and return Lighthouse's report."""
    command = ["node", script, url, "--quiet", "--output=json", "--output-path=stdout"]
    command += [f"--only-categories={','.join(WANTED)}", f"--chrome-flags={' '.join(FLAGS)}"]
    environ = {**os.environ, "CHROME_PATH": browser}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"Lighthouse could not measure {url}:\n{done.stderr}")
    report: Report = json.loads(done.stdout)
    return report


def scores(report: Report) -> dict[str, int]:
    """Return the points of each category, of 100; a category that could not be measured has 0."""
    return {name: round(100 * (report["categories"][name]["score"] or 0)) for name in WANTED}


def lost(report: Report, category: str) -> dict[str, str]:
    """Return the audits that cost the category points, and what each says of the page."""
    audits = {}
    for part in report["categories"][category]["auditRefs"]:
        audit = report["audits"][part["id"]]
        # An audit that does not apply to the page, or only informs, has no score.
        if part["weight"] and audit["score"] is not None and audit["score"] < 1:
            audits[part["id"]] = f"{audit['title']} {audit.get('displayValue', '')}".strip()
    return audits


def median(reports: list[Report]) -> Report:
    """Return the report whose performance is neither the best nor the worst."""
    return sorted(reports, key=lambda report: scores(report)["performance"])[len(reports) // 2]


def unexplained(report: Report, reasons: dict[str, str]) -> list[str]:
    """Return the audits without a reason, in the categories that miss the wanted score."""
    short = [name for name, points in scores(report).items() if points < WANTED[name]]
    return [audit for name in short for audit in lost(report, name) if audit not in reasons]


def table(reports: dict[str, Report]) -> str:
    """Write the scores of each page, and below them what cost points."""
    lines = ["  ".join([f"{'page':24}", *WANTED])]
    for page, report in reports.items():
        points = (f"{value:>{len(name)}}" for name, value in scores(report).items())
        lines.append("  ".join([f"{page:24}", *points]))
    for page, report in reports.items():
        for name in WANTED:
            for audit, said in lost(report, name).items():
                lines.append(f"{page}: {name}: {audit}: {REASONS.get(audit, said)}")
    return "\n".join(lines)


def main() -> None:
    """Measure the pages, print the table, and fail where points are lost for no known reason."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise SystemExit("Chromium is missing: sudo apt-get install chromium")
    with served(HTML) as address:
        reports = {
            page: median([measure(sys.argv[1], browser, address + page) for _ in range(ROUNDS)])
            for page in PAGES
        }
    print(table(reports))
    missed = {page: unexplained(report, REASONS) for page, report in reports.items()}
    if any(missed.values()):
        raise SystemExit(f"Points are lost for no known reason: {missed}")


if __name__ == "__main__":
    main()
