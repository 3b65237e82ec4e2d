"""Forty short passages to search in, written for this course (CC BY 4.0), and a query for each."""

from importlib import resources
from typing import NamedTuple


class Passage(NamedTuple):
    """A passage of three sentences."""

    topic: str
    query: str
    """A question that the passage answers, mostly in other words."""
    text: str


def passages() -> list[Passage]:
    """All forty, in a fixed order."""
    file = resources.files("advlib.data") / "passages.txt"
    blocks = file.read_text(encoding="utf-8").strip().split("\n\n")
    return [Passage(*block.split("\n")) for block in blocks]
