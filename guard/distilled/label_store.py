"""The folder of soft labels: one memory-mappable epoch_NNNN.npy for each epoch, and a manifest.

The manifest says which teacher, which images and which recipe the labels belong to.
"""

from collections import Counter
from dataclasses import asdict, fields
from pathlib import Path

import numpy

from guard.distilled.label_format import packed, stored_type, unpacked
from guard.distilled.soft_labels import LabelRecipe, batches_of
from guard.earlier import as_now
from guard.errors import UserError, first_line
from guard.run.fingerprints import of_file
from guard.run.manifest import Manifest
from guard.run.storage import replacing

FORMAT = "guard-labels-1"


class _Labels(Manifest):
    def strays(self):
        return sorted(self.folder.glob("epoch_*.npy"))

    def clear(self):
        for path in self.strays():
            path.unlink()


class LabelStore:
    """A folder of labels. ledger: of guard.run.manifest; it has a part for each epoch."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.ledger = _Labels(folder, form=FORMAT, what="soft labels", stage="relabel")
        self.files = {}  # name of a file -> its fingerprint, once `open` has read the manifest

    # ---- writing ---------------------------------------------------------------------------------

    def key(self, recipe, teacher, images, classes):
        """All that decides the labels. teacher, images: fingerprints."""
        return {"recipe": asdict(recipe), "teacher": teacher, "images": images, "classes": list(classes)}

    def parts(self, epochs):
        """name of an epoch -> its files."""
        return {str(epoch): [self._path(epoch)] for epoch in range(epochs)}

    def write(self, epoch, rows, recipe, images, seconds=0.0):
        """Writes the rows of an epoch, in the recipe's format, and notes that it is finished.

        images: those that are labelled, as Packed.
        """
        with replacing(self._path(epoch)) as temporary, open(temporary, "wb") as file:
            numpy.save(file, packed(rows, recipe, images.pixels.shape[2]))
        self.ledger.note(str(epoch), [self._path(epoch)], seconds=seconds)

    # ---- reading ---------------------------------------------------------------------------------

    @property
    def classes(self):
        """Names of the classes in the order in which the images were labelled; none where it is not told."""
        found = self.ledger.read_complete().get("classes")
        return found if isinstance(found, list) and all(type(name) is str for name in found) else []

    def open(self, images, classes, teacher=None):
        """The LabelRecipe of a complete store that belongs to these images, classes and teacher.

        images, teacher: fingerprints; a teacher of None may be any. Raises UserError that names what differs.
        """
        manifest = self.ledger.read_complete()
        wanted = {"images": images, "classes": list(classes), "teacher": teacher}
        for what, value in wanted.items():
            if value is not None and manifest.get(what) != value:
                raise UserError(
                    f"the soft labels in {self.folder} were made for other {what}; make them again with"
                    " python -m relabel"
                )
        recipe, self.files = self._recipe(manifest), manifest.get("files")
        paths = [self._path(epoch) for epoch in range(recipe.epochs)]
        for path in paths:
            if not isinstance(self.files, dict) or path.name not in self.files or not path.exists():
                raise UserError(
                    f"{path} is missing or not in the manifest beside it; run python -m relabel again, with"
                    " --force if it says that the labels are finished"
                )
        # All epochs take as many bytes. A file that was cut off would else be told when its epoch is reached.
        sizes = [path.stat().st_size for path in paths]
        counted = Counter(sizes)
        usual = max(counted, key=lambda size: (counted[size], size))
        for path, size in zip(paths, sizes):
            if size != usual:
                raise UserError(
                    f"{path} is damaged: it has {size} bytes, the others {usual}; remove it and run python -m"
                    " relabel again"
                )
        return recipe

    def _recipe(self, manifest):
        found = manifest.get("recipe")
        found = as_now("relabel", found) if isinstance(found, dict) and "epochs" in found else {}
        types = {row.name: row.type for row in fields(LabelRecipe)}
        known = {name: type(value) for name, value in found.items()} == types
        if not known or min(found["epochs"], found["batch_size"]) < 1:
            raise UserError(
                f"{self.ledger.path} has no recipe that this version knows; make the labels again with"
                " python -m relabel --force"
            )
        return LabelRecipe(**found)

    def read(self, epoch, recipe, images):
        """The rows of an epoch, memory-mapped where they are stored as they are.

        recipe: what `open` returned. images: those that are labelled, as Packed. Raises UserError for a file
        that is not what the manifest promises.
        """
        count, classes, size = len(images), len(images.classes), images.pixels.shape[2]
        path, remedy = self._path(epoch), "remove it and run python -m relabel again"
        try:
            rows = numpy.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as problem:  # noqa: BLE001 - a damaged header can end in any exception
            raise UserError(f"cannot read the soft labels {path} ({first_line(problem)}); {remedy}") from None
        stored = stored_type(recipe, classes, size)
        fits = isinstance(rows, numpy.ndarray) and rows.shape == (count,) and rows.dtype == stored
        if fits and recipe.top_classes:
            fits = _below(rows["classes"], classes)
        rows = unpacked(rows, recipe, classes, size, epoch) if fits else rows
        if not fits or not _below(rows["image"], count):
            raise UserError(f"{path} does not hold {count} rows of {classes} logits; {remedy}")
        for batch in batches_of(rows, recipe.batch_size):
            if not _below(batch["partner"], len(batch)):
                raise UserError(f"{path} mixes images with others that are not in their batch; {remedy}")
        if self.files and of_file(path) != self.files[path.name]:
            raise UserError(
                f"{path} is damaged: its bytes are not those that the manifest beside it lists; {remedy}"
            )
        return rows

    def _path(self, epoch):
        return self.folder / f"epoch_{epoch:04d}.npy"


def _below(numbers, limit):
    """Whether all are from 0 to limit - 1."""
    return 0 <= numbers.min() and numbers.max() < limit
