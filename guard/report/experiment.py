"""An experiment's report."""

import sys
from pathlib import Path

from guard import earlier
from guard.distilled import image_folder
from guard.errors import UserError, printable
from guard.report import text
from guard.report.pictures import bars, curves, image_grid
from guard.run import records, storage

STAGES = ("pretrain", "recover", "relabel", "train")
PICTURES = {"distilled images": "images.png", "training": "curves.png", "robustness": "robustness.png"}


def read(log):
    """(the entries of a record that belong to its student, its finished evaluations: 'teacher' or 'student'
    -> evaluation).

    A note tells of entries of other images, or of an earlier student of that place, which are left out.
    Raises UserError where there is no evaluation yet.
    """
    entries = records.read(log)
    for name, whose in _of_others(entries).items():
        print(f"note: {log}: its entry '{name}' is of {whose}, and left out", file=sys.stderr, flush=True)
        del entries[name]
    found = {name: entries.get(f"evaluate {name}", {}) for name in ("teacher", "student")}
    results = {name: result for name, result in found.items() if result.get("complete")}
    if not results and "evaluate network" in entries:
        raise UserError(f"{log} has an evaluation of weights alone, and a report is of an experiment")
    if not results:
        raise UserError(f"{log} has no evaluation yet; run python -m train first")
    return entries, results


def _of_others(entries):
    """{name of an entry: what it is of} of those that do not belong to the student of a record.

    A stage that was done again, by --force, leaves the entries of the stages after it until these are, too.
    """
    student = entries.get("train", {})
    images, network = student.get("settings", {}).get("images"), student.get("fingerprint")
    key = entries.get("evaluate student", {}).get("key", {})
    found = {
        "recover": (entries.get("recover", {}).get("fingerprint"), images, "other images than the student's"),
        "relabel": (entries.get("relabel", {}).get("images"), images, "other images than the student's"),
        "evaluate student": (key.get("fingerprint"), network, "an earlier student"),
    }
    return {name: whose for name, (own, wanted, whose) in found.items() if own and wanted and own != wanted}


def images_of(folder):
    """An experiment's distilled images, as Packed; None where its student learnt from images of elsewhere."""
    images = Path(folder) / "images"
    return image_folder.load_distilled(images) if images.is_dir() else None


def histories(entries):
    """'teacher', 'student' -> a row per epoch with what was measured, for the networks that a record has
    the training of.
    """
    trained = {"teacher": entries.get("pretrain"), "student": entries.get("train")}
    return {name: entry["history"] for name, entry in trained.items() if entry}


def write(log, distilled):
    """Writes report.md and its pictures beside `log`; returns what to print: the table and where the
    pictures lie.

    distilled: the images, as Packed; None keeps the picture of them that there is.
    """
    folder = Path(log).parent
    entries, results = read(log)
    table = text.evaluation_text(results)
    if distilled:
        image_grid(distilled, folder / "images.png")
    curves(histories(entries), folder / "curves.png")
    bars(results, folder / "robustness.png")
    pictures = {caption: name for caption, name in PICTURES.items() if (folder / name).exists()}
    with storage.replacing(folder / "report.md") as temporary:
        contents = _report(printable(folder.resolve().name), table, pictures, entries)
        temporary.write_text(contents, encoding="utf-8", errors="backslashreplace")  # names of any bytes
    places = ", ".join(str(folder / name) for name in pictures.values())
    return f"{table}\nreport: {folder / 'report.md'}; pictures: {places}"


def _report(title, table, pictures, entries):
    """The numbers and pictures, then the settings of each stage folded away."""
    lines = [f"# Experiment {title}", "", table, ""]
    for caption, name in pictures.items():
        lines += [f"![{caption}]({name})", ""]
    measured = entries.get("pretrain", {}).get("results", {}).get("curvature")
    if measured:
        lines += [text.curvature_text(measured), ""]
    lines += ["## Settings", ""]
    for stage in STAGES:
        if stage in entries:
            lines += _folded(stage, entries[stage])
    return "\n".join(lines)


def _folded(stage, entry):
    """A stage's settings, of which one line is seen until it is opened."""
    return [
        "<details>",
        f"<summary>{stage}: {entry['seconds']:.1f} seconds</summary>",
        "",
        text.where_text(entry),
        "",
        "| setting | value |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in earlier.read_by_stage(stage, entry["settings"]).items()),
        "",
        "</details>",
        "",
    ]
