"""Tables of our numbers alone: the runs at the recipe's and at CPU size, and protocol standard."""

from guard.attacks import PROTOCOLS
from guard.paper import arms, not_run, plan, settings
from guard.paper import groups as gathered
from guard.paper.markdown import heading, number, scale_text, table

TITLES = {
    "recipe": "By the data set's own recipe",
    "cpu": "The same tables at CPU size",
}
INTRODUCTIONS = {
    "recipe": """\
Runs with every default of their data set's recipe but for what an arm is about, and for the attacks: the
protocols paper and standard, on all validation images. Nothing was published on these data sets.
""",
    "cpu": """\
These runs are small ones on a CPU: other networks, images and epochs than the published, spelled out below
each table. Their numbers may be compared with each other, not with the published ones.
""",
}
STANDARD = """\
AutoAttack in its version standard, and the worst case: the share of images that survive clean and every
attack. Nothing was published by this protocol.
"""


def section(scale, groups, results):
    """Markdown lines: the tables of guard.paper.plan with what it plans for each, then the runs that it
    plans for none of them, then what was not run yet. groups: those of the plain runs at every scale.
    """
    ours = [group for group in groups if group.scale == scale and not group.swapped]
    tables = [name for name in plan.TABLES if name not in plan.OWN_SIZE and scale in plan.scales_of(name)]
    lines, shown = [heading(2, TITLES[scale]), INTRODUCTIONS[scale]], []
    for name in tables:
        planned = {(run.dataset, run.images_per_class, run.arm) for run in plan.runs_of(name, scale)}
        here = [group for group in ours if (group.dataset, group.images_per_class, group.arm) in planned]
        lines += tables_of(name, scale, here)
        shown += here
    rest = [group for group in ours if group not in shown]
    return [
        *lines,
        *tables_of("other runs", scale, rest),
        *not_run.lines(tables, [scale], groups, results),
    ]


def tables_of(name, scale, groups):
    """A table for each data set; at the recipe's size one of teachers, too."""
    lines = []
    for dataset in dict.fromkeys(group.dataset for group in groups):
        here = [group for group in groups if group.dataset == dataset]
        attacks = attacks_of(here)
        lines += [heading(3, f"{name}, {scale_text(scale)}: {dataset}"), *accuracy_table(here, attacks), ""]
        if scale == "recipe":
            lines += ["The teachers:\n", *accuracy_table(_of_teachers(here), attacks, network="teacher"), ""]
        lines += notes(here)
    return lines


def _of_teachers(groups):
    """One of the groups for each teacher, the first of those with the most runs."""
    found = {}
    for group in groups:
        teacher = arms.ARMS[group.arm].teacher if group.arm in arms.ARMS else group.arm
        found.setdefault(teacher, []).append(group)
    return [max(alike, key=lambda group: len(group.runs)) for alike in found.values()]


def notes(groups):
    """Markdown: how the runs of a table were made, and where a mean mixes settings."""
    return [line + "\n" for line in [*settings.lines(groups), *settings.warnings(groups)]]


def accuracy_table(groups, attacks, *, network="student", worst_case=False):
    """Markdown lines of a table: a row for each group, a column for each attack."""
    rows = []
    for group in groups:
        shown = [number(gathered.accuracies(group.records, network, attack)) for attack in attacks]
        shown += [number(gathered.worst_cases(group.records))] if worst_case else []
        rows.append([str(group.images_per_class), group.arm, str(len(group.runs)), *shown])
    header = ["images per class", "arm", "runs", *attacks, *(["worst case"] if worst_case else [])]
    return table(header, rows, left=2)


def attacks_of(groups):
    """The attacks that the records hold: those of protocol paper first, and those that protocol standard
    alone has not.
    """
    held = {}
    for group in groups:
        for record in group.records:
            held |= dict.fromkeys(record["evaluate student"]["attacks"])
    known = ("clean", *PROTOCOLS["paper"])
    others = [name for name in held if name not in (*known, *PROTOCOLS["standard"])]
    return [*(name for name in known if name in held), *others]


def standard(groups):
    """Markdown lines of protocol standard, where records have it: the published tables know nothing of it."""
    by_data = {}
    for group in groups:
        whole = [record["evaluate student"].get("worst_case") is not None for record in group.records]
        if not group.swapped and any(whole):
            by_data.setdefault((group.scale, group.dataset), []).append(group)
    lines = [heading(2, "Protocol standard"), STANDARD] if by_data else []
    for (scale, dataset), here in by_data.items():
        shown = accuracy_table(here, ("clean", *PROTOCOLS["standard"]), worst_case=True)
        lines += [heading(3, f"{dataset}, {scale_text(scale)}"), *shown, "", *notes(here)]
    return lines
