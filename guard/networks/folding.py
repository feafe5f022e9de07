"""Batch norm in eval mode, folded into the convolution before it, differentiably.

The regularizers look at a network in eval mode, where batch norm is a scaling by constants of each
channel. Done to the weights instead of to the activations it costs nothing, neither forward nor in the
two passes backward.
"""

import functools
import weakref

from torch import fx, nn

_found = weakref.WeakKeyDictionary()  # network -> its foldable pairs


class _Tracer(fx.Tracer):
    """Takes batch norms as a whole, those of our own as well."""

    def is_leaf_module(self, module, name):
        return isinstance(module, nn.BatchNorm2d) or super().is_leaf_module(module, name)


def foldable(network):
    """[(convolution, batch norm), ...]: the pairs of modules of which the second sees what the first
    gives and nobody else does.

    Empty for a network that cannot be traced.
    """
    try:
        graph = _Tracer().trace(network)
    except Exception:  # noqa: BLE001 - the network's own code runs on stand-ins here and may raise anything
        return []
    modules = dict(network.named_modules())
    calls = [node for node in graph.nodes if node.op == "call_module"]
    uses = [modules[node.target] for node in calls]
    pairs = []
    for node in calls:
        before = node.args[0] if node.args else None
        if (
            not isinstance(modules[node.target], nn.BatchNorm2d)
            or not isinstance(before, fx.Node)
            or before.op != "call_module"
        ):
            continue
        convolution, norm = modules[before.target], modules[node.target]
        alone = len(before.users) == 1 and uses.count(convolution) == 1 and uses.count(norm) == 1
        if type(convolution) is nn.Conv2d and norm.running_mean is not None and alone:
            pairs.append((convolution, norm))
    return pairs


class folded:
    """While inside, `network`, which has to be in eval mode, computes with its batch norms folded; its
    weights and their gradients are those of the network itself. A compiled network stays as it is.
    """

    def __init__(self, network):
        if network not in _found:
            _found[network] = foldable(network)
        self.pairs = _found[network] if network._compiled_call_impl is None else []

    def __enter__(self):
        for convolution, norm in self.pairs:
            scale = (norm.running_var + norm.eps).rsqrt()
            scale = scale if norm.weight is None else scale * norm.weight
            bias = (
                -norm.running_mean * scale
                if convolution.bias is None
                else (convolution.bias - norm.running_mean) * scale
            )
            bias = bias if norm.bias is None else bias + norm.bias
            weight = convolution.weight * scale.view(-1, 1, 1, 1)
            convolution.forward = functools.partial(convolution._conv_forward, weight=weight, bias=bias)
            norm.forward = _as_it_is

    def __exit__(self, *_):
        for pair in self.pairs:
            for module in pair:
                del module.forward


def _as_it_is(activations):
    return activations
