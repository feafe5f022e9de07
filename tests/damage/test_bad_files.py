"""Files that are damaged, missing, hostile or cannot be written: one line names them, and nothing that
was there is changed.
"""

import contextlib
import os
import pickle
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from conftest import ROOT, TOY, command
from PIL import Image
from spoiling import (
    TEACHER,
    Malicious,
    cut,
    edit,
    elsewhere,
    flip,
    hostile_cifar,
    instead,
    nested,
    pickled,
    png,
    remake,
    remake_state,
    reseal,
    text_bomb,
    without_batch_norm,
)

from guard.data import pixel_cache
from guard.distilled import image_folder
from guard.networks import checkpoint
from guard.networks.training import Training
from guard.run import storage

STUDENT, IMAGE, EPOCH = (
    Path("student/checkpoint.pt"),
    Path("images/cat/cat_0.png"),
    Path("labels/epoch_0001.npy"),
)
DATA = ["--dataset", "toy", "--root", "."]
MADE = ["--teacher", TEACHER, "--distilled", "images"]
EVALUATE = ["train.evaluate", *DATA, "--checkpoint", STUDENT, "--images", 1, "--workers", 0]
COMMANDS = {
    "pretrain": ["pretrain", *DATA, "--output", "teacher", *TOY["pretrain"]],
    "recover": ["recover", "--teacher", TEACHER, "--output", "images", *TOY["recover"]],
    "relabel": ["relabel", *MADE, "--output", "labels", *TOY["relabel"]],
    "train": [
        "train",
        *DATA,
        *MADE,
        "--labels",
        "labels",
        "--output",
        "student",
        "--images",
        1,
        *TOY["train"],
    ],
    "evaluate": [*EVALUATE, "--protocol", "quick"],
    "curve": [*EVALUATE, "--epsilon", "0,1"],
    "adopt": ["pretrain", *DATA, "--weights", "weights.pt", "--output", "new", *TOY["pretrain"]],
    "report": ["guard.report", "student"],
}


def words(line):
    """The command of a case: one of COMMANDS, then flags, of which the last counts."""
    name, *flags = line.split()
    return [*COMMANDS[name], *flags]


def contents():
    """Every file below the working folder and its bytes; of links, where they lead."""
    found = [path for path in Path().rglob("*") if path.is_symlink() or path.is_file()]
    return {path: os.readlink(path) if path.is_symlink() else path.read_bytes() for path in found}


@pytest.fixture(scope="session")
def whole(toy, tmp_path_factory):
    """The toy chain with a finished student, and with a teacher and a student that were interrupted
    after their first epoch.
    """
    root = tmp_path_factory.mktemp("whole") / "chain"
    shutil.copytree(toy, root)
    saved = Training.save_if_due

    def save_and_stop(self, *state):
        self.saved = -1e9
        saved(self, *state)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        assert command(*words("train")) == 0
        shutil.copytree("images", "student/images")
        patch.setattr(Training, "save_if_due", save_and_stop)
        assert (
            command(*words("pretrain --output half-teacher"))
            == command(*words("train --output half-student"))
            == 130
        )
    return root


@pytest.fixture
def chain(whole, tmp_path, monkeypatch):
    """A copy of `whole`, which is the working folder."""
    shutil.copytree(whole, tmp_path / "chain")
    monkeypatch.chdir(tmp_path / "chain")


# ---- the table -----------------------------------------------------------------------------------

# Each kind of file, with the commands that read it; each of them is cut, emptied, and has a bit flipped.
READERS = {
    TEACHER: ["pretrain", "recover", "relabel", "train", f"evaluate --checkpoint {TEACHER}"],
    STUDENT: ["train", "evaluate"],
    Path("half-teacher/resume.pt"): ["pretrain --output half-teacher"],
    Path("half-student/resume.pt"): ["train --output half-student"],
    IMAGE: ["relabel --output new", "train", "train --labels online --output new"],
    Path("images/manifest.json"): ["recover", "recover --images-per-class 3", "relabel", "train"],
    EPOCH: ["train --output new"],
    Path("labels/manifest.json"): ["relabel", "train"],
    Path("teacher/log.json"): [
        "pretrain --force",
        "train",
        "train --output new",
        f"evaluate --checkpoint {TEACHER}",
    ],
    Path("student/log.json"): ["train", "evaluate", "report", "train --force"],
    Path("images/log.json"): ["recover", "recover --force"],
    Path("labels/log.json"): ["relabel", "relabel --force"],
}
DAMAGES = {"cut": cut, "emptied": lambda path: path.write_bytes(b""), "flipped": flip}
# What is the matter -> (command, how to make it so, words of the line).
CASES = {
    f"{path} {damage}, {line}": (line, lambda path=path, spoil=spoil: spoil(path), str(path))
    for path, lines in READERS.items()
    for line in lines
    for damage, spoil in DAMAGES.items()
}

