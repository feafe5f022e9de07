"""A copy of a model on which an attack's many passes take less time."""

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse

TOLERANCE = 1e-3  # by which the copy's logits and gradients may differ, relative to their spread
SEEN = 8  # images on which the copy is compared with the model
# What tracing raises for a model that it does not understand.
TRACING = (RuntimeError, TypeError, ValueError, AttributeError, NameError, LookupError, AssertionError)


def prepared(model, images):
    """A frozen copy of `model`, which is in eval mode, that computes the same up to rounding.

    Its batch norms are folded into the convolutions before them, it lies in channels-last layout, and its
    ReLUs work in place. `images` (N, 3, H, W) are looked at to see that logits and gradients are the same.
    Where the model cannot be traced, or the copy comes out different, the model itself is returned.
    """
    if not len(images):
        return model
    try:
        copy = fuse(model).to(memory_format=torch.channels_last).requires_grad_(False)
    except TRACING:
        return model
    rectifiers = [module for module in copy.modules() if isinstance(module, nn.ReLU)]
    for in_place in (True, False):  # not in place where somebody else needs what goes in
        for module in rectifiers:
            module.inplace = in_place
        try:
            if _same(model, copy, images[:SEEN]):
                return copy
        except RuntimeError:  # autograd's, for a gradient that needs what was overwritten
            continue
    return model


def _same(model, copy, images):
    """Whether logits and gradients of both models on `images` differ by no more than TOLERANCE."""
    pairs = zip(_seen(model, images), _seen(copy, images))
    return all((one - other).abs().max() <= TOLERANCE * one.std() for one, other in pairs)


def _seen(model, images):
    """Logits (N, classes), and the gradient (N, 3, H, W) of the sum of the largest ones."""
    images = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = model(images)
        (gradient,) = torch.autograd.grad(logits.amax(1).sum(), images)
    return logits.detach(), gradient
