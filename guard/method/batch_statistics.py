"""Batch-norm statistics of the images against the teacher's: the recovery's second loss (SRe2L, Yin et
al. 2023, equation 5).
"""

import torch

from guard.errors import UserError
from guard.networks.models import batch_norm_layers
from guard.run.devices import widened


class BatchStatistics:
    """Compares, for several independent problems in one batch, the statistics of every batch-norm
    layer's input with the running ones.

    Use as a context around forwards of `model` in eval mode; after each forward, `loss()` is one number
    per problem: sum over layers k of w_k (||var_k - running_var_k||_2 + ||mean_k - running_mean_k||_2),
    statistics over the problem's images and positions, variance biased, w = first_layer_weight for the
    layer that runs first and 1 for the others.

    problems: number of equal, consecutive parts of the batch. Raises UserError for a model without batch
    norm.
    """

    def __init__(self, model, problems, first_layer_weight):
        self.layers = batch_norm_layers(model)
        if not self.layers:
            raise UserError(
                "the teacher has no batch norm, so nothing can be recovered from it; choose a teacher with"
                " batch norm"
            )
        self.problems, self.first_layer_weight = problems, first_layer_weight
        self.distances = []

    def __enter__(self):
        self.hooks = [layer.register_forward_pre_hook(self._record) for layer in self.layers]
        return self

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()

    def _record(self, layer, inputs):
        activations = widened(inputs[0])
        by_problem = activations.reshape(self.problems, -1, *activations.shape[1:]).flatten(
            3
        )  # (P, N, channels, positions)
        variance, mean = torch.var_mean(by_problem, dim=(1, 3), correction=0)
        self.distances.append(
            (variance - layer.running_var).norm(dim=1) + (mean - layer.running_mean).norm(dim=1)
        )

    def loss(self):
        """(problems,) with graph, for the forward since the last call."""
        distances, self.distances = self.distances, []
        return distances[0] * self.first_layer_weight + sum(distances[1:], torch.zeros_like(distances[0]))
