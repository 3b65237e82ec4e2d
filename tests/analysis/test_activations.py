"""Record, replace, compare: against what is worked out by hand, and leaving no hook behind."""

import copy
import functools
from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import advlib
from advlib.analysis.activations import (
    along,
    convolution_bound,
    largest,
    operator_norm,
    record,
    relative_change,
    replace,
)
from advlib.data import signs
from advlib.errors import InputError, ModelOutputError, PixelError, ThreatError
from advlib.evaluation import predict
from advlib.models.architectures import SignNet

RANDOM_STATE_IS_WATCHED = True
Layer = TypeVar("Layer", bound=nn.Module)
LAYERS = ["stem", "blocks.input", "blocks.0", "blocks.3", "head.input", "head"]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@functools.cache
def net() -> SignNet:
    model = advlib.models.load("signs-standard")
    assert isinstance(model, SignNet)
    return model


def seeded(make: Callable[[], Layer]) -> Layer:
    """A layer with random weights that leaves the global random state alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


@functools.cache
def images() -> Tensor:
    return signs.render(6, seed=3)[0]


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_record_agrees_with_the_forward_pass_by_hand(device: torch.device) -> None:
    model, x = copy.deepcopy(net()).to(device), images().to(device)
    got = record(model, x, LAYERS)
    with torch.no_grad():
        stem = model.stem((x - 0.5) * 4)
        h = torch.relu(model.norm(stem))
        first = model.blocks[0](h)
        last = model.blocks[3](model.blocks[2](model.blocks[1](first)))
        pooled = last.mean((2, 3))
    by_hand = [stem, h, first, last, pooled, model.head(pooled)]
    assert list(got) == LAYERS
    for name, expected in zip(LAYERS, by_hand, strict=True):
        torch.testing.assert_close(got[name], expected, rtol=1e-4, atol=1e-4)
        assert got[name].device == x.device and not got[name].requires_grad


def test_batches_do_not_matter() -> None:
    whole = record(net(), images(), ["blocks.2"])["blocks.2"]
    parts = record(net(), images(), ["blocks.2"], batch_size=4)["blocks.2"]
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-4)
    value = whole.flip(0)
    torch.testing.assert_close(
        replace(net(), images(), "blocks.2", value, batch_size=4),
        replace(net(), images(), "blocks.2", value),
        rtol=1e-4,
        atol=1e-4,
    )


def test_a_recorded_activation_is_a_copy() -> None:
    first = seeded(lambda: nn.Linear(4, 3))
    last = seeded(lambda: nn.Linear(3, 2))
    model = nn.Sequential(nn.Flatten(), first, nn.ReLU(inplace=True), last)
    x = torch.rand(20, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    got = record(model, x, ["1"])["1"]
    torch.testing.assert_close(got, x.flatten(1) @ first.weight.T + first.bias)
    assert (got < 0).any()


@pytest.mark.parametrize("layer", LAYERS)
def test_putting_back_what_was_there_changes_nothing(layer: str) -> None:
    own = record(net(), images(), [layer])[layer]
    logits = replace(net(), images(), layer, own)
    torch.testing.assert_close(logits, predict(net(), images()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer", LAYERS)
def test_all_of_another_image_gives_its_logits(layer: str, device: torch.device) -> None:
    model, x = copy.deepcopy(net()).to(device), images().to(device)
    value = record(model, x.flip(0), [layer])[layer]
    logits = replace(model, x, layer, value)
    torch.testing.assert_close(logits, predict(model, x.flip(0)), rtol=1e-4, atol=1e-3)


def test_replaced_features_go_through_the_head_alone() -> None:
    value = draw(6, 64)
    expected = value @ net().head.weight.T + net().head.bias
    torch.testing.assert_close(replace(net(), images(), "head.input", value), expected)


def test_the_model_and_the_value_are_left_as_they_were() -> None:
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(64, 3),
        )
    ).train()
    x = torch.rand(5, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    state = copy.deepcopy(model.state_dict())
    before = x.clone()
    value = record(model, x, ["1"])["1"]
    kept = value.clone()
    replace(model, x, "1", value)
    assert value.equal(kept) and x.equal(before) and model.training and hooks(model) == 0
    assert all(state[name].equal(now) for name, now in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


class Broken(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        self.head(x.flatten(1)[:, :3])
        raise RuntimeError("on purpose")


def test_no_hook_stays_after_an_error() -> None:
    model, x = seeded(Broken), torch.zeros(2, 3, 1, 1)
    with pytest.raises(RuntimeError, match="on purpose"):
        record(model, x, ["head", "head.input"])
    with pytest.raises(RuntimeError, match="on purpose"):
        replace(model, x, "head", torch.zeros(2, 2))
    assert hooks(model) == 0
    with pytest.raises(InputError, match="is expected, as the layer"):
        replace(net(), images(), "blocks.3", torch.zeros(6, 64, 4, 4))
    assert hooks(net()) == 0


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.idle, self.pair = nn.Linear(2, 2), nn.Linear(2, 2), Pair()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(self.body(self.pair(x.flatten(1))[0]))


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def test_what_cannot_be_used_is_refused() -> None:
    x = torch.zeros(2, 2, 1, 1)
    model = seeded(Twice)
    for layer, words in {"body": "2 times", "idle": "0 times", "nose": "Known: body"}.items():
        with pytest.raises(InputError, match=words):
            record(model, x, [layer])
        with pytest.raises(InputError, match=words):
            replace(model, x, layer, torch.zeros(2, 2))
    with pytest.raises(ModelOutputError, match="tuple"):
        record(model, x, ["pair"])
    with pytest.raises(InputError, match=r"torch\.nn\.Module"):
        record(lambda x: x, x, ["head"])  # type: ignore[arg-type]
    with pytest.raises(InputError, match="one for each"):
        replace(net(), images(), "head", torch.zeros(2, 16))
    with pytest.raises(InputError, match="at least one"):
        record(net(), images()[:0], ["head"])
    with pytest.raises(PixelError):
        record(net(), 255 * images(), ["head"])
    with pytest.raises(ThreatError, match="batch_size"):
        record(net(), images(), ["head"], batch_size=0)
    assert hooks(model) == hooks(net()) == 0


@given(st.integers(0, 10_000), st.floats(1e-3, 1e3))
def test_relative_change_has_no_unit_and_belongs_to_each_image(seed: int, scale: float) -> None:
    clean, changed = draw(4, 3, 2, 2, seed=seed).double(), draw(4, 3, 2, 2, seed=seed + 1).double()
    got = relative_change(clean, changed)
    by_hand = [
        sum((b - a) ** 2 for a, b in zip(one.flatten(), two.flatten(), strict=True)) ** 0.5
        / sum(a**2 for a in one.flatten()) ** 0.5
        for one, two in zip(clean, changed, strict=True)
    ]
    torch.testing.assert_close(got, torch.stack(by_hand))
    torch.testing.assert_close(relative_change(scale * clean, scale * changed), got)
    torch.testing.assert_close(relative_change(clean[2:3], changed[2:3]), got[2:3])


def test_relative_change_of_nothing() -> None:
    zero, one = torch.zeros(1, 3), torch.ones(1, 3)
    assert relative_change(zero, one).isinf() and relative_change(zero, zero).isnan()
    with pytest.raises(InputError, match="twice the same"):
        relative_change(one, torch.ones(2, 3))


@given(st.integers(0, 10_000), st.integers(0, 7))
def test_the_k_largest_are_marked_and_nothing_else(seed: int, k: int) -> None:
    score = draw(4, 7, seed=seed)
    chosen = largest(score, k)
    assert (chosen.sum(1) == k).all()
    if 0 < k < 7:
        assert (
            score.masked_fill(~chosen, 9).amin(1) >= score.masked_fill(chosen, -9).amax(1)
        ).all()


def test_largest_refuses_what_does_not_fit() -> None:
    for score, k in ((draw(4, 7), -1), (draw(4, 7), 8), (draw(4, 7, 2), 1)):
        with pytest.raises(InputError, match="number of channels"):
            largest(score, k)


@given(st.integers(0, 10_000), st.floats(0.1, 50))
def test_the_part_along_a_direction_is_its_projection(seed: int, scale: float) -> None:
    change, direction = draw(4, 7, 2, 3, seed=seed), draw(4, 7, seed=seed + 1)
    part = along(change, scale * direction)
    for i in range(4):
        outer = torch.outer(direction[i], direction[i]) / direction[i].square().sum()
        expected = torch.einsum("cd,dhw->chw", outer, change[i])
        torch.testing.assert_close(part[i], expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(along(part, direction), part, rtol=1e-4, atol=1e-5)
    pooled = along(change[..., 0, 0], direction)
    torch.testing.assert_close(pooled, along(change, direction)[..., 0, 0])


def test_along_refuses_what_is_no_direction() -> None:
    change = draw(4, 7, 2, 3)
    for direction in (draw(7), draw(4, 6), draw(4, 7, 1, 1), torch.zeros(4, 7)):
        with pytest.raises(InputError, match="each direction longer than zero"):
            along(change, direction)


@pytest.mark.parametrize(("kernel", "stride", "size"), [(3, 1, 6), (3, 2, 6), (5, 2, 7), (1, 1, 4)])
def test_the_bound_of_a_convolution_holds_and_is_close(kernel: int, stride: int, size: int) -> None:
    """Against the convolution's own matrix, and the circular convolution it is taken from."""
    conv = seeded(lambda: nn.Conv2d(2, 3, kernel, stride, padding=kernel // 2, bias=False)).double()
    basis = torch.eye(2 * size * size, dtype=torch.float64).view(-1, 2, size, size)
    with torch.no_grad():
        norm = float(torch.linalg.matrix_norm(conv(basis).flatten(1), 2))
    found = convolution_bound(conv.weight, size, stride)
    assert norm <= found * (1 + 1e-12) and found < 1.4 * norm

    side = stride * -(-(size + kernel - 1) // stride)
    torus = torch.eye(2 * side * side, dtype=torch.float64).view(-1, 2, side, side)
    wrapped = nn.functional.pad(torus, [kernel - 1] * 4, mode="circular")
    with torch.no_grad():
        # Wrapped on both sides: the first `side` results are each place's once.
        circular = nn.functional.conv2d(wrapped, conv.weight)[:, :, :side, :side]
    matrix = circular[:, :, ::stride, ::stride].flatten(1)
    assert found == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)), rel=1e-10)


