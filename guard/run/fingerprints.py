"""sha256 of files, and of tensors and plain values."""

import hashlib
import json

import torch


def of_tensors(state, *more):
    """sha256 over names, types, shapes and bytes of a dict of tensors, then over `more` (JSON values);
    the same on every device.
    """
    digest = hashlib.sha256()
    for name, tensor in state.items():
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy() if tensor.numel() else b"")
    digest.update(json.dumps(more, sort_keys=True).encode())
    return digest.hexdigest()


def of_file(path):
    """sha256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
