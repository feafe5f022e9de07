"""How the figures of results/TABLES.md are drawn. An arm has the same colour and mark in all of them.

Each function takes groups, a title, the path of the PNG file and the attack that stands for robustness.
"""

from guard.paper import groups as gathered
from guard.paper.arms import DIGITS, HARD_LABELS, OfDigits, rank
from guard.paper.markdown import size_text
from guard.report import plots

# grey: plain; reds: curvature; purples, from weak to strong: gradient regularization; blues: adversarial
# training; greens: CDA
STYLES = {
    "sre2l": ("black", "o"),
    "guard": ("#d62728", "s"),
    "guard-batch": ("#f768a1", "H"),
    "guard-squared": ("#ff7f0e", "D"),
    "guard-loss": ("#e8a0a0", "d"),
    "gr-1e-4": ("#d4b9da", "v"),
    "gr-1e-3": ("#c994c7", "<"),
    "gr-1e-2": ("#ae6fc0", "^"),
    "gr-0.1": ("#8440a8", ">"),
    "gr-1": ("#4a1486", "p"),
    "gr-30": ("#7b2cff", "8"),
    "adv-t": ("#1f77b4", "X"),
    "adv-f": ("#6baed6", "P"),
    "nfgsm": ("#08519c", "o"),
    "cda": ("#74c476", "h"),
    "cda+guard": ("#006d2c", "*"),
}
# The digits' other students have the colour of their labels' teacher, orange where these are hard, and a mark
# for images and views.
_HARD = "#ff7f0e"
_MARKS = {("sre2l", False): "o", ("sre2l", True): "P", ("random", False): "^", ("random", True): "v"}
for _arm, _of in DIGITS.items():
    _teacher = OfDigits("sre2l", _of.labels, False).arm
    _colour = _HARD if _of.labels == HARD_LABELS else STYLES[_teacher][0]
    STYLES.setdefault(_arm, (_colour, _MARKS[_of.images, _of.adversarial]))
NO_TEACHER = "none, hard labels"
# Of IMAGES/TEACHER, IMAGES/TEACHER/adversarial and IMAGES/TEACHER/paper: the teacher's colour.
TEACHERS = {
    "plain": "black",
    "guard": "#d62728",
    "gr": "#8440a8",
    "nfgsm": "#1f77b4",
    "nfgsm+guard": "#2ca02c",
    "guard, batch statistics": "#f768a1",
    "nfgsm+guard, batch statistics": "#17becf",
    NO_TEACHER: _HARD,
}
OTHER = ("#7f7f7f", ".")  # an arm without a style of its own
PANEL = 4.2  # inches


def colour_of(arm):
    """The colour of an arm in all figures and pages; grey for one that has none. arm: a name, or None."""
    first, _, rest = (arm or "").partition("/")
    teacher = rest.removesuffix("/adversarial").removesuffix("/paper")
    if teacher in TEACHERS:
        return TEACHERS[teacher]
    # of METHODS and RESNET18, what stands behind the method is the student's recipe
    return STYLES.get(first.removesuffix("-resnet18"), OTHER)[0]


# ---- numbers -------------------------------------------------------------------------------------


def accuracy(group, attack):
    """(mean, uncertainty) of the student's accuracy in percent, or None."""
    return gathered.accuracies(group.records, "student", attack)


def gradient_change(group):
    """(mean, standard deviation or None) of the teacher's curvature, or None."""
    return gathered.curvatures(group.records, "gradient_change")


def _evaluated(groups):
    """On what the runs were evaluated, for a title."""
    evaluated = [record["evaluate student"] for group in groups for record in group.records]
    epsilons = dict.fromkeys(f"{each['epsilon'] * 255:.4g}/255" for each in evaluated)
    return f", epsilon {' and '.join(epsilons)}" + _of_images({each["images"] for each in evaluated})


def _of_images(images):
    return f", {' or '.join(map(str, sorted(images)))} validation images" if images else ""


# ---- the figures ---------------------------------------------------------------------------------


