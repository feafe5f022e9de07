"""Soft labels: the teacher's logits for many views of the distilled images.

An epoch of labels is one structured array with a row for each image, in the order of training. A row
tells all that is needed to see again what the teacher saw. So student and teacher look at the same
pixels, whoever makes the mini-batch.
"""

import contextlib
from dataclasses import asdict, dataclass

import numpy
import torch
import torch.nn.functional as F

from guard import recipes
from guard.data import augment
from guard.data.loading import batch_ranges
from guard.errors import UserError
from guard.networks.models import own_statistics
from guard.run import graphs
from guard.run.devices import computing, widened
from guard.run.seeds import generator
from guard.settings import Relabel


@dataclass(frozen=True)
class LabelRecipe(Relabel):
    """All that decides an epoch of labels besides teacher and images; batch_size is the resolved one."""

    seed: int = 0


MOST_KEPT = 2**28  # bytes of labels that wait on the device to be written


def check_classes(network, images, place, *, whose="the teacher", remedy=""):
    """A network and images have to have the same classes in the same order, and the same size.

    network: has classes and image_size. place: of the images. whose: the classes and the size are. remedy:
    what else helps where the size differs. Raises UserError that names what differs.
    """
    size = images.pixels.shape[2]
    if list(images.classes) != list(network.classes):
        wrong = sorted(set(images.classes) ^ set(network.classes))[:5]
        differing = f"{', '.join(wrong)} differ" if wrong else "their order differs"
        raise UserError(
            f"the classes of {place} are not those of {whose} ({differing}); use what is of one data set"
        )
    if size != network.image_size:
        raise UserError(
            f"the images in {place} are {size} pixels wide, those of {whose} {network.image_size}; use"
            f" images of that size{remedy}"
        )


