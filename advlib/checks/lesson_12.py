"""Checks of lesson 12, "Into the world"."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from advlib.checks import Mistake, check, expect_answer, expect_tensor, expect_untouched
from advlib.gradients import cross_entropy

_Draw = Callable[[Tensor], Tensor]
_EotLoss = Callable[[nn.Module, Tensor, Tensor, _Draw, int], Tensor]
_Accept = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class _Recorder:
    """A camera that dims pictures by a new factor at every call and remembers the factors."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(12)
        self.factors: list[Tensor] = []
        self.given: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.given.append(x)
        factor = 0.2 + 0.8 * torch.rand(len(x), generator=self.generator)
        self.factors.append(factor)
        return x * factor.view(-1, 1, 1, 1)


def _problem() -> tuple[nn.Module, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(12)
    weight = 0.8 * torch.randn(12, 3, generator=generator)
    model = nn.Sequential(nn.Flatten(), _Matrix(weight))
    x = torch.rand(5, 3, 2, 2, generator=generator)
    return model.eval(), x, torch.tensor([0, 1, 2, 1, 0])


class _Matrix(nn.Module):
    """A fixed linear layer, bent so that the order of averaging matters."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.weight).pow(3)


@check
def eot_loss(answer: _EotLoss) -> str:
    """Exercise 12.1: the loss averaged over random views, one value for each picture.

    Parameters
    ----------
    answer
        ``answer(model, x, y, draw, k)`` returns, for each picture, the mean over `k` calls of
        ``draw`` of the cross-entropy of what ``draw(x)`` returned: shape (n,), with a gradient.

    Returns
    -------
    Verdict
    """
    model, x, y = _problem()
    before, camera, k = x.clone(), _Recorder(), 4
    leaf = x.clone().requires_grad_()
    given = answer(model, leaf, y, camera, k)
    expect_answer(given)
    if isinstance(given, Tensor) and given.ndim == 0:
        raise Mistake(
            "your function returns one number for the whole batch. Average over views, not over "
            'pictures: F.cross_entropy(..., reduction="none").'
        )
    loss = expect_tensor(given, y.shape, "losses")
    expect_untouched(leaf, before)
    _views_used(camera, k, x)
    losses = torch.stack([cross_entropy(model(_dimmed(x, f)), y) for f in camera.factors])
    _right_mean(loss.detach(), losses, camera, model, x, y)
    if not loss.requires_grad:
        raise Mistake("no gradient reaches x. Leave out torch.no_grad() and .detach().")
    return "the mean of the losses, over new views: an unbiased estimate of what the world will do."


def _dimmed(x: Tensor, factor: Tensor) -> Tensor:
    return x * factor.view(-1, 1, 1, 1)


def _views_used(camera: _Recorder, k: int, x: Tensor) -> None:
    """Name what is wrong with the calls of ``draw``."""
    if not camera.factors:
        raise Mistake("draw is never called: the model sees x as it is, not as the camera does.")
    if any(not given.detach().equal(x) for given in camera.given):
        raise Mistake("draw is applied to something else than x. Each view starts from x itself.")
    if len(camera.factors) == 1:
        raise Mistake(
            f"draw is called once; k = {k} views are wanted. Call it in the loop, so that each "
            "round draws a new view."
        )
    if len(camera.factors) != k:
        raise Mistake(f"draw is called {len(camera.factors)} times; k is {k}.")


def _right_mean(
    loss: Tensor, losses: Tensor, camera: _Recorder, model: nn.Module, x: Tensor, y: Tensor
) -> None:
    """Name what was averaged, if it was not the losses."""
    if torch.allclose(loss, losses.mean(0), rtol=1e-4, atol=1e-5):
        return
    views = [_dimmed(x, factor) for factor in camera.factors]
    k = len(views)
    logits = torch.stack([model(view) for view in views])
    mistakes = {
        "the losses are summed. Divide by k: with another k the steps would have another size.": (
            losses.sum(0)
        ),
        "the loss is that of the mean picture. The camera never sees that one: average losses.": (
            cross_entropy(model(torch.stack(views).mean(0)), y)
        ),
        "the loss is that of the mean logits. Take the loss of each view, then the mean.": (
            cross_entropy(logits.mean(0), y)
        ),
        "the loss is that of the mean probabilities. Take the loss of each view, then the mean.": (
            -logits.softmax(2).mean(0).gather(1, y[:, None]).squeeze(1).log()
        ),
        "only the last view counts. Add up the losses inside the loop.": losses[-1],
        f"only the last of {k} views counts, divided by k.": losses[-1] / k,
        "the sign is turned round: return the loss, not minus the loss.": -losses.mean(0),
    }
    for sentence, value in mistakes.items():
        if torch.allclose(loss, value, rtol=1e-4, atol=1e-5):
            raise Mistake(sentence)
    raise Mistake(
        f"for the first picture your value is {float(loss[0]):.3f}; the mean cross-entropy of its "
        f"{k} views is {float(losses.mean(0)[0]):.3f}."
    )


@check
def accept(answer: _Accept) -> str:
    """Exercise 12.2: one step of a random search, kept where it is no worse.

    Parameters
    ----------
    answer
        ``answer(best, value, proposal, new_value)`` with pictures (n, c, h, w) and losses (n,)
        returns ``(best, value)`` after the step: for each picture the proposal and its loss where
        that loss is no lower, what there was elsewhere.

    Returns
    -------
    Verdict
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
    pictures = expect_tensor(given[0], proposal.shape, "pictures")
    losses = expect_tensor(given[1], new_value.shape, "losses")
    if not (best.equal(copies[0]) and value.equal(copies[1]) and proposal.equal(copies[2])):
        raise Mistake("your function changes its arguments. Make new tensors, with torch.where.")
    _kept_the_right_ones(pictures, copies[0], proposal)
    if losses.equal(value):
        raise Mistake(
            "the pictures are right but the losses are the old ones. The next proposal would be "
            "compared with a loss that was beaten long ago, and worse ones would be kept."
        )
    if not losses.equal(torch.tensor([0.7, -1.0, 2.0, 3.0])):
        raise Mistake(f"the losses are {losses.tolist()}; [0.7, -1.0, 2.0, 3.0] are right.")
    return "each picture is judged by its own loss, and no step makes it worse."


def _kept_the_right_ones(pictures: Tensor, best: Tensor, proposal: Tensor) -> None:
    """Name a wrong choice between `best` and `proposal`; right is: new, old, new (a tie), new."""
    taken = [pictures[i].equal(proposal[i]) for i in range(4)]
    left = [pictures[i].equal(best[i]) for i in range(4)]
    if not all(new or old for new, old in zip(taken, left, strict=True)):
        raise Mistake("a picture is neither the old one nor the proposal: nothing is to be mixed.")
    worse = "the worse proposals are kept: the attacker wants a high loss."
    sentences: dict[tuple[bool, ...], str] = {
        (True, False, True, True): "",
        (True, False, False, True): (
            "a proposal with the same loss is refused. Accept it: on a plateau, where logits are "
            "rounded, the search could never move. Write >=."
        ),
        (False, True, False, False): worse,
        (False, True, True, False): worse,
        (True, True, True, True): (
            "every proposal is kept. Each picture has its own loss: the second got worse."
        ),
        (False, False, False, False): (
            "no proposal is kept, though three are no worse. Compare picture by picture."
        ),
    }
    message = sentences.get(tuple(taken), "the choice does not follow each picture's own losses.")
    if message:
        raise Mistake(message)
