"""Where our numbers come from: device, versions, data and commit of the runs, from their records."""

from guard.errors import UserError
from guard.paper import published
from guard.paper.markdown import heading, table
from guard.paper.records import STAGES
from guard.run import storage

COLUMNS = ("device", "torch", "precision", "data", "commit", "uncommitted changes")
INTRODUCTION = """\
Data is the first twelve digits of the training images' fingerprint, and which copy of the data set that is,
where data.json knows it; a JPEG copy is lossy. The published experiment's device, versions and data are not
known in this detail.
"""


def section(groups, results):
    """Markdown lines: a row for each scale and data set."""
    known, by_data = copies(results), {}
    for group in groups:
        by_data.setdefault((group.scale, group.dataset), []).extend(group.records)
    if not by_data:
        return []
    rows = [
        [f"{scale}, {dataset}", *environment(records, known)] for (scale, dataset), records in by_data.items()
    ]
    lines = [heading(2, "Where our numbers come from"), INTRODUCTION]
    return [*lines, *table(["records", *COLUMNS], rows, left=1 + len(COLUMNS)), ""]


def copies(results):
    """fingerprint of training images -> which copy of a data set they are, from data.json of the folder
    `results` (as of `published.facts`).
    """
    path = published.facts(results, "data.json")
    found = storage.read_json(path, "list of copies").get("copies")
    if not isinstance(found, dict):
        raise UserError(
            f"{path} has no object 'copies'; take the repository's own again: git checkout {path}"
        )
    return found


def environment(records, known):
    """A word or several for each of COLUMNS, over all stages of all records. known: as of `copies`."""
    found = {name: {} for name in COLUMNS}
    for record in records:
        for name, entry in record.items():
            if name in STAGES or name.startswith("evaluate "):
                _note(entry.get("environment", {}), found)
        for stage in STAGES:
            found["precision"][record[stage]["settings"].get("precision")] = None
        found["data"][_data(record["pretrain"]["settings"].get("data"), known)] = None
    return [_told(values) for values in found.values()]


def _note(environment, found):
    """Adds what one stage's environment tells to `found`, {column: {value: None}}."""
    commit = environment.get("commit")
    found["device"][environment.get("device")] = None
    found["torch"][environment.get("torch")] = None
    found["commit"][commit.removesuffix("-dirty") if commit else None] = None
    changed = ("yes" if commit.endswith("-dirty") else "no") if commit else None
    found["uncommitted changes"][changed] = None


def _data(fingerprint, known):
    if not fingerprint:
        return None
    return fingerprint[:12] + (f" ({known[fingerprint]})" if fingerprint in known else "")


def _told(values):
    """The values that were recorded, and whether some were not."""
    told = ", ".join(sorted(str(value) for value in values if value))
    if None not in values:
        return told
    return told + (" (not recorded everywhere)" if len(values) > 1 else "not recorded")
