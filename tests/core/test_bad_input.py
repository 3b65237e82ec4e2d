"""What people bring from other libraries, or get wrong first: a sentence says how to mend it."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import advlib
from advlib.contracts import OTHER_NAMES
from advlib.errors import AdvlibError, ArgumentError, PixelError

ATTACKS: dict[str, Callable[..., Tensor]] = {
    "fgsm": advlib.fgsm,
    "pgd": lambda *given, **more: advlib.pgd(*given, **more, steps=2),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()


X, Y = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1])


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_grey_levels_as_budget_are_named_at_the_readers_line(attack: Any) -> None:
    with pytest.warns(UserWarning, match=r"eps is 8, .* eps=8/255") as caught:
        attack(network(), X, Y, 8)
    assert [warning.filename for warning in caught] == [__file__]


def test_noise_of_grey_levels_is_named_too() -> None:
    with pytest.warns(UserWarning, match="eps=8/255"):
        advlib.noise(X, 8)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
@pytest.mark.parametrize(("norm", "eps"), [("linf", 1.0), ("l2", 8.0), ("l1", 100.0)])
def test_a_budget_inside_the_box_is_taken_without_a_word(
    attack: Any, norm: str, eps: float
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attack(network(), X, Y, eps, norm=norm)


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_probabilities_are_named(attack: Any) -> None:
    model = network()
    with pytest.warns(UserWarning, match="returns probabilities.*logits are expected") as caught:
        attack(nn.Sequential(model, nn.Softmax(1)), X, Y, 0.01)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attack(lambda x: model(x).softmax(1).log(), X, Y, 0.01)
        advlib.accuracy(nn.Sequential(model, nn.Softmax(1)), X, Y)  # which needs no gradient


@pytest.mark.parametrize("attack", [*ATTACKS.values(), advlib.accuracy], ids=[*ATTACKS, "accuracy"])
@pytest.mark.parametrize(
    ("x", "words"),
    [
        (X.double(), r"x holds torch.float64 .* are torch.float32.* x = x.to\(torch.float32\)"),
        (X[:, :1], r"a layer expects 3 channels. For grey images .* x.expand\(-1, 3, -1, -1\)"),
        (X.permute(0, 2, 3, 1), r"looks like \(n, h, w, c\): x.permute\(0, 3, 1, 2\)"),
        (X.repeat(1, 2, 1, 1), r"x has shape \(2, 6, 8, 8\), and a layer expects 3 channels"),
    ],
    ids=["double", "grey", "channels last", "six channels"],
)
def test_images_that_do_not_fit_the_model(attack: Any, x: Tensor, words: str) -> None:
    with pytest.raises(PixelError, match=words):
        attack(network(), x, Y)


def test_what_goes_wrong_inside_a_model_is_reported_as_it_is() -> None:
    def broken(x: Tensor) -> Tensor:
        raise RuntimeError("the fan is off")

    with pytest.raises(RuntimeError, match="the fan is off") as caught:
        advlib.fgsm(broken, X, Y)
    assert not isinstance(caught.value, AdvlibError)


@pytest.mark.parametrize("attack", [advlib.fgsm, advlib.pgd])
@pytest.mark.parametrize(("given", "ours"), [("alpha", "step_size"), ("nb_iter", "steps")])
def test_names_of_other_libraries_are_answered_with_ours(
    attack: Any, given: str, ours: str
) -> None:
    with pytest.raises(ArgumentError, match=f"no argument '{given}'; it is called '{ours}' here"):
        attack(network(), X, Y, **{given: 1})
    with pytest.raises(TypeError, match="nonsense"):
        attack(network(), X, Y, nonsense=1)


def test_every_name_that_is_answered_with_ours_is_one_of_ours() -> None:
    known = {name for f in (advlib.pgd, advlib.fgsm) for name in inspect.signature(f).parameters}
    assert OTHER_NAMES.keys() <= known
    assert not known & {name for others in OTHER_NAMES.values() for name in others}


def test_a_loader_is_refused_by_an_attack_with_the_way_out() -> None:
    with pytest.raises(PixelError, match="DataLoader.*for x, y in loader"):
        advlib.fgsm(network(), DataLoader(TensorDataset(X, Y)), Y)


def test_an_audit_takes_a_loader_and_finds_what_it_finds_on_the_tensors() -> None:
    loader = DataLoader(TensorDataset(X, Y), batch_size=1, shuffle=True)
    found, wanted = (
        advlib.audit(network(), *data, eps=0.05, level="quick", masking=False)
        for data in ((loader,), (X, Y))
    )
    assert found.clean == wanted.clean
    assert torch.equal(found.fooled_by, wanted.fooled_by)
