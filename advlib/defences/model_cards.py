"""How the shipped models are measured: every number on a model card has its command.

``python -m advlib measure NAME`` attacks a model on images that training never saw and writes its
card. Nothing on a card is typed by hand.
"""

import json
import time
from functools import partial
from pathlib import Path

import torch
from torch import nn

from advlib.attacks import fgsm, noise, pgd
from advlib.data import signs
from advlib.defences.cost import Cost
from advlib.defences.intervals import certified
from advlib.defences.recipes import RELABELLED_BY, Recipe, find
from advlib.evaluation import Attack, Proportion, accuracy, predict, wilson
from advlib.models import shipped
from advlib.models.architectures import multiply_adds

MEASURE_SEED = 2_000_000
"""Seed of the held-out images; no recipe trains on it."""


def measure(
    model: nn.Module, images: int = 2000, *, stop_signs: int = 200, style: str = "vienna"
) -> dict[str, Proportion]:
    """Attack a sign model on held-out images, and on further stop signs; 0 leaves those out.

    Returns what was measured, in words, with its share and Wilson interval.
    """
    x, y = signs.render(images, seed=MEASURE_SEED, style=style)
    generator = torch.Generator().manual_seed(MEASURE_SEED)
    attacks: dict[str, Attack | None] = {
        "clean accuracy": None,
        "accuracy under random-sign noise, 4/255": lambda model, x, y: noise(
            x, 4 / 255, distribution="sign", generator=generator
        ),
        "accuracy under FGSM, 4/255": partial(fgsm, eps=4 / 255),
        "accuracy under PGD-20, 4/255": pgd20(4 / 255),
        "accuracy under PGD-20, 8/255": pgd20(8 / 255),
    }
    result = {words: accuracy(model, x, y, attack) for words, attack in attacks.items()}
    for levels in (2, 4) if stop_signs else ():
        words = (
            "stop sign classified as a chosen speed limit with p >= 0.9, targeted PGD-40, "
            f"{levels}/255"
        )
        result[words] = stop_becomes_limit(
            model, stop_signs, levels / 255, seed=MEASURE_SEED + 1, style=style
        )
    return result


def pgd20(eps: float) -> Attack:
    """PGD with 20 steps and one random start, as an attack for `accuracy`."""
    return partial(pgd, eps=eps, steps=20, early_stop=True)


def stop_becomes_limit(
    model: nn.Module, images: int, eps: float, *, seed: int = 0, style: str = "vienna"
) -> Proportion:
    """Share of stop signs that a targeted attack turns into a speed limit drawn for each.

    It counts only where the model gives the chosen limit a probability of at least 0.9.
    """
    x, _ = signs.render(images, seed=seed, labels=[0] * images, style=style)
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(1, 1 + len(signs.SPEED_LIMITS), (images,), generator=generator)
    parts = zip(x.split(200), target.split(200), strict=True)
    x_adv = torch.cat([pgd(model, a, b, eps, steps=40, targeted=True) for a, b in parts])
    confident = predict(model, x_adv).softmax(1).gather(1, target[:, None]) >= 0.9
    return wilson(int(confident.sum()), images)


def proved(model: nn.Module, images: int) -> dict[str, Proportion]:
    """What `measure` does not: shares that interval bounds certify, and PGD in such a ball."""
    x, y = signs.render(images, seed=MEASURE_SEED)
    result = {}
    for levels in (1, 2, 4):
        shown = certified(model, x, y, levels / 255)
        result[f"certified by interval bounds, {levels}/255"] = wilson(int(shown.sum()), images)
    result["accuracy under PGD-20, 1/255"] = accuracy(model, x, y, pgd20(1 / 255))
    return result


def write_card(name: str, *, images: int | None = None, stop_signs: int | None = None) -> Path:
    """Measure a shipped model and write its card beside the weights.

    By default on 2,000 images and 200 stop signs; for the students of lesson 8 and the networks
    that only lesson 9 uses on 1,000 images and no stop sign, for the denoiser on 200.
    """
    style = find(name).style
    sizes = {"signs-denoiser": (200, 0)} | dict.fromkeys(
        ("signs-small", "signs-student", "signs-mlp-"), (1000, 0)
    )
    usual = next((size for start, size in sizes.items() if name.startswith(start)), (2000, 200))
    images = usual[0] if images is None else images
    stop_signs = usual[1] if stop_signs is None else stop_signs
    begin = time.perf_counter()
    measured = measure(classifier(name), images, stop_signs=stop_signs, style=style)
    if find(name).objective == "interval bounds":
        measured |= proved(shipped.load(name), images)
    path = shipped.weights_path(name).with_suffix(".md")
    path.write_text(card(name, measured, time.perf_counter() - begin), encoding="utf-8")
    return path


