"""Views of images: crops, flips, rolls, CutMix, MixUp.

Drawing and applying are apart. Parameters are drawn on the CPU from a generator that is tied to (seed, epoch,
mini-batch), so the same view can be made again anywhere. They are applied to whole mini-batches on the device
by a pair of small matrices per image. The gradient of that is a pair of matrix products as well, so it has
the same bits each time on a GPU, too. Large images on the CPU are taken one by one.

A box is (top, left, height, width) in pixels of the source; parts outside the image are black.
"""

from typing import NamedTuple

import torch

from guard.run import devices

RATIO = (3 / 4, 4 / 3)  # aspect ratios of a random resized crop
LARGE = 64  # side in pixels from which views on the CPU are quicker image by image
PAD = 4  # pixels around the image that a pad-crop may reach into


class Views(NamedTuple):
    """One view for each image: boxes (N, 4) int64, flips (N,) bool."""

    boxes: torch.Tensor
    flips: torch.Tensor


class Mix(NamedTuple):
    """How a mini-batch of N images is mixed with itself.

    partner: (N,) position of the other image. share: of the own image, for MixUp; 1 for none. box: (top,
    left, height, width) of the partner's pixels, for CutMix; height 0 or width 0 for none.
    """

    partner: torch.Tensor
    share: float
    box: tuple


NO_BOX = (0, 0, 0, 0)


# ---- drawing -------------------------------------------------------------------------------------


def resized_crops(generator, heights, widths, smallest, attempts=10):
    """Boxes (N, 4) of random resized crops, drawn for all images at once.

    heights, widths: (N,) of the source images. smallest: the least share of the area to keep, a number or
    (N,). The rule is torchvision's (RandomResizedCrop.get_params): ten attempts at an area uniform in
    [smallest, 1] and an aspect ratio log-uniform in RATIO; where none fits, the largest centred box within
    RATIO.
    """
    count = len(heights)
    heights, widths = heights.double().view(-1, 1), widths.double().view(-1, 1)
    smallest = torch.as_tensor(smallest, dtype=torch.float64).expand(count).view(-1, 1)
    # Everything below is (N, attempts), one column for each attempt.
    uniform = torch.rand(4, count, attempts, generator=generator, dtype=torch.float64)
    for_area, for_ratio, for_top, for_left = uniform
    area = heights * widths * (smallest + (1 - smallest) * for_area)
    lowest, highest = torch.tensor(RATIO, dtype=torch.float64).log()
    ratio = (lowest + (highest - lowest) * for_ratio).exp()
    width, height = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (width > 0) & (width <= widths) & (height > 0) & (height <= heights)
    top = (for_top * (heights - height + 1)).floor().minimum(heights - height)
    left = (for_left * (widths - width + 1)).floor().minimum(widths - width)
    attempt = fits.double().argmax(1, keepdim=True)  # the first one that fits
    boxes = [each.gather(1, attempt) for each in (top, left, height, width)]
    some_fit = fits.any(1, keepdim=True)
    return torch.where(some_fit, torch.cat(boxes, 1), _centred_boxes(heights, widths)).long()


def _centred_boxes(heights, widths):
    """(N, 4) the largest centred boxes with an aspect ratio within RATIO. heights, widths: (N, 1)."""
    width = torch.minimum(widths, (heights * RATIO[1]).round())
    height = torch.minimum(heights, (widths / RATIO[0]).round())
    top, left = ((heights - height) / 2).floor(), ((widths - width) / 2).floor()
    return torch.cat([top, left, height, width], 1)


