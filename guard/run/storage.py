"""Files that are written whole or not at all, and JSON that says whether it is as it was written."""

import contextlib
import hashlib
import json
import os
from pathlib import Path

from guard.errors import UserError, first_line


@contextlib.contextmanager
def _beside(path, remedy):
    """Yields a path beside `path` to write to, which is gone afterwards. Raises UserError when it cannot
    be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
    except OSError as problem:
        raise UserError(
            f"cannot write {path} ({problem.strerror or first_line(problem)}); {remedy}"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


@contextlib.contextmanager
def replacing(path, remedy="make room or choose another output folder"):
    """Yields a path beside `path` to write to; on leaving without an error the file is renamed into
    place, else removed.

    A reader never sees a half-written file. Raises UserError, which ends with `remedy`, when the folder
    cannot be written.
    """
    path = Path(path)
    with _beside(path, remedy) as temporary:
        yield temporary
        os.replace(temporary, path)


def check_writable(path, remedy="choose another output folder"):
    """Raises UserError, which ends with `remedy`, where `path` could not be written: asked before the work
    whose result it is to hold.
    """
    path = Path(path)
    with _beside(path, remedy) as temporary:
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder")
        temporary.touch()


def remove(path):
    """Removes a file, where there is one. Raises UserError when it cannot be removed."""
    try:
        path.unlink(missing_ok=True)
    except OSError as problem:
        raise UserError(
            f"cannot remove {path} ({problem.strerror}); remove it by hand, or choose another output folder"
        ) from None


SEAL = "fingerprint"  # key of a sealed object's own fingerprint


REMEDY = "remove it and run the stage that makes it again"


FORCE = (  # for a manifest, without which nobody knows what its files are
    "make all that lies beside it again with --force (-f in run.sh)"
)


def read_json(path, what, remedy=REMEDY):
    """A JSON object. Raises UserError that names the file and `what` it should have been, and ends with
    `remedy`.
    """
    try:
        contents = json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise UserError(f"no {what} at {path}; run the stage that makes it first") from None
    except (OSError, ValueError, RecursionError) as problem:
        raise UserError(f"{path} is no readable {what} ({first_line(problem)}); {remedy}") from None
    if not isinstance(contents, dict):
        raise UserError(f"{path} is no {what}; {remedy}")
    return contents


def read_sealed(path, what, remedy=REMEDY):
    """A JSON object that `write_sealed` wrote. Raises UserError as `read_json`, and for an object that
    is not as it was written.
    """
    contents = read_json(path, what, remedy)
    if contents.pop(SEAL, None) != _fingerprint(contents):
        raise UserError(f"{path} is damaged: its contents do not match their fingerprint; {remedy}")
    return contents


def sealed(contents):
    """A copy of a JSON object that has its fingerprint with it."""
    return {**contents, SEAL: _fingerprint(contents)}


@contextlib.contextmanager
def sealing(contents, path):
    """Writes a JSON object and its fingerprint beside `path`; on leaving without an error the file is
    renamed into place.

    What is done inside is only done when there was room for the file. Raises ValueError for an object
    with a key of the seal's name.
    """
    if SEAL in contents:
        raise ValueError(f"'{SEAL}' is the name of the seal")
    with replacing(path) as temporary:
        temporary.write_text(_text(sealed(contents)))
        yield


def write_sealed(contents, path):
    with sealing(contents, path):
        pass


def write_json(contents, path):
    """A JSON object as others may write and read it, without a fingerprint."""
    with replacing(path) as temporary:
        temporary.write_text(_text(contents))


def _text(contents):
    return json.dumps(contents, indent=1) + "\n"


def _fingerprint(contents):
    """sha256 of an object as it will be read; sorted, so that the order of the keys does not count."""
    read_again = json.loads(json.dumps(contents))
    return hashlib.sha256(json.dumps(read_again, sort_keys=True).encode()).hexdigest()
