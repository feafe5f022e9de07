"""The distance of two gradients that dataset condensation lowers (Zhao et al., ICLR 2021)."""

import torch

TINY = 1e-6  # beside the product of the norms, as in the published code: rows that are zero have distance 1


def matched_weights(network):
    """The weights whose gradients are compared: those of two or more dimensions, so no biases and norms."""
    return [parameter for parameter in network.parameters() if parameter.dim() > 1]


def distance(mine, theirs):
    """sum over weights and their rows of 1 - cos(row of mine, row of theirs), a scalar.

    mine, theirs: gradients of the same weights, in order. A row is what belongs to one output unit: all but
    the first dimension, (O, I) or (O, I, k, k).
    """
    total = torch.zeros((), device=mine[0].device, dtype=mine[0].dtype)
    for one, other in zip(mine, theirs, strict=True):
        one, other = one.flatten(1), other.flatten(1)
        cosines = (one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1) + TINY)
        total = total + (1 - cosines).sum()
    return total