def classifier(name: str) -> nn.Module:
    """The shipped model, or for a denoiser signs-standard behind it: what a card measures."""
    model = shipped.load(name)
    if find(name).objective != "denoising":
        return model
    return nn.Sequential(model, shipped.load("signs-standard")).eval()


def card(name: str, measured: dict[str, Proportion], seconds: float) -> str:
    """The model card, in Markdown: what was measured in `seconds`, the network, its training."""
    model, path = shipped.load(name), shipped.weights_path(name)
    metadata = shipped.read_metadata(path)
    recipe, made_with = json.loads(metadata["recipe"]), json.loads(metadata["versions"])
    parameters = sum(p.numel() for p in model.parameters())
    stopped = any(words.startswith("stop sign") for words in measured)
    stop_signs = f" (stop signs: {MEASURE_SEED + 1:,})" if stopped else ""
    lines = [
        f"# Model card: {name}",
        "",
        f"Written by `python -m advlib measure {name}`; not edited by hand.",
        "",
        recipe["purpose"],
        "",
        f"A lesson model: it classifies {len(signs.CLASS_NAMES)} traffic signs as "
        "`advlib.data.signs` renders them, and nothing else. It is made to be attacked and must "
        "not steer anything.",
        "",
        "## Measured",
        "",
        f"On images rendered from seed {MEASURE_SEED:,}{stop_signs}, "
        "which training did not use. 95 % Wilson intervals. Perturbations in the L-infinity ball.",
        "",
        "| | % | 95 % interval | count |",
        "|---|---|---|---|",
        *(_row(words, share) for words, share in measured.items()),
        "",
        "## Network",
        "",
        f"`{metadata['architecture']}`: {parameters:,} parameters, {multiply_adds(model):,} "
        f"multiply-adds an image; the weights file has {path.stat().st_size:,} bytes.",
        "",
        "## Training",
        "",
        f"`python -m advlib train {name} --threads {made_with['threads']}`: "
        f"{metadata['seconds']} s of wall clock ({made_with['processor']}), Python "
        f"{made_with['python']}, torch {made_with['torch']}.{_training_cost(metadata)}",
        "",
        "| setting | value |",
        "|---|---|",
        *(f"| {key} | {value} |" for key, value in origin(Recipe(**recipe)).items()),
        *(f"| {key} | {_setting(key, recipe)} |" for key in recipe if key != "purpose"),
        "",
        f"Measured in {seconds:.0f} s.",
        "",
    ]
    return "\n".join(lines)


def origin(recipe: Recipe) -> dict[str, str]:
    """What a network comes from, and the budget of the attack that it was trained against."""
    if recipe.start:
        parent = f"{recipe.start}: its weights"
    elif recipe.labels != "true" and recipe.attack != "noise":
        parent = f"{RELABELLED_BY}: it attacked the training images"
    else:
        parent = "none"
    attacked = recipe.eps and recipe.labels == "true"
    budget = f"{255 * recipe.eps:g}/255 in L-infinity" if attacked else "none"
    return {"parent": parent, "training budget": budget}


def _row(words: str, share: Proportion) -> str:
    low, high = 100 * share.low, 100 * share.high
    return (
        f"| {words} | {100 * share.value:.2f} | {low:.2f} to {high:.2f} "
        f"| {share.count} of {share.total} |"
    )


def _training_cost(metadata: dict[str, str]) -> str:
    """The cost of the training alone, which the older weights do not state."""
    if "cost" not in metadata:
        return ""
    cost = Cost(**json.loads(metadata["cost"]))
    return (
        f" The training alone took {cost.forward:,} images forward, {cost.backward:,} backward, "
        f"and {cost.seconds:.0f} s of processor time."
    )


def _setting(key: str, recipe: dict[str, str | float | None]) -> str:
    """A setting as a reader would write it: an L-infinity budget in /255, an L2 budget as it is."""
    value = recipe[key]
    if key != "eps" or not isinstance(value, float):
        return str(value)
    return f"{255 * value:g}/255" if recipe.get("labels", "true") == "true" else f"{value:g} in L2"
