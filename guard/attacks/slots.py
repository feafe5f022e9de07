"""The images that an attack works on at a moment."""

import torch


class Slots:
    """At most `batch_size` of `count` images, each with its own state and step count; those that leave
    make room for those that wait.

    start(indices): dict of state tensors, one row per image, for images that enter. Between calls of
    `refill`, `index` (k,) holds the numbers of the images at work and `state` their rows.

        while slots.refill():
            ... look at slots.index and slots.state, set slots.state ...
            slots.leave(finished)
    """

    def __init__(self, count, batch_size, start, device):
        self.waiting = torch.arange(count, device=device)
        self.batch_size, self.start = batch_size, start
        self.index, self.state = self.waiting[:0], {}

    def refill(self):
        """Lets waiting images into free slots; False when nobody is left."""
        room = self.batch_size - len(self.index)
        # Entering in groups of at least a quarter batch keeps the number of small joins low.
        if len(self.waiting) and (room >= max(1, self.batch_size // 4) or not len(self.index)):
            entering, self.waiting = self.waiting[:room], self.waiting[room:]
            fresh = self.start(entering)
            self.state = {
                name: torch.cat([self.state[name], rows]) if self.state else rows
                for name, rows in fresh.items()
            }
            self.index = torch.cat([self.index, entering])
        return len(self.index) > 0

    def leave(self, finished):
        """Removes the images where `finished` (k,) bool is true."""
        if finished.any():
            self.index = self.index[~finished]
            self.state = {name: rows[~finished] for name, rows in self.state.items()}
