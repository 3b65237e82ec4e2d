"""How the shipped models were trained: one recipe each, and what carries it out.

``python -m advlib train NAME`` writes the weights; `advlib.defences.model_cards` measures them.
"""

import json
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import count
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advlib.analysis.relabelling import relabelled
from advlib.attacks import fgsm, pgd
from advlib.attacks.fast_fgsm import fast_fgsm
from advlib.data import signs
from advlib.defences import augmentation, intervals, losses
from advlib.defences.cost import counted, not_counted
from advlib.errors import InputError
from advlib.evaluation import accuracy
from advlib.models import shipped
from advlib.training import Augment, Epoch, Objective, Perturb, standard, train

WATCH_SEED = 2_500_000
"""Seed of the images on which some recipes measure the network after each epoch."""

RELABEL_EPS = 3.0
"""L2 budget of the relabelled images: as long as a change of 6.9/255 in every pixel value."""

RELABELLED_BY = "signs-small-standard"
"""The network whose gradients attack the relabelled images."""


@dataclass(frozen=True)
class Recipe:
    """All that decides a model's weights, beside the versions of the software."""

    name: str
    purpose: str
    data_seed: int = 1_000_000
    images: int = 8192
    epochs: int = 6
    batch_size: int = 64
    lr: float = 0.2
    weight_decay: float = 0.0
    average: float | None = None
    eps: float = 0.0
    ramp: float = 0.0
    """Part of all steps over which the attack, or the gradient penalty, grows."""
    steps: int = 0
    start: str | None = None
    """The shipped model whose weights training starts from."""
    seed: int = 0
    labels: str = "true"
    """``"true"``; or another class, on images that `RELABELLED_BY` classifies so after an attack:
    ``"random"``, or the ``"next"`` one."""
    hidden_from: str | None = None
    """A shipped model that this attack must not move towards the label."""
    attack: str = "pgd"
    """What perturbs the images if `eps` is not 0: ``"pgd"`` with `steps`; or one step of
    ``"fgsm"``, ``"fast"`` (Wong et al. 2020) or ``"noisy"`` (de Jorge et al. 2022); or, where the
    labels are not the true ones, ``"noise"`` of that size, as a control."""
    objective: str = "cross-entropy"
    """Or ``"label smoothing"``, ``"gradient penalty"``, ``"trades"`` or ``"interval bounds"``, each
    weighted by `strength`; or ``"denoising"``, of Gaussian noise with a standard deviation of up to
    `sigma`."""
    strength: float = 0.0
    delay: float = 0.0
    """Part of all steps before the attack, or the gradient penalty, begins to grow."""
    augment: str | None = None
    """``"views"`` (moved, turned, lit) or ``"gaussian"`` noise with standard deviation `sigma`."""
    sigma: float = 0.0
    watch: int = 0
    """Held-out images on which to measure accuracy, clean and attacked, after each epoch, or after
    every few of them, `watch_every`."""
    watch_every: int = 1
    early: bool = False
    """Early stopping (Rice et al. 2020): the weights of the watched epoch that is best under PGD,
    in place of the last."""
    style: str = "vienna"
    """How the signs are drawn, one of ``signs.STYLES``."""
    half: bool = False
    """Whether the weights are stored in half precision, in half the space."""


def _small(defence: str, purpose: str, **settings: Any) -> Recipe:
    """A row of lesson 9's table: like ``signs-small-standard`` but for what `settings` changes."""
    return Recipe(f"signs-small-{defence}", purpose, **(dict(images=4096, epochs=16) | settings))


_ROBUST: dict[str, Any] = dict(
    epochs=6, lr=0.1, weight_decay=5e-4, average=0.995, eps=4 / 255, ramp=0.5, steps=2
)
"""How signs-robust, and the children of lesson 11, are trained further from their parents."""

_GROWING: dict[str, Any] = dict(eps=6 / 255, delay=0.3, ramp=0.3)
"""Perturbations that begin when the network can already classify the signs. They are half as large
again as those of the lesson's attack: the small network, trained for so short a time, then resists
that attack better than if it had seen nothing larger."""

