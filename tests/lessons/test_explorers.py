"""What the plug-in of the lessons asks of each: every position of its explorers, and its time."""

import explorers
import pytest


def test_all_that_is_offered_is_stored_or_asked_for() -> None:
    controls = [
        {"name": "k", "labels": ["0", "1", "2"], "stored": [0, 2]},
        {"name": "norm", "labels": ["l2", "linf"], "stored": [0, 1]},
    ]
    assert list(explorers.unstored(controls)) == [{"k": 1, "norm": 0}, {"k": 1, "norm": 1}]


def test_a_lesson_that_works_too_long_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    # Not this process's own time: it may have run many tests before.
    monkeypatch.setattr(explorers.os, "times", lambda: (300.0, 100.0, 90.0, 9.0, 1e6))
    explorers.check_time()
    monkeypatch.setattr(explorers, "LIMIT", 498)
    with pytest.raises(AssertionError, match="took 499 s of the processor; at most 498 s"):
        explorers.check_time()
