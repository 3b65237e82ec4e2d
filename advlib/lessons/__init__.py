"""Checks of the exercises: they run in the cell and name the actual mistake.

Each lesson has a module of its own, `lesson_01` and so on, with one function per exercise. A check
never raises: it returns a `Verdict` that prints itself, so that a notebook runs on.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

Answer = Callable[..., Any]
"""The reader's function."""


@dataclass(frozen=True)
class Verdict:
    """Whether an exercise is solved, and a message: the mistake, or what was shown."""

    ok: bool
    message: str

    def __repr__(self) -> str:
        return f"{'Right' if self.ok else 'Not yet'}: {self.message}"


class Mistake(Exception):
    """Raised inside a check with the sentence that names the mistake."""


def check(function: Callable[..., str]) -> Callable[..., Verdict]:
    """Turn a function that raises `Mistake` or returns praise into one that returns a `Verdict`.

    An error inside the reader's own code becomes part of the verdict too.
    """

    @functools.wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Verdict:
        try:
            return Verdict(True, function(*args, **kwargs))
        except Mistake as mistake:
            return Verdict(False, str(mistake))
        except Exception as error:
            return Verdict(
                False, f"your code stopped with {type(error).__name__}: {str(error)[:200]}"
            )

    # The wrapped function returns text; readers of the reference should see what they get.
    checked.__annotations__ = {**function.__annotations__, "return": Verdict}
    return checked


def expect_answer(given: object) -> None:
    """Raise the `Mistake` of a stub: nothing was returned, or the three dots still stand."""
    if given is None or given is ...:
        raise Mistake("your function returns nothing yet. Replace the three dots.")


def expect_number(given: Any) -> float:
    """Return `given` as a float; raise the `Mistake` of a stub."""
    expect_answer(given)
    return float(given)


def expect_tensor(given: object, shape: tuple[int, ...], what: str) -> Tensor:
    """Return `given` if it is a tensor of `shape`; otherwise raise the `Mistake` that says so.

    `what` says in the plural what the tensor holds: ``"images"``.
    """
    expect_answer(given)
    if not isinstance(given, Tensor) or given.shape != shape:
        got = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise Mistake(f"your function returns {got}; {what} of {tuple(shape)} are expected.")
    return given


def expect_untouched(x: Tensor, before: Tensor) -> None:
    """Raise the `Mistake` of a function that changed its argument `x`, which was `before`."""
    if not x.equal(before):
        raise Mistake("your function changes x itself. Make a new tensor: no += and no in-place _.")


class Counted(nn.Module):
    """A network that counts the images it is given: with a gradient recorded, and without."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.gradients, self.looks = model, 0, 0
        self.train(model.training)

    def forward(self, x: Tensor) -> Tensor:
        """The network's logits."""
        if x.requires_grad and torch.is_grad_enabled():
            self.gradients += len(x)
        else:
            self.looks += len(x)
        return self.model(x)


def close(given: Any, expected: Any, *, rtol: float = 0.0, atol: float = 1e-6) -> bool:
    """Whether two numbers, or two tensors of the same shape, agree."""
    a, b = (torch.as_tensor(value, dtype=torch.float64) for value in (given, expected))
    return a.shape == b.shape and torch.allclose(a, b, rtol=rtol, atol=atol)


def name_mistake(
    given: Any, mistakes: Mapping[str, Any], *, rtol: float = 0.0, atol: float = 1e-6
) -> None:
    """Raise the first `Mistake` that returns `given`.

    `mistakes` holds what each mistake returns, under the sentence that names it; a tuple holds
    several results of the same mistake.
    """
    for sentence, wrong in mistakes.items():
        for result in wrong if isinstance(wrong, tuple) else (wrong,):
            if close(given, result, rtol=rtol, atol=atol):
                raise Mistake(sentence)
