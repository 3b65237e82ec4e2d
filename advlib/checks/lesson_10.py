"""Checks of lesson 10, "The arms race"."""

from collections.abc import Callable

import torch
from torch import Tensor

from advlib.checks import Mistake, check, expect_answer, expect_tensor, expect_untouched

_LEVELS = 6
_CLOSE = 1e-5


@check
def rounded(answer: Callable[[Tensor, int], Tensor]) -> str:
    """Exercise 10.1: rounding to `levels` values whose gradient is that of the identity.

    Parameters
    ----------
    answer
        ``answer(x, levels)`` returns pixels of the shape of `x`, rounded to multiples of
        ``1 / (levels - 1)``; the derivative of each with respect to its own pixel is 1.

    Returns
    -------
    Verdict
    """
    x = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(10))
    before = x.clone()
    leaf = x.requires_grad_()
    given = expect_tensor(answer(leaf, _LEVELS), x.shape, "pixels")
    expect_untouched(x.detach(), before)
    _values(given.detach(), before)
    if not given.requires_grad:
        raise Mistake(
            "no gradient reaches x: everything in your result is detached. Detach the rounding's "
            "*error*, and add it to an x that is not detached."
        )
    (grad,) = torch.autograd.grad(given.sum(), leaf, allow_unused=True)
    if grad is None or (grad == 0).all():
        raise Mistake(
            "the values are right and the gradient is 0: that of rounding itself. Take x, whose "
            "gradient is 1, and add the error (rounded - x).detach()."
        )
    if (grad - 2).abs().max() < _CLOSE:
        raise Mistake(
            "the gradient is 2: x comes in twice. Detach the whole difference, not one term of it."
        )
    if (grad - 1).abs().max() > _CLOSE:
        raise Mistake(
            f"the gradient lies between {float(grad.min()):.2f} and {float(grad.max()):.2f}; 1 is "
            "expected everywhere. Does a factor of levels - 1 remain, or a smooth curve?"
        )
    return "the values are rounded, and the gradient is that of doing nothing."


def _values(given: Tensor, x: Tensor) -> None:
    right = (x * (_LEVELS - 1)).round() / (_LEVELS - 1)
    if (given - right).abs().max() < _CLOSE:
        return
    if given.equal(x):
        raise Mistake("the values are those of x: nothing is rounded.")
    if (given - (x * _LEVELS).round() / _LEVELS).abs().max() < _CLOSE:
        raise Mistake(
            f"the values are multiples of 1 / levels, which makes {_LEVELS + 1} of them. From 0 to "
            "1 in `levels` values there are levels - 1 steps."
        )
    if (given - x.round()).abs().max() < _CLOSE:
        raise Mistake("the values are 0 and 1 only. Scale by levels - 1 before you round.")
    if (given - right * (_LEVELS - 1)).abs().max() < _CLOSE:
        raise Mistake(f"the values reach {float(given.max()):.0f}. Divide by levels - 1 again.")
    if (given - (x * (_LEVELS - 1)).floor() / (_LEVELS - 1)).abs().max() < _CLOSE:
        raise Mistake("the values are rounded down. Take the nearest level: torch.round.")
    raise Mistake(
        f"the values are not those of (x * {_LEVELS - 1}).round() / {_LEVELS - 1} for "
        f"levels = {_LEVELS}."
    )


class _Dice:
    """A model whose logits depend on a draw, and which counts how often it was asked."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(7)
        self.logits: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        turn = torch.randn(4, 3, generator=self.generator)
        logits = x.flatten(1) @ turn
        self.logits.append(logits.detach())
        return logits


@check
def mean_logits(answer: Callable[[Callable[[Tensor], Tensor], Tensor, int], Tensor]) -> str:
    """Exercise 10.2: the mean of a random network's logits over several draws.

    Parameters
    ----------
    answer
        ``answer(model, x, samples)`` returns the mean of `samples` calls of `model` on `x`, shape
        (n, classes), through which a gradient can be taken.

    Returns
    -------
    Verdict
    """
    x = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(10)).requires_grad_()
    before = x.detach().clone()
    dice, samples = _Dice(), 6
    given = answer(dice, x, samples)
    expect_answer(given)
    if isinstance(given, list | tuple):
        raise Mistake("your function returns a list. Return one tensor: the mean of the calls.")
    if isinstance(given, Tensor) and given.shape == (samples, 5, 3):
        raise Mistake("your function returns all the draws. Average over them: .mean(0).")
    given = expect_tensor(given, (5, 3), "logits")
    expect_untouched(x.detach(), before)
    if len(dice.logits) != samples:
        raise Mistake(
            f"the model is asked {len(dice.logits)} times; {samples} is expected. Every draw needs "
            "a call of its own: the same logits, repeated, hold one draw."
        )
    draws = torch.stack(dice.logits)
    if (given - draws.sum(0)).abs().max() < _CLOSE:
        raise Mistake(
            "these are sums. Divide by samples: logits that grow make a softmax saturate."
        )
    if (given - draws[-1]).abs().max() < _CLOSE or (given - draws[0]).abs().max() < _CLOSE:
        raise Mistake("these are the logits of one draw; the other calls are thrown away.")
    if (given - draws.softmax(2).mean(0)).abs().max() < _CLOSE:
        raise Mistake("these are mean probabilities; the losses of advlib want logits.")
    if (given - draws.mean(0)).abs().max() > 1e-4:
        raise Mistake("these are not the mean of the model's answers on x.")
    if not given.requires_grad:
        raise Mistake("no gradient reaches x: remove no_grad and detach.")
    return "each draw has its say, and the gradient is the mean of theirs."