def by_images_per_class(groups, title, path, attack):
    """Robust accuracy against images per class, a line per arm."""
    figure, axes = plots.figure(7.5, 4.8)
    sizes, arms = sorted({group.images_per_class for group in groups}), _arms(groups)
    for number, arm in enumerate(arms):
        held = [group for group in groups if group.arm == arm]
        held.sort(key=lambda group: group.images_per_class)
        apart = 1.02 ** (number - (len(arms) - 1) / 2)  # so that error bars stand beside each other
        places = [group.images_per_class * apart for group in held]
        _errorbar(axes, arm, places, None, [accuracy(group, attack) for group in held], linestyle="-")
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlim(sizes[0] / 1.6, sizes[-1] * 1.6)
    axes.set_title(title + _evaluated(groups), fontsize=12)
    _finish(figure, [axes], "images per class", f"accuracy under {attack.upper()}, %", groups, path)


def clean_against_robust(groups, title, path, attack):
    figure, panels = _panels(groups)
    for group in groups:
        clean, robust = accuracy(group, "clean"), accuracy(group, attack)
        _errorbar(panels[group.images_per_class], group.arm, [clean[0]], [clean], [robust])
    figure.suptitle(title + _evaluated(groups), fontsize=12)
    up = f"accuracy under {attack.upper()}, %"
    _finish(figure, panels.values(), "clean accuracy, %", up, groups, path)


def by_epsilon(groups, title, path, _):
    """The students' accuracy against epsilon, a line per arm."""
    figure, panels = _panels(groups)
    for group in groups:
        found = gathered.curve(group)
        places = [epsilon * 255 for epsilon in found]
        axes = panels[group.images_per_class]
        _errorbar(axes, group.arm, places, None, list(found.values()), linestyle="-")
    next(iter(panels.values())).set_ylim(bottom=0)  # of all panels, after all are drawn: a limit is final
    curves = [run.curve for group in groups for run in group.runs if run.curve]
    attacks = sorted({curve["attack"] for curve in curves if "attack" in curve})
    images = {curve["images"] for curve in curves if "images" in curve}
    figure.suptitle(title + _of_images(images), fontsize=12)
    up = f"accuracy under {' and '.join(attacks).upper() or 'attack'}, %"
    _finish(figure, panels.values(), "epsilon, 1/255", up, groups, path)


def by_curvature(groups, title, path, attack):
    figure, panels = _panels(groups)
    for group in groups:
        change, robust = gradient_change(group), accuracy(group, attack)
        _errorbar(panels[group.images_per_class], group.arm, [change[0]], [change], [robust])
    for axes in panels.values():
        axes.set_xlim(left=0)
    figure.suptitle(title + _evaluated(groups), fontsize=12)
    across = "gradient change of the teacher,\nper squared normalized-image unit"
    up = f"student's accuracy under {attack.upper()}, %"
    _finish(figure, panels.values(), across, up, groups, path)


# ---- parts ---------------------------------------------------------------------------------------


def _arms(groups):
    return list(dict.fromkeys(sorted((group.arm for group in groups), key=rank)))


def _errorbar(axes, arm, places, across, found, linestyle="none"):
    """Points with their uncertainties; found, across: (mean, uncertainty or None) of each."""
    colour, mark = STYLES.get(arm, OTHER)
    axes.errorbar(
        places,
        [mean for mean, _ in found],
        yerr=[uncertainty or 0 for _, uncertainty in found],
        xerr=[uncertainty or 0 for _, uncertainty in across] if across else None,
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
    """A figure and its axes, {images per class: axes}."""
    sizes = sorted({group.images_per_class for group in groups})
    figure, axes = plots.figure(
        PANEL * len(sizes) + 2, PANEL + 0.5, 1, len(sizes), squeeze=False, sharey=True
    )
    panels = dict(zip(sizes, axes[0], strict=True))
    for size, place in panels.items():
        place.set_title(size_text(size), fontsize=11)
    return figure, panels


def _finish(figure, panels, across, up, groups, path):
    """Names the axes, adds one legend for all panels, and writes the file."""
    panels, drawn = list(panels), {}
    for axes in panels:
        axes.set_xlabel(across, fontsize=11)
        axes.grid(alpha=0.3)
        handles, labels = axes.get_legend_handles_labels()
        drawn |= dict(zip(labels, handles, strict=True))
    panels[0].set_ylabel(up, fontsize=11)
    shown = _arms(groups)
    figure.legend([drawn[arm] for arm in shown], shown, loc="outside right center", fontsize=10)
    plots.save(figure, path)
