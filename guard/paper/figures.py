"""The figures of results/TABLES.md: one file for each kind, scale and data set that has cells, none
otherwise.

An arm has the same colour and mark in all of them. Cells with swapped labels are in none: they have
tables.
"""

from math import sqrt

from guard.data.pixel_cache import read_image
from guard.paper import cells, settings
from guard.paper.markdown import scale_text, size_text
from guard.report import plots

FOLDER = "figures"
# grey: plain; reds: curvature; purples, from weak to strong: gradient regularization; blues: adversarial
# training; greens: CDA
STYLES = {
    "sre2l": ("black", "o"),
    "guard": ("#d62728", "s"),
    "guard-squared": ("#ff7f0e", "D"),
    "guard-loss": ("#e8a0a0", "d"),
    "gr-1e-4": ("#d4b9da", "v"),
    "gr-1e-3": ("#c994c7", "<"),
    "gr-1e-2": ("#ae6fc0", "^"),
    "gr-0.1": ("#8440a8", ">"),
    "gr-1": ("#4a1486", "p"),
    "gr-30": ("#2d0a57", "8"),
    "adv-t": ("#1f77b4", "X"),
    "adv-f": ("#6baed6", "P"),
    "cda": ("#74c476", "h"),
    "cda+guard": ("#006d2c", "*"),
}
OTHER = ("#7f7f7f", ".")  # an arm without a style of its own
PANEL = 4.2  # inches


def planned(groups):
    """file name -> (caption, function that draws it, given the path) of every figure for which there are
    data.

    Sizes whose runs met different attacks stand in figures of their own.
    """
    plain, found = [group for group in groups if not group.swapped], {}
    for scale, dataset in dict.fromkeys((group.scale, group.dataset) for group in plain):
        here = [group for group in plain if (group.scale, group.dataset) == (scale, dataset)]
        sizes = {
            size: cells.robust_attack([group for group in here if group.images_per_class == size])
            for size in dict.fromkeys(group.images_per_class for group in here)
        }
        for kind, (caption, chosen, draw, under_attack) in KINDS.items():
            for attack in dict.fromkeys(sizes.values()) if under_attack else (None,):
                part = [group for group in here if attack in (None, sizes[group.images_per_class])]
                used = chosen(part, attack)
                if used:
                    name = "-".join([kind, scale, dataset, *([attack] if attack else [])])
                    found[f"{name}.png"] = (
                        f"{caption}: {_where(part)}",
                        _drawing(draw, used, f"{caption}\n{_where(part)}", attack),
                    )
    return found


def _where(groups):
    """The data set of groups that have one, with the part of it that was used, and the size."""
    dataset, used = (
        groups[0].dataset,
        dict.fromkeys(settings.dataset(record) for group in groups for record in group.records),
    )
    part = "" if dataset in used else f" ({' and '.join(used)})"
    return f"{dataset}{part}, {scale_text(groups[0].scale)}"


def _drawing(draw, groups, title, attack):
    return lambda path: draw(groups, title, path, attack)


def write(groups, folder):
    """Draws every figure into `folder` and removes those of earlier records that no longer have data;
    returns their paths.
    """
    drawn = []
    for name, (_, draw) in planned(groups).items():
        draw(folder / name)
        drawn.append(folder / name)
    for path in folder.glob("*.png") if folder.exists() else ():
        if path not in drawn and path.name.startswith(
            tuple(f"{kind}-{scale}-" for kind in KINDS for scale in cells.SCALES)
        ):
            path.unlink()
    return drawn


def _evaluated(groups):
    """On what the runs were evaluated, for a title."""
    evaluated = [record["evaluate student"] for group in groups for record in group.records]
    epsilons = dict.fromkeys(f"{each['epsilon'] * 255:.4g}/255" for each in evaluated)
    images = sorted({each["images"] for each in evaluated})
    return f", epsilon {' and '.join(epsilons)}" + _of_images(images)


def _of_images(images):
    return f", {' or '.join(map(str, images))} validation images" if images else ""


# ---- which groups a figure can show --------------------------------------------------------------


def _measured(groups, attack):
    return [group for group in groups if _accuracy(group, attack) and _accuracy(group, "clean")]


def _at_several_sizes(groups, attack):
    found = _measured(groups, attack)
    return found if len({group.images_per_class for group in found}) > 1 else []


