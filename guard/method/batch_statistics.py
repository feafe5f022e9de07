"""Batch-norm statistics of the images against the teacher's running ones.

Their distance is the recovery's second loss (SRe2L, Yin et al., NeurIPS 2023, equation 5).
"""

import torch

from guard.errors import UserError
from guard.networks.models import batch_norm_layers
from guard.run.devices import widened


class BatchStatistics:
    """How far the statistics of every batch-norm layer's input are from the running ones.

    Use it as a context around forward passes of `model` in eval mode. After each forward pass, `loss()` gives
    one number per problem: sum_k w_k (||var_k - running_var_k||_2 + ||mean_k - running_mean_k||_2) over the
    layers k. The statistics are over the problem's images and all positions, the variance is biased, and w_k
    is first_layer_weight for the layer that runs first and 1 for the others.

    problems: number of equal, consecutive parts of the mini-batch, which are recovered independently. Raises
    UserError for a model without batch norm.
    """

    def __init__(self, model, problems, first_layer_weight):
        self.layers = batch_norm_layers(model)
        if not self.layers:
            raise UserError(
                "the teacher has no batch norm, so nothing can be recovered from it; choose a teacher with"
                " batch norm"
            )
        self.problems, self.first_layer_weight = problems, first_layer_weight
        self.distances = []  # (problems,) of each layer, in the order in which the layers run

    def __enter__(self):
        # (2, channels) of each layer: its running variance and mean.
        self.running = {layer: torch.stack([layer.running_var, layer.running_mean]) for layer in self.layers}
        self.hooks = [layer.register_forward_pre_hook(self._record) for layer in self.layers]
        return self

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()

    def _record(self, layer, inputs):
        """Notes a layer's distance when it runs. inputs: one tensor, (problems * N, channels, ...)."""
        activations = widened(inputs[0])
        # (problems, N, channels, positions)
        by_problem = activations.reshape(self.problems, -1, *activations.shape[1:]).flatten(3)
        both = torch.stack(torch.var_mean(by_problem, dim=(1, 3), correction=0), 1)  # (problems, 2, channels)
        self.distances.append((both - self.running[layer]).norm(dim=2).sum(1))

    def loss(self):
        """(problems,) with its graph, for the forward pass since the last call."""
        distances, self.distances = self.distances, []
        first, others = distances[0], distances[1:]
        return first * self.first_layer_weight + sum(others, torch.zeros_like(first))
