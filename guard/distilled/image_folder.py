"""The folder of distilled images: writer and reader."""

from pathlib import Path

import torch
from PIL import Image

from guard.data import find
from guard.data.images import pack
from guard.errors import UserError
from guard.run import fingerprints, storage


def load_distilled(folder):
    """Any folder FOLDER/CLASS/*.png (or jpg) of square images of one size, ours or distilled elsewhere,
    as Packed.

    Where it has a manifest of ours, all images have to be there, byte for byte. Raises UserError that
    names what differs.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"no folder of images at {folder}; make one with python -m recover, or name one with"
            " FOLDER/CLASS/*.png"
        )
    source = find.scan(folder.name, folder, "train")
    if (folder / "manifest.json").exists():
        _check_manifest(folder, source.files)
    images = pack(source.files, source.labels, source.classes, "reading distilled images")
    if images.pixels.shape[2] != images.pixels.shape[3]:
        raise UserError(f"{source.files[0]} is not square; distilled images have to be")
    return images


def _check_manifest(folder, files):
    manifest = storage.read_sealed(folder / "manifest.json", "manifest of images", storage.FORCE)
    if not manifest.get("complete"):
        raise UserError(
            f"the images in {folder} are not complete; run python -m recover again to finish them"
        )
    listed, found = manifest.get("files"), {str(Path(path).relative_to(folder)): path for path in files}
    if not isinstance(listed, dict):
        raise UserError(f"{folder / 'manifest.json'} lists no files; recover the images again with --force")
    different = sorted(set(listed) ^ set(found)) or [
        name for name, path in found.items() if fingerprints.of_file(path) != listed[name]
    ]
    if different:
        raise UserError(
            f"{folder / different[0]} is not what the manifest beside it says; recover the images again with"
            " --force"
        )


FORMAT = "guard-images-1"


MANIFEST = "manifest.json"


def write_image(pixels, path):
    """Writes one image (3, S, S) in [0,1]. PNG: rounded to 8 bit. JPEG, the original's way: truncated,
    Pillow's default quality.
    """
    scaled = pixels * 255
    whole = (scaled.round() if path.suffix == ".png" else scaled).to(torch.uint8)
    with storage.replacing(path) as temporary:
        Image.fromarray(whole.permute(1, 2, 0).numpy()).save(
            temporary, format="PNG" if path.suffix == ".png" else "JPEG"
        )
