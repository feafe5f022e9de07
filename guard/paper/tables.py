"""results/TABLES.md: the published tables with our numbers beside them, from the records under results/
alone.

Cells at CPU size have tables of their own: their networks, images and epochs are not the published ones,
so no difference is formed.
"""

from pathlib import Path

from guard.attacks import PROTOCOL_EPSILON, PROTOCOLS
from guard.errors import UserError
from guard.paper import cells, figures, plan, published, results, settings, swap, variations
from guard.paper.markdown import MISSING, heading, number, table
from guard.run import storage
from guard.run.storage import replacing

INTRODUCTION = """\
# Published numbers and ours

Written by `python -m guard.report` from the records in this folder; do not edit it by hand. Accuracies are those of the student, in
percent; ours are mean ± standard deviation over runs that differ in their seeds alone. A dash stands where there is no number.
"""


def write(results):
    """Writes TABLES.md and figures/ in the folder `results` again; returns what to print."""
    results = Path(results)
    groups = cells.groups(cells.read(results))
    told = text(results, groups)
    drawn = figures.write(variations.others(groups), results / figures.FOLDER)
    with replacing(results / "TABLES.md") as temporary:
        temporary.write_text(told)
    return f"{results / 'TABLES.md'}, {len(drawn)} figures in {results / figures.FOLDER}"


def text(results, groups):
    """The contents of TABLES.md. groups: those of the cells in the folder `results`."""
    numbers, experiments, held = published.read(results), _experiments(results), variations.others(groups)
    lines = [
        INTRODUCTION,
        *_published(numbers, held),
        *_at_cpu_size(held),
        *_standard(held),
        *swap.section(held),
        *variations.section(groups),
    ]
    lines += [
        *_overhead(numbers, results),
        *_collected(experiments),
        *_figures(held),
        *_environments(groups, experiments, settings.copies(results)),
    ]
    return "\n".join(lines).rstrip("\n") + "\n"


# ---- protocol paper: the published tables --------------------------------------------------------


def _published(numbers, held):
    ours = [group for group in held if group.scale == "paper" and not group.swapped]
    lines = [
        heading(2, "Protocol paper, the published tables"),
        (
            f"{numbers['source']}. The published column autoattack is our attack autoattack-paper. In our"
            " rows the difference to the published cell stands in parentheses.\n"
        ),
    ]
    wrong, placed = published.contradictions(numbers["tables"]), []
    for name, content in numbers["tables"].items():
        sizes = published.datasets(content)
        if not sizes:
            continue
        lines += [heading(3, f"{name}: {content['title']}")]
        for dataset, rows in sizes.items():
            here = [
                group
                for group in ours
                if group.dataset == dataset and group.images_per_class in rows and group.arm in _arms(content)
            ]
            placed += here
            lines += [f"{dataset}:\n", *_beside(rows, numbers["attacks"], here), "", *_notes(here)]
        lines += [f"As published: {content[note]}\n" for note in ("dataset-note", "note") if note in content]
        found = [what for names, what in wrong if name in names]
        if found:
            lines += [
                "The published numbers contradict themselves here:\n",
                *(f"- {what}" for what in found),
                "",
            ]
    rest = [group for group in ours if group not in placed]
    for dataset in dict.fromkeys(group.dataset for group in rest):
        here = [group for group in rest if group.dataset == dataset]
        lines += [
            heading(3, f"Ours at the published size, without a published counterpart: {dataset}"),
            *_arm_table(here, _columns(here)),
            "",
            *_notes(here),
        ]
    return lines


def _arms(content):
    """Every arm of ours that stands in a published table."""
    return {
        arm
        for sizes in published.datasets(content).values()
        for methods in sizes.values()
        for method in methods
        for arm in published.arms_of(method)
    }


def _beside(sizes, attacks, ours):
    """A table with a published row for each size and method, and below it the rows of ours."""
    rows, found = [], {(group.images_per_class, group.arm): group for group in ours}
    for size, methods in sizes.items():
        for method, cell in methods.items():
            rows.append(
                [
                    str(size),
                    method,
                    "published",
                    MISSING,
                    *(f"{cell[attack]:.2f}" if attack in cell else MISSING for attack in attacks),
                ]
            )
            for arm in published.arms_of(method):
                rows.append([str(size), arm, "ours", *_ours(found.get((size, arm)), attacks, cell)])
    return table(["images per class", "method", "", "runs", *attacks], rows, left=3)


