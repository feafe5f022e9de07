"""data.prepare: archives made on the fly, downloads replaced by them; what is made, what is refused, and
that nothing half-made stays.
"""

import errno
import fcntl
import hashlib
import http.client
import io
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from data import archives, prepare
from guard.data import find
from guard.errors import UserError
from guard.run import lock

PROJECT = Path(__file__).resolve().parents[2]
SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.xz", ".zip")
NOISE = random.Random(0).randbytes(900)  # does not compress, so that half an archive lacks files


def folders(top="", train=("a", "b"), val=("a", "b"), split="val", count=2):
    """{member: contents} of an archive of class folders, `count` images in each."""
    wanted = [("train", each) for each in train] + [(split, each) for each in val]
    return {
        f"{top}{part}/{each}/{part}_{i}.JPEG": bytes([i]) + NOISE
        for part, each in wanted
        for i in range(count)
    }


def tar_member(name, kind=tarfile.REGTYPE, target="", size=0):
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size = kind, target, size
    return member


def pack(path, contents, odd=None):
    """Writes an archive of {member: contents}; a name with / at its end is a folder, `odd` is one more
    member of any kind.
    """
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in contents.items():
                archive.writestr(name, data)
            if odd:
                archive.writestr(odd, b"target")
        return path
    with tarfile.open(path, "w:" + {".gz": "gz", ".tgz": "gz", ".xz": "xz"}.get(path.suffix, "")) as archive:
        for name, data in contents.items():
            if name.endswith("/"):
                archive.addfile(tar_member(name, tarfile.DIRTYPE))
            else:
                archive.addfile(tar_member(name, size=len(data)), io.BytesIO(data))
        if odd:
            archive.addfile(odd)
    return path


def tiny_imagenet(
    images=("val_0.JPEG", "val_1.JPEG", "val_2.JPEG"),
    notes=("val_0.JPEG\tn2\t0\t0", "val_1.JPEG\tn1\t0\t0", "val_2.JPEG\tn2\t0\t0"),
):
    """The published layout, two classes."""
    train = {f"t/train/{each}/images/{each}_{i}.JPEG": NOISE for each in ("n1", "n2") for i in range(2)}
    val = {f"t/val/images/{each}": each.encode() for each in images}
    return {
        "t/wnids.txt": b"n1",
        "t/train/n1/n1_boxes.txt": b"0",
        "t/test/images/test_0.JPEG": NOISE,
        "t/val/val_annotations.txt": "\n".join(notes).encode(),
        **train,
        **val,
    }


def cifar(name, monkeypatch):
    """The published layout, 6 images to a file; torchvision is told these files' md5."""
    import torchvision

    kind = getattr(torchvision.datasets, name.upper())
    key = "fine_labels" if name == "cifar100" else "labels"
    batch = pickle.dumps({"data": [[0] * 3072] * 6, key: [0] * 6})
    names = pickle.dumps({kind.meta["key"]: ["apple", "bear"]})
    md5 = {True: hashlib.md5(batch).hexdigest(), False: hashlib.md5(names).hexdigest()}
    for row in ("train_list", "test_list"):
        monkeypatch.setattr(kind, row, [[file, md5[True]] for file, _ in getattr(kind, row)])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5[False]})
    files = {f"{kind.base_folder}/{file}": batch for file, _ in kind.train_list + kind.test_list}
    return {
        f"{kind.base_folder}/readme.html": b"",
        f"{kind.base_folder}/{kind.meta['filename']}": names,
        **files,
    }


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


def refused(command, *arguments):
    """The one line of the UserError that a call has to end with."""
    with pytest.raises(UserError) as problem:
        command(*arguments)
    assert (
        "\n" not in str(problem.value)
        and str(problem.value).count("; ") == 1
        and ".part" not in str(problem.value)
    )
    return str(problem.value)


