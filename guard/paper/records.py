"""The records of runs: results/SCALE/TABLE.jsonl, one line of JSON for each run, sealed with its fingerprint.

A run that several tables share stands in the file of the table under which it was done first; every reader
takes all files. What is long and can be had again (histories, which images fell) is not kept.
"""

import json
import threading
from dataclasses import dataclass
from pathlib import Path

from guard.earlier import as_now
from guard.errors import UserError, first_line
from guard.paper.arms import rank
from guard.paper.checks import problem_of
from guard.paper.plan import SCALES, TABLES, PlannedRun
from guard.run import evaluations, lock, storage

FORMAT = "guard-cell-1"
STAGES = ("pretrain", "recover", "relabel", "train")
_adding = threading.Lock()


@dataclass(frozen=True, eq=False)
class RecordedRun(PlannedRun):
    """A run that was done.

    record: its log.json, trimmed; curve: the student's accuracy against epsilon, or None; command: its
    run.sh; place: 'FILE, line N'.
    """

    scale: str
    command: str
    record: dict
    curve: dict | None
    place: str

    @property
    def table(self):
        """The table whose file it stands in."""
        return Path(self.place.rpartition(", line ")[0]).stem

    @property
    def order(self):
        """Runs are sorted by this: scale, size, arm, seed."""
        scale = list(SCALES).index(self.scale)
        return scale, self.dataset, self.images_per_class, rank(self.arm), self.arm, self.seed


# ---- reading -------------------------------------------------------------------------------------


def read(results):
    """Every recorded run in the folder `results`, in order. Raises UserError for a file that holds no
    runs, a damaged line, and a run that is there twice.
    """
    found = {}
    for path in _files(Path(results)):
        for run, _ in _lines(path):
            if run.order in found:
                other = found[run.order].place
                raise UserError(f"{run.place} and {other} are the same run, {run.name}; remove one of them")
            found[run.order] = run
    return [found[order] for order in sorted(found)]


def _files(results):
    """The files of runs. Raises UserError for a file among them, or one that ends like them, that is none."""
    found = []
    for path in sorted([*results.glob("*.jsonl"), *results.glob("*/*")]):
        if path.name.startswith("."):  # a file that is being written, or a lock
            continue
        of_a_scale, of_runs = path.parent.name in SCALES and path.parent != results, path.suffix == ".jsonl"
        if of_runs and not of_a_scale:
            raise UserError(
                f"{path} is in the folder of no scale; it belongs into one of {', '.join(SCALES)}"
            )
        if of_a_scale and not (of_runs and path.stem in TABLES):
            raise UserError(f"{path} is no file of runs: no table has its name; remove it from {path.parent}")
        if of_runs:
            found.append(path)
    return found


def _lines(path):
    """(recorded run, its line as it stands) for every line of a file."""
    try:
        text = path.read_text()
    except (OSError, ValueError) as problem:
        raise UserError(f"{path} cannot be read ({first_line(problem)}); {_remedy(path)}") from None
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        found.append((_recorded(line, f"{path}, line {number}", path), line))
    return found


def _remedy(path):
    return f"take the repository's own again (git checkout {path}), or remove the line and run it again"


def _recorded(line, place, path):
    """The run of one line. Raises UserError that names its place."""
    try:
        contents = dict(json.loads(line))
        seal = contents.pop(storage.SEAL, None)
    except (ValueError, RecursionError, AttributeError, TypeError) as problem:
        raise UserError(f"{place} is no record of a run ({first_line(problem)}); {_remedy(path)}") from None
    if storage.sealed(contents)[storage.SEAL] != seal:
        raise UserError(f"{place} is damaged: it does not match its fingerprint; {_remedy(path)}")
    problem = problem_of(contents, FORMAT, path.parent.name)
    if problem:
        raise UserError(f"{place} is no record of a run ({problem}); {_remedy(path)}")
    run = RecordedRun(
        dataset=contents["dataset"],
        images_per_class=contents["images per class"],
        images_from=contents["images from"],
        labels_from=contents["labels from"],
        seed=contents["seed"],
        scale=contents["scale"],
        command=contents["command"],
        record=_as_now(contents["record"]),
        curve=contents.get("curve"),
        place=place,
    )
    if run.arm != contents["arm"]:
        raise UserError(f"{place} is no record of a run (its arm is not '{run.arm}'); {_remedy(path)}")
    return run


def _as_now(record):
    """A record with the settings of its stages under the names that they have today.

    Settings come in here and nowhere else.
    """
    renewed = dict(record)
    for stage in STAGES:
        settings = as_now(stage, record[stage]["settings"])
        if isinstance(settings.get("labels"), dict):
            settings["labels"] = as_now("relabel", settings["labels"])
        renewed[stage] = {**record[stage], "settings": settings}
    return renewed


# ---- writing -------------------------------------------------------------------------------------


def contents_of(run, scale, command, record, curve=None):
    """The JSON object of a run that was just done. record: as of `trimmed`."""
    return {
        "format": FORMAT,
        "scale": scale,
        "dataset": run.dataset,
        "images per class": run.images_per_class,
        "arm": run.arm,
        "seed": run.seed,
        "images from": run.images_from,
        "labels from": run.labels_from,
        "command": command,
        "record": record,
        "curve": curve,
    }


def trimmed(entries):
    """The entries of a log.json that are this run's, without what is long and can be had again, and without
    what names folders of the machine: checkpoints, and the stages' commands, for which that of run.sh stands.
    Raises UserError where the student's evaluation isn't finished.
    """
    if not entries.get("evaluate student", {}).get("complete"):
        raise UserError("a record has no finished evaluation of its student; let bash run.sh finish first")
    return {stage: trimmed_entry(entry) for stage, entry in entries.items() if stage != evaluations.OTHERS}


def trimmed_entry(entry):
    """One entry, or a curve, without that."""
    kept = _without(entry, "history", "checkpoint")
    if "environment" in entry:
        kept["environment"] = _without(entry["environment"], "command")
    if "attacks" in entry:
        kept["attacks"] = {name: _without(found, "broken") for name, found in entry["attacks"].items()}
    return kept


def _without(entry, *left_out):
    return {name: value for name, value in entry.items() if name not in left_out}


def add(contents, results, table):
    """Writes a run's line into results/SCALE/TABLE.jsonl, or in place of the line that the run has in the
    file of another table. Safe where several threads or processes add at a time: one waits for the other,
    and a reader sees the file before or after, never between. Raises UserError as `read`.
    """
    folder = Path(results) / contents["scale"]
    line = json.dumps(storage.sealed(contents))
    path = folder / f"{table}.jsonl"
    new = _recorded(line, str(path), path)
    with _adding, lock.held(folder, wait=True):
        held = {}
        for other in (other for other in _files(Path(results)) if other.parent == folder):
            held[other] = {run.order: text for run, text in _lines(other)}
        path = next((other for other, runs in held.items() if new.order in runs), path)
        runs = {**held.get(path, {}), new.order: line}
        with storage.replacing(path) as temporary:
            temporary.write_text("".join(f"{runs[order]}\n" for order in sorted(runs)))
