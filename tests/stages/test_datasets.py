"""Where data sets are found and what pixels come of them."""

import hashlib
import os
import pickle
import shutil

import numpy
import pytest
import torch
from conftest import ROOT, write_folder
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.transforms.v2 import functional as transforms

from guard.data import find, images, loading
from guard.distilled import image_folder
from guard.errors import UserError
from guard.run import storage


def test_the_embedded_digits_are_whole_and_their_split_is_stratified():
    train, val = (images.load(find.find("digits", ROOT, split), 16) for split in ("train", "val"))
    assert len(train) + len(val) == 1797 and train.classes == tuple("0123456789")
    assert (
        train.pixels.dtype == torch.uint8
        and train.pixels.shape[1:] == (3, 16, 16)
        and train.pixels.max() == 255
    )
    for held, share in ((train, 0.8), (val, 0.2)):
        counts = held.labels.bincount()
        assert (counts / (train.labels.bincount() + val.labels.bincount()) - share).abs().max() < 0.02
    assert (ROOT / "data" / "digits.npz").stat().st_size < 100_000


def test_the_digits_are_those_of_scikit_learn():
    """By the hash of sklearn.datasets.load_digits() of version 1.9.1, images and then labels as bytes."""
    with numpy.load(ROOT / "data" / "digits.npz") as stored:
        held = stored["images"].astype("uint8").tobytes() + stored["labels"].astype("uint8").tobytes()
    assert (
        hashlib.sha256(held).hexdigest() == "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
    )


def test_digits_grow_to_the_image_size():
    for size in (8, 16, 32):
        assert images.load(find.find("digits", ROOT, "val"), size).pixels.shape == (355, 3, size, size)


def test_class_folders_are_sorted_and_test_is_taken_for_val(tmp_path):
    write_folder(tmp_path, classes=("b", "a"), splits=("train", "test"))
    train, val = (find.find("toy", tmp_path, split) for split in ("train", "val"))
    find.check_pair(train, val)
    assert train.classes == ("a", "b") and val.path.name == "test" and train.labels == (0,) * 6 + (1,) * 6
    held = images.load(train, 16, per_class=2)
    first_two = [
        images.pixel_cache.read_image(tmp_path / f"toy/train/{name}.png")
        for name in ("a/0", "a/1", "b/0", "b/1")
    ]
    assert held.labels.tolist() == [0, 0, 1, 1] and torch.equal(held.pixels, torch.stack(first_two))


@pytest.mark.parametrize("suffix", ["jpg", "ppm", "bmp", "pgm", "WEBP"])
def test_images_below_the_folder_of_a_class_are_its_images(suffix, tmp_path):
    """As torchvision's ImageFolder has it, whose images and labels these are."""
    folder = write_folder(tmp_path, classes=("a", "b"), splits=("train",)) / "train"
    for place, shade in (("b/deep/er", 7), ("a/images", 9)):
        (folder / place).mkdir(parents=True)
        Image.new("L", (20, 20), shade).save(folder / place / f"0.{suffix}")
        (folder / place / ".hidden.png").write_text("no image")
    found = find.find("toy", tmp_path, "train")
    theirs = [(path, label) for path, label in ImageFolder(folder).samples if "/." not in path]
    assert sorted(zip(found.files, found.labels)) == sorted(theirs) and len(theirs) == 14
    pixels = images.load(found, 20).pixels
    for path, image in zip(found.files, pixels):
        if path.endswith(suffix):
            assert (image.float() - (7 if "deep" in path else 9)).abs().max() <= 1  # JPEG, WebP


def test_what_would_be_lost_or_counted_elsewhere_is_refused(tmp_path):
    folder = write_folder(tmp_path, classes=("a", "b"), splits=("train",)) / "train"
    (folder / "a/within").mkdir()
    (folder / "a/within/5.TIFF").touch()
    with pytest.raises(
        UserError, match="within/5.TIFF is of a format that is not read; convert or remove it"
    ):
        find.find("toy", tmp_path, "train")
    (folder / "a/within/5.TIFF").unlink()
    for target in ("../b", ".", ".."):
        (folder / "a/link").symlink_to(target)
        with pytest.raises(UserError, match="a/link is a link to a folder, inside a class"):
            find.find("toy", tmp_path, "train")
        (folder / "a/link").unlink()
    (folder / "a/link").symlink_to("link")  # to itself, and no image
    assert len(find.find("toy", tmp_path, "train").files) == 12


