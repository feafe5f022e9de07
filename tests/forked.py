"""Commands in processes that are forked from one that has imported torch and computed nothing, so that a
start takes no time.
"""

import multiprocessing
import os
import socket

PRELOADED = [
    "pytest",
    "torch",
    "torchvision",
    "PIL.Image",
    "matplotlib.pyplot",
    "pretrain.teacher",
    "recover.recovery",
    "relabel.labelling",
    "train.student",
    "train.evaluation",
]

forkserver = multiprocessing.get_context("forkserver")
forkserver.set_forkserver_preload(PRELOADED)


def _run(words, errors, environment, before):
    """Runs in the forked process: one thread, nothing printed, what goes to stderr in the file `errors`."""
    os.environ.update(environment)
    import torch
    from conftest import command

    torch.set_num_threads(1)
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    if before:
        before()
    os._exit(command(*words))


def start(words, errors, environment=None, before=None):
    """Starts `python -m WORDS`; before: a function of a module, called first."""
    process = forkserver.Process(
        target=_run, args=([str(word) for word in words], str(errors), environment or {}, before)
    )
    process.start()
    return process


def group(words, errors, processes=2, before=None, seconds=120):
    """Runs `python -m WORDS` in a group of processes, as torchrun would start it; returns their exit
    statuses, None for one that did not end in time.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        start(words, errors, {**common, "RANK": str(rank), "LOCAL_RANK": str(rank)}, before)
        for rank in range(processes)
    ]
    for process in started:
        process.join(seconds)
    for process in started:
        process.kill()  # nothing, but for one that hangs
    return [process.exitcode for process in started]
