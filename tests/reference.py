"""An independent reference: the attacks once more, from the papers, in numpy and float64.

Nothing here calls `advlib`. Sorting and closed forms are replaced by bisection and by linear
programming, gradients come from the plain ``backward()`` of a float64 copy of the model or are
worked out by hand. It is slow, and meant to be.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linprog
from torch import nn

Array = np.ndarray


@dataclass
class Point:
    """What a model says about a batch: one loss, one row of logits, one gradient per image."""

    loss: Array
    logits: Array
    grad: Array


Oracle = Callable[[Array, Array], Point]


def softmax(logits: Array) -> Array:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def linear_oracle(weight: Array, bias: Array) -> Oracle:
    """Softmax regression with the gradient of the cross-entropy worked out by hand."""

    def oracle(x: Array, y: Array) -> Point:
        logits = x.reshape(len(x), -1) @ weight.T + bias
        p = softmax(logits)
        onehot = np.eye(len(bias))[y]
        grad = ((p - onehot) @ weight).reshape(x.shape)
        return Point(-np.log((p * onehot).sum(1)), logits, grad)

    return oracle


def mlp_oracle(w1: Array, b1: Array, w2: Array, b2: Array) -> Oracle:
    """One hidden layer of tanh, back-propagated by hand."""

    def oracle(x: Array, y: Array) -> Point:
        hidden = np.tanh(x.reshape(len(x), -1) @ w1.T + b1)
        logits = hidden @ w2.T + b2
        p = softmax(logits)
        onehot = np.eye(len(b2))[y]
        back = ((p - onehot) @ w2) * (1 - hidden**2)
        return Point(-np.log((p * onehot).sum(1)), logits, (back @ w1).reshape(x.shape))

    return oracle


def torch_oracle(model: nn.Module, loss: str = "ce") -> Oracle:
    """Any model: a float64 copy in eval mode, ``loss.sum().backward()``, ``x.grad``."""
    model = copy.deepcopy(model).cpu().double().eval()

    def oracle(x: Array, y: Array) -> Point:
        leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        labels = torch.tensor(y)
        logits = model(leaf)
        own = logits[torch.arange(len(y)), labels]
        if loss == "ce":
            value = logits.logsumexp(1) - own
        else:
            rows = [torch.cat([row[:c], row[c + 1 :]]).max() for row, c in zip(logits, y)]  # noqa: B905
            value = torch.stack(rows) - own
        value.sum().backward()
        assert leaf.grad is not None
        return Point(value.detach().numpy(), logits.detach().numpy(), leaf.grad.numpy())

    return oracle


# -- lengths ---------------------------------------------------------------------------------


def length(delta: Array, norm: str) -> float:
    size = np.abs(delta.astype(np.float64)).ravel()
    if size.size == 0:
        return 0.0
    return {"linf": size.max(), "l1": size.sum(), "l2": np.sqrt((size**2).sum())}[norm].item()


def dual_length(grad: Array, norm: str) -> float:
    return length(grad, {"linf": "l1", "l2": "l2", "l1": "linf"}[norm])


# -- projections of one perturbation ---------------------------------------------------------


def _bisect(size_at: Callable[[float], float], eps: float, top: float) -> float:
    """Smallest argument in [0, top] at which the decreasing `size_at` is at most `eps`."""
    low, high = 0.0, top
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if size_at(middle) > eps else (low, middle)
    return high


def project(delta: Array, eps: float, norm: str, x: Array | None = None) -> Array:
    """Closest point of ball (and box), by bisection on the multiplier of the ball."""
    low = -np.inf if x is None else -x
    high = np.inf if x is None else 1 - x
    if norm == "linf":
        return np.clip(delta, np.maximum(-eps, low), np.minimum(eps, high))
    if norm == "l2":

        def point(mu: float) -> Array:
            return np.clip(delta / (1 + mu), low, high)

        top = (length(delta, "l2") + 1) / max(eps, 1e-30)
    else:

        def point(mu: float) -> Array:
            return np.clip(np.sign(delta) * np.maximum(np.abs(delta) - mu, 0), low, high)

        top = np.abs(delta).max() + 1
    if length(point(0.0), norm) <= eps:
        return point(0.0)
    return point(_bisect(lambda mu: length(point(mu), norm), eps, top))


def project_l1_by_sorting(delta: Array, eps: float) -> Array:
    """Duchi et al. 2008, figure 1, line by line."""
    v = np.abs(delta).ravel()
    if v.sum() <= eps:
        return delta.copy()
    mu = np.sort(v)[::-1]
    rho = max(j for j in range(1, len(mu) + 1) if mu[j - 1] - (mu[:j].sum() - eps) / j > 0)
    theta = (mu[:rho].sum() - eps) / rho
    return np.sign(delta) * np.maximum(np.abs(delta) - theta, 0)


# -- the best perturbation for a linear function ---------------------------------------------


def steepest_value(grad: Array, eps: float, norm: str, x: Array) -> float:
    """Largest inner product with `grad` over ball and box: linear programming, or bisection."""
    g, x = grad.ravel().astype(np.float64), x.ravel().astype(np.float64)
    # In units of a small eps, because the solver forgives 1e-7.
    unit = min(eps, 1.0)
    up, down, budget = (1 - x) / unit, x / unit, eps / unit
    if norm == "linf":
        limits = [(-min(budget, d), min(budget, u)) for u, d in zip(up, down, strict=True)]
        return -linprog(-g, bounds=limits).fun * unit
    if norm == "l1":  # delta = rise - fall, both >= 0
        limits = [(0, min(budget, room)) for room in (*up, *down)]
        cost = np.concatenate([-g, g])
        ball = np.ones((1, 2 * len(g)))
        return -linprog(cost, A_ub=ball, b_ub=[budget], bounds=limits).fun * unit
    return float(g @ _steepest_l2(g, eps, x))


def _steepest_l2(g: Array, eps: float, x: Array) -> Array:
    """``clip(g / mu)`` of length eps; with the whole box in reach, the corner."""
    corner = np.where(g > 0, 1 - x, np.where(g < 0, -x, 0.0))
    if length(corner, "l2") <= eps:
        return corner
    low, high = -60.0, 60.0  # the scale, as a power of two
    for _ in range(60):
        middle = (low + high) / 2
        fits = length(np.clip(2.0**middle * g, -x, 1 - x), "l2") <= eps
        low, high = (middle, high) if fits else (low, middle)
    return np.clip(2.0**low * g, -x, 1 - x)


def steepest(grad: Array, eps: float, norm: str, x: Array) -> Array:
    """The perturbation itself, for one image; for l1 image by image, greedily."""
    if norm == "linf":
        return np.clip(eps * np.sign(grad), -x, 1 - x)
    g, p = grad.ravel(), x.ravel()
    if norm == "l2":
        return _steepest_l2(g, eps, p).reshape(grad.shape)
    delta, left = np.zeros_like(g), eps
    for i in sorted(range(len(g)), key=lambda i: -abs(g[i])):
        spend = min(left, 1 - p[i] if g[i] > 0 else p[i])
        delta[i] = np.sign(g[i]) * spend
        left -= spend
    return delta.reshape(grad.shape)


# -- attacks -----------------------------------------------------------------------------------


def fgsm(
    oracle: Oracle, x: Array, y: Array, eps: float, norm: str, targeted: bool = False
) -> Array:
    """One step, the best one for the linearised loss (Goodfellow et al. 2015, section 4)."""
    sign = -1.0 if targeted else 1.0
    grad = sign * oracle(x, y).grad
    return np.stack([p + steepest(g, eps, norm, p) for p, g in zip(x, grad, strict=True)])


def move(grad: Array, alpha: float, norm: str, x_adv: Array) -> Array:
    """The step of PGD: signs, the normalised gradient, or the largest entries as far as they go."""
    if norm == "linf":
        return alpha * np.sign(grad)
    if norm == "l2":
        size = length(grad, "l2")
        return alpha * grad / size if size > 0 else grad
    step, left = np.zeros(grad.size), alpha
    for i in sorted(range(grad.size), key=lambda i: -abs(grad.flat[i])):
        room = 1 - x_adv.flat[i] if grad.flat[i] > 0 else x_adv.flat[i]
        step[i] = np.sign(grad.flat[i]) * min(room, left)
        left -= abs(step[i])
    return step.reshape(grad.shape)


def pgd(
    oracle: Oracle,
    x: Array,
    y: Array,
    eps: float,
    norm: str,
    *,
    steps: int,
    starts: list[Array] | None = None,
    step_size: float | None = None,
    targeted: bool = False,
) -> Array:
    """Steps and projections (Madry et al. 2018, section 2.1) from each of `starts`, or from `x`.

    Returns the best point visited, image by image: success before loss.
    """
    sign = -1.0 if targeted else 1.0
    alpha = 2.5 * eps / steps if step_size is None else step_size
    best = [(False, -np.inf)] * len(x)
    result = x.copy()
    for start in starts or [x]:
        now = start.copy()
        for step in range(steps + 1):
            seen = oracle(now, y)
            for i in range(len(x)):
                reached = (seen.logits[i].argmax() == y[i]) == targeted
                rank = (bool(reached), sign * seen.loss[i])
                if rank > best[i]:
                    best[i], result[i] = rank, now[i]
            if step == steps:
                break
            for i in range(len(x)):
                moved = now[i] - x[i] + move(sign * seen.grad[i], alpha, norm, now[i])
                now[i] = x[i] + project(moved, eps, norm, x[i])
    return result


# -- statistics --------------------------------------------------------------------------------


def wilson(count: int, total: int, z: float) -> tuple[float, float]:
    """The two shares p with ``|count - total p| = z sqrt(total p (1 - p))`` (Wilson 1927)."""
    roots = np.roots(
        [total**2 + z**2 * total, -(2 * count * total + z**2 * total), float(count) ** 2]
    )
    low, high = sorted(roots.real)
    return float(low), float(high)


# -- toy models, with weights from generators of their own ----------------------------------------


def fill(model: nn.Module, seed: int = 0, scale: float = 1.0) -> nn.Module:
    """Give every parameter random values; the global random state stays where it was."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 16
            value = torch.empty(parameter.shape, dtype=torch.float64)
            value.normal_(0, scale / fan_in**0.5, generator=generator)
            parameter.copy_(value)
    return model


