"""Batch norm over the whole batch of a group of processes, on the CPU as well as on GPUs (torch's own is
for GPUs alone).
"""

import torch
from torch import distributed, nn


class _Sum(torch.autograd.Function):
    """The sum over the processes; so is the gradient of what each of them makes of it."""

    @staticmethod
    def forward(ctx, tensor):
        del ctx
        summed = tensor.clone()
        distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx, gradient):
        del ctx
        gradient = gradient.contiguous().clone()
        distributed.all_reduce(gradient)
        return gradient


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d whose batch, in train mode, is that of all processes together. All of them have to
    call it, one that has no images with none.
    """

    def forward(self, activations):
        if not self.training:
            return super().forward(activations)
        wide = activations.float() if activations.dtype != torch.float64 else activations
        count = _Sum.apply(wide.new_tensor([wide.numel() / wide.shape[1]]))
        mean = _Sum.apply(wide.sum((0, 2, 3))) / count
        centred = wide - mean.view(1, -1, 1, 1)
        variance = _Sum.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            factor = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked.item()
            self.running_mean.lerp_(mean, factor)
            self.running_var.lerp_(variance * count / (count - 1), factor)
        normalized = centred * (variance + self.eps).rsqrt().view(1, -1, 1, 1)
        if self.affine:
            normalized = normalized * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return normalized.to(activations.dtype)


def synchronize(network):
    """Turns the network's batch norms into synchronized ones, in place; names and values of its state
    stay.
    """
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncedBatchNorm2d
