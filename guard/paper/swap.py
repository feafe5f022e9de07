"""Images from one teacher, soft labels from another: which of the two carries the robustness.

For a regularizer R the four combinations of images from sre2l or R with labels from sre2l or R are four
students, a square; the average change that comes with R's images, and with R's labels, are the main
effects of the two.
"""

from math import sqrt

from guard.paper import arms, not_run, plan, published, settings
from guard.paper import groups as gathered
from guard.paper.groups import PLAIN
from guard.paper.markdown import heading, number, scale_text, table
from guard.report.statistics import average

TITLE = "Images from one teacher, labels from another"
INTRODUCTION = """\
Accuracy of the student in percent, mean ± standard deviation over seeds (of a single run ± the standard
error that its images leave), number of runs in brackets; beside it the accuracy and the curvature of the
teacher whose images a row has (curvature per squared normalized-image unit). The effect of the images is
the change from sre2l's to the regularizer's, averaged over both kinds of labels; the effect of the labels
likewise; both over the seeds that all four students have.
"""
CURVATURE = {
    "gradient_change": "gradient change",
    "along_z": "along the gradient",
    "largest_eigenvalue": "largest eigenvalue",
}


def section(groups, results):
    """Markdown lines. groups: those of the plain and of the swapped runs."""
    lines = [heading(2, TITLE), INTRODUCTION]
    for (scale, dataset, size), arm, square in squares(groups):
        lines += [heading(3, f"{published.place(dataset, size, arm)}, {scale_text(scale)}")]
        lines += [*_square(square, arm), ""]
    return lines + not_run.lines(["swap"], plan.SCALES, groups, results)


def squares(groups):
    """(size, regularizer's arm, {(images from, labels from): group}) for every regularizer that was
    swapped with sre2l.
    """
    found = []
    for size, here in gathered.by_size(groups).items():
        held = {(group.images_from, group.labels_from): group for group in here}
        swapped = {arm for pair in held if pair[0] != pair[1] and PLAIN in pair for arm in pair}
        for arm in sorted(swapped - {PLAIN}, key=arms.rank):
            found.append((size, arm, {pair: held[pair] for pair in _pairs(arm) if pair in held}))
    return found


def _pairs(arm):
    """(images from, labels from) of the four students."""
    return [(PLAIN, PLAIN), (PLAIN, arm), (arm, PLAIN), (arm, arm)]


# ---- the main effects ----------------------------------------------------------------------------


def effects(square, arm, attack):
    """((mean, uncertainty) of the effect of the images, of the labels, number of seeds), over the seeds
    that all four students have; None where a student is missing. The uncertainty of a single seed is that
    of four independent accuracies.
    """
    if not all(pair in square for pair in _pairs(arm)):
        return None
    students = [_by_seed(square[pair], attack) for pair in _pairs(arm)]
    of_images, of_labels, errors = [], [], []
    for seed in students[0]:
        if not all(seed in student for student in students):
            continue
        plain, labels, images, both = (student[seed][0] for student in students)
        of_images.append((images - plain + both - labels) / 2)
        of_labels.append((labels - plain + both - images) / 2)
        errors.append(sqrt(sum(student[seed][1] ** 2 for student in students)) / 2)
    if not errors:
        return None
    return average(of_images, errors[0]), average(of_labels, errors[0]), len(errors)


def _by_seed(group, attack):
    """seed -> (accuracy, its standard error) of the runs that have it."""
    found = {}
    for run in group.runs:
        accuracy = gathered.accuracy(run.record, "student", attack)
        if accuracy is not None:
            found[run.seed] = accuracy, gathered.error_of(run.record, "student", attack)
    return found


# ---- tables --------------------------------------------------------------------------------------


def _square(square, arm):
    shown = "clean", gathered.robust_attack(square.values())
    header = [
        "images from",
        *(f"labels from {labels}: {attack}" for labels in (PLAIN, arm) for attack in shown),
        *(f"teacher: {attack}" for attack in shown),
        *CURVATURE.values(),
    ]
    rows = []
    for images in (PLAIN, arm):
        row = [images]
        for labels in (PLAIN, arm):
            row += [_student(square.get((images, labels)), attack) for attack in shown]
        rows.append([*row, *_teacher(square.get((images, images)), shown)])
    return [*table(header, rows, left=1), "", *_effects(square, arm, shown), *_notes(square)]


def _student(group, attack):
    found = group and gathered.accuracies(group.records, "student", attack)
    return f"{number(found)} [{len(group.runs)}]" if found else number(None)


def _teacher(group, shown):
    """Accuracy and curvature of the teacher, from the runs whose images and labels are both its own."""
    records = group.records if group else []
    accuracies = [number(gathered.accuracies(records, "teacher", attack)) for attack in shown]
    return accuracies + [number(gathered.curvatures(records, name), ".3g") for name in CURVATURE]


def _effects(square, arm, shown):
    rows = []
    for attack in shown:
        images, labels, seeds = effects(square, arm, attack) or (None, None, number(None))
        rows.append([attack, number(images, "+.2f"), number(labels, "+.2f"), str(seeds)])
    header = ["change of the student, points", f"images from {arm}", f"labels from {arm}", "seeds"]
    return table(header, rows, left=1)


def _notes(square):
    told = settings.lines(square.values())
    for group in square.values():
        told += [*settings.warnings([group]), *_other_teachers(square, group)]
    return [f"\n{line}" for line in told]


def _other_teachers(square, group):
    """A warning where a run with swapped labels is not made from the teachers of the runs that it stands
    beside.
    """
    told = []
    for run in group.runs if group.swapped else ():
        for stage, arm in (("recover", run.images_from), ("relabel", run.labels_from)):
            beside = square[arm, arm].runs if (arm, arm) in square else ()
            teachers = {other.record[stage].get("teacher") for other in beside if other.seed == run.seed}
            if teachers and run.record[stage].get("teacher") not in teachers:
                wrong = f"its {stage} did not use the teacher of {arm} with seed {run.seed}"
                told.append(f"**Warning**: {run.name}: {wrong}.")
    return told
