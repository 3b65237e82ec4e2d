"""Checks of lesson 8: a stub fails, the solution passes, each mistake gets its own sentence."""

import torch

import advlib
from advlib.checks import lesson_08


def draw(x, classes, generator):
    return torch.randint(0, classes, (len(x),), generator=generator)


def steer(model, x, target, eps, **changes):
    return advlib.pgd(
        model, x, target, eps, **{"norm": "l2", "steps": 10, "targeted": True, **changes}
    )


def right(model, x, y, eps, classes, generator):
    target = draw(x, classes, generator)
    return steer(model, x, target, eps), target


def by_one_step(model, x, y, eps, classes, generator):
    target = (classes * torch.rand(len(x), generator=generator)).long()
    return advlib.fgsm(model, x, target, eps, norm="l2", targeted=True), target


def with_labels(label):
    def answer(model, x, y, eps, classes, generator):
        target = label(model, x, y, classes, generator)
        return steer(model, x, target, eps), target

    return answer


def with_pictures(change):
    def answer(model, x, y, eps, classes, generator):
        target = draw(x, classes, generator)
        return change(model, x, y, target, eps), target

    return answer


def read_back(model, x, y, eps, classes, generator):
    x_adv = steer(model, x, draw(x, classes, generator), eps)
    return x_adv, model(x_adv).argmax(1)


def kept_labels(model, x, y, eps, classes, generator):
    return right(model, x, y, eps, classes, generator)[0], y


def in_place(model, x, y, eps, classes, generator):
    x_adv, target = right(model, x, y, eps, classes, generator)
    return x.copy_(x_adv), target


RELABEL_MISTAKES = {
    "returns nothing": lambda *a: ...,
    "two are expected": lambda *a: right(*a)[0],
    "pictures of": lambda *a: (right(*a)[0][:3], right(*a)[1]),
    "labels of": lambda *a: (right(*a)[0], right(*a)[1][:3]),
    "changes x itself": in_place,
    "whole numbers": lambda *a: (right(*a)[0], right(*a)[1].float()),
    "are the true classes": kept_labels,
    "lie in 0..3": (lambda *a: (right(*a)[0], right(*a)[1] + 1)),
    "same label": with_labels(lambda m, x, y, k, g: torch.ones_like(y)),
    "plus 1": with_labels(lambda m, x, y, k, g: (y + 1) % k),
    "ever the true class": with_labels(
        lambda m, x, y, k, g: (y + torch.randint(1, k, y.shape, generator=g)) % k
    ),
    "Drawn by lot from": with_labels(lambda m, x, y, k, g: draw(x, 2, g)),
    "the pictures are clean": with_pictures(lambda m, x, y, t, eps: x),
    "leave [0, 1]": with_pictures(lambda m, x, y, t, eps: steer(m, x, t, eps) + 1),
    "length": with_pictures(lambda m, x, y, t, eps: steer(m, x, t, eps, norm="linf")),
    "shorter than": with_pictures(lambda m, x, y, t, eps: steer(m, x, t, eps / 10)),
    "what the model reads": read_back,
    "untargeted": with_pictures(lambda m, x, y, t, eps: steer(m, x, y, eps, targeted=False)),
    "driven away": with_pictures(lambda m, x, y, t, eps: steer(m, x, t, eps, targeted=False)),
    "steered at all": with_pictures(lambda m, x, y, t, eps: advlib.noise(x, eps, norm="l2")),
    "equally seeded": with_labels(lambda m, x, y, k, g: torch.randint(0, k, y.shape)),
    "stopped with TypeError": lambda model, x: (x, x),
}


def test_relabel_names_each_mistake() -> None:
    for words, answer in RELABEL_MISTAKES.items():
        with torch.random.fork_rng(devices=[]):
            verdict = lesson_08.relabel(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_relabel_accepts_right_answers() -> None:
    assert lesson_08.relabel(right).ok, lesson_08.relabel(right)
    assert lesson_08.relabel(by_one_step).ok, "another attack, another draw"


def low(right, total):
    return advlib.wilson(right, total).low


CHANCE_MISTAKES = {
    "returns nothing": lambda right, total, classes: None,
    "not one half": lambda right, total, classes: low(right, total) > 0.5,
    "Compute chance": lambda right, total, classes: low(right, total) > 1 / 16,
    "lies below": lambda right, total, classes: (
        not (low(right, total) <= 1 / classes <= advlib.wilson(right, total).high)
        and (right, total) != (30, 100)
    ),
    "the upper end": lambda right, total, classes: (
        advlib.wilson(right, total).high > 1 / classes and classes > 2
    ),
    "not the share itself": lambda right, total, classes: right / total > 1 / classes,
    "more than the claim needs": lambda right, total, classes: (
        low(right, total) > 2 / classes or (classes == 16 and right == 300)
    ),
    "0 of 0": lambda right, total, classes: total == 0 or low(right, total) > 1 / classes,
    "stopped with TypeError": lambda right: True,
}


def test_above_chance_names_each_mistake() -> None:
    for words, answer in CHANCE_MISTAKES.items():
        verdict = lesson_08.above_chance(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_above_chance_accepts_right_answers() -> None:
    assert lesson_08.above_chance(lambda right, total, k: low(right, total) > 1 / k).ok

    def by_hand(right, total, classes):
        if total == 0:
            return False
        z, share = 1.959964, right / total
        centre = share + z**2 / (2 * total)
        half = z * (share * (1 - share) / total + z**2 / (4 * total**2)) ** 0.5
        return (centre - half) / (1 + z**2 / total) > 1 / classes

    assert lesson_08.above_chance(by_hand).ok
