"""Distilled sets among the paths that a judge is given."""

import os
import sys
from pathlib import Path

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
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        found, reason = _set_at(path, classes)
        if reason is None:
            here.append(found)
        elif reason:
            others[path.name] = reason
    return here, others


def _set_at(path, classes):
    """(the set that a path in a folder of several is, None), or (the path, why it is none)."""
    if path.is_file():
        return path, _skipped(path)
    missing = [name for name in classes if not (path / name).is_dir()]
    if missing and (file := tensor_set.file_of(path)):
        return file, _skipped(file)
    return path, f"no folder {missing[0]}" if missing else None


def _skipped(path):
    """Why a file is no set of its own, beside what lies in its folder: '' where that needs no telling, as of
    labels; None for one that is a set.
    """
    if path.suffix not in SUFFIXES:
        return f"not {' or '.join(SUFFIXES)}"
    kind, _, rest = path.name.partition("_")
    of_images = (path.with_name(f"{before}{rest}") for before in ("images_", tensor_set.UNWHITENED))
    if kind == "labels" and any(each.is_file() for each in of_images):
        return ""
    if tensor_set.unwhitened(path):
        return f"whitened, {tensor_set.UNWHITENED}*.pt are not"
    if tensor_set.is_iteration(path) and path.with_name(tensor_set.BEST).is_file():
        return f"{tensor_set.BEST} is read"
    return None if kind == "images" or tensor_set.holds_images(path) else "no images"


def _name(path):
    """Of a set: its file's without suffix, or its folder's."""
    path = Path(os.path.abspath(path))  # '..' has a name, and a link keeps its own
    if path.name == tensor_set.BEST:
        path = path.parent
    return (path.stem if path.is_file() else path.name).replace(" ", "-")


def _why(others):
    return "".join(f"; {name}: {reason}" for name, reason in others.items())
