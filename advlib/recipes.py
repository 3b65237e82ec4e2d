"""How the shipped models were made, and how they are measured: every number has its command.

``python -m advlib train NAME`` writes the weights, ``python -m advlib measure NAME`` attacks them
on pictures that training never saw and writes the model card. Nothing on a card is typed by hand.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advlib import augmentation, objectives
from advlib.attacks import fgsm, noise, pgd
from advlib.cost import Cost, counted, not_counted
from advlib.data import signs
from advlib.errors import InputError
from advlib.evaluation import Proportion, accuracy, predict, wilson
from advlib.models import lesson
from advlib.models.architectures import multiply_adds
from advlib.objectives import Objective
from advlib.training import Augment, Epoch, OnEpoch, Perturb, fast_fgsm, relabelled, train

MEASURE_SEED = 2_000_000
"""Seed of the held-out pictures; no recipe trains on it."""

WATCH_SEED = 2_500_000
"""Seed of the pictures on which some recipes look at the network after each epoch."""

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
    attack: str = "pgd"
    """What makes the perturbation where `eps` is not 0: ``"pgd"`` with `steps`, ``"fgsm"``,
    ``"fast"`` (Wong et al. 2020) or ``"noisy"`` (de Jorge et al. 2022), the latter three with one
    step."""
    objective: str = "cross-entropy"
    """Or ``"label smoothing"``, ``"gradient penalty"``, ``"trades"``, weighted by `strength`."""
    strength: float = 0.0
    delay: float = 0.0
    """Part of all steps before the attack, or the gradient penalty, begins to grow."""
    augment: str | None = None
    """``"views"`` (moved, turned, lit) or ``"gaussian"`` noise with standard deviation `sigma`."""
    sigma: float = 0.0
    watch: int = 0
    """Held-out pictures on which to measure accuracy, clean and attacked, after each epoch."""
    style: str = "vienna"
    """How the signs are drawn, one of ``signs.STYLES``."""


def _small(defence: str, purpose: str, **settings: Any) -> Recipe:
    """A row of lesson 9's table: like ``signs-small-standard`` but for what `settings` changes."""
    base = Recipe(f"signs-small-{defence}", purpose, pictures=4096, epochs=16)
    return replace(base, **settings)


def _attacked(defence: str, purpose: str, **settings: Any) -> Recipe:
    """As `_small`, against perturbations that begin when the network can read the signs.

    They are half as large again as those of the lesson's attack: the small network, trained for so
    short a time, then withstands that attack better than if it had seen nothing larger.
    """
    return _small(defence, purpose, **(dict(eps=6 / 255, delay=0.3, ramp=0.3) | settings))


