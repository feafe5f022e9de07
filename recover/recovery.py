"""Stage recover: distilled images, by the method that the settings name.

What is here is the same for all methods. A method, a row of guard.registry.IMAGE_METHODS, gets a Request and
gives a Plan: the parts in which the images are made, each with the function that makes it.
"""

import os
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from guard import registry
from guard.data import find, images
from guard.distilled import image_folder
from guard.errors import UserError
from guard.networks import checkpoint, layout, memory, models
from guard.run import lock, precision, processes, seeds
from guard.run.progress import Progress
from guard.run.stage import Stage
from guard.run.unfinished import Unfinished
from guard.settings import as_dict

LONGEST_NAME = 200  # bytes of a class's name: file systems take 255, with number, suffix and `.PID.part`
MOST_IMAGES = 500  # that go through the teacher together; a GPU is busy long before


@dataclass(frozen=True)
class Request:
    """What an image method is asked for.

    settings: settings.Recover. model: the teacher, a PixelModel in eval mode on `device`. classes: their
    names in label order. training_images: the training set as a holder of guard.data.images, or None
    where no method needs it. teacher: its Checkpoint, for methods that train networks of their own.
    """

    settings: object
    model: models.PixelModel
    classes: list
    seed: int
    device: torch.device
    training_images: object = None
    teacher: object = None

    @property
    def size(self):
        """Side of the images, in pixels."""
        return self.model.image_size


class Made(NamedTuple):
    """pixels: (N, 3, S, S) in [0,1]. losses: a row for each image, with a number for each of Plan.columns.
    looked_at: indices of all training images that were looked at for these, in any order.
    """

    pixels: torch.Tensor
    losses: list | tuple = ()
    looked_at: list | tuple = ()


class Part(NamedTuple):
    """The smallest unit that is not made again after a stop.

    images: (label, number within its class) of each image, in order. make(progress) -> Made. keeps_state:
    whether it takes so long that make is called with a guard.run.unfinished.Unfinished, too.
    """

    images: list
    make: object
    keeps_state: bool = False


class Plan(NamedTuple):
    """parts: of the whole work. columns: names of the losses. steps: how often each part's make calls
    progress.step().
    """

    parts: list
    columns: tuple = ()
    steps: int = 1


# ---- setup ---------------------------------------------------------------------------------------


def load_teacher(path, method):
    """A teacher's Checkpoint. Raises UserError where `method` cannot use it.

    Its classes have to be names of folders, and a method may need batch norm.
    """
    teacher = checkpoint.load(path, "teacher")
    if impossible := [name for name in teacher.classes if not _names_a_folder(name)]:
        raise UserError(
            f"the teacher {path} has a class {impossible[0][:80]!r}, which cannot be the name of a folder of"
            " images; train it on classes with other names"
        )
    needed = registry.IMAGE_METHODS[method].needs_batch_norm
    if needed and not models.batch_norm_layers(teacher.build()):
        raise UserError(
            f"the teacher {path} ({teacher.model}) has no batch norm, so nothing can be recovered from it;"
            " choose another model"
        )
    return teacher


def _names_a_folder(class_name):
    """Whether images can lie in a folder of this name and be found there: not hidden, not elsewhere, not
    long.
    """
    try:
        length = len(os.fsencode(class_name))
    except UnicodeEncodeError:
        return False
    outside = class_name.startswith(".") or {"/", "\\", "\0"} & set(class_name)
    return 0 < length <= LONGEST_NAME and not outside


def recover(settings, teacher, *, dataset, root, output, log, seed, device_name, force):
    """Makes the images of `settings` (settings.Recover) in OUTPUT/CLASS/CLASS_N.png, and their manifest.

    teacher: Checkpoint. dataset, root: of the training set, for methods that need it. Parts whose images are
    there already are not made again; a finished folder is left as it is. Raises UserError for a folder that
    holds images of another teacher, seed or settings, unless `force`.
    """
    method = registry.IMAGE_METHODS[settings.method]
    work = Stage("recover", output, log=log, force=force)
    with work.entered(device_name) as device:
        ledger = image_folder.ledger(work.output)
        model = teacher.build(device)
        earlier = work.earlier_settings(ledger, "settings")
        settings = precision.settled(settings, earlier, device)
        # It decides how images are packed, and so how they are rounded.
        pack_images = settings.pack_images or _earlier_pack_images(earlier)
        if not pack_images:
            fitting = memory.images_that_fit(model, teacher.image_size, device, most=MOST_IMAGES)
            pack_images = processes.least_of(fitting, device)
        settings = replace(settings, pack_images=pack_images)
        key = {
            "teacher": teacher.fingerprint,
            "dataset": teacher.dataset,
            "seed": seed,
            "settings": as_dict(settings),
            "classes": list(teacher.classes),
            "image_size": teacher.image_size,
        }
        layout.arrange(model.network, channels_last=settings.channels_last)
        request = Request(settings, model, list(teacher.classes), seed, device, teacher=teacher)
        if any(registry.IMAGE_METHODS[name].needs_training_images for name in registry.methods_of(settings)):
            source = _training_set(dataset or teacher.dataset, root, teacher)
            key |= {"data": source.fingerprint, "dataset": source.name}
            held = images.load(source, teacher.image_size).to(device)
            request = replace(request, training_images=held)
        plan = registry.function_of(method.function)(request)
        files = {str(number): _files(work.output, part, request) for number, part in enumerate(plan.parts)}
        if work.finished_or_begin(ledger, key, files):
            return
        _make_parts(work, plan, files, request)
        _finish(work, plan, files, request, teacher)


