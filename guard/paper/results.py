"""Collects the records of several experiments into one small file, and prints their table: mean and
standard deviation over seeds.

python -m guard.paper.results results/digits.json --arm plain runs/plain-0 runs/plain-1 --arm GUARD
runs/guard-0 runs/guard-1
"""

import sys
from pathlib import Path
from statistics import mean, stdev

from guard import cli, ending
from guard.errors import UserError
from guard.run import storage

FORMAT = "guard-results-1"


def collect(arms):
    """{arm: [record, ...]} from {arm: [folder of an experiment, ...]}; without what is long and can be
    had again: histories, and which images fell.
    """
    return {
        arm: [trimmed(storage.read_sealed(Path(folder) / "log.json", "record")) for folder in folders]
        for arm, folders in arms.items()
    }


def trimmed(entries):
    """A record without what is long and can be had again. Raises UserError where the student's
    evaluation isn't finished.
    """
    if not entries.get("evaluate student", {}).get("complete"):
        raise UserError("a record has no finished evaluation of its student; let bash run.sh finish first")
    kept = {
        stage: {name: value for name, value in entry.items() if name != "history"}
        for stage, entry in entries.items()
    }
    for entry in kept.values():
        if "attacks" in entry:
            entry["attacks"] = {
                name: {field: value for field, value in result.items() if field != "broken"}
                for name, result in entry["attacks"].items()
            }
    return kept


def summary(arms, network):
    """arm -> attack -> (mean, standard deviation over runs or None for one run) of the accuracy of
    'teacher' or 'student'.
    """
    found = {}
    for arm, runs in arms.items():
        attacked = [run[f"evaluate {network}"]["attacks"] for run in runs]
        columns = {name: [attacks[name]["accuracy"] for attacks in attacked] for name in attacked[0]}
        found[arm] = {
            name: (mean(values), stdev(values) if len(values) > 1 else None)
            for name, values in columns.items()
        }
    return found


def table(arms):
    """A Markdown table: a row per arm and network, a column per attack."""
    names = list(next(iter(summary(arms, "student").values())))
    lines = [
        "| " + " | ".join(["", "network", "runs", *names]) + " |",
        "| --- | --- | ---: |" + " ---: |" * len(names),
    ]
    for network in ("teacher", "student"):
        for arm, row in summary(arms, network).items():
            cells = [
                f"{average:.1f}" + (f" ± {spread:.1f}" if spread is not None else "")
                for average, spread in row.values()
            ]
            lines.append("| " + " | ".join([arm, network, str(len(arms[arm])), *cells]) + " |")
    return "\n".join(lines)


def main(argv):
    parser = cli.Parser(
        prog="python -m guard.paper.results",
        description="Collects experiments into one record and prints their table.",
    )
    parser.add_argument("output", help="the file to write")
    parser.add_argument(
        "--arm",
        action="append",
        nargs="+",
        required=True,
        metavar=("NAME", "FOLDER"),
        help="name of an arm and the folders of its runs, one per seed",
    )
    options = parser.parse_args(argv)
    if any(len(arm) < 2 for arm in options.arm):
        parser.error("an --arm is a name and at least one folder")

    def work():
        arms = collect({name: folders for name, *folders in options.arm})
        storage.write_json({"format": FORMAT, "arms": arms}, options.output)
        print(table(arms))

    ending.run(work)


if __name__ == "__main__":
    main(sys.argv[1:])
