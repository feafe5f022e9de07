"""Decoded once: the pixels of a folder of images in one memory-mapped file.

The file lies in the folder that GUARD_CACHE names, else in the user's cache folder. Its name tells which
files, of which size and date, it was made of, so a folder that changed gets a new one, and a file that
is there is whole: it is written beside its place.
"""

import contextlib
import hashlib
import math
import os
import shutil
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import torch
from PIL import Image
from tqdm import tqdm

from guard.errors import UserError, first_line
from guard.run import lock, processes
from guard.run.storage import replacing

LARGEST = (
    32 * 2**30
)  # bytes of pixels; larger folders (ImageNet-1K has 600 GB) are decoded as they are needed
SPARE = 2**30  # bytes that are left free on the disk
FORMATS = (
    "JPEG",
    "PNG",
    "BMP",
    "WEBP",
    "GIF",
)  # whatever a file's name is; Pillow's other readers go as far as to start programs
MODES = (
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
)  # of Pillow, that 8-bit RGB holds without a loss of range
LONGEST = 500  # times the shorter side; resized by its shorter side, a strip of pixels would fill the memory

# What Pillow warns of on stderr, beside the one line of an error: `_check` refuses what is too large,
# and it does so in every thread.
warnings.filterwarnings("ignore", module=r"PIL\.")


@contextlib.contextmanager
def _opened(path):
    """The Pillow image of a file, of which only the header is read yet. Raises UserError that names an
    unreadable or unusable file.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            _check(image)
            yield image
    except Exception as problem:  # noqa: BLE001 - a damaged image can end in any exception
        raise UserError(
            f"cannot read the image {path} ({first_line(problem)}); remove or replace it"
        ) from None


def _check(image):
    width, height = image.size
    if image.mode not in MODES:
        raise ValueError(f"its mode is {image.mode}, which 8 bits for each colour cannot hold")
    if not 0 < width * height <= (Image.MAX_IMAGE_PIXELS or math.inf) or max(width, height) > LONGEST * min(
        width, height
    ):
        raise ValueError(f"its size is {width}x{height} pixels")


def read_image(path):
    """An image file as uint8 (3, H, W). Raises UserError that names an unreadable file."""
    with _opened(path) as image:
        return torch.from_numpy(numpy.array(image.convert("RGB"))).permute(2, 0, 1)


def in_parallel(function, items, title, block=512):
    """function(item) of all items, in order, on all cores, behind a progress bar; an error or Ctrl-C
    ends it at once. No more than a block of results waits to be taken.
    """
    pool = ThreadPoolExecutor()
    try:
        with tqdm(total=len(items), desc=title, unit="image", disable=None) as bar:
            for start in range(0, len(items), block):
                for result in pool.map(function, items[start : start + block]):
                    yield result
                    bar.update()
    finally:
        pool.shutdown(cancel_futures=True)


def folder():
    """Where caches are kept."""
    return Path(
        os.environ.get("GUARD_CACHE")
        or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "guard"
    )


def cached(files, what, prepare=None):
    """(flat uint8 tensor of all pixels, sizes (N, 2) of the images) of `files`, one after the other,
    each (3, H, W), from the cache, which is made where it is not there; None where the decoded images
    would be too many to keep.

    what: words that name the images in the cache; prepare: (3, H, W) -> (3, H', W'), applied before they
    are kept, is among them. Raises UserError for an image that cannot be read.
    """
    path = _path(files, what)
    if processes.local_rank() == 0 and not _open(path, len(files)):
        with _alone(path):
            if not _open(path, len(files)):
                _make(path, files, what, prepare)
    processes.barrier()
    return _open(path, len(files))


def _path(files, what):
    """One place per `what`, one name per state of the files."""
    stats = (
        (name, (status := os.stat(name)).st_size, status.st_mtime_ns) for name in map(os.path.abspath, files)
    )
    place, state = (hashlib.sha256(repr(words).encode()).hexdigest()[:16] for words in (what, list(stats)))
    return folder() / f"{what[0]}-{what[1]}-{place}-{state}.npy"


@contextlib.contextmanager
def _alone(path):
    """Others that want the same images wait, and find them made. Clears what a killed process left
    half-written; a folder that cannot be written is nobody's to wait for.
    """
    prefix = path.stem.rsplit("-", 1)[0]
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(UserError):
            stack.enter_context(lock.held(path.parent / f".{prefix}", wait=True, each_machine=True))
            for stale in path.parent.glob(f".{prefix}-*.part"):
                with contextlib.suppress(OSError):
                    stale.unlink()
        yield
    with contextlib.suppress(OSError):
        (path.parent / f".{prefix}").rmdir()


def _make(path, files, what, prepare):
    needed = _decoded_bytes(files, prepare)
    if needed > LARGEST:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
    except OSError as problem:
        return _note(what, f"{path.parent} cannot be written ({problem.strerror})")
    if needed + SPARE > free:
        return _note(
            what,
            f"{path.parent} has {free / 2**30:.1f} GiB left and {(needed + SPARE) / 2**30:.1f} are needed",
        )
    for stale in path.parent.glob(path.name.rsplit("-", 1)[0] + "-*.npy"):
        stale.unlink(missing_ok=True)
    sizes = numpy.zeros((len(files), 2), numpy.int32)
    with (
        replacing(path, "make room, or name another folder in GUARD_CACHE") as temporary,
        open(temporary, "wb") as file,
    ):
        file.write(sizes.tobytes())
        for number, pixels in enumerate(
            in_parallel(lambda name: _read(name, prepare), files, f"decoding {what[0]}")
        ):
            sizes[number] = pixels.shape[1:]
            file.write(numpy.ascontiguousarray(pixels.numpy()).data)
        file.seek(0)
        file.write(sizes.tobytes())
    return None


def _note(what, reason):
    print(
        f"note: the images of {what[0]} are decoded each time they are needed, since {reason}; GUARD_CACHE"
        " names another folder",
        file=sys.stderr,
        flush=True,
    )


def _read(path, prepare):
    pixels = read_image(path)
    return prepare(pixels) if prepare else pixels


def _decoded_bytes(files, prepare):
    """Bytes of all images once they are decoded, from their headers, or more than LARGEST where the
    files alone have so many.
    """
    compressed = sum(os.path.getsize(path) for path in files)
    if compressed > LARGEST:
        return compressed
    if prepare:
        return _read(files[0], prepare).numel() * len(files)

    def size(path):
        with _opened(path) as image:
            return 3 * image.width * image.height

    with ThreadPoolExecutor() as pool:
        return sum(pool.map(size, files))


def _open(path, count):
    """The two tensors of a cache, or None where there is none or it has been cut off. As long as nobody
    writes to them, all who map the file share its memory.
    """
    if not path.exists() or path.stat().st_size < 8 * count:
        return None
    flat = numpy.memmap(path, numpy.uint8, mode="c")
    sizes = torch.from_numpy(flat[: 8 * count].view(numpy.int32).reshape(count, 2).astype(numpy.int64))
    return (
        (torch.from_numpy(flat[8 * count :]), sizes)
        if 8 * count + 3 * sizes.prod(1).sum() == len(flat)
        else None
    )