SMALL: tuple[Recipe, ...] = (
    _small("standard", "The base of lesson 9's table: a small network, trained as usual."),
    # the network
    _small("wide", "Twice as many channels, trained as usual."),
    _small("deep", "Twice as many residual blocks, trained as usual."),
    _small("smooth", "SiLU in place of ReLU (Xie et al. 2020), trained as usual."),
    # the data
    _small("augmented", "Other views of each image: moved, turned, lit.", augment="views"),
    _small(
        "noise", "Gaussian noise on each image (Cohen et al. 2019).", augment="gaussian", sigma=0.12
    ),
    _small("more-data", "Four times as many images, as many steps.", images=16384, epochs=4),
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
    _small(
        "fgsm", "FGSM adversarial training (Goodfellow et al. 2015).", attack="fgsm", **_GROWING
    ),
    _small(
        "fast",
        "FGSM adversarial training from a random start (Wong et al. 2020).",
        attack="fast",
        **_GROWING,
    ),
    _small("pgd", "PGD adversarial training (Madry et al. 2018).", steps=2, **_GROWING),
    _small("pgd7", "PGD adversarial training, 7 steps (Madry et al. 2018).", steps=7, **_GROWING),
    _small(
        "trades",
        "TRADES (Zhang et al. 2019).",
        objective="trades",
        strength=6.0,
        steps=2,
        **_GROWING,
    ),
)
"""The networks of lesson 9: one network and one set of images, one change in each row."""


def _students() -> list[Recipe]:
    """The networks of lesson 8: five kinds of training sets with wrong labels."""
    towards = "Trained only on images attacked towards "
    control = "the same images and labels, with noise of the same size in place of the attack."
    rand = towards + "random labels, with these labels (D_rand of Ilyas et al. 2019)."
    hidden = "As D_rand, but the attack must not move signs-small-deep towards the label (after "
    det = towards + "the next class, labelled as that class (D_det of Ilyas et al. 2019)."
    sets: dict[str, tuple[str, dict[str, Any]]] = {
        "rand": (rand, {}),
        "noise": ("The control of D_rand: " + control, dict(attack="noise")),
        "hidden": (hidden + "Nakkiran 2019).", dict(hidden_from="signs-small-deep")),
        "det": (det, dict(labels="next", images=3072, half=True)),
        "det-noise": (
            "The control of D_det: " + control,
            dict(labels="next", images=3072, half=True, attack="noise"),
        ),
    }
    common: dict[str, Any] = dict(labels="random", images=6144, epochs=8, eps=RELABEL_EPS, steps=5)
    return [
        Recipe(
            f"signs-student-{name}-{seed}",
            purpose,
            data_seed=3_000_000 + 1000 * seed,
            seed=seed,
            **(common | settings),
        )
        for name, (purpose, settings) in sets.items()
        for seed in range(1, shipped.STUDENTS[name] + 1)
    ]


FAMILIES: tuple[Recipe, ...] = (
    *(
        _small(
            f"standard-{seed}",
            "As signs-small-standard, from other initial weights and on other images.",
            seed=seed,
            data_seed=1_000_000 + 100_000 * seed,
            half=True,
        )
        for seed in (1, 2)
    ),
    *(
        _small(
            f"child-{seed}",
            f"{parent} trained further against PGD, as signs-robust was.",
            seed=seed,
            data_seed=1_000_000 + 100_000 * seed,
            start=parent,
            half=True,
            **_ROBUST,
        )
        for seed, parent in enumerate(
            ("signs-small-standard", "signs-small-standard-1", "signs-small-standard-2")
        )
    ),
)
"""The families of lesson 11: with signs-small-standard, three parents with a robust child each."""

_FEW: dict[str, Any] = dict(
    images=512,
    epochs=200,
    batch_size=32,
    lr=0.02,
    eps=4 / 255,
    delay=0.05,
    ramp=0.1,
    steps=2,
    seed=1,
    data_seed=1_100_000,
    half=True,
)
"""How the fully connected networks of lesson 9 are trained: many steps on few images."""

_SINGLE_STEP: dict[str, Any] = dict(
    images=2048, epochs=12, lr=0.1, eps=16 / 255, start="signs-robust", watch=128
)

