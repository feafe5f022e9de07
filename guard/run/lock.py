"""One process at a time in a folder.

The lock is the operating system's, on the file .lock in the folder, so it ends with the process however
that ends, also on another machine that shares the folder; what stands in the file only says whose it is.
Only the standard library.

    python -m guard.run.lock FOLDER FILE_NUMBER PROCESS

is run.sh's: it locks a file that the shell has opened, for as long as the shell lives.
"""

import contextlib
import errno
import fcntl
import json
import os
import shlex
import socket
import sys
import time
from pathlib import Path

from guard import ending
from guard.errors import UserError

FILE = ".lock"
HELD = "GUARD_LOCKED"  # the folder that whoever started this process has locked for it
_open = set()


@contextlib.contextmanager
def held(*folders, wait=False, each_machine=False):
    """Keeps other processes out of `folders`, which are made where they are not there, and clears them
    of half-written files that a killed process left.

    Where another process is in one of them: with `wait` stays, after a note on stderr, until it has
    left; else raises UserError that names it. Of several processes under torchrun the first one locks
    for all, or, `each_machine`, the one that calls.
    """
    with contextlib.ExitStack() as stack:
        if each_machine or os.environ.get("RANK", "0") == "0":
            for folder in {Path(each).resolve(): Path(each) for each in folders}.values():
                stack.enter_context(_one(folder, wait))
        yield


@contextlib.contextmanager
def _one(folder, wait):
    existed = folder.exists()
    if os.environ.get(HELD) == str(folder.resolve()):
        _sign(folder / FILE, os.getpid())
        clear(folder)
        yield
        return
    file = _take(folder, wait)
    _open.add(file)
    try:
        clear(folder)
        yield
    finally:
        with contextlib.suppress(OSError):
            (
                folder / FILE
            ).unlink()  # while it is still locked: whoever waits for it sees that it is another file by now
        _open.discard(file)
        os.close(file)
        if not existed:
            with contextlib.suppress(OSError):
                folder.rmdir()  # which succeeds where nothing was made


def _take(folder, wait):
    """The number of the open, locked file."""
    told, tries = False, 100
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as problem:
            if isinstance(problem, FileNotFoundError) and folder.parent.is_dir() and (tries := tries - 1):
                continue  # whoever has just left took the empty folder along
            raise UserError(
                f"cannot write {folder} ({problem.strerror}); choose another output folder"
            ) from None
        if locked := _locked(file, folder / FILE):
            _sign(folder / FILE, os.getpid())
            return file
        os.close(file)
        if locked is None:
            continue
        if not wait:
            raise UserError(
                f"{folder} is in use by {_holder(folder / FILE)}; wait for it to end, or choose another"
                " folder (another -x in run.sh)"
            )
        if not told:
            print(
                f"note: {folder} is in use by {_holder(folder / FILE)}; waiting for it to end",
                file=sys.stderr,
                flush=True,
            )
            told = True
        time.sleep(0.2)


def _locked(file, path):
    """Whether the open file could be locked; None where it is not the one at `path` any more, since its
    holder has just left.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        return problem.errno not in (errno.EWOULDBLOCK, errno.EACCES)  # else a file system without locks
    try:
        return os.path.samestat(os.fstat(file), os.stat(path)) or None
    except FileNotFoundError:
        return None


def _sign(path, process):
    """Writes whose lock it is."""
    with contextlib.suppress(OSError):
        path.write_text(
            json.dumps(
                {"host": socket.gethostname(), "process": process, "command": shlex.join(sys.orig_argv)}
            )
        )


def _holder(path):
    try:
        found = json.loads(path.read_text())
        return f"process {found['process']} on {found['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def clear(folder):
    """Removes the half-written files that a killed process left in `folder`, which nobody else may be
    writing to.
    """
    for stale in folder.glob(".*.part"):
        with contextlib.suppress(OSError):
            stale.unlink()


def tidy(folder):
    """Removes the lock's file that a killed process left in `folder`, where there is one that nobody
    holds.
    """
    if (folder / FILE).exists():
        with contextlib.suppress(UserError), held(folder):
            pass


def forget():
    """Called in a forked worker: a lock is to end with its process, not with the last of its workers."""
    for file in _open:
        os.close(file)
    _open.clear()


def main(argv):
    folder, file, process = Path(argv[0]), int(argv[1]), int(argv[2])

    def lock():
        if not _locked(file, folder / FILE):
            raise UserError(
                f"{folder} is in use by {_holder(folder / FILE)}; wait for it to end, or choose another"
                " experiment id (-x)"
            )
        _sign(folder / FILE, process)

    ending.run(lock)


if __name__ == "__main__":
    main(sys.argv[1:])
