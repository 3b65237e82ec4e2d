"""Checks of lesson 8, "Not a stupid model"."""

from functools import cache

import torch
from torch import Tensor, nn

from advlib.analysis.relabelling import relabelled
from advlib.attacks import pgd
from advlib.data import signs
from advlib.evaluation import predict
from advlib.lessons import (
    Answer,
    Counted,
    Mistake,
    check,
    expect_answer,
    expect_tensor,
    expect_untouched,
)
from advlib.models.shipped import load
from advlib.threats import norm

_CLASSES = 4
_EPS = 0.1


def _problem() -> tuple[nn.Module, Tensor, Tensor]:
    """A linear model, images away from the edges, and the classes that the model predicts."""
    generator = torch.Generator().manual_seed(8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        head = nn.Linear(48, _CLASSES)
    model = nn.Sequential(nn.Flatten(), head).eval().requires_grad_(False)
    head.weight.copy_(torch.randn(_CLASSES, 48, generator=generator))
    head.bias.copy_(-0.5 * head.weight.sum(1))  # no class leads at mid-grey
    x = 0.3 + 0.4 * torch.rand(400, 3, 4, 4, generator=generator)
    return model, x, model(x).argmax(1)


@check
def relabel(answer: Answer) -> str:
    """Exercise 8.1: images perturbed towards random classes, with these classes as labels.

    ``answer(model, x, y, eps, classes, generator)`` returns ``(x_adv, target)``: images of the
    shape of `x` within `eps` of it in l2, and one class each, uniform in ``0..classes - 1``.
    """
    model, x, y = _problem()
    before = x.clone()
    given = answer(model, x, y, _EPS, _CLASSES, torch.Generator().manual_seed(1))
    expect_answer(given)
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise Mistake("your function returns one thing; two are expected: return x_adv, target.")
    x_adv = expect_tensor(given[0], x.shape, "images")
    target = expect_tensor(given[1], y.shape, "labels")
    expect_untouched(x, before)
    if target.is_floating_point() or target.dtype == torch.bool:
        raise Mistake(f"labels are whole numbers, torch.int64; yours are {target.dtype}.")
    # Within this small budget an attack towards random labels fails on many images.
    if norm(x_adv - x, "l2").max() <= 1.001 * _EPS and not target.equal(y):
        with torch.no_grad():
            predicted = model(x_adv).argmax(1)
        if predicted.equal(target):
            raise Mistake(
                "the labels are what the model predicts for the perturbed images. Draw the labels "
                "first, at random; where the attack fails, the label stays."
            )
    _random_labels(target, y)
    _perturbed_towards(target, model, x, y, x_adv)
    again = answer(model, x, y, _EPS, _CLASSES, torch.Generator().manual_seed(1))
    if not again[1].equal(target):
        raise Mistake(
            "two calls with equally seeded generators draw different labels. Pass "
            "generator=generator to torch.randint."
        )
    return "the labels are random, and only the perturbation agrees with them."


def _random_labels(target: Tensor, y: Tensor) -> None:
    """Name what is wrong with labels that should be uniform, whatever the images show."""
    if target.min() < 0 or target.max() >= _CLASSES:
        raise Mistake(
            f"labels reach from {int(target.min())} to {int(target.max())}; with {_CLASSES} "
            f"classes they lie in 0..{_CLASSES - 1}."
        )
    if target.equal(y):
        raise Mistake(
            "the labels are the true classes. A network trained on them learns from what the "
            "images show, and the experiment says nothing about the perturbation."
        )
    if (target == target[0]).all():
        raise Mistake("all images get the same label. Draw one for each image.")
    share = float((target == y).float().mean())
    shifts = (target - y).remainder(_CLASSES)
    if (shifts == shifts[0]).all():
        raise Mistake(
            f"every label is the true class plus {int(shifts[0])}. Then what the image shows "
            "determines the label, and the network can learn it without the perturbation. Draw at "
            "random."
        )
    if share == 0:
        raise Mistake(
            "no label is ever the true class. Then what the image shows rules one class out, "
            "and the label depends on it. Draw from all classes, the true one included."
        )
    counts = torch.bincount(target, minlength=_CLASSES)
    if not 0.12 < share < 0.4 or counts.min() < 0.12 * len(y):
        raise Mistake(
            f"{share:.0%} of the labels are the true class and the rarest label occurs "
            f"{int(counts.min())} times in {len(y)}. Drawn uniformly from {_CLASSES} classes, both "
            f"are near {1 / _CLASSES:.0%}."
        )


def _perturbed_towards(
    target: Tensor, model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor
) -> None:
    """Name what is wrong with images that should be classified as `target`."""
    size = norm(x_adv - x, "l2")
    if size.max() == 0:
        raise Mistake("the images are clean: return the perturbed ones with their labels.")
    if x_adv.min() < 0 or x_adv.max() > 1:
        raise Mistake("pixels leave [0, 1]. advlib.pgd keeps them there; what happens after it?")
    if size.max() > _EPS * 1.001:
        raise Mistake(
            f"some perturbation has length {float(size.max()):.2f} in l2; eps is {_EPS}. Is the "
            'norm that of the attack? advlib.pgd needs norm="l2".'
        )
    if size.median() < 0.5 * _EPS:
        raise Mistake(
            f"half of the perturbations are shorter than {float(size.median()):.3f}; the budget "
            f'is {_EPS} in l2. With norm="l2" the attack uses it.'
        )
    pgd_images = pgd(model, x, target, _EPS, norm="l2", steps=10, targeted=True)
    with torch.no_grad():
        predicted, best_labels = model(x_adv).argmax(1), model(pgd_images).argmax(1)
    reached = float((predicted == target).float().mean())
    best = float((best_labels == target).float().mean())
    if reached >= best - 0.1:
        return
    if reached < 0.1:
        raise Mistake(
            "the images move away from their labels. The attack has to lower the loss of the "
            "label: targeted=True."
        )
    if float((predicted == y).float().mean()) < 0.7:
        raise Mistake(
            "the images lose their true class but do not reach their labels: an untargeted "
            "attack on y. Attack towards the label, with targeted=True."
        )
    raise Mistake(
        f"the model classifies {reached:.0%} of the images as their labels; ten steps of targeted "
        f"PGD reach {best:.0%}. Is there an attack at all, and towards these labels?"
    )


@check
def above_chance(answer: Answer) -> str:
    """Exercise 8.2: whether `correct` of `total` is more than guessing among `classes` explains.

    ``answer(correct, total, classes)`` returns True where the lower end of Wilson's 95 % interval
    lies above 1 / classes.
    """
    expect_answer(answer(300, 1000, 16))
    for (correct, total, classes, expected), sentence in _CLAIMS.items():
        if bool(answer(correct, total, classes)) != expected:
            raise Mistake(sentence)
    return "only an interval that lies wholly above one in `classes` supports the claim."


_CLAIMS = {
    (300, 1000, 16, True): "300 of 1,000 among 16 classes is far above chance level, and you deny "
    "it. Chance level is one in `classes`, not one half.",
    (30, 100, 2, False): "30 of 100 with 2 classes is below the half that guessing gets, and you "
    "call it above. Compute chance level from `classes`.",
    (10, 800, 16, False): "10 of 800 among 16 classes differs from chance level, but it lies "
    "below. The claim is *above*.",
    (3, 100, 16, False): "3 of 100 among 16 classes is below chance level, and you call it above. "
    "Use the lower end of the interval: the upper end often lies above chance level.",
    (8, 100, 16, False): "8 of 100 is 8 %, above one in sixteen, but guessing may get as many: the "
    "interval begins at 4 %. Compare its lower end, not the share itself.",
    (70, 800, 16, True): "70 of 800 is 8.8 %, and its interval begins at 7.0 %, above one in "
    "sixteen. You ask for more than the claim needs: the lower end of "
    "advlib.wilson(correct, total) is enough.",
    (0, 0, 16, False): "nothing follows from no images at all: 0 of 0 supports no claim.",
}


@check
def bug(answer: Answer) -> str:
    """Exercise 8.3: fool one network with changes that a third, unseen one does not notice.

    ``answer(model, other, x, target, eps)`` returns `x_adv`, shape of `x`, within `eps` in l2.
    """
    networks, before, target, rival = _signs_for_bugs()
    x, two = before.clone(), [Counted(network) for network in networks[:2]]
    given = answer(*two, x, target.clone(), _SIGN_EPS)
    given = expect_tensor(given, x.shape, "images").detach()
    expect_untouched(x, before)
    gradients = sum(network.gradients for network in two)
    if gradients > 40 * len(x):
        raise Mistake(
            f"you compute {gradients / len(x):.0f} gradients for each image; 20 of each network "
            "are allowed."
        )
    if given.min() < 0 or given.max() > 1:
        raise Mistake("pixels leave [0, 1]. Clamp them after every step.")
    size = float(norm(given - x, "l2").max())
    if size > 1.001 * _SIGN_EPS:
        raise Mistake(f"a change has length {size:.2f} in l2; {_SIGN_EPS:g} is allowed.")
    fooled = float((predict(networks[0], given).argmax(1) == target).float().mean())
    if fooled < 0.9:
        raise Mistake(
            f"the model classifies {fooled:.0%} of the signs as their labels; 90 % are asked for. "
            "A change that fools nobody is no bug."
        )
    noticed = _noticed(networks[2], x, given, target)
    if noticed > rival / 2:
        raise Mistake(
            f"the third network's log-probability of the label rises by {noticed:.1f} on average; "
            f"half of what the hidden changes of this lesson raise it by is {rival / 2:.1f}. How "
            "long is your change?"
        )
    return (
        f"the model is fooled on {fooled:.0%}, and the third network's log-probability of the "
        f"label rises by {noticed:.1f}; with the hidden changes of this lesson by {rival:.1f}."
    )


_SIGN_EPS = 3.0


@cache
def _signs_for_bugs() -> tuple[tuple[nn.Module, ...], Tensor, Tensor, float]:
    """Three networks, signs with labels that they do not show, and the rise to halve."""
    networks = tuple(load(f"signs-small-{name}") for name in ("standard", "deep", "wide"))
    x, y = signs.render(32, seed=8_306)
    hidden, target = relabelled(
        networks[0],
        x,
        _SIGN_EPS,
        classes=len(signs.CLASS_NAMES),
        steps=10,
        seed=1,
        hidden_from=networks[1],
    )
    other = (target != y).nonzero()[:24, 0]
    x, hidden, target = x[other], hidden[other], target[other]
    return networks, x, target, _noticed(networks[2], x, hidden, target)


def _noticed(network: nn.Module, x: Tensor, x_adv: Tensor, target: Tensor) -> float:
    """By how much `network` finds the labels more probable, in log-probability, on average."""
    before, after = (predict(network, images).log_softmax(1) for images in (x, x_adv))
    return float((after - before).gather(1, target[:, None]).mean())
