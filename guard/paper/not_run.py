"""What of the plan has no record by its settings yet, in one line with the command that runs it and about how
long it takes.

The times are those that `bash results/reproduce.sh TABLE -n --keep-estimate` left in results/estimates.json.
"""

from pathlib import Path

from guard.errors import UserError
from guard.paper import commands, plan
from guard.run import storage

FILE = "estimates.json"


def missing(table, scale, groups):
    """{data set: arms that lack a run, or () where all do} of a table at a scale."""
    made = {(group.size, group.images_from, group.labels_from): group.runs for group in groups}
    lacking, whole = {}, {}
    for run in plan.runs_of(table, scale):
        size = scale, run.dataset, run.images_per_class
        runs = made.get((size, run.images_from, run.labels_from), ())
        is_done = any(commands.as_planned(one) for one in runs)
        whole[run.dataset] = whole.get(run.dataset, True) and not is_done
        if not is_done:
            lacking.setdefault(run.dataset, {})[run.arm] = None
    return {dataset: () if whole[dataset] else tuple(arms) for dataset, arms in lacking.items()}


def line(table, scale, groups, results):
    """'Not run yet ...: `command`, about 3 hours.' or, where all of the table is done, None."""
    found = missing(table, scale, groups)
    if not found:
        return None
    datasets = [name for name in plan.TABLES[table] if name in plan.SCALES[scale]]
    command = f"bash results/reproduce.sh {table}"
    command += f" --scale {scale}" if scale != plan.scales_of(table)[0] else ""
    command += f" --dataset {','.join(found)}" if len(found) < len(datasets) else ""
    told = ""
    if len(found) < len(datasets) or any(found.values()):
        told = " (" + "; ".join(_named(dataset, arms) for dataset, arms in found.items()) + ")"
    curve = " --curve 0,1/255,2/255" if table in plan.AT_TWO_EPSILONS else ""
    return f"Not run yet{told}: `{command} --seeds 0,1,2{curve}`, {_time(table, scale, results)}."


def lines(tables, scales, groups, results):
    """Markdown: a list with the line of each table that lacks runs at one of the scales."""
    found = []
    for table in tables:
        for scale in scales:
            said = line(table, scale, groups, results) if scale in plan.scales_of(table) else None
            found += [f"- {table}. {said}"] if said else []
    return [*found, ""] if found else []


def _named(dataset, arms):
    return f"{dataset}: {', '.join(arms)}" if arms else dataset


# ---- estimates -----------------------------------------------------------------------------------


def keep(table, scale, minutes, device, results):
    """Writes down how long the runs of a table take that are still to do, for one seed."""
    known = _estimates(results) | {f"{scale}/{table}": {"minutes": round(minutes, 1), "device": device}}
    storage.write_json({"estimates": dict(sorted(known.items()))}, Path(results) / FILE)


def _estimates(results):
    path = Path(results) / FILE
    if not path.exists():
        return {}
    found = storage.read_json(path, "list of estimates").get("estimates")
    fine = isinstance(found, dict) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("minutes"), (int, float))
        and isinstance(entry.get("device"), str)
        for entry in found.values()
    )
    if not fine:
        raise UserError(
            f"{path} is no list of estimates; remove it, and keep them again: bash results/reproduce.sh TABLE"
            " -n --keep-estimate"
        )
    return found


def _time(table, scale, results):
    entry = _estimates(results).get(f"{scale}/{table}")
    if entry is None:
        return "no estimate"
    minutes = entry["minutes"]
    if minutes < 90:
        time = f"{minutes:.0f} minutes"
    elif minutes < 48 * 60:
        time = f"{minutes / 60:.0f} hours"
    else:
        time = f"{minutes / 60 / 24:.0f} days"
    return f"about {time} for each seed on {entry['device']}"
