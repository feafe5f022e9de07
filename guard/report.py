"""What a person looks at: tables, pictures and plots, made from the records alone.

python -m guard.report runs/24        writes the experiment's report.md, images.png, curves.png and
robustness.png again python -m guard.report                writes results/TABLES.md and results/figures/
again, from the records under results/
"""

import math
import sys
from pathlib import Path

import numpy
import torch
from PIL import Image

from guard import checkpoint, cli, images, metrics, plots, records
from guard.errors import UserError

SHOWN_CLASSES, SHOWN_IMAGES = 20, 10  # rows and columns of images.png at most


def accuracy_table(results):
    """A Markdown table of accuracies in percent: one row per network, columns clean and each attack that
    all of them met.

    results: name -> evaluation.
    """
    names = common_attacks(results)
    rows = [["", *names], ["---", *["---:"] * len(names)]]
    rows += [
        [network, *(f"{result['attacks'][name]['accuracy']:.2f}" for name in names)]
        for network, result in results.items()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "| " + " | ".join(_padded(cell, width) for cell, width in zip(row, widths)) + " |" for row in rows
    )


def common_attacks(results):
    """Names of the attacks, clean among them, that every one of the evaluations holds; a shared teacher
    may have met more.
    """
    first, *others = (result["attacks"] for result in results.values())
    return [name for name in first if all(name in other for other in others)]


def _padded(cell, width):
    if cell.startswith("---"):
        return "-" * (width - 1) + (":" if cell.endswith(":") else "-")
    return cell.rjust(width) if cell.replace(".", "").isdigit() else cell.ljust(width)


def evaluation_text(results):
    """The table, how it was made, its metrics and warnings, as Markdown. results: name -> evaluation."""
    first = next(iter(results.values()))
    lines = [
        accuracy_table(results),
        "",
        (
            f"Accuracy in percent on {first['images']} validation images, epsilon"
            f" {first['epsilon'] * 255:.4g}/255, protocol {' and '.join(first['protocols'])}."
        ),
    ]
    for name, result in results.items():
        if len(result["attacks"]) > 1:
            found = metrics.of_record(result)
            worst = f", worst case {found['worst_case']:.2f}" if found["worst_case"] is not None else ""
            ratio = (
                f"RR {found['robustness_ratio']:.2f} (0 for a model that is equally robust to all attacks)"
                if math.isfinite(found["robustness_ratio"])
                else "RR undefined, since no attack costs anything"
            )
            lines.append(f"{name}: {ratio}, I-RR {found['improved_robustness_ratio']:.2f}{worst}.")
        lines += [f"{name}, warning: {text}." for text in result["warnings"]]
    return "\n".join(lines)


def curve_text(curve):
    """Accuracy against epsilon as a Markdown table, and whether it reaches zero."""
    lines = ["| epsilon | accuracy |", "| ---: | ---: |"]
    lines += [
        f"| {epsilon * 255:.4g}/255 | {accuracy:.2f} |"
        for epsilon, accuracy in zip(curve["epsilon"], curve["accuracy"])
    ]
    if curve["reaches_zero"]:
        return "\n".join([*lines, "", "At the largest epsilon the accuracy reaches zero, as it must."])
    return "\n".join(
        [
            *lines,
            "",
            (
                "At the largest epsilon the accuracy is not zero yet: add a larger one. If it stays, the"
                " attack or the gradients are broken."
            ),
        ]
    )


def write(log, distilled):
    """Writes report.md and its pictures beside `log`; returns what to print: the table and where the
    pictures lie.
    """
    folder, entries = Path(log).parent, records.read(log)
    results = {
        name: entries[f"evaluate {name}"]
        for name in ("teacher", "student")
        if entries.get(f"evaluate {name}", {}).get("complete")
    }
    if not results:
        raise UserError(f"{log} has no evaluation yet; run python -m train first")
    table = evaluation_text(results)
    histories = {
        name: entry["history"]
        for name, entry in (("teacher", entries.get("pretrain")), ("student", entries.get("train")))
        if entry
    }
    image_grid(distilled, folder / "images.png")
    curves(histories, folder / "curves.png")
    bars(results, folder / "robustness.png")
    with checkpoint.replacing(folder / "report.md") as temporary:
        temporary.write_text(_report(folder.name, table, entries))
    pictures = ", ".join(str(folder / name) for name in ("images.png", "curves.png", "robustness.png"))
    return f"\n{table}\n\nreport: {folder / 'report.md'}; pictures: {pictures}"


def _report(title, table, entries):
    lines = [
        f"# Experiment {title}",
        "",
        table,
        "",
        "![robustness](robustness.png)",
        "",
        "![distilled images](images.png)",
        "",
        "![training](curves.png)",
        "",
    ]
    teacher = entries.get("pretrain", {}).get("results", {})
    if "curvature" in teacher:
        measured = teacher["curvature"]
        lines.append(
            f"Curvature of the teacher's loss, mean over {measured['images']} validation images, per squared"
            f" normalized-image unit: gradient change over a step of {measured['h']} along the gradient"
            f" {measured['gradient_change']:.4g}, along the gradient {measured['along_z']:.4g}, largest"
            f" eigenvalue {measured['largest_eigenvalue']:.4g}.\n"
        )
    for stage in ("pretrain", "recover", "relabel", "train"):
        if stage in entries:
            entry = entries[stage]
            where = entry["environment"]
            lines += [
                f"## {stage}",
                "",
                (
                    f"{entry['seconds']:.1f} seconds on {where['device']}, torch {where['torch']}, commit"
                    f" {where['commit']}, seed {entry['seed']}."
                ),
                "",
            ]
            lines += [
                "| setting | value |",
                "| --- | --- |",
                *(f"| {name} | {value} |" for name, value in entry["settings"].items()),
                "",
            ]
    return "\n".join(lines)


