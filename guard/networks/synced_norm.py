"""Batch norm over the mini-batch of a whole group of processes.

It works on the CPU as well as on GPUs, for which alone torch's own is made.
"""

import torch
from torch import distributed, nn


class _Sum(torch.autograd.Function):
    """The sum of a tensor over the processes.

    Each process makes something of the sum, so the gradient is the sum of all their gradients.
    """

    @staticmethod
    def forward(ctx, tensor):
        del ctx
        summed = tensor.contiguous().clone()
        distributed.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx, gradient):
        del ctx
        return _Sum.apply(gradient)  # which is differentiable again


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d whose statistics, in train mode, are over the images of all processes together.

    All of them have to call it, one that has no images with none.
    """

    def forward(self, activations):
        """(N, channels, H, W) -> the same shape, where N may differ between the processes and may be 0."""
        if not self.training:
            return super().forward(activations)
        wide = activations if activations.dtype == torch.float64 else activations.float()
        channels = wide.shape[1]
        own = wide.numel() / channels
        count = _Sum.apply(wide.new_tensor([own]))
        # In torch's words for batch norm over one process. A GPU is waited for only where it can be so.
        if own < 2 and count < 2:
            raise ValueError(f"Expected more than 1 value per channel when training, got {int(count)}")
        mean = _Sum.apply(wide.sum((0, 2, 3))) / count
        centred = wide - mean.view(1, -1, 1, 1)
        variance = _Sum.apply(centred.square().sum((0, 2, 3))) / count
        if self.track_running_stats:
            self._follow(mean, variance * count / (count - 1))
        normalized = centred * (variance + self.eps).rsqrt().view(1, -1, 1, 1)
        if self.affine:
            normalized = normalized * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)
        return normalized.to(activations.dtype)

    @torch.no_grad()
    def _follow(self, mean, unbiased_variance):
        """The running statistics move towards those of a mini-batch."""
        self.num_batches_tracked += 1
        factor = self.momentum if self.momentum is not None else 1 / self.num_batches_tracked.item()
        self.running_mean.lerp_(mean, factor)
        self.running_var.lerp_(unbiased_variance, factor)


def synchronize(network):
    """Turns the network's batch norms into synchronized ones, in place; its state_dict stays as it is."""
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncedBatchNorm2d
