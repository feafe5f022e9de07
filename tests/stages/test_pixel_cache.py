"""The pixel cache: the same views as from the files, made once, made again when the files change, done
without where it must be.
"""

import os
import shutil
from collections import namedtuple

import numpy
import pytest
import torch
from conftest import write_folder
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

from guard.data import augment, find, images, loading, pixel_cache
from guard.errors import UserError


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A data set whose images differ in size, and an empty cache folder."""
    monkeypatch.setenv("GUARD_CACHE", str(tmp_path / "cache"))
    for number, size in enumerate((20, 27, 31)):
        write_folder(tmp_path / str(number), size=size, count=3, seed=number)
    for split in ("train", "val"):
        for path in (tmp_path / "1" / "toy" / split).glob("*/*.png"):
            shutil.copy(path, tmp_path / "0" / "toy" / split / path.parent.name / f"more-{path.name}")
        wide = numpy.random.default_rng(9).integers(0, 256, (18, 40, 3), dtype=numpy.uint8)
        Image.fromarray(wide).save(tmp_path / "0" / "toy" / split / "cat" / "wide.png")
    return tmp_path / "0"


def caches(root):
    return sorted((root.parent / "cache").glob("*"))


def train_of(root):
    return images.load(find.find("toy", root, "train"), 16)


def streamed(root, split="train"):
    source = find.find("toy", root, split)
    return images.Streamed(source.files, torch.tensor(source.labels), source.classes)


@pytest.mark.parametrize("augmentation", ["resized-crop", "pad-crop", "none"])
def test_the_views_are_those_of_the_files(augmentation, root, monkeypatch):
    same_size = root.parent / "2"
    cached = [(train_of(root), images.Mapped), (train_of(same_size), images.Packed)]
    monkeypatch.setattr(pixel_cache, "LARGEST", 0)
    monkeypatch.setenv("GUARD_CACHE", str(root.parent / "empty"))
    for (held, kind), of in zip(cached, (root, same_size), strict=True):
        expected = train_of(of)
        assert isinstance(held, kind) and isinstance(expected, images.Streamed)
        for epoch in range(3):
            made = [
                loading.TrainingEpoch(
                    each, augmentation=augmentation, batch_size=5, size=16, seed=3, epoch=epoch
                )
                for each in (held, expected)
            ]
            for number in range(len(made[0])):
                (found, labels), (wanted, same) = (each[number] for each in made)
                assert torch.equal(labels, same)
                assert torch.equal(found, wanted)  # so it does not show whether there was room for a cache


def test_files_that_change_places_are_decoded_again(root):
    """Of one size and date, as those of bitmaps in an archive may be, they are told apart all the same."""
    folder = root / "toy/train"
    for path in folder.glob("*/*.png"):
        if path.name != "0.png":
            path.unlink()
    images_of = {}
    for name in ("cat", "dog"):
        path = (folder / name / "0.png").with_suffix(".bmp")
        Image.open(path.with_suffix(".png")).save(path)
        path.with_suffix(".png").unlink()
        os.utime(path, (1e9, 1e9))
        images_of[name] = pixel_cache.read_image(path)
    assert torch.equal(train_of(root).pixels, torch.stack([images_of["cat"], images_of["dog"]]))
    for one, other in (("cat", "kept"), ("dog", "cat"), ("kept", "dog")):
        (folder / one).rename(folder / other)
    assert torch.equal(train_of(root).pixels, torch.stack([images_of["dog"], images_of["cat"]]))
    path = folder / "cat/0.bmp"  # and one that is written anew in its place
    path.write_bytes((folder / "dog/0.bmp").read_bytes())
    os.utime(path, (1e9, 1e9))
    assert torch.equal(train_of(root).pixels, torch.stack([images_of["cat"], images_of["cat"]]))


def test_the_cache_of_a_data_set_that_is_named_by_its_path_lies_in_its_folder(root):
    images.load(find.find(str(root / "toy"), "elsewhere", "train"), 16)
    assert [path.name[:10] for path in caches(root)] == ["toy-train-"]
    assert sorted(path.name for path in (root / "toy").iterdir()) == ["train", "val"]


def test_a_crop_has_the_geometry_that_torchvision_gives_on_the_original(root):
    """On the CPU to 8 bits, and in the batches that go to a GPU to float32's rounding; also where the
    crop reaches beyond the image.
    """
    held, files = train_of(root), find.find("toy", root, "train").files
    boxes = torch.tensor([[1, 2, 9, 11], [0, 0, 18, 40], [3, 17, 15, 20], [-3, 2, 18, 40]])
    views = augment.Views(boxes, torch.tensor([False, True, False, False]))
    chosen = torch.tensor([0, 6, 6, 6])
    assert files[6].endswith("wide.png")
    rough = held.views(chosen, lambda heights, widths: views, 12)
    batch, moved = held.shown(chosen, views)
    found = augment.Sampler(moved, batch.shape[2:], 12)(batch.float() / 255)
    torch.testing.assert_close(augment.as_float(rough), found, rtol=0, atol=1.01 / 255)
    for view, index, box, flip in zip(found, chosen.tolist(), boxes.tolist(), views.flips.tolist()):
        original = pixel_cache.read_image(files[index]).double() / 255
        expected = transforms.resized_crop(original, *box, [12, 12], antialias=True)
        torch.testing.assert_close(view, (expected.flip(2) if flip else expected).float(), rtol=0, atol=1e-5)


def test_the_validation_views_are_those_of_the_files(root):
    held = images.load(find.find("toy", root, "val"), 16)
    everything = torch.arange(len(held))
    assert isinstance(held, images.Packed) and held.pixels.shape == (13, 3, 16, 16)
    assert torch.equal(
        held.validation(everything, 16), augment.as_float(streamed(root, "val").validation(everything, 16))
    )
    assert torch.equal(train_of(root).validation(everything, 16), streamed(root).validation(everything, 16))


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(
    ("name", "shape", "size", "as_they_are"),
    [
        ("toy", (48, 32), 32, False),
        ("toy", (32, 32), 32, False),
        ("cifar10", (32, 32), 32, True),
        ("tiny-imagenet", (64, 64), 64, True),
        ("tiny-imagenet", (64, 64), 32, False),
        ("tiny-imagenet", (64, 64), 96, False),
    ],
)
def test_the_validation_view_does_not_depend_on_how_images_are_held(
    name, shape, size, as_they_are, split, tmp_path, monkeypatch
):
    random = numpy.random.default_rng(1)
    pixels = random.integers(0, 256, (2, *shape, 3), dtype=numpy.uint8)
    for label, image in zip("ab", pixels):
        (folder := tmp_path / name / split / label).mkdir(parents=True)
        Image.fromarray(image).save(folder / "0.png")
    source = find.find(name, tmp_path, split)
    monkeypatch.setenv("GUARD_CACHE", str(tmp_path / "cache"))
    kept = images.load(source, size).to(torch.device("cpu"))
    monkeypatch.setenv("GUARD_CACHE", "/dev/null/nowhere")
    read = images.load(source, size)
    assert isinstance(kept, images.Packed) and isinstance(read, images.Streamed)
    found, same = (augment.as_float(each.validation(torch.tensor([0, 1]), size)) for each in (kept, read))
    assert torch.equal(found, same)
    original = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    cut = transforms.center_crop(transforms.resize(original, [round(size * 256 / 224)], antialias=True), size)
    assert torch.equal(found, (original if as_they_are else cut) / 255)


def test_a_cache_is_made_once_and_again_when_a_file_changes(root, capsys):
    first = train_of(root)
    made = caches(root)
    assert len(made) == 1 and first.pixels.numel() == made[0].stat().st_size - 8 * 13
    before = made[0].stat().st_mtime_ns
    train_of(root)
    assert caches(root) == made and made[0].stat().st_mtime_ns == before
    changed = root / "toy" / "train" / "cat" / "0.png"
    Image.new("RGB", (5, 6), (1, 2, 3)).save(changed)
    again = train_of(root)
    assert len(caches(root)) == 1 and caches(root) != made and again.sizes[0].tolist() == [6, 5]
    assert again._image(0)[:, 2, 2].tolist() == [1, 2, 3]
    images.load(find.find("toy", root, "train"), 16, per_class=1)
    images.load(find.find("toy", root, "val"), 16)
    images.load(find.find("toy", root, "val"), 8)
    assert len(caches(root)) == 4  # parts, splits and sizes lie beside each other
    assert capsys.readouterr().err.count("note:") == 0


def test_a_data_set_whose_name_is_a_pattern_has_one_cache_too(root):
    shutil.copytree(root / "toy", root / "toys[1]")
    for seconds in range(3):
        os.utime(root / "toys[1]" / "train" / "cat" / "0.png", (seconds, seconds))
        images.load(find.find("toys[1]", root, "train"), 16)
    assert len(caches(root)) == 1


@pytest.mark.parametrize("left", [0, 50, 3000])
def test_a_cache_that_was_cut_off_is_made_again(left, root):
    whole = train_of(root).pixels.clone()
    os.truncate(caches(root)[0], left)
    assert torch.equal(train_of(root).pixels, whole)


def test_an_image_that_cannot_be_read_leaves_nothing_behind(root):
    path = root / "toy" / "train" / "dog" / "1.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match=r"dog/1\.png"):
        train_of(root)
    assert not caches(root)
    path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"dog/1\.png"):
        train_of(root)


def test_without_room_the_files_are_read_each_time_and_a_line_says_so(root, monkeypatch, capsys):
    room = namedtuple("room", "total used free")(10, 9, pixel_cache.SPARE)
    monkeypatch.setattr(pixel_cache.shutil, "disk_usage", lambda path: room)
    assert isinstance(train_of(root), images.Streamed)
    printed = capsys.readouterr().err
    assert (
        printed.startswith("note: ")
        and "1.0 GiB left" in printed
        and "GUARD_CACHE" in printed
        and printed.count("\n") == 1
    )
    monkeypatch.undo()
    monkeypatch.setenv("GUARD_CACHE", "/dev/null/nowhere")
    assert isinstance(train_of(root), images.Streamed) and "cannot be written" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setenv("GUARD_CACHE", str(root / "of-another"))
    (root / "of-another").mkdir()
    monkeypatch.setattr(pixel_cache.os, "access", lambda path, mode: False)
    assert isinstance(train_of(root), images.Streamed) and "cannot be written" in capsys.readouterr().err
    assert not list((root / "of-another").glob("*.npy"))


def test_a_folder_too_large_to_keep_is_streamed(root, monkeypatch, capsys):
    monkeypatch.setattr(pixel_cache, "LARGEST", 1000)
    held = train_of(root)
    assert isinstance(held, images.Streamed) and not caches(root) and not capsys.readouterr().err


def test_what_a_killed_process_left_half_written_is_cleared(root):
    (root / "cache").mkdir(exist_ok=True)
    train_of(root)
    (made,) = caches(root)
    stale = made.with_name(f".{made.name}.4711.part")
    stale.write_bytes(b"half")
    made.unlink()
    train_of(root)
    assert caches(root) == [made]


def test_a_cache_that_may_not_be_read_is_none(root, monkeypatch):
    assert len(train_of(root)) and caches(root)

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pixel_cache.numpy, "memmap", refused)
    assert pixel_cache._open(caches(root)[0], 3) is None


def test_a_cache_that_others_are_making_and_only_they_can_write_is_nobodys_to_wait_for(root, monkeypatch):
    from guard.run import lock

    def refuse(*_, **__):
        raise UserError("cannot write")

    monkeypatch.setattr(lock, "held", refuse)
    assert len(train_of(root))
