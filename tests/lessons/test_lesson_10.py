"""Checks of lesson 10: a stub fails, the solution passes, each mistake is named."""

import math

import pytest

import advlib
from advlib.attacks import adaptive
from advlib.gradients import input_gradient
from advlib.lessons import lesson_10

RANDOM_STATE_IS_WATCHED = True


def withstand(correct, queries):
    ways = [math.comb(int(c), queries) for c in correct.sum(0)]
    return sum(ways) / (correct.shape[1] * math.comb(len(correct), queries))


def share(correct):
    return correct.float().mean(0)


WITHSTAND_MISTAKES = {
    "returns nothing": lambda correct, queries: ...,
    "mean over the images first": lambda correct, queries: correct.float().mean() ** queries,
    "what one submission leaves": lambda correct, queries: correct.float().mean(),
    "0.244 too high": lambda correct, queries: (share(correct) > 0.5).float().mean(),
    "too low, on average": lambda correct, queries: (share(correct) == 1).float().mean(),
    "(Jensen)": lambda correct, queries: (share(correct) ** queries).mean(),
    "too low": lambda correct, queries: withstand(correct, queries + 1),
    "too high, on average over": lambda correct, queries: withstand(correct, queries - 1),
    "stopped with TypeError": lambda correct: 0.5,
}


def test_withstand_names_each_mistake() -> None:
    for words, answer in WITHSTAND_MISTAKES.items():
        verdict = lesson_10.withstand(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_withstand_accepts_what_is_right_on_average() -> None:
    assert lesson_10.withstand(withstand).ok

    def two_halves(correct, queries):
        return correct.view(-1, queries, correct.shape[1]).all(1).float().mean()

    assert lesson_10.withstand(two_halves).ok
    assert lesson_10.withstand(lambda correct, k: correct[:k].all(0).float().mean()).ok


def gone(model, x, y, loss):
    grad = input_gradient(model, x, y, loss=loss).grad
    return (grad == 0).flatten(1).all(1).float().mean() > 0.5


def diagnose(model, x, y):
    found = set() if model(x).allclose(model(x), atol=1e-5) else {"random"}
    if gone(model, x, y, "margin"):
        return found | {"blocked"}
    return found | {"saturated"} if gone(model, x, y, "ce") else found


def first_only(model, x, y):
    found = sorted(diagnose(model, x, y), reverse=True)
    return set(found[-1:])


DIAGNOSE_MISTAKES = {
    "returns nothing": lambda model, x, y: None,
    "a set of the three words": lambda model, x, y: {"masked"},
    "rounding: you overlook that it is blocked": lambda model, x, y: set(),
    "scaled logits: you overlook that it is saturated": lambda model, x, y: (
        {"blocked"} if gone(model, x, y, "ce") else diagnose(model, x, y)
    ),
    "the bare network: you call it random": lambda model, x, y: diagnose(model, x, y) | {"random"},
    "moved, then rounded: you overlook that it is random": first_only,
    "stopped with TypeError": lambda model: set(),
}


def test_diagnose_names_each_mistake() -> None:
    for words, answer in DIAGNOSE_MISTAKES.items():
        verdict = lesson_10.diagnose(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_diagnose_accepts_a_correct_answer() -> None:
    assert lesson_10.diagnose(diagnose).ok, lesson_10.diagnose(diagnose)


def break_it(defence, x, y, eps, *, loss="margin", straight=True, draws=8, steps=12, **options):
    model, found = defence, diagnose(defence, x, y)
    if straight and "blocked" in found:
        through = adaptive.straight_through(defence.prepare)
        model = lambda x: defence.model(through(x))  # noqa: E731
    if "random" in found:
        model = adaptive.averaged(model, draws)
    return advlib.pgd(model, x, y, eps, steps=steps, loss=loss, **options)


def in_place(defence, x, y, eps):
    return x.copy_(break_it(defence, x, y, eps, steps=1))


def with_cross_entropy(defence, x, y, eps):
    """Where it saturates one step shows it, and many take long: the gradient is denormal."""
    if "saturated" in diagnose(defence, x, y):
        return break_it(defence, x, y, eps, loss="ce", steps=1)
    return break_it(defence, x, y, eps)


BROKEN_MISTAKES = {
    "returns nothing": lambda defence, x, y, eps: ...,
    "images of": lambda defence, x, y, eps: x[:3],
    "changes x itself": in_place,
    "a change of 8.0/255": lambda defence, x, y, eps: break_it(defence, x, y, 2 * eps, steps=1),
    "gradients for an image": lambda *given: break_it(*given, steps=201),
    "(BPDA)": lambda *given: break_it(*given, straight=False, steps=4),
    "(EOT)": lambda *given: break_it(*given, draws=1),
    "Which part of this loss saturates": with_cross_entropy,
    "stopped with TypeError": lambda defence, x: x,
}


@pytest.mark.parametrize("words", BROKEN_MISTAKES)
def test_broken_names_each_mistake(words: str) -> None:
    verdict = lesson_10.broken(BROKEN_MISTAKES[words])
    assert not verdict.ok and words in verdict.message, verdict


def test_broken_accepts_an_attack_that_suits_each_defence() -> None:
    assert lesson_10.broken(break_it).ok, lesson_10.broken(break_it)


def test_ignoring_the_random_defence_or_straight_through_it_is_not_enough() -> None:
    def bare(defence, x, y, eps):
        return advlib.pgd(defence.model, x, y, eps, steps=20, loss="margin")

    verdict = lesson_10.broken(bare)
    assert not verdict.ok and "(EOT)" in verdict.message, verdict
