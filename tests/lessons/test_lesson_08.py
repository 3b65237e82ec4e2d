"""Checks of lesson 8: a stub fails, the solution passes, each mistake is named."""

import torch

import advlib
from advlib.lessons import lesson_08


def draw(x, classes, generator):
    return torch.randint(0, classes, (len(x),), generator=generator)


def perturb(model, x, target, eps, **changes):
    return advlib.pgd(
        model, x, target, eps, **{"norm": "l2", "steps": 10, "targeted": True, **changes}
    )


def solution(model, x, y, eps, classes, generator):
    target = draw(x, classes, generator)
    return perturb(model, x, target, eps), target


def by_one_step(model, x, y, eps, classes, generator):
    target = (classes * torch.rand(len(x), generator=generator)).long()
    return advlib.fgsm(model, x, target, eps, norm="l2", targeted=True), target


def with_labels(label):
    def answer(model, x, y, eps, classes, generator):
        target = label(model, x, y, classes, generator)
        return perturb(model, x, target, eps), target

    return answer


def with_images(change):
    def answer(model, x, y, eps, classes, generator):
        target = draw(x, classes, generator)
        return change(model, x, y, target, eps), target

    return answer


def predicted_labels(model, x, y, eps, classes, generator):
    x_adv = perturb(model, x, draw(x, classes, generator), eps)
    return x_adv, model(x_adv).argmax(1)


def kept_labels(model, x, y, eps, classes, generator):
    return solution(model, x, y, eps, classes, generator)[0], y


def in_place(model, x, y, eps, classes, generator):
    x_adv, target = solution(model, x, y, eps, classes, generator)
    return x.copy_(x_adv), target


RELABEL_MISTAKES = {
    "returns nothing": lambda *a: ...,
    "two are expected": lambda *a: solution(*a)[0],
    "images of": lambda *a: (solution(*a)[0][:3], solution(*a)[1]),
    "labels of": lambda *a: (solution(*a)[0], solution(*a)[1][:3]),
    "changes x itself": in_place,
    "whole numbers": lambda *a: (solution(*a)[0], solution(*a)[1].float()),
    "are the true classes": kept_labels,
    "lie in 0..3": (lambda *a: (solution(*a)[0], solution(*a)[1] + 1)),
    "same label": with_labels(lambda m, x, y, k, g: torch.ones_like(y)),
    "plus 1": with_labels(lambda m, x, y, k, g: (y + 1) % k),
    "ever the true class": with_labels(
        lambda m, x, y, k, g: (y + torch.randint(1, k, y.shape, generator=g)) % k
    ),
    "Drawn uniformly from": with_labels(lambda m, x, y, k, g: draw(x, 2, g)),
    "the images are clean": with_images(lambda m, x, y, t, eps: x),
    "leave [0, 1]": with_images(lambda m, x, y, t, eps: perturb(m, x, t, eps) + 1),
    "length": with_images(lambda m, x, y, t, eps: perturb(m, x, t, eps, norm="linf")),
    "shorter than": with_images(lambda m, x, y, t, eps: perturb(m, x, t, eps / 10)),
    "what the model predicts": predicted_labels,
    "untargeted": with_images(lambda m, x, y, t, eps: perturb(m, x, y, eps, targeted=False)),
    "move away": with_images(lambda m, x, y, t, eps: perturb(m, x, t, eps, targeted=False)),
    "an attack at all": with_images(lambda m, x, y, t, eps: advlib.noise(x, eps, norm="l2")),
    "equally seeded": with_labels(lambda m, x, y, k, g: torch.randint(0, k, y.shape)),
    "stopped with TypeError": lambda model, x: (x, x),
}


def test_relabel_names_each_mistake() -> None:
    for words, answer in RELABEL_MISTAKES.items():
        with torch.random.fork_rng(devices=[]):
            verdict = lesson_08.relabel(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_relabel_accepts_correct_answers() -> None:
    assert lesson_08.relabel(solution).ok, lesson_08.relabel(solution)
    assert lesson_08.relabel(by_one_step).ok, "another attack, another draw"


def low(correct, total):
    return advlib.wilson(correct, total).low


CHANCE_MISTAKES = {
    "returns nothing": lambda correct, total, classes: None,
    "not one half": lambda correct, total, classes: low(correct, total) > 0.5,
    "Compute chance level": lambda correct, total, classes: low(correct, total) > 1 / 16,
    "lies below": lambda correct, total, classes: (
        not (low(correct, total) <= 1 / classes <= advlib.wilson(correct, total).high)
        and (correct, total) != (30, 100)
    ),
    "the upper end": lambda correct, total, classes: (
        advlib.wilson(correct, total).high > 1 / classes and classes > 2
    ),
    "not the share itself": lambda correct, total, classes: correct / total > 1 / classes,
    "more than the claim needs": lambda correct, total, classes: (
        low(correct, total) > 2 / classes or (classes == 16 and correct == 300)
    ),
    "0 of 0": lambda correct, total, classes: total == 0 or low(correct, total) > 1 / classes,
    "stopped with TypeError": lambda correct: True,
}


def test_above_chance_names_each_mistake() -> None:
    for words, answer in CHANCE_MISTAKES.items():
        verdict = lesson_08.above_chance(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_above_chance_accepts_correct_answers() -> None:
    assert lesson_08.above_chance(lambda correct, total, k: low(correct, total) > 1 / k).ok

    def by_hand(correct, total, classes):
        if total == 0:
            return False
        z, share = 1.959964, correct / total
        centre = share + z**2 / (2 * total)
        half = z * (share * (1 - share) / total + z**2 / (4 * total**2)) ** 0.5
        return (centre - half) / (1 + z**2 / total) > 1 / classes

    assert lesson_08.above_chance(by_hand).ok


def short(model, other, x, target, eps, **changes):
    """Steps that end as soon as the model is fooled."""
    how = dict(steps=20, step_size=0.15, random_start=False, early_stop=True) | changes
    return advlib.pgd(model, x, target, eps, norm="l2", targeted=True, **how)


BUG_MISTAKES = {
    "returns nothing": lambda *a: ...,
    "images of": lambda model, other, x, target, eps: x[:3],
    "changes x itself": lambda *a: a[2].copy_(short(*a)),
    "gradients for each image": lambda *a: short(*a, steps=50, early_stop=False),
    "leave [0, 1]": lambda *a: short(*a) + 1,
    "has length": lambda *a: advlib.noise(a[2], 2 * a[4], norm="l2"),
    "fools nobody": lambda model, other, x, target, eps: x,
    "How long is your change": lambda *a: short(*a, step_size=1.0, early_stop=False),
    "stopped with TypeError": lambda model, x: x,
}


def test_bug_names_each_mistake() -> None:
    for words, answer in BUG_MISTAKES.items():
        verdict = lesson_08.bug(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_bug_accepts_a_change_that_the_third_network_notices_less() -> None:
    assert lesson_08.bug(short).ok, lesson_08.bug(short)