def draw_views(generator, augmentation, heights, widths, smallest=0.08, *, flip=True):
    """Views of N images of the given heights and widths (N,), by the name of the augmentation.

    'resized-crop': random resized crop, `smallest` as in `resized_crops`. 'pad-crop': the image, padded by
    PAD, cropped to its own size at random. Both mirror half of the images, unless `flip` is false. 'shift':
    pad-crop that mirrors none. 'none': the image as it is.
    """
    count, zeros = len(heights), torch.zeros_like(heights)
    whole = torch.stack([zeros, zeros, heights, widths], 1).long()
    if augmentation == "none":
        return Views(whole, torch.zeros(count, dtype=torch.bool))
    if augmentation == "resized-crop":
        boxes = resized_crops(generator, heights, widths, smallest)
    else:
        boxes = whole
        boxes[:, :2] = torch.randint(-PAD, PAD + 1, (count, 2), generator=generator)
    chance = 0.0 if augmentation == "shift" or not flip else 0.5
    return Views(boxes, torch.rand(count, generator=generator) < chance)


def draw_mix(generator, kind, count, size, alpha):
    """One Mix for a mini-batch of `count` images of `size` pixels.

    kind: 'cutmix' (Yun et al. 2019), 'mixup' (Zhang et al. 2018) or 'none'. alpha: of the Beta distribution
    that the share is drawn from.
    """
    if kind == "none":
        return Mix(torch.arange(count), 1.0, NO_BOX)
    partner = torch.randperm(count, generator=generator)
    share = _beta(generator, alpha)
    if kind == "mixup":
        return Mix(partner, share, NO_BOX)
    # CutMix: a box with the area 1 - share around a uniform centre, cut off at the borders.
    side = int(size * (1 - share) ** 0.5)
    row, column = torch.randint(size, (2,), generator=generator).tolist()
    top, bottom = max(row - side // 2, 0), min(row + side // 2, size)
    left, right = max(column - side // 2, 0), min(column + side // 2, size)
    return Mix(partner, 1.0, (top, left, bottom - top, right - left))


def _beta(generator, alpha):
    """A draw from Beta(alpha, alpha), rounded to float32 as it is stored.

    It is numpy's, since torch's takes no generator.
    """
    import numpy

    seed = torch.randint(2**62, (1,), generator=generator).item()
    return float(numpy.float32(numpy.random.default_rng(seed).beta(alpha, alpha)))


# ---- applying ------------------------------------------------------------------------------------


class _Axis:
    """What says how an axis is cropped to [start, start + length) and resized to size_out.

    start, length: (N,) int64 on the CPU, in pixels of the source. Resizing is bilinear with antialiasing, as
    in Pillow and in torchvision (antialias=True): row i averages the pixels of the crop with a triangle
    around the centre of output pixel i. The triangle reaches as far to each side as an output pixel is wide
    in the source, but at least one pixel. A pixel outside the image is black: it takes part in the average,
    but has no column.

    parts: on the CPU, the centres' whole pixels and fractions (N, size_out, 1), and (N, 1, 1) the triangles'
    negative reach, first and last pixel of the crop.
    """

    def __init__(self, start, length, size_in, size_out, dtype):
        start, length = start.view(-1, 1, 1), length.view(-1, 1, 1)
        last = start + length - 1
        scale = length.double() / size_out  # pixels of the source for each pixel of the output
        output_pixel = torch.arange(size_out, dtype=torch.float64).view(1, -1, 1)
        centre = start + (output_pixel + 0.5) * scale - 0.5
        # Apart from its fraction, since a float32 has no digits left for both.
        whole = centre.floor()
        fraction = centre - whole
        reach = scale.clamp(min=1)
        self.size_in, self.dtype = size_in, dtype
        # Pixels on each side of the image that a crop reaches into.
        self.outside = max(0, -int(start.min()), int(last.max()) + 1 - size_in)
        self.parts = [each.to(dtype) for each in (whole, fraction, -reach, start, last)]

    def take(self, order):
        """Puts pixel order[n, i] of each output (N, size_out) in the place of pixel i."""
        self.parts[:2] = [each.gather(1, order.unsqueeze(2)) for each in self.parts[:2]]

    def weights(self, parts):
        """(N, size_out, size_in), on the device of `parts`."""
        whole, fraction, negative_reach, first, last = parts
        outside, device = self.outside, whole.device
        pixel = torch.arange(-outside, self.size_in + outside, device=device, dtype=self.dtype).view(1, 1, -1)
        weights = (pixel - whole).sub_(fraction).abs_().div_(negative_reach).add_(1).clamp_(min=0)
        weights.masked_fill_((pixel < first) | (pixel > last), 0)
        weights /= weights.sum(2, keepdim=True)
        return weights[..., outside : outside + self.size_in]


class Sampler:
    """Views of a mini-batch: images (N, C, H, W) -> (N, C, size, size), both of type `dtype`.

    It is linear in the images, and differentiable. views: a box and a flip for each image. source_size: (H,
    W). rolls: (N, 2) offsets by which the result is rolled down and to the right, or None. parts: small
    tensors on the CPU, which a call needs on the images' device.
    """

    def __init__(self, views, source_size, size, *, rolls=None, dtype=torch.float32):
        top, left, box_height, box_width = views.boxes.cpu().unbind(1)
        height, width = source_size
        self.rows = _Axis(top, box_height, height, size, dtype)
        self.columns = _Axis(left, box_width, width, size, dtype)
        # A flip and a roll only change the order of the pixels.
        along = torch.arange(size).expand(len(top), -1)
        down = across = along
        if rolls is not None:
            down, across = ((along - shift.view(-1, 1)) % size for shift in rolls.unbind(1))
        self.rows.take(down)
        self.columns.take(torch.where(views.flips.view(-1, 1), size - 1 - across, across))
        # Square images have both in one.
        self.alike = self.rows.size_in == self.columns.size_in and self.rows.outside == self.columns.outside
        rows, columns = self.rows.parts, self.columns.parts
        self.parts = [torch.cat(pair) for pair in zip(rows, columns)] if self.alike else [*rows, *columns]

    def __call__(self, images, parts=None):
        """parts: this one's own on the images' device, where they are there already."""
        return resampled(images, *self.matrices(images.device, parts))

    def matrices(self, device, parts=None):
        """(rows (N, size, H), columns (N, size, W)): the weights of the source's rows and columns."""
        parts = devices.sent(self.parts, device) if parts is None else parts
        if self.alike:
            return self.rows.weights(parts).chunk(2)
        return self.rows.weights(parts[:5]), self.columns.weights(parts[5:])


def resampled(images, rows, columns):
    """Images (N, C, H, W) by the matrices of a Sampler: (N, C, size, size)."""
    count, channels, height, _ = images.shape
    across = images.flatten(1, 2) @ columns.transpose(1, 2)
    return rows.unsqueeze(1) @ across.view(count, channels, height, -1)


class _Copier:
    """As Sampler, for boxes of the result's own size, for which nothing is resized.

    A call gives uint8 (N, C, size, size) of uint8 images, black where a box leaves the image.
    """

    def __init__(self, views, source_size, size):
        along = torch.arange(size)
        rows = views.boxes[:, :1] + along  # (N, size) row of the image for each row of the result
        flipped_along = torch.where(views.flips.view(-1, 1), size - 1 - along, along)
        columns = views.boxes[:, 1:2] + flipped_along
        self.parts = places_of(rows, columns, source_size)

    def __call__(self, images, parts):
        return copied(images, *parts)


def places_of(rows, columns, source_size):
    """What `copied` needs, on the device of rows and columns, (N, size): those of the source (H, W) that are
    each row and column of the result; some may lie outside.
    """
    height, width = source_size
    row_inside = (rows >= 0) & (rows < height)
    column_inside = (columns >= 0) & (columns < width)
    first_of_row = rows.clamp(0, height - 1) * width  # in the flat image
    return [first_of_row, columns.clamp(0, width - 1), row_inside, column_inside]


def copied(images, first_of_row, columns, row_inside, column_inside):
    """The pixels of images (N, C, H, W) at `places_of`, 0 outside: (N, C, size, size)."""
    count, channels, _, _ = images.shape
    size = first_of_row.shape[1]
    places = first_of_row.unsqueeze(2) + columns.unsqueeze(1)
    inside = row_inside.unsqueeze(2) & column_inside.unsqueeze(1)  # (N, size, size)

    def for_all_channels(values):
        return values.view(count, 1, -1).expand(-1, channels, -1)

    found = images.flatten(2).gather(2, for_all_channels(places)) * for_all_channels(inside)
    return found.view(count, channels, size, size)


def as_float(pixels):
    """float32 pixels in [0,1]; uint8, a quarter of the memory, is divided by 255."""
    return pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels


def as_bytes(pixels):
    """uint8 pixels; float32 ones in [0,1] are rounded to 8 bits."""
    return pixels if pixels.dtype == torch.uint8 else (pixels * 255).round().to(torch.uint8)


def normalized(pixels, mean, std):
    """Pixels in [0,1] -> normalized images, both float32 (N, 3, S, S). mean, std: of each channel."""
    return (pixels - _of_channels(mean)) / _of_channels(std)


def unnormalized(images, mean, std):
    """Normalized images -> pixels, both float32 (N, 3, S, S). mean, std: of each channel."""
    return images * _of_channels(std) + _of_channels(mean)


def _of_channels(numbers):
    return torch.tensor(numbers).view(1, 3, 1, 1)


def apply_views(images, views, size):
    """Images seen through `views`, (N, 3, size, size): uint8, or float32 in [0,1].

    images: uint8 or float32 in [0,1], (N, 3, H, W), or a list of uint8 (3, H, W) of any sizes on the CPU.
    There, torchvision's 8-bit kernel for one image after the other is the quickest, but for small images,
    which are quicker in one mini-batch, as on a GPU. Both ways are equal up to rounding.
    """
    if isinstance(images, list) or (
        images.device.type == "cpu" and size >= LARGE and images.dtype == torch.uint8
    ):
        from torchvision.transforms.v2.functional import resized_crop

        seen = torch.empty(len(images), 3, size, size, dtype=torch.uint8)
        for place, image, box, flip in zip(seen, images, views.boxes.tolist(), views.flips.tolist()):
            view = resized_crop(image, *box, [size, size], antialias=True)
            place.copy_(view.flip(2) if flip else view)
        return seen
    way = _way(views, images.shape[2:], size)
    return _seen(way, images, devices.sent(way.parts, images.device))


def _way(views, source_size, size):
    """The quickest of the two ways to see `views`."""
    copies = (views.boxes[:, 2:] == size).all()
    return (_Copier if copies else Sampler)(views, source_size, size)


def _seen(way, images, parts):
    """uint8, or float32 in [0,1]: uint8 images through `way`, whose parts are on the images' device."""
    return way(images, parts) if isinstance(way, _Copier) else way(as_float(images), parts).clamp_(0, 1)


def views_of(pixels, indices, views, size, *, device, beside=()):
    """[`apply_views` of pixels[indices], *beside], all on `device`, to which one copy goes. Where indices is
    None, of all pixels.

    pixels: uint8 or float32 in [0,1], (N, 3, H, W), on the CPU or on `device`. indices: (k,) on the CPU.
    beside: tensors on the CPU.
    """
    there = pixels.device == device
    if not there or device.type == "cpu":
        pixels, indices = pixels if indices is None else pixels[indices], None
    if device.type == "cpu":
        return [apply_views(pixels, views, size), *beside]
    way = _way(views, pixels.shape[2:], size)
    images, indices, *sent = devices.sent([None if there else pixels, indices, *way.parts, *beside], device)
    if there:
        images = pixels if indices is None else pixels[indices]
    parts, beside = sent[: len(way.parts)], sent[len(way.parts) :]
    return [_seen(way, images, parts), *beside]


def apply_mix(pixels, mix):
    """A mini-batch (N, 3, S, S) mixed with itself; MixUp of uint8 gives float32."""
    partner = mix.partner.to(pixels.device)
    if mix.share < 1:
        pixels = as_float(pixels)
        return mix.share * pixels + (1 - mix.share) * pixels[partner]
    top, left, height, width = mix.box
    if not (height and width):
        return pixels
    mixed = pixels.clone()
    region = (..., slice(top, top + height), slice(left, left + width))
    mixed[region] = pixels[partner][region]
    return mixed
