"""Pixels of what guard.data.find found."""

import functools
import os

import numpy
import torch
import torch.nn.functional as F

from guard import recipes, registry
from guard.data import augment, find, pixel_cache
from guard.errors import UserError, first_line
from guard.run import fingerprints

SHARE_OF_DEVICE = 0.25  # of a GPU's free memory that the images of a data set may take
VALIDATION_RESIZE = 256 / 224  # shorter side over crop in the validation view of the ImageNet family

# ---- what is seen of an image that is not augmented ----------------------------------------------


def whole(pixels, size):
    """(k, 3, H, W), uint8 or float32 in [0,1] -> float32 (k, 3, size, size) in [0,1]: as they are, or resized
    where they have another size.
    """
    pixels = augment.as_float(pixels)
    if pixels.shape[2:] != (size, size):
        pixels = F.interpolate(pixels, size=(size, size), mode="bilinear", antialias=True).clamp(0, 1)
    return pixels


def central(pixels, size, native_size=0):
    """uint8 (k, 3, H, W) -> uint8 (k, 3, size, size) on the CPU: the shorter side resized to size * 256/224,
    then the centre. Images that have this size already, no more than `native_size`, are left as they are.
    """
    if pixels.shape[2:] == (size, size) and size <= native_size:
        return pixels.cpu()
    from torchvision.transforms.v2 import functional as transforms

    resized = transforms.resize(pixels.cpu(), [round(size * VALIDATION_RESIZE)], antialias=True)
    return transforms.center_crop(resized, [size, size])


# ---- holders -------------------------------------------------------------------------------------
# view: of the above, with two arguments; the validation view of the holder's images.


class Packed:
    """Images of one size.

    pixels: (N, 3, H, W), on the device where they fit; uint8, or float32 in [0,1] where others distilled them
    so. labels: (N,) int64 on the CPU. classes: names in label order. device: where views are made, by default
    that of the pixels. shares: (N, classes) float32 on the CPU, where an image is more than its label: the
    share of each class in it; else None.
    """

    def __init__(self, pixels, labels, classes, device=None, shares=None, view=whole):
        self.pixels, self.labels, self.classes, self.shares = pixels, labels, classes, shares
        self.device, self.view = device or pixels.device, view

    def __len__(self):
        return len(self.labels)

    @property
    def fingerprint(self):
        """sha256 of pixels, labels, shares and class names, however they are stored."""
        held = {"pixels": self.pixels, "labels": self.labels}
        held |= {} if self.shares is None else {"shares": self.shares}
        return fingerprints.of_tensors(held, list(self.classes))

    def subset(self, indices):
        """The images at `indices` (k,) alone."""
        shares = None if self.shares is None else self.shares[indices]
        kept = self.pixels[indices], self.labels[indices], self.classes
        return Packed(*kept, shares=shares, view=self.view)

    def in_order_of(self, classes):
        """The same images with their classes in another order, that of `classes`; themselves where these are
        not the same names.
        """
        if tuple(classes) == tuple(self.classes) or sorted(classes) != sorted(self.classes):
            return self
        ours, theirs = list(self.classes), list(classes)
        labels = torch.tensor([theirs.index(name) for name in ours])[self.labels]
        shares = None if self.shares is None else self.shares[:, [ours.index(name) for name in theirs]]
        return Packed(self.pixels, labels, tuple(classes), self.device, shares, self.view)

    def to(self, device):
        """The same images for work on `device`; the pixels go there where they fit."""
        pixels = _moved(self.pixels, device)
        return Packed(pixels, self.labels, self.classes, device, self.shares, self.view)

    def _at(self, indices):
        return self.pixels[indices.to(self.pixels.device)].to(self.device)

    def views(self, indices, draw, size):
        """(k, 3, size, size), uint8 or float32 in [0,1]: views of the images at `indices` (k,) on the CPU.

        draw(heights, widths): the augment.Views to be seen.
        """
        return self._views(indices, draw, size)[0]

    def labelled_views(self, indices, draw, size):
        """What `views` gives, and the labels (k,), on the device."""
        return self._views(indices, draw, size, self.labels[indices])

    def _views(self, indices, draw, size, *beside):
        height, width = self.pixels.shape[2:]
        views = draw(torch.full((len(indices),), height), torch.full((len(indices),), width))
        return augment.views_of(self.pixels, indices, views, size, device=self.device, beside=beside)

    def validation(self, indices, size):
        """(k, 3, size, size), uint8 or float32 in [0,1]: the validation views of the images at `indices`."""
        return self.view(self._at(indices), size)


