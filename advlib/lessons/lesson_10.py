"""Checks of lesson 10, "The arms race"."""

import torch
from torch import Tensor

from advlib.lessons import (
    Answer,
    Mistake,
    check,
    close,
    expect_answer,
    expect_tensor,
    expect_untouched,
    name_mistake,
)

_LEVELS = 6
_CLOSE = 1e-5


@check
def rounded(answer: Answer) -> str:
    """Exercise 10.1: rounding to `levels` values whose gradient is that of the identity.

    ``answer(x, levels)`` returns pixels of the shape of `x`, rounded to multiples of
    ``1 / (levels - 1)``; the derivative of each with respect to its own pixel is 1.
    """
    x = torch.rand(2, 1, 4, 4, generator=torch.Generator().manual_seed(10))
    before = x.clone()
    leaf = x.requires_grad_()
    given = expect_tensor(answer(leaf, _LEVELS), x.shape, "pixels")
    expect_untouched(x.detach(), before)
    _check_values(given.detach(), before)
    if not given.requires_grad:
        raise Mistake(
            "no gradient reaches x: everything in your result is detached. Detach the rounding "
            "*error*, and add it to an x that is not detached."
        )
    (grad,) = torch.autograd.grad(given.sum(), leaf, allow_unused=True)
    if grad is None or (grad == 0).all():
        raise Mistake(
            "the values are correct and the gradient is 0: that of rounding itself. Take x, whose "
            "gradient is 1, and add the error (rounded - x).detach()."
        )
    if close(grad, torch.full_like(grad, 2), atol=_CLOSE):
        raise Mistake(
            "the gradient is 2: x occurs twice. Detach the whole difference, not one term of it."
        )
    if not close(grad, torch.ones_like(grad), atol=_CLOSE):
        raise Mistake(
            f"the gradient lies between {float(grad.min()):.2f} and {float(grad.max()):.2f}; 1 is "
            "expected everywhere. Does a factor of levels - 1 remain, or a smooth curve?"
        )
    return "the values are rounded, and the gradient is that of the identity."


def _check_values(given: Tensor, x: Tensor) -> None:
    steps = _LEVELS - 1
    correct = (x * steps).round() / steps
    if close(given, correct, atol=_CLOSE):
        return
    mistakes = {
        "the values are those of x: nothing is rounded.": x,
        f"the values are multiples of 1 / levels, which makes {_LEVELS + 1} of them. From 0 to 1 "
        "in `levels` values there are levels - 1 steps.": (x * _LEVELS).round() / _LEVELS,
        "the values are 0 and 1 only. Scale by levels - 1 before you round.": x.round(),
        f"the values reach {float(given.max()):.0f}. Divide by levels - 1 again.": correct * steps,
        "the values are rounded down. Take the nearest level: torch.round.": (x * steps).floor()
        / steps,
    }
    name_mistake(given, mistakes, atol=_CLOSE)
    raise Mistake(
        f"the values are not those of (x * {steps}).round() / {steps} for levels = {_LEVELS}."
    )


class _RandomModel:
    """A model whose logits are random at every call, and which records them."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(7)
        self.logits: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        logits = x.flatten(1) @ torch.randn(4, 3, generator=self.generator)
        self.logits.append(logits.detach())
        return logits


@check
def mean_logits(answer: Answer) -> str:
    """Exercise 10.2: the mean of a randomised network's logits over several draws.

    ``answer(model, x, samples)`` returns the mean of `samples` calls of `model` on `x`, shape
    (n, classes), through which a gradient can be taken.
    """
    x = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(10)).requires_grad_()
    before = x.detach().clone()
    model, samples = _RandomModel(), 6
    given = answer(model, x, samples)
    expect_answer(given)
    if isinstance(given, list | tuple):
        raise Mistake("your function returns a list. Return one tensor: the mean of the calls.")
    if isinstance(given, Tensor) and given.shape == (samples, 5, 3):
        raise Mistake("your function returns all the draws. Average over them: .mean(0).")
    given = expect_tensor(given, (5, 3), "logits")
    expect_untouched(x.detach(), before)
    if len(model.logits) != samples:
        raise Mistake(
            f"the model is called {len(model.logits)} times; {samples} is expected. Every draw "
            "needs its own call: the same logits, repeated, are one draw."
        )
    draws = torch.stack(model.logits)
    mistakes = {
        "these are sums. Divide by samples: larger logits make a softmax saturate.": draws.sum(0),
        "these are the logits of one draw; the other calls are discarded.": (draws[-1], draws[0]),
        "these are mean probabilities; the losses of advlib need logits.": draws.softmax(2).mean(0),
    }
    name_mistake(given.detach(), mistakes, atol=_CLOSE)
    if not close(given.detach(), draws.mean(0), atol=1e-4):
        raise Mistake("these are not the mean of the model's logits for x.")
    if not given.requires_grad:
        raise Mistake("no gradient reaches x: remove no_grad and detach.")
    return "every draw counts equally, and the gradient is the mean of their gradients."