SMALL: tuple[Recipe, ...] = (
    _small("standard", "The base of lesson 9's table: a small network, trained as usual."),
    # the network
    _small("wide", "Twice as many channels, trained as usual."),
    _small("deep", "Twice as many residual blocks, trained as usual."),
    _small("smooth", "SiLU in the place of ReLU (Xie et al. 2020), trained as usual."),
    # the data
    _small("augmented", "Other views of each picture: moved, turned, lit.", augment="views"),
    _small(
        "noise",
        "Gaussian noise on each picture (Cohen et al. 2019).",
        augment="gaussian",
        sigma=0.12,
    ),
    _small("more-data", "Four times as many pictures, as many steps.", pictures=16384, epochs=4),
    # the training
    _small("decay", "Weight decay ten times as strong as usual.", weight_decay=5e-3),
    _small(
        "smoothed-labels",
        "Label smoothing (Szegedy et al. 2016).",
        objective="label smoothing",
        strength=0.1,
    ),
    _small(
        "gradient-penalty",
        "Penalty on the squared input gradient (Ross & Doshi-Velez 2018).",
        objective="gradient penalty",
        strength=0.05,
        delay=0.3,
        ramp=0.3,
    ),
    _attacked("fgsm", "FGSM adversarial training (Goodfellow et al. 2015).", attack="fgsm"),
    _attacked(
        "fast",
        "FGSM adversarial training from a random start (Wong et al. 2020).",
        attack="fast",
    ),
    _attacked("pgd", "PGD adversarial training (Madry et al. 2018).", steps=2),
    _attacked(
        "trades",
        "TRADES (Zhang et al. 2019).",
        objective="trades",
        strength=6.0,
        steps=2,
    ),
)
"""The networks of lesson 9: one network and one set of pictures, one change in each row."""

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
        Recipe(
            name="signs-american",
            purpose="Standard training of a small residual network on signs of the other style.",
            data_seed=4_000_000,
            epochs=8,
            style="american",
        ),
        Recipe(
            name="signs-american-cnn",
            purpose="Standard training of a plain convolutional network on the other style.",
            data_seed=4_001_000,
            epochs=10,
            lr=0.05,
            style="american",
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
        *SMALL,
        *(
            Recipe(
                name=f"signs-fgsm-{how}",
                purpose=purpose,
                pictures=2048,
                epochs=12,
                lr=0.1,
                eps=16 / 255,
                start="signs-robust",
                attack=attack,
                watch=128,
            )
            for how, attack, purpose in (
                (
                    "overfit",
                    "fgsm",
                    "signs-robust trained further against FGSM in a larger ball, whose single step "
                    "it learns to meet and nothing else: catastrophic overfitting (Wong et al. "
                    "2020).",
                ),
                (
                    "mended",
                    "noisy",
                    "The same against FGSM from noise that reaches beyond the ball (N-FGSM, de "
                    "Jorge et al. 2022), at the same price.",
                ),
            )
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
    """The perturbation a recipe trains against, with an `eps` that grows over the first steps.

    A network that knows nothing yet learns nothing from the full attack; it grows up with it.
    """
    if recipe.eps == 0 or recipe.labels != "true" or recipe.objective == "trades":
        return None
    grown, generator = _growing(recipe), torch.Generator().manual_seed(recipe.seed)

    def perturb(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        now = recipe.eps * next(grown)
        if now == 0:
            return x
        if recipe.attack == "fgsm":
            return fgsm(model, x, y, now)
        if recipe.attack == "fast":
            return fast_fgsm(model, x, y, now, generator=generator)
        if recipe.attack == "noisy":
            return fast_fgsm(model, x, y, now, start=2, step=1, project=False, generator=generator)
        step_size = 1.25 * now / recipe.steps**0.5
        return pgd(model, x, y, now, steps=recipe.steps, step_size=step_size, generator=generator)

    return perturb


def objective(recipe: Recipe) -> Objective:
    """What a recipe minimises; TRADES' ball and the gradient penalty grow as `adversary` does."""
    if recipe.objective == "label smoothing":
        return partial(objectives.label_smoothing, share=recipe.strength)
    if recipe.objective == "cross-entropy":
        return objectives.cross_entropy
    grown, generator = _growing(recipe), torch.Generator().manual_seed(recipe.seed)

    def growing(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        part = next(grown)
        if part == 0:
            return objectives.cross_entropy(model, x, y)
        if recipe.objective == "gradient penalty":
            return objectives.gradient_penalty(model, x, y, strength=part * recipe.strength)
        now = recipe.eps * part
        return objectives.trades(
            model,
            x,
            y,
            eps=now,
            beta=recipe.strength,
            steps=recipe.steps,
            step_size=1.25 * now / recipe.steps**0.5,
            generator=generator,
        )

    return growing


def augment(recipe: Recipe) -> Augment | None:
    """How a recipe changes each batch before anything else."""
    if recipe.augment == "gaussian":
        return partial(augmentation.gaussian, sigma=recipe.sigma)
    return augmentation.views if recipe.augment == "views" else None


def _growing(recipe: Recipe) -> Iterator[float]:
    """How much of the difficulty each step meets: 0 for the part `delay`, a rise over `ramp`, 1."""
    steps = recipe.epochs * (recipe.pictures // recipe.batch_size)
    done = 0
    while True:
        done += 1
        yield min(1.0, max(0.0, (done - recipe.delay * steps) / max(1.0, recipe.ramp * steps)))


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
        Recipe, renderer's ranges, versions, duration, cost of the training alone and, if the
        recipe wants it, accuracies after each epoch, as stored beside the weights.
    """
    start = time.perf_counter()
    x, y = training_set(recipe)
    model = lesson.build(recipe.name, recipe.seed).to(
        memory_format=torch.channels_last
    )  # faster on CPUs
    if recipe.start is not None:
        lesson.load_weights(model, lesson.weights_path(recipe.start))
    watched: list[dict[str, float]] = []
    with counted(model) as cost:
        history = train(
            model,
            x,
            y,
            perturb=adversary(recipe),
            objective=objective(recipe),
            epochs=recipe.epochs,
            batch_size=recipe.batch_size,
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            augment=augment(recipe),
            average=recipe.average,
            seed=recipe.seed,
            progress=progress,
            on_epoch=_watching(recipe, model, cost, watched, on_epoch),
        )
    metadata = {
        "recipe": json.dumps(asdict(recipe)),
        "scenes": json.dumps(signs.RANGES),
        "last_epoch": json.dumps(history[-1]._asdict()),
        "seconds": f"{time.perf_counter() - start:.0f}",
        "cost": json.dumps(asdict(cost)),
        "versions": json.dumps(versions()),
    }
    if watched:
        metadata["watched"] = json.dumps(watched)
    return model.eval(), metadata


def _watching(
    recipe: Recipe,
    model: nn.Module,
    cost: Cost,
    watched: list[dict[str, float]],
    then: OnEpoch | None,
) -> OnEpoch | None:
    """After each epoch: measure the accuracies that a recipe wants to see, then call `then`."""
    if not recipe.watch:
        return then
    x, y = signs.render(recipe.watch, seed=WATCH_SEED)
    eps = recipe.eps

    def look(index: int, epoch: Epoch) -> None:
        with not_counted(cost):
            shares = {
                "clean": accuracy(model, x, y),
                "fgsm": accuracy(model, x, y, lambda m, x, y: fgsm(m, x, y, eps)),
                "pgd10": accuracy(model, x, y, lambda m, x, y: pgd(m, x, y, eps, steps=10)),
            }
        watched.append({name: share.value for name, share in shares.items()})
        if then is not None:
            then(index, epoch)

    return look


def training_set(recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Pictures and labels that a recipe trains on."""
    x, y = signs.render(recipe.pictures, seed=recipe.data_seed, style=recipe.style)
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
    model: nn.Module,
    pictures: int = 2000,
    *,
    stop_signs: int = 200,
    seed: int = MEASURE_SEED,
    style: str = "vienna",
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
    style : str
        How the signs are drawn, one of ``signs.STYLES``.

    Returns
    -------
    dict
        What was measured, in words, to a share with its Wilson interval.
    """
    x, y = signs.render(pictures, seed=seed, style=style)
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
        result[words] = stop_becomes_limit(
            model, stop_signs, levels / 255, seed=seed + 1, style=style
        )
    return result


def pgd20(eps: float) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """PGD with 20 steps and one random start, as an attack for `accuracy`."""
    return lambda model, x, y: pgd(model, x, y, eps, steps=20, early_stop=True)


def stop_becomes_limit(
    model: nn.Module,
    pictures: int,
    eps: float,
    *,
    confidence: float = 0.9,
    seed: int = 0,
    style: str = "vienna",
) -> Proportion:
    """Share of stop signs that a targeted attack turns into a speed limit drawn for each.

    It counts only where the model gives the chosen limit at least `confidence`.
    """
    x, _ = signs.render(pictures, seed=seed, labels=[0] * pictures, style=style)
    drawn = torch.randint(
        1, 1 + len(signs.SPEED_LIMITS), (pictures,), generator=torch.Generator().manual_seed(seed)
    )
    parts = zip(x.split(200), drawn.split(200), strict=True)
    x_adv = torch.cat([pgd(model, a, b, eps, steps=40, targeted=True) for a, b in parts])
    sure = predict(model, x_adv).softmax(1).gather(1, drawn[:, None]) >= confidence
    return wilson(int(sure.sum()), pictures)


# -- the model card --------------------------------------------------------------------------------


def write_card(name: str, *, pictures: int | None = None, stop_signs: int | None = None) -> Path:
    """Measure a shipped model and write its card beside the weights.

    By default on 2,000 pictures and 200 stop signs; on half as many pictures and no stop sign for
    the rows of lesson 9's table.
    """
    row = find(name).name in {recipe.name for recipe in SMALL}
    pictures = (1000 if row else 2000) if pictures is None else pictures
    stop_signs = (0 if row else 200) if stop_signs is None else stop_signs
    path = lesson.weights_path(name)
    model = lesson.load(name)
    start = time.perf_counter()
    measured = measure(model, pictures, stop_signs=stop_signs, style=find(name).style)
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
    stopped = any(words.startswith("stop sign") for words in measured)
    stop_signs = f" (stop signs: {MEASURE_SEED + 1:,})" if stopped else ""
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
        f"On pictures rendered from seed {MEASURE_SEED:,}{stop_signs}, "
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
        f"{made_with['python']}, torch {made_with['torch']}.{_price(metadata)}",
        "",
        "| setting | value |",
        "|---|---|",
        *(f"| {key} | {_setting(key, value, norm)} |" for key, value in recipe.items()),
        "",
    ]
    return "\n".join(lines)


def _price(metadata: dict[str, str]) -> str:
    """What the training alone has cost, if the weights remember it."""
    if "cost" not in metadata:
        return ""
    cost = Cost(**json.loads(metadata["cost"]))
    return (
        f" The training alone took {cost.forward:,} pictures forward, {cost.backward:,} backward, "
        f"and {cost.seconds:.0f} s of processor time."
    )


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
