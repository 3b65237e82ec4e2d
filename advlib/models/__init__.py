"""Classifiers to attack: small architectures, trained lesson models, ImageNet networks."""

from advlib.models.architectures import MLP, Linear, PlainCNN, SignNet, SignViT
from advlib.models.efficientnet import EfficientNetLite0
from advlib.models.imagenet import Normalised, imagenet
from advlib.models.shipped import NAMES, card, load

__all__ = [
    "MLP",
    "NAMES",
    "EfficientNetLite0",
    "Linear",
    "Normalised",
    "PlainCNN",
    "SignNet",
    "SignViT",
    "card",
    "imagenet",
    "load",
]
