"""One process at a time in a folder.

The lock is the operating system's, on the file .lock in the folder, so it ends with the process however that
ends, also on another machine that shares the folder. What stands in the file only says whose it is. Only the
standard library.

    python -m guard.run.lock FOLDER FILE_NUMBER PROCESS

locks for run.sh a file that the shell has opened, for as long as the shell lives.
"""

import contextlib
import enum
import errno
import fcntl
import json
import os
import shlex
import socket
import sys
import threading
import time
from pathlib import Path

from guard import ending, torchrun
from guard.errors import UserError

FILE = ".lock"
HELD = (
    "GUARD_LOCKED"  # the variable that names the folder which whoever started this process has locked for it
)
PAUSE = 0.2  # seconds between two looks of a process that waits
MOST_TRIES = 100  # to open the file in a folder that others remove at the same moment
_open = {}  # number of a file that this process holds locked -> (the folder that it locks, the thread)


class Answer(enum.Enum):
    """How an attempt to lock an open file ended."""

    LOCKED = "it is ours now"
    IN_USE = "another process holds it"
    GONE = "it lies in its folder no longer, since its holder has just left: open the new one"


@contextlib.contextmanager
def held(*folders, wait=False, each_machine=False):
    """Keeps other processes out of `folders` while inside.

    The folders are made where they are not there, and cleared of half-written files that a killed process
    left. Where another process is in one of them, this waits with `wait`, after a note on stderr, until it
    has left; else it raises UserError that names it. Of several processes under torchrun the first one locks
    for all; with each_machine each one that calls locks.
    """
    with contextlib.ExitStack() as stack:
        if each_machine or torchrun.is_first():
            each_once = {Path(folder).resolve(): Path(folder) for folder in folders}
            for folder in each_once.values():
                stack.enter_context(_one(folder, wait))
        yield


@contextlib.contextmanager
def _one(folder, wait):
    """`held` of one folder. A thread that holds it may enter it again."""
    mine = folder.resolve(), threading.get_ident()
    if mine in _open.values():
        yield
        return
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    locked_for_us = os.environ.get(HELD) == str(folder.resolve())
    if locked_for_us:
        _sign(folder / FILE, os.getpid())
        clear(folder)
        yield
        return
    file = _take(folder, wait)
    _open[file] = mine
    try:
        clear(folder)
        yield
    finally:
        with contextlib.suppress(OSError):
            # While it is still locked: whoever waits for it sees that it is gone.
            (folder / FILE).unlink()
        _open.pop(file, None)
        os.close(file)
        with contextlib.suppress(OSError):
            for each in missing:
                each.rmdir()  # which succeeds where nothing was made


def _take(folder, wait):
    """The number of the open, locked file of a folder. Raises UserError as `held` does."""
    told = False
    while True:
        file = _opened(folder)
        answer = _lock(file, folder / FILE)
        if answer is Answer.LOCKED:
            _sign(folder / FILE, os.getpid())
            return file
        os.close(file)
        if answer is Answer.GONE:
            continue
        in_use = f"{folder} is in use by {_holder(folder / FILE)}"
        if not wait:
            raise UserError(f"{in_use}; wait for it to end, or choose another folder (another -x in run.sh)")
        if not told:
            print(f"note: {in_use}; waiting for it to end", file=sys.stderr, flush=True)
            told = True
        time.sleep(PAUSE)


def _opened(folder):
    """The number of the file of a folder, opened; both are made where they are not there."""
    tries_left = MOST_TRIES
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as problem:
            tries_left -= 1
            # Whoever has just left may have taken the empty folder along.
            if isinstance(problem, FileNotFoundError) and tries_left:
                continue
            raise UserError(
                f"cannot write {folder} ({problem.strerror}); choose another folder, by --output or --record"
            ) from None


def _lock(file, path):
    """Tries to lock the open file, which lay at `path` when it was opened; an Answer."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        if problem.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return Answer.IN_USE
        return Answer.LOCKED  # by nobody else either: the file system has no locks
    try:
        is_still_there = os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return Answer.GONE
    return Answer.LOCKED if is_still_there else Answer.GONE


def _sign(path, process):
    """Writes into the lock's file whose it is: the number of a process."""
    command = shlex.join(sys.orig_argv)
    holder = {"host": socket.gethostname(), "process": process, "command": command}
    with contextlib.suppress(OSError):
        path.write_text(json.dumps(holder))


def _holder(path):
    """In words, whose lock it is."""
    try:
        found = json.loads(path.read_text())
        return f"process {found['process']} on {found['host']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def clear(folder):
    """Removes the half-written files that a killed process left in `folder`.

    Nobody else may be writing to it.
    """
    for stale in folder.glob(".*.part"):
        with contextlib.suppress(OSError):
            stale.unlink()


def tidy(folder):
    """Removes the lock's file that a killed process left in `folder`; one that is held stays."""
    if (folder / FILE).exists():
        with contextlib.suppress(UserError), held(folder):
            pass


def forget():
    """Called in a forked worker, which has its parent's open files.

    A lock is to end with its process, not with the last of its workers.
    """
    for file in _open:
        os.close(file)
    _open.clear()


def main(argv):
    """The command: locks once, or ends with status 2 and one line."""
    folder, file, process = Path(argv[0]), int(argv[1]), int(argv[2])

    def lock():
        if _lock(file, folder / FILE) is not Answer.LOCKED:
            raise UserError(
                f"{folder} is in use by {_holder(folder / FILE)}; wait for it to end, or choose another"
                " experiment id (-x)"
            )
        _sign(folder / FILE, process)

    ending.run(lock)


if __name__ == "__main__":
    main(sys.argv[1:])
