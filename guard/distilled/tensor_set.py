"""Distilled images that others saved as tensors by torch.save: reader. docs/usage.md lists the layouts.

Nothing in such a file can run: it is read as plain tensors and values.
"""

import functools
import sys
from pathlib import Path

import torch

from guard.data import augment
from guard.data.images import Packed
from guard.distilled import shared_set
from guard.errors import UserError
from guard.run import processes, tensor_files

TOLERANCE = 1 / 255  # by which pixels may leave [0,1]: one step of 8 bits
# Standard deviation of all pixels in [0,1]. CIFAR-10 has 0.25. Whitened by ZCA as MTT does it, and then taken
# for normalized, it has 0.05, most of it within [0,1]; not normalized, and taken for it, 0.05 as well.
LOWEST_CONTRAST = 0.1
SUM_TOLERANCE = 1e-2  # by which an image's shares of all classes may miss 1, such as those in half precision
LEAST_LOGIT = 1.5  # the largest of all logits is further from 0; values within it are taken for failed shares
BEST = "images_best.pt"  # MTT's name of its images
UNWHITENED = "images_zca_"  # begins MTT's names of images that its inverse transform has made pixels again
END = 0.02  # how near to -1 and 1 the values come at both ends that were normalized by mean and std 0.5
WHOLE_NUMBERS = (torch.uint8, torch.int32, torch.int64)


def read(path, classes, *, mean, std, clamp=False, soft_labels=False):
    """The images of a file, as Packed with float32 pixels in [0,1], of which nothing is rounded; or as they
    were exported, where guard.distilled.shared_set wrote the file, which then tells all of this itself.

    classes: names of the data set's classes, in label order. mean, std: of each channel, by which the images
    were normalized. clamp: cut off what lies outside [0,1], and tell how much that is, instead of refusing
    it. soft_labels: keep those of the file, as shares; else the largest of each counts. Raises UserError that
    names what does not fit.
    """
    path = Path(path)
    contents = _contents(path)
    if shared_set.is_shared(contents):
        if soft_labels:
            raise UserError(f"{path} has labels for each view, not for each image; leave --soft-labels out")
        return shared_set.images_of(path, contents).in_order_of(classes)
    images, labels, path_of_labels = _tensors_in(path, contents)
    _check_images(path, images)
    if path.name.startswith(UNWHITENED):
        pixels, undone = images.detach().float(), ""
    else:
        pixels = _unnormalized(path, images, mean, std)
        undone = f", after its normalization by mean {_numbers(mean)} and std {_numbers(std)} is undone"
    _check_range(path, pixels, undone, clamp)
    hard = _hard_labels(path_of_labels, labels, len(pixels), len(classes))
    shares = _shares(path_of_labels, labels) if soft_labels else None
    if shares is None:
        _check_all_classes(path_of_labels, hard, len(classes))
    return Packed(pixels.clamp(0, 1), hard, tuple(classes), shares=shares)


def file_of(path):
    """The file that a path names: itself, or MTT's images in a folder; None where there is none of them."""
    path = Path(path)
    return next((each for each in (path, path / BEST) if each.is_file()), None)


def is_iteration(path):
    """Whether a file has MTT's name for the images of an iteration, images_5000.pt."""
    return path.stem.removeprefix("images_").isdecimal() and path.suffix == ".pt"


def unwhitened(path):
    """Files of pixels beside MTT's images at `path`, by which these are known to be whitened: that of the
    same name, else, for an iteration or the best one, those of the other iterations of that run.
    """
    if not path.name.startswith("images_") or path.name.startswith(UNWHITENED):
        return []
    same = path.with_name(path.name.replace("images_", UNWHITENED, 1))
    if same.is_file():
        return [same]
    if not (path.name == BEST or is_iteration(path)):
        return []
    iterations = {
        found.stem.removeprefix(UNWHITENED): found for found in path.parent.glob(f"{UNWHITENED}*.pt")
    }
    return [iterations[number] for number in sorted(filter(str.isdecimal, iterations), key=int)]


def holds_images(path):
    """Whether a file has the form of a set or of images alone; another may hold labels or a learning rate.

    Raises UserError for a file that cannot be read.
    """
    contents = _contents(path)
    if isinstance(contents, torch.Tensor):
        return contents.ndim == 4
    return isinstance(contents, dict) and "data" in contents


def _tensors_in(path, contents):
    """(images, labels, path of the labels), unchecked: of the first set in a file of DC's layout, or of two
    files in MTT's. contents: of the file at `path`.
    """
    if isinstance(contents, torch.Tensor):
        _check_images(path, contents)
        if found := unwhitened(path):
            named = "" if len(found) == 1 else "that of its iteration among "
            raise UserError(
                f"{path} is ZCA-whitened; name {named}{', '.join(map(str, found))} beside it, which is not"
            )
        beside = path.with_name(path.name.replace(UNWHITENED, "images_", 1).replace("images", "labels", 1))
        if beside == path or not beside.is_file():
            raise UserError(
                f"{path} holds images alone, and no file beside it their labels; name them as MTT does,"
                " images_best.pt and labels_best.pt"
            )
        return contents, _contents(beside), beside
    sets = contents.get("data") if isinstance(contents, dict) else None
    if not (isinstance(sets, list) and sets and isinstance(sets[0], (list, tuple)) and len(sets[0]) == 2):
        raise UserError(
            f"{path} holds neither {{'data': [[images, labels], ...]}} nor a tensor of images; save it in one"
            " of the layouts in docs/usage.md"
        )
    return *sets[0], path


