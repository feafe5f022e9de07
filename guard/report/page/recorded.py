"""What guard.paper knows, as plain rows: the one place where the page of results asks it.

A row is {'scale', 'dataset', 'images per class', 'arm', 'kind', 'colour', 'setting', 'runs'}. kind: 'arm'
as planned, 'variation' with one setting changed, 'swapped' with the labels of another teacher. Each of
its runs is {'seed', 'file', 'place', 'images', 'epsilon', 'student', 'teacher', 'gradient change',
'curve'}. file: that of its record, relative to the folder of results; place: a text that names it;
student, teacher: {attack: accuracy in percent}; curve: None, or of accuracy against epsilon.
"""

from pathlib import Path


def rows(results):
    """The recorded runs in the folder `results`, those that differ in their seeds alone in one row.
    Raises UserError for records that are none.
    """
    from guard.paper import cells, figures, plan, settings

    found = []
    for group in cells.groups(cells.read(results)):
        kind = "swapped" if group.swapped else "variation" if group.arm in plan.VARIATIONS else "arm"
        found.append(
            {
                "scale": group.scale,
                "dataset": group.dataset,
                "images per class": group.images_per_class,
                "arm": group.arm,
                "kind": kind,
                "colour": figures.STYLES.get(group.arm, figures.OTHER)[0],
                "setting": settings.described(group.records[0]),
                "runs": [_run(cell, cell.path.relative_to(results)) for cell in group.cells],
            }
        )
    return found


def _run(cell, path):
    record = cell.record
    student = record["evaluate student"]
    curvature = record["pretrain"].get("results", {}).get("curvature", {})
    return {
        "seed": cell.seed,
        "file": path.as_posix(),
        "place": path.as_posix(),
        "images": student["images"],
        "epsilon": student["epsilon"],
        "student": _accuracies(student),
        "teacher": _accuracies(record.get("evaluate teacher", {})),
        "gradient change": curvature.get("gradient_change"),
        "curve": cell.curve,
    }


def _accuracies(evaluation):
    return {name: attack["accuracy"] for name, attack in evaluation.get("attacks", {}).items()}


def published(results):
    """(where they were published, their attacks, a row for each published method at each size:
    {'dataset', 'images per class', 'method', 'arm', 'colour', 'tables', 'student'}).

    arm: ours that it stands for, or None.
    """
    from guard.paper import figures, published

    contents, found = published.read(Path(results)), {}
    for name, dataset, size, method, accuracies in published.rows(contents["tables"]):
        arm = next(iter(published.arms_of(method)), None)
        arm = arm if arm in figures.STYLES else None
        # the tables repeat rows, at times with other numbers: those stand beside each other
        key = (dataset, size, arm or method, tuple(sorted(accuracies.items())))
        held = found.setdefault(
            key,
            {
                "dataset": dataset,
                "images per class": size,
                "method": method,
                "arm": arm,
                "colour": figures.STYLES.get(arm, figures.OTHER)[0],
                "tables": [],
                "student": accuracies,
            },
        )
        held["tables"].append(name)
    return contents["source"], contents["attacks"], list(found.values())
