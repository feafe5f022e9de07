"""The figures of the runs on all of CIFAR-10: the frontier of clean and robust accuracy with the published
points, and accuracy against the bytes of images and labels.

Marks say where images come from, colours the teacher; a student that trains adversarially is filled. What was
run with other settings than the plan's is pale.
"""

import itertools

from guard.paper import arms, full_size, stored
from guard.paper import groups as gathered
from guard.paper.drawing import NO_TEACHER, TEACHERS, colour_of
from guard.report import plots

MARKS = {"random": "o", "rded": "s", "sre2l": "^"}
BYTES_MARKS = {
    "o": "soft labels, RDED, adversarial views",
    "x": "hard labels, real images, plain views",
    "*": "hard labels, real images, adversarial views",
}
PUBLISHED = "#8c6d31"
PALE = 0.25  # opacity of what is not as planned
TICKS = (200, 300, 500, 700, 1000, 2000, 3000, 5000, 7000)  # kB


def of_the_frontier(groups, _):
    """The groups that the frontier's figure can show: its table's, those by the mini-batch's statistics, and
    those of the same random images with hard labels.
    """
    others = [
        group
        for group in full_size.of_tables(["curvature", "label-bytes"], groups)
        if group.arm in {*arms.CURVATURE, *arms.LABEL_BYTES} and _shown(group)
    ]
    found = full_size.of_tables(["frontier"], groups)
    return found + others if found else []


def of_label_bytes(groups, _):
    """The groups that the figure of label bytes can show, if there are several."""
    found = full_size.of_tables(["label-bytes"], groups)
    return found if len(found) > 1 else []


def frontier(groups, title, path, _, *, points):
    """A panel for each epsilon: the students' clean accuracy against that under PGD100, and `points` as
    published. Points without robust accuracy are lines.
    """
    names = list(full_size.EPSILONS)
    figure, panels = plots.figure(13, 5.6, 1, len(names), squeeze=False, sharex=True, sharey=True)
    for name, axes in zip(names, panels[0], strict=True):
        for group in groups:
            _point(axes, group, full_size.EPSILONS[name])
        for point in points:
            _published(axes, point, name)
        axes.set_title(f"PGD100 within {name}", fontsize=11)
        axes.set_xlabel("clean accuracy, %", fontsize=11)
        axes.grid(alpha=0.3)
    panels[0][0].set_ylabel("accuracy under attack, %", fontsize=11)
    figure.suptitle(title, fontsize=12)
    _legend(figure, panels[0][0], groups)
    plots.save(figure, path)


