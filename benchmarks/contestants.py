"""The bare loop, advlib, and the other libraries, each as one function of a model and a batch.

All take the same steps: cross-entropy, a random start where there is more than one step, the sign
of the gradient, `eps` and `step_size` of the workload. Each library is used as its documentation
says.
"""

import sys
import types
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import advlib
from advlib.fast import accelerated

PEERS = Path(__file__).resolve().parents[1] / "build" / "peers"
Attack = Callable[[Tensor, Tensor], Tensor]
"""From images and classes to perturbed images."""
Make = Callable[[nn.Module, Tensor, float, int], Attack]
"""``make(model, x, eps, steps)``: what costs time once is not measured."""


def step_size(eps: float, steps: int) -> float:
    """One step as long as the budget, or several that can cross the ball and turn round."""
    return eps if steps == 1 else 2.5 * eps / steps


def floor(model: nn.Module, x: Tensor, eps: float, steps: int) -> Attack:
    """Forward, gradient with respect to the input, step in place."""
    size = step_size(eps, steps)

    def attack(x: Tensor, y: Tensor) -> Tensor:
        low, high = (x - eps).clamp_(0, 1), (x + eps).clamp_(0, 1)
        x_adv = x.clone() if steps == 1 else x + torch.empty_like(x).uniform_(-eps, eps)
        x_adv.clamp_(0, 1)
        for _ in range(steps):
            x_adv.requires_grad_()
            loss = F.cross_entropy(model(x_adv), y, reduction="sum")
            (grad,) = torch.autograd.grad(loss, x_adv)
            x_adv = x_adv.detach()
            x_adv.add_(grad.sign_(), alpha=size).clamp_(low, high)
        return x_adv

    return attack


def ours(model: nn.Module, x: Tensor, eps: float, steps: int) -> Attack:
    """`advlib.fgsm` and `advlib.pgd`, as a reader calls them."""
    if steps == 1:
        return lambda x, y: advlib.fgsm(model, x, y, eps)
    return lambda x, y: advlib.pgd(model, x, y, eps, steps=steps)


def ours_fast(model: nn.Module, x: Tensor, eps: float, steps: int) -> Attack:
    """The same on `advlib.fast.accelerated`."""
    return ours(accelerated(model, x), x, eps, steps)


def ours_half(model: nn.Module, x: Tensor, eps: float, steps: int) -> Attack:
    """The same with bfloat16."""
    return ours(accelerated(model, x, dtype=torch.bfloat16), x, eps, steps)


def torchattacks(model: nn.Module, x: Tensor, eps: float, steps: int) -> Attack:
    import torchattacks

    if steps == 1:
        return torchattacks.FGSM(model, eps=eps)
    return torchattacks.PGD(model, eps=eps, alpha=step_size(eps, steps), steps=steps)


def foolbox(model: nn.Module, x: Tensor, eps: float, steps: int) -> Attack:
    import foolbox

    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1))
    attacks = foolbox.attacks
    attack = (
        attacks.FGSM(random_start=False)
        if steps == 1
        else attacks.LinfPGD(abs_stepsize=step_size(eps, steps), steps=steps)
    )
    return lambda x, y: attack(wrapped, x, y, epsilons=eps)[1]


def art(model: nn.Module, x: Tensor, eps: float, steps: int) -> Attack:
    from art.attacks.evasion import FastGradientMethod, ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    classes = model(x[:1]).shape[1]
    shape = tuple(x.shape[1:])
    kind = "gpu" if x.is_cuda else "cpu"
    wrapped = PyTorchClassifier(
        model, nn.CrossEntropyLoss(), shape, classes, clip_values=(0, 1), device_type=kind
    )
    size = step_size(eps, steps)
    if steps == 1:
        attack = FastGradientMethod(wrapped, eps=eps, batch_size=len(x))
    else:
        attack = ProjectedGradientDescentPyTorch(
            wrapped, eps=eps, eps_step=size, max_iter=steps, num_random_init=1,
            batch_size=len(x), verbose=False,
        )  # fmt: skip
    return lambda x, y: torch.from_numpy(attack.generate(x.cpu().numpy(), y.cpu().numpy())).to(x)


def captum(model: nn.Module, x: Tensor, eps: float, steps: int) -> Attack:
    from captum.robust import FGSM, PGD

    loss = nn.CrossEntropyLoss(reduction="none")
    kind = FGSM if steps == 1 else PGD
    attack = kind(model, loss_func=loss, lower_bound=0.0, upper_bound=1.0)
    if steps == 1:
        return lambda x, y: attack.perturb(x, epsilon=eps, target=y)
    size = step_size(eps, steps)
    return lambda x, y: attack.perturb(x, eps, size, steps, target=y, random_start=True)


def cleverhans(model: nn.Module, x: Tensor, eps: float, steps: int) -> Attack:
    import numpy as np
    from cleverhans.torch.attacks import fast_gradient_method, projected_gradient_descent

    if steps == 1:
        step = fast_gradient_method.fast_gradient_method
        return lambda x, y: step(model, x, eps, np.inf, clip_min=0, clip_max=1, y=y)
    many, size = projected_gradient_descent.projected_gradient_descent, step_size(eps, steps)
    return lambda x, y: many(
        model, x, eps, size, steps, np.inf, clip_min=0, clip_max=1, y=y, sanity_checks=False
    ).detach()


def adv_lib(model: nn.Module, x: Tensor, eps: float, steps: int) -> Attack:
    # It imports a plotting server that has no wheel and that no attack uses.
    sys.modules.setdefault("visdom", types.ModuleType("visdom"))
    from adv_lib.attacks import pgd_linf

    size = step_size(eps, steps)
    return lambda x, y: pgd_linf(
        model, x, y, eps, steps=steps, random_init=steps > 1, absolute_step_size=size
    )


OURS: dict[str, Make] = {"advlib": ours, "advlib, accelerated": ours_fast}
HALF: dict[str, Make] = {"advlib, bfloat16": ours_half}
OTHERS: dict[str, tuple[str, Make]] = {
    "torchattacks": ("torchattacks", torchattacks),
    "foolbox": ("foolbox", foolbox),
    "ART": ("adversarial-robustness-toolbox", art),
    "captum": ("captum", captum),
    "cleverhans": ("cleverhans", cleverhans),
    "adv-lib": ("adv-lib", adv_lib),
}


def peers() -> tuple[dict[str, Make], dict[str, str]]:
    """The other libraries that are at hand, and for each its version or why it is not."""
    if PEERS.is_dir() and str(PEERS) not in sys.path:
        sys.path.append(str(PEERS))
    found, versions = {}, {}
    probe = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).eval().requires_grad_(False)
    x, y = torch.rand(2, 1, 2, 2), torch.tensor([0, 1])
    for name, (package, make) in OTHERS.items():
        try:
            make(probe, x, 0.1, 3)(x, y)
            versions[name] = metadata.version(package)
        except Exception as error:  # noqa: BLE001  whatever keeps a library from running
            versions[name] = f"not run: {type(error).__name__}: {str(error)[:100]}"
            continue
        found[name] = make
    return found, versions
