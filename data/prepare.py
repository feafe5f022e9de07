"""Puts a data set where the stages look for it.

That is ROOT/NAME/{train,val}/CLASS/*.jpg, or torchvision's own format for CIFAR.

    python -m data.prepare imagenette --root data/raw                  downloads it
    python -m data.prepare imagenette --archive imagenette2.tgz        makes it from files at hand
    python -m data.prepare subset cats --from data/raw/imagenet --classes n02123045,n02123394

Archives are tar (plain, gz, xz) or zip, as published or of class folders: train/CLASS/... and val/CLASS/...
(or test/), with or without one folder around them. Everything is made in a hidden folder beside its place,
checked, and renamed into it.
"""

import contextlib
import glob
import http.client
import os
import re
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from data.archives import UNPACKING, extract, plan, reason_of
from guard import cli, ending, recipes, registry
from guard.data import find
from guard.errors import UserError
from guard.run import lock

NAMES = ("imagenette", "cifar10", "cifar100", "tiny-imagenet")
SIZES = ("full", "320px", "160px")
TINY_IMAGENET = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
TINY_IMAGENET_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"


def prepare(name, root, archives=(), size=SIZES[0]):
    """Makes data set `name` (one of NAMES) in ROOT/name from `archives` (files that together are the
    data set) or by download; prints its counts. size: the Imagenette to download, one of SIZES. What is
    there and whole is left alone.

    Raises UserError: a broken one is there, an archive is unsafe or damaged, the result is no whole data
    set, no download, no room.
    """
    root, archives = Path(root), [Path(each) for each in archives]
    there = next(
        (each for each in (root / name, root / find.CIFAR_FOLDERS.get(name, name)) if os.path.lexists(each)),
        None,
    )
    if there:
        try:
            counts, place = check(name, root)
        except UserError as problem:
            raise UserError(
                f"{there} is there but broken ({reason_of(problem)}); remove it, then give this command again"
            ) from None
        print(f"{name}: {counts} at {place}; there already, nothing was changed")
        return
    with contextlib.ExitStack() as files:
        plans = plan(name, archives, files)
        with _staging(root, name) as folder:
            if archives:
                extract(plans, folder / name)
            else:
                _download(name, size, folder)
            if name == "tiny-imagenet":
                _sort_tiny_imagenet(folder / name)
            counts = _check_new(name, folder, ", ".join(map(str, archives)) or "what was downloaded")
    print(f"{name}: {counts} at {root / name}")


def subset(name, source, classes, root):
    """Makes ROOT/name/{train,val}/CLASS, links to the folders of `classes` in `source` (a folder such as
    ImageNet's); prints its counts.

    Raises UserError: a name that is taken or no name, an unknown, repeated or empty class, no room.
    """
    root, source = Path(root), Path(source).resolve()
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):  # run.sh's rule
        raise UserError(
            f"{name!r} is no name for a data set; choose one of letters, digits, dots, dashes and underscores"
            " that starts with a letter or digit"
        )
    if name in {*recipes.RECIPES, *registry.DATA_SETS, *NAMES}:
        raise UserError(f"'{name}' is the name of another data set; choose a name of its own for the subset")
    if os.path.lexists(root / name):
        raise UserError(f"{root / name} is there already; remove it or choose another name")
    if hidden := [each for each in classes if each.startswith(".")]:
        raise UserError(f"--classes names {hidden[0]}, a hidden folder, which is no class; leave it out")
    repeated = sorted({each for each in classes if classes.count(each) > 1})
    if repeated:
        raise UserError(f"--classes names {', '.join(repeated)} more than once; name each class once")
    folders = {
        split: next((source / each for each in names if (source / each).is_dir()), None)
        for split, names in find.SPLITS.items()
    }
    for split, folder in folders.items():
        if folder is None:
            raise UserError(
                f"{source} has no folder {' or '.join(find.SPLITS[split])}; --from takes the folder of a"
                " data set with train/CLASS and val/CLASS"
            )
        unknown = sorted(set(classes) - {entry.name for entry in os.scandir(folder) if entry.is_dir()})
        if unknown:
            raise UserError(
                f"{folder} has no class {', '.join(map(repr, unknown))}; name folders of it, with commas"
                " between them"
            )
    with _staging(root, name) as made:
        for split, folder in folders.items():
            (made / name / split).mkdir(parents=True)
            for each in classes:
                (made / name / split / each).symlink_to(folder / each)
        counts = _check_new(name, made, source)
    print(f"{name}: {counts} at {root / name}")


def check(name, root):
    """(counts in words, folder) of the data set `name` under `root`. Raises UserError when it is not
    whole: a split missing or empty, an empty class, other classes in val than in train, a file of CIFAR
    that has not its published md5.
    """
    train, val = (find.find(name, root, split) for split in find.SPLITS)
    find.check_pair(train, val)
    place, sizes = train.path.parent, [len(train.files), len(val.files)]
    if train.kind == "cifar":
        import torchvision

        place = train.path
        try:
            sizes = [
                len(getattr(torchvision.datasets, name.upper())(place, train=each)) for each in (True, False)
            ]
        except RuntimeError:  # its own text advises a flag that isn't ours
            raise UserError(
                f"{place / find.CIFAR_FOLDERS[name]} lacks files or has damaged ones; make it again"
            ) from None
    return f"{len(train.classes)} classes, {sizes[0]} train and {sizes[1]} val images", place


def _check_new(name, folder, origin):
    try:
        return check(name, folder)[0]
    except UserError as problem:
        reason = reason_of(problem).replace(
            f"{folder}{os.sep}", ""
        )  # the hidden folder will be gone when this is read
        raise UserError(
            f"no whole data set in {origin} ({reason}); nothing was made: mend that, or give all files of the"
            " data set"
        ) from None


