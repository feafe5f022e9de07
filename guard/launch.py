"""Runs a stage in several processes over torchrun, and ends as one process would.

That is, with one line on stderr and the exit status of the stage.

    python -m guard.launch 2 pretrain --dataset digits ...

The same as `torchrun --standalone --nproc-per-node 2 -m -- pretrain ...`, which would add its own report to
a user's error.
"""

import argparse
import logging
import signal
import sys
import tempfile

from guard import cli, ending


def launch(processes, stage, *flags):
    """Runs `python -m STAGE FLAGS` in `processes` processes; returns the exit status.

    Where that is not 0, a line on stderr says why.
    """
    ending.end_with_run_sh()
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.CRITICAL)
    # Behind --, since torchrun takes flags of ours for short forms of its own.
    words = [
        "--signals-to-handle",
        ",".join(_not_ignored()),
        "--standalone",
        "--nproc-per-node",
        str(processes),
        "-m",
        "--",
        stage,
        *flags,
    ]
    try:
        with tempfile.TemporaryDirectory() as folder:  # torchrun leaves one behind where none is named
            run.run(run.parse_args(["--log-dir", folder, *words]))
    except ChildFailedError as problem:
        return _report_failure(*problem.get_first_failure(), processes)
    except (KeyboardInterrupt, SignalException) as problem:
        print(f"\n{ending.INTERRUPTED}", file=sys.stderr)
        return 128 + getattr(problem, "sigval", signal.SIGINT)
    return 0


def _not_ignored():
    """Of the signals that torchrun ends by, those that are not ignored here, as nohup has one be."""
    names = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
    return [name for name in names if signal.getsignal(getattr(signal, name)) != signal.SIG_IGN]


def _report_failure(rank, failure, processes):
    """A line on stderr about the process that failed first, torchrun's `failure`; returns the exit status."""
    if "status" in failure.error_file_data:  # written by guard.ending
        print(failure.message, file=sys.stderr)
        return failure.error_file_data["status"]
    status = failure.exitcode  # negative: the number of a signal
    end = f"signal {-status}" if status < 0 else f"exit status {status}"
    print(
        f"error: process {rank} of {processes} ended with {end}, so the others were stopped; give the"
        " same command again to go on",
        file=sys.stderr,
    )
    return status if status > 0 else 128 - status


def main(argv):
    """The command: ends with the exit status of the stage."""
    parser = cli.Parser(
        prog="python -m guard.launch", description="Runs a stage in several processes on this machine."
    )
    parser.add_argument("processes", type=cli.number(int, low=1), help="how many")
    parser.add_argument(
        "stage",
        choices=("pretrain", "recover", "relabel", "train", "train.evaluate"),
        help="pretrain, recover, relabel, train or train.evaluate",
    )
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="of the stage").required = False
    options = parser.parse_args(argv)
    try:
        status = launch(options.processes, options.stage, *options.flags)
    except KeyboardInterrupt:  # before torchrun was there
        print(f"\n{ending.INTERRUPTED}", file=sys.stderr)
        status = 128 + signal.SIGINT
    sys.exit(status)


if __name__ == "__main__":
    main(sys.argv[1:])