def test_a_class_whose_name_is_no_text_is_refused(tmp_path):
    """No record or picture could tell it."""
    folder = write_folder(tmp_path, classes=("a", "b"), splits=("train",)) / "train"
    (folder / "b").rename(os.fsdecode(os.fsencode(folder) + b"/b\xff"))
    with pytest.raises(UserError, match=r"class 'b\\udcff' in .* is not in UTF-8; rename it"):
        find.find("toy", tmp_path, "train")


@pytest.mark.parametrize("target", ["nowhere", "c"])  # the second leads to itself
@pytest.mark.parametrize("link", ["c", "a/c.jpg"])
def test_a_link_that_leads_to_nothing_is_no_class_less(link, target, tmp_path):
    for split in ("train", "val"):
        for name in ("a", "b"):
            folder = tmp_path / "set" / split / name
            folder.mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(folder / "0.jpg")
    path = tmp_path / "set/train" / link
    path.symlink_to(path.name if target == "c" else target)
    with pytest.raises(UserError, match=f"{path} is no file, or a link to none"):
        find.find("set", tmp_path, "train")
    path.rename(path.with_name(f".{path.name}"))
    assert find.find("set", tmp_path, "train").classes == ("a", "b")


def test_the_validation_view_is_torchvisions(tmp_path):
    folder = tmp_path / "set" / "val" / "only"
    folder.mkdir(parents=True)
    pixels = numpy.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=numpy.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(pixels[..., 0]).save(folder / "b.png")  # grey: read as colour
    held = images.load(find.find("set", tmp_path, "val"), 28)
    found = held.validation(torch.tensor([0, 1]), 28)
    resized = transforms.resize(torch.from_numpy(pixels).permute(2, 0, 1), [32], antialias=True)
    assert torch.equal(found[0], transforms.center_crop(resized, [28, 28]) / 255)
    assert torch.equal(found[1][0], found[1][1])


