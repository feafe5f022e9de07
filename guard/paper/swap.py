"""Images from one teacher, soft labels from another: which of the two carries the robustness.

For a regularizer R the four combinations of images from sre2l or R with labels from sre2l or R are four
students; the average change that comes with R's images, and with R's labels, are the main effects of the
two.
"""

from guard.paper import cells, published, settings
from guard.paper.markdown import heading, number, scale_text, table

PLAIN = "sre2l"
INTRODUCTION = """\
Accuracy of the student in percent, mean ± standard deviation over seeds, number of runs in brackets; beside it the accuracy and the
curvature of the teacher whose images a row has (curvature per squared normalized-image unit). The effect of the images is the change from
sre2l's to the regularizer's, averaged over both kinds of labels; the effect of the labels likewise; both over the seeds that all four
students have.
"""
CURVATURE = {
    "gradient_change": "gradient change",
    "along_z": "along the gradient",
    "largest_eigenvalue": "largest eigenvalue",
}


def section(groups):
    """Markdown lines; none where no labels were ever swapped."""
    parts = {}
    for group in groups:
        if group.swapped or group.arm == group.images_from:
            parts.setdefault((group.scale, group.dataset, group.images_per_class), {})[
                group.images_from, group.labels_from
            ] = group
    told = []
    for (scale, dataset, size), squares in parts.items():
        swapped = {
            name for pair in squares if pair[0] != pair[1] and PLAIN in pair for name in pair if name != PLAIN
        }
        for arm in sorted(swapped, key=cells.rank):
            told += [
                heading(3, f"{published.place(dataset, size, arm)}, {scale_text(scale)}"),
                *_square(squares, arm),
                "",
            ]
    if not told:
        return []
    return [heading(2, "Images from one teacher, labels from another"), INTRODUCTION, *told]


def _square(squares, arm):
    shown = "clean", cells.robust_attack(squares.values())
    header = [
        "images from",
        *(f"labels from {labels}: {attack}" for labels in (PLAIN, arm) for attack in shown),
        *(f"teacher: {attack}" for attack in shown),
        *CURVATURE.values(),
    ]
    rows = []
    for images in (PLAIN, arm):
        students = [
            _student(squares.get((images, labels)), attack) for labels in (PLAIN, arm) for attack in shown
        ]
        rows.append([images, *students, *_teacher(squares.get((images, images)), shown)])
    return [*table(header, rows, left=1), "", *_effects(squares, arm, shown), *_notes(squares, arm)]


def _student(group, attack):
    found = group and cells.accuracies(group.records, "student", attack)
    return f"{number(found)} [{len(group.cells)}]" if found else number(None)


def _teacher(group, shown):
    """Accuracy and curvature of the teacher, from the runs whose images and labels are both its own."""
    runs = group.records if group else []
    return [
        *(number(cells.accuracies(runs, "teacher", attack)) for attack in shown),
        *(
            number(cells.average([cells.curvature(record, name) for record in runs]), ".3g")
            for name in CURVATURE
        ),
    ]


def effects(squares, arm, attack):
    """((mean, deviation) of the effect of the images, of the labels, number of seeds), over the seeds
    that all four students have; None where a student is missing. squares: (images from, labels from) ->
    Group.
    """
    pairs = [(images, labels) for images in (PLAIN, arm) for labels in (PLAIN, arm)]
    if not all(pair in squares for pair in pairs):
        return None
    values = {
        pair: {cell.seed: cells.accuracy(cell.record, "student", attack) for cell in squares[pair].cells}
        for pair in pairs
    }
    seeds = [
        seed for seed in values[PLAIN, PLAIN] if all(values[pair].get(seed) is not None for pair in pairs)
    ]
    if not seeds:
        return None
    plain, labels, images, both = ([values[pair][seed] for seed in seeds] for pair in pairs)
    of_images = [(c - a + d - b) / 2 for a, b, c, d in zip(plain, labels, images, both)]
    of_labels = [(b - a + d - c) / 2 for a, b, c, d in zip(plain, labels, images, both)]
    return cells.average(of_images), cells.average(of_labels), len(seeds)


def _effects(squares, arm, shown):
    rows = []
    for attack in shown:
        found = effects(squares, arm, attack)
        images, labels, seeds = found or (None, None, number(None))
        rows.append([attack, number(images, "+.2f"), number(labels, "+.2f"), str(seeds)])
    return table(
        ["change of the student, points", f"images from {arm}", f"labels from {arm}", "seeds"], rows, left=1
    )


def _notes(squares, arm):
    held = [
        squares[images, labels]
        for images in (PLAIN, arm)
        for labels in (PLAIN, arm)
        if (images, labels) in squares
    ]
    warnings = [
        f"**Warning**: {text}."
        for group in held
        for text in [*unequal(group), *_other_teachers(squares, group)]
    ]
    return [f"\n{line}" for line in [*settings.lines(held), *warnings]]


def unequal(group):
    """What differs between runs that should differ in their seeds alone, as sentences."""
    found = cells.differences(group.records)
    where = published.place(group.dataset, group.images_per_class, group.arm)
    return (
        [
            f"the runs of {where} are not equal but for their seeds, so their mean mixes settings:"
            f" {'; '.join(found)}"
        ]
        if found
        else []
    )


def _other_teachers(squares, group):
    """Where a run with swapped labels is not made from the teachers of the runs that it stands beside."""
    told = []
    for cell in group.cells if group.swapped else ():
        for stage, arm in (("recover", cell.images_from), ("relabel", cell.labels_from)):
            beside = squares.get((arm, arm))
            teachers = (
                {other.record[stage].get("teacher") for other in beside.cells if other.seed == cell.seed}
                if beside
                else set()
            )
            if teachers and cell.record[stage].get("teacher") not in teachers:
                told.append(
                    f"{cell.path.name}: its {stage} did not use the teacher of {arm} with seed {cell.seed}"
                )
    return told
