"""Views of images: crops, flips, rolls, CutMix, MixUp.

Drawing and applying are apart. Parameters are drawn on the CPU from a generator that is tied to (seed,
epoch, batch), so the same view can be made again anywhere. They are applied to whole batches on the
device by a pair of small matrices per image, whose gradient is a pair of matrix products as well, hence
the same bits each time on a GPU, too; and to large images on the CPU one by one.

A box is (top, left, height, width) in pixels of the source; parts outside the image are black.
"""

from typing import NamedTuple

import torch
from torchvision.transforms.v2.functional import resized_crop

RATIO = (3 / 4, 4 / 3)  # aspect ratios of a random resized crop
LARGE = 64  # pixels from which a view on the CPU is quicker for each image alone
PAD = 4  # pixels around the image that a pad-crop may reach into


class Views(NamedTuple):
    """One view for each image: boxes (N, 4) int64, flips (N,) bool."""

    boxes: torch.Tensor
    flips: torch.Tensor


class Mix(NamedTuple):
    """How a batch is mixed: partner (N,) position of the other image in the batch, share of the own
    image (MixUp; 1 for none), box (4,) of the partner's pixels (CutMix; empty for none).
    """

    partner: torch.Tensor
    share: float
    box: tuple


# ---- drawing -------------------------------------------------------------------------------------


def resized_crops(generator, heights, widths, smallest, attempts=10):
    """Boxes (N, 4) of random resized crops, by torchvision's rule (RandomResizedCrop.get_params), drawn
    for all images at once.

    heights, widths: (N,) of the source images. smallest: the least share of the area to keep, a number
    or (N,). Ten attempts at an area uniform in [smallest, 1] and an aspect ratio log-uniform in RATIO;
    where none fits, the largest centred box within RATIO.
    """
    count = len(heights)
    heights, widths = heights.double().view(-1, 1), widths.double().view(-1, 1)
    smallest = torch.as_tensor(smallest, dtype=torch.float64).expand(count).view(-1, 1)
    uniform = torch.rand(4, count, attempts, generator=generator, dtype=torch.float64)
    area = heights * widths * (smallest + (1 - smallest) * uniform[0])
    low, high = torch.tensor(RATIO, dtype=torch.float64).log()
    ratio = (low + (high - low) * uniform[1]).exp()
    width, height = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (width > 0) & (width <= widths) & (height > 0) & (height <= heights)
    top = (uniform[2] * (heights - height + 1)).floor().minimum(heights - height)
    left = (uniform[3] * (widths - width + 1)).floor().minimum(widths - width)
    first = fits.double().argmax(1, keepdim=True)
    boxes = torch.stack([column.gather(1, first).squeeze(1) for column in (top, left, height, width)], 1)
    return torch.where(fits.any(1, keepdim=True), boxes, _centred_boxes(heights, widths)).long()


def _centred_boxes(heights, widths):
    width = torch.minimum(widths, (heights * RATIO[1]).round())
    height = torch.minimum(heights, (widths / RATIO[0]).round())
    return torch.cat([((heights - height) / 2).floor(), ((widths - width) / 2).floor(), height, width], 1)


def draw_views(generator, augmentation, heights, widths, smallest=0.08):
    """Views of N images of the given heights and widths (N,), by the name of the augmentation.

    'resized-crop': random resized crop and flip. 'pad-crop': the image, padded by PAD, cropped to its
    own size at random, and flip; 'shift': the same without the flip. 'none': the image as it is.
    """
    count = len(heights)
    whole = torch.stack([torch.zeros_like(heights), torch.zeros_like(heights), heights, widths], 1).long()
    if augmentation == "none":
        return Views(whole, torch.zeros(count, dtype=torch.bool))
    if augmentation == "resized-crop":
        boxes = resized_crops(generator, heights, widths, smallest)
    else:
        boxes = whole
        boxes[:, :2] = torch.randint(-PAD, PAD + 1, (count, 2), generator=generator)
    chance = 0.0 if augmentation == "shift" else 0.5
    return Views(boxes, torch.rand(count, generator=generator) < chance)


