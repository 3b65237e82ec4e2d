"""How large a budget does an attack need? For each image, by bisection over a list of budgets."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from advlib.contracts import Model, check_batch
from advlib.errors import InputError
from advlib.evaluation import BudgetAttack, predict


def least_budget(
    model: Model, x: Tensor, y: Tensor, budgets: Sequence[float], attack: BudgetAttack
) -> Tensor:
    """The smallest of several budgets within which an attack fools the model, for each image.

    A larger ball contains the smaller one, so an image that is misclassified within one budget
    counts as misclassified within every larger one. That allows bisection: about
    ``log2(len(budgets))`` attacks on each image.

    Parameters
    ----------
    model, x, y
        As for `advlib.fgsm`, with the true classes.
    budgets
        In ascending order, positive.
    attack
        Called as ``attack(model, x, y, eps)`` on the images that are to be attacked within `eps`.

    Returns
    -------
    Tensor
        Shape (n,), float64, on the CPU: one of `budgets`, 0 where the image is misclassified as it
        is, infinity where no budget is enough.

    Raises
    ------
    InputError
        `budgets` is empty or does not ascend from above 0; what `advlib.fgsm` refuses.
    """
    steps = [0.0, *budgets]
    if len(steps) == 1 or any(not one < two for one, two in zip(steps, steps[1:], strict=False)):
        raise InputError(f"budgets are {list(budgets)}; positive, ascending numbers are expected.")
    x, y = check_batch(model, x, y)
    scale = torch.tensor([*steps, math.inf], dtype=torch.float64)
    low = torch.zeros(len(x), dtype=torch.long)  # not fooled within scale[low]
    high = torch.full_like(low, len(scale) - 1)  # fooled within scale[high], or it is infinity
    if len(x):
        wrong = (predict(model, x).argmax(1) != y).cpu()
        low[wrong], high[wrong] = -1, 0
    while (open_ := high - low > 1).any():
        middle = (low + high) // 2
        for place in middle[open_].unique().tolist():
            rows = (open_ & (middle == place)).nonzero().squeeze(1)
            some, labels = x[rows.to(x.device)], y[rows.to(y.device)]
            x_adv = attack(model, some, labels, float(scale[place]))
            fooled = (predict(model, x_adv).argmax(1) != labels).cpu()
            high[rows[fooled]] = place
            low[rows[~fooled]] = place
    return scale[high]
