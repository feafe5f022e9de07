"""Judgements of others' distilled sets (results/judged/NAME.json, which `python -m train.judge` wrote), for
the rows of methods that are not made here.
"""

import re
from pathlib import Path
from typing import NamedTuple

from guard.attacks import PROTOCOL_EPSILON
from guard.errors import UserError, first_line
from guard.run import storage

FOLDER = "judged"
REMEDY = "remove it, or copy judge.json again"


class Row(NamedTuple):
    """The students of one network on one set, of that name. accuracies: attack -> (mean in percent,
    uncertainty). runs: their number. epsilon: of the attacks, in [0,1] pixels.
    """

    name: str
    dataset: str
    images_per_class: int
    network: str
    recipe: str
    runs: int
    accuracies: dict
    epsilon: float
    unlike_the_recipe: dict

    @property
    def at_protocol(self):
        """Whether epsilon is the protocols'."""
        return abs(self.epsilon - PROTOCOL_EPSILON) < 1e-9

    @property
    def about(self):
        """What was judged, by which students."""
        return f"judged {self.name}: {self.network}, {self.recipe}{but(self.unlike_the_recipe)}"


def read(results):
    """The rows of all judgements, of students that saw their set's own views. Raises UserError for a file
    that is none.
    """
    return [row for path in sorted((Path(results) / FOLDER).glob("*.json")) for row in _rows(path)]


def of(rows, method, methods, dataset, images_per_class):
    """Those that judge `method`, one of the `methods` that are published at a data set and size: the words of
    its name are in that of the set. A set whose name has those of several, of which none has all, belongs to
    none: 'sre2l-guard' may be a method with the regularizer, and not the one without.
    """
    here = [row for row in rows if (row.dataset, row.images_per_class) == (dataset, images_per_class)]
    return [row for row in here if _method(row, methods) == method]


def _method(row, methods):
    """The one of the methods that a set's name tells, or None."""
    words = {method: _words(method) for method in methods if _words(method) <= _words(row.name)}
    largest = [name for name, own in words.items() if not any(own < other for other in words.values())]
    return largest[0] if len(largest) == 1 else None


def _words(name):
    return {*re.split(r"[-_.+ ]+", name.lower())}


def but(unlike_the_recipe):
    """What was set otherwise than by a recipe, as words to follow its name."""
    words = ", ".join(f"{name} {_told(value)}" for name, value in unlike_the_recipe.items())
    return f" but {words}" if words else ""


def _told(value):
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _rows(path):
    contents = storage.read_sealed(path, "judgement", REMEDY)
    try:
        seeds, found = len(contents["seeds"]), []
        for row in contents["rows"]:
            if row["views"] != "as set":
                continue
            found.append(
                Row(
                    name=str(row["set"]),
                    dataset=contents["dataset"],
                    images_per_class=row["images per class"],
                    network=row["network"],
                    recipe=contents["recipe"],
                    runs=seeds,
                    accuracies=row["accuracies"],
                    epsilon=float(row["epsilon"]),
                    unlike_the_recipe=dict(contents["unlike the recipe"]),
                )
            )
    except (KeyError, TypeError, AttributeError) as problem:
        raise UserError(f"{path} is no judgement ({first_line(problem)}); {REMEDY}") from None
    return found
