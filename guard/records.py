"""The experiment's record: log.json, one entry per stage, valid JSON at every instant."""

import contextlib
import hashlib
import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy
import torch
import torchvision

from guard.checkpoint import check_writable, replacing
from guard.device import peak_memory, world_size
from guard.errors import UserError, first_line

SEAL = "fingerprint"  # key of a sealed object's own fingerprint
REMEDY = "remove it and run the stage that makes it again"
FORCE = (  # for a manifest, without which nobody knows what its files are
    "make all that lies beside it again with --force (-f in run.sh)"
)


def read_json(path, what, remedy=REMEDY):
    """A JSON object. Raises UserError that names the file and `what` it should have been, and ends with
    `remedy`.
    """
    try:
        contents = json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise UserError(f"no {what} at {path}; run the stage that makes it first") from None
    except (OSError, ValueError, RecursionError) as problem:
        raise UserError(f"{path} is no readable {what} ({first_line(problem)}); {remedy}") from None
    if not isinstance(contents, dict):
        raise UserError(f"{path} is no {what}; {remedy}")
    return contents


def read_sealed(path, what, remedy=REMEDY):
    """A JSON object that `write_sealed` wrote. Raises UserError as `read_json`, and for an object that
    is not as it was written.
    """
    contents = read_json(path, what, remedy)
    if contents.pop(SEAL, None) != _fingerprint(contents):
        raise UserError(f"{path} is damaged: its contents do not match their fingerprint; {remedy}")
    return contents


@contextlib.contextmanager
def sealing(contents, path):
    """Writes a JSON object and its fingerprint beside `path`; on leaving without an error the file is
    renamed into place.

    What is done inside is only done when there was room for the file. Raises ValueError for an object
    with a key of the seal's name.
    """
    if SEAL in contents:
        raise ValueError(f"'{SEAL}' is the name of the seal")
    with replacing(path) as temporary:
        temporary.write_text(_text({**contents, SEAL: _fingerprint(contents)}))
        yield


def write_sealed(contents, path):
    with sealing(contents, path):
        pass


def write_json(contents, path):
    """A JSON object as others may write and read it, without a fingerprint."""
    with replacing(path) as temporary:
        temporary.write_text(_text(contents))


def _text(contents):
    return json.dumps(contents, indent=1) + "\n"


def _fingerprint(contents):
    """sha256 of an object as it will be read; sorted, so that the order of the keys does not count."""
    read_again = json.loads(json.dumps(contents))
    return hashlib.sha256(json.dumps(read_again, sort_keys=True).encode()).hexdigest()


# ---- the record ----------------------------------------------------------------------------------


def read(log):
    """All entries of a log.json; none where there is no file yet."""
    entries = read_sealed(log, "record") if Path(log).exists() else {}
    if not all(isinstance(entry, dict) for entry in entries.values()):
        raise UserError(f"{log} is no record; {REMEDY}")
    return entries


def begin(log, result):
    """Before work whose result is a file and an entry of `log`: raises UserError where these could not
    be written afterwards.
    """
    read(log)
    for path in (log, result):
        check_writable(path)


def update(log, stage, record):
    """Sets the entry of one stage, leaves the others."""
    write_sealed({**read(log), stage: record}, log)


# ---- what an entry says of where it was made -----------------------------------------------------


def _commit(root):
    """The repository's commit, '-dirty' where anything else than the results, which runs themselves
    write, differs from it; None without git.
    """

    def git(*words):
        return subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, check=False)

    try:
        commit = git("rev-parse", "--verify", "--quiet", "--short=12", "HEAD").stdout.strip()
        changed = commit and git("diff", "--quiet", "HEAD", "--", ".", ":(exclude)results").returncode
    except OSError:
        return None
    return f"{commit}-dirty" if changed else commit or None


def _module():
    """What python was told to run with -m."""
    started = getattr(sys.modules["__main__"], "__spec__", None)
    return started.name.removesuffix(".__main__") if started else Path(sys.argv[0]).stem


def environment(device):
    """Versions, commit, device, memory and command, for a record."""
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    )
    return {
        "command": " ".join(["python -m", _module(), *sys.argv[1:]]),
        "commit": _commit(Path(__file__).resolve().parent.parent),
        "device": name,
        "processes": world_size(),
        "peak bytes": peak_memory(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": numpy.__version__,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
