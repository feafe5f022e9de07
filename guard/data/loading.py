"""Batches of views, in an order that depends on the seed alone."""

import signal

import torch
from torch.utils.data import DataLoader, Dataset

from guard.data import augment
from guard.data.images import Streamed
from guard.errors import UserError
from guard.run import lock
from guard.run.seeds import generator


def batch_ranges(count, batch_size):
    """(start, stop) of each batch; a single image left over joins the batch before it, since batch norm
    needs two.
    """
    starts = list(range(0, count, batch_size))
    if len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], count]))


class TrainingEpoch(Dataset):
    """One pass over the images: item b is (pixels, labels) of batch b, in an order and views that depend
    on (seed, epoch, b) alone.

    share: (rank, size) for the part of every batch that falls to one process of a group.
    """

    def __init__(self, images, *, augmentation, batch_size, size, seed, epoch, share=(0, 1)):
        self.images, self.augmentation, self.size, self.key, self.share = (
            images,
            augmentation,
            size,
            (seed, "teacher", epoch),
            share,
        )
        order = torch.randperm(len(images), generator=generator(*self.key))
        self.batches = [order[start:stop] for start, stop in batch_ranges(len(images), batch_size)]

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, number):
        draws = generator(*self.key, number)
        mine = self.batches[number].tensor_split(self.share[1])[self.share[0]]
        # Each process draws views for its own part from a stream of its own; alone, part 0 is the batch.
        draws = draws if self.share[0] == 0 else generator(*self.key, number, self.share[0])
        if not len(mine):  # a last batch of fewer images than processes
            return torch.zeros(0, 3, self.size, self.size), self.images.labels[mine]

        def draw(heights, widths):
            return augment.draw_views(draws, self.augmentation, heights, widths)

        return self.images.views(mine, draw, self.size), self.images.labels[mine]


class ValidationBatches(Dataset):
    """Item b is (pixels, labels) of the b-th batch of the images in order, in the validation view."""

    def __init__(self, images, *, batch_size, size):
        self.images, self.size = images, size
        self.batches = torch.arange(len(images)).split(batch_size)

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, number):
        indices = self.batches[number]
        return self.images.validation(indices, self.size), self.images.labels[indices]


class _Reported(Dataset):
    """Hands a UserError over as an item: raised in a worker, it would arrive wrapped in the worker's
    traceback.
    """

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, number):
        try:
            return self.dataset[number]
        except UserError as problem:
            return problem


def _begin_worker(worker):
    """Ctrl-C reaches the workers as well, but it is the main process that ends the run, with one line;
    and it alone keeps locks.
    """
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lock.forget()


def batches(dataset, workers, device):
    """Iterates over whole-batch items; files are decoded by `workers` processes, images in memory need none.

    Raises UserError for a file that cannot be read.
    """
    streamed = isinstance(dataset.images, Streamed) and workers > 0
    loader = DataLoader(
        _Reported(dataset),
        batch_size=None,
        num_workers=workers if streamed else 0,
        pin_memory=streamed and device.type == "cuda",
        worker_init_fn=_begin_worker,
    )
    for item in loader:
        if isinstance(item, UserError):
            raise item
        pixels, labels = item
        yield augment.as_float(pixels.to(device, non_blocking=True)), labels.to(device, non_blocking=True)
