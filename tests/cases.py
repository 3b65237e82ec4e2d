"""What several tests draw on: how many cases, which norms, dtypes, shapes and radii."""

import reference
import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor, nn

import advlib
from advlib import threats

NORMS = ("linf", "l2", "l1")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

dtypes = st.sampled_from(DTYPES)
seeds = st.integers(0, 2**31)
shapes = st.one_of(
    st.tuples(st.integers(1, 4), st.integers(1, 40)),
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)),
)
radii = st.one_of(
    st.sampled_from([0.0, 1e-12, 1 / 255, 4 / 255, 8 / 255, 0.1, 0.3, 1.0, 1.5, 7.0, 1e3, 1e20]),
    st.floats(0, 4, allow_subnormal=False),
    st.floats(-12, 1).map(lambda power: 10.0**power),
)


def fewer(by: int) -> settings:
    """As a decorator: the profile's number of cases divided by `by`, and never none."""
    return settings(max_examples=max(1, settings().max_examples // by))


def assert_inside(x: Tensor, x_adv: Tensor, eps: float, norm: str) -> None:
    """Ball and box, compared as floating-point numbers, nothing forgiven."""
    assert x_adv.shape == x.shape and x_adv.dtype == x.dtype and x_adv.device == x.device
    assert bool(x_adv.isfinite().all())
    assert float(x_adv.amin()) >= 0 and float(x_adv.amax()) <= 1
    delta = x_adv - x
    measured = threats.norm(delta, norm).double()
    assert bool((measured <= eps).all()), (measured.max().item(), eps)
    # Whoever measures may sum in another order, or in float64. (In half precision each square of
    # a plain sum is rounded; torch's norm does not do that.)
    if norm not in NORMS:
        return
    flat = delta.flatten(1).to(torch.promote_types(x.dtype, torch.float32))
    sums = {"linf": flat.abs().amax(1), "l2": flat.square().sum(1).sqrt(), "l1": flat.abs().sum(1)}
    assert bool((sums[norm].double() <= eps).all()), (sums[norm].double().max().item(), eps)
    for one in delta.double().cpu().numpy():
        assert reference.length(one, norm) <= eps


def bold_and_faint() -> tuple[Tensor, Tensor]:
    """800 images of two classes, (800, 1, 7, 43), and the classes. One bold pixel tells them apart
    in nine images of ten; 300 faint ones together tell more, but drown in an attack of size 0.1.
    """
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(800) % 2
    side = 2.0 * y[:, None] - 1
    flip = torch.where(torch.rand(800, 1, generator=generator) < 0.1, -1.0, 1.0)
    bold = 0.5 + 0.4 * side * flip
    faint = 0.5 + 0.05 * side + 0.1 * torch.randn(800, 300, generator=generator)
    return torch.cat([bold, faint], 1).clamp(0, 1).view(800, 1, 7, 43), y


def linear(device: torch.device | str = "cpu") -> nn.Module:
    """A linear model for these images, the same at each call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(301, 2)).to(device)


def attacked(
    model: nn.Module, x: Tensor, *, attack: str, norm: str, eps: float, steps: int, y: int
) -> tuple[Tensor, list[float]]:
    """One image as FGSM, PGD or targeted PGD changes it, and the losses on the way there.

    What the labs in the page are compared with: `y` is the class to leave or, targeted, to reach.
    """
    goal, losses = torch.tensor([y]), []
    if attack == "fgsm":
        x_adv = advlib.fgsm(model, x, goal, eps, norm=norm)
        with torch.no_grad():
            losses = [float(nn.functional.cross_entropy(model(p), goal)) for p in (x, x_adv)]
    else:
        x_adv = advlib.pgd(
            model, x, goal, eps, norm=norm, steps=steps, random_start=False,
            targeted=attack == "targeted", on_step=lambda *seen: losses.append(float(seen[3])),
        )  # fmt: skip
    return x_adv, losses
