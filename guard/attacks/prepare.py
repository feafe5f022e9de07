"""A copy of a model on which an attack's many passes take less time."""

import torch
from torch import nn
from torch.fx.experimental.optimization import fuse

TOLERANCE = 1e-3  # by which the copy's logits and gradients may differ, relative to their spread


def prepared(model, images):
    """A frozen copy of `model` (in eval mode) with batch norm folded into the convolutions before it, in
    channels-last layout, its ReLUs in place.

    The same function up to rounding; `images` (N, 3, H, W) are looked at to see that it is, gradients
    included. Where the model cannot be traced or comes out different, the model itself.
    """
    if not len(images):
        return model
    try:
        copy = fuse(model).to(memory_format=torch.channels_last).requires_grad_(False)
    except (
        RuntimeError,
        TypeError,
        ValueError,
        AttributeError,
        LookupError,
        AssertionError,
    ):  # what tracing does not know raises any of these
        return model
    rectifiers = [module for module in copy.modules() if isinstance(module, nn.ReLU)]
    for in_place in (True, False):  # in place, unless somebody else needs what goes in
        for module in rectifiers:
            module.inplace = in_place
        try:
            if all(
                (one - other).abs().max() <= TOLERANCE * one.std()
                for one, other in zip(_seen(model, images[:8]), _seen(copy, images[:8]))
            ):
                return copy
        except RuntimeError:  # autograd's, for a gradient that needs what was overwritten
            continue
    return model


def _seen(model, images):
    """Logits, and the gradient of the largest ones with respect to the pixels."""
    images = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        logits = model(images)
        return logits.detach(), torch.autograd.grad(logits.amax(1).sum(), images)[0]
