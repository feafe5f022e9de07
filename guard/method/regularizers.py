"""The teacher's regularizers."""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from guard.networks.folding import folded
from guard.networks.models import frozen_eval
from guard.run.devices import widened
from guard.run.processes import sum_over_processes


def normalized(gradient, length=1.0):
    """`gradient` (B, ...) scaled to `length` in L2 for each image; a zero gradient stays zero, and a
    tiny one has the full length.

    Dividing by the largest entry first keeps the squares of tiny gradients from underflowing in float32.
    """
    flat = gradient.flatten(1)
    largest = flat.abs().amax(1, keepdim=True)
    flat = flat / torch.where(largest > 0, largest, 1)
    norm = flat.norm(dim=1, keepdim=True)
    return (flat * (length / torch.where(norm > 0, norm, 1))).view_as(gradient)


class _AtImages:
    """Loss and input gradient at x, made once and shared by z and by every penalty that needs them.

    losses: (B,) cross-entropy of each image. gradient: (B, ...) grad l_i at x_i. With second_order both
    keep their graph to the weights; without, only the losses do.
    """

    def __init__(self, network, x, y, second_order):
        self.network, self.x, self.y = network, x.detach().requires_grad_(), y
        self.losses = F.cross_entropy(widened(network(self.x)), y, reduction="none")
        (self.gradient,) = torch.autograd.grad(
            self.losses.sum(), self.x, create_graph=second_order, retain_graph=True
        )

    def shifted(self, h):
        """x + z with z a constant."""
        return self.x.detach() + normalized(self.gradient.detach(), h)

    def gradient_change(self, h):
        """grad l_i(x_i + z_i) - grad l_i(x_i), one row per image, with its graph to the weights."""
        there = self.shifted(h).requires_grad_()
        loss = F.cross_entropy(widened(self.network(there)), self.y, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, there, create_graph=True)
        return (gradient - self.gradient).flatten(1)


def _gradient_norm(at, h, batch_size):
    # L is the mean over the batch, so each image's gradient of L carries 1/B.
    return (at.gradient_change(h).norm(dim=1) / batch_size).mean()


def _gradient_squared(at, h, batch_size):
    return at.gradient_change(h).square().sum(1).mean()


def _loss(at, h, batch_size):
    difference = F.cross_entropy(widened(at.network(at.shifted(h))), at.y) - at.losses.mean()
    # |difference| of the whole batch, of which this may be one process's share: its sign is that of all
    # shares together.
    mine = difference.detach() * (len(at.x) / batch_size) if len(at.x) else torch.zeros_like(difference)
    return sum_over_processes(mine).sign() * difference


class Form(NamedTuple):
    """A regularizer: its function, whether that differentiates the gradient at x, which coefficient it
    takes.
    """

    function: object
    second_order: bool
    coefficient: str


FORMS = {
    "gradient-norm": Form(_gradient_norm, True, "lambda"),
    "gradient-squared": Form(_gradient_squared, True, "lambda"),
    "loss": Form(_loss, False, "beta"),
}


def penalty(
    network,
    x,
    y,
    *,
    regularizer=None,
    lambda_=0.0,
    h=3.0,
    beta=0.0,
    gradient_regularization=False,
    batch_size=None,
):
    """What is added to the teacher's ordinary loss: coefficient times each regularizer that is on, a
    scalar with graph.

    network: normalized images (B, 3, S, S) to logits. y: labels (B,). regularizer: a name of FORMS or
    None. h: length of z in normalized-image units. gradient_regularization: add beta * mean_i ||grad_x
    L(x)_i||, here with its second-order part, so that it reaches the weights (the original reads .grad
    after backward(), which the weights never see). batch_size: B of the whole batch where x is one
    process's share of it. The network is in eval mode meanwhile, its statistics and mode are untouched,
    and a zero gradient gives z_i = 0 and no NaN.
    """
    batch_size = batch_size or len(x)
    form = FORMS[regularizer] if regularizer else None
    with frozen_eval(network, freeze=False), folded(network):
        at = _AtImages(
            network, x, y, second_order=gradient_regularization or bool(form and form.second_order)
        )
        total = x.new_zeros(())
        if form:
            total = total + {"lambda": lambda_, "beta": beta}[form.coefficient] * form.function(
                at, h, batch_size
            )
        if gradient_regularization:
            total = total + beta * (at.gradient.flatten(1).norm(dim=1) / batch_size).mean()
    return total


def take_part(regularizer, where):
    """What a process without images of a batch has to do while the others compute its `penalty`: add
    nothing to their sums.
    """
    if regularizer == "loss":
        sum_over_processes(torch.zeros((), device=where))
