"""Distilled sets among the paths that a judge is given."""

import sys

from guard.distilled import tensor_set
from guard.errors import UserError
from guard.run import processes

SUFFIXES = (".pt", ".pth")


def find(paths, classes):
    """{name: path} of each set that is named, or in a folder that is named.

    A set is a file of tensors, a folder with a folder for each class, or MTT's folder of images_best.pt,
    whose name such a file bears. What else a folder of several holds is told in a note. Raises UserError for
    a path without a set, and for two of one name.
    """
    found = {}
    for given in paths:
        if not given.exists():
            raise UserError(f"there is nothing at {given}; name a distilled set, or a folder of several")
        here, others = ([given], {}) if _whole(given, classes) else _in(given, classes)
        if not here:
            raise UserError(
                f"{given} is no distilled set of these classes, nor a folder of such{_why(others)}"
            )
        if others and processes.rank() == 0:
            print(f"note: {given} holds what is not judged{_why(others)}", file=sys.stderr, flush=True)
        for path in here:
            name = _name(path)
            if name in found:
                raise UserError(f"{found[name]} and {path} would both be called {name}; rename one")
            found[name] = path
    return found


def _whole(path, classes):
    """Whether a path is one set: any file, which its reader refuses if it is none; or class folders."""
    return path.is_file() or all((path / name).is_dir() for name in classes)


def _in(folder, classes):
    """(the sets in a folder, {what else is there: why that is none})."""
    here, others = [], {}
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            missing = [name for name in classes if not (path / name).is_dir()]
            if not missing:
                here.append(path)
            elif file := tensor_set.file_of(path):
                here.append(file)
            else:
                others[path.name] = f"no folder {missing[0]}"
        elif path.suffix not in SUFFIXES:
            others[path.name] = f"not {' or '.join(SUFFIXES)}"
        elif not _labels_of_another(path):
            here.append(path)
    return here, others


def _labels_of_another(path):
    """Whether a file is the labels of images beside it."""
    name = path.name.replace("labels", "images", 1)
    return name != path.name and path.with_name(name).is_file()


def _name(path):
    """Of a set: its file's without suffix, or its folder's."""
    if path.name == tensor_set.BEST:
        path = path.absolute().parent
    return (path.stem if path.is_file() else path.absolute().name).replace(" ", "-")


def _why(others):
    return "".join(f"; {name}: {reason}" for name, reason in others.items() if not name.startswith("."))
