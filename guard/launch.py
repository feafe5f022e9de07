"""Runs a stage in several processes over torchrun, and ends as one process would: with one line and its
exit status.

    python -m guard.launch 2 pretrain --dataset digits ...

The same as `torchrun --standalone --nproc-per-node 2 -m pretrain ...`, which would add its own report to
a user's error.
"""

import logging
import sys

from guard import cli, ending


def launch(processes, stage, *flags):
    """Runs `python -m STAGE FLAGS` in `processes` processes; returns the exit status, after a line on
    stderr where it is not 0.
    """
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    logging.disable(logging.CRITICAL)
    try:
        run.run(run.parse_args(["--standalone", "--nproc-per-node", str(processes), "-m", stage, *flags]))
    except ChildFailedError as problem:
        first, failure = problem.get_first_failure()
        if failure.error_file_data["message"] != "<NONE>":  # written by cli.run
            print(failure.message, file=sys.stderr)
        else:
            end = f"signal {-failure.exitcode}" if failure.exitcode < 0 else f"exit status {failure.exitcode}"
            print(
                f"error: process {first} of {processes} ended with {end}, so the others were stopped; give"
                " the same command again to go on",
                file=sys.stderr,
            )
        return failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode
    except (KeyboardInterrupt, SignalException) as problem:
        print(f"\n{ending.INTERRUPTED}", file=sys.stderr)
        return 128 + getattr(problem, "sigval", 2)
    return 0


def main(argv):
    parser = cli.Parser(
        prog="python -m guard.launch", description="Runs a stage in several processes on this machine."
    )
    parser.add_argument("processes", type=cli.number(int, low=1), help="how many")
    parser.add_argument(
        "stage",
        choices=("pretrain", "recover", "relabel", "train", "train.evaluate"),
        help="pretrain, recover, relabel, train or train.evaluate",
    )
    options, flags = parser.parse_known_args(argv)
    sys.exit(launch(options.processes, options.stage, *flags))


if __name__ == "__main__":
    main(sys.argv[1:])
