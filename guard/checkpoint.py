"""Checkpoints: atomic save, safe load, fingerprints.

A checkpoint is a dict of plain values and tensors, so that torch.load(weights_only=True) reads it and nothing in it can run.
"""

import contextlib
import hashlib
import json
import os
import pickle
import zipfile
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch

from guard import models
from guard.device import rank
from guard.errors import UserError

FORMAT = "guard-checkpoint-1"


@contextlib.contextmanager
def replacing(path):
    """Yields a path beside `path` to write to; on leaving without an error the file is renamed into place, else removed.

    A reader never sees a half-written file. Raises UserError when the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as problem:
        raise UserError(f"cannot write {path} ({problem.strerror or problem}); make room or choose another output folder") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def fingerprint(state, *more):
    """sha256 over names, types, shapes and bytes of a dict of tensors, then over `more` (JSON values); the same on every device."""
    digest = hashlib.sha256()
    for name, tensor in state.items():
        tensor = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy() if tensor.numel() else b"")
    digest.update(json.dumps(more, sort_keys=True).encode())
    return digest.hexdigest()


def file_fingerprint(path):
    """sha256 of a file's bytes."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@dataclass
class Checkpoint:
    """A trained network and all that is needed to use it.

    role: 'teacher' or 'student'. model, stem, image_size, mean, std: what models.build takes. classes: names in label order. state:
    the network's state_dict, without the normalization. settings: the stage's settings. results: what was measured, such as accuracy.
    """

    role: str
    dataset: str
    model: str
    stem: str
    image_size: int
    mean: list
    std: list
    classes: list
    seed: int
    settings: dict
    state: dict
    results: dict = field(default_factory=dict)

    @property
    def fingerprint(self):
        """Of the network and how it sees images; what was measured or noted beside it does not count."""
        return fingerprint(self.state, self.model, self.stem, self.image_size, self.mean, self.std, self.classes)

    def build(self, device="cpu"):
        """The PixelModel in eval mode on `device`."""
        model = models.build(self.model, classes=len(self.classes), image_size=self.image_size, stem=self.stem, mean=self.mean, std=self.std)
        model.network.load_state_dict(self.state)
        return model.to(device).eval()

    def save(self, path):
        save({"format": FORMAT, "fingerprint": self.fingerprint, **asdict(self)}, path)


def cpu_state(module):
    """A module's state_dict on the CPU, as contiguous tensors of their own."""
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in module.state_dict().items()}


def save(contents, path):
    """Writes plain values and tensors to `path`, atomically."""
    with replacing(path) as temporary:
        try:
            with open(temporary, "wb") as file:  # given a name, torch would write it into the file
                torch.save(contents, file)
        except RuntimeError as problem:  # torch's own writer reports a full disk this way
            raise OSError(str(problem)) from None


def read(path):
    """What torch.save wrote, plain values and tensors only. Raises UserError for a missing, truncated or unsafe file."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no checkpoint at {path}; train one first, or name another file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as problem:
        raise UserError(f"{path} holds more than plain tensors and values, or is damaged; it was not loaded ({_first_line(problem)})") from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as problem:
        raise UserError(f"{path} is truncated or no checkpoint ({_first_line(problem)}); make it again") from None


def _first_line(problem):
    return (str(problem).splitlines() or [type(problem).__name__])[0][:80]


def load(path, role=None):
    """A Checkpoint of ours. Raises UserError for another format or role, a missing field, or contents that do not match the
    fingerprint stored with them."""
    contents = read(path)
    if not isinstance(contents, dict) or contents.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of this project; a plain state_dict becomes one by python -m pretrain --weights FILE")
    missing = [f.name for f in fields(Checkpoint) if f.name not in contents]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; make it again")
    checkpoint = Checkpoint(**{f.name: contents[f.name] for f in fields(Checkpoint)})
    if checkpoint.fingerprint != contents.get("fingerprint"):
        raise UserError(f"{path} is damaged: its weights do not match their fingerprint; make it again")
    if role and checkpoint.role != role:
        raise UserError(f"{path} holds a {checkpoint.role}, not a {role}; name a {role}'s checkpoint")
    return checkpoint


def finished(path, role, key, force):
    """Whether a network made with the settings `key` is at `path` already; says so. Raises UserError for one with other settings,
    unless `force`."""
    if force or not path.exists():
        return False
    found = load(path, role).settings
    difference = [name for name in sorted({*key, *found}) if key.get(name) != found.get(name)]
    if difference:
        raise UserError(f"{path} is a {role} with another {', '.join(difference)}; choose another id (-x, -y in run.sh) or --force (-f) to replace it")
    if rank() == 0:
        print(f"the {role} {path} is finished; --force (-f in run.sh) trains it again")
    return True
