"""What guard.paper knows, as plain rows: the one place where the page of results asks it.

A row is {'scale', 'dataset', 'images per class', 'arm', 'kind', 'colour', 'setting', 'runs'}. kind: 'arm'
as planned, 'variation' with one setting changed, 'swapped' with the labels of another teacher, 'otherwise' by
other settings than planned. Each of its runs is {'seed', 'file', 'place', 'images', 'epsilon', 'student',
'teacher', 'gradient change', 'curve'}. file: that of its record, relative to the folder of results; place: a
text that names it; student, teacher: {attack: accuracy in percent}; curve: None, or of accuracy against
epsilon.
"""

import os
from pathlib import Path


def rows(results):
    """(rows of the recorded runs in the folder `results`, those that differ in their seeds alone in one
    row; what was found in them as lines of Markdown). Raises UserError for records that are none.
    """
    from guard.paper import drawing, findings, groups, records, settings

    found, gathered = [], groups.gather(records.read(results))
    for group in gathered:
        found.append(
            {
                "scale": group.scale,
                "dataset": group.dataset,
                "images per class": group.images_per_class,
                "arm": group.arm,
                "kind": _kind(group),
                "colour": drawing.colour_of(group.arm),
                "setting": settings.described(group.records[0]),
                "runs": [_run(run, results) for run in group.runs],
            }
        )
    return found, findings.section(gathered)


def _kind(group):
    from guard.paper import arms, groups

    if not groups.as_planned(group):
        return "otherwise"
    if group.swapped:
        return "swapped"
    return "variation" if group.arm in arms.VARIATIONS else "arm"


def _run(run, results):
    from guard.paper import groups

    path, line = run.place.rsplit(", line ", 1)
    path = Path(path).relative_to(results).as_posix()
    student = run.record["evaluate student"]
    return {
        "seed": run.seed,
        "file": path,
        "place": f"{path}, line {line}",
        "images": student["images"],
        "epsilon": student["epsilon"],
        "student": _accuracies(student),
        "teacher": _accuracies(run.record.get("evaluate teacher", {})),
        "gradient change": groups.curvature(run.record, "gradient_change"),
        "curve": run.curve,
    }


def _accuracies(evaluation):
    return {name: attack["accuracy"] for name, attack in evaluation.get("attacks", {}).items()}


def scale_text(scale):
    """'CPU size' and the like."""
    from guard.paper import markdown

    return markdown.scale_text(scale)


def published(results):
    """(where they were published, their attacks, a row for each published method at each size:
    {'dataset', 'images per class', 'method', 'arm', 'colour', 'tables', 'student', 'link'}).

    arm: ours that it stands for, or None. link: the file that has it, from the folder of results. The tables
    repeat rows, at times with other numbers: those that are the same are one, which names its tables.
    """
    from guard.paper import drawing, published

    contents, found = published.read(results), {}
    link = os.path.relpath(published.facts(results), results)
    for name, dataset, size, method, accuracies in published.rows(contents["tables"]):
        arm = next(iter(published.arms_of(method)), None)
        arm = arm if arm in drawing.STYLES else None
        key = dataset, size, arm or method, tuple(sorted(accuracies.items()))
        row = {
            "dataset": dataset,
            "images per class": size,
            "method": method,
            "arm": arm,
            "colour": drawing.colour_of(arm),
            "tables": [],
            "student": accuracies,
            "link": link,
        }
        found.setdefault(key, row)["tables"].append(name)
    return contents["source"], contents["attacks"], list(found.values())
