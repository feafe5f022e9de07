"""Several experiments side by side: those that differ in their seed alone are one row."""

import json
import os.path
import re
from dataclasses import dataclass
from pathlib import Path

from guard import earlier
from guard.attacks import checks
from guard.errors import UserError
from guard.paper import groups
from guard.paper.markdown import number, table
from guard.report import experiment

# of a stage's settings: no choice of anybody's, or nothing that a network comes from
DRAWN = ("seed", "pack_images", *earlier.TOLD_ALONE)
NETWORKS = ("student", "teacher")


@dataclass(frozen=True)
class Run:
    """An experiment. settings: {'stage name': value} of all that was chosen; record: its log.json."""

    folder: Path
    seed: int
    settings: dict
    record: dict


@dataclass(frozen=True)
class Row:
    """Experiments that differ in their seed alone, and in what follows from it."""

    name: str
    runs: list

    @property
    def records(self):
        return [run.record for run in self.runs]


def compare(folders):
    """Markdown: a row for each group of experiments, means over their seeds and standard deviations; how each
    differs from the first, in settings and, seed by seed, in accuracy.

    folders: of experiments. Raises UserError for one without a finished evaluation of its student, for one
    that was attacked on other images or within another epsilon than the first, and for two of one seed and
    settings.
    """
    rows = _rows([_read(Path(folder)) for folder in folders])
    attacks = _attacks(rows)
    shown = _accuracies(rows, attacks)
    counts = {int(runs) for _, _, runs, *_ in shown}
    several = max(counts) > 1
    first = rows[0].runs[0].record["evaluate student"]
    spread = "standard deviation over the seeds" if several else f"standard error of {first['images']} images"
    if several and 1 in counts:
        spread += f", or of one run the standard error of {first['images']} images"
    said = f"Accuracy in percent ± the {spread}, epsilon {first['epsilon'] * 255:.4g}/255."
    lines = [*table(["", "network", "runs", *attacks], shown, left=2), "", said, *_left_out(rows, attacks)]
    lines += [
        f"{run.folder}, {network}, warning: {text}."
        for row in rows
        for run in row.runs
        for network, text in checks.said_of_both(run.record)
    ]
    if len(rows) > 1:
        lines += ["", f"Students, less those of {rows[0].name} with the same seed:", ""]
        lines += table(["", "runs", *attacks], _changes(rows, attacks), left=1)
        lines += ["", *(_difference(row, rows[0]) for row in rows[1:])]
    return "\n".join(lines)


# ---- runs and rows -------------------------------------------------------------------------------


def _read(folder):
    if not (folder / "log.json").exists():
        raise UserError(f"no record at {folder / 'log.json'}; name folders of experiments")
    record, results = experiment.read(folder / "log.json")
    if "student" not in results:
        raise UserError(f"{folder} has no evaluated student yet; run python -m train first")
    if "train" not in record:
        raise UserError(
            f"{folder / 'log.json'} says nothing of its student's training; python -m train --force does both"
            " again"
        )
    return Run(folder, record["train"]["seed"], _settings(record), record)


def _settings(record):
    """{'stage name': value}, without what follows from the seed and from the stages before."""
    found = {}
    for stage in experiment.STAGES:
        if stage not in record or (stage == "relabel" and "labels" in record["train"]["settings"]):
            continue  # of the labels the student has told, whoever made them
        chosen = earlier.read_by_stage(stage, earlier.as_now(stage, record[stage]["settings"]))
        if stage == "train":
            teacher, of_views = chosen.pop("teacher", None), chosen.pop("labels", None)
            if of_views:
                views = earlier.read_by_stage("relabel", earlier.as_now("relabel", of_views))
                found |= {f"relabel {name}": value for name, value in views.items() if name not in DRAWN}
            if "recover" in record:  # else nothing but their fingerprint tells which images they are
                chosen.pop("images", None)
                if teacher != record["recover"]["teacher"]:  # of that one nothing else is known here
                    chosen["images of teacher"] = record["recover"]["teacher"]
        found |= {f"{stage} {name}": value for name, value in chosen.items() if name not in DRAWN}
    return found


