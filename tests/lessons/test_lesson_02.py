"""Checks of lesson 2: a stub fails, correct answers pass, each mistake gets its own sentence."""

import math

import torch

from advlib.lessons import lesson_02


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
    return _central(loss_at, x, (0, 1, 1, 1), h)


def _central(loss_at, x, place, h):
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
    "sign is reversed": _with(lambda up, here, down, h: (down - up) / (2 * h)),
    "losses are the same": _with(lambda up, here, down, h: (here - here) / h),
    "move all pixel values": lambda loss_at, x, place, h: (
        (loss_at(x + h) - loss_at(x - h)) / (2 * h)
    ),
    "changes x itself": _in_place,
    "Do not clamp": _clamped,
    "exact slope": _gradient,
    "is expected. Print": _neighbour,
    "one number": lambda loss_at, x, place, h: x[0, 0],
    "whole image": lambda loss_at, x, place, h: loss_at(x[place] + h),
    "stopped with TypeError": lambda loss_at, x: 0.5,
}


def test_central_difference_names_each_mistake() -> None:
    for words, answer in CENTRAL_MISTAKES.items():
        verdict = lesson_02.central_difference(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_central_difference_accepts_correct_answers() -> None:
    def copies(loss_at, x, place, h):
        up, down = x.clone(), x.clone()
        up[place] += h
        down[place] -= h
        return float(loss_at(up) - loss_at(down)) / h / 2

    for answer in (_central, copies):
        verdict = lesson_02.central_difference(answer)
        assert verdict.ok, verdict


def _bisect(fooled, limit, rounds, *, end="high", swapped=False, check=True, extra=0):
    if check and not fooled(limit):
        return math.inf
    low, high = 0.0, limit
    for _ in range(rounds + extra):
        middle = (low + high) / 2
        if fooled(middle) != swapped:
            high = middle
        else:
            low = middle
    return {"high": high, "low": low, "middle": (low + high) / 2}[end]


def _walk(fooled, limit, rounds):
    return next((t for k in range(2**rounds) if fooled(t := limit * (k + 1) / 2**rounds)), math.inf)


def _endless(fooled, limit, rounds):
    while True:
        fooled(limit)


BOUNDARY_MISTAKES = {
    "returns nothing": lambda fooled, limit, rounds: None,
    "not fooled yet. Return the upper end": lambda *a: _bisect(*a, end="low"),
    "the network is not fooled yet": lambda *a: _bisect(*a, end="middle"),
    "half you keep": lambda *a: _bisect(*a, swapped=True),
    "return math.inf": lambda *a: _bisect(*a, check=False),
    "equal steps": _walk,
    "Halve it `rounds` times": lambda *a: _bisect(*a, extra=-3),
    "beyond the limit": lambda fooled, limit, rounds: _bisect(fooled, 2 * limit, rounds),
    "fooled at the limit.": lambda fooled, limit, rounds: math.inf,
    "10,000 calls": _endless,
    "stopped with TypeError": lambda fooled: 0.5,
}


def test_boundary_names_each_mistake() -> None:
    for words, answer in BOUNDARY_MISTAKES.items():
        verdict = lesson_02.boundary(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_boundary_accepts_correct_answers() -> None:
    def by_steps(fooled, limit, rounds):
        if not fooled(limit):
            return math.inf
        t, step = limit, limit
        for _ in range(rounds):
            step /= 2
            if fooled(t - step):
                t -= step
        return torch.tensor(t, dtype=torch.float64)

    for answer in (_bisect, by_steps):
        verdict = lesson_02.boundary(answer)
        assert verdict.ok, verdict


CASTS = torch.cartesian_prod(*3 * [torch.tensor([-1.0, 1.0])]).view(8, 3, 1, 1)


def _best_cast(margin_at, shape):
    casts = CASTS.expand(8, *shape)
    return casts[int(margin_at(casts).argmax())].clone()


def _flips(margin_at, shape, part=8):
    best = _best_cast(margin_at, shape)
    most = margin_at(best[None])
    for channel in range(3):
        for top in range(0, 64, part):
            for left in range(0, 64, part):
                other = best.clone()
                other[channel, top : top + part, left : left + part] *= -1
                if (value := margin_at(other[None])) > most:
                    best, most = other, value
    return best


WITHOUT_GRADIENT_MISTAKES = {
    "returns nothing": lambda margin_at, shape: None,
    "on 0 of 8 signs": lambda margin_at, shape: _best_cast(margin_at, shape) * CASTS[0],
    "5 are wanted": _best_cast,
    "more than 250 margins": lambda *a: _flips(*a, part=4),
    "signs of (3, 64, 64)": lambda margin_at, shape: torch.ones(1, *shape),
    "other than 1 and -1": lambda margin_at, shape: torch.zeros(shape),
    "a batch of directions": lambda margin_at, shape: margin_at(torch.ones(shape)),
    "stopped with TypeError": lambda shape: torch.ones(shape),
}


def test_without_gradient_names_each_mistake() -> None:
    for words, answer in WITHOUT_GRADIENT_MISTAKES.items():
        verdict = lesson_02.without_gradient(answer)
        assert not verdict.ok and words in verdict.message, (words, verdict)


def test_without_gradient_accepts_a_search_by_parts() -> None:
    verdict = lesson_02.without_gradient(_flips)
    assert verdict.ok, verdict
