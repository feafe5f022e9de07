"""The page of one experiment: its numbers, its images, how it was trained, its settings."""

import io
import json
import math
from pathlib import Path

from PIL import Image

from guard import attacks, earlier
from guard.attacks import checks
from guard.errors import printable
from guard.report import experiment, text
from guard.report.page import svg
from guard.report.page.markup import data_uri, details, element, note, page, section, table, warnings
from guard.report.statistics import standard_error
from guard.run import storage

SHOWN_CLASSES, SHOWN_IMAGES = 20, 10  # distilled images at most: so many classes, so many of each
LARGEST_SIDE = 128  # pixels; larger images are made smaller, so that a page stays a few megabytes
MOST_MARKS = 40  # places of a curve that show their numbers on hover, at most
COLOURS = {"teacher": "var(--teacher)", "student": "var(--student)"}
MEASURED = {"loss": "loss", "val accuracy": "accuracy on val, %"}  # in a training: field -> axis
CURVES = ("curve.json", "student/curve.json")  # where train.evaluate leaves one in an experiment
OF_THE_RUN = ("pretrain", "recover", "relabel", "train", "evaluate teacher", "evaluate student")


def page_of(folder):
    """The page of the experiment in `folder`, with its images where they are there. Raises UserError without
    a finished evaluation.
    """
    folder = Path(folder)
    entries, results = experiment.read(folder / "log.json")
    images = experiment.images_of(folder)
    title = f"Experiment {printable(folder.resolve().name)}"
    told = [f"{name}: {line}." for name, result in results.items() for line in checks.said(result)]
    return page(
        title,
        _head(title, entries, results, images),
        warnings(told),
        section("Clean against robust", _bars(results), note(text.how_evaluated(results))),
        _distilled(images) if images else None,
        _training(entries),
        _epsilon(folder, entries),
        _attacks(results),
        _curvature(entries),
        section("Settings and environment", *_settings(entries)),
    )


# ---- the head: what it was, and the numbers that count ---------------------------------------------


def _head(title, entries, results, images):
    facts = [
        _fact(entries, "data set", "pretrain", "dataset"),
        f"{len(images)} distilled images of {len(images.classes)} classes" if images else None,
        _fact(entries, "teacher", "pretrain", "model"),
        _fact(entries, "student", "train", "model"),
    ]
    told = " · ".join(fact for fact in facts if fact)
    record = element("a", "log.json", href="log.json")
    tiles = [tile for network in reversed(results) for tile in _tiles(network, results[network])]
    return element(
        "header",
        element("p", "GUARD", class_="eyebrow"),
        element("h1", title),
        element("p", told, " · record: ", record, class_="facts"),
        element("div", *tiles, class_="tiles"),
    )


def _fact(entries, what, stage, setting):
    value = entries.get(stage, {}).get("settings", {}).get(setting)
    return f"{what} {value}" if value else None


def _tiles(network, result):
    """A network's clean accuracy, and the lowest that an attack left."""
    attacked = {name: found["accuracy"] for name, found in result["attacks"].items() if name != "clean"}
    shown = {"clean": f"{network}, clean"}
    if attacked:
        lowest = min(attacked, key=attacked.get)
        shown[lowest] = f"{network}, at worst: {lowest}"
    for attack, label in shown.items():
        number, error = _number(result, attack)
        value = element("span", f"{number:.1f}", element("small", f" ± {error:.1f} %"), class_="value")
        yield element("div", element("span", label, class_="label"), value, class_=f"tile {network}")


def _number(result, attack):
    accuracy = result["attacks"][attack]["accuracy"]
    return accuracy, standard_error(accuracy, result["images"])


# ---- attacks: bars and table -----------------------------------------------------------------------


def _bars(results):
    """A row for each attack with a bar for each network, at its end a line of two standard errors."""
    rows = [
        element(
            "div",
            element("span", attack, class_="name", title=_description(attack)),
            element("div", *(_bar(network, result, attack) for network, result in results.items())),
            class_="bars",
        )
        for attack in text.common_attacks(results)
    ]
    keys = [element("span", network, class_=f"key {network}") for network in results]
    return element("div", element("p", *keys, class_="legend"), *rows, class_="card")


def _bar(network, result, attack):
    number, error = _number(result, attack)
    low, high = max(number - error, 0), min(number + error, 100)
    told = (
        f"{network}, {attack}: {number:.2f} ± {error:.2f} % of {result['images']} validation images,"
        f" epsilon {result['epsilon'] * 255:.4g}/255"
    )
    fill = element("i", class_="fill", style=f"width: {number:.2f}%")
    reach = element("i", class_="error", style=f"left: {low:.2f}%; width: {high - low:.2f}%")
    return element(
        "div",
        element("span", fill, reach, class_="track"),
        element("span", f"{number:.1f} ± {error:.1f}", class_="number"),
        class_=f"bar {network}",
        title=told,
    )


def _description(attack):
    if attack == "clean":
        return "the images as they are"
    return attacks.ATTACKS[attack].text if attack in attacks.ATTACKS else ""


def _attacks(results):
    """Every attack that any of the networks met, what it left, and what it took."""
    names = dict.fromkeys(name for result in results.values() for name in result["attacks"])
    rows = []
    for name in names:
        row = [name]
        for result in results.values():
            if name in result["attacks"]:
                lost = result["attacks"]["clean"]["accuracy"] - result["attacks"][name]["accuracy"]
                row += [text.shown_accuracy(result, name), "" if name == "clean" else f"{-lost:+.2f}"]
            else:
                row += ["-", "-"]
        rows.append([*row, _description(name)])
    columns = [column for network in results for column in (f"{network}, %", "change")]
    measured = [text.metrics_text(name, results) for name in results]
    return section(
        "Attacks",
        table(["attack", *columns, "what it is"], rows, words=(0, 1 + len(columns))),
        *(note(line) for line in measured if line),
    )


