"""Batch norms folded into convolutions: the same results, nothing lost."""

import torch
from torch import Tensor, nn

from advlib.fast.folding import folded_batch_norms


def images(n: int = 3) -> Tensor:
    return torch.randn(n, 4, 6, 7, generator=torch.Generator().manual_seed(1))


def answers(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    out = model(1 * leaf)
    weights = torch.arange(out.numel()).view_as(out) % 7 - 3.0
    return out.detach(), torch.autograd.grad((out * weights).sum(), leaf)[0]


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
        model(images())  # so that the statistics are not those of a new norm
    model.eval().requires_grad_(False)
    fast = folded_batch_norms(model)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in fast.modules()) == 1
    for found, wanted in zip(answers(fast, images()), answers(model, images()), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
