"""Decoded once: the pixels of a folder of images in one memory-mapped file.

The file lies in the folder that GUARD_CACHE names, else in the user's cache folder. Its name tells which
files, of which sizes and dates, it was made of, so a folder that changed gets a new one. It is written beside
its place and renamed into it, so one that is there is whole.

Such a file holds the sizes of N images, int32 (N, 2) heights and widths, and then the images one after the
other, uint8 (3, H, W) each.
"""

import contextlib
import functools
import glob
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

# Bytes of pixels. Larger folders (ImageNet-1K has 600 GB) are decoded as they are needed.
LARGEST = 32 * 2**30
SPARE = 2**30  # bytes that are left free on the disk
# What files may be, whatever their names are: Pillow's other readers go as far as to start programs.
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "PPM")
# Pillow's modes that 8-bit RGB holds without a loss of range.
MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")
# Times the shorter side: resized by its shorter side, a strip of pixels would fill the memory.
LONGEST = 500

# What Pillow warns of on stderr, beside the one line of an error: `_check` refuses what is too large,
# and it does so in every thread.
warnings.filterwarnings("ignore", module=r"PIL\.")


@contextlib.contextmanager
def _opened(path):
    """The Pillow image of a file, of which only the header is read yet.

    Raises UserError that names an unreadable or unusable file.
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
    """Raises ValueError for a Pillow image of a mode or a size that cannot be used."""
    width, height = image.size
    if image.mode not in MODES:
        raise ValueError(f"its mode is {image.mode}, which 8 bits for each colour cannot hold")
    most_pixels = Image.MAX_IMAGE_PIXELS or math.inf
    is_strip = max(width, height) > LONGEST * min(width, height)
    if not 0 < width * height <= most_pixels or is_strip:
        raise ValueError(f"its size is {width}x{height} pixels")


def read_image(path):
    """An image file as uint8 (3, H, W). Raises UserError that names an unreadable file."""
    with _opened(path) as image:
        return torch.from_numpy(numpy.array(image.convert("RGB"))).permute(2, 0, 1)


def in_parallel(function, items, title, block=512):
    """Yields function(item) of all items, in order, computed on all cores behind a progress bar.

    title: of the bar. An error or Ctrl-C ends it at once. No more than `block` results wait to be taken.
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
    if own := os.environ.get("GUARD_CACHE"):
        return Path(own)
    of_user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(of_user) / "guard"


@contextlib.contextmanager
def kept_in(own):
    """Inside, this process keeps its caches in the folder `own`."""
    before = os.environ.get("GUARD_CACHE")
    os.environ["GUARD_CACHE"] = str(own)
    try:
        yield
    finally:
        del os.environ["GUARD_CACHE"]
        if before is not None:
            os.environ["GUARD_CACHE"] = before


def cached(files, what, prepare=None):
    """(pixels, sizes) of the N images in `files`, from the cache, which is made where it is not there.

    pixels: flat uint8, one image after the other, (3, H, W) each. sizes: (N, 2) int64 heights and widths.
    Returns None where the decoded images are too many to keep, or cannot be kept. what: a tuple that names
    the images in the cache, and how they are prepared. prepare: uint8 (3, H, W) -> (3, H', W'), applied
    before they are kept. Raises UserError for an image that cannot be read.
    """
    path = _path(files, what)
    if processes.local_rank() == 0 and not _open(path, len(files)):
        with _alone(path):
            if not _open(path, len(files)):
                _make(path, files, what, prepare)
    processes.barrier()
    return _open(path, len(files))


def _path(files, what):
    """One place per `what`, one name per state of the files: their names, sizes and dates, and what tells
    that others of these sizes and dates took their places.
    """
    state = []
    for file in files:
        status = os.stat(file)
        dates = status.st_mtime_ns, status.st_ctime_ns
        state.append((os.path.abspath(file), status.st_size, *dates, status.st_ino))
    return folder() / f"{Path(what[0]).name}-{what[1]}-{_short_hash(what)}-{_short_hash(state)}.npy"


def _short_hash(words):
    return hashlib.sha256(repr(words).encode()).hexdigest()[:16]


def _place_of(path):
    """What the names of a place's cache files have in common, whatever the state of the images."""
    return path.stem.rsplit("-", 1)[0]