# ---- what is made --------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("top, split", [("", "val"), ("imagenette2-320/", "val"), ("./x/", "test")])
def test_class_folders(tmp_path, capsys, suffix, top, split):
    junk = {
        f"{top}train/a/._train_0.JPEG": b"x",
        f"__MACOSX/{top}train/a/train_0.JPEG": b"x",
        f"{top}noisy.csv": b"x",
        f"{top}train/": b"",
    }
    archive = pack(tmp_path / f"a{suffix}", {**folders(top, split=split), **junk})
    prepare.prepare("imagenette", tmp_path / "raw", [archive])
    made = tmp_path / "raw" / "imagenette"
    assert capsys.readouterr().out == f"imagenette: 2 classes, 4 train and 4 val images at {made}\n"
    assert tree(made) == sorted(folders(split=split)) and os.listdir(tmp_path / "raw") == ["imagenette"]
    assert (made / "train" / "b" / "train_1.JPEG").read_bytes() == b"\1" + NOISE
    assert find.find("imagenette", tmp_path / "raw", "val").classes == ("a", "b")


def test_several_archives_are_one_data_set(tmp_path, capsys):
    parts = [
        folders(train=("a",), val=()),
        folders("top/", train=("b", "c"), val=()),
        folders(train=(), val=("a", "b", "c"), split="test"),
    ]
    archives = [
        pack(tmp_path / f"{i}.{kind}", each)
        for i, (kind, each) in enumerate(zip(("tar", "zip", "tgz"), parts))
    ]
    prepare.prepare("cifar10", tmp_path, archives)
    assert "cifar10: 3 classes, 6 train and 6 val images" in capsys.readouterr().out


def test_tiny_imagenet_is_sorted_into_class_folders(tmp_path, capsys):
    prepare.prepare("tiny-imagenet", tmp_path, [pack(tmp_path / "tiny.zip", tiny_imagenet())])
    assert "tiny-imagenet: 2 classes, 4 train and 3 val images" in capsys.readouterr().out
    images = [each for each in tree(tmp_path / "tiny-imagenet") if each.endswith(".JPEG")]
    assert images[:4] == [f"train/{each}/{each}_{i}.JPEG" for each in ("n1", "n2") for i in range(2)]
    assert images[4:] == ["val/n1/val_1.JPEG", "val/n2/val_0.JPEG", "val/n2/val_2.JPEG"]
    assert (
        not list((tmp_path / "tiny-imagenet").rglob("images"))
        and not (tmp_path / "tiny-imagenet" / "test").exists()
    )
    assert (tmp_path / "tiny-imagenet/val/n2/val_0.JPEG").read_bytes() == b"val_0.JPEG"


@pytest.mark.parametrize("name, classes, train", [("cifar10", 10, 30), ("cifar100", 2, 6)])
def test_cifar_in_its_own_format(tmp_path, capsys, monkeypatch, name, classes, train):
    files = cifar(name, monkeypatch)
    archive = pack(tmp_path / "c.tar.gz", files)
    prepare.prepare(name, tmp_path / "raw", [archive])
    assert (
        capsys.readouterr().out
        == f"{name}: {classes} classes, {train} train and 6 val images at {tmp_path / 'raw' / name}\n"
    )
    assert tree(tmp_path / "raw" / name) == sorted(files)
    damaged = {
        each: data[:-2] + b"x." if each.endswith(("test", "test_batch")) else data
        for each, data in files.items()
    }
    assert "damaged" in refused(
        prepare.prepare, name, tmp_path / "other", [pack(tmp_path / "d.tar.gz", damaged)]
    )
    assert tree(tmp_path / "other") == []


def test_what_is_there_is_left_alone(tmp_path, capsys):
    archive = pack(tmp_path / "a.tar", folders())
    prepare.prepare("imagenette", tmp_path, [archive])
    prepare.prepare("imagenette", tmp_path, [pack(tmp_path / "b.tar", folders(train=("c",), val=("c",)))])
    assert "2 classes, 4 train and 4 val images" in capsys.readouterr().out.splitlines()[1]
    (tmp_path / "imagenette" / "val" / "b" / "val_0.JPEG").unlink()
    (tmp_path / "imagenette" / "val" / "b" / "val_1.JPEG").unlink()
    before = tree(tmp_path)
    message = refused(prepare.prepare, "imagenette", tmp_path, [archive])
    assert (
        "broken" in message
        and "remove it" in message
        and str(tmp_path / "imagenette") in message
        and tree(tmp_path) == before
    )
    assert "remove it" in refused(
        prepare.prepare, "cifar10", _with_folder(tmp_path / "x", "cifar10"), [archive]
    )
    assert "remove it" in refused(
        prepare.prepare, "cifar10", _with_folder(tmp_path / "y", "cifar-10-batches-py"), [archive]
    )


