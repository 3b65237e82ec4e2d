"""Checks of lesson 2: a stub fails, right answers pass, each mistake gets its own sentence."""

import math

import torch

from advlib.checks import lesson_02


def _unit(x, place):
    unit = torch.zeros_like(x)
    unit[place] = 1
    return unit


def _in_place(loss_at, x, place, h):
    x[place] += h
    up = loss_at(x)
    x[place] -= 2 * h
    return (up - loss_at(x)) / (2 * h)


def _clamped(loss_at, x, place, h):
    step = h * _unit(x, place)
    return (loss_at((x + step).clamp(0, 1)) - loss_at((x - step).clamp(0, 1))) / (2 * h)


def _gradient(loss_at, x, place, h):
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(loss_at(leaf), leaf)[0][place]


def _neighbour(loss_at, x, place, h):
    return _right(loss_at, x, (0, 1, 1, 1), h)


def _right(loss_at, x, place, h):
    step = h * _unit(x, place)
    return (loss_at(x + step) - loss_at(x - step)) / (2 * h)


def _with(formula):
    """An answer from the losses above, here and below."""

    def answer(loss_at, x, place, h):
        step = h * _unit(x, place)
        return formula(loss_at(x + step), loss_at(x), loss_at(x - step), h)

    return answer


CENTRAL_MISTAKES = {
    "returns nothing": lambda loss_at, x, place, h: None,
    "forward difference": _with(lambda up, here, down, h: (up - here) / h),
    "backward difference": _with(lambda up, here, down, h: (here - down) / h),
    "twice too much": _with(lambda up, here, down, h: (up - down) / h),
    "difference of the losses": _with(lambda up, here, down, h: up - down),
    "divide by 2;": _with(lambda up, here, down, h: (up - down) / 2),
    "multiply by h": _with(lambda up, here, down, h: (up - down) / 2 * h),
    "sign is turned": _with(lambda up, here, down, h: (down - up) / (2 * h)),
    "losses are the same": _with(lambda up, here, down, h: (here - here) / h),
    "move all pixel values": lambda loss_at, x, place, h: (
        (loss_at(x + h) - loss_at(x - h)) / (2 * h)
    ),
    "changes x itself": _in_place,
    "Do not clamp": _clamped,
    "exact slope": _gradient,
    "is expected. Print": _neighbour,
    "one number": lambda loss_at, x, place, h: x[0, 0],
    "whole picture": lambda loss_at, x, place, h: loss_at(x[place] + h),
    "stopped with TypeError": lambda loss_at, x: 0.5,
}


def test_central_difference_names_each_mistake() -> None:
    for words, answer in CENTRAL_MISTAKES.items():
        verdict = lesson_02.central_difference(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_central_difference_accepts_right_answers() -> None:
    def copies(loss_at, x, place, h):
        up, down = x.clone(), x.clone()
        up[place] += h
        down[place] -= h
        return float(loss_at(up) - loss_at(down)) / h / 2

    for answer in (_right, copies):
        verdict = lesson_02.central_difference(answer)
        assert verdict.ok, verdict


def _bisect(wrong, limit, rounds, *, end="high", swapped=False, check=True, extra=0):
    if check and not wrong(limit):
        return math.inf
    low, high = 0.0, limit
    for _ in range(rounds + extra):
        middle = (low + high) / 2
        if wrong(middle) != swapped:
            high = middle
        else:
            low = middle
    return {"high": high, "low": low, "middle": (low + high) / 2}[end]


def _walk(wrong, limit, rounds):
    return next((t for k in range(2**rounds) if wrong(t := limit * (k + 1) / 2**rounds)), math.inf)


def _endless(wrong, limit, rounds):
    while True:
        wrong(limit)


BOUNDARY_MISTAKES = {
    "returns nothing": lambda wrong, limit, rounds: None,
    "still right. Return the upper end": lambda *a: _bisect(*a, end="low"),
    "the network is still right": lambda *a: _bisect(*a, end="middle"),
    "half you keep": lambda *a: _bisect(*a, swapped=True),
    "return math.inf": lambda *a: _bisect(*a, check=False),
    "an even walk": _walk,
    "Halve it `rounds` times": lambda *a: _bisect(*a, extra=-3),
    "beyond the limit": lambda wrong, limit, rounds: _bisect(wrong, 2 * limit, rounds),
    "wrong at the limit": lambda wrong, limit, rounds: math.inf,
    "10,000 questions": _endless,
    "stopped with TypeError": lambda wrong: 0.5,
}


def test_boundary_names_each_mistake() -> None:
    for words, answer in BOUNDARY_MISTAKES.items():
        verdict = lesson_02.boundary(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_boundary_accepts_right_answers() -> None:
    def by_steps(wrong, limit, rounds):
        if not wrong(limit):
            return math.inf
        t, step = limit, limit
        for _ in range(rounds):
            step /= 2
            if wrong(t - step):
                t -= step
        return torch.tensor(t, dtype=torch.float64)

    for answer in (_bisect, by_steps):
        verdict = lesson_02.boundary(answer)
        assert verdict.ok, verdict
