"""The experiment's record: log.json, one entry per stage, valid JSON at every instant."""

import platform
import shlex
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import numpy
import torch

from guard.errors import UserError
from guard.run.devices import peak_memory
from guard.run.processes import world_size
from guard.run.storage import check_writable, read_sealed, write_sealed

REMEDY = "remove it, and make again with --force what it told of"


def read(log):
    """All entries of a log.json; none where there is no file yet."""
    entries = read_sealed(log, "record", REMEDY) if Path(log).exists() else {}
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
    change(log, {stage: record})


def change(log, entries):
    """Sets several entries at once, removes those that are None, leaves the others."""
    changed = {**read(log), **entries}
    write_sealed({name: entry for name, entry in changed.items() if entry is not None}, log)


def _commit(root):
    """The commit of the repository that `root` is, '-dirty' where anything else than the results, which runs
    themselves write, differs from it; None without git, or where root only lies in another's repository.
    """

    def git(*words):
        return subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, check=False)

    try:
        top = git("rev-parse", "--show-toplevel").stdout.strip()
        if not top or Path(top).resolve() != Path(root).resolve():
            return None
        commit = git("rev-parse", "--verify", "--quiet", "--short=12", "HEAD").stdout.strip()
        changed = commit and git("diff", "--quiet", "HEAD", "--", ".", ":(exclude)results").returncode
    except OSError:
        return None
    return f"{commit}-dirty" if changed else commit or None


def _module():
    """What python was told to run with -m."""
    started = getattr(sys.modules["__main__"], "__spec__", None)
    return started.name.removesuffix(".__main__") if started else Path(sys.argv[0]).stem


def _version_of(package):
    """Its version without importing it, which takes long; None where its installation does not say."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def environment(device):
    """Versions, commit, device, memory and command, for a record."""
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    )
    return {
        "command": shlex.join(["python", "-m", _module(), *sys.argv[1:]]),
        "commit": _commit(Path(__file__).resolve().parents[2]),
        "device": name,
        "processes": world_size(),
        "peak bytes": peak_memory(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": _version_of("torchvision"),
        "numpy": numpy.__version__,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
