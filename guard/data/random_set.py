"""Real training images drawn at random: the baseline that every distilled set has to beat."""

import torch

from guard.data.images import Packed
from guard.errors import UserError
from guard.run.seeds import generator


def choose(training_images, classes, count, seed):
    """(count,) places among the training images, for each class.

    training_images: a holder of guard.data.images. Raises UserError for a class with fewer images.
    """
    chosen = []
    for label, name in enumerate(classes):
        own = (training_images.labels == label).nonzero().squeeze(1)
        if len(own) < count:
            raise UserError(f"class {name} has {len(own)} images, {count} are asked for; ask for fewer")
        order = torch.randperm(len(own), generator=generator(seed, "random images", label))
        chosen.append(own[order[:count]])
    return chosen


def draw(training_images, count, size, seed):
    """Packed: `count` images of each class, resized to `size` and centre-cropped as validation images are."""
    chosen = choose(training_images, training_images.classes, count, seed)
    pixels = training_images.validation(torch.cat(chosen), size)
    labels = torch.arange(len(chosen)).repeat_interleave(count)
    return Packed(pixels, labels, tuple(training_images.classes))