def _with_folder(root, name):
    (root / name).mkdir(parents=True)
    return root


# ---- what is refused -----------------------------------------------------------------------------


def nul_member(name):
    member = tar_member("train/a/x.jpg")
    member.pax_headers = {"path": name}
    return member


def zip_link(name):
    member = zipfile.ZipInfo(name)
    member.external_attr = 0o120777 << 16
    return member


UNSAFE = {
    "absolute": (".tar", tar_member("/train/a/x.jpg"), "outside"),
    "up": (".tar.gz", tar_member("train/../../x.jpg"), "outside"),
    "up, zip": (".zip", "train/../../x.jpg", "outside"),
    "up, other slash": (".zip", "train\\..\\..\\x.jpg", "outside"),
    "drive": (".zip", "C:/train/a/x.jpg", "outside"),
    "absolute, zip": (".zip", "/train/a/x.jpg", "outside"),
    "outside what is used": (".tar", tar_member("../x"), "outside"),
    "end of a name in a name": (".tar", nul_member("train/a/x\0.jpg"), "outside"),
    "symbolic link": (".tar", tar_member("train/a/x.jpg", tarfile.SYMTYPE, "/etc/passwd"), "link"),
    "link to a folder": (".tar.xz", tar_member("train/c", tarfile.SYMTYPE, "/tmp"), "link"),
    "hard link": (".tar", tar_member("train/a/x.jpg", tarfile.LNKTYPE, "train/a/train_0.JPEG"), "link"),
    "symbolic link, zip": (".zip", zip_link("train/a/x.jpg"), "link"),
    "pipe": (".tar", tar_member("train/a/x.jpg", tarfile.FIFOTYPE), "device"),
    "device": (".tar", tar_member("train/a/x.jpg", tarfile.CHRTYPE), "device"),
}


def shown(member):
    name = (
        getattr(member, "pax_headers", {}).get("path")
        or getattr(member, "name", None)
        or getattr(member, "filename", member)
    )
    return repr(name)


@pytest.mark.parametrize("suffix, odd, why", UNSAFE.values(), ids=UNSAFE)
def test_unsafe_members_are_refused_before_anything_is_written(tmp_path, suffix, odd, why):
    fine = pack(tmp_path / "fine.tar", folders(train=("z",), val=("z",)))
    archive = pack(tmp_path / f"bad{suffix}", folders(), odd)
    message = refused(prepare.prepare, "imagenette", tmp_path / "in" / "raw", [fine, archive])
    assert str(archive) in message and shown(odd) in message and why in message
    assert sorted(os.listdir(tmp_path)) == sorted(["fine.tar", archive.name])


DAMAGED = {
    "half": lambda data: data[: len(data) // 2],
    "first bytes": lambda data: data[:10],
    "one byte": (
        lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 255]) + data[len(data) // 2 + 1 :]
    ),
    "end": lambda data: data[:-30],
}


@pytest.mark.parametrize(
    "suffix, damage",
    [(s, d) for s in SUFFIXES for d in DAMAGED if s != ".tar" or d not in ("one byte", "end")],
)
def test_damaged_archives_are_refused(tmp_path, suffix, damage):
    archive = pack(tmp_path / f"a{suffix}", folders())
    archive.write_bytes(DAMAGED[damage](archive.read_bytes()))
    assert str(archive) in refused(prepare.prepare, "imagenette", tmp_path / "raw", [archive])
    assert tree(tmp_path) == [archive.name] and (
        not (tmp_path / "raw").exists() or not os.listdir(tmp_path / "raw")
    )


