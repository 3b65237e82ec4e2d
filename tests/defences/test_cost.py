"""Cost: every pass is counted once, measurements are not, and the model is as it was before."""

import pytest
import torch
from torch import nn

from advlib.attacks import fgsm, pgd
from advlib.defences.cost import counted, not_counted
from advlib.defences.losses import gradient_penalty, trades
from advlib.training import train


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(40, 1, 4, 4, generator=generator), torch.arange(40) % 2


@pytest.fixture
def model():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 4), nn.Tanh(), nn.Linear(4, 2))


@pytest.mark.parametrize(
    "settings, forward, backward",
    [
        (dict(), 1, 1),
        (dict(perturb=lambda m, x, y: fgsm(m, x, y, 0.1)), 2, 2),
        (dict(perturb=lambda m, x, y: pgd(m, x, y, 0.1, steps=3)), 5, 4),
        (dict(objective=gradient_penalty), 1, 2),
        (dict(objective=lambda m, x, y: trades(m, x, y, eps=0.1, steps=3)), 7, 5),
    ],
)
def test_passes_per_image_of_each_method(model, problem, settings, forward, backward):
    x, y = problem
    with counted(model) as cost:
        train(model, x, y, epochs=3, batch_size=10, **settings)
    assert (cost.forward, cost.backward) == (3 * 40 * forward, 3 * 40 * backward)
    assert cost.seconds > 0


def test_what_is_not_counted_adds_no_images_and_no_time(model, problem):
    x, _ = problem
    with counted(model) as cost:
        model(x)
        with not_counted(cost):
            for _ in range(300):
                model(x).sum().backward()
    assert (cost.forward, cost.backward) == (40, 0)
    with counted(model) as full:
        for _ in range(300):
            model(x).sum().backward()
    assert cost.seconds < full.seconds / 3


def test_counting_ends_with_the_block_also_after_an_error(model, problem):
    x, _ = problem
    with pytest.raises(RuntimeError, match="stop"), counted(model) as cost:
        model(x)
        raise RuntimeError("stop")
    model(x)
    assert cost.forward == 40 and cost.seconds > 0
    assert not model._forward_hooks
