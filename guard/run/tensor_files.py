"""Files of tensors and plain values: written whole, and read without running anything that is in them."""

import contextlib
import pickle
import warnings
import zipfile
from pathlib import Path

import torch

from guard.errors import UserError, first_line
from guard.run.storage import replacing

REMEDY = "remove it and make it again"
DTYPES = (
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.uint8,
    torch.int32,
    torch.int64,
    torch.bool,
)  # of tensors that are taken from a file


@contextlib.contextmanager
def saving(contents, path):
    """Writes plain values and tensors beside `path`; on leaving without an error the file is renamed
    into place.

    What is done inside, such as the note of it in a record, is only done when there was room for the
    file.
    """
    with replacing(path) as temporary:
        try:
            with open(
                temporary, "wb"
            ) as file:  # to a path, torch.save would write the path into the file, too
                torch.save(contents, file)
        except RuntimeError:  # torch's own writer reports a full disk this way, in words that do not say so
            raise OSError("the disk is full or cannot be written") from None
        yield


def save(contents, path):
    """Writes plain values and tensors to `path`, atomically."""
    with saving(contents, path):
        pass


class _Skipped:
    """Stands in the place of an object that is not read; what it was made of is dropped."""

    def __init__(self, *parts):
        del parts

    def __setstate__(self, state):
        del state


def read(path, remedy=REMEDY, *, what="checkpoint", skipped=()):
    """What torch.save wrote, plain values and tensors only. Raises UserError, which ends with `remedy`,
    for a missing, damaged or unsafe file.

    what: the file should be, for messages. skipped: full names of classes and functions whose objects may be
    in the file but are not made.
    """
    path = Path(path)
    if not path.is_file():
        made = "train one first, or " if what == "checkpoint" else ""
        raise UserError(f"no {what} at {path}; {made}name another file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a second line, about the file that the one line is about
            _check_sums(path)
            with torch.serialization.safe_globals([(_Skipped, name) for name in skipped]):
                return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # whose own text tells how to load it all the same
        raise UserError(
            f"{path} holds more than plain tensors and values, or is damaged, and was not loaded; {remedy}"
        ) from None
    except Exception as problem:  # noqa: BLE001 - a damaged pickle can end in any exception
        raise UserError(
            f"{path} is truncated, damaged or no {what} ({first_line(problem)}); {remedy}"
        ) from None


def _check_sums(path):
    """The checksums that torch.save writes and torch.load does not look at."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if damaged := archive.testzip():
                raise ValueError(f"the checksum of its part {damaged.partition('/')[2]} is wrong")


def is_plain(value):
    """Whether a value is a tensor with all its numbers in memory; one that repeats few of them could be of
    any size.
    """
    plain = (
        isinstance(value, torch.Tensor)
        and not value.is_nested
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.dtype in DTYPES
    )
    return plain and value.numel() * value.element_size() <= value.untyped_storage().nbytes()
