"""Tables of the runs on all of CIFAR-10: the frontier with what was published beside it, settings of the
student, labels in few bytes, and the goals.

A student is attacked within two epsilons: the second is a point of its accuracy against epsilon.
"""

import textwrap
from math import isclose

from guard.paper import arms, environment, not_run, our_tables, plan, published, settings, stored
from guard.paper import groups as gathered
from guard.paper.markdown import MISSING, heading, measure, number, table

SCALE = "full-cpu"
TITLE = "All of CIFAR-10"
EPSILONS = {"1/255": 1 / 255, "2/255": 2 / 255}
INTRODUCTION = """\
Teachers of all 50,000 training images and students of few, ConvNet-3 where a row does not say otherwise.
Images come from three methods, real ones drawn at random among them. Students learn by the recipe `modern`;
"adversarial views" says that the student is trained adversarially, by one step against itself; "labels" are
the bytes of the stored soft labels, or one for each image where they are hard. PGD is PGD100 on {images} test
images, "clean" the accuracy on these, and "clean, all" that on all 10,000.{copy} The published points come
from the original and from other recipes of the student: much of what lies between them and ours is the
recipe.
"""
COPY = " All come from a JPEG copy of the data set."
OF_THE_FRONTIER = """\
Where images come from, times the teacher of images and labels, times what the student sees. The last rows
were published at this size, for a ConvNet-3 unless they say otherwise.
"""
OF_RECIPES = """\
The same kinds of images and teachers by two recipes of labels and student. `paper` is the published one:
batches of 128, so all of 10 images per class in a step, 400 epochs, crops after padding, mixup, temperature
30. `modern` has batches of 50, 600 epochs, crops of at least a quarter, CutMix, temperature 4.
"""
OF_STUDENT_SETTINGS = """\
The first row's arm with one setting of labels or student changed. "Less the first": mean differences to its
runs of the same seeds, which are as many as "pairs" says; none where other things were set otherwise, too.
"""
OF_LABEL_BYTES = """\
The same arm from labels in fewer bytes: int8, the largest logits alone, fewer epochs that are gone through
again. The rows "hard" have no teacher: real images with hard labels, as many per class as fit in the bytes of
images and labels of the first row (105), or of int8 (37), or as many as it has (10). Their adversarial views
are one step up the student's cross-entropy with these labels. An image counts as its 3,072 values of one
byte. "Less the first": as in the table before.
"""
OF_GOALS = """\
As good as it gets here: 6,000 steps, or 24,000 and 48,000 where an arm of 50 images per class ends in
epochs-2400 and epochs-4800, of RDED's images and of random ones. The goals are this project's own. The
attacks are at 2/255 on 630 test images; APGD-CE and APGD-DLR are two of the four parts of AutoAttack,
version standard, whose accuracy is no higher than the lower of them; where some runs of a row have not met
it, it says how many have. Zeta: the cosine of the student's learning rate ends after zeta times its steps.
"gradients": the teacher's input gradients are matched, too. "labels-600", "labels-200": in int8,
"labels-2400": in 16 bits, of as many epochs, gone through again. The last rows were published at these
sizes, for a ConvNet-3 unless they say otherwise; their numbers below pgd100 are by attacks of their own.
"""
OF_METHODS = """\
The published methods, each without and with GUARD, and random real images, whose students learn by the
paper's recipe, by DC's own from hard labels, or by `modern`. Recovery's 2,000 iterations and the labels' 300
epochs are the paper's; its CIFAR-10 code has 1,000 and 400, and r_bn 0.01, where these rows have 1. Shorter
than published: the teacher has 20 epochs, and the network is ConvNet-3; where it is ResNet-18, the paper's,
its teacher has 10. DC has its 1,000 networks for 1 image per class, as dc-100 a tenth of them for 10, and is
not planned for 50. The attacks are protocol paper's, within 1/255. Below stand the published numbers of these
methods and sizes, of the paper's own networks and lengths.
"""
OF_CURVATURE = """\
Settings of the curvature regularizer, alone and beside N-FGSM, behind random real images; "curvature" is the
change of the teacher's gradient, per squared normalized-image unit. The first rows have no regularizer, or
the recipe's. "batch": by the mini-batch's statistics in place of the running ones (`--curvature-statistics
batch`).
"""
CLEAN = (gathered.ALL_CLEAN, "clean")  # on all test images, and on those that are attacked
OF_TEACHER = (*(f"teacher: {name}" for name in CLEAN), "teacher: PGD 1/255")
GOALS = {1: "42 / 28", 10: "67 / 52", 50: "77 / 62"}  # clean / AutoAttack standard at 2/255