# ---- pictures ------------------------------------------------------------------------------------


def image_grid(distilled, path):
    """A grid of distilled images: a row per class, its first images from left to right."""
    held = images.load_distilled(distilled)
    shown = range(min(len(held.classes), SHOWN_CLASSES))
    rows = [held.pixels[held.labels == label][:SHOWN_IMAGES].permute(0, 2, 3, 1).numpy() for label in shown]
    size, columns = held.pixels.shape[2], max(len(row) for row in rows)
    gap = max(1, size // 16)
    grid = numpy.full((len(rows) * (size + gap) - gap, columns * (size + gap) - gap, 3), 255, numpy.uint8)
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            grid[i * (size + gap) : i * (size + gap) + size, j * (size + gap) : j * (size + gap) + size] = (
                image
            )
    figure, axes = plots.figure(1.2 + 0.8 * columns, 0.4 + 0.8 * len(rows))
    axes.imshow(grid, interpolation="nearest")
    axes.set_yticks(
        [i * (size + gap) + size / 2 for i in range(len(rows))], [held.classes[label] for label in shown]
    )
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    hidden = (
        f", first {SHOWN_CLASSES} of {len(held.classes)} classes" if len(held.classes) > SHOWN_CLASSES else ""
    )
    axes.set_title(f"Distilled images, a row per class{hidden}", fontsize=10)
    plots.save(figure, path)


def image_strip(distilled, path, count=10, side=64):
    """The first image of each of the first `count` classes in one row, at most `side` pixels high, as a
    plain PNG.
    """
    held = images.load_distilled(distilled)
    firsts = [held.pixels[held.labels == label][0] for label in range(min(count, len(held.classes)))]
    row = Image.fromarray(torch.cat(firsts, 2).permute(1, 2, 0).numpy())
    if row.height > side:
        row = row.resize((side * len(firsts), side), Image.Resampling.LANCZOS)
    with checkpoint.replacing(path) as temporary:
        row.save(temporary, format="PNG")


def curves(histories, path):
    """Loss and accuracy on val against the epoch, for each network that was trained."""
    columns = max(len(histories), 1)
    figure, axes = plots.figure(5 * columns, 5.5, 2, columns, squeeze=False)
    for column, (name, history) in enumerate(histories.items()):
        for row, (field, unit) in enumerate((("loss", "loss"), ("val accuracy", "accuracy on val, %"))):
            points = [(entry["epoch"], entry[field]) for entry in history if field in entry]
            if points:
                axes[row][column].plot(*zip(*points), marker="." if len(points) < 40 else None)
            axes[row][column].set(xlabel="epoch", ylabel=unit, title=name if row == 0 else None)
            axes[row][column].grid(alpha=0.3)
    plots.save(figure, path)


def bars(results, path):
    """Accuracy clean and under each attack, a group of bars per attack."""
    names = common_attacks(results)
    figure, axes = plots.figure(1.5 + 1.4 * len(names), 4)
    width = 0.8 / len(results)
    for number, (network, result) in enumerate(results.items()):
        places = numpy.arange(len(names)) + (number - (len(results) - 1) / 2) * width
        drawn = axes.bar(
            places, [result["attacks"][name]["accuracy"] for name in names], width, label=network
        )
        axes.bar_label(drawn, fmt="%.1f", fontsize=8)
    axes.set_xticks(range(len(names)), names)
    result = next(iter(results.values()))
    axes.set(
        ylim=(0, 109),
        ylabel="accuracy, %",
        title=f"Accuracy under attack, epsilon {result['epsilon'] * 255:.4g}/255",
    )
    axes.legend(loc="upper right")
    plots.save(figure, path)


def epsilon_curve(curve, path):
    """Accuracy against epsilon."""
    figure, axes = plots.figure(6, 4)
    axes.plot([epsilon * 255 for epsilon in curve["epsilon"]], curve["accuracy"], marker="o")
    axes.set(
        xlabel="epsilon, 1/255",
        ylabel="accuracy, %",
        ylim=(0, 102),
        title=f"Accuracy under {curve['attack']}",
    )
    axes.grid(alpha=0.3)
    plots.save(figure, path)


def main(argv):
    parser = cli.Parser(
        prog="python -m guard.report",
        description=(
            "Writes the tables and figures of results/, or an experiment's report, again from their records."
        ),
    )
    parser.add_argument(
        "folder",
        nargs="?",
        help=(
            "folder of an experiment, such as runs/24; without it results/TABLES.md and results/figures are"
            " written"
        ),
    )
    options = parser.parse_args(argv)

    def work():
        if options.folder is None:
            from guard import tables

            print(tables.write(Path(__file__).resolve().parent.parent / "results"))
            return
        log = Path(options.folder) / "log.json"
        if not log.exists():
            raise UserError(f"no record at {log}; name the folder of an experiment")
        print(write(log, Path(options.folder) / "images"))

    cli.run(work)


if __name__ == "__main__":
    main(sys.argv[1:])
