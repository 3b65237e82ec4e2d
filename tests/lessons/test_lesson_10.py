"""Checks of lesson 10: a stub fails, the solution passes, each mistake is named."""

import torch

from advlib.lessons import lesson_10

RANDOM_STATE_IS_WATCHED = True


def quantised(x, levels):
    return (x * (levels - 1)).round() / (levels - 1)


def solution(x, levels):
    return x + (quantised(x, levels) - x).detach()


def in_place(x, levels):
    with torch.no_grad():
        x.copy_(quantised(x, levels))
    return x


ROUNDING_MISTAKES = {
    "returns nothing": lambda x, levels: ...,
    "pixels of": lambda x, levels: x[0],
    "changes x itself": in_place,
    "gradient is 0": quantised,
    "is detached": lambda x, levels: quantised(x, levels).detach(),
    "nothing is rounded": lambda x, levels: x,
    "levels - 1 steps": lambda x, levels: quantised(x, levels + 1),
    "0 and 1 only": lambda x, levels: x.round(),
    "Divide by levels - 1": lambda x, levels: (x * (levels - 1)).round(),
    "rounded down": lambda x, levels: (x * (levels - 1)).floor() / (levels - 1),
    "are not those": lambda x, levels: 1 - x,
    "gradient is 2": lambda x, levels: 2 * x + (quantised(x, levels) - 2 * x).detach(),
    "a factor": lambda x, levels: 5 * x + (quantised(x, levels) - 5 * x).detach(),
    "stopped with TypeError": lambda x: x,
}


def test_rounded_names_each_mistake() -> None:
    for words, answer in ROUNDING_MISTAKES.items():
        verdict = lesson_10.rounded(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_rounded_accepts_correct_answers() -> None:
    from advlib.attacks.adaptive import straight_through

    assert lesson_10.rounded(solution).ok
    by_function = lesson_10.rounded(
        lambda x, levels: straight_through(lambda x: quantised(x, levels))(x)
    )
    assert by_function.ok, by_function


def mean(model, x, samples):
    return sum(model(x) for _ in range(samples)) / samples


def first_of_many(model, x, samples):
    return [model(x) for _ in range(samples)][0]


def detached(model, x, samples):
    with torch.no_grad():
        return mean(model, x, samples)


MEAN_MISTAKES = {
    "returns nothing": lambda model, x, samples: None,
    "returns a list": lambda model, x, samples: [model(x) for _ in range(samples)],
    "all the draws": lambda model, x, samples: torch.stack([model(x) for _ in range(samples)]),
    "logits of": lambda model, x, samples: mean(model, x, samples)[0],
    "called 1 times": lambda model, x, samples: model(x),
    "these are sums": lambda model, x, samples: mean(model, x, samples) * samples,
    "are discarded": first_of_many,
    "mean probabilities": lambda model, x, samples: mean(lambda x: model(x).softmax(1), x, samples),
    "not the mean": lambda model, x, samples: mean(model, 1 - x, samples) + 1,
    "no gradient": detached,
    "stopped with TypeError": lambda model, x: model(x),
}


def test_mean_logits_names_each_mistake() -> None:
    for words, answer in MEAN_MISTAKES.items():
        verdict = lesson_10.mean_logits(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_mean_logits_accepts_correct_answers() -> None:
    from advlib.attacks.adaptive import averaged

    assert lesson_10.mean_logits(mean).ok
    assert lesson_10.mean_logits(lambda model, x, samples: averaged(model, samples)(x)).ok