def _curved(groups, _):
    return [group for group in groups if _curve(group)]


def _with_curvature(groups, attack):
    return [group for group in groups if _accuracy(group, attack) and _change(group)]


def _with_strips(groups, _):
    """sre2l and guard at every size where a run of both has a strip."""
    arms = {
        (group.images_per_class, group.arm): group
        for group in groups
        if group.arm in ("guard", "sre2l") and _strip(group)
    }
    return [
        arms[size, arm]
        for size in dict.fromkeys(size for size, _ in arms)
        for arm in ("guard", "sre2l")
        if (size, "guard") in arms and (size, "sre2l") in arms
    ]


def _accuracy(group, attack):
    return _with_error(
        cells.accuracies(group.records, "student", attack), group.records[0]["evaluate student"]["images"]
    )


def _with_error(found, images):
    """(mean, deviation) in percent; of a single run the standard error that its number of images leaves
    stands for the deviation.
    """
    if found is None or found[1] is not None or not images:
        return found
    return found[0], sqrt(found[0] * (100 - found[0]) / images)


def _change(group):
    return cells.average([cells.curvature(record, "gradient_change") for record in group.records])


def _strip(group):
    return next((cell for cell in group.cells if cell.strip), None)


def _curve(group):
    """epsilon -> (mean, deviation) over the runs that have a curve, at the epsilons that all of these
    have.
    """
    curves = [dict(zip(cell.curve["epsilon"], cell.curve["accuracy"])) for cell in group.cells if cell.curve]
    shared = [epsilon for epsilon in curves[0] if all(epsilon in curve for curve in curves)] if curves else []
    images = next((cell.curve.get("images") for cell in group.cells if cell.curve), None)
    return {
        epsilon: _with_error(cells.average([curve[epsilon] for curve in curves]), images)
        for epsilon in sorted(shared)
    }


# ---- the figures ---------------------------------------------------------------------------------


def by_images_per_class(groups, title, path, attack):
    """Robust accuracy against images per class, a line per arm."""
    figure, axes = plots.figure(7.5, 4.8)
    sizes, arms = sorted({group.images_per_class for group in groups}), _arms(groups)
    for number, arm in enumerate(arms):
        held = sorted(
            (group for group in groups if group.arm == arm), key=lambda group: group.images_per_class
        )
        apart = 1.02 ** (number - (len(arms) - 1) / 2)  # so that error bars stand beside each other
        _errorbar(
            axes,
            arm,
            [group.images_per_class * apart for group in held],
            None,
            [_accuracy(group, attack) for group in held],
            linestyle="-",
        )
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlim(sizes[0] / 1.6, sizes[-1] * 1.6)
    _finish(
        figure,
        axes,
        "images per class",
        f"accuracy under {attack.upper()}, %",
        title + _evaluated(groups),
        path,
    )


def clean_against_robust(groups, title, path, attack):
    figure, panels = _panels(groups)
    for size, axes in panels.items():
        for group in (group for group in groups if group.images_per_class == size):
            clean, robust = _accuracy(group, "clean"), _accuracy(group, attack)
            _errorbar(axes, group.arm, [clean[0]], [clean], [robust])
    _finish_panels(
        figure,
        panels,
        "clean accuracy, %",
        f"accuracy under {attack.upper()}, %",
        title + _evaluated(groups),
        path,
        groups,
    )


def by_epsilon(groups, title, path, _):
    figure, panels = _panels(groups)
    for size, axes in panels.items():
        for group in (group for group in groups if group.images_per_class == size):
            found = _curve(group)
            _errorbar(
                axes,
                group.arm,
                [epsilon * 255 for epsilon in found],
                None,
                list(found.values()),
                linestyle="-",
            )
    next(iter(panels.values())).set_ylim(bottom=0)  # of all panels, after all are drawn: a limit is final
    curves = [cell.curve for group in groups for cell in group.cells if cell.curve]
    attacks = sorted({curve["attack"] for curve in curves if "attack" in curve})
    images = sorted({curve["images"] for curve in curves if "images" in curve})
    _finish_panels(
        figure,
        panels,
        "epsilon, 1/255",
        f"accuracy under {' and '.join(attacks).upper() or 'attack'}, %",
        title + _of_images(images),
        path,
        groups,
    )


