"""Predict, lock, reveal: commit to a guess before the measurement is shown.

`predict` asks, early in the lesson. `reveal`, in or after the cell that measures, puts the answer
beside the guess. In the static page the answer is already stored: it stays folded until the reader
has locked a guess. The guess is kept in the reader's browser (and, with a kernel, in that kernel).
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
        Where the slider stands at first; by default in the middle.

    Returns
    -------
    Number

    Raises
    ------
    QuestionError
        If the range is empty or the step is not positive.
    """
    if not (low < high and step > 0):
        raise QuestionError(f"a number needs low < high and step > 0, got {low}, {high}, {step}")
    middle = low + round((high - low) / 2 / step) * step
    start = middle if initial is None else initial
    return Number(low, high, step, unit, _digits(step), start)


class Predict(PageWidget):
    """The question that `predict` returns; `.reveal` shows what was measured."""

    def as_text(self) -> str:
        """Return the question and its options."""
        return _question_text("Your guess", self.data)

    @property
    def guessed(self) -> str | float | None:
        """The reader's locked guess: the option's text or the number; None before the lock."""
        if self.guess is None or self.data["number"]:
            return self.guess
        return self.data["options"][int(self.guess)]

    def reveal(self, answer: str | float, explanation: str = "") -> Reveal:
        """Show the measured answer beside the reader's guess.

        Parameters
        ----------
        answer : str or float
            One of the question's options, or the measured number in the question's unit.
        explanation : str
            Why it is so; shown with the answer. Backticks set code, asterisks *stress*.

        Returns
        -------
        Reveal
            End the cell with it to show it.

        Raises
        ------
        QuestionError
            If the answer is not one of the options, or not a number.
        """
        data = {**self.data, "answer": _answer(self.data, answer), "explanation": explanation}
        shown = Reveal(kind="reveal", data=data, guess=self.guess)
        # Where each output lives in a frame of its own (Colab) only the kernel can carry the guess.
        self.observe(lambda change: shown.set_trait("guess", change["new"]), "guess")
        return shown


class Reveal(PageWidget):
    """The answer that `Predict.reveal` returns; folded until a guess is locked."""

    def as_text(self) -> str:
        """Return the question, the measured answer and the explanation."""
        measured = self.data["answer"]
        if self.data["number"]:
            said = _write(self.data["number"], measured)
        else:
            said = self.data["options"][measured]
        parts = [self.data["question"], f"Measured: {said}", self.data["explanation"]]
        return "\n".join(part for part in parts if part)


def predict(
    question: str,
    options: Iterable[str] | Number,
    *,
    answer: str | float | None = None,
    explanation: str = "",
) -> Predict:
    """Ask for a guess that must be locked before the answer shows.

    Parameters
    ----------
    question : str
        One sentence, ending in a question mark.
    options : iterable of str, or Number
        What can be guessed: a few answers, or `number`.
    answer : str or float, optional
        The answer, if it is known in this cell. Leave it out when a later cell measures it, and
        show it there with ``guess.reveal(measured)``.
    explanation : str
        Why it is so; shown with the answer.

    Returns
    -------
    Predict
        Keep it in a name to reveal the answer later: ``guess = predict(...)``, then ``guess`` as
        the last line of the cell.

    Raises
    ------
    QuestionError
        If there are fewer than two different options, or the answer is not among them.
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
    return Predict(kind="predict", data=data)


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


def _question_text(heading: str, data: dict[str, Any]) -> str:
    if data["number"]:
        span = f"{_write(data['number'], data['number']['low'])} to "
        choices = [span + _write(data["number"], data["number"]["high"])]
    else:
        choices = data["options"]
    return "\n".join([f"{heading}: {data['question']}", *(f"  ( ) {text}" for text in choices)])


def _write(number: dict[str, Any], value: float) -> str:
    return f"{value:g} {number['unit']}".strip()


def _digits(step: float) -> int:
    """Return how many decimals a multiple of `step` needs."""
    text = f"{step:.10f}".rstrip("0")
    return len(text.split(".")[1])
