"""FGSM from a random start: it stays where its paper lets it, and the generator decides."""

import cases
import pytest
import torch

from advlib.attacks import fgsm
from advlib.attacks.fast_fgsm import fast_fgsm
from advlib.errors import InputError
from advlib.evaluation import accuracy
from advlib.training import train

EPS = 0.1


@pytest.fixture(scope="module")
def problem():
    return cases.bold_and_faint()


@pytest.mark.parametrize("start, step, project", [(1.0, 1.25, True), (2.0, 1.0, False)])
def test_it_stays_where_its_paper_lets_it(problem, device, start, step, project):
    x, y = (part[:64].to(device) for part in problem)
    before = x.clone()
    x_adv = fast_fgsm(cases.linear(device), x, y, EPS, start=start, step=step, project=project)
    reach = (x_adv - x).abs().max().item()
    assert torch.equal(x, before) and x_adv.min() >= 0 and x_adv.max() <= 1
    assert reach <= EPS if project else EPS < reach <= 3 * EPS


def test_from_the_image_itself_it_is_fgsm(problem):
    x, y = problem
    model = cases.linear()
    assert torch.equal(fast_fgsm(model, x, y, EPS, start=0, step=1), fgsm(model, x, y, EPS))


def test_it_lowers_the_accuracy_and_its_start_comes_from_its_generator(problem):
    x, y = problem
    model = cases.linear()
    train(model, x, y, epochs=4, lr=0.02)
    before = torch.get_rng_state()
    assert accuracy(model, x, y).value > 0.85
    assert accuracy(model, fast_fgsm(model, x, y, EPS), y).value < 0.3
    made = [
        fast_fgsm(model, x, y, EPS, step=0.5, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("change", [dict(start=-1.0), dict(step=float("nan"))])
def test_it_refuses_negative_lengths(problem, change):
    with pytest.raises(InputError, match="lengths"):
        fast_fgsm(cases.linear(), *problem, EPS, **change)
