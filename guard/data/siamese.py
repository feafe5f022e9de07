"""DSA, the augmentation by which sets that were distilled with it are judged (Zhao and Bilen, Dataset
Condensation with Differentiable Siamese Augmentation, ICML 2021; MTT takes it over).

Each mini-batch gets one kind, and each image numbers of its own. It works on normalized images, so what comes
from outside of one is the mean colour, and pixels may leave [0,1]. As in augment.py drawing and applying are
apart. All strengths are the published ones.
"""

import math

import torch
import torch.nn.functional as F

from guard.data.augment import copied, places_of

BRIGHTNESS, SATURATION, CONTRAST = 1.0, 2.0, 0.5
CROP = 0.125  # furthest shift, as a share of the side
CUTOUT = 0.5  # side of what is cut out, as a share of the side
SCALE = 1.2  # sampled this many times as far apart, at most, or as close together
DEGREES = 15.0
MOST_NUMBERS = 3  # that any kind needs for an image


def draw(generator, count, *, flip=True):
    """What is done to a mini-batch of N = `count` images: (kind, a key of KINDS; numbers, (N, MOST_NUMBERS)
    uniform in [0,1), on the CPU). flip: whether it may be the kind 'flip'.
    """
    kinds = [kind for kind in KINDS if flip or kind != "flip"]
    kind = kinds[int(torch.randint(len(kinds), (1,), generator=generator))]
    return kind, torch.rand(count, MOST_NUMBERS, generator=generator)


def apply(images, kind, numbers):
    """Normalized images (N, 3, S, S) -> the same, augmented. kind, numbers: of `draw`, the latter on the
    images' device.
    """
    return KINDS[kind](images, *(column.view(-1, 1, 1, 1) for column in numbers.unbind(1)))


# ---- the kinds: (images, three numbers (N, 1, 1, 1) in [0,1) for each) -> images -----------------


def _color(images, for_brightness, for_saturation, for_contrast):
    images = images + BRIGHTNESS * (for_brightness - 0.5)
    images = _stretched(images, 1, SATURATION * for_saturation)
    return _stretched(images, (1, 2, 3), CONTRAST + for_contrast)


def _stretched(images, over, factor):
    """Distances from the mean over some dimensions, times `factor`."""
    mean = images.mean(over, keepdim=True)
    return mean + factor * (images - mean)


def _crop(images, for_row, for_column, _):
    size = images.shape[2]
    furthest = int(size * CROP + 0.5)
    along = torch.arange(size, device=images.device)
    rows, columns = (
        along + _whole(uniform, -furthest, furthest).view(-1, 1) for uniform in (for_row, for_column)
    )
    return copied(images, *places_of(rows, columns, (size, size)))


def _cutout(images, for_row, for_column, _):
    size = images.shape[2]
    side = int(size * CUTOUT + 0.5)
    along = torch.arange(size, device=images.device)
    # Centres from 0 to size, or size - 1 for an odd side: what lies outside is cut off, as published.
    firsts = [_whole(uniform, 0, size - side % 2) - side // 2 for uniform in (for_row, for_column)]
    rows, columns = ((along >= first.view(-1, 1)) & (along < first.view(-1, 1) + side) for first in firsts)
    return images * ~(rows.unsqueeze(2) & columns.unsqueeze(1)).unsqueeze(1)


def _flip(images, chance, *_):
    return torch.where(chance < 0.5, images.flip(3), images)


def _scale(images, for_width, for_height, _):
    across, down = ((SCALE - 1 / SCALE) * uniform + 1 / SCALE for uniform in (for_width, for_height))
    zero = torch.zeros_like(across)
    return _sampled(images, [across, zero, zero, down])


def _rotate(images, for_angle, *_):
    angle = (for_angle - 0.5) * 2 * math.radians(DEGREES)
    return _sampled(images, [angle.cos(), -angle.sin(), angle.sin(), angle.cos()])


KINDS = {
    "color": _color,
    "crop": _crop,
    "cutout": _cutout,
    "flip": _flip,
    "scale": _scale,
    "rotate": _rotate,
}


def _whole(uniform, lowest, highest):
    """Whole numbers (N, 1, 1, 1) from lowest to highest, all as likely, of numbers in [0,1)."""
    return ((highest - lowest + 1) * uniform).floor().long().clamp(max=highest - lowest) + lowest


def _sampled(images, matrix):
    """Each image at the places that a 2x2 matrix makes of its own, in coordinates from -1 to 1: bilinear, 0
    outside. matrix: row by row, each (N, 1, 1, 1).
    """
    matrix = torch.cat([each.view(-1, 1) for each in matrix], 1).view(-1, 2, 2)
    grid = F.affine_grid(F.pad(matrix, (0, 1)), images.shape, align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)
