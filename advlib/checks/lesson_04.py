"""Checks of lesson 4, "PGD"."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from advlib import gradients, threats
from advlib.checks import Mistake, check, expect_tensor, expect_untouched


@check
def l2_projection(answer: Callable[[Tensor, float], Tensor]) -> str:
    r"""Exercise 4.1: the closest point of the :math:`\ell_2` ball.

    Parameters
    ----------
    answer
        ``answer(delta, eps)`` returns the projected perturbations, shape of `delta`.

    Returns
    -------
    Verdict
    """
    eps = 1.0
    lengths = torch.tensor([0.0, 0.5, 2.0, 8.0])
    unit = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(1))
    unit /= threats.norm(unit, "l2").view(-1, 1, 1, 1)
    delta = unit * lengths.view(-1, 1, 1, 1)
    before = delta.clone()
    given = expect_tensor(answer(delta, eps), delta.shape, "perturbations")
    expect_untouched(delta, before)
    if given[0].isnan().any():
        raise Mistake(
            "a perturbation of length 0 becomes NaN: your function divides 0 by 0. Scale only "
            "where the length is above eps, or keep the length away from 0 with clamp_min."
        )
    got = threats.norm(given, "l2")
    if torch.allclose(given, delta):
        raise Mistake("nothing moves: perturbations longer than eps should end at length eps.")
    if torch.allclose(given, delta.clamp(-eps, eps)):
        raise Mistake("clamp projects onto the linf ball, a cube. Here the ball is round.")
    if torch.allclose(given, eps * delta / threats.norm(delta.view(1, -1), "l2")):
        raise Mistake(
            "your length is that of the whole batch together. Each picture has a ball of its own: "
            "one length per picture, from delta.flatten(1)."
        )
    if abs(float(got[1]) - eps) < 1e-4:
        raise Mistake(
            "a perturbation of length 0.5 grows to length 1. The closest point to a point of the "
            "ball is that point: leave those alone."
        )
    rows = delta / delta.norm(dim=-1, keepdim=True).clamp_min(eps) * eps
    columns = delta / delta.norm(dim=1, keepdim=True).clamp_min(eps) * eps
    if torch.allclose(given, rows) or torch.allclose(given, columns):
        raise Mistake(
            "you take the length along one dimension only. A perturbation is all pixel values of "
            "a picture: flatten(1) first."
        )
    if (got > eps + 1e-4).any():
        raise Mistake(
            f"a perturbation of length {float(got.max()):.2f} comes back, and eps is 1: one step "
            "outside the ball. Does a length of 8 end at 1?"
        )
    if not torch.allclose(given[1], delta[1], atol=1e-5):
        raise Mistake(
            f"a perturbation inside the ball, of length 0.5, comes back with length "
            f"{float(got[1]):.2f} or turned. It should stay as it is."
        )
    expected = delta / lengths.clamp_min(eps).view(-1, 1, 1, 1) * eps
    if not torch.allclose(given, expected, atol=1e-4):
        raise Mistake(
            f"lengths 0, 0.5, 2, 8 become {', '.join(f'{float(v):.2f}' for v in got)}; 0, 0.5, 1, "
            "1 are expected, in the same directions."
        )
    small = answer(delta, 0.25)
    if not torch.allclose(threats.norm(small, "l2")[1:], torch.full((3,), 0.25), atol=1e-4):
        raise Mistake("with eps = 0.25 the lengths are not 0.25. Is an eps of 1 built in?")
    return "what lies inside stays, what lies outside is scaled to length eps, each picture alone."


@check
def pgd_loop(answer: Callable[[Any, Tensor, Tensor, float, float, int], Tensor]) -> str:
    r"""Exercise 4.2: iterate and project, in the :math:`\ell_\infty` ball.

    Parameters
    ----------
    answer
        ``answer(model, x, y, eps, step_size, steps)`` returns `x_adv`, shape of `x`: the last
        point of the loop that begins at `x`, or the best one.

    Returns
    -------
    Verdict
    """
    x, y = _small_pictures()
    before, classes = x.clone(), y.clone()
    calls = []

    def model(x: Tensor) -> Tensor:
        calls.append(len(x))
        return _wavy(x)

    given = expect_tensor(answer(model, x, y, _EPS, _STEP, _STEPS), x.shape, "pictures")
    expect_untouched(x, before)
    if not y.equal(classes):
        raise Mistake("your function changes y itself.")
    given = given.detach()
    if torch.allclose(given, x, atol=1e-6):
        raise Mistake("nothing moves: your function returns x as it is.")
    if 0 < len(calls) < _STEPS and not torch.allclose(given, _path(x, y, "first gradient")[-1]):
        raise Mistake(
            f"the model was asked {len(calls)} times in {_STEPS} steps. Every step needs a new "
            "gradient: for _ in range(steps), and nothing returned before the end."
        )
    points = _path(x, y)
    if torch.allclose(given, points[-1], atol=1e-5):
        return "each step takes a new gradient and is put back into the ball around x and the box."
    if torch.allclose(given, _best(points, y), atol=1e-5):
        return "each step is put back into ball and box, and you return the best point visited."
    for mistake, why in _LOOPS.items():
        if torch.allclose(given, _path(x, y, mistake)[-1], atol=1e-5):
            raise Mistake(why)
    far = float((given - x).abs().max())
    if far > _EPS + 1e-5:
        raise Mistake(
            f"x_adv is {far:.2f} away from x, and eps is {_EPS}. After each step put the whole "
            "change x_adv - x back into the ball."
        )
    if given.min() < -1e-6 or given.max() > 1 + 1e-6:
        raise Mistake(_LOOPS["no box"])
    raise Mistake(
        "x_adv stays in ball and box, but is not where the loop should end. Print the first step: "
        "every pixel value moves by step_size, up where its gradient is positive."
    )


_EPS, _STEP, _STEPS = 0.2, 0.05, 8


def _small_pictures() -> tuple[Tensor, Tensor]:
    x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    return x, torch.tensor([0, 1, 0, 1, 1, 0])


def _wavy(x: Tensor) -> Tensor:
    """A model whose gradient changes its sign several times within the ball."""
    places = torch.arange(x[0].numel(), device=x.device, dtype=x.dtype)
    wave = (torch.sin(9 * x.flatten(1) + places) * (1 + places % 3)).sum(1)
    bend = (x.flatten(1)[:, ::2] * x.flatten(1)[:, 1::2]).sum(1)
    return torch.stack([wave + 20 * bend, -wave], 1)


def _gradient(x: Tensor, y: Tensor) -> Tensor:
    """Without a look at the pixels: some of the mistakes below lead out of [0, 1]."""
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(gradients.cross_entropy(_wavy(leaf), y).sum(), leaf)[0]


def _path(x: Tensor, y: Tensor, mistake: str = "") -> list[Tensor]:
    """Every point of the loop, with one mistake or none."""
    x_adv, points, total = x, [x], torch.zeros_like(x)
    size = _EPS if mistake == "step is eps" else _STEP
    first = _gradient(x, y)
    for step in range(_STEPS):
        grad = _gradient(x_adv, y)
        total = total + grad
        used = {"first gradient": first, "adds up": total, "descends": -grad}.get(mistake, grad)
        scale = {"no sign": 1.0, "no sign, mean": 1 / len(x)}.get(mistake)
        move = used.sign() if scale is None else scale * used
        last, x_adv = x_adv, x_adv + size * move
        if mistake != "no ball" and not (mistake == "ball at the end" and step < _STEPS - 1):
            x_adv = x + (x_adv - x).clamp(-_EPS, _EPS)
        if mistake == "clamp x":
            x_adv = (last + size * move).clamp(-_EPS, _EPS)
        if mistake != "no box":
            x_adv = x_adv.clamp(0, 1)
        points.append(x_adv)
    return points


def _best(points: list[Tensor], y: Tensor) -> Tensor:
    losses = torch.stack([gradients.cross_entropy(_wavy(point), y) for point in points])
    return torch.stack(points)[losses.argmax(0), torch.arange(len(y))]


_NO_SIGN = (
    "you add the gradient itself. In the linf ball the steepest direction is its sign; the "
    "gradient is far too small, or far too large, to be a step."
)
_LOOPS = {
    "no ball": (
        "nothing keeps the path near x: eight steps of 0.05 reach 0.4, and eps is 0.2. If you do "
        "project, look around which point: a ball around the last iterate moves along with it. "
        "Clamp x_adv - x, the whole change, to [-eps, eps]."
    ),
    "no box": (
        "pixels leave [0, 1]. A picture has none there: clamp x_adv to [0, 1] after every step."
    ),
    "clamp x": (
        "you clamp the picture to [-eps, eps], not its change. Take x_adv - x, clamp that, and "
        "add x again."
    ),
    "first gradient": (
        "every step uses the gradient at x. That is one long step in pieces: take the gradient at "
        "x_adv, inside the loop."
    ),
    "adds up": (
        "the gradients of all steps add up. x_adv.grad keeps the old one when you call backward() "
        "again: take torch.autograd.grad, or a fresh leaf in each step."
    ),
    "step is eps": (
        "your steps have length eps, as in FGSM. step_size is the length of one step; eps is the "
        "radius of the ball."
    ),
    "descends": "your loop walks downhill. The attacker wants a higher loss: add the step.",
    "no sign": _NO_SIGN,
    "no sign, mean": _NO_SIGN,
    "ball at the end": (
        "you project once, after the last step. Between the steps the path is outside, and its "
        "gradients belong to pictures that the attacker may not use. Project inside the loop."
    ),
}
