r"""Layers that a convolution can do along with its own work, in a network that does not learn.

Two rewritings of the network as a graph of calls, which `torch.fx` records:

- a batch norm in eval mode is a fixed scale and shift: so are the weights before it
  (`folded_batch_norms`; Jacob et al. 2018, section 3.2);
- a ReLU, and the sum with a shortcut before it, need each value once, when the convolution has it
  at hand (`rectified`). On their own they wait for memory, not for arithmetic.

Neither changes a logit by more than rounding.
"""

import copy
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from advlib.errors import InputError


def folded_batch_norms(model: nn.Module) -> fx.GraphModule:
    r"""A copy of `model` in eval mode, each batch norm absorbed by the convolution before it.

    .. math:: \gamma \frac{(w * x + b) - \mu}{\sqrt{\sigma^2 + \varepsilon}} + \beta
              = \left(\tfrac{\gamma w}{\sqrt{\sigma^2 + \varepsilon}}\right) * x + b'

    Parameters
    ----------
    model
        Any module. Its copy is frozen and in eval mode.

    Raises
    ------
    InputError
        The model has hooks, which a traced copy would lose. If it cannot be traced because its
        code branches on values, `torch.fx` raises its own errors.

    References
    ----------
    Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", section 3.2.
    """
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        raise InputError("the model has hooks, which a rewritten copy would lose")
    traced = fx.symbolic_trace(copy.deepcopy(model).eval().requires_grad_(False))
    layers = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        if node.op != "call_module" or not isinstance(layers[str(node.target)], nn.BatchNorm2d):
            continue
        before, norm = node.args[0], layers[str(node.target)]
        if not _is_convolution(before, layers) or _calls(traced, str(before.target)) > 1:
            continue
        if norm.running_mean is None:  # it works with the statistics of the batch
            continue
        conv: Any = layers[str(before.target)]
        _put(traced, str(before.target), fuse_conv_bn_eval(conv, norm))
        node.replace_all_uses_with(before)
        traced.graph.erase_node(node)
    return _finished(traced)


class Rectified(nn.Module):
    """``relu(conv(x))``, or ``relu(conv(x) + other)``, as one layer."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        if not isinstance(self.conv, nn.Conv2d):  # one of `advlib.packing`, which do it at once
            return self.conv(x, other, relu=True)
        y = self.conv(x)
        return F.relu(y if other is None else y + other)


def rectified(traced: fx.GraphModule) -> fx.GraphModule:
    """Join each convolution of `traced` with the ReLU, or the sum and the ReLU, that follow it."""
    layers = dict(traced.named_modules())
    for number, node in enumerate(list(traced.graph.nodes)):
        if not _is_relu(node, layers):
            continue
        total: Any = node.args[0]
        conv, *others = total.args if _is_sum(total) else (total,)
        if others and not _is_convolution(conv, layers):
            conv, others = others[0], [conv]
        if not _is_convolution(conv, layers) or conv in others:
            continue
        name = f"rectified_{number}"
        traced.add_module(name, Rectified(layers[str(conv.target)]))
        with traced.graph.inserting_before(node):
            joined = traced.graph.call_module(name, (conv.args[0], *others))
        node.replace_all_uses_with(joined)
        for old in dict.fromkeys([node, total, conv]):
            traced.graph.erase_node(old)
    return _finished(traced)


def _finished(traced: fx.GraphModule) -> fx.GraphModule:
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _is_convolution(node: Any, layers: dict[str, nn.Module]) -> bool:
    """Whether this is the call of a convolution whose result is used once."""
    return (
        isinstance(node, fx.Node)
        and node.op == "call_module"
        and type(layers[str(node.target)]) is nn.Conv2d
        and len(node.args) == len(node.users) == 1
        and not node.kwargs
    )


def _is_relu(node: Any, layers: dict[str, nn.Module]) -> bool:
    if node.op == "call_module":
        known = type(layers[str(node.target)]) is nn.ReLU
    else:
        known = node.target in (F.relu, torch.relu, torch.relu_, "relu", "relu_")
    return known and len(node.args) == 1 and isinstance(node.args[0], fx.Node)


def _is_sum(node: Any) -> bool:
    """Whether two tensors are added, for one use, and nobody else sees the place of the sum."""
    two = len(node.args) == 2 and all(isinstance(part, fx.Node) for part in node.args)
    if not two or node.kwargs or len(node.users) != 1:
        return False
    if node.target in (operator.iadd, "add_"):
        return len(node.args[0].users) == 1
    return node.target in (operator.add, torch.add, "add")


def _calls(traced: fx.GraphModule, target: str) -> int:
    """How often a layer is used; a shared one must stay as it is."""
    return sum(node.op == "call_module" and node.target == target for node in traced.graph.nodes)


def _put(traced: fx.GraphModule, target: str, layer: nn.Module) -> None:
    parent, _, name = target.rpartition(".")
    setattr(traced.get_submodule(parent), name, layer)
