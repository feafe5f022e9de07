"""The images that an attack works on at a moment, and small things that all attacks need."""

import torch


class Slots:
    """At most `batch_size` of `count` images, each with its own state and its own number of steps done.

    An image that leaves makes room for one that waits, so the mini-batches stay full.

    start(indices): a dict of state tensors, one row per image, for the images that enter. Between calls of
    `refill`, `index` (k,) int64 holds the numbers of the images at work and `state` their rows.

        while slots.refill():
            ... look at slots.index and slots.state, set slots.state ...
            gone = slots.leave(finished)
            ... note what is known of slots.index as it was, at the positions `gone` ...

    On a GPU each look at what is there waits for all work before it. A step has one, in `leave`.
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
        """Removes the images where `finished` (k,) bool is true; returns their positions (m,) int64."""
        gone = finished.nonzero().squeeze(1)
        if len(gone):
            # Here the unfinished come first, in their order. A mask would be read for each tensor.
            staying = finished.byte().argsort(stable=True)[: len(finished) - len(gone)]
            self.index = self.index[staying]
            self.state = {name: rows[staying] for name, rows in self.state.items()}
        return gone


def note_broken(adversarial, broken, numbers, x, fooled):
    """Writes x (m, 3, H, W) into `adversarial`, and True into `broken`, where `fooled` (m,) bool is true.

    numbers: (m,) int64, the places of these images in both, each once.
    """
    adversarial[numbers] = torch.where(per_image(fooled), x, adversarial[numbers])
    broken[numbers] |= fooled


def none_broken(images):
    """(N,) bool, all False: no image is broken yet."""
    return torch.zeros(len(images), dtype=torch.bool, device=images.device)


def no_steps(images):
    """(N,) int64, all 0: the steps done for each image so far."""
    return torch.zeros(len(images), dtype=torch.int64, device=images.device)


def per_image(values):
    """(N,) -> (N, 1, 1, 1): one value for each image, to be combined with images (N, 3, H, W)."""
    return values.view(-1, 1, 1, 1)
