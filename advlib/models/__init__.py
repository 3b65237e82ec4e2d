"""Networks to attack: small architectures, lesson models, ImageNet networks, a sentence encoder."""

from advlib.models.architectures import MLP, Linear, PlainCNN, SignNet, SignViT
from advlib.models.efficientnet import EfficientNetLite0
from advlib.models.imagenet import Normalised, imagenet
from advlib.models.minilm import MiniLM, minilm
from advlib.models.shipped import NAMES, card, load

__all__ = [
    "MLP",
    "NAMES",
    "EfficientNetLite0",
    "Linear",
    "MiniLM",
    "Normalised",
    "PlainCNN",
    "SignNet",
    "SignViT",
    "card",
    "imagenet",
    "load",
    "minilm",
]
