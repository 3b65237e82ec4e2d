"""Classifiers to attack: small architectures, trained lesson models, ImageNet networks."""

from advlib.models.architectures import MLP, Linear, PlainCNN, SignNet, SignViT
from advlib.models.imagenet import Normalised, imagenet
from advlib.models.lesson import NAMES, card, load

__all__ = [
    "MLP",
    "NAMES",
    "Linear",
    "Normalised",
    "PlainCNN",
    "SignNet",
    "SignViT",
    "card",
    "imagenet",
    "load",
]
