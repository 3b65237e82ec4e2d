"""Checks of lesson 13: a stub fails, the solution passes, each mistake is named."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import advlib
from advlib.audit import Audit, Finding
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


@pytest.fixture(scope="module")
def card() -> Audit:
    """A card that is good enough, of a network with two classes."""
    x = torch.rand(8, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    noisy = {"noise": lambda model, x, y: advlib.noise(x, 0.01)}
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    found = advlib.audit(model, x, model(x).argmax(1), 0.01, attacks=noisy, masking=False)
    return replace(found, name="mine", robust=advlib.wilson(360, 400), findings=())


def warnings(*names: str) -> dict[str, tuple[Finding, ...]]:
    return {"findings": tuple(Finding(name, "warning", "Something is odd.") for name in names)}


CARDS = {
    "interrupted": {"complete": False},
    "comes with this course": {"name": "signs-robust"},
    "no threat model": warnings("whole-box"),
    "a first look": {"level": "quick"},
    "100 images leave an interval of ±9.6 points": {"robust": advlib.wilson(50, 100)},
    "no sentence helps against the warning chance": warnings("chance"),
    "warns of few-images, masking-loss": warnings("masking-loss", "few-images"),
}


def verdict_on(card: Audit, folder: Path, **explained: str) -> advlib.lessons.Verdict:
    file = folder / "card.json"
    file.write_text(card.to_json(), encoding="utf-8")
    return lesson_13.own_card(
        lambda: (file, {k.replace("_", "-"): v for k, v in explained.items()})
    )


@pytest.mark.parametrize("words", CARDS)
def test_own_card_names_what_is_missing(words: str, card: Audit, tmp_path: Path) -> None:
    verdict = verdict_on(replace(card, **CARDS[words]), tmp_path)
    assert not verdict.ok and words in verdict.message, verdict


def test_own_card_accepts_a_warning_only_with_its_sentence(card: Audit, tmp_path: Path) -> None:
    assert verdict_on(card, tmp_path).ok
    warned = replace(card, **warnings("few-images"))
    for sentence, good in (("It is fine.", False), ("The interval says it all, see above.", True)):
        verdict = verdict_on(warned, tmp_path, few_images=sentence)
        assert verdict.ok is good, verdict
    assert "90.0 % (360 of 400" in verdict.message


def test_own_card_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "card.json").write_text("{}", encoding="utf-8")
    for words, given in {
        "Replace the three dots": ...,
        "two things are expected": tmp_path / "card.json",
        "no card.json of an audit: this is no robustness card": (tmp_path / "card.json", {}),
        "no card.json of an audit: [Errno 2]": (tmp_path / "none.json", {}),
    }.items():
        verdict = lesson_13.own_card(lambda given=given: given)
        assert not verdict.ok and words in verdict.message, verdict