def label_recipe(settings, images, seed):
    """The LabelRecipe for these images, with the batch size that 0 stands for."""
    per_class = -(-len(images) // len(images.classes))
    batch_size = recipes.relabel_batch_size(settings.batch_size, per_class)
    return LabelRecipe(**{**asdict(settings), "batch_size": batch_size, "seed": seed})


def gradient_fields(size, kind):
    """Fields of a row for the gradient of the teacher's cross-entropy by the view's pixels (3, size, size).

    kind: 'none'; 'signs', a bit for each; 'values', in fp16, times their largest.
    """
    if kind == "signs":
        return [("signs", "u1", -(-3 * size * size // 8))]
    if kind == "values":
        return [("gradient", "<f2", (3, size, size)), ("largest", "<f4")]
    return []


def row_type(classes, size=0, input_gradients="none"):
    """What is known of one view: which image, its box and flip, how it is mixed, the teacher's logits.

    partner: position in the mini-batch of the image it is mixed with. share: of its own pixels, 1 but
    for MixUp. mix_box: (top, left, height, width) of the partner's pixels, empty but for CutMix.
    input_gradients: the kind of gradient_fields, for images of `size` pixels.
    """
    return numpy.dtype(
        [
            ("image", "<i4"),
            ("box", "<i2", 4),
            ("flip", "?"),
            ("partner", "<i4"),
            ("share", "<f4"),
            ("mix_box", "<i2", 4),
            ("logits", "<f2", classes),
            *gradient_fields(size, input_gradients),
        ]
    )


def draw_epoch(recipe, count, size, classes, epoch):
    """The rows of one epoch, (count,), with all that the teacher says of them still zero.

    Everything random about it is drawn from (seed, epoch, mini-batch) alone. size: side of the images in
    pixels.
    """
    rows = numpy.zeros(count, row_type(classes, size, recipe.input_gradients))
    order = torch.randperm(count, generator=generator(recipe.seed, "labels", epoch))
    rows["image"] = order.numpy()
    for number, batch in enumerate(batches_of(rows, recipe.batch_size)):
        draws = generator(recipe.seed, "labels", epoch, number)
        sides = torch.full((len(batch),), size)
        views = augment.draw_views(
            draws, recipe.augmentation, sides, sides, recipe.crop_scale, flip=recipe.flip
        )
        mix = augment.draw_mix(draws, recipe.mix, len(batch), size, recipe.mix_alpha)
        batch["box"], batch["flip"] = views.boxes.numpy(), views.flips.numpy()
        batch["partner"], batch["share"], batch["mix_box"] = mix.partner.numpy(), mix.share, mix.box
    return rows


def labelling_step(teacher, recipe, device):
    """The guard.run.graphs.Step that labels a mini-batch.

    teacher: a PixelModel in eval mode on `device`. Of views (N, 3, S, S) in [0,1] it makes the logits (N,
    classes) in fp16. Where the recipe keeps input gradients it takes targets (N, classes) as well, and gives
    the gradient (N, 3, S, S) of each view's cross-entropy with its targets beside the logits.
    """

    def body(pixels, targets=None):
        with computing(recipe.precision, device), torch.set_grad_enabled(targets is not None):
            if targets is None:
                return [teacher(pixels).half()]
            pixels = pixels.detach().requires_grad_()
            logits = widened(teacher(pixels))
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits, targets, reduction="sum"), pixels)
            return [logits.detach().half(), widened(gradient)]

    return graphs.Step(body, graphs.captures(recipe.graphs, device), "the labelling")


def make_epoch(teacher, images, recipe, epoch, step=None):
    """The rows of one epoch of labels.

    teacher: a PixelModel in eval mode; images: Packed on the teacher's device. step: its labelling_step,
    which is worth making once for many epochs. With teacher_mode 'train' each mini-batch is normalized by its
    own statistics; the teacher's running statistics stay as they are.
    """
    step = step or labelling_step(teacher, recipe, images.device)
    rows = draw_epoch(recipe, len(images), images.pixels.shape[2], len(images.classes), epoch)
    kept = _Kept(rows)
    of_batches = own_statistics(teacher) if recipe.teacher_mode == "train" else contextlib.nullcontext()
    with of_batches:
        for batch in batches_of(rows, recipe.batch_size):
            if recipe.input_gradients == "none":
                (logits,) = step(look(images, batch))
                kept.add(logits=logits)
            else:
                logits, gradient = step(*look_beside(images, batch, targets_of(images, batch)))
                kept.add(logits=logits, **_fields_of(gradient, recipe.input_gradients))
    kept.write()
    return rows


class _Kept:
    """What is known of the rows of an epoch and not yet written into them: it stays on the device, since a
    copy from there waits for all that is being computed.
    """

    def __init__(self, rows):
        self.rest, self.fields, self.bytes = rows, {}, 0  # rest: rows that nothing is written into yet

    def add(self, **fields):
        """Tensors (N, ...) of the next N rows, by the names of their fields."""
        for name, values in fields.items():
            self.fields.setdefault(name, []).append(values)
            self.bytes += values.numel() * values.element_size()
        if self.bytes > MOST_KEPT:
            self.write()

    def write(self):
        count = sum(len(logits) for logits in self.fields.get("logits", ()))
        for name, values in self.fields.items():
            made = torch.cat(values).cpu()
            if made.is_floating_point() and not made.isfinite().all():
                raise UserError(
                    f"the teacher's {name.replace('largest', 'gradient')} cannot be stored in 16 bits: not a"
                    " number, or too large; take another teacher"
                )
            self.rest[name][:count] = made.numpy()
        self.rest, self.fields, self.bytes = self.rest[count:], {}, 0


def _fields_of(gradient, kind):
    """A mini-batch's gradient (N, 3, S, S) as the `gradient_fields` of its rows, on its device."""
    if kind == "signs":
        bits = (gradient > 0).flatten(1)
        bits = F.pad(bits, (0, -bits.shape[1] % 8)).unflatten(1, (-1, 8))
        powers = torch.arange(7, -1, -1, device=bits.device)  # the first bit is the highest, as numpy has it
        return {"signs": (bits.long() << powers).sum(2).to(torch.uint8)}
    largest = gradient.abs().amax((1, 2, 3)).clamp(min=torch.finfo(torch.float32).tiny)
    return {"largest": largest, "gradient": (gradient / largest.view(-1, 1, 1, 1)).half()}


def gradient_of(batch, size):
    """What a mini-batch of rows knows of the teacher's input gradient: (N, 3, size, size), or None.

    The values, or, where only signs were kept, 1 and -1.
    """
    if "signs" in batch.dtype.names:
        bits = numpy.unpackbits(batch["signs"], axis=1, count=3 * size * size)
        return torch.from_numpy(2 * bits.astype("float32") - 1).view(-1, 3, size, size)
    if "gradient" in batch.dtype.names:
        largest = torch.from_numpy(batch["largest"].astype("float32"))
        return torch.from_numpy(batch["gradient"].astype("float32")) * largest.view(-1, 1, 1, 1)
    return None


def batches_of(rows, batch_size):
    """The rows of an epoch, mini-batch by mini-batch."""
    return (rows[start:stop] for start, stop in batch_ranges(len(rows), batch_size))


def look(images, batch):
    """The pixels (N, 3, S, S) in [0,1] that a mini-batch of rows describes, on the images' device."""
    return look_beside(images, batch)[0]


def look_beside(images, batch, *beside):
    """[what `look` gives, *beside] on the images' device, to which the tensors `beside` go in the same copy.

    images: Packed.
    """
    batch = numpy.array(batch)  # rows of a memory-mapped file are read-only
    views = augment.Views(_whole_numbers(batch["box"]), torch.from_numpy(batch["flip"]))
    share, box = float(batch["share"][0]), tuple(batch["mix_box"][0].tolist())
    pixels, partner, *beside = augment.views_of(
        images.pixels,
        _whole_numbers(batch["image"]),
        views,
        images.pixels.shape[2],
        device=images.device,
        beside=[_whole_numbers(batch["partner"]), *beside],
    )
    mixed = augment.apply_mix(pixels, augment.Mix(partner, share, box))
    return [augment.as_float(mixed), *beside]


def targets_of(images, batch):
    """(N, classes) float32 on the CPU: the share of each class in each image of a mini-batch.

    These are the hard labels, or the images' shares where they have some, mixed in the proportion of the
    pixels: by MixUp's share, or by the area of CutMix's box.
    """
    shown = _whole_numbers(batch["image"])
    if images.shares is None:
        own = F.one_hot(images.labels[shown], len(images.classes)).float()
    else:
        own = images.shares[shown]
    partner = own[_whole_numbers(batch["partner"])]
    share = float(batch["share"][0])
    if share == 1:
        _, _, height, width = batch["mix_box"][0].tolist()
        share = 1 - height * width / images.pixels.shape[2] ** 2
    return share * own + (1 - share) * partner


def _whole_numbers(column):
    return torch.from_numpy(column.astype(numpy.int64))
