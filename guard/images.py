"""Pixels of what guard.datasets found, in batches of views.

Three holders with one interface: Packed (images of one size as one uint8 tensor, in memory or in the
pixel cache), Mapped (images of many sizes in the pixel cache) and Streamed (files too many to keep,
decoded by the loader's workers). All give `views(indices, draw, size)` and `validation(indices, size)`:
pixels (N, 3, size, size), float32 in [0,1], or as uint8 what `augment.as_float` makes that.
"""

import functools
import os
import signal
from pathlib import Path

import numpy
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.v2 import functional as transforms

from guard import augment, checkpoint, datasets, lock, pixel_cache, records
from guard.device import generator
from guard.errors import UserError, first_line

SHARE_OF_DEVICE = 0.25  # of a GPU's free memory that the images of a data set may take
VALIDATION_RESIZE = 256 / 224  # shorter side over crop in the validation view of the ImageNet family


def batch_ranges(count, batch_size):
    """(start, stop) of each batch; a single image left over joins the batch before it, since batch norm
    needs two.
    """
    starts = list(range(0, count, batch_size))
    if len(starts) > 1 and count - starts[-1] == 1:
        starts.pop()
    return list(zip(starts, [*starts[1:], count]))


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
        return checkpoint.fingerprint({"pixels": self.pixels, "labels": self.labels}, list(self.classes))

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


# ---- reading -------------------------------------------------------------------------------------


def load(source, image_size, per_class=0):
    """The images of a datasets.Source in the holder that suits them; per_class > 0 keeps the first so
    many of each class.

    image_size: side in pixels that the embedded set, which is 8x8, is enlarged to, and of the validation
    views of class folders.
    """
    if source.kind == "folder":
        return _folder(source, image_size, per_class)
    images = _digits(source, image_size) if source.kind == "digits" else _cifar(source)
    return images.subset(first_of_each_class(images.labels, per_class)) if per_class else images


def _folder(source, image_size, per_class):
    """Class folders: what is there of them in the pixel cache (val in its validation views, CIFAR as it
    is), else the files.
    """
    labels, files = torch.tensor(source.labels), source.files
    if per_class:
        chosen = first_of_each_class(labels, per_class)
        labels, files = labels[chosen], [files[i] for i in chosen.tolist()]
    as_it_is = source.split == "train" or source.name in datasets.CIFAR_FOLDERS
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
    if source.name in datasets.CIFAR_FOLDERS:
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


def load_distilled(folder):
    """Any folder FOLDER/CLASS/*.png (or jpg) of square images of one size, ours or distilled elsewhere,
    as Packed.

    Where it has a manifest of ours, all images have to be there, byte for byte. Raises UserError that
    names what differs.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"no folder of images at {folder}; make one with python -m recover, or name one with"
            " FOLDER/CLASS/*.png"
        )
    source = datasets.scan(folder.name, folder, "train")
    if (folder / "manifest.json").exists():
        _check_manifest(folder, source.files)
    images = pack(source.files, source.labels, source.classes, "reading distilled images")
    if images.pixels.shape[2] != images.pixels.shape[3]:
        raise UserError(f"{source.files[0]} is not square; distilled images have to be")
    return images


def _check_manifest(folder, files):
    manifest = records.read_sealed(folder / "manifest.json", "manifest of images", records.FORCE)
    if not manifest.get("complete"):
        raise UserError(
            f"the images in {folder} are not complete; run python -m recover again to finish them"
        )
    listed, found = manifest.get("files"), {str(Path(path).relative_to(folder)): path for path in files}
    if not isinstance(listed, dict):
        raise UserError(f"{folder / 'manifest.json'} lists no files; recover the images again with --force")
    different = sorted(set(listed) ^ set(found)) or [
        name for name, path in found.items() if checkpoint.file_fingerprint(path) != listed[name]
    ]
    if different:
        raise UserError(
            f"{folder / different[0]} is not what the manifest beside it says; recover the images again with"
            " --force"
        )


def _digits(source, image_size):
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


def _cifar(source):
    from torchvision.datasets import CIFAR10, CIFAR100

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


# ---- batches -------------------------------------------------------------------------------------


class TrainingEpoch(Dataset):
    """One pass over the images: item b is (pixels, labels) of batch b, in an order and views that depend
    on (seed, epoch, b) alone.

    share: (rank, size) for the part of every batch that falls to one process of a group.
    """

    def __init__(self, images, *, augmentation, batch_size, size, seed, epoch, share=(0, 1)):
        self.images, self.augmentation, self.size, self.key, self.share = (
            images,
            augmentation,
            size,
            (seed, "teacher", epoch),
            share,
        )
        order = torch.randperm(len(images), generator=generator(*self.key))
        self.batches = [order[start:stop] for start, stop in batch_ranges(len(images), batch_size)]

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, number):
        draws = generator(*self.key, number)
        mine = self.batches[number].tensor_split(self.share[1])[self.share[0]]
        # Each process draws views for its own part from a stream of its own; alone, part 0 is the batch.
        draws = draws if self.share[0] == 0 else generator(*self.key, number, self.share[0])
        if not len(mine):  # a last batch of fewer images than processes
            return torch.zeros(0, 3, self.size, self.size), self.images.labels[mine]

        def draw(heights, widths):
            return augment.draw_views(draws, self.augmentation, heights, widths)

        return self.images.views(mine, draw, self.size), self.images.labels[mine]


class ValidationBatches(Dataset):
    """Item b is (pixels, labels) of the b-th batch of the images in order, in the validation view."""

    def __init__(self, images, *, batch_size, size):
        self.images, self.size = images, size
        self.batches = torch.arange(len(images)).split(batch_size)

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, number):
        indices = self.batches[number]
        return self.images.validation(indices, self.size), self.images.labels[indices]


class _Reported(Dataset):
    """Hands a UserError over as an item: raised in a worker, it would arrive wrapped in the worker's
    traceback.
    """

    def __init__(self, dataset):
        self.dataset = dataset

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, number):
        try:
            return self.dataset[number]
        except UserError as problem:
            return problem


def _begin_worker(worker):
    """Ctrl-C reaches the workers as well, but it is the main process that ends the run, with one line;
    and it alone keeps locks.
    """
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lock.forget()


def batches(dataset, workers, device):
    """Iterates over whole-batch items; files are decoded by `workers` processes, images in memory need none.

    Raises UserError for a file that cannot be read.
    """
    streamed = isinstance(dataset.images, Streamed) and workers > 0
    loader = DataLoader(
        _Reported(dataset),
        batch_size=None,
        num_workers=workers if streamed else 0,
        pin_memory=streamed and device.type == "cuda",
        worker_init_fn=_begin_worker,
    )
    for item in loader:
        if isinstance(item, UserError):
            raise item
        pixels, labels = item
        yield augment.as_float(pixels.to(device, non_blocking=True)), labels.to(device, non_blocking=True)
