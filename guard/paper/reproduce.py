"""Does the runs of a published table through run.sh, and keeps a record of each under results/.

    bash results/reproduce.sh other-methods --scale cpu --seeds 0,1,2

Finished runs are skipped, runs that need the same teacher share it, and a run that fails is listed at the
end and stops no other.
"""

import argparse
import os
import shlex
import sys
from pathlib import Path

from guard import cli, ending
from guard.errors import UserError
from guard.paper import commands, runner
from guard.paper.plan import SCALES, TABLES, runs_of, scales_of

ROOT = Path(__file__).resolve().parents[2]
OVERHEAD = "overhead"  # a table of costs, which guard.bench measures

# ---- flags ---------------------------------------------------------------------------------------


def _folder(text):
    """A folder where the caller is, wherever that is."""
    return Path(text).absolute()


def _names(text):
    return tuple(text.split(","))


def _epsilons(text):
    if len(cli.numbers(cli.number(float, low=0.0, high=1.0))(text)) < 2:
        raise argparse.ArgumentTypeError(f"'{text}' is one number, a curve takes several")
    return text  # as it was written, for the command of a stage


COUNT, COUNTS = cli.number(int, low=1), cli.numbers(cli.number(int, low=1))
SEEDS = cli.numbers(cli.number(int, low=0))
# flags that choose runs or say how they are done: type or choices, default, metavar, help
OF_RUNS = {
    "--dataset": (_names, None, "NAMES", "data sets, with commas between them [all of the table]"),
    "--images-per-class": (COUNTS, None, "NUMBERS", "with commas [those of the table]"),
    "--arms": (_names, None, "NAMES", "with commas [those of the table]"),
    "--seeds": (SEEDS, (0,), "NUMBERS", "with commas [0]"),
    "--images": (
        cli.number(int, low=0),
        None,
        "N",
        (
            "attack the first N validation images of each class, 0 for all [the scale's; 100 in swap and"
            " variations at CPU size]"
        ),
    ),
    "--curve": (
        _epsilons,
        None,
        "NUMBERS",
        "also measure each student's accuracy at these epsilons, such as 0,1/255,2/255,4/255,8/255 [none]",
    ),
    "--root": (_folder, Path("data/raw"), "DIR", "folder that holds the data sets [data/raw]"),
    "--output": (_folder, Path("runs/reproduce"), "DIR", "run.sh's output root [runs/reproduce]"),
    "--jobs": (
        COUNT,
        1,
        "N",
        "runs that are done at a time, which share the cores (with OMP_NUM_THREADS each takes so many) [1]",
    ),
}
SHORT = {"--root": "-r", "--output": "-o"}
# what makes a part of a table, seeds but 0, or other attacks
OF_A_PART = ("--dataset", "--images-per-class", "--arms", "--seeds", "--images", "--protocol")


def _parser():
    parser = cli.Parser(prog="bash results/reproduce.sh", description=__doc__.split("\n")[0])
    parser.add_argument(
        "table",
        choices=(*TABLES, OVERHEAD),
        help="a published table; regularizers: each form of the regularizer; swap: images and labels of"
        " different teachers; variations: GUARD with one setting changed; digits: the embedded digits by"
        " their own recipe. Of all of CIFAR-10: frontier: methods of images, teachers and views;"
        " recipes: some of them by the paper's recipe;"
        " student-settings, label-bytes, curvature: one of its arms with settings changed; images-or-labels:"
        " as swap; methods, methods-resnet18: the published ones, by either network; methods-dc-1,"
        " methods-dc-10: DC, for so many images per class; goal-1, goal-10, goal-50: as far as it goes",
    )
    parser.add_argument(
        "--scale",
        choices=SCALES,
        help="the paper's settings, the data set's own recipe, small ones for a CPU, or all of CIFAR-10 on a"
        " CPU [the first of these that the table has]",
    )
    for flag, (kind, default, metavar, text) in OF_RUNS.items():
        names = (flag, SHORT[flag]) if flag in SHORT else (flag,)
        parser.add_argument(*names, type=kind, default=default, metavar=metavar, help=text)
    parser.add_argument(
        "--protocol",
        choices=("paper", "standard", "both", "quick"),
        help="of the attacks [the scale's; quick in swap and variations at CPU size]",
    )
    parser.add_argument(
        "--results",
        type=_folder,
        default=Path("results"),
        metavar="DIR",
        help="where the records go [results]",
    )
    parser.add_argument(
        "--device", "-u", type=cli.device_ids, metavar="IDS", help="cpu, or ids of GPUs [run.sh's]"
    )
    parser.add_argument(
        "-n",
        dest="only_print",
        action="store_true",
        help="print the commands and an estimate of their time, and stop",
    )
    parser.add_argument(
        "--keep-estimate",
        action="store_true",
        help="with -n: keep the estimate in results/estimates.json, from which TABLES.md takes it",
    )
    return parser