def without_seed(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a model whose initialisation draws from the global random state, and put that back."""
    with torch.random.fork_rng([]):
        return build()


def linear(features: int = 12, classes: int = 3, seed: int = 0, scale: float = 3.0) -> nn.Module:
    build = without_seed(lambda: nn.Sequential(nn.Flatten(), nn.Linear(features, classes)))
    return fill(build, seed, scale)


def mlp(features: int = 12, classes: int = 3, seed: int = 0, scale: float = 3.0) -> nn.Module:
    build = without_seed(
        lambda: nn.Sequential(
            nn.Flatten(), nn.Linear(features, 16), nn.Tanh(), nn.Linear(16, classes)
        )
    )
    return fill(build, seed, scale)


def conv(channels: int = 3, classes: int = 3, seed: int = 0, scale: float = 3.0) -> nn.Module:
    build = without_seed(
        lambda: nn.Sequential(
            nn.Conv2d(channels, 6, 3, padding=1),
            nn.Softplus(),
            nn.Conv2d(6, 8, 3, stride=2),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, classes),
        )
    )
    return fill(build, seed, scale)


def images(*shape: int, seed: int = 0, ends: float = 0.2) -> torch.Tensor:
    """Random pixels in float64, a share `ends` of them exactly 0 and as many exactly 1."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(shape, generator=generator, dtype=torch.float64)
    lot = torch.rand(shape, generator=generator, dtype=torch.float64)
    return x.masked_fill(lot < ends, 0.0).masked_fill(lot > 1 - ends, 1.0)


def classes(n: int, count: int = 3, seed: int = 0) -> torch.Tensor:
    return torch.randint(count, (n,), generator=torch.Generator().manual_seed(seed))
