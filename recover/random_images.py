"""Image method random: real training images, the baseline that every distilled set has to beat."""

import functools

import torch

from guard.data.augment import as_float
from guard.errors import UserError
from guard.run.seeds import generator
from recover.recovery import Made, Part, Plan


def plan(request):
    """Images drawn at random from the training images of each class, each resized and centre-cropped as
    validation images are.
    """
    count = request.settings.images_per_class
    parts = []
    for label, name in enumerate(request.classes):
        own = (request.training_images.labels == label).nonzero().squeeze(1)
        if len(own) < count:
            raise UserError(f"class {name} has {len(own)} images, {count} are asked for; ask for fewer")
        order = torch.randperm(len(own), generator=generator(request.seed, "random images", label))
        chosen = own[order[:count]]
        numbers = [(label, number) for number in range(count)]
        parts.append(Part(numbers, functools.partial(_make, request, chosen)))
    return Plan(parts)


def _make(request, chosen, progress):
    pixels = as_float(request.training_images.validation(chosen, request.size))
    progress.step()
    return Made(pixels, looked_at=chosen.tolist())
