"""How many images fit into a device's memory at once, and what is done where that was wrong."""

import os
import sys

import torch

from guard.errors import out_of_memory
from guard.networks.models import frozen_eval

USABLE = 0.6  # of the device's memory; the rest is for the libraries' workspaces and for other programs
# times what a backward keeps of an image: its gradients, and the state of the optimizer or the attack
OVERHEAD = 3.0
CPU_BATCH = 100  # images; more at once are no quicker on a CPU


def of_device(device):
    """Bytes of memory of a torch.device."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def kept_per_image(model, size):
    """Bytes that a backward to the pixels keeps of each image of `size` pixels. model: pixels or
    normalized images to logits.
    """
    kept = {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    reference = next(model.parameters())
    own = {each.untyped_storage().data_ptr() for each in (*model.parameters(), *model.buffers())}
    images = torch.zeros(2, 3, size, size, device=reference.device, dtype=reference.dtype, requires_grad=True)
    with frozen_eval(model), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        graph = model(images)  # held on to, so that no storage is freed and its place taken by another
        del graph
    return (
        sum(count for place, count in kept.items() if place not in own) // 2
        + images[0].numel() * images.element_size()
    )


def images_that_fit(model, size, device, most):
    """The number of images that go through `model` together: at most `most`, at least 1, CPU_BATCH on a
    CPU where they fit.

    A function of model, size and kind of device, not of what else is in its memory at the time.
    """
    fitting = int(USABLE * of_device(device) / (OVERHEAD * kept_per_image(model, size)))
    return max(1, min(fitting, most if device.type == "cuda" else CPU_BATCH))


def halved_when_full(compute, count, what):
    """compute(count), and where memory runs out, after a line of warning, once more compute(count // 2)."""
    try:
        return compute(count)
    except RuntimeError as problem:
        if not out_of_memory(problem) or count < 2:
            raise
    print(
        f"warning: no memory for {count} {what} at once; going on with {count // 2}",
        file=sys.stderr,
        flush=True,
    )
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return compute(count // 2)
