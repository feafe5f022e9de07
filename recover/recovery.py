"""Stage recover: images that a teacher finds typical, from its weights and batch-norm statistics alone
(SRe2L, CDA).
"""

import functools
import glob
import math
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from guard import checkpoint, lock, memory, models, recipes, records, training
from guard import device as devices
from guard.augment import Sampler, Views, resized_crops
from guard.batch_stats import BatchStatistics
from guard.errors import UserError

FORMAT = "guard-images-1"
MANIFEST = "manifest.json"
# bytes of a class name; file systems take 255, with the number, the suffix and what marks a half-written
# file
LONGEST_NAME = 200
MOST_IMAGES = 500  # that go through the teacher together; a GPU is busy long before

# ---- setup ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """One optimization problem: the `number`-th image of each of these classes. Nothing passes between
    problems.
    """

    number: int
    classes: tuple

    def key(self, seed):
        """What its random draws depend on, however the problems are packed."""
        return (seed, "recover", self.number, self.classes[0])


def problems_of(classes, images_per_class, classes_per_problem):
    """All problems: for each image number, one per group of up to `classes_per_problem` classes."""
    groups = [
        tuple(range(start, min(start + classes_per_problem, classes)))
        for start in range(0, classes, classes_per_problem)
    ]
    return [Problem(number, group) for number in range(images_per_class) for group in groups]


def packs_of(problems, pack_images):
    """Problems that are optimized together: runs of equal size, as many as have at most `pack_images`
    images, at least one.

    A function of the recipe alone, so float32 rounding, too, is the same for any number of processes.
    """
    packs = []
    for problem in problems:
        room = (
            packs
            and len(packs[-1][0].classes) == len(problem.classes)
            and (len(packs[-1]) + 1) * len(problem.classes) <= pack_images
        )
        if room:
            packs[-1].append(problem)
        else:
            packs.append([problem])
    return packs


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
    """Recovers all images of `settings` (recipes.Recover) from `teacher` (Checkpoint) into
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
            if devices.rank() == 0:
                print(f"the images in {output} are finished; --force (-f in run.sh) makes them again")
            return
        if devices.rank() == 0:
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
        devices.barrier()  # before anybody writes what others still look for
        mine = [(number, packs[number]) for number in missing[devices.rank() :: devices.world_size()]]
        model = teacher.build(where)
        devices.arrange(model.network, channels_last=settings.channels_last)
        _recover_packs(settings, model, mine, paths, output, seed, where)
        devices.barrier()
        if devices.rank() == 0:
            _finish(output, settings, teacher, seed, paths, log, where, len(packs), earlier)
        devices.barrier()


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


# ---- loss ----------------------------------------------------------------------------------------


def crop_scale_at(iteration, iterations, *, schedule, milestone, lowest):
    """CDA's least share of the area that a crop keeps: from 1 to `lowest` along `schedule` during the
    first `milestone` share of the iterations, `lowest` afterwards (Yin and Shen 2024, section 3.2);
    'step' jumps at the milestone.
    """
    progress = iteration / (milestone * iterations)
    if progress >= 1:
        return lowest
    fallen = {"cosine": 0.5 * (1 - math.cos(math.pi * progress)), "linear": progress, "step": 0.0}[schedule]
    return 1 - (1 - lowest) * fallen


def draw_views(settings, problem, seed, size):
    """All views of one problem: boxes (T, 4), flips (T,), rolls (T, 2), T the iterations; each shared by
    the problem's images.
    """
    draws = devices.generator(*problem.key(seed), "views")
    count = settings.iterations
    sides = torch.full((count,), size)
    rolls = torch.randint(settings.roll + 1, (count, 2), generator=draws)
    if not (settings.crop or settings.cda):
        whole = torch.tensor([[0, 0, size, size]]).expand(count, 4)
        return Views(whole, torch.zeros(count, dtype=torch.bool)), rolls
    smallest = settings.crop_scale
    if settings.cda:
        schedule, milestone, lowest = settings.cda_schedule, settings.cda_milestone, settings.crop_scale
        smallest = torch.tensor(
            [
                crop_scale_at(t, count, schedule=schedule, milestone=milestone, lowest=lowest)
                for t in range(count)
            ],
            dtype=torch.float64,
        )
    boxes = resized_crops(draws, sides, sides, smallest)
    return Views(boxes, torch.rand(count, generator=draws) < 0.5), rolls


class Objective:
    """CE(f(view(x)), y) + r_bn * (batch-norm loss), one number per problem of a pack, for images x (P *
    C, 3, S, S), problem after problem. SRe2L (Yin et al. 2023), equations 4 to 6.
    """

    def __init__(self, settings, network, pack, seed, size, where, dtype):
        self.network, self.size, self.r_bn = network, size, settings.r_bn
        self.labels = torch.tensor([label for problem in pack for label in problem.classes], device=where)
        self.views = [draw_views(settings, problem, seed, size) for problem in pack]
        self.statistics = BatchStatistics(network, len(pack), settings.first_layer_weight)
        self.shape = (len(pack), len(pack[0].classes))
        self.where, self.dtype = where, dtype

    def view(self, x, iteration):
        """What the network sees of x in this iteration: each problem's own crop, flip and roll."""
        boxes, flips, rolls = (
            torch.stack(each)
            for each in zip(*((v.boxes[iteration], v.flips[iteration], r[iteration]) for v, r in self.views))
        )
        sampler = Sampler(
            Views(boxes, flips),
            (self.size, self.size),
            self.size,
            rolls=rolls,
            device=self.where,
            dtype=self.dtype,
        )
        problems = x.view(
            self.shape[0], -1, self.size, self.size
        )  # the images of a problem are as many channels of one
        return sampler(problems).view_as(x)

    def __call__(self, x, iteration):
        """(cross-entropy, batch-norm loss), each (problems,)."""
        logits = devices.widened(self.network(self.view(x, iteration)))
        entropy = F.cross_entropy(logits, self.labels, reduction="none").view(self.shape).mean(1)
        return entropy, self.statistics.loss()


