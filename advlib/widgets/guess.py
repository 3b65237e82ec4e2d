"""Guess, lock, answer: commit to a guess before the answer is shown.

`guess` asks, early in the lesson. `reveal`, in or after the cell that computes it, shows the answer
beside the guess. The static page holds the answer too, folded until the reader has locked a guess.
The guess is kept in the reader's browser (and, with a kernel, in that kernel).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from advlib.widgets.base import PageWidget, short_key
from advlib.widgets.errors import QuestionError


@dataclass(frozen=True)
class Number:
    """A guess that is a number; made by `number`."""

    low: float
    high: float
    step: float
    unit: str
    digits: int
    initial: float


def number(
    low: float, high: float, *, step: float = 1, unit: str = "", initial: float | None = None
) -> Number:
    """Let the reader guess a number on a slider.

    Parameters
    ----------
    low, high, step : float
        Range and step of the slider, in `unit`.
    unit : str
        Written after the number, such as ``"%"``.
    initial : float, optional
        Where the slider stands at first; by default in the middle. The reader has to move it.

    Raises
    ------
    QuestionError
        The range is empty or the step is not positive.
    """
    if not (low < high and step > 0):
        raise QuestionError(f"a number needs low < high and step > 0, got {low}, {high}, {step}")
    middle = low + round((high - low) / 2 / step) * step
    decimals = len(f"{step:.10f}".rstrip("0").split(".")[1])
    return Number(low, high, step, unit, decimals, middle if initial is None else initial)


class Guess(PageWidget):
    """The question that `guess` returns; `.reveal` shows the answer."""

    def as_text(self) -> str:
        """Return the question and its options."""
        options, number = self.data["options"], self.data["number"]
        if number:
            options = [f"{_write(number, number['low'])} to {_write(number, number['high'])}"]
        return "\n".join([f"Your guess: {self.data['question']}", *(f"  ( ) {o}" for o in options)])

    @property
    def guessed(self) -> str | float | None:
        """The reader's locked guess: the option's text or the number; None before the lock."""
        if self.guess is None or self.data["number"]:
            return self.guess
        return self.data["options"][int(self.guess)]

    def reveal(self, answer: str | float, explanation: str = "") -> Reveal:
        """Show the answer beside the reader's guess.

        Parameters
        ----------
        answer : str or float
            One of the question's options, or a number in the question's unit.
        explanation : str
            The reason, shown with the answer. Backticks set code, asterisks *stress*.

        Raises
        ------
        QuestionError
            The answer is not one of the options, or not a number.
        """
        data = {**self.data, "answer": _answer(self.data, answer), "explanation": explanation}
        shown = Reveal(kind="reveal", data=data, guess=self.guess)
        # Where each output lives in a frame of its own (Colab) only the kernel can carry the guess.
        self.observe(lambda change: shown.set_trait("guess", change["new"]), "guess")
        return shown


class Reveal(PageWidget):
    """The answer that `Guess.reveal` returns; folded until a guess is locked."""

    def as_text(self) -> str:
        """Return the question, the answer and the explanation."""
        answer, number = self.data["answer"], self.data["number"]
        said = _write(number, answer) if number else self.data["options"][answer]
        parts = [self.data["question"], f"Answer: {said}", self.data["explanation"]]
        return "\n".join(part for part in parts if part)


def guess(
    question: str,
    options: Iterable[str] | Number,
    *,
    answer: str | float | None = None,
    explanation: str = "",
) -> Guess:
    """Ask for a guess that must be locked before the answer is shown.

    Parameters
    ----------
    question : str
        One sentence, ending in a question mark.
    options : iterable of str, or Number
        What can be guessed: a few options, or `number`.
    answer : str or float, optional
        The answer, if this cell knows it. If a later cell computes it, leave it out and show it
        there with ``guess.reveal(answer)``.
    explanation : str
        The reason, shown with the answer.

    Returns
    -------
    Guess
        Shown where it ends a cell. Keep it in a name (``guess = widgets.guess(...)``) to show
        the answer later.

    Raises
    ------
    QuestionError
        There are fewer than two different options, or the answer is not among them.
    """
    data: dict[str, Any] = {"question": question, "options": [], "number": None}
    if isinstance(options, Number):
        data["number"] = asdict(options)
    else:
        data["options"] = list(options)
        if len(set(data["options"])) < max(2, len(data["options"])):
            raise QuestionError(f"give two or more different options, got {data['options']}")
    data["key"] = short_key(question, *data["options"])
    data["answer"] = None if answer is None else _answer(data, answer)
    data["explanation"] = explanation
    return Guess(kind="predict", data=data)


def _answer(data: dict[str, Any], answer: str | float) -> int | float:
    """Return the answer as it is stored: an option's number, or a value rounded to be shown."""
    if data["number"]:
        try:
            return round(float(answer), data["number"]["digits"] + 2)
        except (TypeError, ValueError):
            raise QuestionError(f"the answer is a number, not {answer!r}") from None
    if answer not in data["options"]:
        raise QuestionError(f"the answer {answer!r} is not one of the options {data['options']}")
    return data["options"].index(answer)


def _write(number: dict[str, Any], value: float) -> str:
    return f"{value:g} {number['unit']}".strip()
