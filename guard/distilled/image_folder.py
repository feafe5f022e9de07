"""The folder of distilled images, FOLDER/CLASS/CLASS_N.png and a manifest: writer and reader."""

import contextlib
import glob
from pathlib import Path

import torch
from PIL import Image

from guard.data import find
from guard.data.images import pack
from guard.errors import UserError
from guard.run import fingerprints, storage
from guard.run.manifest import FILE, Manifest

FORMAT = "guard-images-1"

# ---- writing -------------------------------------------------------------------------------------


class _Images(Manifest):
    def strays(self):
        return [path for path in self.folder.glob("*/*") if path.is_file()]

    def clear(self):
        for folder in self.folder.glob("*/"):
            name = glob.escape(folder.name)
            for path in [*folder.glob(f"{name}_*.png"), *folder.glob(f"{name}_*.jpg")]:
                path.unlink()
            with contextlib.suppress(OSError):  # it holds what is not ours
                folder.rmdir()  # else a class that others of other names replace would lack images


def ledger(folder):
    """The ledger (guard.run.manifest) of a folder of distilled images."""
    kept = ("losses", "looked_at")
    return _Images(folder, form=FORMAT, what="images", stage="recover", kept=kept)


def write_image(pixels, path):
    """Writes one image (3, S, S) in [0,1].

    PNG: rounded to 8 bit. JPEG, the original's way: truncated, then Pillow's default quality.
    """
    scaled = pixels * 255
    whole = (scaled.round() if path.suffix == ".png" else scaled).to(torch.uint8)
    image = Image.fromarray(whole.permute(1, 2, 0).numpy())
    with storage.replacing(path) as temporary:
        image.save(temporary, format="PNG" if path.suffix == ".png" else "JPEG")


def check_apart(output, distilled):
    """Raises UserError for an output folder that is the folder of images, or lies in it, where what is
    written would be taken for images.
    """
    output, distilled = Path(output), Path(distilled)
    if distilled.resolve() in (output.resolve(), *output.resolve().parents):
        raise UserError(f"{output} is in the folder of the images, {distilled}; choose another --output")


# ---- reading -------------------------------------------------------------------------------------


def load_distilled(folder):
    """The images of any folder FOLDER/CLASS/*.png (or jpg), ours or distilled elsewhere, as Packed.

    They have to be square and of one size. Where there is a manifest of ours, all images have to be
    there, byte for byte. Raises UserError that names what differs.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"there are no images at {folder}; make a folder of them with python -m recover, or name one with"
            " FOLDER/CLASS/*.png"
        )
    ours = (folder / FILE).exists()
    manifest = ledger(folder).read_complete() if ours else {}  # before a class that has no images yet is told
    source = find.scan(folder.name, folder, "train")
    if ours:
        _check_files(folder, manifest, source.files)
    images = _packed(source, manifest.get("classes", ()))
    if images.pixels.shape[2] != images.pixels.shape[3]:
        raise UserError(f"{source.files[0]} is not square; distilled images have to be")
    return images


def teacher_of(folder):
    """Fingerprint of the teacher that images of ours are from; None of others'."""
    manifest = ledger(folder)
    return manifest.read().get("teacher") if manifest.path.exists() else None


def fingerprint_of(folder, classes):
    """That which `load_distilled` will give the images of a folder of ours, before its manifest is complete.

    classes: their names in label order.
    """
    return _packed(find.scan(Path(folder).name, Path(folder), "train"), classes).fingerprint


def _packed(source, order):
    """The images of a find.Source as Packed. order: names of its classes in label order, which need not be
    that of the folders; where they are other names the folders' order counts.
    """
    classes, labels = source.classes, source.labels
    if sorted(order) == list(classes):
        classes = tuple(order)
        labels = [classes.index(source.classes[label]) for label in source.labels]
    return pack(source.files, labels, classes, "reading distilled images")


def _check_files(folder, manifest, files):
    """Raises UserError unless the manifest lists just these files, byte for byte."""
    listed, again = manifest.get("files"), "run python -m recover again"
    if not isinstance(listed, dict):
        raise UserError(f"{folder / FILE} lists no files; recover the images again with --force")
    found = {str(Path(path).relative_to(folder)): path for path in files}
    if missing := sorted(set(listed) - set(found)):
        raise UserError(f"{folder / missing[0]} is missing; {again} to make it anew")
    if unknown := sorted(set(found) - set(listed)):
        raise UserError(f"{folder / unknown[0]} is not in the manifest beside the images; remove it")
    for name, path in found.items():
        if fingerprints.of_file(path) != listed[name]:
            raise UserError(f"{path} is not what the manifest beside it says; remove it and {again}")
