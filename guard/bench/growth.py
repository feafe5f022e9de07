"""How each stage's time grows: with images per class, with classes, with the size of the images, one at
a time from a common point.
"""

import dataclasses
import itertools

from guard.bench import units
from guard.paper.markdown import heading, table
from guard.recipes import recipe
from guard.report import plots
from guard.run.storage import replacing

IMAGES_PER_CLASS, CLASSES, SIZES = (1, 10, 50, 100), (10, 100), (32, 64, 224)
BASE = {"images per class": 10, "classes": 10, "image size": 32}
AXES = {"images per class": IMAGES_PER_CLASS, "classes": CLASSES, "image size": SIZES}
NO_BEND = (
    "No curve bends upward: nothing takes over 1.25 times what its pixels let one expect from the point"
    " before."
)
BATCH = 32  # images of a teacher's step


def points():
    """Every point once: the base, and what differs from it in one axis."""
    found = [BASE]
    for axis, values in AXES.items():
        found += [{**BASE, axis: value} for value in values if value != BASE[axis]]
    return found


def steps_of(point, model, conditions):
    """The four stages' pieces at a point: a teacher's step with gradient-norm on BATCH images;
    iterations on all distilled images; an epoch of their labels; an epoch of the student on them.
    """
    (count, classes, size), device, common = point.values(), conditions.device, conditions.of_a_stage
    chosen, total = recipe("cifar10"), count * classes
    settings = dataclasses.replace(
        chosen.pretrain,
        model=model,
        image_size=size,
        stem="cifar",
        batch_size=BATCH,
        curvature=True,
        **common,
    )
    network = units.network("cifar10", model, size, "cifar", classes, device, conditions.channels_last).eval()
    held = units.random_images(total, classes, size, device)
    recovery = dataclasses.replace(
        chosen.recover, iterations=_iterations(conditions), images_per_class=count, pack_images=100, **common
    )
    train = dataclasses.replace(chosen.train, model=model, **common)
    relabel = dataclasses.replace(chosen.relabel, batch_size=100, **common)
    return {
        "teacher, step": units.teacher_steps(settings, "cifar10", classes, device),
        "recover, iteration": units.recover_iterations(recovery, network, classes, device),
        "relabel, epoch": units.label_epoch(relabel, network, held),
        "student, epoch": units.student_epoch(train, relabel, network, "cifar", "cifar10", held, device),
    }


def _iterations(conditions):
    return units.iterations(conditions.device, few=2)


def run(conditions):
    """Yields a row per point and stage: seconds of its piece, images that the piece is about, and images
    per second.
    """
    model = "resnet18" if conditions.scale == "paper" else "convnet-32"
    for point in points():
        for stage, seconds in units.seconds(
            steps_of(point, model, conditions), conditions.repeats, conditions.device
        ).items():
            seconds = seconds / _iterations(conditions) if stage.startswith("recover") else seconds
            images = BATCH if stage.startswith("teacher") else point["images per class"] * point["classes"]
            yield {
                "stage": stage,
                "network": model,
                **point,
                "seconds": seconds,
                "images": images,
                "images per second": images / seconds,
            }


def bends(rows):
    """[(stage, axis, value, factor), ...]: where a stage takes over 1.25 times what its pixels make one
    expect from the point before.
    """
    found = []
    for axis, values in AXES.items():
        for stage in dict.fromkeys(row["stage"] for row in rows):
            line = [
                row
                for value in values
                for row in rows
                if row["stage"] == stage and {name: row[name] for name in BASE} == {**BASE, axis: value}
            ]
            for one, other in itertools.pairwise(line):
                factor = (other["seconds"] / one["seconds"]) / (
                    (other["images"] * other["image size"] ** 2) / (one["images"] * one["image size"] ** 2)
                )
                if factor > 1.25:
                    found.append((stage, axis, other[axis], factor))
    return found


def bends_text(rows):
    """A line for each bend upward, or one that there is none."""
    lines = [
        f"{stage} takes {factor:.2f} times what its pixels let one expect at {value} {axis}."
        for stage, axis, value, factor in bends(rows)
    ]
    return "\n".join(lines) or NO_BEND


def write_table(rows, path):
    """Seconds as Markdown, a row for each point, a column for each stage."""
    stages, points_held = list(dict.fromkeys(row["stage"] for row in rows)), {}
    for row in rows:
        points_held.setdefault(tuple(row[name] for name in BASE), {})[row["stage"]] = row["seconds"]
    shown = [
        [*map(str, point), *(f"{seconds[stage]:.4g}" for stage in stages)]
        for point, seconds in points_held.items()
    ]
    lines = [
        heading(1, f"Seconds of each stage's piece, {rows[0]['network']}"),
        *table([*BASE, *stages], shown, left=0),
        "",
        bends_text(rows),
        "",
    ]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines))


def plot(rows, path):
    """Seconds against each axis, both logarithmic, a line per stage; dotted: as many times longer as
    there are pixels.
    """
    figure, axes = plots.figure(4.6 * len(AXES), 4, 1, len(AXES), sharey=True)
    for place, (axis, values) in zip(axes, AXES.items()):
        for color, stage in zip(("C0", "C1", "C2", "C3"), dict.fromkeys(row["stage"] for row in rows)):
            line = [
                row
                for value in values
                for row in rows
                if row["stage"] == stage and {name: row[name] for name in BASE} == {**BASE, axis: value}
            ]
            place.plot(
                [row[axis] for row in line],
                [row["seconds"] for row in line],
                marker="o",
                color=color,
                label=stage,
            )
            first = line[0]
            pixels = [
                row["images"] * row["image size"] ** 2 / (first["images"] * first["image size"] ** 2)
                for row in line
            ]
            place.plot(
                [row[axis] for row in line],
                [first["seconds"] * factor for factor in pixels],
                linestyle=":",
                color=color,
            )
        place.set(
            xscale="log",
            yscale="log",
            xlabel=axis + (", pixels" if axis == "image size" else ""),
            ylabel="seconds" if place is axes[0] else None,
        )
        place.set_xticks(values, [str(value) for value in values])
        place.minorticks_off()
        place.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    network = rows[0]["network"]
    figure.suptitle(
        f"Seconds of each stage's piece, {network}; {BASE['images per class']} images per class,"
        f" {BASE['classes']} classes, {BASE['image size']} pixels unless the axis says otherwise; dotted:"
        " proportional to pixels",
        fontsize=9,
    )
    plots.save(figure, path)