# ---- distilled images ------------------------------------------------------------------------------


def _distilled(images):
    """A row for each class with its first images."""
    rows = []
    for label, name in enumerate(images.classes[:SHOWN_CLASSES]):
        held = images.pixels[images.labels == label][:SHOWN_IMAGES]
        pictures = [
            element("img", src=_png(pixels), alt=f"{name}, image {number}", title=f"{name}, image {number}")
            for number, pixels in enumerate(held, start=1)
        ]
        rows.append(element("div", element("span", name, class_="name"), element("div", *pictures)))
    side, counts = images.pixels.shape[2], images.labels.bincount()
    told = f"{side} × {side} pixels, a row for each class"
    if len(images.classes) > SHOWN_CLASSES:
        told += f", the first {SHOWN_CLASSES} of {len(images.classes)} classes"
    if counts.max() > SHOWN_IMAGES:
        told += f", the first {SHOWN_IMAGES} of {counts.max()} images each"
    if side > LARGEST_SIDE:
        told += f", shown at {LARGEST_SIDE} pixels"
    return section("Distilled images", element("div", *rows, class_="card images"), note(f"{told}."))


def _png(pixels):
    """One image (3, S, S), uint8, as a data URI."""
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    if image.height > LARGEST_SIDE:
        image = image.resize((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
    held = io.BytesIO()
    image.save(held, format="PNG")
    return data_uri(held.getvalue())


# ---- curves ----------------------------------------------------------------------------------------


def _training(entries):
    """Loss and accuracy on val against the epoch, for each network that was trained."""
    charts = []
    for network, history in experiment.histories(entries).items():
        for field, axis in MEASURED.items():
            measured = [(row["epoch"], row[field]) for row in history if field in row]
            measured = [(epoch, value) for epoch, value in measured if math.isfinite(value)]
            if len(measured) > 1:
                charts.append(_training_chart(network, field, axis, measured))
    return section("Training", element("div", *charts, class_="charts")) if charts else None


def _training_chart(network, field, axis, measured):
    every = -(-len(measured) // MOST_MARKS)
    points = [
        svg.Point(
            (epoch, None),
            (value, None),
            f"{network}, epoch {epoch}: {field} {value:.4g}",
            COLOURS[network],
            kind="disc" if every == 1 else "felt",
            size=0.6 if every == 1 else 1.6,
        )
        for epoch, value in measured[::every]
    ]
    line = svg.Line(measured, points, COLOURS[network])
    told = f"{field} of the {network} against the epoch"
    drawn = svg.lines([line], ("epoch", axis), told, up=(0,) if field == "loss" else ())
    return svg.chart(f"{network}: {field}", drawn)


def _epsilon(folder, entries):
    """Accuracy against epsilon, where train.evaluate measured it of this very student."""
    charts, notes = [], []
    for name in CURVES:
        path = folder / name
        curve = storage.read_sealed(path, "curve") if path.exists() else {}
        if "accuracy" in curve and curve.get("network") == entries.get("train", {}).get("fingerprint"):
            charts.append(_epsilon_chart(curve, name))
            notes += map(note, text.said_of_curve(curve))
    drawn = element("div", *charts, class_="charts")
    return section("Accuracy against epsilon", drawn, *notes) if charts else None


def _epsilon_chart(curve, name):
    points, images = [], curve["images"]
    for epsilon, accuracy in zip(curve["epsilon"], curve["accuracy"]):
        error = standard_error(accuracy, images)
        told = f"epsilon {epsilon * 255:.4g}/255: {accuracy:.2f} ± {error:.2f} % of {images} images"
        points.append(svg.Point((epsilon * 255, None), (accuracy, error), told, COLOURS["student"]))
    line = svg.Line([(point.x[0], point.y[0]) for point in points], points, COLOURS["student"])
    axes = "epsilon, 1/255", f"accuracy under {curve['attack']}, %"
    return svg.chart(f"student, {curve['attack']} ({name})", svg.lines([line], axes, name, up=(0,)))


# ---- what it was made with -------------------------------------------------------------------------


def _curvature(entries):
    measured = entries.get("pretrain", {}).get("results", {}).get("curvature")
    if not measured:
        return None
    rows = [
        [f"gradient change over a step of {measured['h']:.4g}", f"{measured['gradient_change']:.4g}"],
        ["along the gradient", f"{measured['along_z']:.4g}"],
        ["largest eigenvalue", f"{measured['largest_eigenvalue']:.4g}"],
    ]
    told = f"Mean over {measured['images']} validation images, per squared normalized-image unit."
    return section("Curvature of the teacher's loss", table(["", "curvature"], rows), note(told))


def _settings(entries):
    """A folded part for each entry of the record: settings, then environment."""
    for name in OF_THE_RUN:
        entry = entries.get(name)
        if not entry:
            continue
        shown = {**entry, "settings": earlier.read_by_stage(name, entry.get("settings", {}))}
        parts = [
            table([title, ""], [[key, _value(value)] for key, value in _flat(shown[title])], words=(0, 1))
            for title in ("settings", "key", "results", "environment")
            if shown.get(title)
        ]
        took = f"{entry['seconds']:.1f} seconds" if "seconds" in entry else None
        yield details([name, element("small", took)], element("div", *parts, class_="columns"))


def _flat(held, before=""):
    """(name, value) of everything in nested dicts, the names of inner ones after those of outer ones."""
    for name, value in held.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name} ")
        else:
            yield f"{before}{name}", value


def _value(value):
    return value if isinstance(value, str) else json.dumps(value)