def _check(parser, options):
    """Ends with one line for flags that would do nothing."""
    of_runs = [*OF_RUNS, "--protocol", "--keep-estimate"]
    named = {flag: flag.lstrip("-").replace("-", "_") for flag in of_runs}
    given = [flag for flag, name in named.items() if getattr(options, name) != parser.get_default(name)]
    if options.table == OVERHEAD and given:
        parser.error(
            f"overhead has no runs, so {', '.join(given)} would do nothing; it takes --scale, --device,"
            " --results and -n"
        )
    if options.table == OVERHEAD and options.scale not in (None, "paper", "cpu"):
        parser.error("overhead is measured at --scale paper or cpu")
    if options.keep_estimate and not options.only_print:
        parser.error("--keep-estimate keeps the estimate that -n prints; add -n")
    if options.keep_estimate and (of_a_part := [flag for flag in given if flag in OF_A_PART]):
        parser.error(
            f"--keep-estimate keeps the time of a table's runs as planned; leave {', '.join(of_a_part)} out"
        )


def main(argv):
    parser = _parser()
    options = parser.parse_args(argv)
    _check(parser, options)
    if options.only_print and Path.cwd() != ROOT:
        print(f"# in {ROOT}")
    # where run.sh and the stages run, and where the default folders lie; given ones are absolute
    os.chdir(ROOT)
    ending.run(_overhead if options.table == OVERHEAD else _work, options)


# ---- work ----------------------------------------------------------------------------------------


def _work(options):
    scale = options.scale or scales_of(options.table)[0]
    runs = runs_of(
        options.table,
        scale,
        datasets=options.dataset,
        images_per_class=options.images_per_class,
        arms=options.arms,
        seeds=options.seeds,
    )
    from guard.paper import records
    from guard.run import storage

    own = runner.Runner(
        table=options.table,
        scale=scale,
        results=options.results,
        output=options.output / scale,
        threads=_threads(options.jobs),
        curve=options.curve,
        recorded={run.name: run for run in records.read(options.results) if run.scale == scale},
    )
    work = [(run, command(run, options.table, scale, options)) for run in runs]
    todo = [(run, words) for run, words in work if not own.finished(run, words)]
    if options.only_print:
        _print(todo, len(runs), own, options)
        return
    _refuse_to_replace(todo, own, options)
    _check_teachers(todo)
    remedy = "name another folder for the records with --results"
    storage.check_writable(options.results / scale / f"{options.table}.jsonl", remedy)
    for name in dict.fromkeys(run.dataset for run, _ in todo):
        runner.prepare(name, scale, options.root)
    _tell_finished(len(runs) - len(todo), len(runs), options.results / scale)
    failed = runner.do_all(todo, own, options.jobs)
    if failed:
        lines = "; ".join(f"{run.name}: {line}" for run, line in failed.items())
        raise UserError(f"{len(failed)} of {len(todo)} runs failed: {lines}")


