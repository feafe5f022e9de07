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
    """The students of one network on one set. words: of the set's name; accuracies: attack -> (mean in
    percent, uncertainty). runs: their number; at_protocol: whether epsilon is the protocols'.
    """

    words: list
    dataset: str
    images_per_class: int
    network: str
    recipe: str
    runs: int
    accuracies: dict
    at_protocol: bool
    unlike_the_recipe: dict


def read(results):
    """The rows of all judgements, of students that saw their set's own views. Raises UserError for a file
    that is none.
    """
    return [row for path in sorted((Path(results) / FOLDER).glob("*.json")) for row in _rows(path)]


def of(rows, method, images_per_class):
    """Those that judge a method: a word of the set's name is the method's."""
    return [row for row in rows if method in row.words and row.images_per_class == images_per_class]


def but(unlike_the_recipe):
    """What was set otherwise than by a recipe, as words to follow its name."""
    words = ", ".join(f"{name} {value}" for name, value in unlike_the_recipe.items())
    return f" but {words}" if words else ""


def _rows(path):
    contents = storage.read_sealed(path, "judgement", REMEDY)
    try:
        seeds, found = len(contents["seeds"]), []
        for row in contents["rows"]:
            if row["views"] != "as set":
                continue
            found.append(
                Row(
                    words=re.split(r"[-_. ]+", row["set"].lower()),
                    dataset=contents["dataset"],
                    images_per_class=row["images per class"],
                    network=row["network"],
                    recipe=contents["recipe"],
                    runs=seeds,
                    accuracies=row["accuracies"],
                    at_protocol=abs(row["epsilon"] - PROTOCOL_EPSILON) < 1e-9,
                    unlike_the_recipe=dict(contents["unlike the recipe"]),
                )
            )
    except (KeyError, TypeError, AttributeError) as problem:
        raise UserError(f"{path} is no judgement ({first_line(problem)}); {REMEDY}") from None
    return found