def _contents(path):
    remedy = "save its tensors again, or get the file again"
    return tensor_files.read(path, remedy, what="file of tensors", skipped=shared_set.SKIPPED)


def _check_images(path, images):
    fits = tensor_files.is_plain(images) and images.is_floating_point() and images.ndim == 4
    if not (fits and len(images) and images.shape[1] == 3 and images.shape[2] == images.shape[3]):
        raise UserError(f"{path} holds {_shape(images)} for images; needed are floats (N, 3, S, S)")
    if not images.isfinite().all():
        raise UserError(f"{path} holds images that are not finite; get the file again")


def _unnormalized(path, images, mean, std):
    """float32 (N, 3, S, S) pixels, which [0,1] holds where the images are what they should be."""
    pixels = augment.unnormalized(images.detach().float(), mean, std)
    if images.min() >= 0:
        raise UserError(
            f"{path} holds images without a value below 0, so they are not normalized; save their pixels as"
            " PNG in class folders"
        )
    low, high = images.min().item(), images.max().item()
    reaches = max(average / spread for average, spread in zip(mean, std))  # below 0, where a pixel is 0
    if abs(low + 1) < END and abs(high - 1) < END and reaches > 1 + END:
        raise UserError(
            f"{path} holds images from {low:.2f} to {high:.2f}, so they were normalized by mean and std 0.5,"
            f" and not by mean {_numbers(mean)} and std {_numbers(std)}; save their pixels as PNG in class"
            " folders"
        )
    if pixels.std() < LOWEST_CONTRAST:
        raise UserError(
            f"{path} holds images with less contrast than normalized ones have, so they are ZCA-whitened,"
            " which cannot be undone without its matrices, or not normalized at all; save their pixels as PNG"
            " in class folders, whitened ones after their authors' inverse transform"
        )
    return pixels


def _check_range(path, pixels, undone, clamp):
    """undone: words for what was done to the file's values. clamp: tell of what is outside, not refuse it."""
    low, high = pixels.min().item(), pixels.max().item()
    if low >= -TOLERANCE and high <= 1 + TOLERANCE:
        return
    outside = 100 * ((pixels < 0) | (pixels > 1)).float().mean().item()
    told = f"{path} holds pixels from {low:.2f} to {high:.2f}, {outside:.2g} % of them outside [0,1]{undone}"
    if not clamp:
        raise UserError(
            f"{told}; name the data set that it was distilled from; save ZCA-whitened images as PNG in class"
            " folders after their authors' inverse transform; or, where they were normalized so but never"
            " kept in [0,1], give --clamp"
        )
    _tell_once(f"note: {told}; they are cut off")


@functools.cache
def _tell_once(note):
    """Of a set that is read again for each student."""
    if processes.rank() == 0:
        print(note, file=sys.stderr, flush=True)


def _hard_labels(path, labels, count, classes):
    """(count,) int64 labels: as they are, or the largest of the soft ones (count, classes)."""
    fits = tensor_files.is_plain(labels)
    if fits and labels.shape == (count, classes) and labels.is_floating_point() and labels.isfinite().all():
        hard = labels.detach().argmax(1)
    elif fits and labels.shape == (count,) and labels.dtype in WHOLE_NUMBERS:
        hard = labels.long()
    else:
        raise UserError(
            f"{path} holds {_shape(labels)} for the labels of {count} images; needed are whole numbers"
            f" ({count},) or finite floats ({count}, {classes})"
        )
    if wrong := sorted(set(hard.tolist()) - set(range(classes))):
        raise UserError(
            f"{path} has the label {wrong[0]}, and the data set's are 0 to {classes - 1}; name the data set"
            " that it was distilled from"
        )
    return hard


def _check_all_classes(path, hard, classes):
    """Of hard labels. Where soft ones are learnt, a class may be the largest of none and still be there."""
    if missing := sorted(set(range(classes)) - set(hard.tolist())):
        raise UserError(
            f"{path} has no image of class {missing[0]}; name the data set that it was distilled from"
        )


def _shares(path, labels):
    """(N, classes) float32: soft labels that add up to 1 as they are; others are logits, by softmax.

    Raises UserError for what is neither, such as percent, and shares of which something was subtracted: their
    softmax says nearly nothing, or nothing but the largest.
    """
    if labels.ndim != 2:
        raise UserError(f"{path} holds whole numbers for labels; leave --soft-labels out")
    soft = labels.detach().float()
    sums = soft.sum(1)
    if soft.min() >= 0 and (sums - 1).abs().max() < SUM_TOLERANCE:
        return soft
    percent = soft.min() >= 0 and (sums / 100 - 1).abs().max() < SUM_TOLERANCE
    if percent or soft.abs().max() < LEAST_LOGIT:
        raise UserError(
            f"{path} holds labels from {soft.min():.2f} to {soft.max():.2f}, those of an image adding up to"
            f" {sums.min():.3g} to {sums.max():.3g}, so they are neither shares, which add up to 1, nor"
            " logits; save them as one of these"
        )
    return soft.softmax(1)


def _shape(found):
    """What was found in place of a tensor that fits, in a few words."""
    if not isinstance(found, torch.Tensor):
        return f"a {type(found).__name__}"
    if found.is_nested:
        return "a nested tensor"
    return f"{str(found.dtype).removeprefix('torch.')} {tuple(found.shape)}"


def _numbers(values):
    return ", ".join(f"{value:g}" for value in values)
