"""Runs the cells of a published table through run.sh, and keeps a record of each under results/cells.

    bash results/reproduce.sh other-methods --scale cpu --seeds 0,1,2

Finished cells are skipped, cells that need the same teacher share it, and a cell that fails is listed at
the end and stops no other.
"""

import argparse
import concurrent.futures
import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from guard import cli, ending
from guard.errors import UserError
from guard.paper.plan import ATTACKED, FORMAT, SCALES, TABLES, cells_of, command_of

ROOT = Path(__file__).resolve().parents[2]


# ---- running -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """What all cells of a call have in common. results: where records go; output: run.sh's output root;
    threads: of each process; curve: epsilons at which each student is measured as well, or nothing.
    """

    scale: str
    results: Path
    output: Path
    threads: int
    curve: str | None = None

    def place(self, cell):
        return self.results / "cells" / self.scale / f"{cell.name}.json"

    def folder(self, cell):
        return self.output / cell.name

    def finished(self, cell, words):
        """Whether the cell's record is there already, made by the same command but for folders and device."""
        if not self.place(cell).exists():
            return False
        try:
            found = json.loads(self.place(cell).read_text())
            return found["command"] == shown(words) and (not self.curve or self.drawn(found["curve"]))
        except (ValueError, KeyError, TypeError):
            return False

    def drawn(self, curve):
        """Whether a curve is finished and at the epsilons that are asked for."""
        return (
            curve is not None
            and "accuracy" in curve
            and curve["epsilon"] == sorted(float(Fraction(word)) for word in self.curve.split(","))
        )

    def do(self, cell, words):
        """Runs one cell and collects its record; returns None, or the line with which it failed."""
        log = self.output / "logs" / f"{cell.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "w") as file:
            for command in [words, *([self.curve_words(cell, words)] if self.curve else [])]:
                done = subprocess.run(
                    command,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "OMP_NUM_THREADS": str(self.threads)},
                    check=False,
                )
                if done.returncode:
                    break
        if done.returncode:
            lines = log.read_text().strip().splitlines() or ["no output"]
            return (
                f"{next((line for line in reversed(lines) if line.startswith('error: ')), lines[-1])} (status"
                f" {done.returncode}, {log})"
            )
        try:
            self.collect(cell, words)
        except UserError as problem:
            return f"error: {problem}"
        return None

    def curve_words(self, cell, words):
        """The command that draws the student's accuracy against epsilon, on the images that run.sh
        attacks.
        """
        student, after = (
            self.folder(cell) / "student",
            (words[words.index("train") :] if "train" in words else []),
        )
        more = ["--images", _last(after, "--images")] if "--images" in after else []
        more += ["--device", _last(words, "-u")] if "-u" in words else []
        data = ["--dataset", _last(words, "-d"), "--root", _last(words, "-r")]
        return [
            sys.executable,
            "-m",
            "train.evaluate",
            "--checkpoint",
            str(student / "checkpoint.pt"),
            "--record",
            str(student / "log.json"),
            *data,
            "--epsilon",
            self.curve,
            *more,
        ]

    def collect(self, cell, words):
        """Writes the cell's record, and a picture of its first images, from what run.sh left."""
        from guard.paper import results
        from guard.report import pictures
        from guard.run import records, storage

        folder = self.folder(cell)
        trimmed = results.trimmed(records.read(folder / "log.json"))
        curve = storage.read_sealed(folder / "student" / "curve.json", "curve") if self.curve else None
        storage.write_json(
            {
                "format": FORMAT,
                "scale": self.scale,
                "dataset": cell.dataset,
                "images per class": cell.images_per_class,
                "arm": cell.arm,
                "seed": cell.seed,
                "images from": cell.images,
                "labels from": cell.labels,
                "command": shown(words),
                "record": trimmed,
                "curve": curve,
            },
            self.place(cell),
        )
        pictures.image_strip(folder / "images", self.place(cell).with_suffix(".png"))


def _last(words, flag):
    """What follows the last occurrence of a flag."""
    return words[len(words) - words[::-1].index(flag)]


