"""Convolutions laid out once: for every shape the same answers, forward and backward."""

import copy

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from advlib.packing import _known, packed

RANDOM_STATE_IS_WATCHED = True
pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN"
)


def answers(model: nn.Module, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The output, and the input gradient of a sum of it weighted by place."""
    leaf = x.clone().requires_grad_()
    out = model(leaf)
    return out.detach(), torch.autograd.grad((out * weights).sum(), leaf)[0]


def same(model: nn.Module, fast: nn.Module, x: Tensor, rtol: float = 1e-4) -> None:
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(model(x).shape, generator=generator).to(x.dtype)
    for found, wanted in zip(answers(fast, x, weights), answers(model, x, weights), strict=True):
        assert found.dtype == wanted.dtype
        scale = wanted.abs().max().clamp_min(1e-6)
        torch.testing.assert_close(found / scale, wanted / scale, rtol=0, atol=rtol)


def seeded(build) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval().requires_grad_(False)


def pictures(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def changed(layer: nn.Module) -> str:
    return type(layer).__name__


@given(
    channels=st.sampled_from([1, 3, 4, 6]),
    kernel=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    stride=st.sampled_from([(1, 1), (2, 2), (2, 1), (3, 3)]),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.sampled_from([1, 2]),
    grouped=st.booleans(),
    bias=st.booleans(),
    size=st.tuples(st.integers(1, 4), st.integers(5, 14), st.integers(5, 14)),
    other=st.tuples(st.integers(1, 4), st.integers(5, 14), st.integers(5, 14)),
    channels_last=st.booleans(),
)
def test_every_convolution_gives_the_same_for_the_batch_it_was_laid_out_for_and_for_another(
    channels, kernel, stride, padding, dilation, grouped, bias, size, other, channels_last
) -> None:
    fits = [
        extent + 2 * p >= dilation * (k - 1) + 1
        for n, *extents in (size, other)
        for extent, p, k in zip(extents, padding, kernel, strict=True)
    ]
    assume(all(fits))
    groups = channels if grouped else 1
    conv = seeded(
        lambda: nn.Conv2d(
            channels, 2 * channels, kernel, stride, padding, dilation, groups, bias=bias
        )
    )
    order = torch.channels_last if channels_last else torch.contiguous_format
    batches = [
        pictures(n, channels, h, w).contiguous(memory_format=order) for n, h, w in (size, other)
    ]
    fast = packed(copy.deepcopy(conv), batches[0])
    assert changed(fast) != "Conv2d"
    for x in batches:
        same(conv, fast, x)


def test_a_first_layer_with_stride_reads_squares_and_others_are_packed() -> None:
    model = seeded(
        lambda: nn.Sequential(nn.Conv2d(3, 9, 7, 2, 3), nn.ReLU(), nn.Conv2d(9, 4, 3, 2, 1))
    )
    fast = packed(copy.deepcopy(model), pictures(2, 3, 15, 18))
    assert [changed(layer) for layer in fast] == ["_Unshuffled", "ReLU", "_Packed"]
    for size in ((15, 18), (16, 16), (9, 31)):
        same(model, fast, pictures(3, 3, *size, seed=2))


@pytest.mark.parametrize("kernel", range(1, 8))
@pytest.mark.parametrize("padding", range(4))
@pytest.mark.parametrize("stride", [1, 2])
def test_the_edge_of_the_picture_may_lie_anywhere_in_a_window(kernel, padding, stride) -> None:
    conv = seeded(lambda: nn.Conv2d(3, 5, (kernel, 3), stride, (padding, 1)))
    fast = packed(copy.deepcopy(conv), pictures(2, 3, 11, 12))
    for height in range(9, 13):
        same(conv, fast, pictures(2, 3, height, 21 - height))


def test_a_shared_layer_is_laid_out_under_all_its_names() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = self.two = nn.Conv2d(5, 5, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x).relu())

    model = seeded(Twice)
    fast = packed(copy.deepcopy(model), pictures(2, 5, 8, 8))
    assert changed(fast.one) == "_Turned" and fast.one is fast.two
    same(model, fast, pictures(2, 5, 8, 8))


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Conv2d(3, 4, 3, padding="same"),
        lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"),
        lambda: nn.Conv2d(3, 4, 3).double(),
        lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3)),
        lambda: nn.Linear(8, 4),
    ],
    ids=["same", "circular", "double", "weight norm", "linear"],
)
def test_what_is_not_a_plain_convolution_stays(build) -> None:
    layer = seeded(build)
    before = type(layer)
    dtype = next(layer.parameters()).dtype
    fast = packed(layer, pictures(2, 3, 8, 8).to(dtype))
    assert fast is layer and type(fast) is before


def test_a_layer_with_a_hook_stays_and_the_hook_is_called() -> None:
    called = []
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)))
    model[0].register_forward_hook(lambda *_: called.append(1))
    fast = packed(model, pictures(2, 3, 8, 8))
    assert [changed(layer) for layer in fast] == ["Conv2d", "_Turned"]
    called.clear()
    fast(pictures(2, 3, 8, 8))
    assert called == [1]


@pytest.mark.parametrize("lacks", ["oneDNN", "bfloat16"])
def test_where_the_processor_cannot_the_layers_stay(lacks: str, monkeypatch) -> None:
    half = lacks == "bfloat16"
    place = torch.ops.mkldnn if half else torch.backends.mkldnn
    name = "_is_mkldnn_bf16_supported" if half else "is_available"
    monkeypatch.setattr(place, name, lambda: False)
    dtype = torch.bfloat16 if half else torch.float32
    conv = seeded(lambda: nn.Conv2d(5, 4, 3)).to(dtype)
    assert packed(conv, pictures(2, 5, 8, 8).to(dtype)) is conv


@pytest.mark.skipif(not _known(torch.bfloat16), reason="this processor has no bfloat16")
def test_in_half_precision_pictures_are_converted_as_autocast_does() -> None:
    conv = seeded(lambda: nn.Conv2d(5, 4, 3, padding=1)).bfloat16()
    fast = packed(copy.deepcopy(conv), pictures(2, 5, 8, 8).bfloat16())
    x = pictures(2, 5, 8, 8)
    same(conv, fast, x.bfloat16(), rtol=2e-2)
    assert fast(x).dtype == torch.bfloat16
    grad = torch.autograd.grad(fast(x.requires_grad_()).float().sum(), x)[0]
    assert grad.dtype == torch.float32


def test_second_derivatives_raise_and_are_not_silently_wrong() -> None:
    fast = packed(seeded(lambda: nn.Conv2d(5, 4, 3)), pictures(1, 5, 6, 6))
    x = pictures(1, 5, 6, 6).requires_grad_()
    (grad,) = torch.autograd.grad(fast(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_one_picture_without_a_batch_is_as_before() -> None:
    conv = seeded(lambda: nn.Conv2d(3, 4, 3, stride=2))
    fast = packed(copy.deepcopy(conv), pictures(2, 3, 8, 8))
    x = pictures(3, 8, 8)
    torch.testing.assert_close(fast(x), conv(x))


def test_a_packed_model_can_be_copied_and_the_copy_stands_alone() -> None:
    x = pictures(2, 5, 8, 8)
    fast = packed(seeded(lambda: nn.Sequential(nn.Conv2d(5, 4, 3))), x)
    other = copy.deepcopy(fast)
    assert other(x).equal(fast(x)) and other[0] is not fast[0]
    assert other[0].conv.weight is not fast[0].conv.weight


def test_a_shortcut_of_more_pictures_or_of_one_value_is_added_as_torch_does() -> None:
    conv = seeded(lambda: nn.Conv2d(5, 4, 3, padding=1))
    fast = packed(copy.deepcopy(conv), pictures(2, 5, 8, 8))
    x = pictures(1, 5, 8, 8)
    for other in (pictures(3, 4, 8, 8, seed=1), pictures(1, 4, 1, 1), pictures(4, 1, 8)):
        found = fast(x, other - 0.5, relu=True)
        torch.testing.assert_close(found, torch.relu(conv(x) + other - 0.5), rtol=1e-4, atol=1e-4)
