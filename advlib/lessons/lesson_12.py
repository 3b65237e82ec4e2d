"""Checks of lesson 12, "Into the world"."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from advlib.attacks.square import square_with_queries
from advlib.data import signs
from advlib.evaluation import predict
from advlib.fast import accelerated
from advlib.gradients import cross_entropy
from advlib.lessons import (
    Answer,
    Mistake,
    check,
    close,
    expect_answer,
    expect_tensor,
    expect_untouched,
    name_mistake,
)
from advlib.models.shipped import load

_NEAR: dict[str, float] = {"rtol": 1e-4, "atol": 1e-5}


class _Camera:
    """Dims images by a new factor at every call, and records images and factors."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(12)
        self.factors: list[Tensor] = []
        self.given: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.given.append(x)
        factor = 0.2 + 0.8 * torch.rand(len(x), generator=self.generator)
        self.factors.append(factor.view(-1, 1, 1, 1))
        return x * self.factors[-1]


class _Cubic(nn.Module):
    """Not linear, so that the order of averaging matters."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return (x.flatten(1) @ self.weight).pow(3)


@check
def eot_loss(answer: Answer) -> str:
    """Exercise 12.1: the loss averaged over random views, one value for each image.

    ``answer(model, x, y, draw, k)`` returns, for each image, the mean over `k` calls of ``draw``
    of the cross-entropy of what ``draw(x)`` returned: shape (n,), with a gradient.
    """
    generator = torch.Generator().manual_seed(12)
    model = _Cubic(0.8 * torch.randn(12, 3, generator=generator)).eval()
    x, y = torch.rand(5, 3, 2, 2, generator=generator), torch.tensor([0, 1, 2, 1, 0])
    before, camera, k = x.clone(), _Camera(), 4
    leaf = x.clone().requires_grad_()
    given = answer(model, leaf, y, camera, k)
    expect_answer(given)
    if isinstance(given, Tensor) and given.ndim == 0:
        raise Mistake(
            "your function returns one number for the whole batch. Average over views, not over "
            'images: F.cross_entropy(..., reduction="none").'
        )
    loss = expect_tensor(given, y.shape, "losses")
    expect_untouched(leaf, before)
    _check_calls(camera, k, x)
    views = torch.stack([x * factor for factor in camera.factors])
    losses = torch.stack([cross_entropy(model(view), y) for view in views])
    if not close(loss.detach(), losses.mean(0), **_NEAR):
        name_mistake(loss.detach(), _wrong_losses(model, y, views, losses), **_NEAR)
        raise Mistake(
            f"for the first image your value is {loss[0].item():.3f}; the mean cross-entropy of "
            f"its {k} views is {losses.mean(0)[0].item():.3f}."
        )
    if not loss.requires_grad:
        raise Mistake("no gradient reaches x. Leave out torch.no_grad() and .detach().")
    return "the mean of the losses over new views: an unbiased estimate of the expected loss."


def _wrong_losses(model: nn.Module, y: Tensor, views: Tensor, losses: Tensor) -> dict[str, Tensor]:
    """The losses of other averages."""
    logits = torch.stack([model(view) for view in views])
    return {
        "the losses are summed. Divide by k, or another k changes the step size.": losses.sum(0),
        "the loss is that of the mean image. The camera never sees that one: average "
        "losses.": cross_entropy(model(views.mean(0)), y),
        "the loss is that of the mean logits. Take the loss of each view, then the "
        "mean.": cross_entropy(logits.mean(0), y),
        "the loss is that of the mean probabilities. Take the loss of each view, then the "
        "mean.": -logits.softmax(2).mean(0).gather(1, y[:, None]).squeeze(1).log(),
        "only the last view counts. Add up the losses inside the loop.": losses[-1],
        f"only the last of {len(views)} views counts, divided by k.": losses[-1] / len(views),
        "the sign is reversed: return the loss, not minus the loss.": -losses.mean(0),
    }


def _check_calls(camera: _Camera, k: int, x: Tensor) -> None:
    """Name what is wrong with the calls of ``draw``."""
    calls = len(camera.given)
    if not calls:
        raise Mistake("draw is never called: the model gets x as it is, not as the camera sees it.")
    if any(not given.detach().equal(x) for given in camera.given):
        raise Mistake("draw is applied to something else than x. Each view starts from x itself.")
    if calls == 1:
        raise Mistake(
            f"draw is called once; k = {k} views are needed. Call it in the loop, so that each "
            "iteration draws a new view."
        )
    if calls != k:
        raise Mistake(f"draw is called {calls} times; k is {k}.")


@check
def accept(answer: Answer) -> str:
    """Exercise 12.2: one step of a random search, accepted where it is no worse.

    ``answer(best, value, proposal, new_value)`` with images (n, c, h, w) and losses (n,) returns
    ``(best, value)`` after the step: for each image the proposal and its loss where that loss is
    no lower, and the old ones elsewhere.
    """
    generator = torch.Generator().manual_seed(3)
    best, proposal = torch.rand(2, 4, 3, 2, 2, generator=generator)
    value = torch.tensor([0.5, -1.0, 2.0, 0.0])
    new_value = torch.tensor([0.7, -2.0, 2.0, 3.0])
    copies = best.clone(), value.clone(), proposal.clone()
    given = answer(best, value, proposal, new_value)
    expect_answer(given)
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise Mistake("your function returns one thing; two are expected: return best, value.")
    images = expect_tensor(given[0], proposal.shape, "images")
    losses = expect_tensor(given[1], new_value.shape, "losses")
    if not (best.equal(copies[0]) and value.equal(copies[1]) and proposal.equal(copies[2])):
        raise Mistake("your function changes its arguments. Make new tensors, with torch.where.")
    _check_choice(images, copies[0], proposal)
    if losses.equal(value):
        raise Mistake(
            "the images are correct but the losses are the old ones. The next proposal would be "
            "compared with an outdated loss, and worse ones would be accepted."
        )
    if not losses.equal(torch.tensor([0.7, -1.0, 2.0, 3.0])):
        raise Mistake(f"the losses are {losses.tolist()}; [0.7, -1.0, 2.0, 3.0] are correct.")
    return "each image is decided by its own loss, and no step makes it worse."


def _check_choice(images: Tensor, best: Tensor, proposal: Tensor) -> None:
    """Name a wrong choice between `best` and `proposal`; correct: new, old, new (a tie), new."""
    new = tuple(images[i].equal(proposal[i]) for i in range(4))
    if not all(new[i] or images[i].equal(best[i]) for i in range(4)):
        raise Mistake("an image is neither the old one nor the proposal: do not mix the two.")
    worse = "the worse proposals are accepted: the attacker wants a high loss."
    sentences: dict[tuple[bool, ...], str] = {
        (True, False, False, True): (
            "a proposal with the same loss is rejected. Accept it: on a plateau, where logits are "
            "rounded, the search could never move. Write >=."
        ),
        (False, True, False, False): worse,
        (False, True, True, False): worse,
        (True, True, True, True): (
            "every proposal is accepted. Each image has its own loss: the second got worse."
        ),
        (False, False, False, False): (
            "no proposal is accepted, though three are no worse. Compare image by image."
        ),
    }
    if new != (True, False, True, True):
        raise Mistake(sentences.get(new, "the choice does not follow each image's own losses."))


# -- exercise 12.3 ---------------------------------------------------------------------------------

_EPS, _QUERIES = 4 / 255, 100


@check
def fewer_queries(answer: Answer) -> str:
    """Exercise 12.3: fool twenty unseen signs with fewer queries than Square Attack.

    ``answer(ask, x, y, eps)`` attacks one sign; ``ask(images)`` gives logits, and each image is a
    query. A sign ends when an image has fooled the network, or after 100 queries.
    """
    model, x, y, rival = _twenty()
    spent = torch.full((len(x),), _QUERIES)
    for i in range(len(x)):
        sign, label = x[i : i + 1], y[i : i + 1]
        try:
            expect_answer(answer(_counted(model, sign, label), sign.clone(), label, _EPS))
        except _Enough as enough:
            spent[i] = enough.args[0]
    yours, theirs = float(spent.double().mean()), float(rival.double().mean())
    told = (
        f"{int((spent < _QUERIES).sum())} of {len(x)} signs with {yours:.0f} queries on average; "
        f"Square Attack {int((rival < _QUERIES).sum())} with {theirs:.0f}."
    )
    if yours > 0.9 * theirs:
        raise Mistake(
            f"you fool {told} Need 10 % fewer queries than it; a sign that is not fooled "
            f"counts {_QUERIES}. What fools many signs at once, and is cheap to try first?"
        )
    return f"you fool {told}"


class _Enough(Exception):
    """The attack on a sign is over; its argument is the number of queries."""


def _counted(model: nn.Module, x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    """The network behind a counter, for one sign."""
    spent = 0

    def ask(images: Tensor) -> Tensor:
        nonlocal spent
        images = expect_tensor(images, (len(images), *x.shape[1:]), "images").detach()
        if images.min() < 0 or images.max() > 1:
            raise Mistake("some pixels leave [0, 1]. Clamp the images before you ask.")
        if (images - x).abs().max() > _EPS + 1e-6:
            raise Mistake("a pixel value changes by more than eps. Clamp the change to -eps..eps.")
        logits = predict(model, images[: _QUERIES - spent])
        fools = (logits.argmax(1) != y).nonzero()
        spent += int(fools[0]) + 1 if len(fools) else len(images)
        if len(fools) or spent >= _QUERIES:
            raise _Enough(min(spent, _QUERIES))
        return logits

    return ask


@cache
def _twenty() -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """The network, signs that the lesson does not show, and Square Attack's queries."""
    x, y = signs.render(24, seed=12_303)
    model = accelerated(load("signs-standard"), x[:8], threads=1)
    correct = predict(model, x).argmax(1) == y
    x, y = x[correct][:20], y[correct][:20]
    found = square_with_queries(model, x, y, _EPS, queries=_QUERIES)
    return model, x, y, torch.where(found.fooled, found.queries, _QUERIES)
