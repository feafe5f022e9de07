"""Pixels of what guard.data.find found."""

import functools
import os

import numpy
import torch
import torch.nn.functional as F
from torchvision.transforms.v2 import functional as transforms

from guard import registry
from guard.data import augment, find, pixel_cache
from guard.errors import UserError, first_line
from guard.run import fingerprints

SHARE_OF_DEVICE = 0.25  # of a GPU's free memory that the images of a data set may take


VALIDATION_RESIZE = 256 / 224  # shorter side over crop in the validation view of the ImageNet family


class Packed:
    """Images of one size. pixels: uint8 (N, 3, H, W), on the device where they fit; labels: (N,) int64
    on the CPU; classes: names.
    """

    def __init__(self, pixels, labels, classes, device=None):
        self.pixels, self.labels, self.classes, self.device = pixels, labels, classes, device or pixels.device

    def __len__(self):
        return len(self.labels)

    @property
    def fingerprint(self):
        """Of pixels, labels and class names, however they are stored."""
        return fingerprints.of_tensors({"pixels": self.pixels, "labels": self.labels}, list(self.classes))

    def subset(self, indices):
        return Packed(self.pixels[indices], self.labels[indices], self.classes)

    def to(self, device):
        fits = (
            device.type == "cpu" or self.pixels.numel() < SHARE_OF_DEVICE * torch.cuda.mem_get_info(device)[0]
        )
        return Packed(self.pixels.to(device) if fits else self.pixels, self.labels, self.classes, device)

    def _at(self, indices):
        return self.pixels[indices.to(self.pixels.device)].to(self.device)

    def views(self, indices, draw, size):
        """The images at `indices` (CPU), each in the view that draw(heights, widths) -> augment.Views
        gives it.
        """
        height, width = self.pixels.shape[2:]
        views = draw(torch.full((len(indices),), height), torch.full((len(indices),), width))
        return augment.apply_views(self._at(indices), views, size)

    def validation(self, indices, size):
        """As they are, or resized where the network wants another size."""
        pixels = augment.as_float(self._at(indices))
        if pixels.shape[2] != size:
            pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True).clamp(0, 1)
        return pixels


class Mapped:
    """Images of many sizes, one after the other. pixels: uint8, flat, of (3, H, W) each; sizes: (N, 2)
    heights and widths; labels: (N,) int64; classes: names.
    """

    def __init__(self, pixels, sizes, labels, classes, device=None):
        self.pixels, self.sizes, self.labels, self.classes, self.device = (
            pixels,
            sizes,
            labels,
            classes,
            device or pixels.device,
        )
        self.ends = (3 * sizes.prod(1)).cumsum(0)

    def __len__(self):
        return len(self.labels)

    def to(self, device):
        return Mapped(self.pixels, self.sizes, self.labels, self.classes, device)

    def _image(self, index):
        height, width = self.sizes[index].tolist()
        end = int(self.ends[index])
        return self.pixels[end - 3 * height * width : end].view(3, height, width)

    def views(self, indices, draw, size):
        """On a GPU: only what the views show of each image goes there, beside the others in one batch."""
        heights, widths = self.sizes[indices].unbind(1)
        views = draw(heights, widths)
        if self.device.type == "cpu":
            return augment.apply_views([self._image(index) for index in indices.tolist()], views, size)
        batch, views = self.shown(indices, views)
        return augment.apply_views(batch.to(self.device), views, size)

    def shown(self, indices, views):
        """(uint8 (N, 3, H, W), views): what the views show of the images, each in the upper left of its
        place, and the views of that.
        """
        heights, widths = self.sizes[indices].unbind(1)
        top, left = views.boxes[:, 0].clamp(min=0), views.boxes[:, 1].clamp(min=0)
        bottom, right = (
            (views.boxes[:, axis] + views.boxes[:, axis + 2]).minimum(sizes)
            for axis, sizes in ((0, heights), (1, widths))
        )
        batch = torch.zeros(
            len(indices), 3, int((bottom - top).max()), int((right - left).max()), dtype=torch.uint8
        )
        for row, index, (t, b, l, r) in zip(
            batch, indices.tolist(), torch.stack([top, bottom, left, right], 1).tolist()
        ):
            row[:, : b - t, : r - l] = self._image(index)[:, t:b, l:r]
        return batch, views._replace(
            boxes=views.boxes - torch.stack([top, left, torch.zeros_like(top), torch.zeros_like(left)], 1)
        )

    def validation(self, indices, size):
        """Shorter side to size * 256/224, centre crop."""
        return torch.stack([validation_view(self._image(index), size) for index in indices.tolist()])