TRAIN_CAT, VAL_CAT, STRIP = Path("toy/train/cat/0.png"), Path("toy/val/cat/3.png"), (1, 4000)
CASES |= {
    # checkpoints
    "no teacher": ("recover --output new", TEACHER.unlink, f"no checkpoint at {TEACHER}"),
    "teacher without its end": ("recover --output new", lambda: cut(TEACHER, 0.99), "truncated"),
    "teacher with a flip in its settings": (
        "recover --output new",
        lambda: flip(TEACHER, part="data.pkl"),
        "checksum",
    ),
    "teacher is text": ("recover --output new", lambda: TEACHER.write_text("hello"), str(TEACHER)),
    "teacher of another project": (
        "recover --output new",
        lambda: torch.save({"weights": torch.zeros(3)}, TEACHER),
        "not a checkpoint of this project",
    ),
    "teacher is a list": (
        "recover --output new",
        lambda: torch.save([1, 2], TEACHER),
        "not a checkpoint of this project",
    ),
    "teacher with other weights": (
        "recover --output new",
        lambda: edit(state={**torch.load(TEACHER, weights_only=True)["state"], "0.bias": torch.zeros(32)}),
        "fingerprint",
    ),
    "teacher is a student": ("recover --output new", lambda: remake(role="student"), "holds a student"),
    "teacher without a field": ("recover --output new", lambda: edit(without="classes"), "lacks classes"),
    "teacher without batch norm": ("recover --output new", without_batch_norm, "no batch norm"),
    "teacher is a pickle that runs code": ("recover --output new", lambda: pickled(TEACHER), "not loaded"),
    "teacher is torch.save of code": (
        "relabel --output new",
        lambda: torch.save(Malicious(), TEACHER),
        "not loaded",
    ),
    "teacher with code in its settings": (
        "train",
        lambda: edit(settings={"seed": Malicious()}),
        "not loaded",
    ),
    "student is torch.save of code": ("evaluate", lambda: torch.save(Malicious(), STUDENT), "not loaded"),
    "teacher whose classes are a word": (
        "recover --output new",
        lambda: edit(classes="cat"),
        "impossible classes",
    ),
    "teacher whose classes are numbers": ("relabel", lambda: edit(classes=[1, 2]), "impossible classes"),
    "teacher with a class twice": (
        "recover --output new",
        lambda: edit(classes=["cat", "cat"]),
        "impossible classes",
    ),
    "teacher without classes": (
        "evaluate --checkpoint teacher/checkpoint.pt",
        lambda: edit(classes=[]),
        "impossible classes",
    ),
    "teacher whose state is a list": ("train", lambda: edit(state=[torch.zeros(3)]), "impossible state"),
    "teacher whose weights are numbers": ("train", lambda: edit(state={"0.weight": 3}), "impossible state"),
    "teacher with sparse weights": (
        "recover --output new",
        lambda: edit(state={"0.weight": torch.ones(3).to_sparse()}),
        "impossible state",
    ),
    "teacher larger than its file": (
        "recover --output new",
        lambda: edit(state={"0.weight": torch.zeros(1).expand(10**13)}),
        "impossible state",
    ),
    "teacher with a size that is a word": (
        "recover --output new",
        lambda: edit(image_size="16"),
        "impossible image_size",
    ),
    "teacher for images of no pixels": (
        "recover --output new",
        lambda: remake(image_size=0),
        "impossible image_size",
    ),
    "teacher with two means": ("recover --output new", lambda: edit(mean=[0.5, 0.5]), "impossible mean"),
    "teacher with a mean that is no number": (
        "recover --output new",
        lambda: edit(mean=[0.5, 0.5, float("nan")]),
        "impossible mean",
    ),
    "teacher with a deviation of zero": ("relabel", lambda: edit(std=[0.5, 0.0, 0.5]), "impossible std"),
    "teacher whose settings are tensors": (
        "pretrain",
        lambda: edit(settings={"seed": torch.zeros(2)}),
        "impossible settings",
    ),
    "teacher whose model is a number": ("recover --output new", lambda: edit(model=18), "impossible model"),
    "teacher of an unknown model": (
        "recover --output new",
        lambda: remake(model="nosuch"),
        f"{TEACHER} cannot be built: there is no model",
    ),
    "teacher with an unknown stem": (
        "recover --output new",
        lambda: remake(stem="nosuch"),
        f"{TEACHER} cannot be built: there is no stem",
    ),
    "teacher of another model": (
        "relabel --force",
        lambda: remake(model="resnet18"),
        f"the weights in {TEACHER}",
    ),
    "teacher with weights of another shape": (
        "recover --output new",
        lambda: remake_state("0.weight", torch.zeros(3)),
        f"the weights in {TEACHER}",
    ),
    "teacher with more weights": (
        "recover --output new",
        lambda: remake_state("more", torch.zeros(3)),
        f"the weights in {TEACHER}",
    ),
    "weights under numbers": (
        "adopt",
        lambda: torch.save({0: torch.zeros(3)}, "weights.pt"),
        "weights.pt holds no state_dict",
    ),
    "weights are code": ("adopt", lambda: torch.save(Malicious(), "weights.pt"), "not loaded"),
    # class names as folders
    **{
        f"class {name[:9]!r}": (
            "recover --output new",
            lambda name=name: remake(classes=[name, "dog"]),
            f"{TEACHER} has a class",
        )
        for name in ("../../x", "/etc", "..", ".", "", "a\\b", "a\0b", "x" * 300, "\ud800")
    },
    "classes of one folder": ("recover --output new", lambda: remake(classes=["a/b", "a_b"]), "'a/b'"),
    # unfinished trainings
    **{
        f"resume.pt without {name}": (
            "pretrain --output half-teacher",
            lambda name=name: edit(Path("half-teacher/resume.pt"), without=name),
            f"lacks {name}",
        )
        for name in ("key", "epoch", "model", "optimizer", "history")
    },
    "resume.pt is a list": (
        "pretrain --output half-teacher",
        lambda: torch.save([1], "half-teacher/resume.pt"),
        "half-teacher/resume.pt",
    ),
    "resume.pt of another model": (
        "train --output half-student",
        lambda: edit(Path("half-student/resume.pt"), model={}),
        "half-student/resume.pt",
    ),
    "resume.pt with another optimizer": (
        "pretrain --output half-teacher",
        lambda: edit(Path("half-teacher/resume.pt"), optimizer={"state": 1}),
        "half-teacher/resume.pt",
    ),
    "resume.pt without its history": (
        "train --output half-student",
        lambda: edit(Path("half-student/resume.pt"), history=[]),
        "history",
    ),
    "resume.pt is code": (
        "pretrain --output half-teacher",
        lambda: torch.save(Malicious(), "half-teacher/resume.pt"),
        "not loaded",
    ),
    "resume.pt is a folder": (
        "pretrain --output new --force",
        lambda: Path("new/resume.pt").mkdir(parents=True),
        "cannot remove new/resume.pt",
    ),
    # manifests and records
    "manifest of images without an end": (
        "relabel",
        lambda: nested(Path("images/manifest.json")),
        "images/manifest.json",
    ),
    "manifest of images without files": (
        "relabel",
        lambda: reseal(Path("images/manifest.json"), files=3),
        "images/manifest.json lists no files",
    ),
    "manifest of images not sealed": (
        "relabel",
        lambda: storage.write_json(
            {"format": image_folder.FORMAT, "complete": True}, Path("images/manifest.json")
        ),
        "fingerprint",
    ),
    "manifest of images with other packs": (
        "recover --pack-images 0",
        lambda: reseal(Path("images/manifest.json"), settings={"pack_images": "many"}),
        "pack_images",
    ),
    "manifest of labels with a word for a number": (
        "train",
        lambda: reseal(Path("labels/manifest.json"), recipe={"epochs": "2"}),
        "labels/manifest.json has no recipe",
    ),
    "manifest of labels without files": (
        "train",
        lambda: reseal(Path("labels/manifest.json"), files=None),
        "epoch_0000.npy",
    ),
    "record of words": (
        "train",
        lambda: storage.write_sealed({"train": "done"}, Path("student/log.json")),
        "student/log.json is no record",
    ),
    "record is a folder": (
        "pretrain --output new",
        lambda: Path("new/log.json").mkdir(parents=True),
        "new/log.json",
    ),
    "record is a list": (
        "evaluate",
        lambda: Path("student/log.json").write_text("[]"),
        "student/log.json is no record",
    ),
    # labels
    "epoch of objects": (
        "train --output new",
        lambda: numpy.save(EPOCH, numpy.array([Malicious()], object), allow_pickle=True),
        str(EPOCH),
    ),
    "epoch is a pickle": ("train --output new", lambda: pickled(EPOCH), str(EPOCH)),
    "epoch is an archive": (
        "train --output new",
        lambda: instead(EPOCH, lambda: (numpy.savez("x.npz", a=1), Path("x.npz").rename(EPOCH))),
        str(EPOCH),
    ),
    "epoch with a flip in its logits": (
        "train --output new",
        lambda: flip(EPOCH, 0.99),
        f"{EPOCH} is damaged",
    ),
    "epoch of another": (
        "train --output new",
        lambda: shutil.copy("labels/epoch_0000.npy", EPOCH),
        f"{EPOCH} is damaged",
    ),
    "a later epoch is cut": (  # told before the first is trained on
        "train --output new",
        lambda: cut(Path("labels/epoch_0001.npy"), 0.9),
        "epoch_0001.npy is damaged: it has",
    ),
    "epoch is gone": ("train --output new", EPOCH.unlink, f"{EPOCH} is missing"),
    "epoch of an unfinished store cut": (
        "relabel",
        lambda: (reseal(Path("labels/manifest.json"), complete=False), cut(EPOCH)),
        str(EPOCH),
    ),
    # distilled images
    "distilled image is gone": ("relabel", IMAGE.unlink, f"{IMAGE} is missing"),
    "distilled image of another": (
        "train",
        lambda: shutil.copy("images/dog/dog_0.png", IMAGE),
        f"{IMAGE} is not what",
    ),
    "distilled images of another size": (
        "relabel --distilled other --output new",
        lambda: elsewhere((20, 20)),
        "20 pixels wide",
    ),
    "distilled images not square": (
        "relabel --distilled other --output new",
        lambda: elsewhere((16, 17)),
        "not square",
    ),
    "distilled images of 16 bits": (
        "relabel --distilled other --output new",
        lambda: elsewhere(mode="I;16"),
        "its mode is I;16",
    ),
    "distilled images of other classes": (
        "relabel --distilled other --output new",
        lambda: elsewhere(classes=("cat", "cow")),
        "cow",
    ),
    "distilled images of no class": (
        "relabel --distilled other --output new",
        lambda: Path("other").mkdir(),
        "other has no class folders",
    ),
    # data sets
    "no data set": ("pretrain --output new", lambda: shutil.rmtree("toy"), "no data set 'toy'"),
    "no val": ("pretrain --output new", lambda: shutil.rmtree("toy/val"), "no folder val or test"),
    "val without classes": (
        "pretrain --output new",
        lambda: [shutil.rmtree(f"toy/val/{name}") for name in ("cat", "dog")],
        "no class folders",
    ),
    "empty class": (
        "pretrain --output new",
        lambda: [path.unlink() for path in Path("toy/val/dog").iterdir()],
        "toy/val/dog holds no images",
    ),
    "class missing in val": (
        "pretrain --output new",
        lambda: shutil.rmtree("toy/val/dog"),
        "missing: ['dog']",
    ),
    "class unknown to train": (
        "pretrain --output new",
        lambda: shutil.copytree("toy/val/dog", "toy/val/cow"),
        "unknown: ['cow']",
    ),
    "class with a line break": (
        "pretrain --output new",
        lambda: Path("toy/val/a\nb\x1b[2J").mkdir(),
        "a\\nb\\x1b[2J",
    ),
    "class missing for the student": ("train", lambda: shutil.rmtree("toy/val/dog"), "toy/val"),
    "class unknown to the student": (
        "evaluate",
        lambda: shutil.copytree("toy/val/dog", "toy/val/cow"),
        "toy/val",
    ),
    "link to no image": (
        "pretrain --output new",
        lambda: instead(TRAIN_CAT, TRAIN_CAT.symlink_to, "nosuch.png"),
        f"{TRAIN_CAT} is no file",
    ),
    "folder for an image": (
        "pretrain --output new",
        lambda: instead(VAL_CAT, VAL_CAT.mkdir),
        f"{VAL_CAT} is no file",
    ),
    "pipe for an image": ("evaluate", lambda: instead(VAL_CAT, os.mkfifo, VAL_CAT), f"{VAL_CAT} is no file"),
    "cifar10 is code": (
        "pretrain --output new --dataset cifar10",
        lambda: hostile_cifar("cifar10", "cifar-10-batches-py", "data_batch_1"),
        "cifar10 does not hold an intact cifar10",
    ),
    "cifar100's classes are code": (
        "pretrain --output new --dataset cifar100",
        lambda: hostile_cifar("cifar100", "cifar-100-python", "train"),
        "it asks for io.open",
    ),
    # what cannot be written: below a regular file, and where no folder can be made
    **{
        f"{name} below a file": (
            f"{name} --output {TEACHER}/new",
            lambda: None,
            f"cannot write {TEACHER}/new",
        )
        for name in ("pretrain", "recover", "relabel", "train")
    },
    **{
        f"{name} in /proc": (f"{name} --output /proc/new", lambda: None, "cannot write /proc/new")
        for name in ("pretrain", "recover", "relabel", "train", "adopt")
    },
    "record below a file": (
        f"pretrain --output new --record {TEACHER}/log.json",
        lambda: None,
        f"cannot write {TEACHER}",
    ),
    "curve below a file": (
        f"curve --record {TEACHER}/log.json",
        lambda: None,
        f"cannot write {TEACHER}",
    ),
}
CASES["adopt in /proc"] = (
    "adopt --output /proc/new",
    lambda: torch.save(checkpoint.load(TEACHER).state, "weights.pt"),
    "cannot write /proc/new",
)

