"""Soft labels: made, stored, verified, read.

An epoch of labels is one structured array with a row per image, in the order of training: which image,
its view, its partner and how they are mixed, and the teacher's logits in fp16. A row tells all that is
needed to see again what the teacher saw, so student and teacher look at the same pixels whoever makes
the batch, and the store is one memory-mappable .npy file per epoch.
"""

import contextlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy
import torch

from guard import augment, recipes, records
from guard.checkpoint import file_fingerprint, replacing
from guard.device import computing, generator
from guard.errors import UserError, first_line
from guard.images import batch_ranges

FORMAT = "guard-labels-1"


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
        from guard.models import batch_norm_layers

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


# ---- the store -----------------------------------------------------------------------------------


class LabelStore:
    """A folder of labels: manifest.json and one epoch_NNNN.npy per epoch.

    The manifest says which teacher, which images and which recipe the labels belong to; `complete` is
    true once every epoch is there, and `files` then says what each of them hashes to.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        self.manifest_path = self.folder / "manifest.json"
        self.batch_size = None  # of the recipe, once `begin` or `open` knows it
        self.files = {}  # name of a file -> its fingerprint, once `open` has read the manifest

    def manifest(self):
        contents = records.read_sealed(self.manifest_path, "manifest of soft labels", records.FORCE)
        if contents.get("format") != FORMAT:
            raise UserError(
                f"{self.manifest_path} is no manifest of soft labels of this project; make the labels with"
                " python -m relabel"
            )
        return contents

    def begin(self, recipe, teacher, images, classes, force):
        """Writes the manifest, or goes on with labels begun with the same one; returns whether they are
        complete already.

        teacher, images: fingerprints. Raises UserError for a folder that holds other labels, unless
        `force`, which clears them.
        """
        wanted = {
            "format": FORMAT,
            "recipe": asdict(recipe),
            "teacher": teacher,
            "images": images,
            "classes": list(classes),
        }
        self.batch_size = recipe.batch_size
        if self.manifest_path.exists() and not force:
            found = self.manifest()
            difference = [key for key in wanted if found.get(key) != wanted[key]]
            if difference:
                raise UserError(
                    f"{self.folder} holds soft labels with another {', '.join(difference)}; choose another"
                    " folder, or --force (-f in run.sh) to replace them"
                )
            complete = bool(found.get("complete")) and all(self.has(epoch) for epoch in range(recipe.epochs))
            if found.get("complete") and not complete:
                records.write_sealed({**wanted, "complete": False}, self.manifest_path)
            return complete
        with records.sealing({**wanted, "complete": False}, self.manifest_path):
            for stale in self.folder.glob("epoch_*.npy"):
                stale.unlink()
        return False

    @contextlib.contextmanager
    def finishing(self, count):
        """Writes that the labels of `count` images are complete, after what is done inside. Raises
        UserError for an epoch that cannot be used.
        """
        found = self.manifest()
        for epoch in range(found["recipe"]["epochs"]):
            self.read(epoch, count, len(found["classes"]))
        files = {
            path.name: file_fingerprint(path) for path in map(self._path, range(found["recipe"]["epochs"]))
        }
        with records.sealing({**found, "complete": True, "files": files}, self.manifest_path):
            yield

    def has(self, epoch):
        return self._path(epoch).exists()

    def write(self, epoch, rows):
        with replacing(self._path(epoch)) as temporary, open(temporary, "wb") as file:
            numpy.save(file, rows)

    def open(self, images, classes, teacher=None):
        """The LabelRecipe, after checking that the store is complete and belongs to these images
        (fingerprint), classes and, where one is given, teacher. Raises UserError that names what
        differs.
        """
        manifest = self.manifest()
        if not manifest.get("complete"):
            raise UserError(
                f"the soft labels in {self.folder} are not complete; run python -m relabel again to finish"
                " them"
            )
        for what, wanted in (("images", images), ("classes", list(classes)), ("teacher", teacher)):
            if wanted is not None and manifest.get(what) != wanted:
                raise UserError(
                    f"the soft labels in {self.folder} were made for other {what}; make them again with"
                    " python -m relabel"
                )
        recipe, self.files = manifest.get("recipe"), manifest.get("files")
        known = isinstance(recipe, dict) and {name: type(value) for name, value in recipe.items()} == {
            row.name: row.type for row in fields(LabelRecipe)
        }
        if not known or min(recipe["epochs"], recipe["batch_size"]) < 1:
            raise UserError(
                f"{self.manifest_path} has no recipe that this version knows; make the labels again with"
                " python -m relabel --force"
            )
        for path in map(self._path, range(recipe["epochs"])):
            if not isinstance(self.files, dict) or path.name not in self.files or not path.exists():
                raise UserError(
                    f"{path} is missing or not in the manifest beside it; run python -m relabel again, with"
                    " --force if it says that the labels are finished"
                )
        self.batch_size = recipe["batch_size"]
        return LabelRecipe(**recipe)

    def read(self, epoch, count, classes):
        """The rows of an epoch, memory-mapped, after `begin` or `open`. Raises UserError for a file that
        is not what the manifest promises.
        """
        path, remedy = self._path(epoch), "remove it and run python -m relabel again"
        try:
            rows = numpy.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as problem:  # noqa: BLE001 - a damaged header can end in any exception
            raise UserError(f"cannot read the soft labels {path} ({first_line(problem)}); {remedy}") from None
        fits = isinstance(rows, numpy.ndarray) and rows.shape == (count,) and rows.dtype == _row(classes)
        if not fits or not 0 <= rows["image"].min() <= rows["image"].max() < count:
            raise UserError(f"{path} does not hold {count} rows of {classes} logits; {remedy}")
        if any(
            not 0 <= batch["partner"].min() <= batch["partner"].max() < len(batch)
            for batch in batches_of(rows, self.batch_size)
        ):
            raise UserError(f"{path} mixes images with others that are not in their batch; {remedy}")
        if self.files and file_fingerprint(path) != self.files[path.name]:
            raise UserError(
                f"{path} is damaged: its bytes are not those that the manifest beside it lists; {remedy}"
            )
        return rows

    def _path(self, epoch):
        return self.folder / f"epoch_{epoch:04d}.npy"
