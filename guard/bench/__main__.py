"""Speed, measured: ratios of two things timed in one run, alternating, medians of repeats.

python -m guard.bench doctor                                is this device right, and what is fast on it?
python -m guard.bench all                                   every stage against guard.bench.reference
python -m guard.bench teacher --scale paper                 one of them, at the paper's shapes
python -m guard.bench overhead --output FILE                a teacher's step with each regularizer
python -m guard.bench precision --output FILE               each stage's step in fp32 and bf16, in two layouts
python -m guard.bench growth --output FILE                  seconds against images per class, classes, size
python -m guard.bench attacks --output FILE                 our attacks against torchattacks'
python -m guard.bench strength --output FILE                robust accuracies of both, at three epsilons
"""

import sys
from pathlib import Path

from guard import cli, ending
from guard.bench import attack_speed
from guard.setting_fields import PRECISIONS

STAGES = ("teacher", "recover", "relabel", "student", "data")
BESIDE = (".png", ".md")  # suffixes of the figure and the table of growth

COLUMNS = {
    "checks": ("check", "found", "wanted", "verdict"),
    "speeds": ("case", "step", "way", "images per second", "share of product rate", "problem"),
    "stages": (
        "stage",
        "case",
        "images per second",
        "TFLOP/s",
        "share of product rate",
        "plain steps",
        "times as fast as naive",
        "peak bytes",
    ),
    "overhead": ("case", "step", "seconds", "seconds_std", "plain steps", "peak bytes"),
    "precision": (
        "case",
        "step",
        "fp32",
        "fp32, channels-last",
        "bf16",
        "bf16, channels-last",
        "times as fast",
    ),
    "growth": ("stage", "images per class", "classes", "image size", "seconds", "images per second"),
    "attacks": (
        "attack",
        "epsilon",
        "ours accuracy",
        "reference accuracy",
        "ours seconds",
        "reference seconds",
        "times as fast",
        "target",
    ),
    "strength": ("network", "attack", "epsilon", "ours accuracy", "reference accuracy"),
}


def report(rows, columns, about, device, output):
    """Prints a table as it grows, and keeps all rows as JSON, with what `about` says of them; returns
    them.
    """
    from guard.run import records, storage

    print(f"{', '.join(f'{name}: {value}' for name, value in about.items())}\n")
    print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
    found = []
    for row in rows:
        found.append(row)
        print("| " + " | ".join(_shown(name, row.get(name)) for name in columns) + " |", flush=True)
        if output:
            storage.write_json({**about, "rows": found, "environment": records.environment(device)}, output)
    return found


def _shown(name, value):
    if value is None:
        return ""
    if name == "epsilon":
        return f"{value * 255:.3g}/255"
    if name == "peak bytes":
        return f"{value / 1e6:.0f} MB"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _parser():
    parser = cli.Parser(
        prog="python -m guard.bench", description="Measures speed against a reference, in one run."
    )
    parser.add_argument(
        "what",
        choices=("doctor", *STAGES, "attacks", "all", "overhead", "precision", "growth", "strength"),
        help="what to measure; all is the stages and attacks",
    )
    parser.add_argument(
        "--scale",
        choices=("paper", "small"),
        help="shapes of the stages' cases: the paper's, or some for a CPU [paper on a GPU, else small]",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS[1:],  # auto is a matter of stages
        default="fp32",
        help="of the networks in stages, overhead and growth [fp32]",
    )
    parser.add_argument(
        "--channels-last", action="store_true", help="layout of the networks in stages, overhead and growth"
    )
    parser.add_argument(
        "--device",
        type=cli.device_ids,
        default="auto",
        metavar="ID",
        help="cpu, or the id of a GPU [0, or the CPU where there is no GPU]",
    )
    _add_attacks(parser)
    parser.add_argument(
        "--repeats",
        type=cli.number(int, low=1),
        metavar="N",
        help="repeats, of which the median is taken; strength has none [3; overhead 5]",
    )
    parser.add_argument(
        "--output", metavar="FILE", help="the record to write; with all, of the stages [doctor: doctor.json]"
    )
    return parser


def _add_attacks(parser):
    known = dict.fromkeys((*attack_speed.REFERENCES, *attack_speed.STRENGTH, attack_speed.OFFICIAL))
    parser.add_argument(
        "--attack",
        action="append",
        choices=known,
        metavar="NAME",
        help=f"attacks, strength: only this one, may be repeated [{', '.join(known)}]",
    )
    parser.add_argument("--network", choices=("plain", "GUARD"), help="strength: only against this one")
    parser.add_argument(
        "--images",
        type=cli.number(int, low=1, high=1797),
        metavar="N",
        help="attacks, strength: images to attack [200; strength 500]",
    )


# ---- what can be measured ------------------------------------------------------------------------


def _stages(options, conditions, about):
    from guard.bench import stages

    rows = stages.run(STAGES if options.what == "all" else [options.what], conditions)
    what = "stages against guard.bench.reference, alternating in one run, medians"
    report(rows, COLUMNS["stages"], {"what": what, **about}, conditions.device, options.output)