def draw_mix(generator, kind, count, size, alpha):
    """One Mix for a batch of `count` images of side `size`: 'cutmix' (Yun et al. 2019), 'mixup' (Zhang
    et al. 2018) or 'none'.
    """
    if kind == "none":
        return Mix(torch.arange(count), 1.0, (0, 0, 0, 0))
    partner = torch.randperm(count, generator=generator)
    share = _beta(generator, alpha)
    if kind == "mixup":
        return Mix(partner, share, (0, 0, 0, 0))
    # CutMix: a box with the area 1 - share around a uniform centre, cut off at the borders.
    side = int(size * (1 - share) ** 0.5)
    center = torch.randint(size, (2,), generator=generator).tolist()
    top, left = (max(c - side // 2, 0) for c in center)
    bottom, right = (min(c + side // 2, size) for c in center)
    return Mix(partner, 1.0, (top, left, bottom - top, right - left))


def _beta(generator, alpha):
    """A draw from Beta(alpha, alpha), rounded to float32 as it is stored. Numpy's, since torch's takes
    no generator.
    """
    import numpy

    seed = torch.randint(2**62, (1,), generator=generator).item()
    return float(numpy.float32(numpy.random.default_rng(seed).beta(alpha, alpha)))


# ---- applying ------------------------------------------------------------------------------------


def _sampling_matrix(start, length, size_in, size_out, device, dtype):
    """(N, size_out, size_in) weights that crop [start, start + length) and resize it to size_out,
    bilinear with antialiasing.

    Row i averages the pixels of the crop with a triangle around the centre of output pixel i, as wide as
    the output's pixel is in the source (but at least two pixels): what Pillow and torchvision
    (antialias=True) compute. A pixel outside the image is black: it takes part in the average, but has
    no column.
    """
    outside = max(0, -int(start.min()), int((start + length).max()) - size_in)
    pixel = torch.arange(-outside, size_in + outside, device=device, dtype=dtype).view(1, 1, -1)
    first, last = start.view(-1, 1, 1), (start + length - 1).view(-1, 1, 1)
    scale = length.double().view(-1, 1, 1) / size_out
    center = first + (torch.arange(size_out, dtype=torch.float64).view(1, -1, 1) + 0.5) * scale - 0.5
    whole = center.floor()  # apart from its fraction, since a float32 has no digits left for both
    whole, fraction, reach, first, last = (
        each.to(device, dtype) for each in (whole, center - whole, scale.clamp(min=1), first, last)
    )
    weights = (pixel - whole).sub_(fraction).abs_().div_(-reach).add_(1).clamp_(min=0)
    weights.masked_fill_((pixel < first) | (pixel > last), 0)
    weights /= weights.sum(2, keepdim=True)
    return weights[..., outside : outside + size_in]


class Sampler:
    """A batch of views, ready to be applied: images (N, C, H, W) -> (N, C, size, size). Linear in the
    images, differentiable.

    views: a box and a flip for each image. rolls: (N, 2) offsets by which the result is rolled down and
    to the right, or None.
    """

    def __init__(self, views, source_size, size, *, rolls=None, device="cpu", dtype=torch.float32):
        boxes, (height, width) = views.boxes.cpu(), source_size
        rows = _sampling_matrix(boxes[:, 0], boxes[:, 2], height, size, device, dtype)
        columns = _sampling_matrix(boxes[:, 1], boxes[:, 3], width, size, device, dtype)
        flips = views.flips.to(device).view(-1, 1, 1)
        columns = torch.where(flips, columns.flip(1), columns)
        if rolls is not None:
            rows, columns = (
                _rolled(matrix, shift.to(device))
                for matrix, shift in ((rows, rolls[:, 0]), (columns, rolls[:, 1]))
            )
        self.rows, self.columns = rows.unsqueeze(1), columns.transpose(1, 2)

    def __call__(self, images):
        count, channels, height, _ = images.shape
        across = images.flatten(1, 2) @ self.columns
        return self.rows @ across.view(count, channels, height, -1)


def _rolled(matrix, shift):
    """Rows of each (size, size_in) matrix moved down by its own shift, around the end."""
    size = matrix.shape[1]
    source = (torch.arange(size, device=matrix.device).view(1, -1) - shift.view(-1, 1)) % size
    return matrix.gather(1, source.unsqueeze(2).expand_as(matrix))


def as_float(pixels):
    """float32 pixels in [0,1]; uint8, a quarter of the memory, is divided by 255."""
    return pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels


def apply_views(images, views, size):
    """Images seen through `views`, (N, 3, size, size): uint8, or float32 in [0,1]; equal to rounding.

    images: uint8 (N, 3, H, W), or a list of (3, H, W) of any sizes on the CPU. There, torchvision's
    8-bit kernel for one image after the other is the quickest, and small images are quicker in one
    batch, as on a GPU.
    """
    if isinstance(images, list) or (images.device.type == "cpu" and size >= LARGE):
        seen = torch.empty(len(images), 3, size, size, dtype=torch.uint8)
        for place, image, box, flip in zip(seen, images, views.boxes.tolist(), views.flips.tolist()):
            view = resized_crop(image, *box, [size, size], antialias=True)
            place.copy_(view.flip(2) if flip else view)
        return seen
    if (views.boxes[:, 2:] == size).all():
        return _copies(images, views, size)
    return Sampler(views, images.shape[2:], size, device=images.device)(as_float(images)).clamp_(0, 1)


def _copies(images, views, size):
    """apply_views for boxes of the result's own size, from which nothing is resized: uint8, black where
    a box leaves the image.
    """
    height, width = images.shape[2:]
    along = torch.arange(size)
    rows = views.boxes[:, :1] + along
    columns = views.boxes[:, 1:2] + torch.where(views.flips.view(-1, 1), size - 1 - along, along)
    inside = ((rows >= 0) & (rows < height)).unsqueeze(2) & ((columns >= 0) & (columns < width)).unsqueeze(1)
    places = rows.clamp(0, height - 1).unsqueeze(2) * width + columns.clamp(0, width - 1).unsqueeze(1)
    places, inside = (
        each.to(images.device).view(len(images), 1, -1).expand(-1, images.shape[1], -1)
        for each in (places, inside)
    )
    return (images.flatten(2).gather(2, places) * inside).view(len(images), -1, size, size)


def apply_mix(pixels, mix):
    """A batch (N, 3, S, S) mixed with its own partners; MixUp of uint8 gives float32."""
    partner = mix.partner.to(pixels.device)
    if mix.share < 1:
        pixels = as_float(pixels)
        return mix.share * pixels + (1 - mix.share) * pixels[partner]
    top, left, height, width = mix.box
    if height and width:
        mixed = pixels.clone()
        region = (..., slice(top, top + height), slice(left, left + width))
        mixed[region] = pixels[partner][region]
        return mixed
    return pixels