def _moved(pixels, device):
    """The pixels on the device, where it has room for them, else where they are."""
    if device.type == "cpu" or pixels.nbytes < SHARE_OF_DEVICE * torch.cuda.mem_get_info(device)[0]:
        return pixels.to(device)
    return pixels


class Mapped:
    """Images of many sizes, one after the other in one tensor, as the pixel cache keeps them.

    pixels: uint8, flat, of (3, H, W) each, on the CPU or on `device`. sizes: (N, 2) heights and widths.
    labels: (N,) int64. classes: names in label order. device: where views are made.
    """

    def __init__(self, pixels, sizes, labels, classes, device=None, view=central):
        self.pixels, self.sizes, self.labels, self.classes, self.view = pixels, sizes, labels, classes, view
        self.device = device or pixels.device
        self.ends = (3 * sizes.prod(1)).cumsum(0)  # where each image ends in `pixels`

    def __len__(self):
        return len(self.labels)

    def to(self, device):
        """The same images for work on `device`; the pixels go there where they fit."""
        pixels = _moved(self.pixels, device)
        return Mapped(pixels, self.sizes, self.labels, self.classes, device, self.view)

    def _image(self, index):
        """uint8 (3, H, W)."""
        height, width = self.sizes[index].tolist()
        end = int(self.ends[index])
        return self.pixels[end - 3 * height * width : end].view(3, height, width)

    def views(self, indices, draw, size):
        """As `Packed.views`. On a GPU the views are cut out there; where the pixels do not fit, only what is
        shown of each image goes there.
        """
        return self._views(indices, draw, size)[0]

    def labelled_views(self, indices, draw, size):
        """What `views` gives, and the labels (k,), on the device."""
        return self._views(indices, draw, size, self.labels[indices])

    def _views(self, indices, draw, size, *beside):
        views = draw(*self.sizes[indices].unbind(1))
        if self.device.type == "cpu":
            images = [self._image(index) for index in indices.tolist()]
            return [augment.apply_views(images, views, size), *beside]
        pixels, views = self.shown(indices, views)
        return augment.views_of(pixels, None, views, size, device=self.device, beside=beside)

    def shown(self, indices, views):
        """What `views` show of the images at `indices` (k,), and the views of that which show the same.

        Returns uint8 (k, 3, H, W) where the images lie, in which each image's part is in the upper left, and
        augment.Views.
        """
        heights, widths = self.sizes[indices].unbind(1)
        box_top, box_left, box_height, box_width = views.boxes.unbind(1)
        # The part of each box that lies in the image.
        top, left = box_top.clamp(min=0), box_left.clamp(min=0)
        bottom, right = (box_top + box_height).minimum(heights), (box_left + box_width).minimum(widths)
        largest = int((bottom - top).max()), int((right - left).max())
        pixels = torch.zeros(len(indices), 3, *largest, dtype=torch.uint8, device=self.pixels.device)
        parts = torch.stack([top, left, bottom, right], 1).tolist()
        for place, index, (row, column, end_row, end_column) in zip(pixels, indices.tolist(), parts):
            part = self._image(index)[:, row:end_row, column:end_column]
            place[:, : part.shape[1], : part.shape[2]] = part
        boxes = torch.stack([box_top - top, box_left - left, box_height, box_width], 1)
        return pixels, views._replace(boxes=boxes)

    def validation(self, indices, size):
        """As `Packed.validation`, on the CPU."""
        return torch.cat([self.view(self._image(index)[None], size) for index in indices.tolist()])


class Streamed:
    """Images in files, decoded when asked for.

    files: N paths. labels: (N,) int64. classes: names in label order. alike: whether all have one size; then
    their views are those of the same images as Packed, to the bit.
    """

    def __init__(self, files, labels, classes, view=central, alike=False):
        self.files, self.labels, self.classes, self.view = files, labels, classes, view
        self.alike = alike

    def __len__(self):
        return len(self.files)

    def to(self, device):
        """Itself: the images are decoded on the CPU, wherever they go then."""
        del device
        return self

    def _image(self, index):
        """uint8 (3, H, W)."""
        return pixel_cache.read_image(self.files[index])

    def views(self, indices, draw, size):
        """As `Packed.views`, on the CPU."""
        images = [self._image(index) for index in indices.tolist()]
        heights = torch.tensor([image.shape[1] for image in images])
        widths = torch.tensor([image.shape[2] for image in images])
        seen = torch.stack(images) if self.alike else images
        return augment.apply_views(seen, draw(heights, widths), size)

    def labelled_views(self, indices, draw, size):
        """What `views` gives, and the labels (k,) on the CPU."""
        return self.views(indices, draw, size), self.labels[indices]

    def validation(self, indices, size):
        """As `Packed.validation`, on the CPU."""
        return torch.cat([self.view(self._image(index)[None], size) for index in indices.tolist()])


