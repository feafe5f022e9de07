"""How runs were made, in words, from their records: networks, sizes, epochs, regularizer, machine,
versions and data.
"""

from math import sqrt
from pathlib import Path

from guard.errors import UserError
from guard.paper import cells
from guard.run import storage


def described(record):
    """Everything that a table's reader must know of a run but for its regularizer, in one line."""
    pretrain, recover, relabel, train = (record[stage]["settings"] for stage in cells.STAGES)
    images = (
        f"the first {pretrain['images']} training images of each class"
        if pretrain.get("images")
        else "all training images"
    )
    teacher = (
        f"teacher {pretrain['model']} at {pretrain['image_size']} pixels, {pretrain['epochs']} epochs on"
        f" {images}, batch {pretrain['batch_size']}, learning rate {pretrain['learning_rate']:.4g}"
    )
    recovery = (
        f"{recover['iterations']} iterations of recovery with r_bn {recover['r_bn']:.4g} and step size"
        f" {recover['step_size']:.4g}"
    )
    student = f"student {train['model']}, {relabel['epochs']} epochs, temperature {train['temperature']:.4g}"
    return f"data set {dataset(record)}; {teacher}; {recovery}; {student}; {evaluation(record)}"


def dataset(record):
    """The data set that a run used, which at CPU size can be a part of the table's."""
    return record["pretrain"]["settings"].get("dataset", "not recorded")


def evaluation(record):
    """On how many images a student was attacked, with which standard error at most (that of a share of
    one half), how, and with which epsilon.
    """
    evaluated = record["evaluate student"]
    first = evaluated.get("key", {}).get("images per class")
    part = f" (the first {first} of each class)" if first else ""
    error = 50 / sqrt(evaluated["images"])
    return (
        f"evaluated on {evaluated['images']} validation images{part}, which leaves a standard error of up to"
        f" {error:.1f} points, epsilon {evaluated['epsilon'] * 255:.4g}/255, protocol"
        f" {' and '.join(evaluated['protocols'])}"
    )


def unlike_the_protocol(record):
    """Whether the evaluation used another epsilon, other attacks or fewer images than the frozen protocol."""
    evaluated = record["evaluate student"]
    custom = any(name not in ("paper", "standard") for name in evaluated["protocols"])
    return custom or bool(evaluated.get("key", {}).get("images per class"))


def regularized(record):
    """What was added to the teacher's loss and to the recovery."""
    pretrain, found = record["pretrain"]["settings"], []
    if pretrain.get("curvature"):
        coefficient = (
            f"beta {pretrain['beta']:.4g}"
            if pretrain["regularizer"] == "loss"
            else f"lambda {pretrain['lambda']:.4g}"
        )
        found.append(f"curvature regularizer {pretrain['regularizer']}, {coefficient}, h {pretrain['h']:.4g}")
    if pretrain.get("gradient_regularization"):
        found.append(f"gradient regularization, beta {pretrain['beta']:.4g}")
    if pretrain.get("adversarial", "none") != "none":
        style = {
            "t": f"TRADES style, beta {pretrain['beta']:.4g}",
            "f": f"ten sign steps within {pretrain['h'] * 255:.4g}/255",
        }
        found.append(f"adversarial training, {style.get(pretrain['adversarial'], pretrain['adversarial'])}")
    if record["recover"]["settings"].get("cda"):
        found.append("recovery with CDA")
    return "; ".join(found) or "nothing added"


def lines(groups):
    """Markdown: how the runs of these groups were made, one line for each setting that occurs, then what
    each arm added.
    """
    settings, added = {}, {}
    for group in groups:
        settings.setdefault(described(group.records[0]), []).append(group)
        if not group.swapped:
            added.setdefault(f"{group.arm}: {regularized(group.records[0])}", None)
    told = []
    for text, held in settings.items():
        whose = "" if len(settings) == 1 else " of " + _named(held)
        told.append(f"Setting{whose}: {text}.")
    return [*told, *([f"Added to the loss or the recovery: {'. '.join(added)}."] if added else [])]


def _named(groups):
    """'sre2l / guard at 1 and 10 images per class', for the arms that have the same sizes together."""
    arms, sizes = {}, {}
    for group in groups:
        arms.setdefault(group.arm, []).append(str(group.images_per_class))
    for arm, held in arms.items():
        sizes.setdefault(" and ".join(held), []).append(arm)
    return ", ".join(f"{' / '.join(held)} at {size}" for size, held in sizes.items()) + " images per class"


# ---- where, with what, on what -------------------------------------------------------------------

COLUMNS = ("device", "torch", "precision", "data", "commit", "uncommitted changes")


def copies(results):
    """fingerprint of training images -> which copy of a data set they are, from the folder `results`."""
    path = Path(results) / "data.json"
    if not path.exists():
        return {}
    found = storage.read_json(path, "list of copies").get("copies")
    if not isinstance(found, dict):
        raise UserError(
            f"{path} has no object 'copies'; take the repository's own again: git checkout {path}"
        )
    return found


def environment(runs, known):
    """One cell for each of COLUMNS, from all stages of all records. known: as of `copies`."""
    found = {name: {} for name in COLUMNS}
    for record in runs:
        for where in (
            entry.get("environment", {})
            for name, entry in record.items()
            if name in cells.STAGES or name.startswith("evaluate ")
        ):
            commit = where.get("commit")
            found["device"][where.get("device")] = None
            found["torch"][where.get("torch")] = None
            found["commit"][commit.removesuffix("-dirty") if commit else None] = None
            found["uncommitted changes"][
                ("yes" if commit.endswith("-dirty") else "no") if commit else None
            ] = None
        for stage in cells.STAGES:
            found["precision"][record[stage]["settings"].get("precision")] = None
        data = record["pretrain"]["settings"].get("data")
        found["data"][data[:12] + (f" ({known[data]})" if data in known else "") if data else None] = None
    return [
        ", ".join(sorted(str(value) for value in values if value)) + _gap(values) for values in found.values()
    ]


def _gap(values):
    if None not in values:
        return ""
    return " (not recorded everywhere)" if len(values) > 1 else "not recorded"
