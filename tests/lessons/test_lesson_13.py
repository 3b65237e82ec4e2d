"""Checks of lesson 13: a stub fails, the solution passes, each mistake is named."""

import math

import torch

import advlib
from advlib.lessons import lesson_13

Z = 1.959964

WORST_CASE_MISTAKES = {
    "returns nothing": lambda correct: ...,
    "worst *attack*": lambda correct: correct.float().mean(1).min(),
    "choose an attack at random": lambda correct: correct.float().mean(),
    "product": lambda correct: correct.float().mean(1).prod(),
    "at least one attack": lambda correct: correct.any(0).float().mean(),
    "union bound": lambda correct: 1 - (~correct).float().mean(1).sum(),
    "are fooled": lambda correct: 1 - correct.all(0).float().mean(),
    "Divide by": lambda correct: correct.all(0).sum(),
    "share of the attacks": lambda correct: correct.all(1).float().mean(),
    "shape (200,)": lambda correct: correct.all(0),
    "returns list": lambda correct: correct.all(0).tolist(),
    "in every row": lambda correct: 0.123,
    "no fixed number": lambda correct: correct.all(0).sum() / 200,
    "changes x itself": lambda correct: correct.logical_not_().all(0).float().mean(),
    "stopped with AttributeError": lambda correct: correct.shares(),
}


def test_worst_case_names_each_mistake() -> None:
    for words, answer in WORST_CASE_MISTAKES.items():
        verdict = lesson_13.worst_case(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_worst_case_accepts_correct_answers() -> None:
    assert lesson_13.worst_case(lambda correct: correct.all(0).float().mean()).ok
    assert lesson_13.worst_case(lambda correct: correct.float().amin(0).mean().item()).ok

    def in_a_loop(correct):
        remaining = torch.ones(correct.shape[1], dtype=torch.bool)
        for row in correct:
            remaining = remaining & row
        return int(remaining.sum()) / len(remaining)

    assert lesson_13.worst_case(in_a_loop).ok


def needed(half_width, z=Z):
    return z**2 * (1 / (4 * half_width**2) - 1)


NUMBER_MISTAKES = {
    "returns nothing": lambda half_width: None,
    "fraction of an image": needed,
    "rounded down": lambda half_width: math.floor(needed(half_width)),
    "textbook": lambda half_width: math.ceil(Z**2 / (4 * half_width**2)),
    "whole width": lambda half_width: math.ceil(needed(half_width / 2)),
    "68 %": lambda half_width: math.ceil(needed(half_width, 1.0)),
    "90 %": lambda half_width: math.ceil(needed(half_width, 1.644854)),
    "squared": lambda half_width: math.ceil(needed(half_width, math.sqrt(Z))),
    "solved for n": lambda half_width: 1000,
    "returns str": lambda half_width: "381",
    "stopped with TypeError": lambda: 381,
}


def test_images_needed_names_each_mistake() -> None:
    for words, answer in NUMBER_MISTAKES.items():
        verdict = lesson_13.images_needed(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_images_needed_accepts_correct_answers() -> None:
    assert lesson_13.images_needed(lambda half_width: math.ceil(needed(half_width))).ok
    assert lesson_13.images_needed(lambda half_width: math.ceil(needed(half_width, 1.96))).ok

    def by_search(half_width):
        n = 1
        while True:
            middle = advlib.wilson(n // 2, n)
            if (middle.high - middle.low) / 2 <= half_width:
                return n
            n += 1

    assert lesson_13.images_needed(by_search).ok, lesson_13.images_needed(by_search)
