"""Runs that differ in their seeds alone, gathered: means, and what uncertainty stands beside them."""

from dataclasses import dataclass
from math import sqrt

from guard.paper import commands
from guard.recipes import recipe
from guard.report.statistics import average, standard_error

PLAIN, ROBUST = "sre2l", "guard"  # the arms that all others are compared with
ALL_CLEAN = "clean, all"  # on all validation images, of which the attacks meet a part
VAL_IMAGES = {"cifar10": 10_000}  # of the data sets where they do


@dataclass(frozen=True)
class Group:
    """The recorded runs of one arm at one size."""

    scale: str
    dataset: str
    images_per_class: int
    images_from: str
    labels_from: str
    runs: tuple

    @property
    def arm(self):
        return self.runs[0].arm

    @property
    def swapped(self):
        return self.images_from != self.labels_from

    @property
    def size(self):
        """What the groups of one table share."""
        return self.scale, self.dataset, self.images_per_class

    @property
    def records(self):
        return [run.record for run in self.runs]


def gather(runs):
    """The recorded runs as groups, in their order."""
    found = {}
    for run in runs:
        key = (run.scale, run.dataset, run.images_per_class, run.images_from, run.labels_from)
        found.setdefault(key, []).append(run)
    return [Group(*key, tuple(held)) for key, held in found.items()]


def as_planned(group):
    """Whether all runs of a group were asked for what the plan asks of them, attacks aside."""
    return all(map(commands.as_planned, group.runs))


# ---- numbers of one run --------------------------------------------------------------------------


def devices(record):
    """The kinds of device that the stages of a run were computed on, without their threads; sorted."""
    return sorted({entry["environment"]["device"].split(",")[0] for entry in record.values()})


def accuracy(record, network, attack):
    """Percent of 'teacher' or 'student', or None where the record has no such measurement. attack: one of the
    evaluation's, 'clean' among them, or ALL_CLEAN, which stands at the end of its training.
    """
    if attack == ALL_CLEAN:
        trained = record[{"teacher": "pretrain", "student": "train"}[network]]
        on_all = _dataset(record) in VAL_IMAGES and not trained["settings"].get("val_images")
        return trained.get("results", {}).get("val accuracy") if on_all else None
    return record.get(f"evaluate {network}", {}).get("attacks", {}).get(attack, {}).get("accuracy")


def error_of(record, network, attack):
    """The standard error that the number of images leaves an accuracy, or None."""
    found = accuracy(record, network, attack)
    if found is None:
        return None
    attacked = record.get(f"evaluate {network}", {}).get("images")
    return standard_error(found, VAL_IMAGES[_dataset(record)] if attack == ALL_CLEAN else attacked)


def _dataset(record):
    return record["train"]["settings"].get("dataset")


def curvature(record, name):
    """Of the teacher, per squared normalized-image unit, or None.

    The change of the gradient falls as its step grows, so there is none where a record has it of another step
    than its data set's recipe.
    """
    pretrain = record["pretrain"]
    measured, dataset = pretrain.get("results", {}).get("curvature", {}), pretrain["settings"].get("dataset")
    if name == "gradient_change" and dataset and measured.get("h") != recipe(dataset).pretrain.h:
        return None
    return measured.get(name)


# ---- numbers of several runs ---------------------------------------------------------------------


def accuracies(records, network, attack):
    """(mean, uncertainty) of an accuracy over records; a single run has the standard error that its
    number of images leaves. None where a record has no such measurement.
    """
    errors = [error_of(record, network, attack) for record in records]
    return average([accuracy(record, network, attack) for record in records], errors[0] if errors else None)


def worst_cases(records):
    """(mean, uncertainty) of the share of images that survive clean and every attack, as `accuracies`."""
    found = [record["evaluate student"].get("worst_case") for record in records]
    error = None
    if len(found) == 1 and found[0] is not None:
        error = standard_error(found[0], records[0]["evaluate student"]["images"])
    return average(found, error)


def curvatures(records, name):
    """(mean, standard deviation or None for a single run) of a measure of the teacher's curvature."""
    return average([curvature(record, name) for record in records])


def curve(group):
    """epsilon -> (mean, uncertainty) of the student's accuracy, at the epsilons that the curves of all runs
    have; {} where a run has no curve.
    """
    measured = [run.curve for run in group.runs]
    if not all(measured):
        return {}
    points = [dict(zip(one["epsilon"], one["accuracy"], strict=True)) for one in measured]
    shared = [epsilon for epsilon in points[0] if all(epsilon in one for one in points)]
    found = {}
    for epsilon in sorted(shared):
        values, images = [one[epsilon] for one in points], measured[0].get("images")
        found[epsilon] = average(values, standard_error(values[0], images) if images else None)
    return found


