"""Stage relabel: the teacher's logits for every view that the student will see, epoch by epoch."""

import time
from dataclasses import asdict
from pathlib import Path

from guard.distilled import image_folder
from guard.distilled.label_store import LabelStore
from guard.distilled.soft_labels import check_classes, label_recipe, make_epoch
from guard.networks import layout
from guard.run import devices, lock, processes, records
from guard.run.progress import Progress

# ---- setup ---------------------------------------------------------------------------------------


def relabel(settings, teacher, *, distilled, output, log, seed, device, force):
    """Writes OUTPUT/epoch_NNNN.npy for every epoch of `settings` (settings.Relabel); epochs that are
    there are not made again.

    teacher: Checkpoint. Raises UserError for images that do not fit the teacher and for a folder of
    other labels, unless `force`.
    """
    output = Path(output)
    log = Path(log or output / "log.json")
    with lock.held(output, log.parent), devices.joined(device) as where:
        images = image_folder.load_distilled(distilled)
        check_classes(teacher, images, distilled)
        records.read(log)
        model = teacher.build(where)  # before --force clears what is there
        recipe = label_recipe(settings, images, seed)
        store = LabelStore(output)
        if _begin(store, recipe, teacher, images, force):
            return
        started = time.time()
        layout.arrange(model.network, channels_last=recipe.channels_last, compile=recipe.compile)
        _label(store, model, images.to(where), recipe)
        processes.barrier()
        if processes.rank() == 0:
            with store.finishing(len(images)):
                records.update(
                    log,
                    "relabel",
                    {
                        "settings": asdict(recipe),
                        "seed": seed,
                        "teacher": teacher.fingerprint,
                        "images": images.fingerprint,
                        "seconds": time.time() - started,
                        "environment": records.environment(where),
                    },
                )
            print(
                f"relabel: {recipe.epochs} epochs of labels for {len(images)} images in {output}", flush=True
            )


def _begin(store, recipe, teacher, images, force):
    finished = False
    if processes.rank() == 0:
        finished = store.begin(recipe, teacher.fingerprint, images.fingerprint, images.classes, force)
        if finished:
            print(f"the soft labels in {store.folder} are finished; --force (-f in run.sh) makes them again")
    processes.barrier()
    return finished if processes.rank() == 0 else bool(store.manifest().get("complete"))


# ---- loop ----------------------------------------------------------------------------------------


def _label(store, teacher, images, recipe):
    mine = [
        epoch
        for epoch in range(processes.rank(), recipe.epochs, processes.world_size())
        if not store.has(epoch)
    ]
    started = time.time()
    with Progress("relabel", len(mine), "epoch") as progress:
        for number, epoch in enumerate(mine, 1):
            store.write(epoch, make_epoch(teacher, images, recipe, epoch))
            rate = number * len(images) / (time.time() - started)
            progress.step(images_per_second=rate)
            progress.line(f"epoch {epoch + 1}/{recipe.epochs}, {rate:.0f} images/s")
