"""A copy of a model on which an attack's many passes take less time."""

import torch
from torch.fx.experimental.optimization import fuse

TOLERANCE = 1e-3  # by which the copy's logits may differ, relative to their spread


def prepared(model, images):
    """A frozen copy of `model` (in eval mode) with batch norm folded into the convolutions before it, in channels-last layout.

    The same function up to rounding; `images` (N, 3, H, W) are looked at to see that it is. Where the model cannot be traced or comes
    out different, the model itself.
    """
    if not len(images):
        return model
    try:
        copy = fuse(model).to(memory_format=torch.channels_last).requires_grad_(False)
        with torch.no_grad():
            expected, found = model(images[:8]), copy(images[:8])
    except (RuntimeError, TypeError, ValueError, AttributeError, LookupError, AssertionError):  # what tracing does not know raises any of these
        return model
    return copy if (expected - found).abs().max() <= TOLERANCE * expected.std() else model
