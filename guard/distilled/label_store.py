"""The store of soft labels."""

import contextlib
from dataclasses import asdict, fields
from pathlib import Path

import numpy

from guard.distilled.soft_labels import LabelRecipe, _row, batches_of
from guard.errors import UserError, first_line
from guard.run import storage
from guard.run.fingerprints import of_file
from guard.run.storage import replacing

FORMAT = "guard-labels-1"


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
        contents = storage.read_sealed(self.manifest_path, "manifest of soft labels", storage.FORCE)
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
                storage.write_sealed({**wanted, "complete": False}, self.manifest_path)
            return complete
        with storage.sealing({**wanted, "complete": False}, self.manifest_path):
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
        files = {path.name: of_file(path) for path in map(self._path, range(found["recipe"]["epochs"]))}
        with storage.sealing({**found, "complete": True, "files": files}, self.manifest_path):
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
        if self.files and of_file(path) != self.files[path.name]:
            raise UserError(
                f"{path} is damaged: its bytes are not those that the manifest beside it lists; {remedy}"
            )
        return rows

    def _path(self, epoch):
        return self.folder / f"epoch_{epoch:04d}.npy"
