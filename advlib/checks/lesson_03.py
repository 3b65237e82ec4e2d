"""Checks of lesson 3, "FGSM"."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advlib.checks import Mistake, check, expect_answer, expect_tensor, expect_untouched
from advlib.contracts import Model

EPS = 4 / 255


@check
def fgsm(answer: Callable[[Model, Tensor, Tensor, float, bool], Tensor]) -> str:
    """Exercise 3.1: one step that leaves the class `y`, or goes to it.

    Parameters
    ----------
    answer
        ``answer(model, x, y, eps, targeted)`` returns the adversarial pictures.

    Returns
    -------
    Verdict
    """
    model = _network()
    # Pixels stay away from the edges at first, so that nothing needs to be cut.
    x = 0.2 + 0.6 * torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    seen = model(x).argmax(1)
    y = (seen + torch.tensor([0, 0, 1, 1, 2, 2])) % 3  # not always what the network sees
    before = x.clone()
    x_adv = expect_tensor(answer(model, x, y, EPS, False), x.shape, "pictures")
    expect_untouched(x, before)
    if x.requires_grad:
        raise Mistake(
            "your function leaves requires_grad switched on in the caller's x. Work on "
            "x.clone().requires_grad_()."
        )
    grad = _gradient(model, x, y)
    _step_has_the_right_size(x_adv.detach() - x, grad, model, y)
    _step_goes_the_right_way(x_adv.detach() - x, grad, _gradient(model, x, seen))
    towards = expect_tensor(answer(model, x, y, EPS, True), x.shape, "pictures").detach() - x
    _targeted_goes_down(towards, grad)
    edge = torch.tensor([0.0, 1.0]).repeat(2, 3, 4, 2)
    for targeted in (False, True):
        cut = answer(model, edge, y[:2], EPS, targeted)
        if cut.min() < 0 or cut.max() > 1:
            raise Mistake(
                f"pixels reach from {cut.min():.3f} to {cut.max():.3f}. A picture has pixels in "
                "[0, 1]: end with .clamp(0, 1)."
            )
    return (
        "untargeted it climbs the loss of y, targeted it descends; each pixel value moves by eps."
    )


def _network() -> nn.Module:
    """A small network with three classes, the same every time; global chance is left alone."""
    generator = torch.Generator().manual_seed(3)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        model = nn.Sequential(nn.Flatten(), nn.Linear(48, 8), nn.Tanh(), nn.Linear(8, 3))
        for parameter in model.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return model


def _gradient(model: Model, x: Tensor, y: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(F.cross_entropy(model(leaf), y, reduction="sum"), leaf)
    return grad


def _step_has_the_right_size(delta: Tensor, grad: Tensor, model: Model, y: Tensor) -> None:
    size = delta.abs()
    if size.max() == 0:
        raise Mistake("nothing moves: your function returns x as it is.")
    sized = F.cosine_similarity(delta.flatten(1), grad.flatten(1)).abs()
    if sized.min() > 0.999:
        raise Mistake(
            "your step follows the gradient itself: pixel values move by different amounts. For "
            "linf only the sign counts: eps * g.sign()."
        )
    if size.max() < EPS / 100:
        raise Mistake(
            f"pixel values move by {size.max():.1e}, {EPS / size.max():.0f} times less than eps. "
            "eps is in units of pixels already; do not divide by 255 again."
        )
    if size.max() > EPS + 1e-6:
        raise Mistake(
            f"some pixel values move by {size.max():.3f}, but eps is {EPS:.4f}. eps is in units of "
            "pixels, [0, 1]: it is not counted in 255ths."
        )
    if size.min() < EPS - 1e-6:
        raise Mistake(
            f"some pixel values move by only {size.min():.4f}; eps is {EPS:.4f}. The maximum lies "
            "at a corner of the ball, where each of them moves by eps."
        )


def _step_goes_the_right_way(delta: Tensor, grad: Tensor, own_grad: Tensor) -> None:
    agree = (delta.sign() == grad.sign()).float().mean()
    if agree < 0.001:
        raise Mistake(
            "untargeted, your step goes down the loss of the true class: the network gets surer. "
            "Add eps * sign, do not subtract it."
        )
    if agree > 0.999:
        return
    if (delta.sign() == own_grad.sign()).float().mean() > 0.999:
        raise Mistake(
            "your gradient belongs to the class that the network sees, not to y. Use the y that "
            "your function is given."
        )
    if (delta[0].sign() == delta.sign()).all():
        raise Mistake("all pictures get the same step. Each has a gradient of its own.")
    raise Mistake(
        f"only {agree:.0%} of the pixel values move the way of the gradient. Take the sign of the "
        "gradient of cross_entropy(model(x), y) with respect to x."
    )


def _targeted_goes_down(towards: Tensor, grad: Tensor) -> None:
    agree = (towards.sign() == -grad.sign()).float().mean()
    if agree > 0.999 and towards.abs().min() > EPS - 1e-6:
        return
    if agree < 0.001:
        raise Mistake(
            "targeted, your step still climbs the loss of y. Now y is the class to reach, so its "
            "loss must fall: the sign turns."
        )
    raise Mistake(
        "untargeted is right, targeted is not. It is the same step with the opposite sign, for "
        f"the class y; {agree:.0%} of your pixel values do that."
    )


@check
def l2_step(answer: Callable[[Tensor, float], Tensor]) -> str:
    """Exercise 3.2: the best step in the l2 ball, for every picture of a batch.

    Parameters
    ----------
    answer
        ``answer(g, eps)`` returns the perturbations, shape of `g`.

    Returns
    -------
    Verdict
    """
    eps = 0.5
    g = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    g *= torch.tensor([1.0, 3.0, 0.2, 10.0]).view(4, 1, 1, 1)
    before = g.clone()
    delta = expect_tensor(answer(g, eps), g.shape, "perturbations")
    expect_untouched(g, before)
    right = eps * g / g.flatten(1).norm(dim=1).view(4, 1, 1, 1)
    if not torch.allclose(delta, right, atol=1e-5):
        _name_l2_mistake(delta, g, eps)
    zero = answer(torch.zeros(1, 3, 8, 8), eps)
    if not zero.isfinite().all():
        raise Mistake(
            "where the gradient is zero you divide zero by zero and get NaN. No direction is best "
            "there, so return no change: clamp_min on the length, or torch.where."
        )
    if zero.abs().max() > 0:
        raise Mistake("where the gradient is zero nothing should move.")
    # A network that is sure of a picture has gradients this small.
    tiny = answer(g[:1] * 1e-9, eps)
    if not torch.allclose(tiny, right[:1], atol=1e-3):
        raise Mistake(
            f"a gradient a thousand million times smaller gets a step of length {tiny.norm():.2g} "
            f"instead of {eps}. What you add against division by zero is larger than the gradient "
            "of a network that is sure: use a far smaller number, or torch.where."
        )
    return "every picture moves by exactly eps along its own gradient, however small that is."


def _name_l2_mistake(delta: Tensor, g: Tensor, eps: float) -> None:
    if not delta.isfinite().all():
        raise Mistake("your step holds NaN or infinite values.")
    values = g[0].numel()
    lengths = g.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    unit = g / lengths
    for wrong, why in (
        (torch.zeros_like(g), "nothing moves: your step is zero everywhere."),
        (unit, "every step has length 1. Multiply by eps."),
        (
            -eps * unit,
            "your step goes down the loss. The maximum of the linearised loss lies along +g.",
        ),
        (eps * g, "you multiply by eps but do not divide by the length of the gradient."),
        (
            eps * g / g.norm(),
            "you divide by the length of the whole batch. Each picture has a length of its own: "
            "flatten(1).norm(dim=1).",
        ),
        (
            eps * g / g.norm(dim=1, keepdim=True),
            "you take the length over the colours of each pixel alone. Sum over all values of a "
            "picture: flatten(1).norm(dim=1).",
        ),
        (eps * g.sign(), "that is the linf step. In the l2 ball the sizes of g count, too."),
        (
            eps * g.sign() / values**0.5,
            "your step has the right length but points along sign(g). The maximum over the l2 "
            "ball points along g itself.",
        ),
        (
            eps * g / g.flatten(1).abs().sum(1).view(-1, 1, 1, 1),
            "you divide by the l1 length, the sum of absolute values. The l2 length is the root "
            "of the sum of squares.",
        ),
        (
            eps * g / g.flatten(1).abs().amax(1).view(-1, 1, 1, 1),
            "you divide by the largest entry. The l2 length is the root of the sum of squares.",
        ),
        (eps * g / lengths**2, "you divide by the squared length. Take the root."),
        (
            eps * unit * values**0.5,
            "your steps are too long by the root of the number of values: you average the "
            "squares. Sum them.",
        ),
    ):
        if torch.allclose(delta, wrong, rtol=1e-3, atol=1e-6):
            raise Mistake(why)
    got = delta.flatten(1).norm(dim=1)
    raise Mistake(
        f"your steps have l2 lengths {got.min():.3g} to {got.max():.3g}, and {eps} is expected "
        "for every picture, along its own gradient."
    )


@check
def needed_eps(answer: Callable[[Tensor, Tensor], Tensor]) -> str:
    """Exercise 3.3: the smallest linf budget at which the linearised margin reaches zero.

    Parameters
    ----------
    answer
        ``answer(margin, g)`` returns a budget for each picture, shape (n,), from the margins,
        shape (n,), and their gradients, shape (n, ...).

    Returns
    -------
    Verdict
    """
    g = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    g *= torch.tensor([1.0, 2.0, 0.5, 1.0]).view(4, 1, 1, 1)
    margin = torch.tensor([-8.0, -3.0, -6.0, 2.0])  # the last is misread already
    before = g.clone()
    given = expect_tensor(answer(margin.clone(), g), margin.shape, "budgets")
    expect_untouched(g, before)
    flat = g.flatten(1)
    right = -margin / flat.abs().sum(1)
    if not torch.allclose(given[:3], right[:3], rtol=1e-4):
        _name_budget_mistake(given[:3], -margin[:3], flat[:3])
    if abs(float(given[3])) > 1e-6:
        raise Mistake(
            f"a picture that is misread already (margin > 0) needs {float(given[3]):.3g} in your "
            "answer. It needs no budget: 0."
        )
    flat_spot = answer(torch.tensor([-1.0]), torch.zeros(1, 3, 8, 8))
    if flat_spot.isnan().any() or float(flat_spot) < 1e6:
        raise Mistake(
            f"where the gradient is zero you return {float(flat_spot):.3g}. To first order no "
            "budget is enough there: infinity."
        )
    return "the margin falls by eps times the l1 length of its gradient, so that much is needed."


def _name_budget_mistake(given: Tensor, gap: Tensor, flat: Tensor) -> None:
    l1 = flat.abs().sum(1)
    for wrong, why in (
        (-gap / l1, "your budgets are negative. The margin of a picture that is read right is."),
        (gap / flat.norm(dim=1), "that is the budget in l2. The dual of linf is l1."),
        (
            gap / flat.abs().amax(1),
            "you divide by the largest derivative, so only one pixel value moves: that is the "
            "budget in l1. In the linf ball all of them move.",
        ),
        (
            gap / flat.abs().mean(1),
            "you divide by the mean of the absolute derivatives. All pixel values pull: sum them.",
        ),
        (gap / flat.sum(1).abs(), "you sum the derivatives with their signs, and they cancel."),
        (gap * l1, "you multiply; a steeper loss needs a smaller budget."),
        (l1 / gap, "you divide the wrong way round: a larger gap needs a larger budget."),
        (gap / flat.abs().sum(), "you sum over the whole batch. Sum over each picture."),
        (255 * gap / l1, "you count in 255ths. eps is in units of pixels."),
    ):
        if torch.allclose(given, wrong, rtol=1e-3):
            raise Mistake(why)
    expect_answer(given)
    raise Mistake(
        f"your first budget is {float(given[0]):.3g}; {float(gap[0] / l1[0]):.3g} is expected. "
        "Which eps makes eps times the dual norm of g as large as the gap?"
    )
