"""Accuracies that README.md and docs/ quote of results/*/*.jsonl, computed here from the records alone: a
further seed changes them, and each page that quotes them has to follow.
"""

import json
import math
import re
import statistics
from decimal import ROUND_HALF_UP, Decimal
from itertools import combinations
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "docs/cifar10.md", "docs/findings.md")
QUANTILES = {2: 12.7062, 3: 4.3027, 4: 3.1824, 5: 2.7764}  # Student's t, 97.5 %, by the number of seeds
NUMBER = r"[+-]?\d+\.\d"
INTERVAL = rf"({NUMBER})(?: [a-z]+)? \[({NUMBER}), ({NUMBER})\]"  # "1.6 less [-1.8, 5.0]" as well
SPREAD = rf"({NUMBER}) ± (\d+\.\d)\b"

# What no record in results/ has. Of the commit that the page names, on H100s
INTERVALS_OF_A_COMMIT = {
    "docs/cifar10.md": (
        "1.6 [-1.8, 5.0], 0.6 [-4.3, 5.4], 2.5 [0.4, 4.5], 2.7 [1.6, 3.9], 0.1 [-1.0, 1.3], 3.1 [-0.5, 6.6]"
    ),
    "docs/findings.md": "1.6 [-1.8, 5.0]",
}
# Rows of that commit, and tables of runs of which the page says that no record is kept
ROWS = ("none | 80.3", "lambda 100, h 3 | 64.2")
TABLES = (
    "teacher | CPU: teacher clean",
    "teacher | clean | 1/255 | 2/255 | change of the gradient",
    "learning rate | clean | silent channels",
)
SPREADS = {"docs/cifar10.md": "57.4 ± 1.1"}  # looked at once


# ---- what the records say ------------------------------------------------------------------------


def one_decimal(value):
    """Rounded half away from zero; a zero without its sign."""
    rounded = str(Decimal(f"{value:.9f}").quantize(Decimal("0.1"), ROUND_HALF_UP))
    return "0.0" if rounded == "-0.0" else rounded


def measured(run):
    """{what was measured, and on what: (accuracy, number of images)} of a run of a record."""
    record, found = run["record"], {}
    for network, stage in (("teacher", "pretrain"), ("student", "train")):
        trained, evaluated = record[stage], record.get(f"evaluate {network}", {})
        if run["dataset"] == "cifar10" and not trained["settings"].get("val_images"):
            found[network, "all"] = trained["results"]["val accuracy"], 10_000
        for attack, of in evaluated.get("attacks", {}).items():
            within = None if attack == "clean" else evaluated["epsilon"]
            images = evaluated["images"]
            found[network, attack, within, evaluated["key"]["data"], images] = of["accuracy"], images
    curve = run["curve"] or {"epsilon": (), "accuracy": ()}
    for epsilon, accuracy in zip(curve["epsilon"], curve["accuracy"], strict=True):
        found["student", curve["attack"], epsilon, "curve", curve["images"]] = accuracy, curve["images"]
    return found


def trained_alike(run):
    devices = {stage["environment"]["device"].split(",")[0] for stage in run["record"].values()}
    return tuple(sorted(devices)), run["record"]["pretrain"]["settings"].get("data")


def standard_error(accuracy, images):
    return math.sqrt(accuracy * (100 - accuracy) / images)


