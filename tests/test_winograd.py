"""Half the multiplications: the same convolution, exactly so but for rounding."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.models import resnet18

from advlib import winograd
from advlib.fast import accelerated
from advlib.packing import _Halved, _known, packed
from advlib.winograd import G, Winograd, gathered, spread

RANDOM_STATE_IS_WATCHED = True
needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN"
)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def conv(channels: int, out: int, **options) -> nn.Conv2d:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Conv2d(channels, out, 3, padding=1, **options).requires_grad_(False)


SIZES = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 10), st.integers(1, 6))


@given(SIZES)
def test_six_products_give_four_outputs_of_the_filter(size) -> None:
    n, channels, height, width = size
    x, taps = drawn(*size, dtype=torch.float64), drawn(channels, 3, seed=1, dtype=torch.float64)
    points = torch.einsum("pk,ck->pc", torch.tensor(G, dtype=torch.float64), taps)
    values = spread(x.contiguous(memory_format=torch.channels_last))
    tiles = -(-height // 4)
    assert values.shape == (n, 6 * channels, tiles, width)
    products = values.unflatten(1, (6, channels)) * points[:, :, None, None]
    wanted = F.conv2d(x, taps[:, None, :, None], padding=(1, 0), groups=channels)
    torch.testing.assert_close(gathered(products, height), wanted, rtol=1e-12, atol=1e-12)


def test_fewer_multiplications_than_the_filter_takes() -> None:
    values = spread(drawn(2, 5, 8, 6))
    assert values.numel() * 2 == drawn(2, 5, 8, 6).numel() * 3  # six instead of twelve for four


@needs_onednn
@given(SIZES, SIZES, st.integers(1, 5), st.booleans(), st.booleans())
def test_the_convolution_for_the_batch_it_was_laid_out_for_and_for_another(
    size, other, out, bias, channels_last
) -> None:
    layer = conv(size[1], out, bias=bias)
    fast = Winograd(layer.weight, layer.bias, size)
    order = torch.channels_last if channels_last else torch.contiguous_format
    for n, _, height, width in (size, other):
        x = drawn(n, size[1], height, width).contiguous(memory_format=order)
        before = x.clone()
        torch.testing.assert_close(fast(x), layer(x), rtol=1e-4, atol=1e-4)
        assert x.equal(before)


@needs_onednn
@pytest.mark.parametrize("size", [28, 14, 7])
def test_rounding_stays_rounding(size: int) -> None:
    layer, x = conv(128, 128), drawn(4, 128, size, size)
    exact = F.conv2d(x.double(), layer.weight.double(), layer.bias.double(), padding=1)
    wrong = Winograd(layer.weight, layer.bias, x.shape)(x) - exact
    unit = torch.finfo(torch.float32).eps
    assert wrong.abs().max() <= 64 * unit * exact.abs().max()
    assert wrong.square().mean().sqrt() <= 16 * unit * exact.square().mean().sqrt()


@needs_onednn
def test_in_parts_the_answer_is_the_same(monkeypatch) -> None:
    layer, x = conv(3, 4), drawn(7, 3, 9, 5)
    fast = Winograd(layer.weight, layer.bias, x.shape)
    whole = fast(x)
    sizes = []
    part = Winograd._part
    monkeypatch.setattr(Winograd, "_part", lambda self, x: sizes.append(len(x)) or part(self, x))
    monkeypatch.setattr(winograd, "AT_ONCE", 400)
    torch.testing.assert_close(fast(x), whole, rtol=1e-5, atol=1e-5)
    assert sizes == [2, 2, 2, 1]
    monkeypatch.setattr(winograd, "AT_ONCE", 1)  # a picture is never divided
    torch.testing.assert_close(fast(x), whole, rtol=1e-5, atol=1e-5)
    assert fast(x[:0]).shape == (0, 4, 9, 5)


@needs_onednn
@pytest.mark.parametrize(
    ("layer", "size", "halved"),
    [
        (conv(96, 100), 7, True),
        (conv(95, 96), 8, False),
        (conv(96, 95), 8, False),
        (conv(96, 96), 6, False),
        (conv(96, 96, stride=2), 8, False),
        (conv(96, 96, dilation=2), 8, False),
        (conv(192, 192, groups=2), 8, False),
        (conv(96, 96).bfloat16(), 8, False),
    ],
)
def test_only_where_many_channels_meet_in_full_tiles(layer, size: int, halved: bool) -> None:
    if not _known(layer.weight.dtype):
        pytest.skip("this processor has no bfloat16")
    x = drawn(2, layer.in_channels, size, size).to(layer.weight.dtype)
    assert isinstance(packed(layer, x), _Halved) == halved


@needs_onednn
def test_a_network_keeps_its_logits_and_gradients() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = resnet18(num_classes=10).eval().requires_grad_(False)
    x = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    fast = accelerated(model, x, threads=1)
    assert sum(isinstance(layer, _Halved) for layer in fast.modules()) == 6
    leaf, copy = x.clone().requires_grad_(), x.clone().requires_grad_()
    wanted, found = model(leaf), fast(copy)
    torch.testing.assert_close(
        found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.detach().abs().max())
    )
    wanted.square().sum().backward()
    found.square().sum().backward()
    away = (copy.grad - leaf.grad).abs().max() / leaf.grad.abs().max()
    assert away <= 1e-3
