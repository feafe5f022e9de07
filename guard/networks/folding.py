"""Batch norm in eval mode, folded into the convolution before it, differentiably.

The regularizers look at a network in eval mode, where batch norm scales and shifts each channel by constants.
Done to the weights instead of the activations this costs nothing, neither in the forward pass nor in the two
backward passes.
"""

import functools
import weakref

from torch import fx, nn

_found = weakref.WeakKeyDictionary()  # network -> its foldable pairs


class _Tracer(fx.Tracer):
    """Traces a network down to its layers; our own batch norms are layers as well."""

    def is_leaf_module(self, module, name):
        return isinstance(module, nn.BatchNorm2d) or super().is_leaf_module(module, name)


def foldable(network):
    """[(convolution, batch norm), ...]: the pairs of layers that can be folded.

    The batch norm is the only one that sees what the convolution gives, and each of the two runs once in a
    forward pass. The list is empty for a network that cannot be traced.
    """
    try:
        graph = _Tracer().trace(network)
    except Exception:  # noqa: BLE001 - the network's own code runs on stand-ins here and may raise anything
        return []
    modules = dict(network.named_modules())
    calls = [node for node in graph.nodes if node.op == "call_module"]
    called = [modules[node.target] for node in calls]
    pairs = []
    for node, norm in zip(calls, called):
        before = node.args[0] if node.args else None
        if not isinstance(norm, nn.BatchNorm2d) or norm.running_mean is None:
            continue
        if not isinstance(before, fx.Node) or before.op != "call_module":
            continue
        convolution = modules[before.target]
        seen_by_the_norm_alone = len(before.users) == 1
        each_runs_once = called.count(convolution) == 1 and called.count(norm) == 1
        if type(convolution) is nn.Conv2d and seen_by_the_norm_alone and each_runs_once:
            pairs.append((convolution, norm))
    return pairs


class folded:
    """While inside, `network`, which has to be in eval mode, computes with its batch norms folded.

    Its weights, and their gradients, are those of the network itself. A compiled network stays as it is.
    """

    def __init__(self, network):
        if network not in _found:
            _found[network] = foldable(network)
        self.pairs = _found[network] if network._compiled_call_impl is None else []

    def __enter__(self):
        for convolution, norm in self.pairs:
            weight, bias = _folded_weights(convolution, norm)
            convolution.forward = functools.partial(convolution._conv_forward, weight=weight, bias=bias)
            norm.forward = _as_it_is

    def __exit__(self, *_):
        for pair in self.pairs:
            for module in pair:
                del module.forward


def _folded_weights(convolution, norm):
    """Weight and bias (channels,) of the convolution that computes what both do in eval mode."""
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    if convolution.bias is None:
        bias = -norm.running_mean * scale
    else:
        bias = (convolution.bias - norm.running_mean) * scale
    if norm.bias is not None:
        bias = bias + norm.bias
    return convolution.weight * scale.view(-1, 1, 1, 1), bias


def _as_it_is(activations):
    """The forward pass of a batch norm that is folded."""
    return activations