class Streamed:
    """Images in files, decoded when asked for. labels: (N,) int64; classes: names."""

    def __init__(self, files, labels, classes):
        self.files, self.labels, self.classes = files, labels, classes

    def __len__(self):
        return len(self.files)

    def to(self, device):
        return self

    def views(self, indices, draw, size):
        images = [pixel_cache.read_image(self.files[i]) for i in indices.tolist()]
        views = draw(
            torch.tensor([image.shape[1] for image in images]),
            torch.tensor([image.shape[2] for image in images]),
        )
        return augment.apply_views(images, views, size)

    def validation(self, indices, size):
        """Shorter side to size * 256/224, centre crop."""
        return torch.stack(
            [validation_view(pixel_cache.read_image(self.files[i]), size) for i in indices.tolist()]
        )


def validation_view(pixels, size):
    """uint8 (3, H, W) -> (3, size, size): the shorter side resized to size * 256/224, then the centre."""
    return transforms.center_crop(
        transforms.resize(pixels, [round(size * VALIDATION_RESIZE)], antialias=True), [size, size]
    )


def load(source, image_size, per_class=0):
    """The images of a datasets.Source in the holder that suits them; per_class > 0 keeps the first so
    many of each class.

    image_size: side in pixels that the embedded set, which is 8x8, is enlarged to, and of the validation
    views of class folders.
    """
    if source.kind == "folder":
        return _folder(source, image_size, per_class)
    images = registry.function_of(source.reader)(source, image_size)
    return images.subset(first_of_each_class(images.labels, per_class)) if per_class else images


def _folder(source, image_size, per_class):
    """Class folders: what is there of them in the pixel cache (val in its validation views, CIFAR as it
    is), else the files.
    """
    labels, files = torch.tensor(source.labels), source.files
    if per_class:
        chosen = first_of_each_class(labels, per_class)
        labels, files = labels[chosen], [files[i] for i in chosen.tolist()]
    as_it_is = source.split == "train" or source.name in find.CIFAR_FOLDERS
    what = (
        source.name,
        source.split,
        os.path.abspath(source.path),
        per_class,
        None if as_it_is else image_size,
    )
    found = pixel_cache.cached(
        files, what, None if as_it_is else functools.partial(validation_view, size=image_size)
    )
    if not found:
        return Streamed(files, labels, source.classes)
    pixels, sizes = found
    others = (sizes != sizes[0]).any(1).nonzero().flatten().tolist()
    if not others:
        return Packed(pixels.view(len(files), 3, *sizes[0].tolist()), labels, source.classes)
    if source.name in find.CIFAR_FOLDERS:
        raise _other_size(files[others[0]], sizes[others[0]].tolist(), sizes[0].tolist())
    return Mapped(pixels, sizes, labels, source.classes)


def _other_size(path, size, first):
    return UserError(
        f"{path} is {size[1]}x{size[0]} pixels, the images before it {first[1]}x{first[0]}; all have to have"
        " one size"
    )


def first_of_each_class(labels, count):
    """Indices of the first `count` images of each class, in order."""
    keep = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        keep[(labels == label).nonzero().squeeze(1)[:count]] = True
    return keep.nonzero().squeeze(1)


def pack(files, labels, classes, title):
    """Decodes files of one size into memory. Raises UserError for a file whose size differs from the
    first one's.
    """
    images = list(pixel_cache.in_parallel(pixel_cache.read_image, files, title))
    for path, image in zip(files, images):
        if image.shape != images[0].shape:
            raise _other_size(path, image.shape[1:], images[0].shape[1:])
    return Packed(torch.stack(images), torch.as_tensor(labels), tuple(classes))


def read_digits(source, image_size):
    try:
        with numpy.load(source.path, allow_pickle=False) as stored:
            inside = stored["validation"] if source.split == "val" else ~stored["validation"]
            gray = torch.from_numpy(stored["images"][inside]).float() * (255 / 16)  # 17 levels, 0 to 16
            labels = torch.from_numpy(stored["labels"][inside]).long()
    except Exception as problem:  # noqa: BLE001 - a damaged file can end in any exception
        raise UserError(
            f"{source.path} is damaged ({first_line(problem)}); get it again from the repository"
        ) from None
    gray = F.interpolate(gray.unsqueeze(1), size=(image_size, image_size), mode="bilinear", antialias=True)
    pixels = gray.round().clamp(0, 255).to(torch.uint8).expand(-1, 3, -1, -1)
    return Packed(pixels.contiguous(), labels, source.classes)


def read_cifar(source, image_size):
    from torchvision.datasets import CIFAR10, CIFAR100

    del image_size  # its images have one

    reader = {"cifar10": CIFAR10, "cifar100": CIFAR100}[source.name]
    try:
        stored = reader(source.path, train=source.split == "train")
    except Exception as problem:  # noqa: BLE001 - a damaged pickle can end in any exception
        raise UserError(
            f"{source.path} does not hold an intact {source.name} ({first_line(problem)}); remove it and make"
            " it again, see python -m data.prepare --help"
        ) from None
    return Packed(
        torch.from_numpy(stored.data).permute(0, 3, 1, 2).contiguous(),
        torch.tensor(stored.targets),
        source.classes,
    )
