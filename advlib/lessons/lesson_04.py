"""Checks of lesson 4, "PGD"."""

from functools import cache

import torch
from torch import Tensor, nn

from advlib import gradients, threats
from advlib.attacks.pgd import pgd
from advlib.data import signs
from advlib.evaluation import predict
from advlib.lessons import Answer, Counted, Mistake, check, expect_tensor, expect_untouched
from advlib.models import load


@check
def l2_projection(answer: Answer) -> str:
    r"""Exercise 4.1: the closest point of the :math:`\ell_2` ball.

    ``answer(delta, eps)`` returns the projected perturbations, shape of `delta`.
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
            "your length is that of the whole batch together. Each image has a ball of its own: "
            "one length per image, from delta.flatten(1)."
        )
    if abs(float(got[1]) - eps) < 1e-4:
        raise Mistake(
            "a perturbation of length 0.5 grows to length 1. The closest point to a point of the "
            "ball is that point: leave those alone."
        )
    rows, columns = (
        delta / delta.norm(dim=dim, keepdim=True).clamp_min(eps) * eps for dim in (-1, 1)
    )
    if torch.allclose(given, rows) or torch.allclose(given, columns):
        raise Mistake(
            "you take the length along one dimension only. A perturbation is all pixel values of "
            "an image: flatten(1) first."
        )
    if (got > eps + 1e-4).any():
        raise Mistake(
            f"a perturbation of length {float(got.max()):.2f} comes back, and eps is 1: one step "
            "outside the ball. Does a length of 8 end at 1?"
        )
    if not torch.allclose(given[1], delta[1], atol=1e-5):
        raise Mistake(
            f"a perturbation inside the ball, of length 0.5, comes back with length "
            f"{float(got[1]):.2f} or in another direction. It should stay as it is."
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
    return "what lies inside stays, what lies outside is scaled to length eps, each image alone."


@check
def pgd_loop(answer: Answer) -> str:
    r"""Exercise 4.2: iterate and project, in the :math:`\ell_\infty` ball.

    ``answer(model, x, y, eps, step_size, steps)`` returns `x_adv`, shape of `x`: the last point of
    the loop that begins at `x`, or the best one.
    """
    x = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(3))
    y = torch.tensor([0, 1, 0, 1, 1, 0])
    before, classes = x.clone(), y.clone()
    calls = []

    def model(x: Tensor) -> Tensor:
        calls.append(len(x))
        return _wavy(x)

    given = expect_tensor(answer(model, x, y, _EPS, _STEP, _STEPS), x.shape, "images")
    expect_untouched(x, before)
    if not y.equal(classes):
        raise Mistake("your function changes y itself.")
    given = given.detach()
    if torch.allclose(given, x, atol=1e-6):
        raise Mistake("nothing moves: your function returns x as it is.")
    if 0 < len(calls) < _STEPS and not torch.allclose(given, _path(x, y, "first gradient")[-1]):
        raise Mistake(
            f"the model was called {len(calls)} times in {_STEPS} steps. Every step needs a new "
            "gradient: for _ in range(steps), and nothing returned before the end."
        )
    points = _path(x, y)
    if torch.allclose(given, points[-1], atol=1e-5):
        return "each step takes a new gradient and is projected back into the ball and the box."
    if torch.allclose(given, _best(points, y), atol=1e-5):
        return "each step is projected into ball and box, and you return the best point visited."
    for mistake, sentence in _LOOPS.items():
        if torch.allclose(given, _path(x, y, mistake)[-1], atol=1e-5):
            raise Mistake(sentence)
    far = float((given - x).abs().max())
    if far > _EPS + 1e-5:
        raise Mistake(
            f"x_adv is {far:.2f} away from x, and eps is {_EPS}. After each step project the whole "
            "change x_adv - x back into the ball."
        )
    if given.min() < -1e-6 or given.max() > 1 + 1e-6:
        raise Mistake(_LOOPS["no box"])
    raise Mistake(
        "x_adv stays in ball and box, but is not where the loop should end. Print the first step: "
        "every pixel value moves by step_size, up where its gradient is positive."
    )


_EPS, _STEP, _STEPS = 0.2, 0.05, 8


def _wavy(x: Tensor) -> Tensor:
    """A model whose gradient changes its sign several times within the ball."""
    places = torch.arange(x[0].numel(), device=x.device, dtype=x.dtype)
    wave = (torch.sin(9 * x.flatten(1) + places) * (1 + places % 3)).sum(1)
    bend = (x.flatten(1)[:, ::2] * x.flatten(1)[:, 1::2]).sum(1)
    return torch.stack([wave + 20 * bend, -wave], 1)


def _gradient(x: Tensor, y: Tensor) -> Tensor:
    """The gradient, with no check of the pixels: some mistakes below lead out of [0, 1]."""
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
    "no ball": "nothing keeps the path near x: eight steps of 0.05 reach 0.4, and eps is 0.2. If "
    "you do project, look around which point: a ball around the last iterate moves along with it. "
    "Clamp x_adv - x, the whole change, to [-eps, eps].",
    "no box": "pixels leave [0, 1]. An image has none there: clamp x_adv to [0, 1] after every "
    "step.",
    "clamp x": "you clamp the image to [-eps, eps], not its change. Take x_adv - x, clamp that, "
    "and add x again.",
    "first gradient": "every step uses the gradient at x. That is one long step in pieces: take "
    "the gradient at x_adv, inside the loop.",
    "adds up": "the gradients of all steps add up. x_adv.grad keeps the old one when you call "
    "backward() again: take torch.autograd.grad, or a fresh leaf in each step.",
    "step is eps": "your steps have length eps, as in FGSM. step_size is the length of one step; "
    "eps is the radius of the ball.",
    "descends": "your loop goes downhill. The attacker wants a higher loss: add the step.",
    "no sign": _NO_SIGN,
    "no sign, mean": _NO_SIGN,
    "ball at the end": "you project once, after the last step. Between the steps the path is "
    "outside, and its gradients belong to images that the attacker may not use. Project inside "
    "the loop.",
}


@check
def ten_gradients(answer: Answer) -> str:
    r"""Exercise 4.3: with ten gradients an image, fool more signs than PGD does.

    ``answer(model, x, y, eps)`` returns `x_adv`, shape of `x`, inside the :math:`\ell_\infty` ball.
    """
    network, x, y, rival = _fresh_signs()
    before, model = x.clone(), Counted(network)
    given = expect_tensor(answer(model, x, y, _SIGN_EPS), x.shape, "images").detach()
    expect_untouched(x, before)
    if model.gradients > 10 * len(x):
        raise Mistake(
            f"you compute {model.gradients / len(x):.1f} gradients for each image; ten are allowed."
        )
    if model.looks > 10 * len(x):
        raise Mistake(
            f"you call the model {model.looks / len(x):.1f} times without a gradient; ten calls "
            "are free. With more of them it is a search, not ten gradients."
        )
    far = float((given - x).abs().max())
    if far > _SIGN_EPS + 1e-6:
        raise Mistake(f"an image is {255 * far:.1f}/255 away from x; 6/255 are allowed.")
    left = int((predict(network, given).argmax(1) == y).sum())
    if left >= rival:
        raise Mistake(
            f"{left} of {len(x)} signs are left; PGD with ten steps of its best constant size "
            f"leaves {rival}. Look at how far your first steps get, and how far your last jump."
        )
    return f"{left} of {len(x)} signs are left, and PGD leaves {rival}."


_SIGN_EPS = 6 / 255


@cache
def _fresh_signs() -> tuple[nn.Module, Tensor, Tensor, int]:
    """The robust network, 50 signs that it classifies correctly, and how many PGD leaves."""
    model = load("signs-robust")
    x, y = signs.render(60, seed=4_306)
    correct = predict(model, x).argmax(1) == y
    x, y = x[correct][:50], y[correct][:50]
    left = []
    for size in (_SIGN_EPS / 2, _SIGN_EPS):
        x_adv = pgd(model, x, y, _SIGN_EPS, steps=10, step_size=size, early_stop=True)
        left.append(int((predict(model, x_adv).argmax(1) == y).sum()))
    return model, x, y, min(left)
