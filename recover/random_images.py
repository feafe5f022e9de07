"""Image method random: real training images, the baseline that every distilled set has to beat."""

import functools

from guard.data.augment import as_float
from guard.data.random_set import choose
from recover.recovery import Made, Part, Plan


def plan(request):
    """Images drawn at random from the training images of each class, each resized and centre-cropped as
    validation images are.
    """
    count = request.settings.images_per_class
    parts = []
    for label, own in enumerate(choose(request.training_images, request.classes, count, request.seed)):
        numbers = [(label, number) for number in range(count)]
        parts.append(Part(numbers, functools.partial(_make, request, own)))
    return Plan(parts)


def _make(request, chosen, progress):
    pixels = as_float(request.training_images.validation(chosen, request.size))
    progress.step()
    return Made(pixels, looked_at=chosen.tolist())