class Records:
    """spreads: for each group of runs that differ in their seed alone, and for each run, the set of what may
    be quoted of its networks' accuracies; changes: likewise of a pair of groups. 'm' a mean, ('m', 's') with
    its deviation over seeds, or the images' error of one run, ('m', 'low', 'high') with its interval.
    """

    def __init__(self, results):
        self.groups = {}
        for path in sorted(results.glob("*/*.jsonl")):
            for run in map(json.loads, path.read_text().splitlines()):
                size = run["scale"], run["dataset"], run["images per class"]
                arm = run["images from"], run["labels from"]
                self.groups.setdefault(size, {}).setdefault(arm, {})[run["seed"]] = run
        self.of_run = {
            id(run): measured(run)
            for arms in self.groups.values()
            for arm in arms.values()
            for run in arm.values()
        }
        self.spreads, self.changes = [], []
        for arms in self.groups.values():
            for runs in arms.values():
                self.spreads.append(self._spread(list(runs.values())))
                self.spreads += [self._spread([run]) for run in runs.values() if len(runs) > 1]
            for one, other in combinations(arms.values(), 2):
                self.changes += self._changes([(1, one), (-1, other)])
            self.changes += self._of_four(arms)

    def _spread(self, runs):
        found, told = {}, set()
        for run in runs:
            for what, value in self.of_run[id(run)].items():
                found.setdefault(what, []).append(value)
        for values in found.values():
            accuracies = [accuracy for accuracy, _ in values]
            several = len(values) > 1
            deviation = statistics.stdev(accuracies) if several else standard_error(*values[0])
            mean = one_decimal(statistics.fmean(accuracies))
            told |= {mean, (mean, one_decimal(deviation))}
        return told

    def _changes(self, signed):
        """Of a sum of groups, (factor, runs) each, and of its negative, over the seeds that they share."""
        seeds = [
            seed
            for seed in signed[0][1]
            if all(seed in runs for _, runs in signed)
            and len({trained_alike(runs[seed]) for _, runs in signed}) == 1
        ]
        turned = [(-factor, runs) for factor, runs in signed]
        return [self._change(of, seeds) for of in (signed, turned)] if seeds else []

    def _change(self, signed, seeds):
        told, by_seed = set(), {}
        for seed in seeds:
            of_each = [(factor, self.of_run[id(runs[seed])]) for factor, runs in signed]
            for what in of_each[0][1]:
                if all(what in found for _, found in of_each):
                    value = sum(factor * found[what][0] for factor, found in of_each)
                    errors = (factor * standard_error(*found[what]) for factor, found in of_each)
                    by_seed.setdefault(what, []).append((value, math.hypot(*errors)))
        for values in by_seed.values():
            differences, count = [value for value, _ in values], len(values)
            mean = statistics.fmean(differences)
            deviation = statistics.stdev(differences) if count > 1 else values[0][1]
            half = (QUANTILES[count] / math.sqrt(count) if count > 1 else 1.96) * deviation
            bounds = map(one_decimal, (mean, mean - half, mean + half))
            told |= {one_decimal(mean), (one_decimal(mean), one_decimal(deviation)), tuple(bounds)}
        return told

    def _of_four(self, arms):
        """What images and labels of another teacher change, each averaged over both kinds of the other; and
        what a teacher changes by recipe `paper`, less what it does by `modern`.
        """
        found, names = [], {images for images, _ in arms}
        for plain in names & {"sre2l", "sre2l/plain"}:
            for arm in names - {plain}:
                four = [arms.get(pair) for pair in ((arm, plain), (plain, plain), (arm, arm), (plain, arm))]
                if all(four):
                    images, none, both, labels = four
                    found += self._changes([(0.5, images), (-0.5, none), (0.5, both), (-0.5, labels)])
                    found += self._changes([(0.5, labels), (-0.5, none), (0.5, both), (-0.5, images)])
        for arm in names:
            method, _, teacher = arm.partition("/")
            by = [f"{method}/{each}{recipe}" for recipe in ("/paper", "") for each in (teacher, "plain")]
            four = [arms.get((name, name)) for name in by]
            if all(four):
                found += self._changes(list(zip((1, -1, -1, 1), four, strict=True)))
        return found


@pytest.fixture(scope="module")
def records():
    return Records(ROOT / "results")


# ---- what the pages quote ------------------------------------------------------------------------


def quoted(text, pattern):
    """The numbers of each match, a zero without its sign, no sign of a positive one."""
    return [tuple(one_decimal(float(number)) for number in found) for found in re.findall(pattern, text)]