@contextlib.contextmanager
def _staging(root, name):
    """Yields a hidden folder in `root`, beside which those are removed that a killed command left. Without an
    error in between, the `name` in it is renamed into place; it is removed in any case.
    """
    folder = None
    try:
        root.mkdir(parents=True, exist_ok=True)
        for stale in root.glob(f".{glob.escape(name)}.*.part"):
            with contextlib.suppress(UserError), lock.held(stale):  # one that is at work holds it
                shutil.rmtree(stale, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=".part", dir=root))
        with lock.held(folder):
            yield folder
            if os.path.lexists(root / name):
                raise UserError(
                    f"another command has made {root / name} meanwhile; nothing of it was changed"
                )
            os.rename(folder / name, root / name)
    except OSError as problem:
        raise UserError(
            f"cannot write {root / name} ({problem.strerror or problem}); make room or choose another --root"
        ) from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; nothing was made") from None
    finally:
        if folder:
            before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C would leave half of it
            shutil.rmtree(folder, ignore_errors=True)
            signal.signal(signal.SIGINT, before)


def _download(name, size, folder):
    """Has torchvision download, check (md5) and unpack a data set; leaves it at FOLDER/name."""
    import torchvision
    from torchvision.datasets.utils import download_and_extract_archive

    unpacked = folder / "download"
    try:
        if name == "imagenette":
            torchvision.datasets.Imagenette(
                unpacked, split="train", size=size, download=True
            )  # the archive holds both splits
        elif name == "tiny-imagenet":
            download_and_extract_archive(TINY_IMAGENET, unpacked, md5=TINY_IMAGENET_MD5)
        else:
            getattr(torchvision.datasets, name.upper())(unpacked, download=True)
    except (*UNPACKING, http.client.HTTPException) as problem:
        raise UserError(
            f"cannot download {name} ({reason_of(problem)}); --archive FILE makes it from a file at hand"
        ) from None
    top = next(each for each in unpacked.iterdir() if each.is_dir())
    place = folder / name / top.name if name in find.CIFAR_FOLDERS else folder / name
    place.parent.mkdir(exist_ok=True)
    top.rename(place)


def _sort_tiny_imagenet(folder):
    """The published layout into class folders: CLASS/images/* up into CLASS, val/images/* into the class
    that val_annotations.txt names.
    """
    train, val, notes = folder / "train", folder / "val", folder / "val" / "val_annotations.txt"
    if notes.is_file():
        images, classes = ({each.name for each in place.glob("*")} for place in (val / "images", train))
        class_of = dict(
            (*line.split("\t"), "")[:2] for line in notes.read_text(errors="replace").splitlines()
        )
        # Only names that lie there are used below: a line such as ../x moves nothing to another place.
        if set(class_of) != images or not set(class_of.values()) <= classes:
            raise UserError(
                f"{notes.name} of {folder.name} does not fit its images and classes, it is damaged; get the"
                " archive again"
            )
        for image, name_of_class in class_of.items():
            (val / name_of_class).mkdir(exist_ok=True)
            (val / "images" / image).rename(val / name_of_class / image)
        (val / "images").rmdir()
        shutil.rmtree(folder / "test", ignore_errors=True)  # the published test images have no labels
    for inner in [*train.glob("*/images"), *val.glob("*/images")]:
        for image in inner.iterdir():
            image.rename(inner.parent / image.name)
        inner.rmdir()


# ---- command line --------------------------------------------------------------------------------


def main(argv=None):
    """The command: ends through guard.ending.run, with status 2 and one line for what the user can mend."""
    parser = cli.Parser(prog="python -m data.prepare", description=__doc__)
    commands = parser.add_subparsers(
        dest="name",
        required=True,
        metavar="NAME",
        help=f"{', '.join(NAMES)}, or subset; each has its own --help",
    )
    for name in NAMES:
        one = commands.add_parser(name, description=f"Makes ROOT/{name}, by download or from archives.")
        way = one.add_mutually_exclusive_group()
        way.add_argument(
            "--archive",
            nargs="+",
            default=[],
            metavar="FILE",
            help="tar or zip files that together are the data set, in place of the download",
        )
        if name == "imagenette":
            way.add_argument(
                "--size",
                choices=SIZES,
                default=SIZES[0],
                help="which release to download, by the images' shorter side [full]",
            )
    some = commands.add_parser(
        "subset",
        description="Makes ROOT/NAME of some classes of a data set at hand, as links to its folders.",
    )
    some.add_argument("subset", metavar="NAME", help="name of the new data set")
    some.add_argument(
        "--from",
        dest="source",
        required=True,
        metavar="FOLDER",
        help="folder with train/CLASS and val/CLASS, such as ImageNet's",
    )
    some.add_argument(
        "--classes",
        required=True,
        type=lambda text: text.split(","),
        metavar="CLASS,...",
        help="names of class folders, such as WordNet ids",
    )
    for one in commands.choices.values():
        one.add_argument(
            "--root",
            "-r",
            default="data/raw",
            metavar="DIR",
            help="folder that holds the data sets [data/raw]",
        )
    parser.set_defaults(size=SIZES[0])
    options = parser.parse_args(argv)
    with _cleaning_up_when_ended():
        if options.name == "subset":
            ending.run(subset, options.subset, options.source, options.classes, options.root)
        else:
            ending.run(prepare, options.name, options.root, options.archive, options.size)


@contextlib.contextmanager
def _cleaning_up_when_ended():
    """What ends a command leaves it through the same clean-up as Ctrl-C, but for what nohup ignores."""
    ends = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is signal.SIG_DFL]
    for each in ends:
        signal.signal(each, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:
        for each in ends:
            signal.signal(each, signal.SIG_DFL)


if __name__ == "__main__":
    main()
