"""The published tables with our rows beside the published, and what of ours has no counterpart there."""

from guard.attacks import PROTOCOL_EPSILON
from guard.paper import groups as gathered
from guard.paper import judged, not_run, plan, published, settings
from guard.paper.markdown import MISSING, heading, number, table
from guard.paper.our_tables import accuracy_table, attacks_of

INTRODUCTION = (
    "{source}. The published column autoattack is our attack autoattack-paper. In our rows the difference to"
    ' the published number stands in parentheses. Rows that say "judged" are of students on the hard labels'
    ' of a set that others distilled, by its name; behind "but" stands what was set otherwise.\n'
)


def section(numbers, groups, results):
    """Markdown lines. numbers: as of published.read; groups: those of the plain runs at every scale."""
    ours = [group for group in groups if group.scale == "paper" and not group.swapped]
    lines = [
        heading(2, "Protocol paper, the published tables"),
        INTRODUCTION.format(source=numbers["source"]),
    ]
    wrong, placed, judgements = published.contradictions(numbers["tables"]), [], judged.read(results)
    for name, content in numbers["tables"].items():
        if not published.datasets(content):
            continue
        here = _counterparts(content, ours)
        placed += here
        shown = _tables(content, numbers["attacks"], here, judgements)
        lines += [heading(3, f"{name}: {content['title']}"), *shown]
        missing = not_run.line(name, "paper", groups, results) if name in plan.TABLES else None
        lines += [f"{missing}\n"] if missing else []
        lines += [f"As published: {content[note]}\n" for note in ("dataset-note", "note") if note in content]
        said = [f"- {what}" for names, what in wrong if name in names]
        lines += ["The published numbers contradict themselves here:\n", *said, ""] if said else []
    lines += _without_counterpart([group for group in ours if group not in placed])
    lines += _judged_alone(numbers["tables"], judgements)
    unpublished = [
        name for name in plan.TABLES if name not in numbers["tables"] and name not in plan.OWN_SIZE
    ]
    return lines + not_run.lines(unpublished, ["paper"], groups, results)


def _counterparts(content, ours):
    """The groups that stand for a row of a published table."""
    found = []
    for dataset, sizes in published.datasets(content).items():
        for size, methods in sizes.items():
            arms = [arm for method in methods for arm in published.arms_of(method)]
            found += [
                group
                for group in ours
                if (group.dataset, group.images_per_class) == (dataset, size) and group.arm in arms
            ]
    return found


def _tables(content, attacks, ours, judgements):
    """A table for each data set, and how our runs in it were made."""
    lines = []
    for dataset, sizes in published.datasets(content).items():
        here = [group for group in ours if group.dataset == dataset]
        lines += [f"{dataset}:\n", *_beside(dataset, sizes, attacks, here, judgements), "", *notes(here)]
    return lines


def _beside(dataset, sizes, attacks, ours, judgements):
    """A table with a published row for each size and method, and below it the rows of ours that there are,
    and those of its judged sets.
    """
    rows, found = [], {(group.images_per_class, group.arm): group for group in ours}
    for size, methods in sizes.items():
        for method, accuracies in methods.items():
            shown = [f"{accuracies[name]:.2f}" if name in accuracies else MISSING for name in attacks]
            rows.append([str(size), method, "published", MISSING, *shown])
            for arm in published.arms_of(method):
                if group := found.get((size, arm)):
                    rows.append([str(size), arm, "ours", *_ours(group, attacks, accuracies)])
            for row in judged.of(judgements, method, list(methods), dataset, size):
                alike = row.network == published.NETWORK and not row.unlike_the_recipe
                comparable = accuracies if alike else {}
                rows.append([str(size), method, row.about, *_judged(row, attacks, comparable)])
    return table(["images per class", "method", "", "runs", *attacks], rows, left=3)


def _ours(group, attacks, of_theirs):
    """The number of runs of a group, and its accuracies as of `_cells`."""
    epsilons = [record["evaluate student"]["epsilon"] for record in group.records]
    same_epsilon = all(abs(epsilon - PROTOCOL_EPSILON) < 1e-9 for epsilon in epsilons)
    own = {name: published.OUR_ATTACKS.get(name, name) for name in attacks}
    found = {name: gathered.accuracies(group.records, "student", ours) for name, ours in own.items()}
    return [str(len(group.runs)), *_cells(found, of_theirs, same_epsilon)]


def _judged(row, attacks, of_theirs):
    """The number of students of a judged.Row, and its accuracies as of `_cells`."""
    found = {name: row.accuracies.get(published.OUR_ATTACKS.get(name, name)) for name in attacks}
    return [str(row.runs), *_cells(found, of_theirs, row.at_protocol)]


def _cells(found, of_theirs, same_epsilon):
    """Accuracies, {attack: (mean, uncertainty) or None}, with the difference to the published ones, where an
    epsilon of our own does not make that meaningless.
    """
    shown = []
    for attack, of_ours in found.items():
        difference = ""
        if of_ours and attack in of_theirs and (same_epsilon or attack == "clean"):
            difference = f" ({of_ours[0] - of_theirs[attack]:+.2f})"
        shown.append(number(of_ours) + difference)
    return shown


def _without_counterpart(groups):
    lines = []
    for dataset in dict.fromkeys(group.dataset for group in groups):
        here = [group for group in groups if group.dataset == dataset]
        lines += [heading(3, f"Ours at the published size, without a published counterpart: {dataset}")]
        lines += [*accuracy_table(here, attacks_of(here)), "", *notes(here)]
    return lines


def _judged_alone(tables, judgements):
    """Tables of the judgements that stand for no published row, one for each data set."""
    placed = [
        row
        for content in tables.values()
        for dataset, sizes in published.datasets(content).items()
        for size, methods in sizes.items()
        for method in methods
        for row in judged.of(judgements, method, list(methods), dataset, size)
    ]
    alone, lines = [row for row in judgements if row not in placed], []
    for dataset in dict.fromkeys(row.dataset for row in alone):
        here = [row for row in alone if row.dataset == dataset]
        attacks = list(dict.fromkeys(attack for row in here for attack in row.accuracies))
        rows = [
            [str(row.images_per_class), row.about, f"{row.epsilon * 255:.4g}/255", str(row.runs)]
            + [number(row.accuracies.get(attack)) for attack in attacks]
            for row in here
        ]
        header = ["images per class", "", "epsilon", "runs", *attacks]
        lines += [heading(3, f"Judged, without a published row of their name: {dataset}")]
        lines += [*table(header, rows, left=3), ""]
    return lines


def notes(groups):
    """Markdown: how the runs of a table were made, where their evaluation is not the protocol's, and where
    a mean mixes settings.
    """
    lines = settings.lines(groups)
    for group in groups:
        record = group.records[0]
        if group.scale == "paper" and settings.unlike_the_protocol(record):
            where = published.place(group.dataset, group.images_per_class, group.arm)
            told = f"{where}: {settings.evaluation(record)}."
            lines.append(f"**Not the protocol's own evaluation**: {told}")
    return [line + "\n" for line in [*lines, *settings.warnings(groups)]]
