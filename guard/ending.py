"""How every command ends."""

import atexit
import contextlib
import ctypes
import io
import json
import os
import select
import signal
import sys
import time

from guard.errors import WORKER, UserError, out_of_memory, printable, single_image, worker_ended

ONE_IMAGE = (
    "a mini-batch, or a process's share of one, is a single image, of which this network's batch norm has no"
    " statistics; choose another --batch-size, or --sync-batch-norm with several processes"
)
NEEDED = ("torch", "torchvision", "numpy", "tqdm", "PIL", "matplotlib")  # packages of requirements.txt
PR_SET_PDEATHSIG = 1  # name of a setting of Linux's prctl
ACTIVATE = "take run.sh's: source .venv/bin/activate; or: pip install -r requirements.txt"
INTERRUPTED = "interrupted; give the same command again, without --force (-f in run.sh), to go on"


def run(command, *arguments, **named):
    """Calls a stage and ends the process: 0, 2 with one line for a UserError, what the system refuses, a full
    GPU, a package that is not there or the end of a process that decodes images, 130 with one line for Ctrl-C
    (the KeyboardInterrupt's own, if it has one), 141 without any for a reader of its output that has left,
    such as head.
    """
    end_with_run_sh()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the caller
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - until the end
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of any bytes, and terminals of ASCII
    try:
        command(*arguments, **named)
    except UserError as problem:
        end(2, printable(f"error: {problem}"))
    except ModuleNotFoundError as problem:
        if problem.name not in NEEDED:
            raise
        end(2, f"error: this python has no {problem.name}; {ACTIVATE}")
    except KeyboardInterrupt as problem:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        end(130, str(problem) or INTERRUPTED)
    except BrokenPipeError:
        if not _reader_left(sys.stdout):
            raise  # a pipe of our own
        # For what python itself still writes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        _leave(141)
    except OSError as problem:  # a place that may not be entered, a disk that is full
        if problem.errno is None:
            raise
        place = f"{problem.filename}: " if problem.filename is not None else ""
        end(2, printable(f"error: {place}{problem.strerror}; name another place, or mend this one"))
    except ValueError as problem:
        if not single_image(problem):
            raise
        end(2, f"error: {ONE_IMAGE}")
    except RuntimeError as problem:
        if "gloo" in str(problem) or "Dist" in type(problem).__name__:
            # Another process of the group has died. torchrun, which says which, is about to end this one.
            time.sleep(60)
        if worker_ended(problem):
            end(2, f"error: {WORKER}")
        if not out_of_memory(problem):
            raise
        end(2, "error: the memory is too small; make --batch-size, --pack-images or --attack-batch smaller")


def end_with_run_sh():
    """Has this process end, by SIGTERM, with the run.sh that started it: one that is killed alone, as by a
    batch system, would leave it behind, at work and holding the lock.
    """
    if os.environ.get("GUARD_RUN") == str(os.getppid()):
        end_with_parent(signal.SIGTERM)


def end_with_parent(sent):
    """Has this process get the signal `sent` when the one that started it ends. Linux alone knows how."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, sent)


def _reader_left(file):
    poll = select.poll()
    poll.register(file, 0)  # errors are told unasked
    return bool(poll.poll(0))


def end(status, line):
    """Ends with one line on stderr. One of a group of processes leaves it to torchrun, which knows whose
    came first, in the file that torchrun has for it; with the status, since torchrun may stop it by a signal
    before it is gone.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # or torch would raise again for a worker that was ended
    if group := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        with open(group, "w") as file:
            json.dump({"message": line, "timestamp": int(time.time()), "status": status}, file)
    else:
        print(("\n" if status == 130 else "") + line, file=sys.stderr)
    _leave(status)


def _leave(status):
    """Ends the process. One of a group does it without python's teardown: gloo's threads may still be busy,
    held by the exception's traceback, and C++ aborts where one of them asks for a python that is gone.
    """
    if "TORCHELASTIC_ERROR_FILE" not in os.environ:
        sys.exit(status)
    atexit._run_exitfuncs()  # among them those that end the processes that decode images
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(status)