def curvature(groups, title, path, attack):
    figure, panels = _panels(groups)
    for size, axes in panels.items():
        for group in (group for group in groups if group.images_per_class == size):
            change, robust = _change(group), _accuracy(group, attack)
            _errorbar(axes, group.arm, [change[0]], [change], [robust])
        axes.set_xlim(left=0)
    _finish_panels(
        figure,
        panels,
        "gradient change of the teacher,\nper squared normalized-image unit",
        f"student's accuracy under {attack.upper()}, %",
        title + _evaluated(groups),
        path,
        groups,
    )


def distilled(groups, title, path, _):
    """The first distilled image of up to ten classes, GUARD's above SRe2L's, for each size."""
    pictures = [read_image(_strip(group).strip).permute(1, 2, 0).numpy() for group in groups]
    width = 10.0
    heights = [width * picture.shape[0] / picture.shape[1] + 0.35 for picture in pictures]
    figure, axes = plots.figure(
        width, sum(heights) + 0.6, len(groups), 1, squeeze=False, height_ratios=heights
    )
    for group, picture, place in zip(groups, pictures, axes[:, 0]):
        place.imshow(picture, interpolation="nearest")
        cell = _strip(group)
        place.set_title(
            f"{group.arm}, {size_text(group.images_per_class)}, seed {cell.seed}", fontsize=11, loc="left"
        )
        place.axis("off")
    figure.suptitle(title.replace("\n", ", "), fontsize=12)
    plots.save(figure, path)


# name -> (caption, groups it can show, function that draws them, whether it shows the accuracy under one
# attack)
KINDS = {
    "robust-accuracy": (
        "Robust accuracy of the student against images per class",
        _at_several_sizes,
        by_images_per_class,
        True,
    ),
    "clean-against-robust": (
        "Clean against robust accuracy of the student",
        _measured,
        clean_against_robust,
        True,
    ),
    "epsilon": ("Accuracy of the student against epsilon", _curved, by_epsilon, False),
    "curvature": (
        "Curvature of the teacher against robust accuracy of the student",
        _with_curvature,
        curvature,
        True,
    ),
    "distilled": ("Distilled images", _with_strips, distilled, False),
}


# ---- parts ---------------------------------------------------------------------------------------


def _arms(groups):
    return list(dict.fromkeys(sorted((group.arm for group in groups), key=cells.rank)))


def _errorbar(axes, arm, places, across, found, linestyle="none"):
    """Points with their deviations; found, across: (mean, deviation or None) of each."""
    colour, mark = STYLES.get(arm, OTHER)
    axes.errorbar(
        places,
        [mean for mean, _ in found],
        yerr=[deviation or 0 for _, deviation in found],
        xerr=[deviation or 0 for _, deviation in across] if across else None,
        color=colour,
        marker=mark,
        markersize=7,
        linestyle=linestyle,
        linewidth=1.4,
        elinewidth=1,
        capsize=3,
        label=arm,
    )


def _panels(groups):
    """A figure and its axes, one for each number of images per class."""
    sizes = sorted({group.images_per_class for group in groups})
    figure, axes = plots.figure(
        PANEL * len(sizes) + 2, PANEL + 0.5, 1, len(sizes), squeeze=False, sharey=True
    )
    for size, place in zip(sizes, axes[0]):
        place.set_title(size_text(size), fontsize=11)
    return figure, dict(zip(sizes, axes[0]))


def _finish_panels(figure, panels, across, up, title, path, groups):
    found = {}
    for axes in panels.values():
        axes.set_xlabel(across, fontsize=11)
        axes.grid(alpha=0.3)
        found |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels())}
    next(iter(panels.values())).set_ylabel(up, fontsize=11)
    shown = _arms(groups)
    figure.legend([found[arm] for arm in shown], shown, loc="outside right center", fontsize=10)
    figure.suptitle(title, fontsize=12)
    plots.save(figure, path)


def _finish(figure, axes, across, up, title, path):
    axes.set_xlabel(across, fontsize=11)
    axes.set_ylabel(up, fontsize=11)
    axes.set_title(title, fontsize=12)
    axes.grid(alpha=0.3)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", fontsize=10)
    plots.save(figure, path)
