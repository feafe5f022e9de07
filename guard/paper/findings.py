"""What the records show, in a few lines with intervals: the answers to guard.paper.questions, whether images
or labels carry what a teacher gains, and which settings matter.

Every number is a mean of changes, seed by seed, between two students of the same seed, with its 95 %
confidence interval by Student's t distribution. A change is clear where the interval excludes zero.
"""

from dataclasses import dataclass
from math import sqrt

from guard.paper import groups as gathered
from guard.paper import published, swap, variations
from guard.paper.arms import VARIATIONS
from guard.paper.groups import ROBUST
from guard.paper.markdown import MISSING, heading, points, scale_text, table
from guard.paper.questions import QUESTIONS, by_both_recipes, plain_beside
from guard.report.statistics import average

INTRODUCTION = """\
Changes of the student's accuracy in percentage points: the mean over seeds of the difference between two
students of the same seed, and its 95 % confidence interval (Student's t). A change is clear where its
interval excludes zero. With three seeds an interval is wide, so "not clear" does not mean "no change"; of
twenty changes that are none, one looks clear; and two seeds may agree by chance, more closely than the
error of the test images. Where there is a single run the interval is that of its images alone; it says
nothing of other seeds, so it has no verdict, and stands below the table where students are compared. Nor is
there a verdict where the few seeds all differ by exactly the same. The students of a pair, and their
teachers, come from one kind of device, the same training and the same attacked images: a run of others has
no part in it; but two teachers of the same settings and seed may be of different commits, and then of other
weights. The same attack within twice the epsilon has been met where students were also measured against
epsilon. Clean accuracy is that on all validation images, also where attacks met a part.
"""
# 97.5 % quantile of Student's t distribution for 1, 2, ... degrees of freedom
QUANTILES = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
NORMAL_QUANTILE = 1.96
ROUNDING = 1e-9  # points by which differences that are the same may differ


@dataclass(frozen=True)
class Change:
    """A mean change in percentage points, half the width of its 95 % interval, and the number of seeds."""

    mean: float
    half_width: float
    seeds: int

    @property
    def clear(self):
        """Differences that are all the same, which few seeds have by chance, leave no interval to go by."""
        return abs(self.mean) > self.half_width > 0

    @property
    def verdict(self):
        if self.seeds == 1:
            return "one run"
        if not self.half_width:
            return "no interval"
        if not self.clear:
            return "not clear"
        return "higher" if self.mean > 0 else "lower"

    def __str__(self):
        low, high = self.mean - self.half_width, self.mean + self.half_width
        shows_zero = min(abs(low), abs(high)) < 0.05  # which no bound of a clear change is
        places = 2 if self.clear and shows_zero else 1
        mean, low, high = (points(each, places, "+") for each in (self.mean, low, high))
        return f"{mean} [{low}, {high}]"


def changed(found, seeds):
    """A Change from (mean, uncertainty over `seeds` differences); of a single one the uncertainty is the
    standard error that its images leave.
    """
    mean, uncertainty = found
    if seeds == 1:
        return Change(mean, NORMAL_QUANTILE * uncertainty, seeds)
    quantile = QUANTILES[min(seeds - 1, len(QUANTILES)) - 1]
    half_width = quantile * uncertainty / sqrt(seeds)
    return Change(mean, half_width if half_width > ROUNDING else 0.0, seeds)


def section(groups):
    """Markdown lines. groups: all."""
    told = [
        *(line for question in QUESTIONS for line in _answer(question, groups)),
        *_by_which_recipe(groups),
        *_images_or_labels(groups),
        *_which_setting(groups),
    ]
    if not told:
        told = ["No runs are recorded yet.\n"]
    return [heading(2, "What was found"), INTRODUCTION, *told]


def _where(size):
    scale, dataset, images_per_class = size
    return published.place(dataset, images_per_class, scale_text(scale))


def _count(changes, more, less):
    """'clearly higher in 2 of 7 comparisons of several seeds and clearly lower in none'."""
    verdicts = [change.verdict for change in changes if change.seeds > 1]
    higher, lower = verdicts.count("higher"), verdicts.count("lower")
    of_all = f"{len(verdicts)} comparison{'s' * (len(verdicts) != 1)} of several seeds"
    return f"clearly {more} in {higher or 'none'} of {of_all} and clearly {less} in {lower or 'none'}"


