"""Batch-norm statistics of the images against the teacher's running ones.

Their distance is the recovery's second loss (SRe2L, Yin et al., NeurIPS 2023, equation 5). Its derivative is
written out: autograd's own takes some twenty small operations for each layer, which a GPU takes longer to
start than to do, and keeps a second copy of what a layer sees in bfloat16.
"""

import torch
from torch.autograd.function import once_differentiable

from guard.errors import UserError
from guard.networks.models import batch_norm_layers
from guard.run.devices import widened

SMALLEST = 1e-20  # a distance below it counts as it: a statistic that is met exactly has no direction


class BatchStatistics:
    """How far the statistics of every batch-norm layer's input are from the running ones.

    Use it as a context around forward passes of `model` in eval mode. After each forward pass, `loss()` gives
    one number per problem: sum_k w_k (||var_k - running_var_k||_2 + ||mean_k - running_mean_k||_2) over the
    layers k. The statistics are over the problem's images and all positions, the variance is biased, and w_k
    is first_layer_weight for the layer that runs first and 1 for the others. It can be differentiated once.

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
        self.seen = []  # (layer, numbers that a statistic is of, variance, mean), in the order of running
        self.targets = {}  # the layers that ran, and what they saw -> their _Targets

    def __enter__(self):
        self.hooks = [layer.register_forward_pre_hook(self._record) for layer in self.layers]
        return self

    def __exit__(self, *_):
        for hook in self.hooks:
            hook.remove()

    def _record(self, layer, inputs):
        """Notes a layer's statistics when it runs. inputs: one tensor, (problems * N, channels, ...)."""
        count = inputs[0].numel() // (self.problems * inputs[0].shape[1])
        self.seen.append((layer, count, *_Moments.apply(inputs[0], self.problems)))

    def begin(self):
        """Forgets what a forward pass that was broken off has left."""
        self.seen = []

    def loss(self):
        """(problems,) with its graph, for the forward pass since the last call."""
        layers, counts, variances, means = zip(*self.seen)
        self.seen = []
        if (layers, counts) not in self.targets:
            self.targets[layers, counts] = _Targets(layers, counts, self.problems, self.first_layer_weight)
        return _Distance.apply(self.targets[layers, counts], *variances, *means)


class _Targets:
    """What does not change from one forward pass to the next, of the L layers that run in it.

    A row of statistics is (all variances, all means, 0), of K channels together: 2 K + 1 numbers. It has 2 L
    groups: the variances of each layer, then the means of each layer.

    running: (2 K + 1,), the row that is wanted. places: (2 L, widest), where the numbers of each group are in
    a row; a narrow layer's places end with those of the 0. groups: (2 K + 1,), the group of each number.
    weights: (2 L,), w_k of each group. by_activation: (2 L,), weights times the constant in the derivative of
    a statistic by one activation a: d var / d a = (2 / count) (a - mean), d mean / d a = 1 / count.
    """

    def __init__(self, layers, counts, problems, first_layer_weight):
        like = layers[0].running_mean
        self.channels = [len(layer.running_mean) for layer in layers]
        self.total = sum(self.channels)
        rows = [layer.running_var for layer in layers] + [layer.running_mean for layer in layers]
        self.running = torch.cat([*rows, like.new_zeros(1)])
        self.nothing = like.new_zeros(problems, 1)
        places, groups, start = [], [], 0
        for group, width in enumerate(2 * self.channels):
            own = list(range(start, start + width))
            places.append(own + [2 * self.total] * (max(self.channels) - width))
            groups += [group] * width
            start += width
        weights = 2 * [first_layer_weight, *[1.0] * (len(layers) - 1)]
        constants = [2 / count for count in counts] + [1 / count for count in counts]
        self.places = torch.tensor(places, device=like.device)
        self.groups = torch.tensor([*groups, 0], device=like.device)
        self.weights = like.new_tensor(weights)
        self.by_activation = self.weights * like.new_tensor(constants)


class _Distance(torch.autograd.Function):
    """(targets, variances (problems, channels) of each layer, means of each layer) -> (problems,).

    On its way back it does not give gradients by variances and means, but the scale and the shift that
    _Moments wants in their places: scale * a + shift is the gradient by an activation a.
    """

    @staticmethod
    def forward(ctx, targets, *statistics):
        found = torch.cat([*statistics, targets.nothing], 1)
        differences = found - targets.running
        distances = differences[:, targets.places].norm(dim=2)  # (problems, 2 L)
        ctx.targets = targets
        ctx.save_for_backward(found, differences, distances)
        return (distances * targets.weights).sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx, by_loss):
        targets, (found, differences, distances) = ctx.targets, ctx.saved_tensors
        of_groups = by_loss.unsqueeze(1) * targets.by_activation / distances.clamp(min=SMALLEST)
        of_statistics = differences * of_groups[:, targets.groups]
        _, means, _ = found.tensor_split((targets.total, 2 * targets.total), 1)
        scale, by_mean, _ = of_statistics.tensor_split((targets.total, 2 * targets.total), 1)
        shift = torch.addcmul(by_mean, means, scale, value=-1)
        return None, *scale.split(targets.channels, 1), *shift.split(targets.channels, 1)


class _Moments(torch.autograd.Function):
    """activations (problems * N, channels, ...) -> their variance and mean, both (problems, channels).

    On its way back it takes scale and shift from _Distance: neither is of use without the other.
    """

    @staticmethod
    def forward(ctx, activations, problems):
        ctx.problems = problems
        ctx.save_for_backward(activations)
        return torch.var_mean(_by_problem(widened(activations), problems), dim=(1, 3), correction=0)

    @staticmethod
    @once_differentiable
    def backward(ctx, scale, shift):
        (activations,) = ctx.saved_tensors
        scale, shift = (each[:, None, :, None] for each in (scale, shift))
        by_activation = torch.addcmul(shift, _by_problem(activations, ctx.problems), scale)
        return by_activation.view(activations.shape).to(activations.dtype), None


def _by_problem(activations, problems):
    """(problems * N, channels, ...) as (problems, N, channels, positions)."""
    images, channels, *positions = activations.shape
    return activations.reshape(problems, images // problems, channels, *positions, 1).flatten(3)