def _training_set(dataset, root, teacher):
    source = find.find(dataset, root, "train")
    if list(source.classes) != list(teacher.classes):
        raise UserError(
            f"the classes of {source.path} are not those of the teacher; use the data set it was trained on,"
            f" {teacher.dataset}"
        )
    return source


def _earlier_pack_images(earlier):
    """The images per pack that a folder was begun with, perhaps on a machine with another memory, or 0."""
    count = earlier.get("pack_images")
    return count if type(count) is int and count > 0 else 0


def _files(output, part, request):
    settings = request.settings
    named = [(request.classes[label], number) for label, number in part.images]
    return [output / name / f"{name}_{number}.{settings.image_format}" for name, number in named]


# ---- loop ----------------------------------------------------------------------------------------


def _make_parts(work, plan, files, request):
    """Writes the images of the missing parts and, once all images of a part are there, its note."""
    if processes.rank() == 0:
        for name in request.classes:
            lock.clear(work.output / name)  # of images that a killed process had begun to write
    processes.barrier()  # or it would clear away what the others have begun by now
    mine, count = work.mine(), sum(len(part.images) for part in plan.parts)
    about = (
        f"{count} images by {request.settings.method}, {len(work.missing)} of {len(plan.parts)} parts to make"
    )
    with Progress("recover", len(mine) * plan.steps, "step", about=about) as progress:
        for done, name in enumerate(mine, 1):
            part, state = plan.parts[int(name)], Unfinished(work.output, name)
            # For methods that draw from torch's own generator: whoever makes the part, it is the same.
            seeds.seed_everything(request.seed, request.settings.method, name)
            made = part.make(progress, state) if part.keeps_state else part.make(progress)
            if len(made.pixels) != len(files[name]):
                raise UserError(
                    f"image method {request.settings.method} made {len(made.pixels)} of the"
                    f" {len(files[name])} images of a part; give fewer --images-per-class, or mend it"
                )
            if not (made.pixels.isfinite().all() and torch.tensor(made.losses).isfinite().all()):
                raise UserError(
                    f"what {request.settings.method} makes is not a number; lower --step-size or --r-bn, or"
                    " take another teacher"
                )
            for pixels, path in zip(made.pixels.cpu(), files[name]):
                image_folder.write_image(pixels, path)
            kept = {"losses": list(made.losses), "looked_at": list(made.looked_at)}
            work.ledger.note(name, files[name], seconds=state.seconds(), **kept)
            means = [sum(column) / len(column) for column in zip(*made.losses)]
            shown = "".join(f", {title} {mean:.4f}" for title, mean in zip(plan.columns, means))
            progress.line(f"part {done}/{len(mine)}, {len(part.images)} images{shown}")


# ---- save ----------------------------------------------------------------------------------------


def _finish(work, plan, files, request, teacher):
    processes.barrier()
    results, count, fingerprint = {}, sum(map(len, files.values())), None
    if processes.rank() == 0:  # the record tells of which images it speaks
        fingerprint = image_folder.fingerprint_of(work.output, request.classes)
    if processes.rank() == 0 and plan.columns:
        rows = [row for part in work.ledger.kept_values("losses", files).values() for row in part]
        means = [sum(column) / len(column) for column in zip(*rows)]
        results = dict(zip(plan.columns, means))
    entry = {"settings": as_dict(request.settings), "seed": request.seed, "teacher": teacher.fingerprint}
    work.finish(
        files, said=f"{count} images", **entry, images=count, fingerprint=fingerprint, results=results
    )
