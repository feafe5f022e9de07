"""The group of processes that torchrun starts: who is in it, sums and gradients over it."""

import torch
import torch.distributed

from guard.torchrun import local_rank, rank, world_size  # noqa: F401, asked here as the rest is


def barrier():
    """Waits until every process of the group is here."""
    if world_size() > 1:
        torch.distributed.barrier()


def of_the_first(value):
    """The first process's `value`, in every process of the group.

    It is for decisions on what lies on disk, where others may be writing.
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


def least_of(number, device):
    """The smallest of the processes' numbers; device: on which the group's tensors are."""
    return -int(maximum_over_processes(torch.tensor(-number, device=device)))


def share_of(loss, count, batch_size):
    """A process's share of a mini-batch's loss, so that the gradients of all shares add up to the whole's.

    loss: the mean over the process's own `count` images. batch_size: images of the whole mini-batch. The loss
    is weighted before it is differentiated, since behind synchronized batch norm a process's gradients are
    those of the others' losses as well. For the same reason a process without images has a loss, zero, with a
    graph.
    """
    if count:
        return loss * (count / batch_size)
    return 0 * loss.nan_to_num()  # the mean over no images is NaN


def add_gradients(model):
    """Makes every process's gradients those of the sum of all their losses (see `share_of`)."""
    if world_size() == 1:
        return
    for parameter in model.parameters():
        if parameter.grad is None:  # as in a process without images
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in model.parameters()]
    together = sum_over_processes(torch.cat([gradient.flatten() for gradient in gradients]))
    sums = together.split([gradient.numel() for gradient in gradients])
    for gradient, summed in zip(gradients, sums):
        gradient.copy_(summed.view_as(gradient))


@torch.no_grad()
def average_statistics(model):
    """Makes every process's running statistics the mean over the processes.

    It is called after each epoch, so that a state that is saved then is everybody's.
    """
    if world_size() == 1:
        return
    for buffer in model.buffers():
        if buffer.is_floating_point():
            sum_over_processes(buffer).div_(world_size())
