"""GUARD with one setting changed: which setting matters, for the teacher and for the student."""

from guard.paper import groups as gathered
from guard.paper import not_run, plan, published, settings
from guard.paper.arms import VARIATIONS
from guard.paper.groups import PLAIN, ROBUST
from guard.paper.markdown import MISSING, heading, measure, number, scale_text, table

TITLE = "Which setting matters"
INTRODUCTION = """\
Accuracy in percent, mean ± standard deviation over seeds (of a single run ± the standard error that its
images leave). The columns "against guard" are the change of the student against the student of guard as it
stands, seed by seed, over the seeds that both have; the last column is what differs from guard by the
records. A teacher's gradient change is over a step of the recipe's h.
"""


def others(groups):
    """The groups that stand in the other tables and in figures."""
    return [group for group in groups if group.arm not in VARIATIONS]


def varied(groups):
    """{size: groups of sre2l, guard and guard with one setting changed} of the sizes that have such."""
    found = {}
    for size, here in gathered.by_size(groups).items():
        shown = [group for group in here if group.arm in (PLAIN, ROBUST, *VARIATIONS)]
        if any(group.arm in VARIATIONS for group in shown):
            found[size] = shown
    return found


def section(groups, results):
    """Markdown lines. groups: all."""
    lines = [heading(2, TITLE), INTRODUCTION]
    for (scale, dataset, size), here in varied(groups).items():
        lines += [heading(3, f"{published.place(dataset, size, ROBUST)}, {scale_text(scale)}")]
        beside = [group for group in here if group.arm in (PLAIN, ROBUST)]
        told = [*settings.lines(beside or here), *settings.warnings(here)]
        lines += [*_table(here), "", *(f"{line}\n" for line in told)]
    return lines + not_run.lines(["variations"], plan.SCALES, groups, results)


def _table(groups):
    shown = "clean", gathered.robust_attack(groups)
    robust = gathered.of_arm(groups, ROBUST)
    header = [
        *("arm", "runs"),
        *(f"teacher: {attack}" for attack in shown),
        "teacher: gradient change",
        *(f"student: {attack}" for attack in shown),
        *(f"against guard: {attack}" for attack in shown),
        "changed (guard, this)",
    ]
    return table(header, [_row(group, robust, shown) for group in groups], left=1)


def _row(group, robust, shown):
    """robust: guard as it stands, or None."""
    teacher = [number(gathered.accuracies(group.records, "teacher", attack)) for attack in shown]
    curvature = measure(gathered.curvatures(group.records, "gradient_change"), ".3g")
    student = [number(gathered.accuracies(group.records, "student", attack)) for attack in shown]
    changes, different = [MISSING for _ in shown], MISSING
    if robust is not None and group is not robust:
        found = [gathered.change(group, robust, attack) for attack in shown]
        changes = [number(one and one[0], "+") for one in found]
        different = "; ".join(settings.differences([robust.records[0], group.records[0]]))
    return [group.arm, str(len(group.runs)), *teacher, curvature, *student, *changes, different]