def _introduction(groups, results):
    """INTRODUCTION, with what the records say of the images."""
    records = [record for group in groups for record in group.records]
    counts = sorted({record["evaluate student"]["images"] for record in records})
    known = environment.copies(results)
    copies = {known.get(record["pretrain"]["settings"].get("data"), "") for record in records}
    told = [f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1]))] if counts else ["no"]
    jpeg = copies and all("JPEG" in copy for copy in copies)
    text = INTRODUCTION.format(images=" to ".join(told), copy=COPY if jpeg else "")
    return "\n".join(textwrap.wrap(text, 110, break_on_hyphens=False, break_long_words=False)) + "\n"


def section(groups, results):
    """Markdown lines. groups: those of the plain runs at every scale."""
    ours = [group for group in groups if group.scale == SCALE and not group.swapped]
    lines = [heading(2, TITLE), _introduction(ours, results)]
    parts = {
        "frontier": (OF_THE_FRONTIER, lambda here: _frontier(here, published.points(results, 10))),
        "recipes": (OF_RECIPES, _recipes),
        "student-settings": (OF_STUDENT_SETTINGS, _student_settings),
        "label-bytes": (OF_LABEL_BYTES, _label_bytes),
        "methods": (
            OF_METHODS,
            lambda here: _methods(
                here, published.read(results)["tables"].get("other-methods", {}).get("cifar10", {})
            ),
            *("methods-dc-1", "methods-dc-10", "methods-resnet18"),
        ),
        "curvature": (OF_CURVATURE, _curvature),
    }
    for name, (introduction, drawn, *more) in parts.items():
        here = of_tables([name, *more], ours)
        own = [group for group in here if name == "frontier" or group.arm not in arms.FRONTIER]
        if own:  # else all of its rows stand in the frontier's
            lines += [heading(3, name), introduction, *drawn(here), "", *_notes(here)]
    tables = plan.OWN_TABLES[SCALE]
    if here := of_tables([name for name in tables if name.startswith("goal-")], ours):
        lines += [heading(3, "goals"), OF_GOALS, *_goals(here, results), "", *_notes(here)]
    planned = of_tables(tables, ours)
    rest = [group for group in ours if group not in planned]
    return [
        *lines,
        *our_tables.tables_of("other runs", SCALE, rest),
        *not_run.lines(tables, [SCALE], groups, results),
    ]


def _notes(groups):
    """What was set, in Markdown: all of the plan's rows, then of those of other settings."""
    planned = [group for group in groups if gathered.as_planned(group)]
    others = [group for group in groups if group not in planned]
    lines = our_tables.notes(planned)
    if others:
        names = ", ".join(group.arm for group in others)
        lines.append(f"With other settings than the plan's: {names}.\n")
        lines += our_tables.notes(others)
    return lines


def of_tables(names, groups):
    """The groups that the tables of those names plan, in their order."""
    planned = [run for name in names for run in plan.runs_of(name, SCALE)]
    of_key = {(group.dataset, group.images_per_class, group.arm): group for group in groups}
    keys = [(run.dataset, run.images_per_class, run.arm) for run in planned]
    return [of_key[key] for key in keys if key in of_key]


# ---- numbers -------------------------------------------------------------------------------------


def robust(group, epsilon, network="student"):
    """(mean, uncertainty) of the accuracy under PGD100 within epsilon, in percent, or None."""
    evaluated = [record.get(f"evaluate {network}", {}).get("epsilon") for record in group.records]
    if all(found is not None and isclose(found, epsilon) for found in evaluated):
        return gathered.accuracies(group.records, network, "pgd100")
    if network == "teacher":
        return None
    curve = gathered.curve(group)
    return next((found for at, found in curve.items() if isclose(at, epsilon)), None)


def parts_of(group):
    """(where images come from, the teacher of images and labels, whether the student is trained
    adversarially), from the arm's name, for those of the frontier; else None.
    """
    if group.arm not in arms.FRONTIER:
        return None
    method, teacher, *views = group.arm.split("/")
    return method, teacher, bool(views)


# ---- the tables ----------------------------------------------------------------------------------