def test_an_epoch_sees_every_image_once_and_processes_share_its_batches():
    held = images.Packed(
        torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 3, 8, 8).contiguous(),
        torch.arange(10),
        tuple("abcdefghij"),
    )
    whole = loading.TrainingEpoch(held, augmentation="none", batch_size=4, size=8, seed=0, epoch=0)
    assert sorted(torch.cat([whole[b][1] for b in range(3)]).tolist()) == list(range(10)) and len(whole) == 3
    shares = [
        loading.TrainingEpoch(
            held, augmentation="none", batch_size=4, size=8, seed=0, epoch=0, share=(rank, 2)
        )
        for rank in range(2)
    ]
    for number in range(3):
        assert torch.equal(torch.cat([share[number][1] for share in shares]), whole[number][1])
    again = loading.TrainingEpoch(held, augmentation="none", batch_size=4, size=8, seed=0, epoch=1)
    assert not torch.equal(again[0][1], whole[0][1])


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A tiny data set in torchvision's CIFAR-10 format; its checksums are not the published ones, so
    they are not looked at.
    """
    import torchvision

    folder = tmp_path / "cifar10" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    random = numpy.random.default_rng(0)
    for name in [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]:
        (folder / name).write_bytes(
            pickle.dumps(
                {"data": random.integers(0, 256, (10, 3072), dtype=numpy.uint8), "labels": list(range(10))}
            )
        )
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(find.CIFAR10_CLASSES)}))
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)
    return tmp_path


def test_torchvisions_own_format_is_read(cifar):
    source = find.find("cifar10", cifar, "train")
    held = images.load(source, 32, per_class=3)
    assert (
        source.kind == "cifar"
        and held.classes == find.CIFAR10_CLASSES
        and held.pixels.shape == (30, 3, 32, 32)
    )
    with open(cifar / "cifar10/cifar-10-batches-py/data_batch_1", "rb") as file:
        raw = pickle.load(file)["data"][7].reshape(3, 32, 32)
    assert any(numpy.array_equal(image, raw) for image in held.pixels.numpy())
    assert find.find("cifar10", cifar / "cifar10", "val").kind == "cifar"  # as torchvision's users have it


def test_a_damaged_cifar_archive_is_named(cifar, monkeypatch):
    import torchvision

    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: False)
    with pytest.raises(UserError, match="cifar10"):
        images.load(find.find("cifar10", cifar, "train"), 32)


def test_cifar100s_class_names_come_from_its_archive_and_nothing_in_it_runs(tmp_path):
    folder = tmp_path / "cifar100" / "cifar-100-python"
    folder.mkdir(parents=True)
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["apple", "baby"]}))
    assert find.find("cifar100", tmp_path, "val").classes == ("apple", "baby")
    (folder / "meta").write_bytes(pickle.dumps(print))
    with pytest.raises(UserError, match="meta"):
        find.find("cifar100", tmp_path, "val")


def test_cifar_in_class_folders_is_packed(tmp_path):
    write_folder(tmp_path, name="cifar10", size=32)
    held = images.load(find.find("cifar10", tmp_path, "train"), 32)
    assert (
        isinstance(held, images.Packed)
        and held.pixels.shape == (12, 3, 32, 32)
        and held.classes == ("cat", "dog")
    )


def test_a_single_image_left_over_joins_the_batch_before_it():
    assert loading.batch_ranges(9, 4) == [(0, 4), (4, 9)] and loading.batch_ranges(10, 4) == [
        (0, 4),
        (4, 8),
        (8, 10),
    ]
    assert loading.batch_ranges(1, 4) == [(0, 1)] and loading.batch_ranges(8, 4) == [(0, 4), (4, 8)]


def test_images_that_differ_from_their_manifest_are_refused(toy, tmp_path):
    for spoil, expected in (
        (
            lambda folder: (folder / "cat/cat_0.png").write_bytes((folder / "dog/dog_1.png").read_bytes()),
            r"cat_0\.png is not what",
        ),
        (lambda folder: (folder / "cat/cat_0.png").unlink(), r"cat_0\.png is missing"),
        (
            lambda folder: (folder / "cat/more.png").write_bytes((folder / "cat/cat_0.png").read_bytes()),
            r"more\.png is not in the manifest",
        ),
        (
            lambda folder: storage.write_sealed(
                {"format": image_folder.FORMAT, "complete": False}, folder / "manifest.json"
            ),
            "not complete",
        ),
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(toy / "images", folder)
        spoil(folder)
        with pytest.raises(UserError, match=expected):
            image_folder.load_distilled(folder)


def test_the_fingerprint_of_a_source_tells_data_apart(tmp_path):
    write_folder(tmp_path / "one")
    write_folder(tmp_path / "same")
    write_folder(tmp_path / "other", size=21)
    prints = [find.find("toy", tmp_path / name, "train").fingerprint for name in ("one", "same", "other")]
    assert prints[0] == prints[1] != prints[2] != find.find("toy", tmp_path / "one", "val").fingerprint


def test_distilled_images_of_other_sizes_or_shapes_are_refused(tmp_path):
    folder = write_folder(tmp_path) / "train"
    Image.new("RGB", (9, 9)).save(folder / "cat" / "9.png")
    with pytest.raises(UserError, match=r"9\.png is 9x9"):
        image_folder.load_distilled(folder)
    for path in folder.glob("*/*.png"):
        Image.new("RGB", (9, 8)).save(path)
    with pytest.raises(UserError, match="not square"):
        image_folder.load_distilled(folder)
    with pytest.raises(UserError, match="there are no images at"):
        image_folder.load_distilled(tmp_path / "nosuch")


def test_fingerprints_tell_pixels_labels_and_classes_apart():
    pixels = torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
    one = images.Packed(pixels, torch.tensor([0, 0, 1, 1]), ("a", "b"))
    assert (
        one.fingerprint == images.Packed(pixels.clone(), torch.tensor([0, 0, 1, 1]), ("a", "b")).fingerprint
    )
    changed = pixels.clone()
    changed[0, 0, 0, 0] = 1
    others = [
        images.Packed(changed, one.labels, one.classes),
        images.Packed(pixels, torch.tensor([0, 1, 1, 1]), one.classes),
        images.Packed(pixels, one.labels, ("a", "c")),
    ]
    assert len({each.fingerprint for each in (one, *others)}) == 4