def shown(words):
    """A command as one would type it, without what differs between machines: folders and device."""
    flags, stages = (words[: words.index("--")], words[words.index("--") :]) if "--" in words else (words, [])
    elsewhere = [number for number, word in enumerate(flags) if word in ("-r", "-o", "-u")]
    return shlex.join(
        [word for number, word in enumerate(flags) if number not in elsewhere and number - 1 not in elsewhere]
        + stages
    )


def prepare(name, scale, root):
    """Makes the subset that stands for a data set at a scale, where the whole is there and the subset is
    not.
    """
    setting = SCALES[scale][name]
    if setting.classes and (root / name).is_dir() and not (root / setting.dataset).exists():
        words = [
            "subset",
            setting.dataset,
            "--from",
            str(root / name),
            "--root",
            str(root),
            "--classes",
            setting.classes,
        ]
        done = subprocess.run([sys.executable, "-m", "data.prepare", *words], check=False)
        if done.returncode:
            raise UserError(f"the subset {setting.dataset} of {name} could not be made; see the line above")


def reproduce(work, run, jobs):
    """Runs `work` ((cell, words) pairs), `jobs` at a time, cells that make teachers before those that
    borrow them; returns {cell: line} of those that failed.
    """
    failed = {}
    for borrowing in (False, True):
        todo = [(cell, words) for cell, words in work if (cell.images != cell.labels) == borrowing]
        pool = concurrent.futures.ThreadPoolExecutor(jobs)
        try:
            started = {pool.submit(run.do, cell, words): cell for cell, words in todo}
            for number, future in enumerate(concurrent.futures.as_completed(started), 1):
                cell, problem = started[future], future.result()
                if problem:
                    failed[cell] = problem
                print(
                    f"{time.strftime('%H:%M:%S')} {number}/{len(todo)} {cell.name}: {problem or 'done'}",
                    flush=True,
                )
        finally:
            pool.shutdown(cancel_futures=True)  # Ctrl-C ends the cells that run, and starts no others
    return failed


# ---- flags ---------------------------------------------------------------------------------------


def _folder(text):
    """A folder where the caller is, wherever that is."""
    return Path(text).absolute()


OF_CELLS = (
    "dataset",
    "images_per_class",
    "arms",
    "seeds",
    "protocol",
    "images",
    "curve",
    "root",
    "output",
    "jobs",
)  # flags


def _names(text):
    return tuple(text.split(","))


def _epsilons(text):
    if len(cli.numbers(cli.number(float, low=0.0, high=1.0))(text)) < 2:
        raise argparse.ArgumentTypeError(f"'{text}' is one number, a curve takes several")
    return text  # as it was written, for the command of a stage


