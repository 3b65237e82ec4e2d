"""Logits of EfficientNet-Lite0 by another implementation, stored for test_efficientnet.py.

python tests/models/peer_logits.py

It needs efficientnet-lite-pytorch==0.1.0, which nothing else does: install it elsewhere, with
``pip install --no-deps --target FOLDER``, and put the folder into PYTHONPATH. What it computes on
is cut out of the photographs in whole pixels, so that no resizing can change it.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from advlib.data.photographs import PHOTOGRAPHS, _installed
from advlib.models.efficientnet import installed_weights

STORED = Path(__file__).parent / "peer_logits.safetensors"
SIDES = {"cat": (224, 224), "coffee": (224, 224), "camera": (222, 202), "rocket": (319, 257)}
"""Height and width of what is cut out: the network halves even sides and odd ones."""


def levels(name: str) -> Tensor:
    """The middle of a photograph in whole levels from 0 to 255, shape (1, 3, h, w)."""
    image = Image.open(_installed(PHOTOGRAPHS[name].file)).convert("RGB")
    height, width = SIDES[name]
    left, top = (image.width - width) // 2, (image.height - height) // 2
    pixels = np.array(image.crop((left, top, left + width, top + height)))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float()


def main() -> None:
    """Compute the logits and store them."""
    from efficientnet_lite_pytorch import EfficientNet

    logits = {}
    for name, sides in SIDES.items():
        net = EfficientNet.from_name("efficientnet-lite0", image_size=sides).eval()
        net.load_state_dict(torch.load(installed_weights(), weights_only=True))
        with torch.no_grad():
            # The pixels that it was trained with: TensorFlow's efficientnet_lite_builder.py.
            logits[name] = net((levels(name) - 127) / 128)
    save_file(logits, STORED)


if __name__ == "__main__":
    main()