@pytest.mark.parametrize(
    "suffix", [each for each in SUFFIXES if each != ".tar"]
)  # tar has no checksum of the contents
def test_a_changed_byte_is_found_or_does_not_matter(tmp_path, suffix):
    wanted = {name: bytes(700) + data[:100] for name, data in folders().items()}
    archive = pack(tmp_path / f"a{suffix}", wanted)
    whole, found = archive.read_bytes(), 0
    for place in range(0, len(whole), len(whole) // 60):
        archive.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        try:
            prepare.prepare("imagenette", tmp_path / "raw", [archive])
        except UserError:
            found += 1
        else:
            assert {
                each: (tmp_path / "raw/imagenette" / each).read_bytes()
                for each in tree(tmp_path / "raw/imagenette")
            } == wanted
            shutil.rmtree(tmp_path / "raw/imagenette")
        assert not (tmp_path / "raw").exists() or os.listdir(tmp_path / "raw") == []
    assert found > 20


def test_a_tar_cut_between_two_members_is_refused(tmp_path):
    archive = pack(tmp_path / "a.tar", folders(count=3))
    with tarfile.open(archive) as tar:
        last = tar.getmembers()[-1].offset
    archive.write_bytes(archive.read_bytes()[:last])
    assert "end is missing" in refused(prepare.prepare, "imagenette", tmp_path / "raw", [archive])


MANY = {**folders("one/"), **folders("two/", train=("c",), val=("c",))}
NO_DATA_SET = {
    "no val": ([folders(val=())], "no folder val"),
    "no train": ([folders(train=())], "no folder train"),
    "a class of val only": ([folders(val=("a", "b", "c"))], "'c'"),
    "a class of train only": ([folders(train=("a", "b", "c"))], "'c'"),
    "empty class": ([{**folders(), "train/c/": b"", "val/c/": b""}], "train/c holds no images"),
    "no class folders": ([{"train/0.jpg": b"0", "val/0.jpg": b"0"}], "no class folders"),
    "two folders around": ([{f"x/y/{each}": b"0" for each in folders()}], "holds nothing of imagenette"),
    "empty archive": ([{}], "holds nothing of imagenette"),
    "two data sets": ([MANY], "one, two"),
    "the same file twice": ([folders(), folders("top/")], "already"),
    "a file and a folder of one name": (
        [{**folders(), "train/c": b"0", "train/c/": b""}],
        "'train/c' is a file",
    ),
    "a file for a folder": ([{**folders(), "train/c": b"", "train/c/0.jpg": b""}], "'train/c' is a file"),
}


@pytest.mark.parametrize("parts, text", NO_DATA_SET.values(), ids=NO_DATA_SET)
@pytest.mark.parametrize("suffix", [".tar", ".zip"])
def test_what_makes_no_whole_data_set(tmp_path, parts, text, suffix):
    archives = [pack(tmp_path / f"{i}{suffix}", each) for i, each in enumerate(parts)]
    message = refused(prepare.prepare, "imagenette", tmp_path / "raw", archives)
    assert text in message and str(archives[-1]) in message
    assert not (tmp_path / "raw").exists() or os.listdir(tmp_path / "raw") == []


NOTES = {
    "class outside": (["val_0.JPEG\t../../x"], ["val_0.JPEG"]),
    "image outside": (["../../train/n1/images/n1_0.JPEG\tn2", "val_0.JPEG\tn1"], ["val_0.JPEG"]),
    "no class": (["val_0.JPEG"], ["val_0.JPEG"]),
    "image without a line": (["val_0.JPEG\tn1"], ["val_0.JPEG", "val_1.JPEG"]),
    "line without an image": (["val_0.JPEG\tn1", "val_1.JPEG\tn2"], ["val_0.JPEG"]),
    "no images": (["val_0.JPEG\tn1"], []),
}


@pytest.mark.parametrize("notes, images", NOTES.values(), ids=NOTES)
def test_damaged_annotations_of_tiny_imagenet(tmp_path, notes, images):
    archive = pack(tmp_path / "tiny.zip", tiny_imagenet(images, notes))
    assert "val_annotations.txt" in refused(
        prepare.prepare, "tiny-imagenet", tmp_path / "in" / "raw", [archive]
    )
    assert tree(tmp_path) == ["tiny.zip"] and os.listdir(tmp_path / "in" / "raw") == []


@pytest.mark.parametrize("make", ["missing", "folder", "text", "empty", "picture.zip"])
def test_what_is_no_archive(tmp_path, make):
    path = tmp_path / make
    if make == "folder":
        path.mkdir()
    elif make != "missing":
        path.write_bytes(b"" if make == "empty" else b"a text of no use " * 99)
    assert str(path) in refused(prepare.prepare, "imagenette", tmp_path / "raw", [path])
    assert not (tmp_path / "raw").exists()


def test_no_room_and_no_folder(tmp_path, monkeypatch):
    archive = pack(tmp_path / "a.tar", folders())
    assert "cannot write" in refused(prepare.prepare, "imagenette", archive / "raw", [archive])

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(prepare.os, "rename", full)
    assert "No space left" in refused(prepare.prepare, "imagenette", tmp_path / "raw", [archive])
    assert os.listdir(tmp_path / "raw") == []


def test_what_a_killed_command_left_goes_and_what_another_makes_stays(tmp_path):
    left, made = (tmp_path / f".imagenette.{each}.part" for each in ("left", "made"))
    for folder in (left, made):
        (folder / "imagenette/train/a").mkdir(parents=True)
    held = os.open(made / lock.FILE, os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    prepare.prepare("imagenette", tmp_path, [pack(tmp_path / "a.tar", folders())])
    assert not left.exists() and (made / "imagenette/train/a").is_dir()
    os.close(held)


def test_of_two_at_once_the_second_says_that_the_first_has_made_it(tmp_path, monkeypatch):
    archive, check = pack(tmp_path / "a.tar", folders()), prepare.check

    def meanwhile(*named):
        (tmp_path / "raw/imagenette").mkdir()
        return check(*named)

    monkeypatch.setattr(prepare, "check", meanwhile)
    said = refused(prepare.prepare, "imagenette", tmp_path / "raw", [archive])
    assert "another command has made" in said and os.listdir(tmp_path / "raw") == ["imagenette"]


def test_a_second_stop_does_not_end_the_clean_up(tmp_path, monkeypatch):
    archive, rmtree = pack(tmp_path / "a.tar", folders()), shutil.rmtree

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "check", stopped)
    monkeypatch.setattr(
        prepare.shutil, "rmtree", lambda *a, **n: os.kill(os.getpid(), signal.SIGINT) or rmtree(*a, **n)
    )
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        prepare.prepare("imagenette", tmp_path / "raw", [archive])
    assert os.listdir(tmp_path / "raw") == [] and signal.getsignal(signal.SIGINT) is before


# ---- downloads -----------------------------------------------------------------------------------


def serve(monkeypatch, contents, suffix):
    """torchvision's download of any address gives an archive of `contents`; the list that is returned
    gets (address, md5).
    """
    asked = []

    def download_url(url, root, filename=None, md5=None):
        asked.append((url, md5))
        Path(root).mkdir(parents=True, exist_ok=True)
        shutil.move(
            pack(Path(root) / f"x{suffix}", contents), Path(root) / (filename or os.path.basename(url))
        )

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download_url)
    return asked


