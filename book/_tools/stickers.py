"""Train the stickers of lesson 12 for EfficientNet-Lite0 and write them into `advlib/data`.

python book/_tools/stickers.py            both, a few minutes each on one thread
python book/_tools/stickers.py espresso   this one
"""

import importlib.util
import sys
from pathlib import Path

import torch

import advlib
from advlib.attacks.patches import train_patch
from advlib.data import on_grid, photograph, save_images

DATA = Path(__file__).resolve().parents[2] / "advlib" / "data"
TARGETS = ("espresso", "toaster")
SCENES = ("astronaut", "brick", "grass", "gravel", "motorcycle_left")
PLACES = {"shift_x": (-0.5, 0.5), "shift_y": (-0.5, 0.5), "turn": (-0.1, 0.1), "scale": (0.5, 0.5)}
CAMERA = {"turn": (-0.05, 0.05)}


def sticker(target: str, steps: int = 500) -> torch.Tensor:
    """A sticker (3, 32, 32) that makes the network predict `target`, for places drawn at random."""
    network = advlib.models.imagenet()
    spec = importlib.util.find_spec("skimage")
    assert spec and spec.origin
    folder = Path(spec.origin).parent / "data"
    scenes = [photograph(folder / f"{name}.png", resize=146, crop=128) for name in SCENES]
    return train_patch(
        network,
        torch.cat(scenes),
        network.categories.index(target),
        size=32,
        steps=steps,
        batch_size=4,
        learning_rate=0.07,
        smoothness=0.0,
        sticker=PLACES,
        camera=CAMERA,
    )


if __name__ == "__main__":
    for target in sys.argv[1:] or TARGETS:
        (path,) = save_images(on_grid(sticker(target)[None]), DATA / target)
        path.rename(DATA / f"sticker_{target}.png")
        path.parent.rmdir()