def main(argv):
    parser = cli.Parser(prog="bash results/reproduce.sh", description=__doc__.split("\n")[0])
    parser.add_argument(
        "table",
        choices=(*TABLES, "overhead"),
        help=(
            "a published table; regularizers: each form of the regularizer; swap: images and labels of"
            " different teachers; variations: GUARD with one setting changed"
        ),
    )
    parser.add_argument(
        "--scale",
        choices=SCALES,
        default="paper",
        help="the paper's settings, or cpu: under an hour on two cores [paper]",
    )
    parser.add_argument(
        "--dataset",
        type=_names,
        metavar="NAMES",
        help="data sets, with commas between them [all of the table]",
    )
    parser.add_argument(
        "--images-per-class",
        type=cli.numbers(cli.number(int, low=1)),
        metavar="NUMBERS",
        help="with commas [those of the table]",
    )
    parser.add_argument("--arms", type=_names, metavar="NAMES", help="with commas [those of the table]")
    parser.add_argument(
        "--seeds",
        type=cli.numbers(cli.number(int, low=0)),
        default=(0,),
        metavar="NUMBERS",
        help="with commas [0]",
    )
    parser.add_argument(
        "--protocol",
        choices=("paper", "standard", "both", "quick"),
        help="of the attacks [the recipe's; quick in swap and variations at CPU size]",
    )
    parser.add_argument(
        "--images",
        type=cli.number(int, low=0),
        metavar="N",
        help=(
            "attack the first N validation images of each class, 0 for all [the scale's; 100 in swap and"
            " variations at CPU size]"
        ),
    )
    parser.add_argument(
        "--curve",
        type=_epsilons,
        metavar="NUMBERS",
        help=(
            "also measure each student's accuracy at these epsilons, such as 0,1/255,2/255,4/255,8/255 [none]"
        ),
    )
    parser.add_argument(
        "--root",
        "-r",
        type=_folder,
        default=Path("data/raw"),
        metavar="DIR",
        help="folder that holds the data sets [data/raw]",
    )
    parser.add_argument(
        "--output",
        "-o",
        type=_folder,
        default=Path("runs/reproduce"),
        metavar="DIR",
        help="run.sh's output root [runs/reproduce]",
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
        "--jobs",
        type=cli.number(int, low=1),
        default=1,
        metavar="N",
        help="cells that run at a time, which share the cores [1]",
    )
    parser.add_argument(
        "-n",
        dest="only_print",
        action="store_true",
        help="print the commands and an estimate of their time, and stop",
    )
    options = parser.parse_args(argv)
    given = [
        f"--{name.replace('_', '-')}"
        for name in OF_CELLS
        if getattr(options, name) != parser.get_default(name)
    ]
    if options.table == "overhead" and given:
        parser.error(
            f"overhead has no cells, so {', '.join(given)} would do nothing; it takes --scale, --device,"
            " --results and -n"
        )

    os.chdir(
        ROOT
    )  # where run.sh and the stages run, and where the default folders lie; given ones are absolute

    def work():
        if options.table == "overhead":
            return _overhead(options)
        output = options.output / options.scale
        cells = cells_of(
            options.table,
            options.scale,
            datasets=options.dataset,
            images_per_class=options.images_per_class,
            arms=options.arms,
            seeds=options.seeds,
        )
        run = Run(
            options.scale,
            options.results,
            output,
            max(1, (os.cpu_count() or 1) // options.jobs),
            options.curve,
        )
        commands = [(cell, _command(cell, options, output)) for cell in cells]
        todo = [(cell, words) for cell, words in commands if not run.finished(cell, words)]
        if options.only_print:
            return _print(todo, len(cells), options.jobs, run.threads)
        for name in dict.fromkeys(cell.dataset for cell, _ in todo):
            prepare(name, options.scale, options.root)
        print(f"{len(cells) - len(todo)} of {len(cells)} cells are finished", flush=True)
        failed = reproduce(todo, run, options.jobs)
        if failed:
            raise UserError(
                f"{len(failed)} of {len(todo)} cells failed:"
                f" {'; '.join(f'{cell.name}: {line}' for cell, line in failed.items())}"
            )
        return None

    ending.run(work)


def _command(cell, options, output):
    protocol, images = (
        ATTACKED.get((options.table, cell.dataset), (None, None)) if options.scale == "cpu" else (None, None)
    )
    images = images if options.images is None else options.images
    return command_of(
        cell,
        options.scale,
        root=options.root,
        output=output,
        device=options.device,
        protocol=options.protocol or protocol,
        images=images,
    )


def _print(todo, count, jobs, threads):
    import torch

    from guard.bench import estimate

    torch.set_num_threads(threads)  # those of a cell beside others
    total, teachers = 0.0, set()
    for cell, words in todo:
        seconds = estimate.seconds_of(words, teachers)
        total += seconds or 0.0
        print(
            f"{shlex.join(words)}\n#"
            f" {'no estimate, the data are not there' if seconds is None else f'about {seconds / 60:.1f} minutes'}",
            flush=True,
        )
    print(f"# {len(todo)} of {count} cells to do, about {total / 60 / jobs:.0f} minutes")


def _overhead(options):
    from guard.bench.__main__ import main

    words = [
        "overhead",
        "--scale",
        {"paper": "paper", "cpu": "small"}[options.scale],
        "--output",
        str(options.results / "overhead.json"),
    ]
    words += ["--device", options.device] if options.device else []
    if options.only_print:
        print(shlex.join(["python", "-m", "guard.bench", *words]))
    else:
        main(words)


if __name__ == "__main__":
    main(sys.argv[1:])
