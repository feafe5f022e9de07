"""GUARD with one setting changed: which setting matters, for the teacher and for the student."""

from guard.paper import cells, published, settings, swap
from guard.paper.markdown import MISSING, heading, number, scale_text, table
from guard.paper.plan import VARIATIONS

INTRODUCTION = """\
Accuracy in percent, mean ± standard deviation over seeds. The columns "against guard" are the change of the student against the student of
guard as it stands, seed by seed, over the seeds that both have; the last column is what differs from guard by the records. The
teacher's gradient change is measured with its own h.
"""
BESIDE = ("sre2l", "guard")


def others(groups):
    """The groups that stand in the other tables and in figures."""
    return [group for group in groups if group.arm not in VARIATIONS]


def section(groups):
    """Markdown lines; none where no setting was varied."""
    sizes = dict.fromkeys(
        (group.scale, group.dataset, group.images_per_class) for group in groups if group.arm in VARIATIONS
    )
    lines = [heading(2, "Which setting matters"), INTRODUCTION] if sizes else []
    for scale, dataset, size in sizes:
        held = [
            group
            for group in groups
            if (group.scale, group.dataset, group.images_per_class) == (scale, dataset, size)
            and group.arm in (*BESIDE, *VARIATIONS)
        ]
        beside = [group for group in held if group.arm in BESIDE] or held
        lines += [
            heading(3, f"{published.place(dataset, size, 'guard')}, {scale_text(scale)}"),
            *_table(held),
            "",
        ]
        lines += [
            line + "\n"
            for line in (
                *settings.lines(beside),
                *(f"**Warning**: {warning}." for group in held for warning in swap.unequal(group)),
            )
        ]
    return lines


def _table(groups):
    shown = "clean", cells.robust_attack(groups)
    plain = next((group for group in groups if group.arm == "guard"), None)
    rows = []
    for group in groups:
        teacher = [number(cells.accuracies(group.records, "teacher", attack)) for attack in shown]
        curvature = number(
            cells.average([cells.curvature(record, "gradient_change") for record in group.records]), ".3g"
        )
        student = [number(cells.accuracies(group.records, "student", attack)) for attack in shown]
        varied = plain is not None and group is not plain
        changes = [number(change(group, plain, attack), "+.2f") if varied else MISSING for attack in shown]
        different = "; ".join(cells.differences([plain.records[0], group.records[0]])) if varied else MISSING
        rows.append([group.arm, str(len(group.cells)), *teacher, curvature, *student, *changes, different])
    columns = [
        *(f"teacher: {attack}" for attack in shown),
        "teacher: gradient change",
        *(f"student: {attack}" for attack in shown),
        *(f"against guard: {attack}" for attack in shown),
        "changed (guard, this)",
    ]
    return table(["arm", "runs", *columns], rows, left=1)


def change(group, plain, attack):
    """(mean, deviation) of the student's accuracy less that of `plain` with the same seed, or None."""
    before = {cell.seed: cells.accuracy(cell.record, "student", attack) for cell in plain.cells}
    pairs = [
        (cells.accuracy(cell.record, "student", attack), before[cell.seed])
        for cell in group.cells
        if cell.seed in before
    ]
    return cells.average([after - other for after, other in pairs if None not in (after, other)])
