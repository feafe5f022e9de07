"""Cells: the records of single runs under results/cells, read, checked and gathered over seeds.

A cell is one run of one arm at one size with one seed: results/cells/SCALE/DATASET-ipcN-ARM-seedS.json,
and beside it, under the same name, a PNG with the first distilled image of up to ten classes in a row.
"""

from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from guard.errors import UserError
from guard.paper.plan import ARMS, FORMAT, SCALES
from guard.run import storage

STAGES = ("pretrain", "recover", "relabel", "train")
FIELDS = {
    "scale": str,
    "dataset": str,
    "images per class": int,
    "arm": str,
    "seed": int,
    "images from": str,
    "labels from": str,
    "record": dict,
}
NEEDED = {
    "pretrain": ("model", "image_size", "epochs", "batch_size", "learning_rate"),
    "recover": ("iterations", "r_bn", "step_size"),
    "relabel": ("epochs",),
    "train": ("model", "temperature"),
}
EVALUATION = {"protocols": list, "epsilon": (int, float), "images": int, "attacks": dict}
# settings that name what a run was made from, not how: they differ between seeds as they must
OF_THE_RUN = {"seed", "train images", "train teacher", "labels seed"}


@dataclass(frozen=True)
class Cell:
    """One run. strip: its row of distilled images, or None. curve: accuracy against epsilon, or None."""

    path: Path
    scale: str
    dataset: str
    images_per_class: int
    arm: str
    seed: int
    images_from: str
    labels_from: str
    record: dict
    curve: dict | None
    strip: Path | None

    @property
    def swapped(self):
        """Whether images and labels come from teachers of different arms."""
        return self.images_from != self.labels_from


