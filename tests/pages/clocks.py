"""Clocks for what a page computes."""

from collections.abc import Callable
from typing import Any


def thread_time(page: Any) -> Callable[[], float]:
    """Return a clock of the page's own thread: other work on this machine does not count."""
    session = page.context.new_cdp_session(page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def seconds() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return next(m["value"] for m in metrics if m["name"] == "TaskDuration")

    return seconds
