"""Speed, measured: ratios of two things timed in one run, alternating, medians of repeats.

    python -m guard.bench all                                                   every stage against the plain way of tests/naive.py
    python -m guard.bench teacher --scale paper --precision bf16                one of them, at the paper's shapes
    python -m guard.bench overhead --output results/overhead.json               a teacher's step with each regularizer, a recovery's iteration
    python -m guard.bench growth --output results/growth.json                   seconds against images per class, classes, image size; and a plot
    python -m guard.bench attacks --output results/attacks-speed.json           seconds of our attacks against torchattacks'
    python -m guard.bench strength --output results/attacks-strength.json       robust accuracies of both, at 1, 4 and 8 over 255
"""

import sys
from pathlib import Path

from guard import cli, recipes
from guard.bench import attack_speed

STAGES = ("teacher", "recover", "relabel", "student", "data")


def bench_stages(stages, scale, repeats, precision, channels_last, device, output):
    """Prints a row per case and writes all as JSON after each."""
    from guard import records
    from guard.bench import stages as bench
    from guard.device import select

    print("| stage | case | images/s | TFLOP/s | share of product rate | plain steps | times as fast as naive | peak MB |\n| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    rows = []
    for row in bench.run(stages, scale, repeats, precision, device, channels_last):
        rows.append(row)
        peak = f"{row['peak bytes'] / 1e6:.0f}" if "peak bytes" in row else ""
        numbers = [f"{row[name]:.3g}" if name in row else "" for name in ("images per second", "TFLOP/s", "share of product rate", "plain steps", "times as fast as naive")]
        print(f"| {row['stage']} | {row['case']} | {' | '.join(numbers)} | {peak} |", flush=True)
        if output:
            records.write_json({"what": f"stages against tests/naive.py, alternating in one run, medians of {repeats}", "precision": precision, "channels last": channels_last, "rows": rows, "environment": records.environment(select(device))}, output)


def bench_overhead(scale, repeats, precision, device, output):
    from guard.bench import overhead

    _print_rows(overhead.run(scale, repeats, precision, device), ("case", "step", "seconds", "seconds_std", "plain steps", "peak bytes"), device, output)


def bench_growth(scale, repeats, device, output):
    """Also a plot and a table beside the record, and a line for each place where a curve bends upward."""
    from guard.bench import growth

    rows = _print_rows(growth.run(scale, repeats, device), ("stage", "images per class", "classes", "image size", "seconds", "images per second"), device, output)
    print(growth.bends_text(rows))
    if output:
        growth.plot(rows, Path(output).with_suffix(".png"))
        growth.write_table(rows, Path(output).with_suffix(".md"))


def _print_rows(rows, columns, device, output):
    """Prints a table as it grows, and keeps all rows as JSON; returns them."""
    from guard import records
    from guard.device import select

    print("| " + " | ".join(columns) + " |\n|" + " --- |" * len(columns))
    found = []
    for row in rows:
        found.append(row)
        print("| " + " | ".join(f"{row[name]:.4g}" if isinstance(row[name], float) else str(row[name]) for name in columns) + " |", flush=True)
        if output:
            records.write_json({"rows": found, "environment": records.environment(select(device))}, output)
    return found


def main(argv):
    parser = cli.Parser(prog="python -m guard.bench", description="Measures speed against a reference, in one run.")
    parser.add_argument("what", choices=(*STAGES, "attacks", "all", "overhead", "growth", "strength"), help="what to measure; all is the stages and attacks")
    parser.add_argument("--scale", choices=("paper", "small"), help="shapes of the stages' cases: the paper's, or some for a CPU [paper on a GPU, else small]")
    parser.add_argument("--precision", choices=recipes.PRECISIONS, default="fp32", help="of the stages' networks [fp32]")
    parser.add_argument("--channels-last", action="store_true", help="of the stages' networks")
    parser.add_argument("--device", type=cli.device_ids, default="auto", metavar="ID", help="cpu, or the id of a GPU [0, or the CPU where there is no GPU]")
    known = dict.fromkeys((*attack_speed.REFERENCES, *attack_speed.STRENGTH, attack_speed.OFFICIAL))
    parser.add_argument("--attack", action="append", choices=known, metavar="NAME", help=f"attacks, strength: only this one, may be repeated [{', '.join(known)}]")
    parser.add_argument("--network", choices=("plain", "GUARD"), help="strength: only against this one")
    parser.add_argument("--images", type=cli.number(int, low=1, high=1797), metavar="N", help="attacks, strength: images to attack [200; strength 500]")
    parser.add_argument("--repeats", type=cli.number(int, low=1), metavar="N", help="repeats, of which the median is taken [3]")
    parser.add_argument("--output", metavar="FILE", help="the record to write")
    options = parser.parse_args(argv)

    def work():
        from guard.device import select

        scale = options.scale or ("paper" if select(options.device).type == "cuda" else "small")
        if options.what in (*STAGES, "all"):
            bench_stages(STAGES if options.what == "all" else [options.what], scale, options.repeats or 3, options.precision, options.channels_last, options.device, options.output)
        if options.what == "overhead":
            bench_overhead(scale, options.repeats or 5, options.precision, options.device, options.output)
        if options.what == "growth":
            bench_growth(scale, options.repeats or 3, options.device, options.output)
        if options.what in ("attacks", "all"):
            output = options.output if options.what == "attacks" else None
            attack_speed.bench_attacks(options.attack or list(attack_speed.REFERENCES), options.images or 200, options.repeats or 3, output)
        if options.what == "strength":
            names = [*attack_speed.STRENGTH, "autoattack-paper", "autoattack"]
            attack_speed.bench_strength(options.attack or names, options.images or 500, [options.network] if options.network else ["plain", "GUARD"], options.output)

    cli.run(work)


if __name__ == "__main__":
    main(sys.argv[1:])
