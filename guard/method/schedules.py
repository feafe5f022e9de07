"""Learning rates."""

import math


def cosine(step, steps):
    """The factor of a cosine schedule from 1 to 0: (1 + cos(pi step / steps)) / 2."""
    return 0.5 * (1 + math.cos(math.pi * step / steps))


def set_learning_rate(optimizer, learning_rate):
    """Sets the learning rate of all of an optimizer's parameters."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
