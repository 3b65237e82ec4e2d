"""The small networks: sizes that the lessons and the web page count on."""

import pytest
import torch
from torch import nn

from advlib.models.architectures import (
    MLP,
    Attention,
    Denoiser,
    Linear,
    PlainCNN,
    SignNet,
    SignViT,
    multiply_adds,
)


@pytest.mark.parametrize("network", [SignNet, Linear, MLP, PlainCNN, SignViT])
def test_pixels_to_logits_on_every_device(network, device):
    torch.manual_seed(0)
    model = network().to(device).eval()
    x = torch.rand(5, 3, 64, 64, device=device, requires_grad=True)
    logits = model(x)
    assert logits.shape == (5, 16) and logits.isfinite().all()
    (grad,) = torch.autograd.grad(logits.sum(), x)
    assert grad.shape == x.shape and (grad != 0).any()


def test_sign_net_is_small_enough_for_a_web_page():
    model = SignNet()
    assert sum(p.numel() for p in model.parameters()) <= 170_000
    assert multiply_adds(model) <= 20_000_000
    known = (nn.Conv2d, nn.BatchNorm2d, nn.AvgPool2d, nn.Linear, nn.Identity)
    leaves = [layer for layer in model.modules() if not list(layer.children())]
    assert all(isinstance(layer, known) for layer in leaves), "nothing a page cannot compute"


def test_the_denoiser_begins_as_the_identity_and_gives_images():
    model, x = Denoiser(), torch.rand(2, 3, 32, 48)
    torch.nn.init.zeros_(model.layers[-1].bias)
    torch.testing.assert_close(model(x), x)
    torch.nn.init.ones_(model.layers[-1].weight)
    assert 0 <= model(x).min() < model(x).max() <= 1 and model(x).shape == x.shape


@pytest.mark.parametrize("size", [32, 64, 96])
def test_sign_net_takes_other_sizes(size):
    assert SignNet().eval()(torch.rand(2, 3, size, size)).shape == (2, 16)


def test_sign_net_can_be_made_wider_and_deeper():
    model = SignNet(classes=3, widths=(8, 16), depths=(2, 1))
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 3)
    assert len(model.blocks) == 3


def test_an_image_alone_and_in_a_batch_gives_the_same_logits():
    torch.manual_seed(0)
    model = SignNet().eval()
    x = torch.rand(4, 3, 64, 64)
    torch.testing.assert_close(model(x)[:1], model(x[:1]), atol=1e-5, rtol=1e-5)


def test_linear_is_affine_in_the_pixels():
    torch.manual_seed(0)
    model = Linear((1, 4, 4), 3).double()
    a, b = torch.rand(2, 1, 1, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(model((a + b) / 2), (model(a) + model(b)) / 2)


def test_mlp_may_average_the_image_first():
    torch.manual_seed(0)
    model = MLP((1, 4, 4), 3, (5,), pool=2).double()
    x = torch.rand(2, 1, 4, 4, dtype=torch.float64)
    blocks = x.view(2, 1, 2, 2, 2, 2).mean((3, 5))
    same = blocks.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert model.layers[0].in_features == 4
    torch.testing.assert_close(model(x), model(same))


def test_attention_is_the_mean_of_values_where_no_patch_stands_out():
    torch.manual_seed(0)
    layer = Attention(8, 2).double()
    h = torch.randn(1, 5, 8, dtype=torch.float64)
    with torch.no_grad():
        layer.ask.weight[:16] = 0  # queries and keys
        layer.ask.bias[:16] = 0
        mean = (h @ layer.ask.weight[16:].T + layer.ask.bias[16:]).mean(1, keepdim=True)
        expected = layer.answer(mean).expand(1, 5, 8)
        torch.testing.assert_close(layer(h), expected)


def test_attention_agrees_with_torch():
    torch.manual_seed(0)
    ours, theirs = Attention(8, 2), nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.ask.weight)
        theirs.in_proj_bias.copy_(ours.ask.bias)
        theirs.out_proj.weight.copy_(ours.answer.weight)
        theirs.out_proj.bias.copy_(ours.answer.bias)
        h = torch.randn(3, 6, 8)
        torch.testing.assert_close(ours(h), theirs(h, h, h)[0], atol=1e-6, rtol=1e-5)


def test_transformer_sees_where_a_patch_is():
    torch.manual_seed(0)
    model = SignViT(depth=1).eval()
    x = torch.rand(1, 3, 64, 64)
    moved = x.roll(8, dims=3)
    with torch.no_grad():
        assert (model(x) - model(moved)).abs().max() > 1e-5
        model.position.zero_()
        torch.testing.assert_close(model(x), model(moved), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "model, shape, expected",
    [
        (nn.Conv2d(3, 8, 3, padding=1), (3, 10, 10), 10 * 10 * 8 * 27),
        (nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4), (4, 10, 10), 5 * 5 * 4 * 9),
        (MLP((1, 2, 2), 3, (5,)), (1, 2, 2), 4 * 5 + 5 * 3),
    ],
)
def test_multiply_adds_by_hand(model, shape, expected):
    model.train()
    assert multiply_adds(model, shape) == expected
    assert model.training, "the mode is as it was"
