"""How the shipped models were made, and how they are measured: every number has its command.

``python -m advlib train NAME`` writes the weights, ``python -m advlib measure NAME`` attacks them
on pictures that training never saw and writes the model card. Nothing on a card is typed by hand.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from advlib.attacks import fgsm, noise, pgd
from advlib.data import signs
from advlib.errors import InputError
from advlib.evaluation import Proportion, accuracy, predict, wilson
from advlib.models import lesson
from advlib.models.architectures import multiply_adds
from advlib.training import OnEpoch, Perturb, relabelled, train

MEASURE_SEED = 2_000_000
"""Seed of the held-out pictures; no recipe trains on it."""

RELABEL_EPS = 3.0
"""L2 budget of the relabelled pictures: as long as a change of 6.9/255 in every pixel value."""


@dataclass(frozen=True)
class Recipe:
    """All that decides a model's weights, beside the versions of the software."""

    name: str
    purpose: str
    data_seed: int = 1_000_000
    pictures: int = 8192
    epochs: int = 6
    batch_size: int = 64
    lr: float = 0.2
    weight_decay: float = 0.0
    average: float | None = None
    eps: float = 0.0
    ramp: float = 0.0
    steps: int = 0
    start: str | None = None
    seed: int = 0
    labels: str = "true"
    """``"true"``; or drawn by lot, on pictures steered to them (``"relabelled"``) or with noise of
    the same size (``"control"``)."""


RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            name="signs-standard",
            purpose="Standard training: the loss on the pictures as they are, and nothing else.",
        ),
        Recipe(
            name="signs-robust",
            purpose="PGD adversarial training (Madry et al. 2018) in the L-infinity ball.",
            epochs=6,
            lr=0.1,
            weight_decay=5e-4,
            average=0.995,
            eps=4 / 255,
            ramp=0.5,
            steps=2,
            start="signs-standard",
        ),
        Recipe(
            name="signs-linear",
            purpose="Standard training of a linear model.",
            epochs=40,
            lr=0.003,
        ),
        Recipe(
            name="signs-mlp",
            purpose="Standard training of a fully connected network on 32 x 32 averages.",
            epochs=30,
            lr=0.02,
        ),
        Recipe(
            name="signs-cnn",
            purpose="Standard training of a plain convolutional network.",
            epochs=10,
            lr=0.05,
        ),
        Recipe(
            name="signs-vit",
            purpose="Standard training of a small vision transformer.",
            epochs=12,
            batch_size=32,
            lr=0.05,
        ),
        *(
            Recipe(
                name=f"signs-{labels}-{seed}",
                purpose=purpose,
                data_seed=3_000_000 + 1000 * seed,
                pictures=4096,
                epochs=12,
                eps=RELABEL_EPS,
                steps=10,
                seed=seed,
                labels=labels,
            )
            for labels, purpose in (
                (
                    "relabelled",
                    "Trained only on pictures steered to labels drawn by lot, with these labels "
                    "(Ilyas et al. 2019): targeted L2 PGD on signs-standard.",
                ),
                (
                    "control",
                    "Trained on the same pictures and labels, with L2 noise of the same size in "
                    "place of the attack: there is nothing to learn.",
                ),
            )
            for seed in range(3)
        ),
    )
}


def find(name: str) -> Recipe:
    """The recipe of a lesson model; `InputError` names the known ones."""
    if name not in RECIPES:
        raise InputError(f"No recipe is called {name!r}. Known: {', '.join(RECIPES)}.")
    return RECIPES[name]


# -- training --------------------------------------------------------------------------------------


