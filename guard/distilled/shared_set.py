"""One file that holds a distilled set for others: writer and reader. docs/usage.md lists what is in it.

Nothing but plain tensors and values, so that torch.load(weights_only=True) reads it and nothing in it can
run. Its images lie in DC's layout, so that what reads those files (guard.distilled.tensor_set, too) reads it.
"""

import hashlib
import importlib.metadata
from pathlib import Path

import torch

from guard import recipes
from guard.data import augment
from guard.data.images import Packed
from guard.distilled import image_folder
from guard.distilled.label_store import LabelStore
from guard.earlier import as_now
from guard.errors import UserError
from guard.run import records, storage, tensor_files

FORMAT = "guard-set-1"
LICENCE = "The licence of the images is that of the data set that they were made from, {dataset}."
REMEDY = "export it again, or get the file again"
# The accuracies beside DC's images are numbers of numpy. Nobody reads them, and nothing of numpy is called.
SKIPPED = ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")

# ---- writing -------------------------------------------------------------------------------------


def of_experiment(run, *, licence="", images_only=False):
    """What the file of an experiment's folder holds: RUN/images, and RUN/labels where that is there.

    licence: of the images, in words. images_only: leave the soft labels out. Raises UserError for images or
    labels that are not finished, are damaged or do not belong together.
    """
    run = Path(run)
    if not (run / "images").is_dir():
        raise UserError(f"no experiment at {run}: it has no folder of images; name one such as runs/24")
    manifest = image_folder.ledger(run / "images").read_complete()
    images = image_folder.load_distilled(run / "images")
    dataset = manifest["dataset"]
    recipe = recipes.recipe(dataset)
    has_labels = (run / "labels").is_dir() and not images_only
    labels = _soft_labels(run / "labels", images) if has_labels else None
    return {
        "format": FORMAT,
        "data": [
            [augment.normalized(augment.as_float(images.pixels), recipe.mean, recipe.std), images.labels]
        ],
        "soft_labels": labels,
        "classes": list(images.classes),
        "mean": list(recipe.mean),
        "std": list(recipe.std),
        "image_size": images.pixels.shape[2],
        "dataset": dataset,
        "settings": _settings(run, manifest, labels, images),
        "fingerprints": {
            "teacher": manifest["teacher"],
            "images": images.fingerprint,
            "labels": labels and labels["manifest"][storage.SEAL],
            "teacher of labels": labels and labels["manifest"]["teacher"],
        },
        "licence": licence or LICENCE.format(dataset=dataset),
        **_origin(),
    }


def save(contents, path):
    """Writes what `of_experiment` gave to `path`, whole or not at all."""
    tensor_files.save(contents, path)


def _soft_labels(folder, images):
    """The folder's manifest, and the bytes of each epoch's file, uint8 (bytes,), all of them checked.

    As they are stored, int8 and --top-classes included: so they stay as small as in the folder, and the same
    bit for bit, and numpy.load reads each, whose own header says what a row holds.
    """
    store = LabelStore(folder)
    recipe, epochs = store.open(images.fingerprint, images.classes), []
    for epoch, (path,) in enumerate(store.parts(recipe.epochs).values()):
        store.read(epoch, recipe, images)
        epochs.append(torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8))
    return {"manifest": storage.sealed(store.ledger.read_complete()), "epochs": epochs}


def _settings(run, manifest, labels, images):
    """Stage -> the settings by which it was done; of the student those of the last one on these images."""
    made = {"recover": {**manifest["settings"], "seed": manifest["seed"]}}
    if labels:
        made["relabel"] = as_now("relabel", labels["manifest"]["recipe"])
    student = records.read(run / "log.json").get("train", {}).get("settings", {})
    if student.get("images") == images.fingerprint:
        made["train"] = student
    return made


def _origin():
    """The command as it was typed, and of which version: its number where pip installed it, else a commit."""
    try:
        version = importlib.metadata.version("guard-distillation")
    except importlib.metadata.PackageNotFoundError:
        version = None
    environment = records.environment(torch.device("cpu"))
    return {"version": version, **{name: environment[name] for name in ("command", "commit", "date")}}


# ---- reading -------------------------------------------------------------------------------------


def load(place):
    """The images of a folder, as of image_folder.load_distilled, or of a file, as of `load_images`."""
    return load_images(place) if Path(place).is_file() else image_folder.load_distilled(place)


