"""Stage recover."""

import functools
import glob
import os
import time
from dataclasses import replace
from pathlib import Path

from guard.distilled.image_folder import FORMAT, MANIFEST, write_image
from guard.errors import UserError
from guard.networks import checkpoint, layout, memory, models
from guard.run import devices, fingerprints, lock, processes, records, storage
from guard.run.progress import Progress
from guard.settings import as_dict
from recover.sre2l import MOST_IMAGES, _recover_in_parts, packs_of, problems_of

# bytes of a class name; file systems take 255, with the number, the suffix and what marks a half-written
# file
LONGEST_NAME = 200


def load_teacher(path):
    """A teacher's Checkpoint. Raises UserError for one without batch norm, and for class names that
    would lead out of the images' folder.
    """
    teacher = checkpoint.load(path, "teacher")
    if impossible := [name for name in teacher.classes if not _names_a_folder(name)]:
        raise UserError(
            f"the teacher {path} has a class {impossible[0][:80]!r}, which cannot be the name of a folder of"
            " images; train it on classes with other names"
        )
    if not models.batch_norm_layers(teacher.build()):
        raise UserError(
            f"the teacher {path} ({teacher.model}) has no batch norm, so nothing can be recovered from it;"
            " choose another model"
        )
    return teacher


def recover(settings, teacher, *, output, log, seed, device, force):
    """Recovers all images of `settings` (settings.Recover) from `teacher` (Checkpoint) into
    OUTPUT/CLASS/CLASS_N.png.

    Packs whose images are there already are not made again; a finished folder is left as it is. Raises
    UserError for a folder that holds images of another teacher, seed or settings, unless `force`.
    """
    output = Path(output)
    log = Path(log or output / "log.json")
    paths = [
        [
            output / name / f"{name}_{number}.{settings.image_format}"
            for number in range(settings.images_per_class)
        ]
        for name in teacher.classes
    ]
    with lock.held(output, log.parent), devices.joined(device) as where:
        records.read(log)
        begun_with = None if force else _begun_with(output)
        pack_images = (
            settings.pack_images
            or begun_with
            or memory.images_that_fit(teacher.build(where), teacher.image_size, where, most=MOST_IMAGES)
        )
        settings = replace(settings, pack_images=pack_images)
        if _begin(output, settings, teacher, seed, force, paths):
            if processes.rank() == 0:
                print(f"the images in {output} are finished; --force (-f in run.sh) makes them again")
            return
        if processes.rank() == 0:
            for row in paths:
                lock.clear(row[0].parent)  # of the images that a killed process had begun to write
        packs = packs_of(
            problems_of(len(paths), settings.images_per_class, settings.classes_per_problem),
            settings.pack_images,
        )
        earlier = _manifest(output).get("losses") or {}
        missing = [
            number for number, pack in enumerate(packs) if not _has(output, number, pack, paths, earlier)
        ]
        processes.barrier()  # before anybody writes what others still look for
        mine = [(number, packs[number]) for number in missing[processes.rank() :: processes.world_size()]]
        model = teacher.build(where)
        layout.arrange(model.network, channels_last=settings.channels_last)
        _recover_packs(settings, model, mine, paths, output, seed, where)
        processes.barrier()
        if processes.rank() == 0:
            _finish(output, settings, teacher, seed, paths, log, where, len(packs), earlier)
        processes.barrier()


def _names_a_folder(class_name):
    """Whether a class's images can lie in a folder of its name, and be found there by the stages that
    follow: not hidden, not elsewhere, and with room for what their own names add.
    """
    try:
        length = len(os.fsencode(class_name))
    except UnicodeEncodeError:
        return False
    return (
        0 < length <= LONGEST_NAME
        and not class_name.startswith(".")
        and not {"/", "\\", "\0"} & set(class_name)
    )


def _recover_packs(settings, model, packs, paths, output, seed, where):
    """Writes the images of (number, pack) pairs, and once all of a pack are there, what the record will
    say of it.
    """
    with Progress("recover", len(packs) * settings.iterations, "iteration") as progress:
        for done, (number, pack) in enumerate(packs, 1):
            started = time.time()
            pixels, final = memory.halved_when_full(
                functools.partial(_recover_in_parts, settings, model, pack, seed, where, progress),
                len(pack),
                "problems",
            )
            for problem, images in zip(pack, pixels.cpu()):
                for label, image in zip(problem.classes, images):
                    write_image(image, paths[label][problem.number])
            made = {str(path.relative_to(output)): fingerprints.of_file(path) for path in _paths(pack, paths)}
            storage.write_sealed(
                {"losses": final.tolist(), "files": made, "seconds": time.time() - started},
                _note(output, number),
            )
            entropy, distance = final.mean(0).tolist()
            progress.line(
                f"pack {done}/{len(packs)}, {pixels.shape[0] * pixels.shape[1]} images: cross-entropy"
                f" {entropy:.4f}, batch-norm loss {distance:.4f}"
            )