def label_bytes(groups, title, path, _):
    """Clean and robust accuracy against the bytes of images and labels."""
    figure, axes = plots.figure(10, 5)
    curves = {"clean": "black", **dict(zip(full_size.EPSILONS, ("#1f77b4", "#d62728"), strict=True))}
    for name, colour in curves.items():
        for group in groups:
            found, mark = _accuracy(group, name), _bytes_mark(group)
            if found:
                size, error = _kilobytes(group), [found[1] or 0]
                look = {"color": colour, "marker": mark, "capsize": 3, "alpha": _opacity(group)}
                look |= {"zorder": 3, "markersize": 8} if mark != "o" else {}
                axes.errorbar([size], [found[0]], yerr=error, **look)
    _name_by_bytes(axes, groups, curves)
    for name, colour in curves.items():
        axes.plot([], [], color=colour, marker="o", label=name if name == "clean" else f"PGD100, {name}")
    drawn = {_bytes_mark(group) for group in groups}
    for mark, words in BYTES_MARKS.items():
        if mark in drawn:
            axes.plot([], [], color="grey", marker=mark, linestyle="none", label=words)
    _explain_pale(axes, groups)
    axes.set_xscale("log")
    axes.margins(x=0.15, y=0.4)
    axes.set_ylim(bottom=0)
    left, right = axes.get_xlim()
    ticks = [size for size in TICKS if left <= size <= right]
    axes.set_xticks(ticks, [f"{size:,}" for size in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("images and labels, kB", fontsize=11)
    axes.set_ylabel("student's accuracy, %", fontsize=11)
    axes.grid(alpha=0.3)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=9)
    axes.set_title(title, fontsize=12)
    plots.save(figure, path)


def _name_by_bytes(axes, groups, curves):
    """Names soft labels above what is highest, and hard ones, whose views share it, below what is lowest."""
    found = {}
    for group in groups:
        soft, arm = _bytes_mark(group) == "o", group.arm.partition("/adversarial")[0]
        words = (
            "fp16" if group.arm == arms.BEST else arm.removeprefix("labels-hard-of-").removeprefix("labels-")
        )
        heights = [accuracy[0] for name in curves if (accuracy := _accuracy(group, name))]
        found.setdefault((_kilobytes(group), words, soft), []).extend(heights)
    for (kilobytes, words, soft), heights in found.items():
        at = {"rotation": 45, "xytext": (-4, 16)} if soft else {"xytext": (0, -20), "ha": "center"}
        place = kilobytes, max(heights) if soft else min(heights)
        axes.annotate(words, place, fontsize=8, textcoords="offset points", **at)


def _bytes_mark(group):
    """Of BYTES_MARKS."""
    record = group.records[0]
    if not stored.hard_labels(record):
        return "o"
    return "*" if record["train"]["settings"].get("adversarial_share") else "x"


def of_curvature(groups, _):
    """The groups that the figure of curvature can show, if there are several."""
    found = full_size.of_tables(["curvature"], groups)
    measured = [group for group in found if gathered.curvatures(group.records, "gradient_change")]
    return measured if {group.arm for group in measured} & set(arms.CURVATURE) else []


def curvature(groups, title, path, _):
    """Robust accuracy of teacher and student within 1/255 against the teacher's curvature."""
    figure, panels = plots.figure(11, 4.8, 1, 2, squeeze=False)
    bends = [gathered.curvatures(group.records, "gradient_change")[0] for group in groups]
    in_order = sorted(zip(bends, groups, strict=True), key=lambda pair: (not _bent_by(pair[1]), pair[0]))
    for network, axes in zip(("teacher", "student"), panels[0], strict=True):
        # Neighbours are named on other sides of them.
        right, left = {"xytext": (5, 4), "ha": "left"}, {"xytext": (-5, 4), "ha": "right"}
        sides = itertools.cycle([right, left, {"xytext": (5, -11), "ha": "left"}])
        for bent, group in in_order:
            found = full_size.robust(group, full_size.EPSILONS["1/255"], network)
            if found:
                colour = colour_of(group.arm)
                axes.errorbar([bent], [found[0]], yerr=[found[1] or 0], color=colour, marker="o", capsize=3)
                at = {"fontsize": 8, "textcoords": "offset points", **next(sides)}
                axes.annotate(_bent_by(group), (bent, found[0]), **at)
        axes.set_xscale("log")
        axes.margins(x=0.2, y=0.15)
        axes.set_xlabel("teacher's change of gradient, per squared normalized-image unit", fontsize=10)
        axes.set_ylabel(f"{network}'s accuracy under attack, %", fontsize=11)
        axes.set_title(f"{network}, PGD100 within 1/255", fontsize=11)
        axes.grid(alpha=0.3)
    teachers = dict.fromkeys(group.arm.split("/")[1] for group in groups)
    for teacher in teachers:
        panels[0][0].plot([], [], color=TEACHERS[teacher], marker="o", label=f"teacher: {teacher}")
    figure.legend(*panels[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9)
    figure.suptitle(title, fontsize=12)
    plots.save(figure, path)


# ---- parts ---------------------------------------------------------------------------------------


def _bent_by(group):
    """What differs from the recipe's regularizer, or nothing."""
    return group.arm.split("/")[0].removeprefix("curvature-") if group.arm in arms.CURVATURE else ""


def _kilobytes(group):
    """Of images and labels."""
    record = group.records[0]
    return (stored.label_bytes(record) + stored.image_bytes(record)) / 1000


def _accuracy(group, name):
    """(mean, uncertainty) of the student, 'clean' or within an epsilon of that name, or None."""
    if name == "clean":
        return gathered.accuracies(group.records, "student", gathered.clean_accuracy([group]))
    return full_size.robust(group, full_size.EPSILONS[name])


def _shown(group):
    """As full_size.parts_of, and of what else the frontier's figure shows; None of other arms."""
    if group.arm in arms.LABEL_BYTES:
        hard, _, adversarial = group.arm.partition("/")
        return ("random", NO_TEACHER, bool(adversarial)) if hard == arms.HARD else None
    if group.arm in arms.CURVATURE:
        first, teacher = group.arm.split("/")
        teacher += ", batch statistics"
        return ("random", teacher, False) if first == "curvature-batch" and teacher in TEACHERS else None
    return full_size.parts_of(group)


def _opacity(group):
    return 0.9 if gathered.as_planned(group) else PALE


def _explain_pale(axes, groups):
    """A line in the legend where a group is pale."""
    if not all(gathered.as_planned(group) for group in groups):
        axes.plot([], [], color="grey", linewidth=4, alpha=PALE, label="pale: other settings than planned")


def _point(axes, group, epsilon):
    method, teacher, adversarial = _shown(group)
    clean, robust = _accuracy(group, "clean"), full_size.robust(group, epsilon)
    if clean is None or robust is None:
        return
    axes.errorbar(
        [clean[0]],
        [robust[0]],
        xerr=[clean[1] or 0],
        yerr=[robust[1] or 0],
        color=TEACHERS[teacher],
        marker=MARKS[method],
        markerfacecolor=TEACHERS[teacher] if adversarial else "white",
        markersize=8,
        linestyle="none",
        elinewidth=0.7,
        alpha=_opacity(group),
    )


def _published(axes, point, name):
    """A cross where the point has both accuracies; a line for clean accuracy alone, in all panels."""
    alone = not set(point) & set(full_size.EPSILONS)
    if name in point:
        # The higher of two claims is that which ours are held against.
        within = max(point[name]) if isinstance(point[name], list) else point[name]
        axes.plot([point["clean"]], [within], color=PUBLISHED, marker="X", markersize=9, linestyle="none")
        at = {"fontsize": 9, "textcoords": "offset points", "xytext": (8, -3), "color": PUBLISHED}
        axes.annotate(point["name"], (point["clean"], within), **at)
    elif alone:
        axes.axvline(point["clean"], color=PUBLISHED, linestyle=":", linewidth=1)
        at = {"xycoords": ("data", "axes fraction"), "fontsize": 9, "color": PUBLISHED, "ha": "right"}
        axes.annotate(f"{point['name']}, clean", (point["clean"], 0.02), **at, rotation=90)


def _legend(figure, axes, groups):
    """What marks, colours and filling say, of those that occur."""
    held = [_shown(group) for group in groups]
    for method, mark in MARKS.items():
        if any(each[0] == method for each in held):
            axes.plot([], [], color="grey", marker=mark, linestyle="none", label=f"images: {method}")
    for teacher, colour in TEACHERS.items():
        if any(each[1] == teacher for each in held):
            axes.plot([], [], color=colour, linewidth=4, label=f"teacher: {teacher}")
    for face, words in (("white", "views"), ("grey", "adversarial views")):
        axes.plot(
            [],
            [],
            color="grey",
            marker="o",
            markerfacecolor=face,
            linestyle="none",
            label=f"student: {words}",
        )
    _explain_pale(axes, groups)
    axes.plot(
        [], [], color=PUBLISHED, marker="X", linestyle="none", label="published, under their own attack"
    )
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=10)