@contextlib.contextmanager
def _alone(path):
    """Inside, no other process makes the cache of the same images; those that want it wait, and find it made.

    It clears what a killed process left half-written. A folder that cannot be written is nobody's to wait
    for.
    """
    prefix = _place_of(path)
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(UserError):
            stack.enter_context(lock.held(path.parent / f".{prefix}", wait=True, each_machine=True))
            for stale in path.parent.glob(f".{glob.escape(prefix)}-*.part"):
                with contextlib.suppress(OSError):
                    stale.unlink()
        yield
    with contextlib.suppress(OSError):
        (path.parent / f".{prefix}").rmdir()


def _make(path, files, what, prepare):
    """Writes the cache file in place of older ones of the same images, or says on stderr why it cannot be.

    What is too large to keep is left out silently.
    """
    needed = _decoded_bytes(files, prepare)
    if needed > LARGEST:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
    except OSError as problem:
        _note(what, f"{path.parent} cannot be written ({problem.strerror})")
        return
    if needed + SPARE > free:
        left, wanted = free / 2**30, (needed + SPARE) / 2**30
        _note(what, f"{path.parent} has {left:.1f} GiB left and {wanted:.1f} are needed")
        return
    if not os.access(path.parent, os.W_OK | os.X_OK):
        _note(what, f"{path.parent} cannot be written")
        return
    for stale in path.parent.glob(f"{glob.escape(_place_of(path))}-*.npy"):
        stale.unlink(missing_ok=True)
    with (
        replacing(path, "make room, or name another folder in GUARD_CACHE") as temporary,
        open(temporary, "wb") as file,
    ):
        _write(file, files, what, prepare)


def _write(file, files, what, prepare):
    """Writes sizes and pixels of the decoded images to an open file."""
    sizes = numpy.zeros((len(files), 2), numpy.int32)
    file.write(sizes.tobytes())  # their place; they are known when the images are decoded
    read = functools.partial(_read, prepare=prepare)
    for number, pixels in enumerate(in_parallel(read, files, f"decoding {what[0]}")):
        sizes[number] = pixels.shape[1:]
        file.write(numpy.ascontiguousarray(pixels.numpy()).data)
    file.seek(0)
    file.write(sizes.tobytes())


def _note(what, reason):
    """Says on stderr why the images are not kept."""
    print(
        f"note: the images of {what[0]} are decoded each time they are needed, since {reason}; GUARD_CACHE"
        " names another folder",
        file=sys.stderr,
        flush=True,
    )


def _read(path, prepare):
    """uint8 (3, H, W) of an image file, prepared."""
    pixels = read_image(path)
    return prepare(pixels) if prepare else pixels


def _decoded_bytes(files, prepare):
    """Bytes of all images once they are decoded, from their headers.

    Where the files alone have more than LARGEST, their bytes.
    """
    compressed = sum(os.path.getsize(path) for path in files)
    if compressed > LARGEST:
        return compressed
    if prepare:
        return _read(files[0], prepare).numel() * len(files)

    return sum(3 * width * height for width, height in _sizes(files))


def _sizes(files):
    """[(width, height)] of images, from their headers."""

    def size(path):
        with _opened(path) as image:
            return image.size

    with ThreadPoolExecutor() as pool:
        return list(pool.map(size, files))


def are_alike(files):
    """Whether images are all of one size. Raises UserError for one that cannot be read."""
    return len({*_sizes(files)}) <= 1


def _open(path, count):
    """(pixels, sizes) of the cache file of `count` images, or None where there is none or it was cut off.

    As long as nobody writes to the pixels, all who map the file share its memory.
    """
    bytes_of_sizes = 8 * count
    try:
        if path.stat().st_size < bytes_of_sizes:
            return None
        contents = numpy.memmap(path, numpy.uint8, mode="c")
    except OSError:  # it is not there, or may not be read
        return None
    sizes = contents[:bytes_of_sizes].view(numpy.int32).reshape(count, 2)
    sizes = torch.from_numpy(sizes.astype(numpy.int64))
    if bytes_of_sizes + 3 * sizes.prod(1).sum() != len(contents):
        return None
    return torch.from_numpy(contents[bytes_of_sizes:]), sizes