_ALL: tuple[Recipe, ...] = (
    Recipe(
        "signs-standard", "Standard training: the loss on the images as they are, and nothing else."
    ),
    Recipe(
        "signs-robust",
        "PGD adversarial training (Madry et al. 2018) in the L-infinity ball.",
        start="signs-standard",
        **_ROBUST,
    ),
    Recipe("signs-linear", "Standard training of a linear model.", epochs=40, lr=0.003),
    Recipe(
        "signs-mlp",
        "Standard training of a fully connected network on 32 x 32 averages.",
        epochs=30,
        lr=0.02,
    ),
    Recipe("signs-cnn", "Standard training of a plain convolutional network.", epochs=10, lr=0.05),
    Recipe(
        "signs-vit",
        "Standard training of a small vision transformer.",
        epochs=12,
        batch_size=32,
        lr=0.05,
    ),
    Recipe(
        "signs-american",
        "Standard training of a small residual network on signs of the other style.",
        data_seed=4_000_000,
        epochs=8,
        style="american",
    ),
    Recipe(
        "signs-american-cnn",
        "Standard training of a plain convolutional network on the other style.",
        data_seed=4_001_000,
        epochs=10,
        lr=0.05,
        style="american",
    ),
    *_students(),
    *SMALL,
    *FAMILIES,
    _small(
        "pgd-1",
        "As signs-small-pgd, from another seed.",
        steps=2,
        seed=1,
        data_seed=1_100_000,
        half=True,
        **_GROWING,
    ),
    Recipe(
        "signs-mlp-pgd",
        "PGD adversarial training of a fully connected network, for many epochs on few images.",
        watch=256,
        watch_every=5,
        **_FEW,
    ),
    Recipe(
        "signs-mlp-pgd-early",
        "The same, stopped at the epoch that withstood PGD best (Rice et al. 2020).",
        watch=256,
        watch_every=5,
        early=True,
        **_FEW,
    ),
    Recipe(
        "signs-mlp-pgd-more-data",
        "The same on four times as many images, in as many steps.",
        **(_FEW | dict(images=2048, epochs=50)),
    ),
    Recipe(
        "signs-mlp-interval",
        "As signs-mlp-pgd-more-data, but trained on interval bounds (Gowal et al. 2018).",
        objective="interval bounds",
        strength=0.5,
        **(_FEW | dict(images=2048, epochs=50, steps=0, eps=1 / 255, delay=0.2, ramp=0.5)),
    ),
    Recipe(
        "signs-fgsm-overfit",
        "signs-robust trained further against FGSM in a larger ball: it learns to resist this "
        "single step and nothing else (catastrophic overfitting, Wong et al. 2020).",
        attack="fgsm",
        **_SINGLE_STEP,
    ),
    Recipe(
        "signs-fgsm-mended",
        "The same against FGSM from noise that reaches beyond the ball (N-FGSM, de Jorge et al. "
        "2022), at the same cost.",
        attack="noisy",
        **_SINGLE_STEP,
    ),
    Recipe(
        "signs-denoiser",
        "A denoiser (Zhang et al. 2017) for lesson 10, trained on Gaussian noise; it never saw an "
        "attack. Its card measures signs-standard behind it.",
        images=4096,
        epochs=8,
        batch_size=32,
        lr=0.5,
        objective="denoising",
        sigma=0.25,
        half=True,
    ),
)

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _ALL}


def find(name: str) -> Recipe:
    """The recipe of a shipped model; `InputError` names the known ones."""
    if name not in RECIPES:
        raise InputError(f"No recipe is called {name!r}. Known: {', '.join(RECIPES)}.")
    return RECIPES[name]


def train_model(recipe: Recipe) -> tuple[nn.Module, dict[str, str]]:
    """Train on the CPU, from nothing or from another shipped model.

    The same machine with the same number of threads gives the same weights. Returns the network in
    eval mode and what is stored beside its weights: recipe, renderer's ranges, versions, duration,
    cost of the training alone and, if the recipe asks for it, accuracies after each epoch.
    """
    begin = time.perf_counter()
    x, y = training_set(recipe)
    model = shipped.build(recipe.name, recipe.seed)
    model = model.to(memory_format=torch.channels_last)  # faster on CPUs
    if recipe.start is not None:
        shipped.load_weights(model, shipped.weights_path(recipe.start))
    watched: list[dict[str, float]] = []
    best: dict[str, Tensor] = {}

    def on_epoch(epoch: int, seen: Epoch) -> None:
        if not recipe.watch or (epoch + 1) % recipe.watch_every:
            return
        with not_counted(cost):
            found = {"epoch": epoch + 1, "trained": seen.accuracy, **_watch(recipe, model)}
        if all(found["pgd10"] > earlier["pgd10"] for earlier in watched):
            best.update({name: value.clone() for name, value in model.state_dict().items()})
        watched.append(found)

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
            on_epoch=on_epoch,
        )
    if recipe.early and best:
        model.load_state_dict(best)
    if recipe.objective == "interval bounds":  # centres and radii, one layer after the other
        more = round(2 * (1 - recipe.delay) * cost.forward)
        cost.forward, cost.backward = cost.forward + more, cost.backward + more
    versions = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": platform.machine(),
        "threads": str(torch.get_num_threads()),
    }
    metadata = {
        "recipe": json.dumps(asdict(recipe)),
        "scenes": json.dumps(signs.RANGES),
        "last_epoch": json.dumps(history[-1]._asdict()),
        "seconds": f"{time.perf_counter() - begin:.0f}",
        "cost": json.dumps(asdict(cost)),
        "versions": json.dumps(versions),
    }
    if watched:
        metadata["watched"] = json.dumps(watched)
    return model.eval(), metadata


