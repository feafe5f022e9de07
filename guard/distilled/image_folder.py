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


# ---- reading -------------------------------------------------------------------------------------


def load_distilled(folder):
    """The images of any folder FOLDER/CLASS/*.png (or jpg), ours or distilled elsewhere, as Packed.

    They have to be square and of one size. Where there is a manifest of ours, all images have to be
    there, byte for byte. Raises UserError that names what differs.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"no folder of images at {folder}; make one with python -m recover, or name one with"
            " FOLDER/CLASS/*.png"
        )
    source = find.scan(folder.name, folder, "train")
    classes, labels = source.classes, source.labels
    if (folder / FILE).exists():
        manifest = _checked_manifest(folder, source.files)
        if sorted(manifest.get("classes", ())) == list(classes):  # whose order need not be the folders'
            classes = tuple(manifest["classes"])
            labels = [classes.index(source.classes[label]) for label in source.labels]
    images = pack(source.files, labels, classes, "reading distilled images")
    if images.pixels.shape[2] != images.pixels.shape[3]:
        raise UserError(f"{source.files[0]} is not square; distilled images have to be")
    return images


def _checked_manifest(folder, files):
    """The manifest, where it lists just these files, byte for byte."""
    remedy = "recover the images again with --force"
    manifest = ledger(folder).read_complete()
    listed = manifest.get("files")
    if not isinstance(listed, dict):
        raise UserError(f"{folder / FILE} lists no files; {remedy}")
    found = {str(Path(path).relative_to(folder)): path for path in files}
    different = sorted(set(listed) ^ set(found))
    if not different:
        different = [name for name in found if fingerprints.of_file(found[name]) != listed[name]]
    if different:
        raise UserError(f"{folder / different[0]} is not what the manifest beside it says; {remedy}")
    return manifest
