"""A quiz that marks itself and explains each mistake."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from advlib.widgets.base import PageWidget, short_key
from advlib.widgets.errors import QuestionError


class Quiz(PageWidget):
    """The widget that `quiz` returns."""

    def as_text(self) -> str:
        """Return title, questions and options, without the answers."""
        lines = [self.data["title"]]
        for place, item in enumerate(self.data["questions"], start=1):
            lines.append(f"{place}. {item['prompt']}")
            mark = "[ ]" if item["kind"] == "multiple" else "( )"
            lines += [f"   {mark} {option['text']}" for option in item.get("options", [])]
        return "\n".join(lines)


def right(text: str, why: str = "") -> dict[str, Any]:
    """Describe a right option; `why` is shown with it once it is chosen."""
    return {"text": text, "right": True, "why": why}


def wrong(text: str, why: str) -> dict[str, Any]:
    """Describe a wrong option; `why` names the mistake behind it and must not be empty."""
    if not why.strip():
        raise QuestionError(f"say which mistake leads to {text!r}: wrong(text, why)")
    return {"text": text, "right": False, "why": why}


def single(prompt: str, options: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Describe a question with exactly one right option.

    Parameters
    ----------
    prompt : str
        The question.
    options : sequence
        Two or more, made by `right` and `wrong`. They are shown shuffled, always in the same order.

    Raises
    ------
    QuestionError
        There is one option only, two options are the same, or not exactly one is right.
    """
    return _choices("single", prompt, options)


def multiple(prompt: str, options: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Describe a question where all right options must be ticked: as `single`, but one or more."""
    return _choices("multiple", prompt, options)


def numeric(
    prompt: str,
    answer: float,
    *,
    tolerance: float = 0.0,
    unit: str = "",
    why: str = "",
    hint: str = "",
    mistakes: Mapping[float, str] | None = None,
) -> dict[str, Any]:
    """Describe a question whose answer is a number.

    Parameters
    ----------
    prompt : str
        The question, saying the unit and how many digits are wanted.
    answer : float
        The right number, in `unit`.
    tolerance : float
        Largest difference that still counts as right, in `unit`.
    unit : str
        Written after the field.
    why : str
        Shown with the right answer.
    hint : str
        Shown with a wrong answer that is not in `mistakes`.
    mistakes : mapping of float to str, optional
        What an expected wrong number means: ``{8.0: "That is in 255ths; divide by 255."}``.

    Raises
    ------
    QuestionError
        A number is not finite, the tolerance is negative, or a mistake would count as right.
    """
    mistakes = dict(mistakes or {})
    if not all(map(math.isfinite, (answer, tolerance, *mistakes))) or tolerance < 0:
        raise QuestionError("answer, tolerance and mistakes are finite numbers, tolerance >= 0")
    for value in mistakes:
        if abs(value - answer) <= tolerance:
            raise QuestionError(f"the mistake {value!r} is within the tolerance of the answer")
    return {
        "kind": "numeric",
        "prompt": prompt,
        "answer": float(answer),
        "tolerance": float(tolerance),
        "unit": unit,
        "why": why,
        "hint": hint or "Not this number. Go back to the definition and compute it once more.",
        "mistakes": [{"value": float(value), "why": text} for value, text in mistakes.items()],
    }


def quiz(questions: Sequence[dict[str, Any]], *, title: str = "Check yourself") -> Quiz:
    """Show questions that mark themselves, with or without a kernel.

    Parameters
    ----------
    questions : sequence
        Made by `single`, `multiple` and `numeric`.
    title : str
        Heading of the quiz.

    Raises
    ------
    QuestionError
        There is no question, or one was not made by those functions.
    """
    questions = list(questions)
    if not questions or not all(isinstance(item, dict) and "kind" in item for item in questions):
        raise QuestionError("a quiz is a list of single(...), multiple(...) and numeric(...)")
    options = [option["text"] for item in questions for option in item.get("options", [])]
    # With the options: an answer is stored by its place among them.
    key = short_key(title, *(item["prompt"] for item in questions), *options)
    return Quiz(kind="quiz", data={"key": key, "title": title, "questions": questions})


def _choices(kind: str, prompt: str, options: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    options = [dict(option) for option in options]
    count = sum(option["right"] for option in options)
    if len(options) < 2 or count < 1 or (kind == "single" and count != 1):
        wanted = "exactly one right option" if kind == "single" else "one or more right options"
        raise QuestionError(f"{prompt!r} needs two or more options and {wanted}, got {count}")
    if len({option["text"] for option in options}) < len(options):
        raise QuestionError(f"two options of {prompt!r} are the same")
    # The texts are the seed, so that authors need not think of the order and it never changes.
    options.sort(key=lambda option: zlib.crc32(f"{prompt}\n{option['text']}".encode()))
    return {"kind": kind, "prompt": prompt, "options": options}