def training_set(recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Images and labels that a recipe trains on."""
    x, y = signs.render(recipe.images, seed=recipe.data_seed, style=recipe.style)
    if recipe.labels == "true":
        return x, y
    return relabelled(
        shipped.load(RELABELLED_BY),
        x,
        recipe.eps,
        classes=len(signs.CLASS_NAMES),
        y=y if recipe.labels == "next" else None,
        steps=recipe.steps,
        control=recipe.attack == "noise",
        hidden_from=None if recipe.hidden_from is None else shipped.load(recipe.hidden_from),
        seed=recipe.seed,
    )


def adversary(recipe: Recipe) -> Perturb | None:
    """The perturbation that a recipe trains against, with an `eps` that grows with the network.

    A network that cannot classify yet learns nothing from the full attack.
    """
    if recipe.eps == 0 or recipe.labels != "true" or recipe.objective != "cross-entropy":
        return None
    parts, generator = _growing(recipe), torch.Generator().manual_seed(recipe.seed)

    def perturb(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        eps = recipe.eps * next(parts)
        if eps == 0:
            return x
        if recipe.attack == "fgsm":
            return fgsm(model, x, y, eps)
        if recipe.attack == "fast":
            return fast_fgsm(model, x, y, eps, generator=generator)
        if recipe.attack == "noisy":
            return fast_fgsm(model, x, y, eps, start=2, step=1, project=False, generator=generator)
        step_size = _step_size(recipe, eps)
        return pgd(model, x, y, eps, steps=recipe.steps, step_size=step_size, generator=generator)

    return perturb


def objective(recipe: Recipe) -> Objective:
    """What a recipe minimises; TRADES' ball and the gradient penalty grow as `adversary` does."""
    if recipe.objective == "label smoothing":

        def smoothed(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            logits = model(x)
            return logits, F.cross_entropy(logits, y, label_smoothing=recipe.strength)

        return smoothed
    if recipe.objective == "cross-entropy":
        return standard
    parts, generator = _growing(recipe), torch.Generator().manual_seed(recipe.seed)
    if recipe.objective == "denoising":
        return partial(losses.denoising, sigma=recipe.sigma, generator=generator)

    def growing(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        part = next(parts)
        if part == 0:
            return standard(model, x, y)
        if recipe.objective == "gradient penalty":
            return losses.gradient_penalty(model, x, y, strength=part * recipe.strength)
        eps = recipe.eps * part
        if recipe.objective == "interval bounds":
            share = recipe.strength * part
            return intervals.interval_bounds(model, x, y, eps=eps, share=share)
        return losses.trades(
            model,
            x,
            y,
            eps=eps,
            beta=recipe.strength,
            steps=recipe.steps,
            step_size=_step_size(recipe, eps),
            generator=generator,
        )

    return growing


def augment(recipe: Recipe) -> Augment | None:
    """How a recipe changes each batch before anything else."""
    if recipe.augment == "gaussian":
        return partial(augmentation.gaussian, sigma=recipe.sigma)
    return augmentation.views if recipe.augment == "views" else None


def _growing(recipe: Recipe) -> Iterator[float]:
    """The part of the full difficulty at each step: 0 during `delay`, then a rise over `ramp`."""
    steps = recipe.epochs * (recipe.images // recipe.batch_size)
    for done in count(1):
        yield min(1.0, max(0.0, (done - recipe.delay * steps) / max(1.0, recipe.ramp * steps)))


def _step_size(recipe: Recipe, eps: float) -> float:
    return 1.25 * eps / recipe.steps**0.5


def _watch(recipe: Recipe, model: nn.Module) -> dict[str, float]:
    """Accuracies on held-out images, clean and attacked in the recipe's ball."""
    x, y = signs.render(recipe.watch, seed=WATCH_SEED)
    attacks = {
        "clean": None,
        "fgsm": partial(fgsm, eps=recipe.eps),
        "pgd10": partial(pgd, eps=recipe.eps, steps=10),
    }
    return {name: accuracy(model, x, y, attack).value for name, attack in attacks.items()}
