"""What a method starts from where it is not noise: the images that another image method makes."""

import torch

from guard.data.augment import as_bytes, as_float
from guard.registry import IMAGE_METHODS, function_of


class Unseen:
    """The guard.run.progress.Progress of images that are only a start, which nobody sees."""

    def step(self, count=1, **values):
        """Nothing."""

    def line(self, text):
        """Nothing."""


class Start:
    """The images of the method settings.start.

    A class's images are made when they are first asked for, and are the same bits as in that method's own
    PNGs, so they do not depend on the order in which they are asked for.
    """

    def __init__(self, request):
        plan = function_of(IMAGE_METHODS[request.settings.start].function)(request)
        self.part_of = {label: part for part in plan.parts for label, _ in part.images}
        self.made = {}  # label -> Made, its pixels as bytes

    def _of_class(self, label):
        if label not in self.made:
            part = self.part_of[label]
            made = part.make(Unseen())
            pixels = as_bytes(made.pixels.cpu())
            for own in {each for each, _ in part.images}:
                mine = [place for place, (each, _) in enumerate(part.images) if each == own]
                self.made[own] = made._replace(pixels=pixels[mine])
        return self.made[label]

    def images(self, named):
        """(N, 3, S, S) in [0,1]. named: (label, number within its class) of each image."""
        return as_float(torch.stack([self._of_class(label).pixels[number] for label, number in named]))

    def looked_at(self, named):
        """Training images that were looked at for the classes of these; told by a class's first image."""
        first = [label for label, number in named if number == 0]
        return [index for label in first for index in self._of_class(label).looked_at]