def read(results):
    """Every cell under results/cells, in the order of size, arm and seed. Raises UserError for a file
    there that is no cell.
    """
    folder, cells = Path(results) / "cells", {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or path.name.startswith("."):  # a hidden file is one that is being written
            continue
        if path.suffix == ".png" and path.with_suffix(".json").exists():
            continue
        if path.suffix != ".json" or path.parent.parent != folder:
            raise UserError(f"{path} is no record of a run; remove it from {folder}")
        cell = _cell(path)
        key = (
            list(SCALES).index(cell.scale),
            cell.dataset,
            cell.images_per_class,
            rank(cell.arm),
            cell.arm,
            cell.seed,
        )
        if key in cells:
            raise UserError(f"{path} and {cells[key].path} are the same run; remove one of them")
        cells[key] = cell
    return [cells[key] for key in sorted(cells)]


def rank(arm):
    """Where an arm stands among the arms, those without a place of their own last."""
    return list(ARMS).index(arm) if arm in ARMS else len(ARMS)


def _cell(path):
    contents = storage.read_json(path, "record of a run")
    problem = _problem(contents, path)
    if problem:
        raise UserError(f"{path} is no record of a run ({problem}); remove it and make it again")
    strip = path.with_suffix(".png")
    return Cell(
        path=path,
        scale=contents["scale"],
        dataset=contents["dataset"],
        images_per_class=contents["images per class"],
        arm=contents["arm"],
        seed=contents["seed"],
        images_from=contents["images from"],
        labels_from=contents["labels from"],
        record=contents["record"],
        curve=contents.get("curve"),
        strip=strip if strip.exists() else None,
    )


def _problem(contents, path):
    """What keeps a file from being a cell, or None."""
    if contents.get("format") != FORMAT:
        return f"its format is {contents.get('format')!r}, not {FORMAT!r}"
    wrong = [
        name
        for name, kind in FIELDS.items()
        if not isinstance(contents.get(name), kind) or isinstance(contents.get(name), bool)
    ]
    if wrong:
        return f"'{wrong[0]}' is missing or of the wrong kind"
    if contents["scale"] not in SCALES or contents["scale"] != path.parent.name:
        return (
            f"its scale is {contents['scale']!r} in the folder {path.parent.name!r}; scales are"
            f" {' and '.join(SCALES)}"
        )
    return problem_of_record(contents["record"]) or _problem_of_curve(contents.get("curve"))


def problem_of_record(record):
    """What keeps a trimmed log.json from being the record of a whole experiment, or None."""
    if not isinstance(record, dict):
        return "it is no record"
    missing = [stage for stage in (*STAGES, "evaluate student") if not isinstance(record.get(stage), dict)]
    if missing:
        return f"its record has no entry '{missing[0]}'"
    for stage, names in NEEDED.items():
        settings = record[stage].get("settings")
        wrong = [
            name
            for name in names
            if not isinstance(settings, dict)
            or not isinstance(settings.get(name), str if name == "model" else (int, float))
        ]
        if wrong:
            return f"the settings of '{stage}' have no {wrong[0]}, or one of the wrong kind"
    evaluated = record["evaluate student"]
    if not evaluated.get("complete"):
        return "the evaluation of its student is not finished"
    wrong = [name for name, kind in EVALUATION.items() if not isinstance(evaluated.get(name), kind)]
    if wrong:
        return f"the evaluation of its student has no {wrong[0]}, or one of the wrong kind"
    if evaluated["images"] < 1:
        return "its student was evaluated on no images"
    return _problem_of_accuracies(record, "student") or _problem_of_accuracies(record, "teacher")


def _problem_of_accuracies(record, network):
    entry = record.get(f"evaluate {network}", {})
    attacks = entry.get("attacks", {}) if isinstance(entry, dict) else None
    if not isinstance(attacks, dict):
        return f"the evaluation of its {network} holds no attacks"
    wrong = [
        name
        for name, attack in attacks.items()
        if not isinstance(attack, dict) or not _percent(attack.get("accuracy"))
    ]
    return f"the {network}'s accuracy under {wrong[0]} is no percentage" if wrong else None


def _problem_of_curve(curve):
    if curve is None:
        return None
    fine = (
        isinstance(curve, dict)
        and isinstance(curve.get("epsilon"), list)
        and isinstance(curve.get("accuracy"), list)
    )
    if (
        not fine
        or len(curve["epsilon"]) != len(curve["accuracy"])
        or not all(map(_percent, curve["accuracy"]))
    ):
        return "its curve is no list of epsilons with as many percentages"
    return None


def _percent(value):
    return isinstance(value, (int, float)) and 0 <= value <= 100


# ---- runs that differ in their seeds alone -------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """The runs of one arm at one size."""

    scale: str
    dataset: str
    images_per_class: int
    arm: str
    images_from: str
    labels_from: str
    cells: tuple

    @property
    def records(self):
        return [cell.record for cell in self.cells]

    @property
    def swapped(self):
        return self.images_from != self.labels_from


def groups(cells):
    """The cells gathered over seeds, in their order."""
    found = {}
    for cell in cells:
        key = (cell.scale, cell.dataset, cell.images_per_class, cell.arm, cell.images_from, cell.labels_from)
        found.setdefault(key, []).append(cell)
    return [Group(*key, tuple(held)) for key, held in found.items()]


def average(values):
    """(mean, standard deviation over runs or None for one run); None where a run has no value, as a mean
    over others would mix.
    """
    if not values or any(value is None for value in values):
        return None
    return mean(values), stdev(values) if len(values) > 1 else None


def accuracy(record, network, attack):
    """Percent, or None where the record has no such measurement."""
    return record.get(f"evaluate {network}", {}).get("attacks", {}).get(attack, {}).get("accuracy")


def accuracies(runs, network, attack):
    """Mean and standard deviation over the records of an accuracy of 'teacher' or 'student', or None."""
    return average([accuracy(record, network, attack) for record in runs])


def robust_attack(groups):
    """The attack that stands for robustness where one number has to: PGD100, or PGD20 where no run met
    that.
    """
    return "pgd100" if any(accuracies(group.records, "student", "pgd100") for group in groups) else "pgd20"


def worst_cases(runs):
    return average([record["evaluate student"].get("worst_case") for record in runs])


def curvature(record, name):
    return record["pretrain"].get("results", {}).get("curvature", {}).get(name)


def settings(record):
    """Every setting of a run, apart from its seed and from the fingerprints that follow from it: 'stage
    name' -> value.
    """
    found = {}
    for stage in STAGES:
        for name, value in record[stage]["settings"].items():
            if name == "labels" and isinstance(value, dict):
                found |= {f"labels {inner}": inside for inner, inside in value.items()}
            elif name != "seed":
                found[f"{stage} {name}"] = value
    evaluated = record["evaluate student"]
    found |= {f"evaluation {name}": evaluated.get(name) for name in ("epsilon", "images", "protocols")}
    return {name: value for name, value in found.items() if name not in OF_THE_RUN}


def differences(runs):
    """What differs between the settings of records that should differ in their seeds alone: 'stage name
    (8, 4)', one for each.
    """
    told = []
    held = [settings(record) for record in runs]
    for name in dict.fromkeys(name for one in held for name in one):
        values = list(dict.fromkeys(str(one.get(name, "not recorded")) for one in held))
        if len(values) > 1:
            told.append(f"{name} ({', '.join(values)})")
    return told
