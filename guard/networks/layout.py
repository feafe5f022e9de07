"""How a network lies in memory."""

import torch
import torch.distributed
from torch._functorch import config as functorch

from guard.networks.synced_norm import synchronize
from guard.run.processes import world_size


def arrange(network, *, channels_last, compile=False, sync_batch_norm=False):
    """Changes in place how a network computes, where asked for; its state_dict stays as it is.

    channels_last: the layout of its weights in memory. compile: by torch.compile. sync_batch_norm: its batch
    norms take their statistics over the mini-batch of all processes.
    """
    if sync_batch_norm and world_size() > 1:
        synchronize(network)
    if channels_last:
        network.to(memory_format=torch.channels_last)
    if compile:
        # A regularizer goes back through one forward pass twice, which a reused buffer would forbid.
        functorch.donated_buffer = False
        # What devices.make_deterministic set says nothing to the compiler, which takes long to import.
        asked = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(
            asked, warn_only=torch.is_deterministic_algorithms_warn_only_enabled()
        )
        network.compile()
