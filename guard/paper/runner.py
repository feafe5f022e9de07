"""Does planned runs through run.sh, several at a time, and keeps a record of each."""

import concurrent.futures
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from guard import cli
from guard.errors import UserError, first_line
from guard.paper import commands
from guard.paper.plan import SCALES


@dataclass(frozen=True)
class Runner:
    """What all runs of a call have in common.

    table, scale: whose runs they are; results: folder of the records; output: run.sh's output root;
    threads: of each process; curve: epsilons at which each student is measured as well, as they were typed,
    or nothing; recorded: {name: recorded run} of what is done already; processes: those under way; stopped:
    set where no more are to be started.
    """

    table: str
    scale: str
    results: Path
    output: Path
    threads: int
    curve: str | None = None
    recorded: dict = field(default_factory=dict)
    processes: set = field(default_factory=set)
    stopped: threading.Event = field(default_factory=threading.Event)

    def folder(self, run):
        return self.output / run.name

    def finished(self, run, words):
        """Whether the run is recorded already, done by a command that asks for the same."""
        found = self.recorded.get(run.name)
        if found is None or not commands.same(found.command, words):
            return False
        return not self.curve or self._asked() <= set(self._drawn(run))

    def _asked(self):
        """The epsilons of the curve."""
        return set(cli.numbers(cli.number(float))(self.curve)) if self.curve else set()

    def _drawn(self, run):
        """The epsilons of the curve that is recorded of the run."""
        found = self.recorded.get(run.name)
        return found.curve["epsilon"] if found is not None and found.curve else []

    def _epsilons(self, run):
        """Those of the run's curve, as typed: what is asked for, then what is recorded of it, whatever has
        been changed of the run since, since its record takes the place of that.
        """
        recorded = [str(epsilon) for epsilon in self._drawn(run) if epsilon not in self._asked()]
        return ",".join([*([self.curve] if self.curve else []), *recorded])

    def do(self, run, words):
        """Does one run and records it; returns None, or the line with which it failed."""
        log = self.output / "logs" / f"{run.name}.log"
        epsilons = self._epsilons(run)
        todo = [words, *([self._curve_words(run, words, epsilons)] if epsilons else [])]
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with open(log, "a") as file:  # another call may be at the same run, and its lines are to stay
                begin = file.tell()
                status = next((failed for failed in (self._call(each, file) for each in todo) if failed), 0)
            if status:
                return f"{_complaint(log, begin)} (status {status}, {log})"
            self._record(run, words, with_curve=bool(epsilons))
        except UserError as problem:
            return f"error: {problem}"
        except OSError as problem:
            return f"error: {first_line(problem)}"
        return None

    def _call(self, command, file):
        """Calls a command with its output in an open file; returns its exit status."""
        if self.stopped.is_set():
            return -signal.SIGTERM
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads)}
        with subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        ) as process:
            self.processes.add(process)
            if self.stopped.is_set():  # meanwhile
                self.stop()
            try:
                return process.wait()
            finally:
                self.processes.discard(process)

    def stop(self):
        """Ends the runs that are under way, each with all processes that it has started."""
        self.stopped.set()
        for process in tuple(self.processes):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)

    def _curve_words(self, run, words, epsilons):
        """The command that draws the student's accuracy against epsilon, on the images that run.sh
        attacks. The accuracy that the experiment's own record has at one of them is not found again.
        """
        folder = self.folder(run)
        images = commands.meaning(words).get(("train", "--images"))
        command = [sys.executable, "-m", "train.evaluate", "--epsilon", epsilons]
        command += ["--checkpoint", str(folder / "student" / "checkpoint.pt")]
        command += ["--record", str(folder / "log.json")]
        command += ["--dataset", commands.last(words, "-d"), "--root", commands.last(words, "-r")]
        command += ["--seed", commands.last(words, "-s")]
        command += ["--images", images] if images else []
        command += ["--device", commands.last(words, "-u")] if "-u" in words else []
        return command

    def _record(self, run, words, with_curve):
        """Keeps what run.sh left of a run as its line in results/."""
        from guard.paper import records
        from guard.run import storage

        folder = self.folder(run)
        record = records.trimmed(storage.read_sealed(folder / "log.json", "record"))
        curve = None
        if with_curve:
            curve = records.trimmed_entry(storage.read_sealed(folder / "curve.json", "curve"))
        contents = records.contents_of(run, self.scale, commands.shown(words), record, curve)
        records.add(contents, self.results, self.table)


def _complaint(log, begin):
    """The line of a log, from `begin` on, that says what went wrong: the last error, or the last line."""
    with open(log, errors="replace") as file:
        file.seek(begin)
        lines = file.read().strip().splitlines() or ["no output"]
    errors = [line for line in lines if line.startswith("error: ")]
    return errors[-1] if errors else lines[-1]


def do_all(work, runner, jobs):
    """Does `work` ((run, words) pairs), `jobs` at a time, runs that make teachers before those that borrow
    them; returns {run: line} of those that failed. Ctrl-C, SIGTERM and SIGHUP end what is under way.
    """
    failed = {}
    with _ended_as_by_ctrl_c():
        _do_all(work, runner, jobs, failed)
    return failed


@contextlib.contextmanager
def _ended_as_by_ctrl_c():
    """Has the signals that end a process raise KeyboardInterrupt, but those that are ignored, as by nohup."""
    earlier = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGHUP)}
    earlier = {each: handler for each, handler in earlier.items() if handler == signal.SIG_DFL}
    for each in earlier:
        signal.signal(each, signal.default_int_handler)
    try:
        yield
    finally:
        for each, handler in earlier.items():
            signal.signal(each, handler)


def _do_all(work, runner, jobs, failed):
    """Adds the runs that failed to `failed`."""
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
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            runner.stop()
            raise
        finally:
            pool.shutdown()


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
