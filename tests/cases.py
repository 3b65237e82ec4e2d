"""How many cases a slow property is tried on: a part of what the profile in conftest.py says."""

from hypothesis import settings


def fewer(by: int) -> settings:
    """As a decorator: the profile's number of cases divided by `by`, and never none."""
    return settings(max_examples=max(1, settings().max_examples // by))
