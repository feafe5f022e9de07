"""An experiment's report."""

from pathlib import Path

from guard.errors import UserError
from guard.report.pictures import bars, curves, image_grid
from guard.report.text import evaluation_text
from guard.run import records, storage


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
    with storage.replacing(folder / "report.md") as temporary:
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
