"""Stage relabel: the teacher's logits for every view that the student will see, epoch by epoch."""

import sys
import time
from dataclasses import asdict

from guard.distilled import image_folder, shared_set
from guard.distilled.label_store import LabelStore
from guard.distilled.soft_labels import check_classes, label_recipe, labelling_step, make_epoch
from guard.errors import UserError
from guard.networks import layout
from guard.run import precision, processes
from guard.run.progress import Progress
from guard.run.stage import Stage


def relabel(settings, teacher, *, distilled, output, log, seed, device_name, force):
    """Writes OUTPUT/epoch_NNNN.npy for every epoch of `settings` (settings.Relabel).

    teacher: Checkpoint. Epochs that are there are not made again. Raises UserError for images that do not fit
    the teacher, and for a folder of other labels, unless `force`.
    """
    image_folder.check_apart(output, distilled)
    work = Stage("relabel", output, log=log, force=force)
    with work.entered(device_name) as device:
        images = shared_set.load(distilled).in_order_of(teacher.classes)
        check_classes(teacher, images, distilled)
        _tell_another_teacher(distilled, teacher)
        model = teacher.build(device)  # what is wrong with it shows before --force clears what is there
        store = LabelStore(work.output)
        settings = precision.settled(settings, work.earlier_settings(store.ledger, "recipe"), device)
        recipe = label_recipe(settings, images, seed)
        if recipe.top_classes > len(images.classes):
            raise UserError(
                f"--top-classes {recipe.top_classes} is more than the {len(images.classes)} classes; ask for"
                " fewer, or 0 for all"
            )
        key = store.key(recipe, teacher.fingerprint, images.fingerprint, images.classes)
        parts = store.parts(recipe.epochs)
        if work.finished_or_begin(store.ledger, key, parts):
            return
        layout.arrange(model.network, channels_last=recipe.channels_last, compile=recipe.compile)
        _label(work, store, model, images.to(device), recipe)
        said = f"{recipe.epochs} epochs of labels for {len(images)} images"
        entry = {"settings": asdict(recipe), "seed": seed, "teacher": teacher.fingerprint}
        work.finish(parts, said=said, **entry, images=images.fingerprint)


def _tell_another_teacher(distilled, teacher):
    """A note where images of ours came from another teacher than that of the labels."""
    made = image_folder.teacher_of(distilled)
    if made not in (None, teacher.fingerprint) and processes.rank() == 0:
        told = (
            f"note: the images in {distilled} are of another teacher than these labels (-Y of run.sh does so)"
        )
        print(told, file=sys.stderr, flush=True)


def _label(work, store, model, images, recipe):
    """Makes the epochs that are missing and fall to this process."""
    mine = [int(name) for name in work.mine()]
    about = f"{len(work.missing)} of {recipe.epochs} epochs of labels to make, for {len(images)} images"
    with Progress("relabel", len(mine), "epoch", about=about) as progress:
        began, step = time.monotonic(), labelling_step(model, recipe, images.device)
        for number, epoch in enumerate(mine, 1):
            started = time.monotonic()
            rows = make_epoch(model, images, recipe, epoch, step)
            store.write(epoch, rows, recipe, images, seconds=time.monotonic() - started)
            rate = number * len(images) / (time.monotonic() - began)
            progress.step(images_per_second=rate)
            progress.line(f"epoch {epoch + 1}/{recipe.epochs}, {rate:.0f} images/s")
