"""Checks of lesson 8, "Not a stupid model"."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from advlib.attacks import pgd
from advlib.checks import Mistake, check, expect_answer, expect_tensor, expect_untouched
from advlib.threats import norm

_CLASSES = 4
_EPS = 0.1
_Relabel = Callable[[nn.Module, Tensor, Tensor, float, int, torch.Generator], tuple[Tensor, Tensor]]


def _problem() -> tuple[nn.Module, Tensor, Tensor]:
    """A linear model, pictures away from the edges, and the classes that the model gives them."""
    generator = torch.Generator().manual_seed(8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(8)
        head = nn.Linear(48, _CLASSES)
    model = nn.Sequential(nn.Flatten(), head)
    with torch.no_grad():
        head.weight.copy_(torch.randn(_CLASSES, 48, generator=generator))
        head.bias.copy_(-0.5 * head.weight.sum(1))  # no class is ahead at mid-grey
    x = 0.3 + 0.4 * torch.rand(400, 3, 4, 4, generator=generator)
    with torch.no_grad():
        y = model(x).argmax(1)
    return model.eval().requires_grad_(False), x, y


@check
def relabel(answer: _Relabel) -> str:
    """Exercise 8.1: pictures steered to classes drawn by lot, with these classes as labels.

    Parameters
    ----------
    answer
        ``answer(model, x, y, eps, classes, generator)`` returns ``(x_adv, target)``: pictures of
        the shape of `x` within `eps` of it in l2, and one class each, drawn uniformly from
        ``0..classes - 1``.

    Returns
    -------
    Verdict
    """
    model, x, y = _problem()
    before = x.clone()
    given = answer(model, x, y, _EPS, _CLASSES, torch.Generator().manual_seed(1))
    expect_answer(given)
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise Mistake("your function returns one thing; two are expected: return x_adv, target.")
    x_adv = expect_tensor(given[0], x.shape, "pictures")
    target = expect_tensor(given[1], y.shape, "labels")
    expect_untouched(x, before)
    if target.is_floating_point() or target.dtype == torch.bool:
        raise Mistake(f"labels are whole numbers, torch.int64; yours are {target.dtype}.")
    if norm(x_adv - x, "l2").max() <= 1.001 * _EPS:  # a larger change reaches every label
        _not_read_back(model, x_adv, target, y)
    _labels_by_lot(target, y)
    _steered(model, x, y, x_adv, target)
    again = answer(model, x, y, _EPS, _CLASSES, torch.Generator().manual_seed(1))
    if not again[1].equal(target):
        raise Mistake(
            "two calls with equally seeded generators draw different labels. Pass "
            "generator=generator to torch.randint."
        )
    return "the labels are drawn by lot, and only the perturbation agrees with them."


def _not_read_back(model: nn.Module, x_adv: Tensor, target: Tensor, y: Tensor) -> None:
    """The budget is small: an attack towards labels drawn by lot fails on many pictures."""
    with torch.no_grad():
        reads = model(x_adv).argmax(1)
    if reads.equal(target) and not target.equal(y):
        raise Mistake(
            "the labels are what the model reads in the perturbed pictures. Labels are drawn "
            "first, by lot; where the attack fails, the label stays."
        )


def _labels_by_lot(target: Tensor, y: Tensor) -> None:
    """Name what is wrong with labels that should be uniform, whatever the pictures show."""
    if target.min() < 0 or target.max() >= _CLASSES:
        raise Mistake(
            f"labels reach from {int(target.min())} to {int(target.max())}; with {_CLASSES} "
            f"classes they lie in 0..{_CLASSES - 1}."
        )
    if target.equal(y):
        raise Mistake(
            "the labels are the true classes. A network trained on them learns from what the "
            "pictures show, and the experiment says nothing about the perturbation."
        )
    if (target == target[0]).all():
        raise Mistake("all pictures get the same label. Draw one for each picture.")
    share = float((target == y).float().mean())
    shifts = (target - y).remainder(_CLASSES)
    if (shifts == shifts[0]).all():
        raise Mistake(
            f"every label is the true class plus {int(shifts[0])}. Then what the picture shows "
            "tells the label, and the network needs no perturbation to learn it. Draw by lot."
        )
    if share == 0:
        raise Mistake(
            "no label is ever the true class. Then what the picture shows rules one class out, "
            "and the label depends on it. Draw from all classes, the true one included."
        )
    counts = torch.bincount(target, minlength=_CLASSES)
    if not 0.12 < share < 0.4 or counts.min() < 0.12 * len(y):
        raise Mistake(
            f"{share:.0%} of the labels are the true class and the rarest label comes up "
            f"{int(counts.min())} times in {len(y)}. Drawn by lot from {_CLASSES} classes, both "
            f"lie near {1 / _CLASSES:.0%}."
        )


def _steered(model: nn.Module, x: Tensor, y: Tensor, x_adv: Tensor, target: Tensor) -> None:
    """Name what is wrong with pictures that should be read as `target`."""
    size = norm(x_adv - x, "l2")
    if size.max() == 0:
        raise Mistake("the pictures are clean: return the perturbed ones beside their labels.")
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
    with torch.no_grad():
        reads = model(x_adv).argmax(1)
    reached = float((reads == target).float().mean())
    wanted = pgd(model, x, target, _EPS, norm="l2", steps=10, targeted=True)
    with torch.no_grad():
        best = float((model(wanted).argmax(1) == target).float().mean())
    if reached >= best - 0.1:
        return
    if reached < 0.1:
        raise Mistake(
            "the pictures are driven away from their labels. The attack has to lower the loss of "
            "the label: targeted=True."
        )
    if float((reads == y).float().mean()) < 0.7:
        raise Mistake(
            "the pictures lose their true class but do not reach their labels: an untargeted "
            "attack on y. Attack towards the label, with targeted=True."
        )
    raise Mistake(
        f"the model reads {reached:.0%} of the pictures as their labels; ten steps of targeted PGD "
        f"reach {best:.0%}. Are the perturbations steered at all, and to these labels?"
    )


@check
def above_chance(answer: Callable[[int, int, int], bool]) -> str:
    """Exercise 8.2: whether `right` of `total` is more than guessing among `classes` explains.

    Parameters
    ----------
    answer
        ``answer(right, total, classes)`` returns True where the lower end of Wilson's 95 %
        interval lies above 1 / classes.

    Returns
    -------
    Verdict
    """
    expect_answer(answer(300, 1000, 16))
    for right, total, classes, expected, why in _CLAIMS:
        if bool(answer(right, total, classes)) != expected:
            raise Mistake(why)
    return "only an interval that lies wholly above one in `classes` supports the claim."


_CLAIMS = (
    (
        300,
        1000,
        16,
        True,
        "300 of 1,000 among 16 classes is far above chance, and you deny it. Chance is one in "
        "`classes`, not one half.",
    ),
    (
        30,
        100,
        2,
        False,
        "30 of 100 with 2 classes is below the half that guessing gets, and you call it above "
        "chance. Compute chance from `classes`.",
    ),
    (
        10,
        800,
        16,
        False,
        "10 of 800 among 16 classes differs from chance, but it lies below. The claim is *above*.",
    ),
    (
        3,
        100,
        16,
        False,
        "3 of 100 among 16 classes is below chance, and you call it above. Ask for the lower end "
        "of the interval: the upper end lies above chance for many a bad guesser.",
    ),
    (
        8,
        100,
        16,
        False,
        "8 of 100 is 8 %, above one in sixteen, but a guesser gets as many by luck: the interval "
        "begins at 4 %. Compare its lower end, not the share itself.",
    ),
    (
        70,
        800,
        16,
        True,
        "70 of 800 is 8.8 %, and its interval begins at 7.0 %, above one in sixteen. You ask for "
        "more than the claim needs: the lower end of advlib.wilson(right, total) is enough.",
    ),
    (0, 0, 16, False, "of no pictures at all nothing follows: 0 of 0 supports no claim."),
)
