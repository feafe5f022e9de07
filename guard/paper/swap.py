"""Images from one teacher, soft labels from another: which of the two carries the robustness.

The four combinations of images and labels from a plain or from a regularized teacher are four students, a
square; the average change that comes with the regularized teacher's images, and with its labels, are the
main effects of the two.
"""

from dataclasses import dataclass

from guard.paper import arms, not_run, plan, published, settings
from guard.paper import groups as gathered
from guard.paper.markdown import heading, measure, number, scale_text, table
from guard.report.statistics import average

TITLE = "Images from one teacher, labels from another"
INTRODUCTION = """\
Accuracy of the student in percent, mean ± standard deviation over seeds (of a single run ± the standard
error that its images leave), number of runs in brackets; beside it the accuracy and the curvature of the
teacher whose images a row has (curvature per squared normalized-image unit). The effect of the images is
the change from the plain teacher's to the regularized one's, averaged over both kinds of labels; the effect
of the labels likewise; both over the seeds that all four students have.
"""
CURVATURE = {
    "gradient_change": "gradient change",
    "along_z": "along the gradient",
    "largest_eigenvalue": "largest eigenvalue",
}


@dataclass(frozen=True)
class Square:
    """The students of images and labels from a plain teacher or from that of another arm.

    size: as of a Group. plain, arm: names. groups: {(images from, labels from): Group}, of those that have
    been run.
    """

    size: tuple
    plain: str
    arm: str
    groups: dict

    @property
    def attack(self):
        """The attack that stands for robustness."""
        return gathered.robust_attack(self.groups.values())

    @property
    def shown(self):
        """What is shown of a student: clean accuracy as of `groups.clean_accuracy`, the attack's name, and
        twice its epsilon, where all of them have been measured at that.
        """
        twice = gathered.twice_the_epsilon(self.groups.values())
        return [gathered.clean_accuracy(self.groups.values()), self.attack, *([twice[1]] if twice else [])]

    @property
    def as_planned(self):
        """Whether all students are by the plan's settings, and those of a pair by the same teachers."""
        groups = self.groups.values()
        others = any(_other_teachers(self.groups, group) for group in groups)
        return not others and all(map(gathered.as_planned, groups))

    def effects(self, what):
        """((mean, uncertainty) of the effect of the images, of the labels, number of seeds), over the seeds
        that all four students have; None where a student is missing. The uncertainty of a single seed is
        that of four independent accuracies. what: one of `shown`.
        """
        pairs = _pairs(self.plain, self.arm)
        if not all(pair in self.groups for pair in pairs):
            return None
        of_images, of_labels, errors = [], [], []
        for students in gathered.at_common_seeds([self.groups[pair] for pair in pairs], what):
            plain, labels, images, both = (accuracy for accuracy, _ in students)
            of_images.append((images - plain + both - labels) / 2)
            of_labels.append((labels - plain + both - images) / 2)
            errors.append(gathered.error_of_sum(students) / 2)
        if not errors:
            return None
        return average(of_images, errors[0]), average(of_labels, errors[0]), len(errors)


def section(groups, results):
    """Markdown lines. groups: those of the plain and of the swapped runs."""
    lines = [heading(2, TITLE), INTRODUCTION]
    for square in squares(groups):
        scale, dataset, size = square.size
        lines += [heading(3, f"{published.place(dataset, size, square.arm)}, {scale_text(scale)}")]
        lines += [*_table(square), ""]
    return lines + not_run.lines(["swap"], plan.SCALES, groups, results)


def squares(groups):
    """The Square of every arm that was swapped with one of a plain teacher."""
    found = []
    for size, here in gathered.by_size(groups).items():
        held = {(group.images_from, group.labels_from): group for group in here}
        for plain in plan.SWAPS.values():
            swapped = {arm for pair in held if pair[0] != pair[1] and plain in pair for arm in pair}
            for arm in sorted(swapped - {plain}, key=arms.rank):
                of_arm = {pair: held[pair] for pair in _pairs(plain, arm) if pair in held}
                found.append(Square(size, plain, arm, of_arm))
    return found


def _pairs(plain, arm):
    """(images from, labels from) of the four students."""
    return [(plain, plain), (plain, arm), (arm, plain), (arm, arm)]


# ---- numbers -------------------------------------------------------------------------------------


def _name(what, square):
    """What a column shows: clean, the evaluation's attack, or the curve's, which may be another."""
    if isinstance(what, str):
        return what
    attack, epsilon = gathered.twice_the_epsilon(square.groups.values())
    return f"{attack} at {epsilon * 255:.3g}/255"


# ---- tables --------------------------------------------------------------------------------------


def _table(square):
    shown, both = square.shown, (square.plain, square.arm)
    names = [_name(what, square) for what in shown]
    header = [
        "images from",
        *(f"labels from {labels}: {name}" for labels in both for name in names),
        *(f"teacher: {name}" for name in names[:2]),
        *CURVATURE.values(),
    ]
    rows = []
    for images in both:
        row = [images]
        for labels in both:
            row += [_student(square.groups.get((images, labels)), what) for what in shown]
        rows.append([*row, *_teacher(square.groups.get((images, images)), shown[:2])])
    return [*table(header, rows, left=1), "", *_effects(square, names), *_notes(square)]


def _student(group, what):
    found = list(gathered.by_seed(group, what).values()) if group else []
    if not found or len(found) < len(group.runs):
        return number(None)
    shown = average([accuracy for accuracy, _ in found], found[0][1])
    return f"{number(shown)} [{len(group.runs)}]"


def _teacher(group, shown):
    """Accuracy and curvature of the teacher, from the runs whose images and labels are both its own."""
    records = group.records if group else []
    accuracies = [number(gathered.accuracies(records, "teacher", attack)) for attack in shown]
    return accuracies + [measure(gathered.curvatures(records, name), ".3g") for name in CURVATURE]


def _effects(square, names):
    rows = []
    for what, name in zip(square.shown, names):
        images, labels, seeds = square.effects(what) or (None, None, number(None))
        rows.append([name, number(images, "+"), number(labels, "+"), str(seeds)])
    of_arm = [f"{part} from {square.arm}" for part in ("images", "labels")]
    header = ["change of the student, points", *of_arm, "seeds"]
    return table(header, rows, left=1)


def _notes(square):
    told = settings.lines(square.groups.values())
    for group in square.groups.values():
        told += [*settings.warnings([group]), *_other_teachers(square.groups, group)]
    return [f"\n{line}" for line in told]


def _other_teachers(groups, group):
    """A warning where a run with swapped labels is not made from the teachers of the runs that it stands
    beside.
    """
    told = []
    for run in group.runs if group.swapped else ():
        for stage, arm in (("recover", run.images_from), ("relabel", run.labels_from)):
            beside = groups[arm, arm].runs if (arm, arm) in groups else ()
            teachers = {other.record[stage].get("teacher") for other in beside if other.seed == run.seed}
            if teachers and run.record[stage].get("teacher") not in teachers:
                wrong = f"its {stage} did not use the teacher of {arm} with seed {run.seed}"
                told.append(f"**Warning**: {run.name}: {wrong}.")
    return told
