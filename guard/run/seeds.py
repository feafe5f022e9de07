"""Random generators that depend on what they are for."""

import hashlib

import torch
import torch.distributed


def generator(*key):
    """A random generator on the CPU that depends on nothing but `key`.

    key: numbers and strings, such as seed, purpose, epoch and number of the mini-batch. Draws are tied to
    what they are for instead of to the order in which they happen, so any mini-batch, problem or image can be
    made again anywhere, whatever ran before it. (torch's generator on the CPU takes the lower 32 bits of a
    seed: of very many keys two may share their draws.)
    """
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def seed_everything(*key):
    """Seeds torch's own generators, on every device, from `key`: for initial weights and dropout."""
    torch.manual_seed(generator(*key).initial_seed())


def on_device(draws, device):
    """A generator of `device` for many numbers, which goes on from `draws`, a generator of the CPU.

    There it is `draws` itself. A GPU draws them by one that is seeded from it, since to copy as many numbers
    as images have takes longer; they are other numbers than on the CPU, with the same distribution.
    """
    if device.type == "cpu":
        return draws
    there = torch.Generator(device)
    there.manual_seed(int(torch.randint(2**62, (1,), generator=draws)))
    return there