@pytest.mark.parametrize("name", prepare.NAMES)
def test_download(tmp_path, capsys, monkeypatch, name):
    suffix = ".zip" if name == "tiny-imagenet" else ".tar.gz"
    contents = (
        cifar(name, monkeypatch)
        if "cifar" in name
        else (
            tiny_imagenet()
            if "tiny" in name
            else folders("imagenette2-160/", *[("n01440764", "n02102040")] * 2)
        )
    )
    asked = serve(monkeypatch, contents, suffix)
    prepare.prepare(name, tmp_path, size="160px")
    assert "train and" in capsys.readouterr().out and os.listdir(tmp_path) == [name]
    assert not [each for each in tree(tmp_path) if each.endswith((".gz", ".tgz", ".zip"))]
    find.check_pair(*(find.find(name, tmp_path, split) for split in ("train", "val")))
    ((url, md5),) = asked
    assert (
        len(md5) == 32
        and {"imagenette": "imagenette2-160.tgz", "tiny-imagenet": "tiny-imagenet-200.zip"}.get(
            name, "python.tar.gz"
        )
        in url
    )


@pytest.mark.parametrize("name", prepare.NAMES)
@pytest.mark.parametrize(
    "problem",
    [
        OSError("no route"),
        RuntimeError("File not found or\ncorrupted."),
        http.client.IncompleteRead(b"x"),
        EOFError(),
    ],
)
def test_a_failed_download_says_what_else_to_do(tmp_path, monkeypatch, name, problem):
    def download_url(url, root, *_, **__):
        Path(root).mkdir(parents=True, exist_ok=True)
        (Path(root) / "half").write_bytes(b"x")
        raise problem

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download_url)
    message = refused(prepare.prepare, name, tmp_path)
    assert "--archive" in message and name in message and os.listdir(tmp_path) == []


