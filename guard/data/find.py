"""Finds a data set by its name: where its images lie, its classes and labels.

Only the standard library: presence is checked before anything is imported or trained. guard.data.images turns
what is found here into pixels. A data set in class folders needs nothing here; one in a format of its own is
a row of guard.registry.DATA_SETS.

    python -m guard.data.find cifar10 --root data/raw      what is there
"""

import argparse
import hashlib
import itertools
import os
import pickle
from dataclasses import dataclass
from pathlib import Path

from guard import cli, ending, recipes, registry
from guard.errors import UserError, first_line

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".webp")
# Of images that would be lost without a word
UNREAD_SUFFIXES = (".tif", ".tiff", ".gif", ".jpe", ".jfif", ".heic", ".avif")
SPLITS = {"train": ("train",), "val": ("val", "test")}  # a split's folder goes by one of these names
EMBEDDED_DIGITS = Path(__file__).resolve().parents[2] / "data" / "digits.npz"


@dataclass(frozen=True)
class Source:
    """One split of a data set, found but not read.

    kind: 'folder' for class folders, whose files and labels are listed, or the name of another format. path:
    where it lies. classes: names in label order. files: what is read; all files below `path` where none are
    listed. labels: of the files. reader: of another format, "module:function", (Source, image_size) ->
    guard.data.images.Packed.
    """

    name: str
    kind: str
    path: Path
    split: str
    classes: tuple
    files: tuple = ()
    labels: tuple = ()
    reader: str = ""

    @property
    def fingerprint(self):
        """sha256 of the split, the classes, and the names and sizes of all files, which are not read."""
        files = self.files or _files_below(Path(self.path))
        base = self.path.parent if self.path.is_file() else self.path
        listed = [(os.path.relpath(path, base), os.stat(path).st_size) for path in files or [self.path]]
        return hashlib.sha256(repr((self.split, self.classes, listed)).encode()).hexdigest()


def _files_below(folder):
    """Paths of all files below a folder, as sorted texts."""
    return sorted(str(path) for path in folder.rglob("*") if path.is_file())


def find(name, root, split):
    """The Source of split 'train' or 'val' of data set `name` under ROOT/name.

    Raises UserError when it isn't there or is empty, for a split that there is not, and for a path to a data
    set that has a recipe, by which that would not be known.
    """
    last = Path(name).name
    if last != name and last in {*recipes.RECIPES, *registry.DATA_SETS}:
        raise UserError(f"'{name}' is no data set's name; name it {last}, and with --root where it lies")
    if split not in SPLITS:
        raise UserError(f"there is no split '{split}'; there are {' and '.join(SPLITS)}")
    look = registry.function_of(registry.DATA_SETS.get(name, _folders))
    return look(name, Path(root), split)


def digits(name, root, split):
    """The embedded handwritten digits, wherever `root` is."""
    classes = tuple(str(digit) for digit in range(10))
    return Source(name, "digits", EMBEDDED_DIGITS, split, classes, reader="guard.data.images:read_digits")


def _folders(name, root, split):
    """Class folders, ROOT/NAME/SPLIT/CLASS/*.jpg."""
    path = root / name
    if not path.is_dir():
        raise UserError(
            f"no data set '{name}' at {path}; give its parent folder with --root (-r in run.sh), or make it:"
            " python -m data.prepare --help"
        )
    folder = next((path / each for each in SPLITS[split] if (path / each).is_dir()), None)
    if folder is None:
        raise UserError(
            f"{path} has no folder {' or '.join(SPLITS[split])}; a data set is {name}/train/CLASS/*.jpg and"
            f" {name}/val/CLASS/*.jpg"
        )
    return scan(name, folder, split)


def scan(name, folder, split):
    """The Source of FOLDER/CLASS/*.jpg (or png, ...), whose classes are the sorted folders. Images in folders
    of a class's folder are its images, too.

    Raises UserError for an empty class, for a name that is no text, for an image that is no file or of a
    format that is not read, for a link to nothing, and for one to a folder of images.
    """
    entries = _entries(folder)
    _refuse_strange(entry for entry in entries if not os.path.exists(entry.path))
    classes = sorted(entry.name for entry in entries if os.path.isdir(entry.path))
    if no_text := [name for name in classes if name.encode(errors="ignore").decode() != name]:
        raise UserError(f"the name of the class {no_text[0]!r} in {folder} is not in UTF-8; rename it")
    if not classes:
        raise UserError(f"{folder} has no class folders; images are expected at {folder}/CLASS/*.jpg")
    files, labels = [], []
    for label, name_of_class in enumerate(classes):
        found = _images_in(folder / name_of_class)
        files += found
        labels += [label] * len(found)
    return Source(name, "folder", Path(folder), split, tuple(classes), tuple(files), tuple(labels))


