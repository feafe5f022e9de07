"""How many images fit into a device's memory at once, and what is done where that was wrong."""

import os
import sys

import torch
from torch.nn.modules.utils import _pair

from guard.errors import out_of_memory
from guard.networks.models import frozen_eval

USABLE = 0.6  # share of the device's memory; the rest is for libraries' workspaces and other programs
# How many times what a backward pass keeps of an image it needs in all: for its gradients, and for the state
# of the optimizer or the attack.
OVERHEAD = 3.0
CPU_BATCH = 100  # images; more at once are no quicker on a CPU


def of_device(device):
    """Bytes of memory that a torch.device has in all."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def kept_per_image(model, size):
    """Bytes that a backward pass to the pixels keeps of each image of `size` pixels, the image included.

    model: pixels or normalized images (N, 3, size, size) to logits. size: the side of a square, or (height,
    width).
    """
    kept = {}  # place of a storage in memory -> its bytes

    def note(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def as_it_is(tensor):
        return tensor

    tensors = (*model.parameters(), *model.buffers())
    weights = {each.untyped_storage().data_ptr() for each in tensors}
    like = next((each for each in tensors if each.is_floating_point()), torch.zeros(()))
    images = torch.zeros(2, 3, *_pair(size), device=like.device, dtype=like.dtype, requires_grad=True)
    with frozen_eval(model), torch.autograd.graph.saved_tensors_hooks(note, as_it_is):
        graph = model(images)  # held on to, so that no storage is freed and its place taken by another
        del graph
    activations = sum(count for place, count in kept.items() if place not in weights)
    return activations // len(images) + images[0].numel() * images.element_size()


def images_that_fit(model, size, device, most):
    """The number of images of `size` pixels that go through `model` together: at least 1.

    It is at most `most` on a GPU, and at most CPU_BATCH on a CPU. It depends on model, size and device, not
    on what else is in the device's memory at the time.
    """
    fitting = int(USABLE * of_device(device) / (OVERHEAD * kept_per_image(model, size)))
    limit = most if device.type == "cuda" else CPU_BATCH
    return max(1, min(fitting, limit))


def halved_when_full(compute, count, what):
    """compute(count), and where memory runs out, after a line of warning, compute(count // 2).

    what: a word for what is counted. What is no lack of memory, or still is one, is raised.
    """
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
