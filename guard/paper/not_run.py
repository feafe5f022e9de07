"""What of the plan has no record by its settings yet, in one line with the command that runs it and about how
long it takes.

The times are those that `bash results/reproduce.sh TABLE -n --keep-estimate` left in results/estimates.json.
"""

import shlex
from pathlib import Path

from guard.errors import UserError
from guard.paper import commands, plan, published
from guard.run import storage

FILE = "estimates.json"


NOT_RUN = "Not run yet"
WITHOUT_CURVE = "Not attacked within a second epsilon yet"
OTHERWISE = "Attacked on other images or by other attacks than planned"


def lacking(table, scale, groups):
    """{NOT_RUN, WITHOUT_CURVE or OTHERWISE: {data set: {arm: its images per class that lack}}} of a table at
    a scale; {} in place of the arms where it is all of them, and of an arm's sizes () where it is all of
    these.
    """
    made = {(group.size, group.images_from, group.labels_from): group.runs for group in groups}
    planned, found = {}, {}
    for run in plan.runs_of(table, scale):
        size = scale, run.dataset, run.images_per_class
        runs = made.get((size, run.images_from, run.labels_from), ())
        planned.setdefault(run.dataset, {}).setdefault(run.arm, []).append(run.images_per_class)
        done = [one for one in runs if commands.attacked_as_planned(one, table)]
        if any(one.curve or table not in plan.AT_TWO_EPSILONS for one in done):
            continue
        otherwise = OTHERWISE if any(map(commands.as_planned, runs)) else NOT_RUN
        state = WITHOUT_CURVE if done else otherwise
        of_arms = found.setdefault(state, {}).setdefault(run.dataset, {})
        of_arms.setdefault(run.arm, []).append(run.images_per_class)
    return {
        state: {name: _but_all(held, planned[name]) for name, held in of_state.items()}
        for state, of_state in found.items()
    }


def _but_all(held, planned):
    """held, planned: {arm: images per class}."""
    if held == planned:
        return {}
    return {arm: () if sizes == planned[arm] else tuple(sizes) for arm, sizes in held.items()}


def line(table, scale, groups, results):
    """'Not run yet ...: `command`, about 3 hours.', then what was attacked otherwise than planned; None where
    all of the table is done.
    """
    found = lacking(table, scale, groups)
    states = [state for state in (NOT_RUN, WITHOUT_CURVE, OTHERWISE) if state in found]
    said = [_said(state, found[state], table, scale, results) for state in states]
    return f"{'. '.join(said)}, {_time(table, scale, results)}." if said else None


def _said(state, found, table, scale, results):
    datasets = [name for name in plan.TABLES[table] if name in plan.SCALES[scale]]
    command = f"bash results/reproduce.sh {table}"
    command += f" --scale {scale}" if scale != plan.scales_of(table)[0] else ""
    command += f" --dataset {','.join(found)}" if len(found) < len(datasets) else ""
    told = " at the published size" if scale == "paper" else ""
    if len(found) < len(datasets) or any(found.values()):
        told += " (" + "; ".join(_named(dataset, arms) for dataset, arms in found.items()) + ")"
    curve = " --curve 0,1/255,2/255" if table in plan.AT_TWO_EPSILONS else ""
    return f"{state}{told}: `{command} --seeds 0,1,2{curve}{elsewhere(results)}`"


def elsewhere(results):
    """What a command of reproduce.sh says where its records go into another folder than the repository's."""
    return "" if Path(results).resolve() == published.OWN else f" --results {shlex.quote(str(results))}"


def lines(tables, scales, groups, results):
    """Markdown: a list with the line of each table that lacks runs at one of the scales."""
    found = []
    for table in tables:
        for scale in scales:
            said = line(table, scale, groups, results) if scale in plan.scales_of(table) else None
            found += [f"- {table}. {said}"] if said else []
    return [*found, ""] if found else []


def _named(dataset, arms):
    """'cifar10: guard, sre2l of 1 and 50 images per class'."""
    said = [
        f"{arm} of {' and '.join(map(str, sizes))} image{'s' * (sizes != (1,))} per class" if sizes else arm
        for arm, sizes in arms.items()
    ]
    return f"{dataset}: {', '.join(said)}" if said else dataset


# ---- estimates -----------------------------------------------------------------------------------


def keep(table, scale, minutes, device, results):
    """Writes down how long the runs of seed 0 of a table take that are still to do."""
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
    return f"about {time} for seed 0 on {entry['device']}"