def test_operator_norm_of_a_matrix_is_its_largest_singular_value(device: torch.device) -> None:
    layer = seeded(lambda: nn.Linear(12, 9))
    expected = float(torch.linalg.matrix_norm(layer.weight.detach(), 2))
    got = operator_norm(layer.to(device), (12,), steps=300, device=device)
    assert got == pytest.approx(expected, rel=1e-3) and got <= expected * (1 + 1e-5)


def test_operator_norm_of_a_convolution_agrees_with_its_matrix() -> None:
    conv = seeded(lambda: nn.Conv2d(2, 3, 3, stride=2, padding=1)).double()
    basis = torch.eye(2 * 6 * 6, dtype=torch.float64).view(-1, 2, 6, 6)
    with torch.no_grad():
        matrix = (conv(basis) - conv(torch.zeros_like(basis))).flatten(1)
    expected = float(torch.linalg.matrix_norm(matrix, 2))
    got = operator_norm(conv, (2, 6, 6), steps=1000, dtype=torch.float64)
    assert got == pytest.approx(expected, rel=1e-6)


def test_operator_norm_of_simple_maps() -> None:
    assert operator_norm(nn.Identity(), (3, 4)) == pytest.approx(1)
    assert operator_norm(lambda v: -2 * v + 5, (3, 4)) == pytest.approx(2, rel=1e-5)
    assert operator_norm(lambda v: 0 * v, (3,)) == 0
    with torch.inference_mode():
        assert operator_norm(nn.AvgPool2d(2), (1, 4, 4)) == pytest.approx(0.5)
    with pytest.raises(InputError, match="not affine"):
        operator_norm(torch.relu, (5,))
    with pytest.raises(ThreatError, match="steps"):
        operator_norm(nn.Identity(), (5,), steps=0)