def _within(attack, groups):
    """'pgd100 within 1/255': the attack and the epsilon of the students' evaluation."""
    epsilon = groups[0].records[0]["evaluate student"]["epsilon"]
    return f"{attack} within {epsilon * 255:.3g}/255"


def _twice(attack, groups):
    """Twice the epsilon of the students' evaluation, where all were measured at that by the same attack, else
    None.
    """
    found = gathered.twice_the_epsilon(groups)
    return found[1] if found and found[0] == attack else None


def _titles(what):
    return [what, "so it is"]


def _cells(change):
    """A Change and what it says, as cells of those titles; dashes where there is none."""
    return [str(change), change.verdict] if change else [MISSING, MISSING]


@dataclass(frozen=True)
class Compared:
    """Who is compared, where, under which attack, and three Changes. further: within twice the epsilon, or
    None.
    """

    where: str
    who: str
    attack: str
    under_attack: Change
    further: Change | None
    clean: Change

    @property
    def seeds(self):
        return self.under_attack.seeds

    def cells(self):
        measured = [
            cell for change in (self.under_attack, self.further, self.clean) for cell in _cells(change)
        ]
        return [self.where, self.who, self.attack, *measured, str(self.seeds)]

    def __str__(self):
        further = f", within twice that {self.further}" if self.further else ""
        return f"{self.who} {self.under_attack}{further}, clean {self.clean}"


def _comparisons(compared, who):
    """Lines for a list of Compared: a table of those of several seeds, and a list of single runs for each
    place. who: the title of the second column.
    """
    several = [one.cells() for one in compared if one.seeds > 1]
    single = {}
    for one in compared:
        if one.seeds == 1:
            single.setdefault((one.where, one.attack), []).append(str(one))
    lines = []
    if several:
        measured = [*_titles("under attack"), *_titles("within twice that"), *_titles("clean")]
        lines += [*table(["where", who, "attack", *measured, "seeds"], several, left=9), ""]
    for (where, attack), told in single.items():
        lines += [f"One run each, {where}, {attack}:\n", *(f"- {one}" for one in told), ""]
    return lines


# ---- the questions -------------------------------------------------------------------------------


def _answer(question, groups):
    """Students against those that a question names beside them."""
    compared = []
    for size, here in gathered.by_size(group for group in groups if not group.swapped).items():
        for group in here:
            other = gathered.of_arm(here, question.beside(group.arm))
            if other is None or not (gathered.as_planned(group) and gathered.as_planned(other)):
                continue
            both = [other, group]
            attack = gathered.robust_attack(both)
            measured = (attack, _twice(attack, both), gathered.clean_accuracy(both))
            changes = [gathered.change(group, other, name) for name in measured]
            under_attack, further, clean = (changed(*one) if one else None for one in changes)
            if under_attack is None or clean is None:
                continue
            who, within = f"{group.arm} less {other.arm}", _within(attack, [group])
            compared.append(Compared(_where(size), who, within, under_attack, further, clean))
    if not compared:
        return []
    if all(one.seeds == 1 for one in compared):
        told = f"Single runs of {question.students} beside {question.others}, without a verdict.\n"
        return [heading(3, question.title), told, *_comparisons(compared, "students")]
    of_twice = [one.further for one in compared if one.further]
    further = f"; within twice that epsilon {_count(of_twice, 'more', 'less')}" if of_twice else ""
    answer = (
        f"Against {question.others}, {question.students} are"
        f" {_count([one.under_attack for one in compared], 'more robust', 'less robust')}{further}."
        f" Their clean accuracy is {_count([one.clean for one in compared], 'higher', 'lower')}.\n"
    )
    return [heading(3, question.title), answer, *_comparisons(compared, "students")]


def _by_which_recipe(groups):
    """What another teacher than a plain one gains by the paper's recipe, less what it gains by `modern`."""
    compared = []
    for size, here in gathered.by_size(group for group in groups if not group.swapped).items():
        for arm, by_modern in by_both_recipes():
            arms = (arm, plain_beside(arm), by_modern, plain_beside(by_modern))
            four = [gathered.of_arm(here, each) for each in arms]
            if not all(four) or not all(map(gathered.as_planned, four)):
                continue
            attack = gathered.robust_attack(four)
            measured = (attack, _twice(attack, four), gathered.clean_accuracy(four))
            found = [_change_of_changes(four, what) if what else None for what in measured]
            if found[0] and found[2]:
                compared.append(Compared(_where(size), by_modern, _within(attack, four), *found))
    if not compared:
        return []
    answer = (
        "What the student of a regularized or adversarially trained teacher gains on that of a plain one by"
        " the paper's recipe, less what it gains by `modern`: each from four students of one seed.\n"
    )
    title = "Does what a teacher gains depend on the student's recipe?"
    return [heading(3, title), answer, *_comparisons(compared, "teacher")]