def adversary(recipe: Recipe) -> Perturb | None:
    """The perturbation a recipe trains against: PGD whose `eps` grows over the first steps.

    A network that knows nothing yet learns nothing from the full attack; it grows up with it.
    """
    if recipe.eps == 0 or recipe.labels != "true":
        return None
    ramp_steps = recipe.ramp * recipe.epochs * (recipe.pictures // recipe.batch_size)
    generator = torch.Generator()
    generator.manual_seed(recipe.seed)
    done = 0

    def perturb(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        nonlocal done
        done += 1
        eps = recipe.eps * min(1.0, done / max(1.0, ramp_steps))
        step_size = 1.25 * eps / recipe.steps**0.5
        return pgd(model, x, y, eps, steps=recipe.steps, step_size=step_size, generator=generator)

    return perturb


def train_model(
    recipe: Recipe, *, progress: bool | None = None, on_epoch: OnEpoch | None = None
) -> tuple[nn.Module, dict[str, str]]:
    """Train on the CPU, from nothing or from another lesson model.

    The same machine with the same number of threads gives the same weights.

    Returns
    -------
    model : nn.Module
        The trained network, in eval mode.
    metadata : dict of str
        Recipe, renderer's ranges, versions and duration, as stored beside the weights.
    """
    start = time.perf_counter()
    x, y = training_set(recipe)
    model = lesson.build(recipe.name, recipe.seed).to(
        memory_format=torch.channels_last
    )  # faster on CPUs
    if recipe.start is not None:
        lesson.load_weights(model, lesson.weights_path(recipe.start))
    history = train(
        model,
        x,
        y,
        perturb=adversary(recipe),
        epochs=recipe.epochs,
        batch_size=recipe.batch_size,
        lr=recipe.lr,
        weight_decay=recipe.weight_decay,
        average=recipe.average,
        seed=recipe.seed,
        progress=progress,
        on_epoch=on_epoch,
    )
    metadata = {
        "recipe": json.dumps(asdict(recipe)),
        "scenes": json.dumps(signs.RANGES),
        "last_epoch": json.dumps(history[-1]._asdict()),
        "seconds": f"{time.perf_counter() - start:.0f}",
        "versions": json.dumps(versions()),
    }
    return model.eval(), metadata


def training_set(recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Pictures and labels that a recipe trains on."""
    x, y = signs.render(recipe.pictures, seed=recipe.data_seed)
    if recipe.labels == "true":
        return x, y
    return relabelled(
        lesson.load("signs-standard"),
        x,
        recipe.eps,
        classes=len(signs.CLASS_NAMES),
        steps=recipe.steps,
        control=recipe.labels == "control",
        seed=recipe.seed,
    )


def versions() -> dict[str, str]:
    """What the numbers may depend on beside the recipe."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": platform.machine(),
        "threads": str(torch.get_num_threads()),
    }


# -- measuring -------------------------------------------------------------------------------------


def measure(
    model: nn.Module, pictures: int = 2000, *, stop_signs: int = 200, seed: int = MEASURE_SEED
) -> dict[str, Proportion]:
    """Attack a sign model on held-out pictures.

    Parameters
    ----------
    model : nn.Module
        Pixels (n, 3, 64, 64) in [0, 1] to logits (n, 16).
    pictures : int
        Pictures of all classes, for the accuracies.
    stop_signs : int
        Further stop signs, for the targeted attack; 0 leaves it out.
    seed : int
        Of the pictures.

    Returns
    -------
    dict
        What was measured, in words, to a share with its Wilson interval.
    """
    x, y = signs.render(pictures, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    eps = 4 / 255
    result = {
        "clean accuracy": accuracy(model, x, y),
        "accuracy under random-sign noise, 4/255": accuracy(
            model,
            x,
            y,
            lambda model, x, y: noise(x, eps, distribution="sign", generator=generator),
        ),
        "accuracy under FGSM, 4/255": accuracy(
            model, x, y, lambda model, x, y: fgsm(model, x, y, eps)
        ),
    }
    for levels in (4, 8):
        attack = pgd20(levels / 255)
        result[f"accuracy under PGD-20, {levels}/255"] = accuracy(model, x, y, attack)
    for levels in (2, 4) if stop_signs else ():
        words = f"stop sign read as a chosen limit with p >= 0.9, targeted PGD-40, {levels}/255"
        result[words] = stop_becomes_limit(model, stop_signs, levels / 255, seed=seed + 1)
    return result


def pgd20(eps: float) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """PGD with 20 steps and one random start, as an attack for `accuracy`."""
    return lambda model, x, y: pgd(model, x, y, eps, steps=20, early_stop=True)


def stop_becomes_limit(
    model: nn.Module, pictures: int, eps: float, *, confidence: float = 0.9, seed: int = 0
) -> Proportion:
    """Share of stop signs that a targeted attack turns into a speed limit drawn for each.

    It counts only where the model gives the chosen limit at least `confidence`.
    """
    x, _ = signs.render(pictures, seed=seed, labels=[0] * pictures)
    drawn = torch.randint(
        1, 1 + len(signs.SPEED_LIMITS), (pictures,), generator=torch.Generator().manual_seed(seed)
    )
    parts = zip(x.split(200), drawn.split(200), strict=True)
    x_adv = torch.cat([pgd(model, a, b, eps, steps=40, targeted=True) for a, b in parts])
    sure = predict(model, x_adv).softmax(1).gather(1, drawn[:, None]) >= confidence
    return wilson(int(sure.sum()), pictures)


# -- the model card --------------------------------------------------------------------------------


def write_card(name: str, *, pictures: int = 2000, stop_signs: int = 200) -> Path:
    """Measure a shipped model and write its card beside the weights."""
    path = lesson.weights_path(find(name).name)
    model = lesson.load(name)
    start = time.perf_counter()
    measured = measure(model, pictures, stop_signs=stop_signs)
    text = _card(name, model, measured, lesson.read_metadata(path), path.stat().st_size)
    text += f"\nMeasured in {time.perf_counter() - start:.0f} s.\n"
    target = path.with_suffix(".md")
    target.write_text(text, encoding="utf-8")
    return target


def _card(
    name: str,
    model: nn.Module,
    measured: dict[str, Proportion],
    metadata: dict[str, str],
    size: int,
) -> str:
    recipe, made_with = json.loads(metadata["recipe"]), json.loads(metadata["versions"])
    parameters = sum(p.numel() for p in model.parameters())
    norm = "linf" if recipe.get("labels", "true") == "true" else "l2"
    lines = [
        f"# Model card: {name}",
        "",
        f"Written by `python -m advlib measure {name}`; not edited by hand.",
        "",
        recipe.pop("purpose"),
        "",
        f"A lesson model: it reads {len(signs.CLASS_NAMES)} traffic signs as `advlib.data.signs` "
        "renders them, and nothing else. It is made to be attacked and must not steer anything.",
        "",
        "## Measured",
        "",
        f"On pictures rendered from seed {MEASURE_SEED:,} (stop signs: {MEASURE_SEED + 1:,}), "
        "which training did not use. 95 % Wilson intervals. Perturbations in the L-infinity ball.",
        "",
        "| | % | 95 % interval | count |",
        "|---|---|---|---|",
        *(_row(words, share) for words, share in measured.items()),
        "",
        "## Network",
        "",
        f"`{type(model).__name__}`: {parameters:,} parameters, {multiply_adds(model):,} "
        f"multiply-adds a picture, {size:,} bytes of float32 weights.",
        "",
        "## Training",
        "",
        f"`python -m advlib train {name} --threads {made_with['threads']}`: "
        f"{int(metadata['seconds'])} s of wall clock ({made_with['processor']}), Python "
        f"{made_with['python']}, torch {made_with['torch']}.",
        "",
        "| setting | value |",
        "|---|---|",
        *(f"| {key} | {_setting(key, value, norm)} |" for key, value in recipe.items()),
        "",
    ]
    return "\n".join(lines)


def _row(words: str, share: Proportion) -> str:
    low, high = 100 * share.low, 100 * share.high
    return (
        f"| {words} | {100 * share.value:.2f} | {low:.2f} to {high:.2f} "
        f"| {share.count} of {share.total} |"
    )


def _setting(key: str, value: str | float | None, norm: str) -> str:
    """A setting as a reader would write it: an L-infinity size in /255, an L2 size as a length."""
    if key == "eps" and isinstance(value, float):
        return f"{255 * value:g}/255" if norm == "linf" else f"{value:g} in L2"
    return str(value)