IMAGES = {
    "is text": (lambda path: path.write_bytes(b"no image"), "cannot identify"),
    "is cut": (lambda path: cut(path, 0.3), "truncated"),
    "is flipped": (flip, ""),
    "has 16 bits": (lambda path: Image.new("I;16", (20, 20)).save(path), "its mode is I;16"),
    "is a program for a printer": (
        lambda path: Image.new("L", (20, 20)).save(path, format="EPS"),
        "cannot identify",
    ),
    "has real numbers": (lambda path: Image.new("F", (20, 20)).save(path, format="TIFF"), "cannot identify"),
    "has no pixels": (lambda path: png(path, 0, 20), ""),
    "is too large": (lambda path: png(path, 10000, 10000), "its size is 10000x10000"),
    "is far too large": (lambda path: png(path, 60000, 60000), "decompression bomb"),
    "is a strip": (lambda path: Image.new("RGB", STRIP).save(path), "its size is 1x4000"),
    "has endless text": (text_bomb, ""),
}
# From the pixel cache, and where the images are too many for it, decoded by worker processes.
CASES |= {
    f"image {name}, {workers} workers, {path}": (
        f"pretrain --output new --workers {workers}",
        lambda path=path, spoil=spoil: spoil(path),
        f"cannot read the image {path}",
        expected,
    )
    for name, (spoil, expected) in IMAGES.items()
    for workers, path in ((0, TRAIN_CAT), (2, VAL_CAT))
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("case", CASES)
def test_what_is_bad_is_named_and_nothing_is_changed(case, chain, refused, monkeypatch):
    line, spoil, *expected = CASES[case]
    monkeypatch.setattr(pixel_cache, "LARGEST", 0 if "--workers 2" in line else 10**9)
    spoil()
    before = contents()
    printed = refused(*words(line))
    assert all(text in printed for text in expected) and "; " in printed, printed
    assert contents() == before


# ---- a full disk ---------------------------------------------------------------------------------


@contextlib.contextmanager
def full_disk(size):
    """Inside, no file can have more than `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


FULL = [
    *(
        (f"pretrain {flags}", size)
        for flags in ("--output new", "--force", "--output half-teacher")
        for size in (0, 1000, 30000, 80000)
    ),
    *(
        (f"train {flags}", size)
        for flags in ("--output new", "--force", "--output half-student")
        for size in (0, 1000, 30000, 80000)
    ),
    *(
        (f"recover --output new {flags}", size)
        for flags in ("", "--image-format jpg")
        for size in (0, 300, 900)
    ),
    ("recover --force", 500),
    *(("relabel --output new", size) for size in (0, 300, 600)),
    ("relabel --force", 300),
    ("evaluate --force", 0),
    ("evaluate --force", 900),
    ("curve", 0),
    ("report", 0),
    ("report", 5000),
]


@pytest.mark.parametrize(("line", "size"), FULL)
def test_on_a_full_disk_one_line_says_so_and_what_was_there_stays(line, size, chain, refused):
    before = contents()
    with full_disk(size):
        assert "cannot write" in refused(*words(line))
    after = contents()
    assert {path: after.get(path) for path in before} == before and not list(Path().rglob("*.part"))


# ---- what the lines promise ----------------------------------------------------------------------


# A damaged file -> (command that refuses it, what its line says to do: remove it or not, then the
# command that makes it again).
MENDED = {
    EPOCH: ("train --output new", True, "relabel"),
    IMAGE: ("train --output new", True, "recover"),
    Path("images/manifest.json"): ("relabel", False, "recover --force"),
    Path("labels/manifest.json"): ("train", False, "relabel --force"),
    Path("images/log.json"): ("recover", True, "recover"),
    STUDENT: ("evaluate", True, "train"),
    Path("half-teacher/resume.pt"): (
        "pretrain --output half-teacher",
        False,
        "pretrain --output half-teacher --force",
    ),
}


@pytest.mark.parametrize("path", MENDED)
def test_what_the_line_says_to_do_mends_it(path, chain, refused):
    line, removed, again = MENDED[path]
    flip(path, 0.6)
    assert ("remove it" if removed else "--force") in refused(*words(line))
    if removed:
        path.unlink()
    assert command(*words(again)) == command(*words(line)) == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: png(TRAIN_CAT, 10000, 10000),
        lambda: png(TRAIN_CAT, 60000, 60000),
        lambda: shutil.copytree("toy/val/dog", "toy/val/a\nb"),
    ],
)
def test_a_process_prints_that_one_line_alone(make, chain):
    """No library's warning beside it."""
    make()
    flags = [str(word) for word in words("pretrain --output new --epochs 1")]
    done = subprocess.run(
        [sys.executable, "-m", *flags],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, (
        done.stderr
    )


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("L", "png"),
        ("LA", "png"),
        ("P", "png"),
        ("1", "png"),
        ("RGBA", "png"),
        ("CMYK", "jpg"),
        ("L", "jpg"),
        ("RGB", "webp"),
        ("RGB", "bmp"),
        ("P", "gif"),
    ],
)
def test_images_that_8_bits_hold_are_read(mode, suffix, tmp_path):
    """Also a GIF or a PNG that is called JPEG, as some data sets have them."""
    Image.new("RGB", (6, 5), (255, 255, 255)).convert(mode).save(made := tmp_path / f"image.{suffix}")
    made = made.rename(tmp_path / "image.jpg")
    pixels = pixel_cache.read_image(made)
    assert pixels.shape == (3, 5, 6) and pixels.dtype == torch.uint8 and (pixels == 255).all()


def test_force_makes_the_images_of_a_class_with_brackets_again(chain):
    remake(classes=["cat[1]", "dog"])
    arguments = words("recover --output new")
    assert command(*arguments) == 0
    made = Path("new/cat[1]/cat[1]_0.png")
    made.write_bytes(b"damaged")
    assert command(*arguments, "--force") == 0 and made.read_bytes() != b"damaged"


def test_a_pickle_of_code_would_run_elsewhere(chain):
    """Or the cases above would show nothing."""
    pickled(Path("code"))
    with open("code", "rb") as file:
        pickle.load(file).close()
    assert Path("pwned").exists()
