"""Mini-batches of views, in an order that depends on the seed alone."""

import signal

import torch
from torch.utils.data import DataLoader, Dataset

from guard.data import augment
from guard.data.images import Streamed
from guard.errors import WORKER, UserError
from guard.run import lock
from guard.run.seeds import generator


def batch_ranges(count, batch_size):
    """(start, stop) of each mini-batch of `count` images.

    A single image left over joins the mini-batch before it, since batch norm needs two.
    """
    starts = list(range(0, count, batch_size))
    if len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], count]))


class TrainingEpoch(Dataset):
    """One pass over the images: item b is (pixels, labels) of mini-batch b.

    Pixels are (B, 3, size, size), uint8 or float32 in [0,1]; labels are (B,). Order and views depend on
    (seed, epoch, b) alone. images: of guard.data.images. augmentation, flip: of augment.draw_views. share:
    (rank, processes) for the part of every mini-batch that falls to one process of a group.
    """

    def __init__(self, images, *, augmentation, batch_size, size, seed, epoch, flip=True, share=(0, 1)):
        self.images, self.augmentation, self.flip, self.size = images, augmentation, flip, size
        self.key, (self.rank, self.processes) = (seed, "teacher", epoch), share
        order = torch.randperm(len(images), generator=generator(*self.key))
        self.batches = [order[start:stop] for start, stop in batch_ranges(len(images), batch_size)]

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, number):
        mine = self.batches[number].tensor_split(self.processes)[self.rank]
        # Each process draws the views of its own part from a stream of its own. A process alone is the first.
        own_key = (number,) if self.rank == 0 else (number, self.rank)
        draws = generator(*self.key, *own_key)
        if not len(mine):  # a last mini-batch of fewer images than processes
            return torch.zeros(0, 3, self.size, self.size), self.images.labels[mine]

        def draw(heights, widths):
            return augment.draw_views(draws, self.augmentation, heights, widths, flip=self.flip)

        return tuple(self.images.labelled_views(mine, draw, self.size))


class ValidationBatches(Dataset):
    """Item b is (pixels, labels) of the b-th mini-batch of the images in order, in the validation view.

    Pixels are (B, 3, size, size), uint8 or float32 in [0,1]; labels are (B,).
    """

    def __init__(self, images, *, batch_size, size):
        self.images, self.size = images, size
        self.batches = torch.arange(len(images)).split(batch_size)

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, number):
        indices = self.batches[number]
        return self.images.validation(indices, self.size), self.images.labels[indices]


class _Reported(Dataset):
    """Hands a UserError over as an item.

    Raised in a worker, it would arrive wrapped in the worker's traceback.
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
    """Called in each worker before its first item.

    Ctrl-C reaches the workers as well, but it is the main process that ends the run, with one line; and it
    alone keeps locks.
    """
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lock.forget()


def batches(dataset, workers, device):
    """Iterates over the mini-batches of a dataset above: (float32 pixels in [0,1], labels), both on `device`.

    Files are decoded by `workers` processes; images in memory need none. Raises UserError for a file that
    cannot be read, and where such a process was ended.
    """
    streamed = isinstance(dataset.images, Streamed) and workers > 0
    if streamed:
        import torchvision.transforms.v2  # noqa: F401 - here, or each of these processes would
    loader = DataLoader(
        _Reported(dataset),
        batch_size=None,
        num_workers=workers if streamed else 0,
        pin_memory=streamed and device.type == "cuda",
        worker_init_fn=_begin_worker,
    )
    for item in _received(loader):
        if isinstance(item, UserError):
            raise item
        pixels, labels = (tensor.to(device, non_blocking=True) for tensor in item)
        yield augment.as_float(pixels), labels


def _received(loader):
    """The loader's items. Raises UserError where the process that was sending one was ended."""
    items = iter(loader)
    while True:
        try:
            item = next(items)
        except StopIteration:
            return
        except (ConnectionError, EOFError):
            raise UserError(WORKER) from None
        yield item
