r"""Batch norms folded into the convolutions before them, in a network that does not learn.

A batch norm in eval mode is a fixed scale and shift: so are the weights before it (Jacob et al.
2018, section 3.2). No logit changes by more than rounding.
"""

import copy
from typing import Any

from torch import fx, nn
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


def _calls(traced: fx.GraphModule, target: str) -> int:
    """How often a layer is used; a shared one must stay as it is."""
    return sum(node.op == "call_module" and node.target == target for node in traced.graph.nodes)


def _put(traced: fx.GraphModule, target: str, layer: nn.Module) -> None:
    parent, _, name = target.rpartition(".")
    setattr(traced.get_submodule(parent), name, layer)