def _paths(pack, paths):
    return [paths[label][problem.number] for problem in pack for label in problem.classes]


def _note(output, number):
    """Where a finished pack's losses and seconds wait for the end of the stage."""
    return output / f".pack_{number}.json"


def _has(output, number, pack, paths, earlier):
    """Whether a pack is finished: its note is written last, or it stands in the manifest of a folder
    that was complete once.
    """
    return (str(number) in earlier or _note(output, number).exists()) and all(
        path.exists() for path in _paths(pack, paths)
    )


def _manifest(output):
    return storage.read_sealed(output / MANIFEST, "manifest of images", storage.FORCE)


def _begun_with(output):
    """The images per pack of a folder that was begun, perhaps on a machine with another memory; None
    where there is none.
    """
    settings = _manifest(output).get("settings") if (output / MANIFEST).exists() else None
    images = settings.get("pack_images") if isinstance(settings, dict) else None
    return images if type(images) is int and images > 0 else None


def _begin(output, settings, teacher, seed, force, paths):
    """Writes the manifest, or goes on with images begun with the same one; returns whether all are there."""
    manifest = output / MANIFEST
    wanted = {
        "format": FORMAT,
        "teacher": teacher.fingerprint,
        "dataset": teacher.dataset,
        "seed": seed,
        "settings": as_dict(settings),
        "classes": list(teacher.classes),
        "image_size": teacher.image_size,
    }
    finished = False
    if manifest.exists() and not force:
        found = _manifest(output)
        difference = [key for key in wanted if found.get(key) != wanted[key]]
        if difference:
            raise UserError(
                f"{output} holds images made with another {', '.join(difference)}; choose another experiment"
                " id (-x in run.sh) or --force (-f) to replace them"
            )
        finished = bool(found.get("complete")) and all(path.exists() for row in paths for path in row)
        if finished and processes.rank() == 0:
            _remove_notes(output)
    elif processes.rank() == 0:
        stray = [path for path in output.glob("*/*") if path.is_file() and not manifest.exists()]
        if stray:
            raise UserError(
                f"{output} already holds files that are not ours, such as {stray[0]}; choose another --output"
            )
        with storage.sealing({**wanted, "complete": False}, manifest):
            _remove_images(output)
    processes.barrier()
    return finished


def _remove_images(output):
    """Removes what earlier runs of ours left in a folder with our manifest."""
    _remove_notes(output)
    for folder in output.glob("*/"):
        name = glob.escape(folder.name)
        for path in [*folder.glob(f"{name}_*.png"), *folder.glob(f"{name}_*.jpg")]:
            path.unlink()


def _remove_notes(output):
    for path in output.glob(".pack_*.json"):
        path.unlink()


def _finish(output, settings, teacher, seed, paths, log, where, packs, earlier):
    notes = {
        str(number): storage.read_sealed(_note(output, number), "note of a pack")
        for number in range(packs)
        if _note(output, number).exists()
    }
    losses = {
        str(number): notes[str(number)]["losses"] if str(number) in notes else earlier[str(number)]
        for number in range(packs)
    }
    files = {str(path.relative_to(output)): fingerprints.of_file(path) for row in paths for path in row}
    manifest = _manifest(output)
    as_made = (manifest.get("files") or {}) | {
        name: made for note in notes.values() for name, made in note["files"].items()
    }
    if damaged := [name for name in files if as_made.get(name) != files[name]]:
        raise UserError(
            f"{output / damaged[0]} is not as it was made; remove it and run python -m recover again"
        )
    entropy, distance = (
        sum(column) / len(column) for column in zip(*(each for pack in losses.values() for each in pack))
    )
    with storage.sealing({**manifest, "complete": True, "files": files, "losses": losses}, output / MANIFEST):
        records.update(
            log,
            "recover",
            {
                "settings": as_dict(settings),
                "seed": seed,
                "teacher": teacher.fingerprint,
                "images": len(files),
                "results": {"cross-entropy": entropy, "batch-norm loss": distance},
                "seconds": sum(note["seconds"] for note in notes.values()),
                "environment": records.environment(where),
            },
        )
    _remove_notes(output)
    print(f"recover: {len(files)} images in {output}", flush=True)