# ---- loading -------------------------------------------------------------------------------------


def load(source, image_size, per_class=0):
    """The images of a guard.data.find.Source, in the one of the classes above that suits them.

    image_size: side in pixels that the embedded set, which is 8x8, is enlarged to, and of the validation
    views of class folders. per_class: how many images of each class to keep, the first ones; 0 for all.
    """
    if source.kind == "folder":
        return _folder(source, image_size, per_class)
    read = registry.function_of(source.reader)
    images = read(source, image_size)
    return images.subset(first_of_each_class(images.labels, per_class)) if per_class else images


def _folder(source, image_size, per_class):
    """The images of class folders: from the pixel cache, or, where they are too many for it, from the files.

    The cache holds the validation split in its validation views, but images that may be seen as they are
    (CIFAR's; those of a native size) as they are.
    """
    labels, files = torch.tensor(source.labels), source.files
    if per_class:
        chosen = first_of_each_class(labels, per_class)
        labels, files = labels[chosen], [files[i] for i in chosen.tolist()]
    is_cifar, native_size = source.name in find.CIFAR_FOLDERS, recipes.recipe(source.name).native_size
    view = whole if is_cifar else functools.partial(central, native_size=native_size)
    prepared_size, prepare = None, None
    if source.split == "val" and not is_cifar and image_size > native_size:
        prepared_size, prepare = image_size, functools.partial(_central_of_one, size=image_size)
    what = (source.name, source.split, os.path.abspath(source.path), per_class, prepared_size)
    found = pixel_cache.cached(files, what, prepare)
    if not found:
        # Only small images are seen in another way one by one, and the headers of all files take time.
        alike = image_size < augment.LARGE and pixel_cache.are_alike(files)
        return Streamed(files, labels, source.classes, view, alike)
    pixels, sizes = found
    of_another_size = (sizes != sizes[0]).any(1).nonzero().flatten().tolist()
    if not of_another_size:
        pixels = pixels.view(len(files), 3, *sizes[0].tolist())
        return Packed(pixels, labels, source.classes, view=whole if prepare else view)
    if is_cifar:
        first = of_another_size[0]
        raise _other_size(files[first], sizes[first].tolist(), sizes[0].tolist())
    return Mapped(pixels, sizes, labels, source.classes, view=view)


def _central_of_one(pixels, size):
    """As `central`, of one image (3, H, W)."""
    return central(pixels[None], size)[0]


def _other_size(path, size, expected):
    """The UserError for an image of another size. size, expected: (height, width)."""
    return UserError(
        f"{path} is {size[1]}x{size[0]} pixels, the images before it {expected[1]}x{expected[0]}; all have to"
        " have one size"
    )


def spread(length, count):
    """Indices of `count` of so many images, or of all if they are fewer, spread evenly."""
    return torch.linspace(0, length - 1, min(count, length)).round().long()


def first_of_each_class(labels, count):
    """Indices (k,) int64 of the first `count` images of each class, in order. labels: (N,)."""
    keep = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        keep[(labels == label).nonzero().squeeze(1)[:count]] = True
    return keep.nonzero().squeeze(1)


def pack(files, labels, classes, title):
    """Decodes files of one size into memory: Packed. title: of the progress bar.

    Raises UserError for a file whose size differs from the first one's.
    """
    images = list(pixel_cache.in_parallel(pixel_cache.read_image, files, title))
    for path, image in zip(files, images):
        if image.shape != images[0].shape:
            raise _other_size(path, image.shape[1:], images[0].shape[1:])
    return Packed(torch.stack(images), torch.as_tensor(labels), tuple(classes))


# ---- formats of their own ------------------------------------------------------------------------


def read_digits(source, image_size):
    """The embedded digits, enlarged from 8x8 to `image_size` pixels: Packed."""
    try:
        with numpy.load(source.path, allow_pickle=False) as stored:
            is_validation = stored["validation"]
            inside = is_validation if source.split == "val" else ~is_validation
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
    """CIFAR in torchvision's own format: Packed."""
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
    pixels = torch.from_numpy(stored.data).permute(0, 3, 1, 2).contiguous()
    return Packed(pixels, torch.tensor(stored.targets), source.classes)
