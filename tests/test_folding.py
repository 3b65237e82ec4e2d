"""What a convolution does along with its own work: the same answers, nothing lost on the way."""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from advlib.folding import Rectified, folded_batch_norms, rectified
from advlib.packing import packed


class Block(nn.Module):
    """A convolution, then what `after` makes of its result and the pictures."""

    def __init__(self, after: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.relu, self.after = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.conv(x), x)


def in_place(y: Tensor, x: Tensor) -> Tensor:
    y += x
    return F.relu(y)


def in_the_place_of_the_other(y: Tensor, x: Tensor) -> Tensor:
    z = 2 * x
    z += y
    return F.relu(z) + z


def seen_by_another(y: Tensor, x: Tensor) -> Tensor:
    z = 2 * x
    later = z.add_(y)
    return F.relu(later) * z


JOINED = {
    "relu": lambda y, x: F.relu(y),
    "method": lambda y, x: y.relu(),
    "method in place": lambda y, x: y.relu_(),
    "in place": lambda y, x: F.relu(y, True),
    "sum": lambda y, x: torch.relu(y + x),
    "sum, the other way": lambda y, x: torch.relu(x + y),
    "sum in place": in_place,
    "sum with one value a channel": lambda y, x: F.relu(y + x.mean((2, 3), keepdim=True)),
    "sum with one picture": lambda y, x: F.relu(torch.add(x[:1], y)),
}
LEFT = {
    "used twice": lambda y, x: F.relu(y) + y,
    "added to itself": lambda y, x: F.relu(y + y),
    "the sum used twice": lambda y, x: (lambda z: F.relu(z) + z)(x + y),
    "in the place of the other": in_the_place_of_the_other,
    "seen by another": seen_by_another,
    "a number added": lambda y, x: F.relu(y + 1),
    "weighted": lambda y, x: F.relu(torch.add(y, x, alpha=2)),
    "another function": lambda y, x: F.elu(y),
}


def built(after: Callable[[Tensor, Tensor], Tensor]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Block(after).eval().requires_grad_(False)


def pictures(n: int = 3) -> Tensor:
    return torch.randn(n, 4, 6, 7, generator=torch.Generator().manual_seed(1))


def answers(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    out = model(1 * leaf)
    weights = torch.arange(out.numel()).view_as(out) % 7 - 3.0
    return out.detach(), torch.autograd.grad((out * weights).sum(), leaf)[0]


@pytest.mark.parametrize("laid_out", [False, True])
@pytest.mark.parametrize("name", [*JOINED, *LEFT])
def test_values_and_gradients_are_the_same_joined_or_not(name: str, laid_out: bool) -> None:
    model = built({**JOINED, **LEFT}[name])
    fast = rectified(fx.symbolic_trace(copy.deepcopy(model)))
    assert any(isinstance(layer, Rectified) for layer in fast.modules()) == (name in JOINED)
    if laid_out:
        if not torch.backends.mkldnn.is_available():
            pytest.skip("this build of torch has no oneDNN")
        packed(fast, pictures())
    for x in (pictures(), pictures(5)[:, :, 1:]):
        for found, wanted in zip(answers(fast, x), answers(model, x), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_a_shared_convolution_and_a_relu_module_are_joined_at_each_use() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu = nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.conv(self.relu(self.conv(x)) + x))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Shared().eval().requires_grad_(False)
    fast = rectified(fx.symbolic_trace(copy.deepcopy(model)))
    assert sum(isinstance(layer, Rectified) for layer in fast.modules()) == 2
    assert not any(isinstance(layer, nn.ReLU) for layer in fast.modules())
    for found, wanted in zip(answers(fast, pictures()), answers(model, pictures()), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_shared_norm_is_folded_at_each_use_and_one_without_statistics_stays() -> None:
    class Norms(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.three = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))
            self.shared = nn.BatchNorm2d(4)
            self.of_the_batch = nn.BatchNorm2d(4, track_running_stats=False)

        def forward(self, x: Tensor) -> Tensor:
            y = self.shared(self.two(self.shared(self.one(x)).relu()))
            return self.of_the_batch(self.three(y))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Norms()
        model(pictures())  # so that the statistics are not those of a new norm
    model.eval().requires_grad_(False)
    fast = folded_batch_norms(model)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in fast.modules()) == 1
    for found, wanted in zip(answers(fast, pictures()), answers(model, pictures()), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
