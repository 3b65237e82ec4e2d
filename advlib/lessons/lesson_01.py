"""Checks of lesson 1, "See it happen"."""

import torch
from torch import Tensor

from advlib import models
from advlib.data import signs
from advlib.evaluation import predict
from advlib.lessons import (
    Answer,
    Mistake,
    check,
    close,
    expect_number,
    expect_tensor,
    expect_untouched,
    name_mistake,
)


@check
def sign_noise(answer: Answer) -> str:
    """Exercise 1.1: the largest noise, every pixel value up or down by `eps`.

    ``answer(x, eps, generator)`` returns the noisy images.
    """
    eps = 0.1
    # Pixels stay away from the edges at first, so that nothing needs to be clipped.
    x = 0.2 + 0.6 * torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    before = x.clone()
    noisy = answer(x, eps, torch.Generator().manual_seed(2))
    expect_tensor(noisy, x.shape, "images")
    expect_untouched(x, before)
    _expect_moves_of(eps, noisy - x)
    if (answer(x, eps, torch.Generator().manual_seed(2)) != noisy).any():
        raise Mistake(
            "two calls with equally seeded generators give different noise. Pass "
            "generator=generator to torch.rand or torch.randint."
        )
    edge = torch.tensor([0.0, 1.0]).repeat(1, 3, 4, 4)
    noisy = answer(edge, eps, torch.Generator().manual_seed(3))
    if noisy.min() < 0 or noisy.max() > 1:
        raise Mistake(
            f"pixels reach from {noisy.min():.1f} to {noisy.max():.1f}. An image has pixels in "
            "[0, 1]: end with .clamp(0, 1)."
        )
    return "every pixel value moves by exactly eps, up or down at random, and stays in [0, 1]."


def _expect_moves_of(eps: float, delta: Tensor) -> None:
    """Name what is wrong with a perturbation that should be +-eps everywhere."""
    size = delta.abs()
    if size.max() == 0:
        raise Mistake("nothing moves: your function returns x as it is.")
    if size.max() > eps + 1e-6:
        raise Mistake(
            f"some pixels move by {size.max():.3f}, but eps is {eps}. A random sign is -1 or +1, "
            "and is multiplied by eps."
        )
    if (delta >= -1e-6).all():
        raise Mistake(
            "pixels move up or stay, never down. Random zeros and ones make signs by 2 * bits - 1."
        )
    if size.min() < eps - 1e-6:
        raise Mistake(
            f"some pixels move by only {size.min():.3f}. That is noise from inside the ball; its "
            "corners are wanted, where every pixel value moves by exactly eps."
        )
    up = (delta > 0).float().mean((1, 2, 3))
    if ((up == 0) | (up == 1)).any():
        raise Mistake("whole images move up or down. Draw one sign for each pixel value.")
    if (delta[0] - delta[1]).abs().max() < 1e-6:
        raise Mistake("all images get the same noise. Draw signs of the shape of x.")
    if not 0.4 < up.mean() < 0.6:
        raise Mistake(f"{up.mean():.0%} of the pixels move up; half of them should.")


@check
def fooling_rate(answer: Answer) -> str:
    """Exercise 1.2: the share of correctly classified images that an attack fools.

    ``answer(before, after, y)`` returns it from the classes predicted before and after the attack
    and the true ones, each of shape (n,).
    """
    # Ten images, eight of them classified correctly before; six of those are fooled. Of the other
    # two one becomes correct and one changes its wrong class. Each mistake gives another number.
    y = torch.tensor([0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    before = torch.tensor([0, 0, 0, 0, 0, 0, 0, 0, 1, 1])
    after = torch.tensor([2, 2, 2, 2, 2, 3, 0, 0, 0, 2])
    value = expect_number(answer(before, after, y))
    name_mistake(value, _WRONG_RATES)
    if not close(value, 6 / 8):
        raise Mistake(
            f"you return {value:.4g}; of 8 images that were classified correctly 6 are fooled, so "
            "0.75 is expected."
        )
    wrong = torch.tensor([1, 1])
    if float(answer(wrong, wrong, torch.tensor([0, 0]))) != 0:
        raise Mistake("where no image was classified correctly, none was fooled: return 0.")
    return "only images that were classified correctly before count, in both parts of the fraction."


_WRONG_RATES = {
    "you count every misclassified image, also those misclassified before. An attack does "
    "not earn those.": 7 / 10,
    "you divide by all images. Only those that were classified correctly before can be fooled, so "
    "they are the denominator too.": 6 / 10,
    "in the numerator you count images that were misclassified before the attack.": 7 / 8,
    "you count every change of the prediction. An image that was misclassified before, and is now "
    "misclassified in another way, was not fooled by the attack.": 8 / 10,
    "that is the share that stays correct. The fooling rate is the rest: 1 minus it.": 2 / 8,
    "that is the accuracy under attack. Count the fooled images.": 3 / 10,
    "that is a number of images, not a share. Divide it.": 6,
    "a share lies in [0, 1]: leave out the factor 100.": 75,
}


LOOKS = 100
"""How often the search of exercise 1.3 may look at the logits of each sign."""


@check
def search(answer: Answer) -> str:
    """Exercise 1.3: fool half of 16 signs within 4/255, without a gradient.

    ``answer(logits, x, y, eps, generator)`` returns the changed images. ``logits(images)`` takes
    images of the shape of x, at most `LOOKS` times.
    """
    eps = 4 / 255
    model = models.load("signs-standard")
    x, y = signs.render(24, seed=41)
    correct = predict(model, x).argmax(1) == y
    x, y, looks = x[correct][:16], y[correct][:16], 0

    def logits(images: Tensor) -> Tensor:
        nonlocal looks
        looks += 1
        if looks > LOOKS:
            raise Mistake(f"you look more than {LOOKS} times. Stop before that.")
        return predict(model, expect_tensor(images, x.shape, "images").detach())

    before = x.clone()
    changed = answer(logits, x, y, eps, torch.Generator().manual_seed(7))
    changed = expect_tensor(changed, before.shape, "images").detach()
    expect_untouched(x, before)
    if changed.min() < 0 or changed.max() > 1:
        raise Mistake("some pixels lie outside [0, 1]: end with .clamp(0, 1).")
    if (size := float((changed - before).abs().max())) > eps + 1e-6:
        raise Mistake(f"some pixels move by {255 * size:.1f}/255; eps is 4/255.")
    fooled = int((predict(model, changed).argmax(1) != y).sum())
    if not looks:
        raise Mistake(
            f"you never look at the logits, and fool {fooled} of 16. Try changes, and keep those "
            "that help."
        )
    if fooled < 8:
        raise Mistake(
            f"{fooled} of 16 signs are fooled, and 8 are wanted. Keep a change only where it makes "
            "the true class's lead smaller, and change a block or a stripe at once: single pixels "
            "are too many."
        )
    return f"{fooled} of 16 signs are fooled without a gradient, with {looks} looks at each."
