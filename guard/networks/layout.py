"""How a network lies in memory."""

import torch
import torch.distributed

from guard.networks.synced_norm import synchronize
from guard.run.processes import world_size


def arrange(network, *, channels_last, compile=False, sync_batch_norm=False):
    """Puts a network's weights into channels-last layout, has its batch norms see all processes' images
    and the whole compiled, where asked for; its state_dict stays as it is.
    """
    if sync_batch_norm and world_size() > 1:
        synchronize(network)
    if channels_last:
        network.to(memory_format=torch.channels_last)
    if compile:
        network.compile()
