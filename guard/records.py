"""The experiment's record: log.json, one entry per stage, valid JSON at every instant."""

import json
import platform
import subprocess
import sys
import time
from pathlib import Path

import numpy
import torch
import torchvision

from guard.checkpoint import replacing
from guard.device import peak_memory, world_size
from guard.errors import UserError


def read_json(path, what):
    """A JSON object from a file. Raises UserError that names the file and `what` it should have been."""
    try:
        contents = json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise UserError(f"no {what} at {path}; run the stage that makes it first") from None
    except (OSError, ValueError) as problem:
        raise UserError(f"{path} is no readable {what} ({problem}); remove it and run the stage that makes it again") from None
    if not isinstance(contents, dict):
        raise UserError(f"{path} is no {what}; remove it and run the stage that makes it again")
    return contents


def write_json(contents, path):
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(contents, indent=1) + "\n")


def read(log):
    """All entries of a log.json; none where there is no file yet."""
    return read_json(log, "record") if Path(log).exists() else {}


def update(log, stage, record):
    """Sets the entry of one stage, leaves the others."""
    write_json({**read(log), stage: record}, log)


def _commit():
    """The repository's commit, '-dirty' with changes; None without git."""
    command = ["git", "-C", Path(__file__).resolve().parent.parent, "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    except OSError:
        return None


def _module():
    """What python was told to run with -m."""
    started = getattr(sys.modules["__main__"], "__spec__", None)
    return started.name.removesuffix(".__main__") if started else Path(sys.argv[0]).stem


def environment(device):
    """Versions, commit, device, memory and command, for a record."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    return {
        "command": " ".join(["python -m", _module(), *sys.argv[1:]]),
        "commit": _commit(),
        "device": name,
        "processes": world_size(),
        "peak bytes": peak_memory(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": numpy.__version__,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
