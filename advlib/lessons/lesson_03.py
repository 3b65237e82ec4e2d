"""Checks of lesson 3, "FGSM"."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import advlib
from advlib.contracts import Model
from advlib.data import signs
from advlib.evaluation import predict
from advlib.lessons import Answer, Mistake, check, expect_tensor, expect_untouched, name_mistake

EPS = 4 / 255


@check
def fgsm(answer: Answer) -> str:
    """Exercise 3.1: one step that leaves the class `y`, or goes to it.

    ``answer(model, x, y, eps, targeted)`` returns the adversarial images.
    """
    model = _network()
    # Pixels stay away from the edges at first, so that nothing needs to be clipped.
    x = 0.2 + 0.6 * torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    predicted = model(x).argmax(1)
    y = (predicted + torch.tensor([0, 0, 1, 1, 2, 2])) % 3  # not always what the network predicts
    before = x.clone()
    x_adv = expect_tensor(answer(model, x, y, EPS, False), x.shape, "images")
    expect_untouched(x, before)
    if x.requires_grad:
        raise Mistake(
            "your function leaves requires_grad switched on in the caller's x. Work on "
            "x.clone().requires_grad_()."
        )
    grad = _gradient(model, x, y)
    _expect_size(x_adv.detach() - x, grad)
    _expect_ascent(x_adv.detach() - x, grad, _gradient(model, x, predicted))
    towards = expect_tensor(answer(model, x, y, EPS, True), x.shape, "images").detach() - x
    _expect_targeted_descent(towards, grad)
    edge = torch.tensor([0.0, 1.0]).repeat(2, 3, 4, 2)
    for targeted in (False, True):
        clipped = answer(model, edge, y[:2], EPS, targeted)
        if clipped.min() < 0 or clipped.max() > 1:
            raise Mistake(
                f"pixels reach from {clipped.min():.3f} to {clipped.max():.3f}. An image has "
                "pixels in [0, 1]: end with .clamp(0, 1)."
            )
    return (
        "untargeted it climbs the loss of y, targeted it descends; each pixel value moves by eps."
    )


def _network() -> nn.Module:
    """A small network with three classes, always the same; global random state is left alone."""
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


def _expect_size(delta: Tensor, grad: Tensor) -> None:
    size = delta.abs()
    if size.max() == 0:
        raise Mistake("nothing moves: your function returns x as it is.")
    if F.cosine_similarity(delta.flatten(1), grad.flatten(1)).abs().min() > 0.999:
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


def _expect_ascent(delta: Tensor, grad: Tensor, grad_of_prediction: Tensor) -> None:
    agree = (delta.sign() == grad.sign()).float().mean()
    if agree < 0.001:
        raise Mistake(
            "untargeted, your step lowers the loss of the true class: the network becomes more "
            "confident. Add eps * sign, do not subtract it."
        )
    if agree > 0.999:
        return
    if (delta.sign() == grad_of_prediction.sign()).float().mean() > 0.999:
        raise Mistake(
            "your gradient belongs to the class that the network predicts, not to y. Use the y "
            "that your function is given."
        )
    if (delta[0].sign() == delta.sign()).all():
        raise Mistake("all images get the same step. Each has a gradient of its own.")
    raise Mistake(
        f"only {agree:.0%} of the pixel values move in the direction of the gradient. Take the "
        "sign of the gradient of cross_entropy(model(x), y) with respect to x."
    )


def _expect_targeted_descent(delta: Tensor, grad: Tensor) -> None:
    agree = (delta.sign() == -grad.sign()).float().mean()
    if agree > 0.999 and delta.abs().min() > EPS - 1e-6:
        return
    if agree < 0.001:
        raise Mistake(
            "targeted, your step still climbs the loss of y. Now y is the class to reach, so its "
            "loss must fall: reverse the sign."
        )
    raise Mistake(
        "untargeted is correct, targeted is not. It is the same step with the opposite sign, for "
        f"the class y; {agree:.0%} of your pixel values do that."
    )


@check
def l2_step(answer: Answer) -> str:
    """Exercise 3.2: the best step in the l2 ball, for every image of a batch.

    ``answer(g, eps)`` returns the perturbations, shape of `g`.
    """
    eps = 0.5
    g = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    g *= torch.tensor([1.0, 3.0, 0.2, 10.0]).view(4, 1, 1, 1)
    before = g.clone()
    delta = expect_tensor(answer(g, eps), g.shape, "perturbations")
    expect_untouched(g, before)
    correct = eps * g / g.flatten(1).norm(dim=1).view(4, 1, 1, 1)
    if not torch.allclose(delta, correct, atol=1e-5):
        _name_l2_mistake(delta, g, eps)
    zero = answer(torch.zeros(1, 3, 8, 8), eps)
    if not zero.isfinite().all():
        raise Mistake(
            "where the gradient is zero you divide zero by zero and get NaN. No direction is best "
            "there, so return no change: clamp_min on the length, or torch.where."
        )
    if zero.abs().max() > 0:
        raise Mistake("where the gradient is zero nothing should move.")
    # A network that is confident about an image has gradients this small.
    tiny = answer(g[:1] * 1e-9, eps)
    if not torch.allclose(tiny, correct[:1], atol=1e-3):
        raise Mistake(
            f"a gradient a thousand million times smaller gets a step of length {tiny.norm():.2g} "
            f"instead of {eps}. What you add against division by zero is larger than the gradient "
            "of a confident network: use a far smaller number, or torch.where."
        )
    return "every image moves by exactly eps along its own gradient, however small that is."


def _name_l2_mistake(delta: Tensor, g: Tensor, eps: float) -> None:
    if not delta.isfinite().all():
        raise Mistake("your step holds NaN or infinite values.")
    flat, root = g.flatten(1), g[0].numel() ** 0.5

    def per_image(values: Tensor) -> Tensor:
        return values.view(-1, 1, 1, 1)

    lengths = per_image(flat.norm(dim=1))
    unit = g / lengths
    mistakes = {
        "nothing moves: your step is zero everywhere.": torch.zeros_like(g),
        "every step has length 1. Multiply by eps.": unit,
        "your step lowers the loss. The maximum of the linearised loss lies along +g.": -eps * unit,
        "you multiply by eps but do not divide by the length of the gradient.": eps * g,
        "you divide by the length of the whole batch. Each image has a length of its own: "
        "flatten(1).norm(dim=1).": eps * g / g.norm(),
        "you take the length over the colours of each pixel alone. Sum over all values of an "
        "image: flatten(1).norm(dim=1).": eps * g / g.norm(dim=1, keepdim=True),
        "that is the linf step. In the l2 ball the sizes of g count, too.": eps * g.sign(),
        "your step has the right length but points along sign(g). The maximum over the l2 ball "
        "points along g itself.": eps * g.sign() / root,
        "you divide by the l1 length, the sum of absolute values. The l2 length is the root of the "
        "sum of squares.": eps * g / per_image(flat.abs().sum(1)),
        "you divide by the largest entry. The l2 length is the root of the sum of squares.": (
            eps * g / per_image(flat.abs().amax(1))
        ),
        "you divide by the squared length. Take the root.": eps * g / lengths**2,
        "your steps are too long by the root of the number of values: you average the squares. Sum "
        "them.": eps * unit * root,
    }
    name_mistake(delta, mistakes, rtol=1e-3)
    got = delta.flatten(1).norm(dim=1)
    raise Mistake(
        f"your steps have l2 lengths {got.min():.3g} to {got.max():.3g}, and {eps} is expected "
        "for every image, along its own gradient."
    )


@check
def needed_eps(answer: Answer) -> str:
    """Exercise 3.3: the smallest linf budget at which the linearised margin reaches zero.

    ``answer(margin, g)`` returns a budget for each image, shape (n,), from the margins, shape (n,),
    and their gradients, shape (n, ...).
    """
    g = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    g *= torch.tensor([1.0, 2.0, 0.5, 1.0]).view(4, 1, 1, 1)
    margin = torch.tensor([-8.0, -3.0, -6.0, 2.0])  # the last is misclassified already
    before = g.clone()
    given = expect_tensor(answer(margin.clone(), g), margin.shape, "budgets")
    expect_untouched(g, before)
    flat = g.flatten(1)
    correct = -margin / flat.abs().sum(1)
    if not torch.allclose(given[:3], correct[:3], rtol=1e-4):
        _name_budget_mistake(given[:3], -margin[:3], flat[:3])
    if abs(float(given[3])) > 1e-6:
        raise Mistake(
            f"you return {float(given[3]):.3g} for an image that is misclassified already "
            "(margin > 0). It needs no budget: 0."
        )
    flat_spot = answer(torch.tensor([-1.0]), torch.zeros(1, 3, 8, 8))
    if flat_spot.isnan().any() or float(flat_spot) < 1e6:
        raise Mistake(
            f"where the gradient is zero you return {float(flat_spot):.3g}. To first order no "
            "budget is enough there: infinity."
        )
    return "the margin rises by eps times the l1 length of its gradient, so that much is needed."


def _name_budget_mistake(given: Tensor, gap: Tensor, flat: Tensor) -> None:
    l1 = flat.abs().sum(1)
    mistakes = {
        "your budgets are negative. The margin of a correctly classified image is.": -gap / l1,
        "that is the budget in l2. The dual of linf is l1.": gap / flat.norm(dim=1),
        "you divide by the largest derivative, so only one pixel value moves: that is the budget "
        "in l1. In the linf ball all of them move.": gap / flat.abs().amax(1),
        "you divide by the mean of the absolute derivatives. All pixel values contribute: sum "
        "them.": gap / flat.abs().mean(1),
        "you sum the derivatives with their signs, and they cancel.": gap / flat.sum(1).abs(),
        "you multiply; a steeper loss needs a smaller budget.": gap * l1,
        "you divide the wrong way round: a larger gap needs a larger budget.": l1 / gap,
        "you sum over the whole batch. Sum over each image.": gap / flat.abs().sum(),
        "you count in 255ths. eps is in units of pixels.": 255 * gap / l1,
    }
    name_mistake(given, mistakes, rtol=1e-3, atol=0)
    raise Mistake(
        f"your first budget is {float(given[0]):.3g}; {float(gap[0] / l1[0]):.3g} is expected. "
        "Which eps makes eps times the dual norm of g as large as the gap?"
    )


LOOKS = 10
"""Forward passes that exercise 3.4 allows for each image, those of its gradients included."""


@check
def two_gradients(answer: Answer) -> str:
    """Exercise 3.4: with two gradients an image, fool more signs than two half steps do.

    ``answer(model, x, y, eps)`` returns images in the linf ball of radius `eps`.
    """
    network = advlib.models.load("signs-standard")
    x, y = signs.render(96, seed=33, labels=torch.arange(96) % 16)
    eps, counted, before = 1 / 255, _Counted(network), x.clone()
    x_adv = expect_tensor(answer(counted, x, y, eps), x.shape, "images").detach()
    expect_untouched(x, before)
    if not x_adv.isfinite().all() or x_adv.min() < 0 or x_adv.max() > 1:
        raise Mistake("pixels leave [0, 1], or are not finite: end with .clamp(0, 1).")
    if (reach := float((x_adv - x).abs().max())) > eps + 1e-6:
        raise Mistake(
            f"some pixel values move by {255 * reach:.2f}/255, and the budget is 1/255. Two steps "
            "can leave the ball: end with .clamp(x - eps, x + eps)."
        )
    if counted.gradients > 2 * len(x):
        raise Mistake(
            f"you take {counted.gradients / len(x):.3g} gradients of each image; two are allowed."
        )
    if counted.looks > LOOKS * len(x):
        raise Mistake(
            f"you run the network {counted.looks / len(x):.3g} times on each image; {LOOKS} "
            "times are allowed."
        )

    def left(images: Tensor) -> int:
        return int((predict(network, images).argmax(1) == y).sum())

    one = left(advlib.fgsm(network, x, y, eps))
    halves = advlib.fgsm(network, x, y, eps / 2)
    two, yours = left(advlib.fgsm(network, halves, y, eps / 2)), left(x_adv)
    if yours >= one:
        raise Mistake(
            f"your step leaves {yours} of {len(x)} signs correct; FGSM leaves {one} with one "
            "gradient. Where do you take the second gradient, and what do you do with the first?"
        )
    if yours >= two:
        raise Mistake(
            f"your step leaves {yours} of {len(x)} signs correct. That beats FGSM ({one}), but two "
            f"steps of eps/2 leave {two}. What can you make of two gradients beside two steps?"
        )
    return f"{yours} of {len(x)} signs stay correct. Two half steps leave {two}, FGSM {one}."


class _Counted(nn.Module):
    """A network that counts how many images it classified, and of how many it gave a gradient."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.looks, self.gradients = model, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        logits = self.model(x)
        self.looks += len(x)
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, grad: Tensor) -> None:
        self.gradients += len(grad)
