"""Soft labels."""

from dataclasses import asdict, dataclass

import numpy
import torch
import torch.nn.functional as F

from guard import recipes
from guard.data import augment
from guard.data.loading import batch_ranges
from guard.errors import UserError
from guard.run.devices import computing
from guard.run.seeds import generator


@dataclass(frozen=True)
class LabelRecipe:
    """All that decides an epoch of labels besides teacher and images; batch_size is the resolved one."""

    epochs: int
    batch_size: int
    augmentation: str
    mix: str
    mix_alpha: float
    teacher_mode: str
    precision: str
    channels_last: bool
    compile: bool
    seed: int


def check_classes(teacher, images, folder):
    """Teacher and images have to have the same classes in the same order, and the same size. Raises
    UserError.
    """
    if list(images.classes) != list(teacher.classes):
        wrong = sorted(set(images.classes) ^ set(teacher.classes))[:5]
        raise UserError(
            f"the classes of {folder} are not the teacher's ({', '.join(wrong) or 'another order'} differ);"
            " use images and a teacher of one data set"
        )
    if images.pixels.shape[2] != teacher.image_size:
        raise UserError(
            f"the images in {folder} are {images.pixels.shape[2]} pixels wide, the teacher sees"
            f" {teacher.image_size}; use images of that size"
        )


def label_recipe(settings, images, seed):
    """The LabelRecipe for these images, with the batch size that 0 stands for."""
    per_class = -(-len(images) // len(images.classes))
    batch_size = recipes.relabel_batch_size(settings.batch_size, per_class)
    return LabelRecipe(**{**asdict(settings), "batch_size": batch_size, "seed": seed})


def _row(classes):
    return numpy.dtype(
        [
            ("image", "<i4"),
            ("box", "<i2", 4),
            ("flip", "?"),
            ("partner", "<i4"),
            ("share", "<f4"),
            ("mix_box", "<i2", 4),
            ("logits", "<f2", classes),
        ]
    )


def draw_epoch(recipe, count, size, classes, epoch):
    """The rows of one epoch, logits still zero: everything random about it, drawn from (seed, epoch,
    batch) alone.
    """
    rows = numpy.zeros(count, _row(classes))
    order = torch.randperm(count, generator=generator(recipe.seed, "labels", epoch))
    rows["image"] = order.numpy()
    for number, batch in enumerate(batches_of(rows, recipe.batch_size)):
        draws = generator(recipe.seed, "labels", epoch, number)
        sides = torch.full((len(batch),), size)
        views = augment.draw_views(draws, recipe.augmentation, sides, sides)
        mix = augment.draw_mix(draws, recipe.mix, len(batch), size, recipe.mix_alpha)
        batch["box"], batch["flip"] = views.boxes.numpy(), views.flips.numpy()
        batch["partner"], batch["share"], batch["mix_box"] = mix.partner.numpy(), mix.share, mix.box
    return rows


def make_epoch(teacher, images, recipe, epoch):
    """One epoch of labels. teacher: a PixelModel in eval mode; images: Packed on the teacher's device.

    With teacher_mode 'train' each batch is normalized by its own statistics; the teacher's running ones
    stay as they are.
    """
    size = images.pixels.shape[2]
    rows = draw_epoch(recipe, len(images), size, len(images.classes), epoch)
    with (
        torch.no_grad(),
        _teacher_mode(teacher, recipe.teacher_mode),
        computing(recipe.precision, images.pixels.device),
    ):
        for batch in batches_of(rows, recipe.batch_size):
            batch["logits"] = teacher(look(images, batch)).half().cpu().numpy()
    return rows


class _teacher_mode:
    """Puts the batch-norm layers alone into train mode, with running statistics that do not move."""

    def __init__(self, teacher, mode):
        from guard.networks.models import batch_norm_layers

        self.layers = batch_norm_layers(teacher) if mode == "train" else []

    def __enter__(self):
        self.momenta = [layer.momentum for layer in self.layers]
        for layer in self.layers:
            layer.train()
            layer.momentum = 0.0

    def __exit__(self, *_):
        for layer, momentum in zip(self.layers, self.momenta):
            layer.eval()
            layer.momentum = momentum


def batches_of(rows, batch_size):
    """The rows of an epoch, batch by batch."""
    return (rows[start:stop] for start, stop in batch_ranges(len(rows), batch_size))


def look(images, batch):
    """The pixels (N, 3, S, S) in [0,1] that a batch of rows describes, on the images' device."""
    batch = numpy.array(batch)  # rows of a memory-mapped file are read-only
    chosen = torch.from_numpy(batch["image"].astype(numpy.int64)).to(images.pixels.device)
    views = augment.Views(torch.from_numpy(batch["box"].astype(numpy.int64)), torch.from_numpy(batch["flip"]))
    mix = augment.Mix(
        torch.from_numpy(batch["partner"].astype(numpy.int64)),
        float(batch["share"][0]),
        tuple(batch["mix_box"][0].tolist()),
    )
    pixels = augment.apply_views(images.pixels[chosen], views, images.pixels.shape[2])
    return augment.as_float(augment.apply_mix(pixels, mix))


def targets_of(images, batch):
    """(N, classes) float32: the share of each class in each image of a batch of rows, on the images' device.

    These are the hard labels, mixed in the proportion of the pixels: by MixUp's share, or by the area of
    CutMix's box.
    """
    classes, size = len(images.classes), images.pixels.shape[2]
    labels = images.labels[torch.from_numpy(batch["image"].astype(numpy.int64))]
    own = F.one_hot(labels, classes).float()
    partner = own[torch.from_numpy(batch["partner"].astype(numpy.int64))]
    height, width = batch["mix_box"][0][2:].tolist()
    share = float(batch["share"][0]) if batch["share"][0] < 1 else 1 - height * width / size**2
    return (share * own + (1 - share) * partner).to(images.pixels.device)