def _ours(group, attacks, cell):
    if group is None:
        return [MISSING] * (1 + len(attacks))
    shown = []
    comparable = all(
        abs(record["evaluate student"]["epsilon"] - PROTOCOL_EPSILON) < 1e-9 for record in group.records
    )
    for attack in attacks:
        found = cells.accuracies(group.records, "student", published.OUR_ATTACKS.get(attack, attack))
        difference = (
            f" ({found[0] - cell[attack]:+.2f})"
            if found and attack in cell and (comparable or attack == "clean")
            else ""
        )
        shown.append(number(found) + difference)
    return [str(len(group.cells)), *shown]


def _notes(groups):
    """How the runs of a table were made, where their evaluation is not the protocol's, and where a mean
    mixes settings.
    """
    lines = settings.lines(groups)
    for group in groups:
        if group.scale == "paper" and settings.unlike_the_protocol(group.records[0]):
            lines.append(
                "**Not the protocol's own evaluation**:"
                f" {published.place(group.dataset, group.images_per_class, group.arm)}:"
                f" {settings.evaluation(group.records[0])}."
            )
        lines += [f"**Warning**: {warning}." for warning in swap.unequal(group)]
    return [line + "\n" for line in lines]


# ---- ours alone ----------------------------------------------------------------------------------


def _arm_table(groups, attacks, worst_case=False):
    rows = []
    for group in groups:
        shown = [number(cells.accuracies(group.records, "student", attack)) for attack in attacks]
        shown += [number(cells.worst_cases(group.records))] if worst_case else []
        rows.append([str(group.images_per_class), group.arm, str(len(group.cells)), *shown])
    return table(
        ["images per class", "arm", "runs", *attacks, *(["worst case"] if worst_case else [])], rows, left=2
    )


def _columns(groups):
    """The attacks that the records hold, those of protocol paper first and those of protocol standard
    alone not.
    """
    known = ("clean", *PROTOCOLS["paper"])
    held = dict.fromkeys(
        name for group in groups for record in group.records for name in record["evaluate student"]["attacks"]
    )
    return [
        *(name for name in known if name in held),
        *(name for name in held if name not in (*known, *PROTOCOLS["standard"])),
    ]


def _at_cpu_size(held):
    """The tables of guard.paper.plan with what it plans for each, then the cells that it plans for none of them."""
    ours = [group for group in held if group.scale == "cpu" and not group.swapped]
    if not ours:
        return []
    lines = [
        heading(2, "The same tables at CPU size"),
        (
            "These runs are small ones on a CPU: other networks, images and epochs than the published,"
            " spelled out below each table. Their numbers may be compared with each other, not with the"
            " published ones.\n"
        ),
    ]
    rest = list(ours)
    for name in plan.TABLES:
        if name in plan.OWN_SIZE:
            continue
        planned = {(cell.dataset, cell.images_per_class, cell.arm) for cell in plan.cells_of(name, "cpu")}
        here = [group for group in ours if (group.dataset, group.images_per_class, group.arm) in planned]
        lines += _tables_of(name, here)
        rest = [group for group in rest if group not in here]
    return lines + _tables_of("other runs", rest)


def _tables_of(name, groups):
    """A table for each data set."""
    lines = []
    for dataset in dict.fromkeys(group.dataset for group in groups):
        here = [group for group in groups if group.dataset == dataset]
        lines += [
            heading(3, f"{name}, CPU size: {dataset}"),
            *_arm_table(here, _columns(here)),
            "",
            *_notes(here),
        ]
    return lines


def _standard(held):
    """Protocol standard, where records have it: the published tables know nothing of it."""
    ours = [
        group
        for group in held
        if not group.swapped
        and any(cells.accuracy(record, "student", "autoattack") is not None for record in group.records)
    ]
    lines = [heading(2, "Protocol standard")] if ours else []
    if ours:
        lines.append(
            "AutoAttack in its version standard, and the worst case: the share of images that survive clean"
            " and every attack. Nothing was published by this protocol.\n"
        )
    for scale, dataset in dict.fromkeys((group.scale, group.dataset) for group in ours):
        here = [group for group in ours if (group.scale, group.dataset) == (scale, dataset)]
        title = f"{dataset}, {'the published size' if scale == 'paper' else 'CPU size'}"
        lines += [
            heading(3, title),
            *_arm_table(here, ("clean", *PROTOCOLS["standard"]), worst_case=True),
            "",
            *_notes(here),
        ]
    return lines


# ---- costs, other experiments, figures, machines -------------------------------------------------


