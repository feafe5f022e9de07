"""The figures of results/TABLES.md: one file for each kind, scale and data set that has runs, none otherwise.

Runs with swapped labels are in none: they have tables.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from guard.paper import drawing, full_size, full_size_drawing, settings, stored
from guard.paper import groups as gathered
from guard.paper.markdown import scale_text
from guard.paper.plan import SCALES

FOLDER = "figures"


@dataclass(frozen=True)
class Kind:
    """chosen: (groups, attack) -> those that the figure can show; draw: draws them; under_attack: whether it
    shows the accuracy under one attack.
    """

    caption: str
    chosen: Callable
    draw: Callable
    under_attack: bool


# ---- which groups a figure can show --------------------------------------------------------------


def _measured(groups, attack):
    return [group for group in groups if all(drawing.accuracy(group, name) for name in (attack, "clean"))]


def _at_several_sizes(groups, attack):
    found = _measured(groups, attack)
    return found if len({group.images_per_class for group in found}) > 1 else []


def _curved(groups, _):
    return [group for group in groups if gathered.curve(group)]


def _with_curvature(groups, attack):
    shown = [group for group in groups if drawing.accuracy(group, attack) and drawing.gradient_change(group)]
    return [group for group in shown if not stored.hard_labels(group.records[0])]  # that heard of no teacher


KINDS = {
    "robust-accuracy": Kind(
        "Robust accuracy of the student against images per class",
        _at_several_sizes,
        drawing.by_images_per_class,
        True,
    ),
    "clean-against-robust": Kind(
        "Clean against robust accuracy of the student", _measured, drawing.clean_against_robust, True
    ),
    "epsilon": Kind("Accuracy of the student against epsilon", _curved, drawing.by_epsilon, False),
    "curvature": Kind(
        "Curvature of the teacher against robust accuracy of the student",
        _with_curvature,
        drawing.by_curvature,
        True,
    ),
}


def kinds_of(scale, points):
    """{name: kind} of the figures of a scale. points: published ones of the frontier."""
    if scale != full_size.SCALE:
        return KINDS
    return {
        "frontier": Kind(
            "Clean against robust accuracy",
            full_size_drawing.of_the_frontier,
            partial(full_size_drawing.frontier, points=points),
            False,
        ),
        "label-bytes": Kind(
            "Accuracy against the bytes of images and labels",
            full_size_drawing.of_label_bytes,
            full_size_drawing.label_bytes,
            False,
        ),
        "curvature": Kind(
            "Curvature of the teacher against robust accuracy of teacher and student",
            full_size_drawing.of_curvature,
            full_size_drawing.curvature,
            False,
        ),
    }


# ---- all of them ---------------------------------------------------------------------------------


def planned(groups, points=()):
    """file name -> (caption, function that draws it, given the path) of every figure for which there are
    data. points: published ones of the frontier (published.json).
    """
    found, by_data = {}, {}
    for group in groups:
        if not group.swapped:
            by_data.setdefault((group.scale, group.dataset), []).append(group)
    for (scale, dataset), here in by_data.items():
        for name, kind in kinds_of(scale, points).items():
            parts = _by_attack(here) if kind.under_attack else {None: here}
            for attack, part in parts.items():
                if used := kind.chosen(part, attack):
                    file = "-".join([name, scale, dataset, *([attack] if attack else [])]) + ".png"
                    found[file] = f"{kind.caption}: {_where(part)}", _draws(kind, used, part, attack)
    return found


def _by_attack(groups):
    """{attack: groups}: sizes whose runs met different attacks stand in figures of their own."""
    found = {}
    for here in gathered.by_size(groups).values():
        found.setdefault(gathered.robust_attack(here), []).extend(here)
    return found


def _where(groups):
    """The data set of groups that have one, with the part of it that was used, and the scale."""
    dataset = groups[0].dataset
    used = dict.fromkeys(settings.dataset(record) for group in groups for record in group.records)
    part = "" if dataset in used else f" ({' and '.join(used)})"
    return f"{dataset}{part}, {scale_text(groups[0].scale)}"


def _draws(kind, groups, part, attack):
    """A function of the path that draws the figure there."""
    title = f"{kind.caption}\n{_where(part)}"
    return lambda path: kind.draw(groups, title, path, attack)


def write(groups, folder, points=()):
    """Draws every figure into `folder` and removes those of earlier records that no longer have data;
    returns their paths.
    """
    drawn = []
    for name, (_, draw) in planned(groups, points).items():
        draw(folder / name)
        drawn.append(folder / name)
    kinds = {*KINDS, *kinds_of(full_size.SCALE, points)}
    ours = tuple(f"{kind}-{scale}-" for kind in kinds for scale in SCALES)
    for path in folder.glob("*.png") if folder.exists() else ():
        if path not in drawn and path.name.startswith(ours):
            path.unlink()
    return drawn