# ---- loop ----------------------------------------------------------------------------------------


def recover_pack(settings, model, pack, seed, where, progress=None):
    """Optimizes the problems of one pack together; returns (pixels in [0,1], (P, C, 3, S, S); final
    losses of each problem (P, 2)).

    model: PixelModel in eval mode; its dtype is the precision. Problems share the forward and nothing
    else.
    """
    dtype, size = model.mean.dtype, model.image_size
    noise = [
        torch.randn(
            len(p.classes), 3, size, size, generator=devices.generator(*p.key(seed), "noise"), dtype=dtype
        )
        for p in pack
    ]
    x = torch.cat(noise).to(where).requires_grad_()
    lowest, highest = (
        model.normalize(torch.zeros_like(model.mean)),
        model.normalize(torch.ones_like(model.mean)),
    )
    objective = Objective(settings, model.network, pack, seed, size, where, dtype)
    optimizer = torch.optim.Adam([x], settings.step_size, betas=(settings.beta1, settings.beta2), eps=1e-8)
    with models.frozen_eval(model), objective.statistics, devices.computing(settings.precision, where):
        for iteration in range(settings.iterations):
            training.set_learning_rate(
                optimizer, settings.step_size * training.cosine(iteration, settings.iterations)
            )
            entropy, distance = objective(x, iteration)
            (x.grad,) = torch.autograd.grad((entropy + settings.r_bn * distance).sum(), x)
            optimizer.step()
            with torch.no_grad():
                x.copy_(x.maximum(lowest).minimum(highest))
            if progress:
                progress.step(cross_entropy=entropy.detach().mean(), batch_norm=distance.detach().mean())
    pixels = model.denormalize(x.detach()).clamp(0, 1)
    return pixels.view(*objective.shape, *x.shape[1:]), torch.stack([entropy, distance], 1).detach()


def _recover_in_parts(settings, model, pack, seed, where, progress, count):
    """recover_pack for `count` problems of the pack at a time."""
    parts = [
        recover_pack(settings, model, pack[start : start + count], seed, where, progress)
        for start in range(0, len(pack), count)
    ]
    return tuple(torch.cat(each) for each in zip(*parts))


def _recover_packs(settings, model, packs, paths, output, seed, where):
    """Writes the images of (number, pack) pairs, and once all of a pack are there, what the record will
    say of it.
    """
    with training.Progress("recover", len(packs) * settings.iterations, "iteration") as progress:
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
            made = {
                str(path.relative_to(output)): checkpoint.file_fingerprint(path)
                for path in _paths(pack, paths)
            }
            records.write_sealed(
                {"losses": final.tolist(), "files": made, "seconds": time.time() - started},
                _note(output, number),
            )
            entropy, distance = final.mean(0).tolist()
            progress.line(
                f"pack {done}/{len(packs)}, {pixels.shape[0] * pixels.shape[1]} images: cross-entropy"
                f" {entropy:.4f}, batch-norm loss {distance:.4f}"
            )


# ---- save ----------------------------------------------------------------------------------------


def write_image(pixels, path):
    """Writes one image (3, S, S) in [0,1]. PNG: rounded to 8 bit. JPEG, the original's way: truncated,
    Pillow's default quality.
    """
    scaled = pixels * 255
    whole = (scaled.round() if path.suffix == ".png" else scaled).to(torch.uint8)
    with checkpoint.replacing(path) as temporary:
        Image.fromarray(whole.permute(1, 2, 0).numpy()).save(
            temporary, format="PNG" if path.suffix == ".png" else "JPEG"
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
    return records.read_sealed(output / MANIFEST, "manifest of images", records.FORCE)


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
        "settings": recipes.as_dict(settings),
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
        if finished and devices.rank() == 0:
            _remove_notes(output)
    elif devices.rank() == 0:
        stray = [path for path in output.glob("*/*") if path.is_file() and not manifest.exists()]
        if stray:
            raise UserError(
                f"{output} already holds files that are not ours, such as {stray[0]}; choose another --output"
            )
        with records.sealing({**wanted, "complete": False}, manifest):
            _remove_images(output)
    devices.barrier()
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
        str(number): records.read_sealed(_note(output, number), "note of a pack")
        for number in range(packs)
        if _note(output, number).exists()
    }
    losses = {
        str(number): notes[str(number)]["losses"] if str(number) in notes else earlier[str(number)]
        for number in range(packs)
    }
    files = {
        str(path.relative_to(output)): checkpoint.file_fingerprint(path) for row in paths for path in row
    }
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
    with records.sealing({**manifest, "complete": True, "files": files, "losses": losses}, output / MANIFEST):
        records.update(
            log,
            "recover",
            {
                "settings": recipes.as_dict(settings),
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
