"""In which precision and layout of memory a device computes a network fastest.

docs/speed.md has the measurements. The choice depends on the kind of processor alone, never on a timing, so
that the same command on the same machine gives the same bits.
"""

import dataclasses

import torch

from guard.run import processes

BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")  # under which bf16 and channels-last were measured faster


def fastest(device):
    """{'precision', 'channels_last'} for networks on `device`: bf16 on CPUs with instructions for it."""
    bf16 = device.type == "cpu" and any(torch.cpu.get_capabilities().get(name) for name in BF16_INSTRUCTIONS)
    return {"precision": "bf16" if bf16 else "fp32", "channels_last": bf16}


def settled(settings, earlier, device):
    """`settings` of a stage with a precision, and the layout that goes with it, in place of 'auto'.

    earlier: settings of work that was begun before, perhaps on another machine: what was chosen then counts,
    so that it can go on anywhere. A layout that was asked for stays. Every process of a group must call it.
    """
    if settings.precision != "auto":
        return settings
    wanted = processes.of_the_first(fastest(device))  # the machines of a group may differ
    if earlier.get("precision") in ("fp32", "tf32", "bf16"):
        wanted = {name: earlier[name] for name in wanted}
    layout = settings.channels_last or wanted["channels_last"]
    return dataclasses.replace(settings, precision=wanted["precision"], channels_last=layout)
