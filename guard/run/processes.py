"""The group of processes that torchrun starts: who is in it, sums and gradients over it."""

import os

import torch
import torch.distributed


def rank():
    """Number of this process in its torchrun group, 0 alone."""
    return int(os.environ.get("RANK", "0"))


def local_rank():
    """Number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size():
    """Processes in the torchrun group, 1 alone."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def barrier():
    """Waits until every process of the group is here."""
    if world_size() > 1:
        torch.distributed.barrier()


def of_the_first(value):
    """The first process's `value`, in every process of the group: for decisions on what lies on disk,
    where others may be writing.
    """
    if world_size() == 1:
        return value
    held = [value]
    torch.distributed.broadcast_object_list(held)
    return held[0]


def sum_over_processes(tensor):
    """Adds `tensor` up over the group, in place; returns it."""
    if world_size() > 1:
        torch.distributed.all_reduce(tensor)
    return tensor


def maximum_over_processes(tensor):
    """The group's elementwise maximum, in place; returns it."""
    if world_size() > 1:
        torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
    return tensor


def share_of(loss, count, batch_size):
    """What a process differentiates of a mean loss over its `count` images of a batch, so that all
    processes' gradients add up to the batch's.

    Weighted before and not after it is differentiated, since behind synchronized batch norm a process's
    gradients are those of the others' losses as well; for the same reason a process without images has a
    loss, zero, with a graph.
    """
    return loss * (count / batch_size) if count else 0 * loss.nan_to_num()


def add_gradients(model):
    """Makes every process's gradients those of the sum of all their losses (see share_of)."""
    if world_size() == 1:
        return
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
    for parameter, gradient in zip(model.parameters(), gradients):
        parameter.grad = gradient  # a process without images has none of its own
    together = sum_over_processes(torch.cat([g.flatten() for g in gradients]))
    for gradient, summed in zip(gradients, together.split([g.numel() for g in gradients])):
        gradient.copy_(summed.view_as(gradient))


@torch.no_grad()
def average_statistics(model):
    """Makes every process's batch-norm statistics their mean; called after each epoch, so that a state
    saved then is everybody's.
    """
    if world_size() > 1:
        for buffer in model.buffers():
            if buffer.is_floating_point():
                sum_over_processes(buffer).div_(world_size())
