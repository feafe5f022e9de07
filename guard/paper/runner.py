"""Does planned runs through run.sh, several at a time, and keeps a record of each."""

import concurrent.futures
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

from guard.errors import UserError
from guard.paper import commands
from guard.paper.plan import SCALES


@dataclass(frozen=True)
class Runner:
    """What all runs of a call have in common.

    table, scale: whose runs they are; results: folder of the records; output: run.sh's output root;
    threads: of each process; curve: epsilons at which each student is measured as well, or nothing;
    recorded: {name: recorded run} of what is done already.
    """

    table: str
    scale: str
    results: Path
    output: Path
    threads: int
    curve: str | None = None
    recorded: dict = field(default_factory=dict)

    def folder(self, run):
        return self.output / run.name

    def finished(self, run, words):
        """Whether the run is recorded already, done by a command that asks for the same."""
        found = self.recorded.get(run.name)
        if found is None or not commands.same(found.command, words):
            return False
        return not self.curve or self._drawn(found.curve)

    def _drawn(self, curve):
        """Whether a curve is finished and at the epsilons that are asked for."""
        asked = sorted(float(Fraction(word)) for word in self.curve.split(","))
        return curve is not None and curve["epsilon"] == asked

    def do(self, run, words):
        """Does one run and records it; returns None, or the line with which it failed."""
        log = self.output / "logs" / f"{run.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        todo = [words, *([self._curve_words(run, words)] if self.curve else [])]
        with open(log, "w") as file:
            for command in todo:
                status = self._call(command, file)
                if status:
                    break
        if status:
            return f"{_complaint(log)} (status {status}, {log})"
        try:
            self._record(run, words)
        except UserError as problem:
            return f"error: {problem}"
        return None

    def _call(self, command, file):
        """Calls a command with its output in an open file; returns its exit status."""
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        return subprocess.run(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, check=False
        ).returncode

    def _curve_words(self, run, words):
        """The command that draws the student's accuracy against epsilon, on the images that run.sh
        attacks. It goes by the experiment's record, so what that has of an epsilon is not found again.
        """
        folder = self.folder(run)
        after = words[words.index("train") :] if "train" in words else []
        command = [sys.executable, "-m", "train.evaluate", "--epsilon", self.curve]
        command += ["--checkpoint", str(folder / "student" / "checkpoint.pt")]
        command += ["--record", str(folder / "log.json")]
        command += ["--dataset", commands.last(words, "-d"), "--root", commands.last(words, "-r")]
        command += ["--seed", commands.last(words, "-s")]
        command += ["--images", commands.last(after, "--images")] if "--images" in after else []
        command += ["--device", commands.last(words, "-u")] if "-u" in words else []
        return command

    def _record(self, run, words):
        """Keeps what run.sh left of a run as its line in results/."""
        from guard.paper import records
        from guard.run import storage

        folder = self.folder(run)
        record = records.trimmed(storage.read_sealed(folder / "log.json", "record"))
        curve = None
        if self.curve:
            curve = records.trimmed_entry(storage.read_sealed(folder / "curve.json", "curve"))
        contents = records.contents_of(run, self.scale, commands.shown(words), record, curve)
        records.add(contents, self.results, self.table)


def _complaint(log):
    """The line of a log that says what went wrong: the last error, or the last line."""
    lines = log.read_text().strip().splitlines() or ["no output"]
    errors = [line for line in lines if line.startswith("error: ")]
    return errors[-1] if errors else lines[-1]


def do_all(work, runner, jobs):
    """Does `work` ((run, words) pairs), `jobs` at a time, runs that make teachers before those that borrow
    them; returns {run: line} of those that failed.
    """
    failed = {}
    for borrowing in (False, True):
        todo = [(run, words) for run, words in work if run.swapped == borrowing]
        pool = concurrent.futures.ThreadPoolExecutor(jobs)
        try:
            started = {pool.submit(runner.do, run, words): run for run, words in todo}
            for number, future in enumerate(concurrent.futures.as_completed(started), 1):
                run, problem = started[future], future.result()
                if problem:
                    failed[run] = problem
                now = time.strftime("%H:%M:%S")
                print(f"{now} {number}/{len(todo)} {run.name}: {problem or 'done'}", flush=True)
        finally:
            pool.shutdown(
                cancel_futures=True
            )  # Ctrl-C ends the runs that are under way, and starts no others
    return failed


def prepare(name, scale, root):
    """Makes the subset that stands for a data set at a scale, where the whole is there and the subset is
    not.
    """
    setting = SCALES[scale][name]
    if not setting.classes or not (root / name).is_dir() or (root / setting.dataset).exists():
        return
    command = [sys.executable, "-m", "data.prepare", "subset", setting.dataset, "--from", str(root / name)]
    command += ["--root", str(root), "--classes", setting.classes]
    if subprocess.run(command, check=False).returncode:
        raise UserError(f"the subset {setting.dataset} of {name} could not be made; see the line above")