def _student(group):
    """Cells of a student's accuracies: clean, then within each epsilon."""
    return [*_clean(group, "student"), *(number(robust(group, epsilon)) for epsilon in EPSILONS.values())]


def _clean(group, network):
    """Cells below CLEAN."""
    return [number(gathered.accuracies(group.records, network, name)) for name in CLEAN]


def _of_teacher(group):
    """Cells of a teacher's accuracies, below OF_TEACHER."""
    return [*_clean(group, "teacher"), number(robust(group, EPSILONS["1/255"], "teacher"))]


def _trained(group):
    """How a teacher was trained, in a cell: runs of one table may differ in it."""
    if stored.without_teacher(group.records[0]):
        return MISSING
    teacher = group.records[0]["pretrain"]["settings"]
    return f"{teacher['epochs']} epochs, {teacher['schedule']}"


def _labels(group):
    """The bytes of its labels, in a cell."""
    return stored.shown(stored.label_bytes(group.records[0]))


def _sees(group):
    """What its student sees, in a cell."""
    return "adversarial views" if group.records[0]["train"]["settings"].get("adversarial_share") else "views"


def _columns(*, before=(), after=()):
    return [*before, "runs", *CLEAN, *(f"PGD {name}" for name in EPSILONS), *after]


def _frontier(groups, points):
    rows = []
    for group in groups:
        method, teacher, _ = parts_of(group)
        first = [method, teacher, _sees(group), str(len(group.runs))]
        rows.append([*first, *_student(group), _trained(group), *_of_teacher(group), _labels(group)])
    for point in points:
        name = f"published: {point['name']}, {point['source']}"
        clean, *within = (published.shown(point, at) or MISSING for at in ("clean", *EPSILONS))
        cells = [point.get("student", MISSING), MISSING, clean, MISSING, *within]
        rows.append([name, MISSING, *cells, MISSING, *[MISSING] * len(OF_TEACHER), MISSING])
    after = ("teacher: trained", *OF_TEACHER, "labels")
    return table(_columns(before=("images", "teacher", "student sees"), after=after), rows, left=3)


def _recipes(groups):
    rows = []
    for group in groups:
        method, teacher, *recipe = group.arm.split("/")
        row = [method, teacher, *(recipe or ["modern"]), str(len(group.runs)), *_student(group)]
        rows.append([*row, _trained(group), _labels(group)])
    columns = _columns(before=("images", "labels of", "recipe"), after=("teacher: trained", "labels"))
    return table(columns, rows, left=3)


def _student_settings(groups):
    best = gathered.of_arm(groups, arms.BEST) or groups[0]
    rows = []
    for group in groups:
        changed = "; ".join(settings.differences([best.records[0], group.records[0]])) or MISSING
        row = [group.arm, changed, str(len(group.runs)), *_student(group), *_less(group, best)]
        rows.append([*row, _labels(group)])
    columns = _columns(before=("arm", "changed (first row, this)"), after=(*LESS, "labels"))
    return table(columns, rows, left=2)


LESS = (f"less the first: {gathered.ALL_CLEAN}", *(f"PGD {name}" for name in EPSILONS), "pairs")


def _less(group, first):
    """Cells below LESS, where all is as planned: the means alone mislead where groups have other seeds."""
    measured = [
        gathered.clean_accuracy([group, first]),
        *(_measured(group, first, at) for at in EPSILONS.values()),
    ]
    found = [gathered.change(group, first, what) for what in measured]
    if group is first or not any(found) or not all(map(gathered.as_planned, (group, first))):
        return [MISSING] * len(LESS)
    cells = [number(each[0], "+") if each else MISSING for each in found]
    return [*cells, str(next(each[1] for each in found if each))]


def _measured(group, first, epsilon):
    """How groups.by_seed calls the accuracy of both groups within an epsilon."""
    evaluated = [record["evaluate student"].get("epsilon") for record in (*group.records, *first.records)]
    return "pgd100" if all(isclose(found or 0, epsilon) for found in evaluated) else epsilon


def _label_bytes(groups):
    rows, first = [], gathered.of_arm(groups, arms.BEST) or groups[0]
    for group in groups:
        labels, images = (of(group.records[0]) for of in (stored.label_bytes, stored.image_bytes))
        sizes = list(map(stored.shown, (labels, images, labels + images)))
        row = [group.arm, *sizes, str(len(group.runs)), *_student(group)]
        rows.append([*row, *_less(group, first), _trained(group)])
    columns = _columns(before=("arm", "labels", "images", "both"), after=(*LESS, "teacher: trained"))
    return table(columns, rows, left=1)