def load_images(path):
    """The images of such a file, as Packed, in uint8: equal to those of the folder, as is the fingerprint.

    Raises UserError for a file of another format, and for one that is damaged.
    """
    return images_of(path, _contents(path))


def unpack_labels(path, folder):
    """Writes the soft labels of such a file into a new folder, which is then as stage relabel left it.

    Raises UserError for a file without soft labels or with damaged ones, and for a folder in which there is
    something already.
    """
    contents, folder = _contents(path), Path(folder)
    images, labels = images_of(path, contents), contents.get("soft_labels")
    if labels is None:
        raise UserError(f"{path} holds no soft labels; make some with python -m relabel")
    if not (_are_labels(labels) and labels["manifest"].get("images") == images.fingerprint):
        raise UserError(f"{path} is damaged: its soft labels are not those of its images; {REMEDY}")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already, and not empty; name another folder")
    store, manifest = LabelStore(folder), dict(labels["manifest"])
    places = [place for (place,) in store.parts(len(labels["epochs"])).values()]
    bits = [hashlib.sha256(held.numpy()).hexdigest() for held in labels["epochs"]]
    if {place.name: each for place, each in zip(places, bits)} != manifest.get("files"):
        raise UserError(f"{path} is damaged: its soft labels are not those that it lists; {REMEDY}")
    for place, held in zip(places, labels["epochs"]):
        with storage.replacing(place) as temporary:
            temporary.write_bytes(held.numpy())
    manifest.pop(storage.SEAL)
    storage.write_sealed(manifest, store.ledger.path)  # last: without it the folder counts as nothing


def _contents(path):
    contents = tensor_files.read(path, REMEDY, what="file of tensors", skipped=SKIPPED)
    if not is_shared(contents):
        raise UserError(
            f"{path} was not made by python -m guard.export; others' files are read by python -m train"
            " --labels hard"
        )
    return contents


def is_shared(contents):
    """Whether the contents of a file of tensors are such a file's."""
    return isinstance(contents, dict) and contents.get("format") == FORMAT


def images_of(path, contents):
    """`load_images` of a file that has been read."""
    if _are_images(contents):
        images, labels = contents["data"][0]
        pixels = augment.unnormalized(images, contents["mean"], contents["std"]).clamp(0, 1)
        made = Packed(augment.as_bytes(pixels), labels, tuple(contents["classes"]))
        if made.fingerprint == contents["fingerprints"]["images"]:
            return made
    raise UserError(f"{path} is damaged: its images do not match their fingerprint; {REMEDY}")


def _are_images(contents):
    """Whether what the images are made of has the types and shapes that `of_experiment` gives it."""
    try:
        ((images, labels),) = contents["data"]
        numbers = [*contents["mean"], *contents["std"]]
        three = len(contents["mean"]) == len(contents["std"]) == 3
        classes, prints = contents["classes"], contents["fingerprints"]
    except (KeyError, TypeError, ValueError):
        return False
    return (
        tensor_files.is_plain(images)
        and tensor_files.is_plain(labels)
        and (images.dtype, labels.dtype) == (torch.float32, torch.int64)
        and images.ndim == 4
        and images.shape == (len(labels), 3, images.shape[2], images.shape[2])
        and labels.shape == (len(images),)
        and three
        and all(type(number) is float for number in numbers)
        and isinstance(classes, list)
        and all(type(name) is str for name in classes)
        and isinstance(prints, dict)
        and "images" in prints
        and len(labels) > 0
        and 0 <= labels.min() <= labels.max() < len(classes)
    )


def _are_labels(labels):
    """Whether soft labels have the types that `_soft_labels` gives them, and a manifest that is whole."""
    types = {"manifest": dict, "epochs": list}
    if not isinstance(labels, dict) or {name: type(held) for name, held in labels.items()} != types:
        return False
    manifest = labels["manifest"]
    try:
        sealed = storage.sealed({name: manifest[name] for name in manifest if name != storage.SEAL})
    except (TypeError, ValueError, RecursionError):  # of what JSON cannot hold
        return False
    return sealed == manifest and all(
        tensor_files.is_plain(held) and held.dtype == torch.uint8 and held.ndim == 1
        for held in labels["epochs"]
    )
