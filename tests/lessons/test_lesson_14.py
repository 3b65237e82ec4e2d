"""Checks of lesson 14: a stub fails, the solution passes, each mistake gets its own sentence."""

from typing import Any

import pytest
import torch

from advlib.attacks.token_exchange import token_exchange
from advlib.errors import WeightsError
from advlib.lessons import lesson_14


def gains(g: Any, table: Any, old: int) -> Any:
    return (table - table[old]) @ g


def best(gains: Any, allowed: Any) -> Any:
    inside = gains.masked_fill(~allowed, -torch.inf)
    return divmod(int(inside.argmax()), inside.shape[1])


def sentences(encoder: Any, text: str, query: str) -> str:
    found = token_exchange(encoder, text, query)
    return text + 4 * f" {found.suffixes[-1]}."


def test_a_stub_is_not_yet_correct() -> None:
    assert not lesson_14.predicted_gains(lambda g, table, old: ...).ok
    assert not lesson_14.best_exchange(lambda gains, allowed: ...).ok
    assert not lesson_14.above_the_median(lambda encoder, text, query: ...).ok


def test_the_solutions_are_correct() -> None:
    assert lesson_14.predicted_gains(gains).ok
    assert lesson_14.best_exchange(best).ok
    verdict = lesson_14.above_the_median(sentences)
    assert verdict.ok, verdict.message


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda g, table, old: table @ g, "not subtracted"),
        (lambda g, table, old: -gains(g, table, old), "reversed"),
        (lambda g, table, old: gains(g.sign(), table, old), "sign of the gradient"),
        (lambda g, table, old: (table - table[old]) * g, "one number for each coordinate"),
        (lambda g, table, old: gains(g, table, 0), "should gain"),
        (lambda g, table, old: table.sub_(table[old].clone()) @ g, "changes x itself"),
    ],
)
def test_a_wrong_gain_is_named(answer: Any, message: str) -> None:
    verdict = lesson_14.predicted_gains(answer)
    assert not verdict.ok and message in verdict.message


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda gains, allowed: divmod(int(gains.argmax()), gains.shape[1]), "not allowed"),
        (lambda gains, allowed: best(gains, allowed)[::-1], "other way round"),
        (lambda gains, allowed: (0, 0), "are expected"),
        (lambda gains, allowed: 7, "two integers"),
        (lambda gains, allowed: best(gains * allowed, allowed | True), "-infinity"),
    ],
)
def test_a_wrong_exchange_is_named(answer: Any, message: str) -> None:
    verdict = lesson_14.best_exchange(answer)
    assert not verdict.ok and message in verdict.message


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda encoder, text, query: "other", "as it was given"),
        (lambda encoder, text, query: text + " tree" * 61, "61 words"),
        (lambda encoder, text, query: f"{text} {query}", "too close to a word of the query"),
        (lambda encoder, text, query: f"{text} Trees are green.", "at place"),
    ],
)
def test_a_wrong_suffix_is_named(answer: Any, message: str) -> None:
    verdict = lesson_14.above_the_median(answer)
    assert not verdict.ok and message in verdict.message


def test_one_sentence_does_not_move_the_median() -> None:
    def one(encoder: Any, text: str, query: str) -> str:
        return token_exchange(encoder, text, query).text

    assert "at place" in lesson_14.above_the_median(one).message


def test_the_open_exercise_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise WeightsError("not installed")

    monkeypatch.setattr(lesson_14, "minilm", missing)
    verdict = lesson_14.above_the_median(sentences)
    assert not verdict.ok and "needs the sentence encoder" in verdict.message