def _rows(runs):
    first, found = runs[0], {}
    for run in runs:
        if _how(run.record, "student") != _how(first.record, "student"):
            raise UserError(
                f"{run.folder} was attacked on other images, or within another epsilon, than {first.folder};"
                " evaluate both alike, by python -m train"
            )
        by_seed = found.setdefault(json.dumps(run.settings, sort_keys=True), {})
        if twin := by_seed.get(run.seed):
            raise UserError(f"{twin.folder} and {run.folder} have the same settings and seed; name one")
        by_seed[run.seed] = run
    groups_of_runs = [list(by_seed.values()) for by_seed in found.values()]
    folders = [[run.folder.resolve().name for run in held] for held in groups_of_runs]
    short = [_common(names) for names in folders]
    names = [name if short.count(name) == 1 else ", ".join(whole) for name, whole in zip(short, folders)]
    if len({*names}) < len(names):  # folders of one name in several places
        names = [", ".join(str(run.folder) for run in held) for held in groups_of_runs]
    return [Row(name, held) for name, held in zip(names, groups_of_runs)]


def _how(record, network):
    """On what and within which epsilon a network was attacked; None where it was not."""
    found = record.get(f"evaluate {network}")
    return found and (found["key"]["dataset"], found["key"]["data"], found["images"], found["epsilon"])


def _common(names):
    """What the names of a row's folders have in common, without what is left of the seed's."""
    if len(names) == 1:
        return names[0]
    common = re.sub(r"[0-9]*$", "", os.path.commonprefix(names))  # 10 and 11 have more in common than 1
    return re.sub(r"[-_. ]*(seed)?[-_. ]*$", "", common) or ", ".join(names)


# ---- numbers -------------------------------------------------------------------------------------


def _attacks(rows):
    """Those that all students met, in their order."""
    first, *others = (record["evaluate student"]["attacks"] for row in rows for record in row.records)
    return [name for name in first if all(name in other for other in others)]


def _left_out(rows, attacks):
    """Lines of the attacks that some students met and others did not, and of the teachers that were attacked
    otherwise than the students, if there are any.
    """
    met = dict.fromkeys(
        name for row in rows for record in row.records for name in record["evaluate student"]["attacks"]
    )
    names = [name for name in met if name not in attacks]
    told = [f"Left out, since not all students met them: {', '.join(names)}."] if names else []
    alike = _how(rows[0].records[0], "student")
    runs = [run for row in rows for run in row.runs]
    others = [run.folder.name for run in runs if _how(run.record, "teacher") not in (None, alike)]
    if others:
        why = "attacked on other images or within another epsilon"
        told.append(f"Left out, since {why}: teacher of {', '.join(others)}.")
    return told


def _accuracies(rows, attacks):
    lines, alike = [], _how(rows[0].records[0], "student")
    for row in rows:
        for network in NETWORKS:
            records = [record for record in row.records if _how(record, network) == alike]
            records = _of_networks(records, network)
            found = [groups.accuracies(records, network, attack) for attack in attacks]
            if any(found):
                lines.append([row.name, network, str(len(records)), *map(number, found)])
    return lines


def _of_networks(records, network):
    """One of the records for each network: experiments that share a teacher say nothing of other teachers."""
    of_each = {}
    for record in records:
        fingerprint = record.get(f"evaluate {network}", {}).get("key", {}).get("fingerprint")
        of_each.setdefault(fingerprint or id(record), record)
    return list(of_each.values())


def _changes(rows, attacks):
    lines = []
    for row in rows[1:]:
        found = [groups.change(row, rows[0], attack, on_any_device=True) for attack in attacks]
        pairs = found[0][1] if found[0] else 0
        shown = [number(each[0], "+") if each else number(None) for each in found]
        lines.append([row.name, str(pairs), *shown])
    return lines


def _difference(row, first):
    """In which of its settings a row is unlike the first, as a line. Of a stage that one of them does not
    tell of, no setting is known to differ; without that of the images, nor are these.
    """
    here, there = row.runs[0].settings, first.runs[0].settings
    told, before = ({name.split()[0] for name in settings} for settings in (here, there))
    unknown = told ^ before
    hidden = {name for name in {*here, *there} if name.split()[0] in unknown}
    hidden |= {"train images", "train images of teacher"} if "recover" in unknown else set()
    here, there = ({name: of[name] for name in of if name not in hidden} for of in (here, there))
    changed = [
        f"{name} {value}" + (f" instead of {there[name]}" if name in there else "")
        for name, value in here.items()
        if name not in there or value != there[name]
    ]
    changed += [f"no {name}" for name in there if name not in here]
    changed += [f"{stage} is {'' if stage in told else 'not '}recorded" for stage in sorted(unknown)]
    return f"{row.name}, unlike {first.name}: {'; '.join(changed)}."
