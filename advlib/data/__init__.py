"""Pictures to attack: float32 in [0, 1], shape (n, channels, height, width)."""

from advlib.data import signs
from advlib.data.classics import classic
from advlib.data.photographs import photograph

__all__ = ["classic", "photograph", "signs"]
