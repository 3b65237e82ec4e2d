"""Images to attack: float32 in [0, 1], shape (n, channels, height, width); and short passages."""

from advlib.data import signs
from advlib.data.classics import classic
from advlib.data.files import load_images, on_grid, save_images
from advlib.data.passages import Passage, passages
from advlib.data.photographs import PHOTOGRAPHS, photograph

__all__ = [
    "PHOTOGRAPHS",
    "Passage",
    "classic",
    "load_images",
    "on_grid",
    "passages",
    "photograph",
    "save_images",
    "signs",
]