def _overhead(options, conditions, about):
    from guard.bench import overhead

    rows = overhead.run(conditions)
    report(rows, COLUMNS["overhead"], about, conditions.device, options.output)


def _precision(options, conditions, about):
    from guard.bench import precisions

    what = "seconds of a step in each precision and layout, alternating in one run, medians"
    about = {"what": what, "repeats": about["repeats"]}
    report(precisions.run(conditions), COLUMNS["precision"], about, conditions.device, options.output)


def _growth(options, conditions, about):
    from guard.bench import growth

    rows = report(growth.run(conditions), COLUMNS["growth"], about, conditions.device, options.output)
    print(growth.bends_text(rows))
    if options.output:
        figure, text = (Path(options.output).with_suffix(suffix) for suffix in BESIDE)
        growth.plot(rows, figure)
        growth.write_table(rows, text)


def _names(options):
    """Of the attacks that are compared with their references, in their order."""
    if options.what == "strength":
        return options.attack or [*attack_speed.STRENGTH, "autoattack-paper", "autoattack"]
    return options.attack or list(attack_speed.REFERENCES)


def _attacks(options, conditions, about):
    names, count = _names(options), options.images or 200
    rows = attack_speed.speeds(names, count, conditions.repeats, conditions.device)
    what = (
        f"attacks against torchattacks 3.5.1, {count} digits, ConvNet of width 32, at the epsilon that breaks"
        " half of them, alternating in one run, medians"
    )
    output = options.output if options.what == "attacks" else None
    about = {"what": what, "repeats": about["repeats"]}
    report(rows, COLUMNS["attacks"], about, conditions.device, output)


def _strength(options, conditions, about):
    del about
    names = _names(options)
    networks = [options.network] if options.network else ["plain", "GUARD"]
    rows = attack_speed.strengths(names, options.images or 500, networks, conditions.device)
    about = {"what": "robust accuracy of our attacks and of torchattacks 3.5.1"}
    report(rows, COLUMNS["strength"], about, conditions.device, options.output)


def _doctor(options, conditions, about):
    """Checks, then speeds, then what follows from both; raises UserError where the device is not right."""
    from guard.bench import doctor
    from guard.errors import UserError
    from guard.run import records, storage

    device, repeats = conditions.device, about["repeats"]
    path = Path(options.output)
    what = {"what": f"checks and speeds of {records.environment(device)['device']}"}
    checked = ({**row, "verdict": doctor.verdict(row)} for row in doctor.checks(device))
    checks = report(checked, COLUMNS["checks"], what, device, None)
    print()
    about = {"what": "images per second of each stage's step, medians", "repeats": repeats}
    speeds = report(doctor.speeds(device, repeats), COLUMNS["speeds"], about, device, None)
    choice = doctor.chosen(checks, speeds)
    minutes = doctor.published_minutes(choice, device)
    failed = doctor.failed(checks)
    print(
        f"\nFastest here of what is exact enough, after -- of run.sh:\n  {' '.join(doctor.flags_of(choice))}"
    )
    if minutes:
        print(f"The published command takes about {minutes:.0f} minutes so: {doctor.PUBLISHED}")
    counts = [sum(row["passed"] is verdict for row in checks) for verdict in (True, None)]
    print(f"{counts[0]} checks passed, {len(failed)} failed, {counts[1]} are none for this device; in {path}")
    found = {"checks": checks, "speeds": speeds, "chosen": choice, "published command, minutes": minutes}
    storage.write_json({**found, "environment": records.environment(device)}, path)
    if failed:
        names = ", ".join(row["check"] for row in failed)
        raise UserError(f"this device does not compute what it should: {names}")


MEASURES = {
    "doctor": (_doctor,),
    **dict.fromkeys(STAGES, (_stages,)),
    "all": (_stages, _attacks),
    "overhead": (_overhead,),
    "precision": (_precision,),
    "growth": (_growth,),
    "attacks": (_attacks,),
    "strength": (_strength,),
}


def main(argv):
    parser = _parser()
    options = parser.parse_args(argv)
    if options.what == "growth" and options.output and Path(options.output).suffix in BESIDE:
        parser.error(
            f"--output {options.output}: a figure and a table come there, beside the record; name a .json"
        )

    def work():
        from guard.bench.measure import Conditions
        from guard.run import storage
        from guard.run.devices import ready

        if options.what == "doctor":
            options.output = options.output or "doctor.json"
        if options.output:
            storage.check_writable(options.output)
        if options.what in ("attacks", "strength", "all"):
            attack_speed.check_references(_names(options))
        device = ready(options.device)
        scale = options.scale or ("paper" if device.type == "cuda" else "small")
        repeats = options.repeats or (5 if options.what == "overhead" else 3)
        conditions = Conditions(device, scale, repeats, options.precision, options.channels_last)
        about = {"precision": options.precision, "channels last": options.channels_last, "repeats": repeats}
        for measure in MEASURES[options.what]:
            measure(options, conditions, about)

    ending.run(work)


if __name__ == "__main__":
    main(sys.argv[1:])