# ---- subset --------------------------------------------------------------------------------------


@pytest.fixture
def big(tmp_path):
    prepare.prepare(
        "imagenette",
        tmp_path / "big",
        [pack(tmp_path / "a.tar", folders(train="abcd", val="abcd", split="test"))],
    )
    shutil.rmtree(tmp_path / "big/imagenette/train/d")
    (tmp_path / "big/imagenette/train/d").mkdir()
    shutil.rmtree(tmp_path / "big/imagenette/test/c")
    return tmp_path / "big/imagenette"


def test_subset_links_to_classes(big, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    prepare.subset("cats", "big/imagenette", ["b", "a"], "raw")
    assert capsys.readouterr().out == "cats: 2 classes, 4 train and 4 val images at raw/cats\n"
    assert os.readlink("raw/cats/train/a") == str(big / "train" / "a") and os.readlink(
        "raw/cats/val/b"
    ) == str(big / "test" / "b")
    assert find.find("cats", "raw", "val").classes == ("a", "b") and os.listdir("raw") == ["cats"]


SUBSETS = {
    "unknown class": ("cats", ["a", "x"], "'x'"),
    "unknown in val": ("cats", ["a", "c"], "test has no class 'c'"),
    "way out": ("cats", ["../train/a"], "no class"),
    "empty class name": ("cats", ["a", ""], "no class ''"),
    "empty class": ("cats", ["a", "d"], "train/d holds no images"),
    "twice": ("cats", ["a", "b", "a"], "more than once"),
    "separator": ("x/cats", ["a"], "no name"),
    "up": ("..", ["a"], "no name"),
    "two words": ("two words", ["a"], "no name"),
    "hidden": ("cats", ["a", ".b"], "names .b, a hidden folder"),
    "nothing": ("", ["a"], "no name"),
    **{
        name: (name, ["a"], "another data set")
        for name in ("imagenet", "cifar10", "cifar100", "tiny-imagenet", "digits", "imagenette")
    },
    "there": ("there", ["a"], "there already"),
}


@pytest.mark.parametrize("name, classes, text", SUBSETS.values(), ids=SUBSETS)
def test_subset_refuses(big, tmp_path, name, classes, text):
    (tmp_path / "raw" / "there").mkdir(parents=True)
    assert text in refused(prepare.subset, name, big, classes, tmp_path / "raw")
    assert os.listdir(tmp_path / "raw") == ["there"] and os.listdir(tmp_path / "raw" / "there") == []


def test_subset_of_no_data_set(tmp_path):
    assert "no folder train" in refused(prepare.subset, "cats", tmp_path / "nowhere", ["a"], tmp_path)
    assert os.listdir(tmp_path) == []


# ---- command line --------------------------------------------------------------------------------


def command(*arguments, start="-m data.prepare", **options):
    words = [sys.executable, *start.split(), *map(str, arguments)]
    return subprocess.Popen(
        words, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


WRONG = {
    "no name": [],
    "unknown name": ["mnist"],
    "unknown flag": ["cifar10", "--size", "full"],
    "unknown size": ["imagenette", "--size", "224px"],
    "size and archive": ["imagenette", "--size", "320px", "--archive", "x.tgz"],
    "archive of nothing": ["imagenette", "--archive"],
    "abbreviation": ["imagenette", "--arch", "x.tgz"],
    "subset without classes": ["subset", "cats", "--from", "."],
    "subset without source": ["subset", "cats", "--classes", "a"],
    "missing archive": ["imagenette", "--archive", "no-such.tgz"],
}


@pytest.mark.parametrize("arguments", WRONG.values(), ids=WRONG)
def test_wrong_commands_end_with_one_line(arguments, capsys, tmp_path):
    with pytest.raises(SystemExit) as end:
        prepare.main([*arguments, "--root", str(tmp_path / "raw")] if arguments else [])
    out, err = capsys.readouterr()
    assert (
        end.value.code == 2
        and err.startswith("error: ")
        and err.count("\n") == 1
        and out == ""
        and ("no archive" in err) == ("no-such.tgz" in arguments)
    )
    assert not (tmp_path / "raw").exists()


def test_command(tmp_path):
    archives = [pack(tmp_path / "1.tar.xz", folders(val=())), pack(tmp_path / "2.zip", folders(train=()))]
    first = command("imagenette", "--archive", *archives, "--root", tmp_path / "raw")
    assert (
        first.communicate(timeout=60)
        == (f"imagenette: 2 classes, 4 train and 4 val images at {tmp_path}/raw/imagenette\n", "")
        and first.returncode == 0
    )
    second = command(
        "subset", "some", "--from", tmp_path / "raw/imagenette", "--classes", "b", "-r", tmp_path / "raw"
    )
    assert (
        second.communicate(timeout=60)
        == (f"some: 1 classes, 2 train and 2 val images at {tmp_path}/raw/some\n", "")
        and second.returncode == 0
    )


def test_nothing_heavy_is_imported_for_help():
    code = (
        "import sys; import data.prepare; sys.exit(bool({'torch', 'torchvision', 'numpy'} &"
        " set(sys.modules)))"
    )
    process = command(code, start="-c")
    process.communicate(timeout=60)
    assert process.returncode == 0


def test_a_signal_while_a_file_of_an_archive_is_closed_is_not_lost(tmp_path, monkeypatch):
    def close(file):
        file.closed = True
        sys.exit(129)  # as the handler of a signal

    packed = pack(tmp_path / "a.tar", {f"train/a/{i}.jpg": b"" for i in range(3)})
    monkeypatch.setattr(tarfile._FileInFile, "close", close, raising=False)
    with tarfile.open(packed) as archive, pytest.raises(SystemExit):
        chosen = [(member, "file", Path(member.name)) for member in archive if member.isfile()]
        archives.extract([(packed, archive, chosen)], tmp_path / "raw")


@pytest.mark.parametrize("sent, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_stopped_command_leaves_nothing(tmp_path, sent, status):
    archive = pack(tmp_path / "a.tar", {f"train/a/{i}.jpg": b"" for i in range(5000)})
    # Each file waits a little, so that the signal comes while it unpacks.
    slow = (
        "import time, tarfile, runpy; read = tarfile.TarFile.extractfile; tarfile.TarFile.extractfile ="
        " lambda *a: time.sleep(0.01) or read(*a); "
    )
    # nohup, by which the tests may have been started, has its children ignore one of them
    slow += "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL); "
    process = command(
        slow + "runpy.run_module('data.prepare', run_name='__main__')",
        "imagenette",
        "--archive",
        archive,
        "--root",
        tmp_path / "raw",
        start="-c",
    )
    until = time.monotonic() + 30
    while not list((tmp_path / "raw").glob(".*.part/imagenette/train/a/5.jpg")):
        assert process.poll() is None and time.monotonic() < until, process.communicate()
        time.sleep(0.01)
    process.send_signal(sent)
    _, err = process.communicate(timeout=30)
    assert process.returncode == status and "Traceback" not in err and os.listdir(tmp_path / "raw") == []
    assert sent != signal.SIGINT or err.endswith("interrupted; nothing was made\n")