def rows_of(text):
    """(the row, the set of its cells that are a number alone, with a spread or an interval) of the Markdown
    tables outside code; published numbers, ROWS and TABLES left out.
    """
    header = None
    for line in map(str.strip, re.sub(r"(?ms)^```.*?^```$", "", text).splitlines()):
        if not line.startswith("| "):
            header = None
            continue
        row = line.strip("| ")
        header = header or row
        cells = [cell.strip(" *") for cell in row.split("|")]
        if header.startswith(TABLES) or row.startswith(ROWS) or "published" in cells[0]:
            continue
        found = set()
        for pattern in (INTERVAL, SPREAD, NUMBER):
            for cell in cells:
                if re.fullmatch(pattern, cell):
                    numbers = [one_decimal(float(number)) for number in re.findall(NUMBER, cell)]
                    found.add(numbers[0] if len(numbers) == 1 else tuple(numbers))
        if found:
            yield row, found


def unknown_rows(text, records):
    """Rows whose numbers are not those of one group of runs, of two groups, or of one change."""
    unknown = []
    for row, numbers in rows_of(text):
        if any(numbers <= told for told in (*records.spreads, *records.changes)):
            continue
        parts = [numbers & told for told in records.spreads]
        parts = {frozenset(part) for part in parts if part}
        if not any(one | other == numbers for one in parts for other in parts):
            unknown.append(row)
    return unknown


def unknown_in_prose(text, records, pattern, elsewhere):
    """Numbers with an interval or a spread, outside tables and code, that no group or change has."""
    told = set().union(*records.spreads, *records.changes)
    return [numbers for numbers in quoted(prose_of(text), pattern) if numbers not in told | elsewhere]


def prose_of(text):
    """A page in one line, without tables and fenced code."""
    return " ".join(re.sub(r"(?ms)^```.*?^```$|^ *\|.*?$", "", text).split())


@pytest.mark.parametrize("page", PAGES)
def test_rows_are_those_of_the_records(page, records):
    assert not unknown_rows((ROOT / page).read_text(), records)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize(
    ("pattern", "elsewhere"), [(INTERVAL, INTERVALS_OF_A_COMMIT), (SPREAD, SPREADS)], ids=["interval", "±"]
)
def test_numbers_in_prose_are_those_of_the_records(page, pattern, elsewhere, records):
    text = (ROOT / page).read_text()
    kept = set(quoted(elsewhere.get(page, ""), pattern))
    assert not unknown_in_prose(text, records, pattern, kept)
    assert kept <= set(quoted(prose_of(text), pattern)), "listed here, but no longer quoted"


@pytest.mark.parametrize("page", PAGES)
def test_no_interval_in_prose_is_overlooked(page):
    prose = prose_of((ROOT / page).read_text())
    assert len(re.findall(rf"\[{NUMBER}, ", prose)) == len(quoted(prose, INTERVAL))


@pytest.mark.parametrize(
    ("quoted_so", "changed"),
    [
        ("63.6 ± 0.9 | 55.4 ± 1.2 | 45.9 ± 0.8", "63.6 ± 0.9 | 55.4 ± 1.2 | 45.9 ± 0.9"),
        ("63.6 ± 0.9 | 55.4 ± 1.2 | 45.9 ± 0.8", "63.6 ± 0.9 | 54.8 ± 1.2 | 45.9 ± 0.8"),
        ("0.1 [-2.5, 2.6] | 6.6 [6.0, 7.3]", "0.1 [-2.5, 2.6] | 6.6 [5.0, 8.3]"),
        ("+6.6 | +7.9 | +8.1", "+6.8 | +8.6 | +9.1"),
    ],
)
def test_a_row_of_other_numbers_is_found(quoted_so, changed, records):
    text = (ROOT / "docs/cifar10.md").read_text()
    assert quoted_so in text
    assert unknown_rows(text.replace(quoted_so, changed), records)


def test_another_number_in_prose_is_found(records):
    text = "It adds 10.8 [8.0, 13.6] points: 69.7 ± 0.7 clean."
    assert unknown_in_prose(text, records, INTERVAL, set()) == [("10.8", "8.0", "13.6")]
    assert unknown_in_prose(text, records, SPREAD, set()) == [("69.7", "0.7")]
