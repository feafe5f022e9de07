"""Ways to spoil a file, for tests/test_bad_files.py; they work in the working folder, which is a copy of
the toy chain.
"""

import pickle
import struct
import zipfile
import zlib
from pathlib import Path

import torch
from PIL import Image, PngImagePlugin

from guard.networks import checkpoint, models
from guard.run import storage

TEACHER = Path("teacher/checkpoint.pt")


def cut(path, share=0.5):
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def flip(path, place=0.5, part=""):
    """Flips a bit of a file; of one of torch.save, in the largest part of that name, since between its
    parts there are bytes without meaning.
    """
    made = bytearray(path.read_bytes())
    start, size = 0, len(made)
    if path.suffix == ".pt":
        with zipfile.ZipFile(path) as archive:
            data = max((archive.read(name) for name in archive.namelist() if part in name), key=len)
        start, size = made.find(data), len(data)
    made[start + int(place * size)] ^= 1
    path.write_bytes(made)


class Malicious:
    def __reduce__(self):
        return (open, ("pwned", "w"))


def pickled(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(Malicious()))


def edit(path=TEACHER, without=None, **changes):
    """A checkpoint, or any file of torch.save, with other entries."""
    made = {**torch.load(path, weights_only=True), **changes}
    made.pop(without, None)
    torch.save(made, path)


def remake(**changes):
    """The teacher with other fields and the fingerprint of these: what a stranger could send."""
    teacher = checkpoint.load(TEACHER)
    for name, value in changes.items():
        setattr(teacher, name, value)
    teacher.save(TEACHER)


def remake_state(name, tensor):
    remake(state={**checkpoint.load(TEACHER).state, name: tensor})


def reseal(path, **changes):
    storage.write_sealed({**storage.read_sealed(path, "file"), **changes}, path)


def without_batch_norm():
    network = models.build(
        "vit", classes=2, image_size=16, stem="standard", mean=[0.5] * 3, std=[0.5] * 3
    ).network
    remake(model="vit", state=checkpoint.cpu_state(network))


def png(path, width, height):
    """A PNG file of a few bytes, whatever size it claims to have."""
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(100))),
        (b"IEND", b""),
    )
    blocks = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(blocks))


def text_bomb(path):
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "0" * (2 * PngImagePlugin.MAX_TEXT_CHUNK), zip=True)
    Image.new("RGB", (20, 20)).save(path, pnginfo=text)


def instead(path, make, *arguments):
    path.unlink()
    make(*arguments)


def elsewhere(size=(16, 16), mode="RGB", classes=("cat", "dog")):
    """Images distilled by somebody else, without a manifest, in `other`."""
    for name in classes:
        Path("other", name).mkdir(parents=True)
        Image.new(mode, size).save(Path("other", name, "0.png"))


def hostile_cifar(name, folder, file):
    pickled(Path(name, folder, "meta" if name == "cifar100" else "batches.meta"))
    pickled(Path(name, folder, file))


def nested(path):
    path.write_text("[" * 100000)
