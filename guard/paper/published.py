"""The published numbers (results/published.json): which rows there are, what they are of ours, and where
they contradict themselves.
"""

from pathlib import Path

from guard.errors import UserError
from guard.paper.markdown import size_text
from guard.run import storage

FILE = "published.json"
OWN = Path(__file__).resolve().parents[2] / "results"
# published name -> our arms; names without a row here are ours as they stand
OURS = {
    "sre2l+guard": ("guard",),
    "sre2l+adv": ("adv-t", "adv-f"),
    "mtt": (),
    "tesla": (),
    "dc": (),
    "dc+guard": (),
}
NETWORK = "resnet18"  # of the published students
# the published column of that name comes from the shorter attack
OUR_ATTACKS = {"autoattack": "autoattack-paper"}
# percentage points by which an attack may look weaker than one that it contains: its random draws differ
TOLERANCE = 0.05


def facts(results, name=FILE):
    """Path of a file that records of any folder are told beside: that of the folder `results`, or the
    repository's own where it has none.
    """
    path = Path(results) / name
    return path if path.exists() else OWN / name


def read(results):
    """The contents of published.json of the folder `results` (as of `facts`)."""
    path = facts(results)
    contents = storage.read_json(path, "file of published numbers")
    kinds = {"tables": dict, "attacks": list, "frontier": list}
    if not all(isinstance(contents.get(name), kind) for name, kind in kinds.items()):
        raise UserError(
            f"{path} holds no published tables; take the repository's own again: git checkout {path}"
        )
    return contents


def points(results, images_per_class):
    """What was published of all of CIFAR-10 at a size, for the tables of full size: a dict each, with name,
    source, clean, and under an attack within an epsilon '1/255', '2/255', a list where two papers tell two
    numbers.
    """
    return [one for one in read(results)["frontier"] if one.get("images per class", 10) == images_per_class]


def shown(point, name):
    """The number of a point below that name, as a cell has it; None where it has none."""
    found = point.get(name)
    if isinstance(found, list):
        return " to ".join(f"{each:.1f}" for each in found)
    return None if found is None else f"{found:.1f}"


def arms_of(method):
    """Our arms that a published row is compared with, none where we have no such method."""
    return OURS.get(method, (method,))


def datasets(table):
    """data set -> images per class -> method -> attack -> accuracy, of one published table; empty for a
    table of costs.
    """
    found = {}
    for dataset, sizes in table.items():
        if isinstance(sizes, dict) and all(size.isdigit() for size in sizes):
            found[dataset] = {int(size): sizes[size] for size in sorted(sizes, key=int)}
    return found


def rows(tables):
    """(table, data set, images per class, method, {attack: accuracy}) of every published row."""
    for name, table in tables.items():
        for dataset, sizes in datasets(table).items():
            for size, methods in sizes.items():
                for method, cells in methods.items():
                    yield name, dataset, size, method, cells


def contradictions(tables):
    """(names of the tables, what is wrong) for each place where the published tables contradict
    themselves.
    """
    return [
        *_above_clean(tables),
        *_weak_autoattack(tables),
        *_misleading_gradients(tables),
        *_differing(tables),
    ]


def place(dataset, size, method):
    return f"{dataset}, {size_text(size)}, {method}"


def _above_clean(tables):
    for name, dataset, size, method, cells in rows(tables):
        clean = cells["clean"]
        high = [f"{attack} {value:.2f}" for attack, value in cells.items() if value > clean]
        if high:
            told = f"{' and '.join(high)} above clean {clean:.2f}; an attack cannot repair images"
            yield (name,), f"{place(dataset, size, method)}: {told}"


def _weak_autoattack(tables):
    for name, dataset, size, method, cells in rows(tables):
        why = {"pgd100": "it should be the strongest attack", "square": "it contains Square"}
        for weaker, reason in why.items():
            if _above(cells, "autoattack", weaker):
                told = f"autoattack {cells['autoattack']:.2f} above {weaker} {cells[weaker]:.2f}; {reason}"
                yield (name,), f"{place(dataset, size, method)}: {told}"


def _misleading_gradients(tables):
    """Where Square, which sees no gradient, breaks more than PGD100: a line for each data set of a table."""
    found = {}
    for name, dataset, size, method, cells in rows(tables):
        if _above(cells, "pgd100", "square"):
            found.setdefault((name, dataset), {}).setdefault(method, []).append(str(size))
    for (name, dataset), methods in found.items():
        named = "; ".join(f"{method} at {', '.join(sizes)}" for method, sizes in methods.items())
        told = "a black-box attack beats a white-box one, so the gradients mislead, and PGD100 tells too much"
        yield (name,), f"{dataset}: square below pgd100 ({named} images per class); {told}"


def _above(cells, one, other):
    """Whether one attack leaves clearly more images than the other."""
    return round(cells[one] - cells[other], 6) > TOLERANCE  # 35.59 - 35.54 > 0.05 in floating point


def _differing(tables):
    """Numbers that stand in two tables, and are not the same there."""
    seen = {}
    for name, dataset, size, method, cells in rows(tables):
        same = "guard" if method == "sre2l+guard" else method
        for attack, value in cells.items():
            seen.setdefault((dataset, size, same, attack), {}).setdefault(value, []).append(name)
    for (dataset, size, method, attack), values in seen.items():
        if len(values) > 1:
            told = " but ".join(f"{value:.2f} in {' and '.join(names)}" for value, names in values.items())
            everywhere = tuple(name for names in values.values() for name in names)
            yield everywhere, f"{place(dataset, size, method)}: {attack} is {told}"
