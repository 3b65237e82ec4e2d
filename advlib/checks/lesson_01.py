"""Checks of lesson 1, "See it happen"."""

from collections.abc import Callable

import torch
from torch import Tensor

from advlib.checks import Mistake, check, expect_answer, expect_tensor, expect_untouched


@check
def sign_noise(answer: Callable[[Tensor, float, torch.Generator], Tensor]) -> str:
    """Exercise 1.1: the largest noise there is, every pixel value up or down by `eps`.

    Parameters
    ----------
    answer
        ``answer(x, eps, generator)`` returns the noisy pictures.

    Returns
    -------
    Verdict
    """
    eps = 0.1
    # Pixels stay away from the edges at first, so that nothing needs to be cut.
    x = 0.2 + 0.6 * torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    before = x.clone()
    noisy = answer(x, eps, torch.Generator().manual_seed(2))
    expect_tensor(noisy, x.shape, "pictures")
    expect_untouched(x, before)
    _moves_by_eps(noisy - x, eps)
    if (answer(x, eps, torch.Generator().manual_seed(2)) != noisy).any():
        raise Mistake(
            "two calls with equally seeded generators give different noise. Pass "
            "generator=generator to torch.rand or torch.randint."
        )
    edge = torch.tensor([0.0, 1.0]).repeat(1, 3, 4, 4)
    if (cut := answer(edge, eps, torch.Generator().manual_seed(3))).min() < 0 or cut.max() > 1:
        raise Mistake(
            f"pixels reach from {cut.min():.1f} to {cut.max():.1f}. A picture has pixels in "
            "[0, 1]: end with .clamp(0, 1)."
        )
    return "every pixel value moves by exactly eps, up or down by chance, and stays in [0, 1]."


def _moves_by_eps(delta: Tensor, eps: float) -> None:
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
        raise Mistake("whole pictures move the same way. Draw one sign for each pixel value.")
    if (delta[0] - delta[1]).abs().max() < 1e-6:
        raise Mistake("all pictures get the same noise. Draw signs of the shape of x.")
    if not 0.4 < up.mean() < 0.6:
        raise Mistake(f"{up.mean():.0%} of the pixels move up; half of them should.")


@check
def fooling_rate(answer: Callable[[Tensor, Tensor, Tensor], float]) -> str:
    """Exercise 1.2: the share of rightly classified pictures that an attack turns wrong.

    Parameters
    ----------
    answer
        ``answer(before, after, y)`` returns the share, from the classes that the model saw before
        and after the attack and the true ones, each of shape (n,).

    Returns
    -------
    Verdict
    """
    # Ten pictures. Right before: 8. Of those turned wrong: 6. One that was wrong becomes right,
    # one goes from one wrong class to another, and every plausible mistake gives its own number.
    y = torch.tensor([0, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    before = torch.tensor([0, 0, 0, 0, 0, 0, 0, 0, 1, 1])
    after = torch.tensor([2, 2, 2, 2, 2, 3, 0, 0, 0, 2])
    given = answer(before, after, y)
    expect_answer(given)
    value = float(given)
    for wrong, why in _RATES:
        if abs(value - wrong) < 1e-6:
            raise Mistake(why)
    if abs(value - 6 / 8) > 1e-6:
        raise Mistake(
            f"you return {value:.4g}; of 8 pictures that were right 6 turn wrong, so 0.75 is "
            "expected."
        )
    nobody = torch.tensor([1, 1])
    if float(answer(nobody, nobody, torch.tensor([0, 0]))) != 0:
        raise Mistake("where no picture was right before, none was fooled: return 0.")
    return "only pictures that were right before count, above the line and below it."


_RATES = (
    (
        7 / 10,
        "you count every wrong answer, also on pictures that were wrong before. An attack "
        "does not earn those.",
    ),
    (
        6 / 10,
        "you divide by all pictures. Only those that were right before can be fooled, so they "
        "belong below the line too.",
    ),
    (7 / 8, "above the line you count pictures that were wrong before the attack."),
    (
        8 / 10,
        "you count every change of the answer. A picture that was wrong before and is wrong in "
        "another way now was not fooled by the attack.",
    ),
    (
        2 / 8,
        "that is the share that stays right. The fooling rate is the rest: 1 minus it.",
    ),
    (3 / 10, "that is the accuracy under attack. Count what turned wrong."),
    (6, "that is a number of pictures, not a share. Divide it."),
    (75, "a share lies in [0, 1]: leave out the factor 100."),
)