def by_seed(group, what):
    """seed -> (accuracy of the student, its standard error) of the runs that have it. what: an attack as of
    `accuracy`, or an epsilon of the runs' curves.
    """
    found = {}
    for run in group.runs:
        if isinstance(what, str):
            measured, error = accuracy(run.record, "student", what), error_of(run.record, "student", what)
        else:
            measured, error = _on_the_curve(run.curve, what)
        if measured is not None:
            found[run.seed] = measured, error
    return found


def at_common_seeds(groups, what, *, on_any_device=False):
    """For each seed that all of the groups have, measured alike, of the same training images and computed on
    the same kinds of device, their students as of `by_seed`, in the groups' order. on_any_device: whatever
    they were trained on.
    """
    students = [by_seed(group, what) for group in groups]
    seeds = [seed for seed in students[0] if all(seed in student for student in students)]
    made = [{run.seed: _made_alike(run, what, on_any_device) for run in group.runs} for group in groups]
    seeds = [seed for seed in seeds if all(each[seed] == made[0][seed] for each in made)]
    return [[student[seed] for student in students] for seed in seeds]


def _made_alike(run, what, on_any_device):
    """What has to be the same of two runs for their accuracies to say something of the students. what: as of
    `by_seed`.
    """
    evaluated = run.record["evaluate student"]
    data, how = [evaluated.get("key", {}).get(name) for name in ("dataset", "data")], None
    if what == "clean":
        how = evaluated.get("images")
    elif what != ALL_CLEAN:
        attacked = evaluated if isinstance(what, str) else run.curve or {}
        how = attacked.get("images"), attacked.get("epsilon") if isinstance(what, str) else None
    trained = None if on_any_device else (run.record["pretrain"]["settings"].get("data"), devices(run.record))
    return data, how, trained


def error_of_sum(measured):
    """The standard error of a sum or difference of independent accuracies. measured: as of `by_seed`."""
    return sqrt(sum(error**2 for _, error in measured))


def _on_the_curve(curve, epsilon):
    """(accuracy, its standard error) at an epsilon, or (None, None)."""
    if not curve or epsilon not in curve["epsilon"]:
        return None, None
    found = curve["accuracy"][curve["epsilon"].index(epsilon)]
    return found, standard_error(found, curve["images"])


def twice_the_epsilon(groups):
    """(attack of the curves, twice the epsilon of the students' evaluation), where the curves of all runs
    have that and are of one attack, else None.
    """
    runs = [run for group in groups for run in group.runs]
    twice = 2 * runs[0].record["evaluate student"].get("epsilon", 0.0)
    if not twice or not all(run.curve and twice in run.curve["epsilon"] for run in runs):
        return None
    attacks = {run.curve["attack"] for run in runs}
    return (attacks.pop(), twice) if len(attacks) == 1 else None


def change(group, before, what, *, on_any_device=False):
    """((mean, uncertainty) of the student's accuracy less that of the group `before` with the same seed,
    number of seeds that both have), or None. what: as of `by_seed`; on_any_device: as of `at_common_seeds`.

    The uncertainty of a single pair is that of two independent accuracies.
    """
    pairs = at_common_seeds([group, before], what, on_any_device=on_any_device)
    if not pairs:
        return None
    values = [one - other for (one, _), (other, _) in pairs]
    return average(values, error_of_sum(pairs[0])), len(values)


def robust_attack(groups):
    """The attack that stands for robustness where one number has to: PGD100, or PGD20 where no run met
    that.
    """
    met = any(accuracies(group.records, "student", "pgd100") for group in groups)
    return "pgd100" if met else "pgd20"


def clean_accuracy(groups):
    """What stands for clean accuracy where groups are compared: that on all validation images, where all of
    their runs have it and the attacks met a part of them.
    """
    on_all = all(accuracies(group.records, "student", ALL_CLEAN) for group in groups)
    return ALL_CLEAN if on_all else "clean"


def by_size(groups):
    """{(scale, data set, images per class): groups}, in their order."""
    found = {}
    for group in groups:
        found.setdefault(group.size, []).append(group)
    return found


def of_arm(groups, arm):
    """The first group of an arm, or None."""
    return next((group for group in groups if group.arm == arm), None)