def _images_in(folder):
    """Sorted paths of the images below the folder of a class, as deep as they lie."""
    found, folders = [], [folder]
    while folders:
        entries = _entries(folders.pop())
        if unread := [entry.path for entry in entries if entry.name.lower().endswith(UNREAD_SUFFIXES)]:
            raise UserError(f"{min(unread)} is of a format that is not read; convert or remove it")
        is_image = [entry.name.lower().endswith(IMAGE_SUFFIXES) for entry in entries]
        images = list(itertools.compress(entries, is_image))
        # Only links are followed: of a million files each look costs time.
        linked = [entry for entry in images if entry.is_symlink() or not entry.is_file()]
        _refuse_strange(entry for entry in linked if not os.path.isfile(entry.path))
        found += [entry.path for entry in images]
        others = [entry for entry, image in zip(entries, is_image) if not image]
        if led_away := [entry.path for entry in others if entry.is_symlink() and os.path.isdir(entry.path)]:
            raise UserError(f"{min(led_away)} is a link to a folder, inside a class; put its images here")
        folders += [entry.path for entry in others if entry.is_dir(follow_symlinks=False)]
    if not found:
        read = " ".join(IMAGE_SUFFIXES)
        raise UserError(f"{folder} holds no images ({read}); remove the empty class or fill it")
    return sorted(found)


def _refuse_strange(entries):
    if strange := sorted(entry.path for entry in entries):
        raise UserError(f"{strange[0]} is no file, or a link to none; remove or replace it")


def _entries(folder):
    """What lies in a folder and is not hidden, as macOS's own files are: os.DirEntry each."""
    try:
        return [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as problem:
        raise UserError(f"cannot look into {folder} ({problem.strerror}); make it readable") from None


CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}


def cifar(name, root, split):
    """torchvision's format in ROOT/NAME or, as its users have it, in ROOT itself; else class folders."""
    for parent in (root / name, root):
        folder = parent / CIFAR_FOLDERS[name]
        if folder.is_dir():
            classes = CIFAR10_CLASSES if name == "cifar10" else _cifar100_classes(parent)
            reader = "guard.data.images:read_cifar"
            return Source(name, "cifar", parent, split, classes, tuple(_files_below(folder)), reader=reader)
    return _folders(name, root, split)


def _cifar100_classes(parent):
    """The published archive's own list of names, in label order: a pickle of plain lists of strings."""
    path = parent / CIFAR_FOLDERS["cifar100"] / "meta"
    try:
        with open(path, "rb") as file:
            names = _PlainUnpickler(file).load()["fine_label_names"]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("its fine_label_names are no list of names")
        return tuple(names)
    except Exception as problem:  # noqa: BLE001 - a damaged pickle can end in any exception
        raise UserError(
            f"{path} is missing or damaged ({first_line(problem)}); remove {path.parent} and make it again,"
            " see python -m data.prepare --help"
        ) from None


class _PlainUnpickler(pickle.Unpickler):
    """Reads lists, dicts, strings and numbers.

    A pickle that names anything else, which could run code, is refused.
    """

    def find_class(self, module, name):
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def check_pair(train, val):
    """Raises UserError that names the difference where the two splits have other classes."""
    if train.classes == val.classes:
        return
    missing = sorted(set(train.classes) - set(val.classes))
    unknown = sorted(set(val.classes) - set(train.classes))
    raise UserError(
        f"{val.path} does not have the classes of {train.path} (missing: {missing[:5]}, unknown:"
        f" {unknown[:5]}); make the class folders match"
    )


def main():
    """The command: says what is there, or ends with status 2 and one line."""
    parser = cli.Parser(prog="python -m guard.data.find", description="Says what is found of a data set.")
    parser.add_argument("name", help="name of the data set")
    parser.add_argument("--root", default="data/raw", help="folder that holds the data sets [data/raw]")
    parser.add_argument("--quiet", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()

    def check():
        train, val = (find(options.name, options.root, split) for split in ("train", "val"))
        check_pair(train, val)
        if not options.quiet:
            print(f"{options.name}: {len(train.classes)} classes, {train.kind} at {train.path}")

    ending.run(check)


if __name__ == "__main__":
    main()
