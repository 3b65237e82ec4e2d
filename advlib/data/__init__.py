"""Pictures to attack: float32 in [0, 1], shape (n, channels, height, width)."""

from advlib.data import signs

__all__ = ["signs"]
