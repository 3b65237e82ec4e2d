"""Relabelled images: the labels are random, and the perturbations alone explain them."""

import pytest
import reference
import torch
from torch import Tensor, nn

from advlib.analysis.relabelling import relabelled
from advlib.errors import InputError
from advlib.evaluation import accuracy, predict

RANDOM_STATE_IS_WATCHED = True


def images(n: int = 800) -> Tensor:
    return reference.images(n, 1, 7, 43, ends=0.1).float()


def model(device: torch.device | str = "cpu") -> nn.Module:
    return reference.linear(301, 2).float().to(device)


def test_images_are_attacked_towards_labels_drawn_at_random(device: torch.device) -> None:
    x, y = images().to(device), torch.arange(800, device=device) % 2
    before = x.clone()
    x_adv, target = relabelled(model(device), x, 1.0, classes=2, seed=3)
    assert (x_adv - x).flatten(1).norm(dim=1).max() <= 1.0 and torch.equal(x, before)
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert abs(float((target == y).float().mean()) - 0.5) < 0.08, "the labels are independent of y"
    network = model(device)
    assert accuracy(network, x_adv, target).value > accuracy(network, x, target).value + 0.2


def test_control_has_the_same_labels_and_noise_of_the_same_size() -> None:
    x = images()
    _, target = relabelled(model(), x, 1.0, classes=2, seed=3)
    noisy, drawn = relabelled(model(), x, 1.0, classes=2, seed=3, control=True)
    assert torch.equal(target, drawn)
    length = (noisy - x).flatten(1).norm(dim=1)
    assert length.max() <= 1.0 and length.median() > 0.9


def test_det_labels_each_image_as_the_next_class_and_attacks_towards_it() -> None:
    x, y = images(), torch.arange(800) % 2
    network = reference.linear(301, 3).float()
    x_adv, target = relabelled(network, x, 1.0, classes=3, y=y, seed=3)
    assert torch.equal(target, (y + 1) % 3)
    assert accuracy(network, x_adv, target).value > accuracy(network, x, target).value + 0.2


def test_a_hidden_change_fools_the_model_and_not_the_second_network() -> None:
    x, other = images(), reference.linear(301, 2, seed=5).float()
    with torch.no_grad():  # a relative, so that what fools the model moves it too
        other[1].weight.copy_((other[1].weight + model()[1].weight) / 2)
    seen = predict(other, x).log_softmax(1)
    raised, successes = {}, {}
    for hidden_from in (None, other):
        how = dict(classes=2, seed=3, steps=20, hidden_from=hidden_from)
        x_adv, target = relabelled(model(), x, 1.0, **how)
        assert (x_adv - x).flatten(1).norm(dim=1).max() <= 1.0
        believed = predict(other, x_adv).log_softmax(1) - seen
        raised[hidden_from] = float(believed.gather(1, target[:, None]).clamp(min=0).mean())
        successes[hidden_from] = accuracy(model(), x_adv, target).value
    assert raised[other] < 0.3 * raised[None]
    assert successes[other] > accuracy(model(), x, target).value + 0.2


def test_relabelling_is_repeatable_and_does_not_depend_on_the_batch() -> None:
    x = images(40)
    first = relabelled(model(), x, 1.0, classes=2, seed=1)
    again = relabelled(model(), x, 1.0, classes=2, seed=1)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    parts = relabelled(model(), x, 1.0, classes=2, seed=1, batch_size=7)
    assert torch.equal(first[1], parts[1])
    assert not torch.equal(first[1], relabelled(model(), x, 1.0, classes=2, seed=2)[1])


def test_one_class_is_refused_and_no_images_are_fine() -> None:
    with pytest.raises(InputError, match="at least two"):
        relabelled(model(), images(2), 1.0, classes=1)
    x_adv, target = relabelled(model(), images(2)[:0], 1.0, classes=2)
    assert len(x_adv) == len(target) == 0
