"""Checks of lesson 11: a stub fails, the solution passes, each mistake is named."""

import math

import torch
import torch.nn.functional as F

import advlib
from advlib.attacks.momentum import ensemble
from advlib.gradients import margin
from advlib.lessons import lesson_11


def probabilities(logits, y):
    return torch.stack([part.softmax(1).gather(1, y[:, None])[:, 0] for part in logits])


def solution(logits, y):
    own = torch.stack([part.log_softmax(1).gather(1, y[:, None])[:, 0] for part in logits])
    return math.log(len(logits)) - own.logsumexp(0)


def by_module(logits, y):
    together = torch.stack([part.log_softmax(1) for part in logits]).logsumexp(0)
    return F.cross_entropy(together, y, reduction="none")


def in_place(logits, y):
    loss = solution(logits, y)
    logits[0] *= 2
    return loss


def naive(logits, y):
    return -probabilities(logits, y).mean(0).log()


LOSS_MISTAKES = {
    "returns nothing": lambda logits, y: ...,
    "returns one number": lambda logits, y: solution(logits, y).mean(),
    "losses of": lambda logits, y: solution(logits, y)[:2],
    "changes x itself": in_place,
    "mean of the networks' own losses": lambda logits, y: -probabilities(logits, y).log().mean(0),
    "sum of the networks' own": lambda logits, y: -probabilities(logits, y).log().sum(0),
    "average the logits": lambda logits, y: F.cross_entropy(
        torch.stack(logits).mean(0), y, reduction="none"
    ),
    "mean probability itself": lambda logits, y: probabilities(logits, y).mean(0),
    "sign is reversed": lambda logits, y: -solution(logits, y),
    "added, not averaged": lambda logits, y: -probabilities(logits, y).sum(0).log(),
    "applied twice": lambda logits, y: F.cross_entropy(
        torch.stack([part.softmax(1) for part in logits]).mean(0), y, reduction="none"
    ),
    "only the first network": lambda logits, y: solution(logits[:1], y),
    "only the last network": lambda logits, y: solution(logits[-1:], y),
    "for the first image": lambda logits, y: solution(logits, y) + 1,
    "infinite": naive,
    "masks the gradient": lambda logits, y: -(probabilities(logits, y).mean(0) + 1e-12).log(),
    "stopped with TypeError": lambda logits: logits,
}


def test_ensemble_loss_names_each_mistake() -> None:
    for words, answer in LOSS_MISTAKES.items():
        verdict = lesson_11.ensemble_loss(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_ensemble_loss_accepts_correct_answers() -> None:
    for answer in (solution, by_module):
        assert lesson_11.ensemble_loss(answer).ok, lesson_11.ensemble_loss(answer)


def stepper(direction, low=-1.0, start=1.0, size=1.0):
    def answer(delta, grads, step_size, eps):
        moved = start * delta + size * step_size * direction(grads)
        return moved.clamp(low * eps, eps)

    return answer


def mean(grads):
    return grads.mean(0, keepdim=True)


def step(delta, grads, step_size, eps):
    return stepper(lambda g: mean(g).sign())(delta, grads, step_size, eps)


def moved_in_place(delta, grads, step_size, eps):
    return delta.copy_(step(delta, grads, step_size, eps))


STEP_MISTAKES = {
    "returns nothing": lambda *a: None,
    "for each image": stepper(lambda g: g.sign()),
    "batch dimension is lost": lambda *a: step(*a)[0],
    "perturbations of": lambda *a: step(*a)[..., :2],
    "changes x itself": moved_in_place,
    "End with clamp": lambda delta, grads, size, eps: delta + size * mean(grads).sign(),
    "plus, not minus": stepper(lambda g: -mean(g).sign()),
    "size of the gradient": stepper(mean),
    "average the signs": stepper(lambda g: mean(g.sign())),
    "vote": stepper(lambda g: mean(g.sign()).sign()),
    "only the first image": stepper(lambda g: g[:1].sign()),
    "only the last image": stepper(lambda g: g[-1:].sign()),
    "as pixels are": stepper(lambda g: mean(g).sign(), low=0.0),
    "starts at zero": stepper(lambda g: mean(g).sign(), start=0.0),
    "has length eps": lambda delta, grads, size, eps: step(delta, grads, eps, eps),
    "nothing moved": lambda delta, grads, size, eps: delta.clone(),
    "another step": stepper(lambda g: mean(g).sign(), size=0.3),
    "stopped with TypeError": lambda delta: delta,
}


def test_universal_step_names_each_mistake() -> None:
    for words, answer in STEP_MISTAKES.items():
        verdict = lesson_11.universal_step(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_universal_step_accepts_correct_answers() -> None:
    def by_sum(delta, grads, step_size, eps):
        moved = delta + step_size * grads.sum(0)[None].sign()
        return moved.minimum(torch.tensor(eps)).maximum(torch.tensor(-eps))

    for answer in (step, by_sum):
        assert lesson_11.universal_step(answer).ok, lesson_11.universal_step(answer)


def one_cast(surrogates, x, y, eps, looks=8):
    """One of eight colour casts for all images: the one that the surrogates like least."""
    group = ensemble(surrogates, average="logits")
    corners = torch.cartesian_prod(*[torch.tensor([-eps, eps])] * 3).view(8, 1, 3, 1, 1)
    tinted = (x + corners).clamp(0, 1)
    means = [margin(group(tinted[look % 8].requires_grad_()), y).mean() for look in range(looks)]
    return tinted[int(torch.stack(means[:8]).argmax())].detach()


def plain_pgd(surrogates, x, y, eps):
    return advlib.pgd(ensemble(surrogates, average="logits"), x, y, eps, steps=10)


STRANGER_MISTAKES = {
    "returns nothing": lambda *a: ...,
    "images of": lambda surrogates, x, y, eps: x[:1],
    "leave [0, 1]": lambda surrogates, x, y, eps: x + 2,
    "Clamp the change": lambda surrogates, x, y, eps: (x + 2 * eps).clamp(0, 1),
    "are allowed": lambda *a: one_cast(*a, looks=21),
    "on all signs alike": plain_pgd,
    "stopped with TypeError": lambda x: x,
}


def test_fool_a_stranger_names_each_mistake() -> None:
    for words, answer in STRANGER_MISTAKES.items():
        verdict = lesson_11.fool_a_stranger(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_fool_a_stranger_accepts_one_colour_for_all_signs() -> None:
    verdict = lesson_11.fool_a_stranger(one_cast)
    assert verdict.ok, verdict