def _tell_finished(done, count, folder):
    hint = f", by the records in {folder}; --results DIR does them for records of your own" if done else ""
    print(f"{done} of {count} runs are finished{hint}", flush=True)


def _refuse_to_replace(todo, own, options):
    """Raises UserError where what is made would come in place of a recorded run that was attacked otherwise.
    What the plan asks for may, but not in place of what it asks for in another table.
    """
    as_planned = options.protocol is None and options.images is None
    for run, words in todo:
        found = own.recorded.get(run.name)
        if found is None or commands.same(found.command, words):
            continue
        if as_planned and not commands.attacked_as_planned(found, found.table):
            continue
        if commands.same(found.command, words, aside=commands.OF_THE_ATTACKS):
            raise UserError(
                f"{found.place} has {run.name} with other attacks, which this would replace; name another"
                " folder for the records with --results, or remove that line"
            )


def _check_teachers(todo):
    """Raises UserError for a run that takes a teacher as it is which is not there, and which none of these
    runs trains: those with labels of another teacher than the images' take both so.
    """
    trained = {commands.teacher_at(words, "-y") for _, words in todo if "-p" in words}
    for run, words in todo:
        for flag in ("-y", "-Y") if "-p" not in words else ():
            path = commands.teacher_at(words, flag)
            if path not in trained and not path.exists():
                raise UserError(
                    f"{run.name} needs the teacher {path}, which is not there, and no run here trains it; add"
                    " the arm of that teacher to --arms, or name the folder that has it with --output"
                )


def command(run, table, scale, options):
    """The words of a run's run.sh, with what the flags say of all runs."""
    return commands.of_table(
        run,
        table,
        scale,
        root=options.root,
        output=options.output / scale,
        device=options.device,
        protocol=options.protocol,
        images=options.images,
    )


def _threads(jobs):
    """Of each process: what the caller's OMP_NUM_THREADS says, else its part of the processors."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) else max(1, (os.cpu_count() or 1) // jobs)


def _print(todo, count, own, options):
    """Prints the commands of the runs that are to do, with an estimate of the time of each."""
    import torch

    from guard.bench import estimate

    torch.set_num_threads(own.threads)  # those of a run beside others
    times, teachers = [], set()
    for _, words in todo:
        seconds = estimate.seconds_of(words, teachers)
        times.append(seconds)
        told = (
            "no estimate, the data are not there" if seconds is None else f"about {seconds / 60:.1f} minutes"
        )
        print(f"{shlex.join(words)}\n# {told}", flush=True)
    known = [seconds for seconds in times if seconds is not None]
    minutes = sum(known) / 60 / options.jobs
    if len(known) == len(times):
        told = f"about {minutes:.0f} minutes"
    else:
        told = f"no estimate of {len(times) - len(known)}; get the data first: python -m data.prepare --help"
    print(f"# {len(todo)} of {count} runs to do, {told}")
    if options.keep_estimate and times:
        _keep(times, minutes, own, options)


def _keep(times, minutes, own, options):
    from guard.paper import not_run
    from guard.run.devices import ready
    from guard.run.records import environment

    if None in times:
        raise UserError(
            "there is no estimate of all runs to keep; get the data first: python -m data.prepare --help"
        )
    device = environment(ready(options.device or "auto"))["device"]
    not_run.keep(own.table, own.scale, minutes, device, own.results)


def _overhead(options):
    from guard.bench.__main__ import main

    words = [OVERHEAD, "--scale", "small" if options.scale == "cpu" else "paper"]
    words += ["--output", str(options.results / "overhead.json")]
    words += ["--device", options.device] if options.device else []
    if options.only_print:
        print(shlex.join(["python", "-m", "guard.bench", *words]))
    else:
        main(words)


if __name__ == "__main__":
    main(sys.argv[1:])
