"""The images that an attack works on at a moment, and small things that all attacks need."""

import torch


class Slots:
    """At most `batch_size` of `count` images, each with its own state and its own number of steps done.

    An image that leaves makes room for one that waits, so the mini-batches stay full.

    start(indices): a dict of state tensors, one row per image, for the images that enter. Between calls of
    `refill`, `index` (k,) int64 holds the numbers of the images at work and `state` their rows.

        while slots.refill():
            ... look at slots.index and slots.state, set slots.state ...
            slots.leave(finished)
    """

    def __init__(self, count, batch_size, start, device):
        self.waiting = torch.arange(count, device=device)
        self.batch_size, self.start = batch_size, start
        self.index, self.state = self.waiting[:0], {}

    def refill(self):
        """Lets waiting images into free slots. False when no image is left."""
        room = self.batch_size - len(self.index)
        # Entering in groups of at least a quarter of the mini-batch keeps the number of small joins low.
        enough_room = room >= max(1, self.batch_size // 4) or not len(self.index)
        if len(self.waiting) and enough_room:
            entering, self.waiting = self.waiting[:room], self.waiting[room:]
            fresh = self.start(entering)
            if self.state:
                fresh = {name: torch.cat([self.state[name], rows]) for name, rows in fresh.items()}
            self.state = fresh
            self.index = torch.cat([self.index, entering])
        return len(self.index) > 0

    def leave(self, finished):
        """Removes the images where `finished` (k,) bool is true."""
        if finished.any():
            self.index = self.index[~finished]
            self.state = {name: rows[~finished] for name, rows in self.state.items()}


def none_broken(images):
    """(N,) bool, all False: no image is broken yet."""
    return torch.zeros(len(images), dtype=torch.bool, device=images.device)


def no_steps(images):
    """(N,) int64, all 0: the steps done for each image so far."""
    return torch.zeros(len(images), dtype=torch.int64, device=images.device)


def per_image(values):
    """(N,) -> (N, 1, 1, 1): one value for each image, to be combined with images (N, 3, H, W)."""
    return values.view(-1, 1, 1, 1)
