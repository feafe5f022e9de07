"""The curvature regularizers of the teacher, and gradient regularization.

Notation: f the network on normalized images x, l_i the cross-entropy of image i alone, L their mean over the
mini-batch of B images, z_i = h * grad l_i / ||grad l_i||, a constant. Sources: CURE (Moosavi-Dezfooli et al.,
CVPR 2019), GUARD (Xue et al., AAAI 2025).
"""

import contextlib

import torch
import torch.nn.functional as F

from guard.networks.folding import folded
from guard.networks.models import frozen_eval, own_statistics
from guard.networks.twice import twice_differentiable
from guard.registry import REGULARIZERS, function_of
from guard.run.devices import widened
from guard.run.processes import sum_over_processes


def normalized(gradient, length=1.0):
    """`gradient` (B, ...) of each image scaled to `length` in L2.

    A zero gradient stays zero, and a tiny one gets the full length. Dividing by the largest entry first keeps
    the squares of tiny gradients from underflowing in float32.
    """
    flat = gradient.flatten(1)
    largest = flat.abs().amax(1, keepdim=True)
    flat = flat / torch.where(largest > 0, largest, 1)
    norm = flat.norm(dim=1, keepdim=True)
    return (flat * (length / torch.where(norm > 0, norm, 1))).view_as(gradient)


class AtImages:
    """Loss and gradient at the images x, made once and shared by z and by every penalty that needs them.

    network: normalized images (B, 3, S, S) to logits (B, classes). x: normalized images. y: (B,) labels.
    losses: (B,) cross-entropy l_i of each image. gradient: (B, 3, S, S) grad l_i at x_i. With second_order
    both keep their graph to the weights; without it, only the losses do. whole: whether x is the whole
    mini-batch, and not one process's share of it.
    """

    def __init__(self, network, x, y, second_order, whole=True):
        self.whole = whole
        self.network, self.x, self.y = network, x.detach().requires_grad_(), y
        self.losses = F.cross_entropy(widened(network(self.x)), y, reduction="none")
        (self.gradient,) = torch.autograd.grad(
            self.losses.sum(), self.x, create_graph=second_order, retain_graph=True
        )

    def shifted(self, h):
        """x + z (B, 3, S, S), z a constant of length h along each image's gradient."""
        return self.x.detach() + normalized(self.gradient.detach(), h)

    def gradient_change(self, h):
        """(B, D) grad l_i(x_i + z_i) - grad l_i(x_i) of each image, with its graph to the weights."""
        shifted = self.shifted(h).requires_grad_()
        loss = F.cross_entropy(widened(self.network(shifted)), self.y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, shifted, create_graph=True)
        return (gradient - self.gradient).flatten(1)


def gradient_norm(at, h, batch_size):
    """mean_i ||grad_x L(x + z)_i - grad_x L(x)_i||, as in CURE and in GUARD's code for CIFAR.

    L is the mean over the mini-batch, so each image's gradient of L carries a factor 1/B.
    """
    return (at.gradient_change(h).norm(dim=1) / batch_size).mean()


def gradient_squared(at, h, batch_size):
    """mean_i ||grad_x l_i(x_i + z_i) - grad_x l_i(x_i)||^2, without 1/B: the literature's squared form."""
    del batch_size
    return at.gradient_change(h).square().sum(1).mean()


def loss_difference(at, h, batch_size):
    """|L(x + z) - L(x)|, as in GUARD's code for data sets other than CIFAR."""
    moved = F.cross_entropy(widened(at.network(at.shifted(h))), at.y)
    difference = moved - at.losses.mean()
    # This may be one process's share of the mini-batch: the sign is that of all shares together.
    # A share of no images has NaN for its mean, and adds nothing.
    part = len(at.x) / batch_size
    share = difference.detach() * part if len(at.x) else torch.zeros_like(difference)
    return (share if at.whole else sum_over_processes(share)).sign() * difference


def gradient_regularization(at, batch_size):
    """mean_i ||grad_x L(x)_i||, with its second-order part, so that it reaches the weights.

    (The original reads .grad after backward(), which the weights never see.)
    """
    return (at.gradient.flatten(1).norm(dim=1) / batch_size).mean()


def second_order(settings):
    """Whether a regularizer that is on in `settings` (settings.Pretrain) differentiates twice."""
    curvature = settings.curvature and REGULARIZERS[settings.regularizer].second_order
    return settings.gradient_regularization or curvature


def penalty(settings, network, x, y, batch_size=None):
    """What is added to the teacher's ordinary loss: a scalar with a graph to the weights.

    It is the sum of the regularizers that are on in `settings` (settings.Pretrain), each times its own
    coefficient. network: normalized images (B, 3, S, S) to logits (B, classes). x: normalized images. y: (B,)
    labels. batch_size: B of the whole mini-batch, where x is one process's share of it and all processes take
    part. The network is in eval mode meanwhile, but for batch norm with curvature_statistics 'batch'; its
    running statistics and its mode stay as they are.

    By running statistics, as published, a batch norm's scale can shrink the gradients and with them the
    penalty, while the ordinary loss, by statistics of the mini-batch, sees no difference: the next batch norm
    divides by what is left.
    """
    whole, batch_size = batch_size is None, batch_size or len(x)
    twice = second_order(settings)
    prepared = twice_differentiable(network) if twice else contextlib.nullcontext()
    normalizing = own_statistics if settings.curvature_statistics == "batch" else folded
    with frozen_eval(network, freeze=False), prepared, normalizing(network):
        at = AtImages(network, x, y, second_order=twice, whole=whole)
        total = x.new_zeros(())
        if settings.curvature:
            row = REGULARIZERS[settings.regularizer]
            regularizer = function_of(row.function)
            coefficient = getattr(settings, row.coefficient)
            total = total + coefficient * regularizer(at, settings.h, batch_size)
        if settings.gradient_regularization:
            total = total + settings.gradient_beta * gradient_regularization(at, batch_size)
    return total


def take_part(settings, device):
    """Called by a process without images of a mini-batch while the others compute their `penalty`.

    Sums over the group need every process; this one adds nothing to them.
    """
    if settings.curvature and REGULARIZERS[settings.regularizer].sums:
        sum_over_processes(torch.zeros((), device=device))