def _overhead(numbers, results):
    content, path = numbers["tables"].get("overhead", {}), results / "overhead.json"
    rows = []
    for method, cost in content.items():
        if isinstance(cost, dict):
            rows.append(
                [
                    "published",
                    method,
                    "distillation, iteration",
                    f"{cost['seconds']:.4g} ± {cost['seconds_std']:.2g}",
                    f"{cost['peak_mib']:.0f}",
                    MISSING,
                ]
            )
    lines = [heading(2, f"Overhead: {content.get('title', 'cost of a step')}")]
    where = ""
    if path.exists():
        held = storage.read_json(path, "record of the overhead")
        try:
            for row in held["rows"]:
                seconds = f"{row['seconds']:.4g} ± {row['seconds_std']:.2g}"
                peak = f"{row['peak bytes'] / 2**20:.0f}" if row.get("peak bytes") else MISSING
                rows.append(
                    [
                        "ours",
                        row["case"],
                        row["step"],
                        seconds,
                        peak,
                        f"{row['plain steps']:.2f}" if row.get("plain steps") else MISSING,
                    ]
                )
            where = ", ".join(f"{name} {value}" for name, value in held.get("environment", {}).items())
        except (KeyError, TypeError, ValueError, AttributeError) as problem:
            raise UserError(
                f"{path} is no record of the overhead ({problem!r}); remove it and make it again"
            ) from None
    lines += [*table(["", "case", "step", "seconds", "peak MiB", "in plain steps"], rows, left=3), ""]
    return [*lines, f"Ours on: {where}.\n"] if where else lines


def _experiments(results):
    """file name -> arms, of the small experiments that guard.paper.results collected."""
    found = {}
    for path in sorted(results.glob("*.json")):
        contents = storage.read_json(path, "record")
        if contents.get("format") != results.FORMAT:
            continue
        arms = contents.get("arms")
        wrong = (
            "no arms"
            if not isinstance(arms, dict) or not all(arms.values())
            else next(
                (
                    problem
                    for runs in arms.values()
                    for run in runs
                    if (problem := cells.problem_of_record(run))
                ),
                None,
            )
        )
        if wrong:
            raise UserError(
                f"{path} is no collection of experiments ({wrong}); make it again with python -m"
                " guard.paper.results"
            )
        found[path.name] = arms
    return found


def _collected(experiments):
    lines = [heading(2, "Small experiments")] if experiments else []
    for name, arms in experiments.items():
        lines += [heading(3, name), results.table(arms), ""]
        for text, held in _by_setting(arms).items():
            lines.append(f"Setting{'' if len(held) == len(arms) else ' of ' + ' and '.join(held)}: {text}.\n")
        lines.append(
            "Added to the loss or the recovery: "
            + ". ".join(f"{arm}: {settings.regularized(runs[0])}" for arm, runs in arms.items())
            + ".\n"
        )
        lines += [
            f"**Warning**: the runs of {arm} are not equal but for their seeds: {'; '.join(found)}.\n"
            for arm, runs in arms.items()
            if (found := cells.differences(runs))
        ]
    return lines


def _by_setting(arms):
    found = {}
    for arm, runs in arms.items():
        size = f"{runs[0]['recover']['settings'].get('images_per_class', '?')} images per class"
        found.setdefault(f"{size}, {settings.described(runs[0])}", []).append(arm)
    return found


def _figures(held):
    planned = figures.planned(held)
    lines = (
        [
            heading(2, "Figures"),
            (
                "Error bars: standard deviation over seeds, or, of a single run, the standard error that its"
                " number of images leaves.\n"
            ),
        ]
        if planned
        else []
    )
    return [*lines, *(f"![{caption}]({figures.FOLDER}/{name})\n" for name, (caption, _) in planned.items())]


def _environments(held, experiments, copies):
    rows = []
    for scale, dataset in dict.fromkeys((group.scale, group.dataset) for group in held):
        runs = [
            record
            for group in held
            if (group.scale, group.dataset) == (scale, dataset)
            for record in group.records
        ]
        rows.append([f"cells/{scale}, {dataset}", *settings.environment(runs, copies)])
    rows += [
        [name, *settings.environment([run for runs in arms.values() for run in runs], copies)]
        for name, arms in experiments.items()
    ]
    if not rows:
        return []
    lines = [
        heading(2, "Where our numbers come from"),
        (
            "Data is the first twelve digits of the training images' fingerprint, and which copy of the data"
            " set that is, where data.json knows it; a JPEG copy is lossy. The published experiment's device,"
            " versions and data are not known in this detail.\n"
        ),
    ]
    return [*lines, *table(["records", *settings.COLUMNS], rows, left=1 + len(settings.COLUMNS)), ""]