def _change_of_changes(four, what):
    """The Change from what a group gains on the one after it, the first pair's less the second's, over the
    seeds that all four have; None where there is none.
    """
    of_seeds = gathered.at_common_seeds(four, what)
    if not of_seeds:
        return None
    values = [one - two - (three - four) for (one, _), (two, _), (three, _), (four, _) in of_seeds]
    return changed(average(values, gathered.error_of_sum(of_seeds[0])), len(values))


def _images_or_labels(groups):
    """The main effects of the swap, for every regularizer."""
    rows, of_images, of_labels = [], [], []
    for square in swap.squares(groups):
        found = square.effects(square.attack)
        if found is None or not square.as_planned:
            continue
        images, labels = _of_both(found)
        of_images.append(images)
        of_labels.append(labels)
        twice = _twice(square.attack, square.groups.values())
        further = _of_both(square.effects(twice)) if twice else (None, None)
        attack = _within(square.attack, list(square.groups.values()))
        row = [_where(square.size), attack, square.arm]
        row += [*_cells(images), *_cells(further[0]), *_cells(labels), *_cells(further[1])]
        rows.append([*row, str(images.seeds)])
    if not rows:
        return []
    header = ["where", "attack", "teacher"]
    for part in ("images", "labels"):
        header += [*_titles(f"its {part}"), *_titles(f"its {part}, within twice that")]
    header.append("seeds")
    answer = (
        "Images and labels of a regularized teacher in place of a plain one's, each averaged over both kinds"
        f" of the other. With its images the student is {_count(of_images, 'more robust', 'less robust')};"
        f" with its labels {_count(of_labels, 'more robust', 'less robust')}.\n"
    )
    return [heading(3, "Images or labels?"), answer, *table(header, rows, left=11), ""]


def _of_both(effects):
    """The Changes by the images and by the labels, from what Square.effects returns."""
    images, labels, seeds = effects
    return changed(images, seeds), changed(labels, seeds)


def _which_setting(groups):
    """GUARD's students with one setting changed against those of GUARD as it stands."""
    rows, unclear = [], []
    for size, here in variations.varied(groups).items():
        robust = gathered.of_arm(here, ROBUST)
        planned = robust and gathered.as_planned(robust)
        clear, rest, attack = [], [], gathered.robust_attack(here)
        for group in here:
            of_one_setting = group.arm in VARIATIONS and gathered.as_planned(group)
            found = gathered.change(group, robust, attack) if planned and of_one_setting else None
            if found:
                under_attack = changed(*found)
                several = under_attack.seeds > 1  # a single pair says nothing of other seeds
                (clear if under_attack.clear and several else rest).append((under_attack, group))
        for under_attack, group in sorted(clear, key=lambda pair: -abs(pair[0].mean)):
            setting = group.arm.removeprefix(f"{ROBUST}-")
            row = [_where(size), attack, setting, str(under_attack), under_attack.verdict]
            rows.append([*row, str(under_attack.seeds)])
        for seeds in dict.fromkeys(change.seeds for change, _ in rest):
            alike = [(change, group) for change, group in rest if change.seeds == seeds]
            told = ", ".join(f"{group.arm.removeprefix(f'{ROBUST}-')} {change}" for change, group in alike)
            counted = "a single seed" if seeds == 1 else f"{seeds} seeds"
            unclear.append(f"- {_where(size)}, under {attack}, {counted}: {told}")
    if not rows and not unclear:
        return []
    header = ["where", "attack", "guard with", "under attack: this less guard", "so it is", "seeds"]
    shown = [*table(header, rows, left=5), ""] if rows else ["No setting changes it clearly.\n"]
    told = ["Not clear:\n", *unclear, ""] if unclear else []
    return [heading(3, "Which setting matters?"), *shown, *told]