def _methods(groups, theirs):
    """theirs: images per class, as text -> published method -> attack -> accuracy."""
    attacks = (*CLEAN, "pgd100", "square", "autoattack-paper", "cw", "mim")
    rows, known = [], {}
    for group in groups:
        method, recipe = group.arm.split("/")
        found = [number(gathered.accuracies(group.records, "student", attack)) for attack in attacks]
        size = str(group.images_per_class)
        row = [method, recipe, size, str(len(group.runs)), *found, *_clean(group, "teacher")]
        rows.append([*row, _labels(group)])
        method = _published_name(method)
        if accuracies := theirs.get(size, {}).get(method):
            known[method, size] = {
                published.OUR_ATTACKS.get(name, name): accuracies[name] for name in accuracies
            }
            known[method, size][gathered.ALL_CLEAN] = known[method, size].pop("clean")
    for (method, size), accuracies in known.items():
        found = [f"{accuracies[name]:.2f}" if name in accuracies else MISSING for name in attacks]
        rows.append(
            [f"published: {method}", MISSING, size, MISSING, *found, *[MISSING] * len(CLEAN), MISSING]
        )
    after = (*OF_TEACHER[: len(CLEAN)], "labels")
    return table(["method", "recipe", "images per class", "runs", *attacks, *after], rows, left=2)


def _published_name(method):
    """Of a method of the arms: guard is theirs on SRe2L's images, whatever the network or DC's steps."""
    method = method.removesuffix("-resnet18").replace("-100", "")
    return "sre2l+guard" if method == "guard" else method


def _curvature(groups):
    rows = []
    for group in groups:
        bent = measure(gathered.curvatures(group.records, "gradient_change"), ".2e")
        row = [group.arm, str(len(group.runs)), *_student(group), _trained(group)]
        rows.append([*row, bent, *_of_teacher(group), _labels(group)])
    after = ("teacher: trained", "teacher: curvature", *OF_TEACHER, "labels")
    return table(_columns(before=("arm",), after=after), rows, left=1)


def _goals(groups, results):
    attacks = (*CLEAN, "pgd100", "apgd-ce", "apgd-dlr")  # within 2/255
    before = ["images per class", "arm", "student sees", "goal: clean / AutoAttack", "runs"]
    after = ["autoattack", "pgd100, 1/255", "zeta", "teacher: trained"]
    after += [*(f"teacher: {name}" for name in CLEAN), "teacher: apgd-dlr", "labels"]
    rows = []
    for group in groups:
        reached = [number(gathered.accuracies(group.records, "student", attack)) for attack in attacks]
        size, goal = str(group.images_per_class), GOALS[group.images_per_class]
        row = [size, group.arm, _sees(group), goal, str(len(group.runs)), *reached]
        row += [_of_those_attacked(group, "autoattack"), number(robust(group, EPSILONS["1/255"]))]
        row += [f"{group.records[0]['train']['settings'].get('zeta', 1):.4g}", _trained(group)]
        of_teacher = number(gathered.accuracies(group.records, "teacher", "apgd-dlr"))
        rows.append([*row, *_clean(group, "teacher"), of_teacher, _labels(group)])
    for size in dict.fromkeys(group.images_per_class for group in groups):
        for point in published.points(results, size):
            name = f"published: {point['name']}, {point['source']}"
            clean, *within = (published.shown(point, at) or MISSING for at in ("clean", *EPSILONS))
            cells = [point.get("student", MISSING), MISSING, MISSING, clean, MISSING, within[1]]
            cells += [MISSING, MISSING, MISSING, within[0]]  # below those of AutoAttack, then 1/255
            rows.append([str(size), name, *cells, *[MISSING] * (len(after) - 2)])
    return table([*before, *attacks, *after], rows, left=4)


def _of_those_attacked(group, attack):
    """A cell with the student's accuracy over the runs that met an attack, and how many they are where some
    did not.
    """
    met = [record for record in group.records if gathered.accuracy(record, "student", attack) is not None]
    some = f" ({len(met)} of {len(group.runs)} runs)" if 0 < len(met) < len(group.runs) else ""
    return number(gathered.accuracies(met, "student", attack)) + some
