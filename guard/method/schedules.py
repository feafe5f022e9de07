"""Learning rates."""

import math

import torch


def cosine(step, steps, zeta=1.0):
    """The factor of a cosine schedule: (1 + cos(pi step / (zeta steps))) / 2.

    It falls from 1 to 0 with zeta 1, and stops before that with a larger one: with 2 at one half (the
    smoothed cosine of EDC, Shao et al., NeurIPS 2024).
    """
    return 0.5 * (1 + math.cos(math.pi * step / (zeta * steps)))


def one_cycle(step, steps):
    """The factor of a cycle (Smith and Topin, 2019), with the shares that torch's OneCycleLR takes.

    By cosines it goes up from 1/25 to 1 in the first 0.3 of the steps, then down to 4e-6.

    step: from 0 to steps - 1.
    """
    top, last = 0.3 * steps - 1, steps - 1
    if step <= top:
        return 1 - (1 - 1 / 25) * cosine(step, top)
    return 4e-6 + (1 - 4e-6) * cosine(step - top, last - top)


def step(epoch, epochs):
    """The factor of DC's and MTT's schedule: 1, and a tenth after epoch epochs // 2 + 1, counted from 0.

    They begin a new optimizer there, so without momentum, which is left out here.
    """
    return 1.0 if epoch <= epochs // 2 + 1 else 0.1


def set_learning_rate(optimizer, learning_rate):
    """Sets the learning rate of all of an optimizer's parameters, where it is a tensor in its place."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(learning_rate)
        else:
            group["lr"] = learning_rate
