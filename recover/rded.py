"""Image method rded: the crops of training images that the teacher finds easiest (Sun et al., CVPR 2024).

Of each class some training images are candidates. Of each candidate some random crops are scored by the
teacher's cross-entropy, and the crop with the lowest is kept. The kept crops with the lowest cross-entropy
become the images, N x N of them stitched to one.
"""

import functools

import torch
import torch.nn.functional as F

from guard.data import augment
from guard.errors import UserError
from guard.run import devices
from guard.run.seeds import generator
from recover.recovery import Made, Part, Plan


def plan(request):
    """A part for each class. Its one loss is the teacher's cross-entropy of the crops."""
    settings, parts = request.settings, []
    if settings.stitch > request.size:
        raise UserError(
            f"--stitch {settings.stitch} is more than the {request.size} pixels of an image's side"
        )
    for label, name in enumerate(request.classes):
        own = (request.training_images.labels == label).nonzero().squeeze(1)
        needed = settings.images_per_class * settings.stitch**2
        if min(len(own), settings.candidates) < needed:
            raise UserError(
                f"class {name}: {needed} crops are needed for {settings.images_per_class} images, of"
                f" {min(len(own), settings.candidates)} training images; raise --candidates, or ask for fewer"
            )
        images = [(label, number) for number in range(settings.images_per_class)]
        parts.append(Part(images, functools.partial(_make, request, label, own)))
    return Plan(parts, columns=("cross-entropy of the crops",), steps=settings.crops)


def _make(request, label, own, progress):
    """The images of a class: the best crop of each candidate, of these the easiest, stitched.

    own: indices of the class's training images.
    """
    settings = request.settings
    draws = generator(request.seed, "rded", label)
    chosen = own[torch.randperm(len(own), generator=draws)[: settings.candidates]]
    best = losses = None
    for _ in range(settings.crops):
        crops = _crops(request, chosen, draws)
        found = cross_entropies(request, crops, label)
        if best is None:
            best, losses = crops, found
        better = found < losses
        best = torch.where(better.view(-1, 1, 1, 1), crops, best)
        losses = torch.minimum(found, losses)
        progress.step(cross_entropy=losses.mean())
    easiest = losses.argsort(stable=True)[: settings.images_per_class * settings.stitch**2]
    pixels = stitched(best[easiest], settings.stitch, request.size)
    per_image = losses[easiest].view(settings.images_per_class, -1).mean(1, keepdim=True)
    return Made(pixels, losses=per_image.tolist(), looked_at=chosen.tolist())


def _crops(request, chosen, draws):
    """One random resized crop of each chosen training image, (count, 3, S, S) in [0,1] on the device."""
    settings = request.settings

    def draw(heights, widths):
        boxes = augment.resized_crops(draws, heights, widths, settings.crop_area)
        return augment.Views(boxes, torch.zeros(len(boxes), dtype=torch.bool))

    views = request.training_images.views(chosen, draw, request.size)
    return augment.as_float(views.to(request.device))


@torch.no_grad()
def cross_entropies(request, crops, label):
    """(count,) the teacher's cross-entropy of each crop, for the class `label`."""
    found = []
    for part in crops.split(request.settings.pack_images):
        with devices.computing(request.settings.precision, request.device):
            logits = devices.widened(request.model(part))
        labels = torch.full((len(part),), label, device=logits.device)
        found.append(F.cross_entropy(logits, labels, reduction="none"))
    return torch.cat(found)


def stitched(crops, side, size):
    """(count / side^2, 3, size, size): side x side crops on each image, each at 1 / side of its size."""
    if side == 1:
        return crops
    # Tiles differ by a pixel where `size` is no multiple of `side`.
    tile_sizes = [size * (place + 1) // side - size * place // side for place in range(side)]
    canvas = crops.new_zeros(len(crops) // side**2, 3, size, size)
    groups = crops.unflatten(0, (-1, side, side))
    for row in range(side):
        for column in range(side):
            top, left = size * row // side, size * column // side
            height, width = tile_sizes[row], tile_sizes[column]
            shrunk = F.interpolate(groups[:, row, column], (height, width), mode="bilinear", antialias=True)
            canvas[:, :, top : top + height, left : left + width] = shrunk
    return canvas.clamp(0, 1)
