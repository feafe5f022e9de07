"""The page of all recorded results: what was found, charts, tables."""

from collections import namedtuple
from math import sqrt
from pathlib import Path
from statistics import mean, stdev
from urllib.parse import quote

from guard.report import recorded, svg
from guard.report.markup import Cell, data_uri, details, element, note, page, section, table
from guard.report.text import standard_error

PLAIN, ROBUST = "sre2l", "guard"  # the arms whose difference stands at the top of the page
STRONGEST = ("pgd100", "pgd20")  # the first of these that a size's runs met stands for robustness
SCALES = {"paper": "published size", "cpu": "CPU size"}
OTHERS = {"variation": "guard with one setting changed", "swapped": "images and labels of two teachers"}
PUBLISHED = "other published methods"  # those that are no arm of ours
MARKS = {"arm": "disc", "variation": "ring", "swapped": "triangle", "published": "diamond"}
GREY = "#8a8a8a"
FIGURES = "figures/distilled-*.png"
UNCERTAIN = (
    "± is the standard deviation over seeds; of a single run, the standard error that its number of"
    " validation images leaves."
)
Place = namedtuple("Place", "scale dataset attack")  # what one chart shows; attack: that for robustness


def page_of(results):
    """The page of the folder `results`. Raises UserError for records that are none."""
    results = Path(results)
    rows, (source, attacks, others) = recorded.rows(results), recorded.published(results)
    for row in rows:
        row["attack"] = _strongest([other for other in rows if _size(other) == _size(row)])
    return page(
        "Results",
        _head(rows, others),
        _found(rows),
        _clean_against_robust(rows, others, source),
        _curvature(rows),
        _epsilon(rows),
        _distilled(results),
        _runs(rows),
        _published(source, attacks, others),
    )


# ---- numbers ---------------------------------------------------------------------------------------


def _size(row):
    return row["scale"], row["dataset"], row["images per class"]


def _strongest(rows):
    met = {name for row in rows for run in row["runs"] for name in run["student"]}
    return next((name for name in STRONGEST if name in met), STRONGEST[-1])


def average(values, error=None):
    """(mean, standard deviation, or `error` where there is one value); None where one is missing."""
    if not values or any(value is None for value in values):
        return None
    return mean(values), stdev(values) if len(values) > 1 else error


def accuracy(row, attack, network="student"):
    """(mean, uncertainty) in percent of a row, or None where a run did not meet the attack."""
    values = [run[network].get(attack) for run in row["runs"]]
    images = row["runs"][0]["images"]
    error = standard_error(values[0], images) if values[0] is not None else None
    return average(values, error)


def change(row, before, attack):
    """(mean, uncertainty, standard error of the mean) of a row's accuracy less that of the row `before`
    with the same seed; None without such pairs.
    """
    old = {run["seed"]: run for run in before["runs"] if attack in run["student"]}
    pairs = [
        (run, old[run["seed"]]) for run in row["runs"] if run["seed"] in old and attack in run["student"]
    ]
    if not pairs:
        return None
    errors = [standard_error(run["student"][attack], run["images"]) for run in pairs[0]]
    values = [one["student"][attack] - other["student"][attack] for one, other in pairs]
    middle, spread = average(values, sqrt(sum(error**2 for error in errors)))
    return middle, spread, spread / sqrt(len(values))


def number(found, form=".2f"):
    """'57.12 ± 0.50' for a table, in the order of the mean; a dash for None."""
    if found is None:
        return Cell("-", "")
    middle, deviation = found[:2]
    shown = f"{middle:{form}}" + (f" ± {deviation:{form.lstrip('+')}}" if deviation is not None else "")
    return Cell(shown, f"{middle:.6g}")


# ---- words -----------------------------------------------------------------------------------------


def _scale(scale):
    return SCALES.get(scale, f"scale {scale}")


def _per_class(count):
    return f"{count} image{'' if count == 1 else 's'} per class"


def _link(run):
    return quote(run["file"])


def _told(row, *numbers):
    """What a mark of a row shows on hover."""
    seeds = ", ".join(str(run["seed"]) for run in row["runs"])
    first = row["runs"][0]
    lines = [
        f"{row['arm']}, {_per_class(row['images per class'])}",
        *numbers,
        f"{row['dataset']}, {_scale(row['scale'])}, {first['images']} validation images,"
        f" epsilon {first['epsilon'] * 255:.4g}/255",
        f"seed{'' if len(row['runs']) == 1 else 's'} {seeds}: {first['place']}",
    ]
    return "\n".join(lines)


def _percent(name, found):
    middle, deviation = found
    return f"{name} {middle:.2f} ± {deviation:.2f} %"


def _head(rows, others):
    runs = sum(len(row["runs"]) for row in rows)
    datasets = len({row["dataset"] for row in rows})
    told = f"{runs} recorded runs on {datasets} data sets, and {len(others)} published rows · "
    full = element("a", "TABLES.md", href="TABLES.md")
    return element(
        "header",
        element("p", "GUARD", class_="eyebrow"),
        element("h1", "Results"),
        element("p", told, "all tables, with every setting: ", full, class_="facts"),
    )


# ---- what was found --------------------------------------------------------------------------------


def _found(rows):
    """GUARD's student against the plain one's, size by size."""
    lines = []
    for size in dict.fromkeys(map(_size, rows)):
        arms = {row["arm"]: row for row in rows if _size(row) == size}
        if PLAIN not in arms or ROBUST not in arms:
            continue
        plain, robust, attack = arms[PLAIN], arms[ROBUST], arms[PLAIN]["attack"]
        scale, dataset, count = size
        line = [f"{dataset}, {_scale(scale)}", str(count), str(len(robust["runs"]))]
        for name in ("clean", attack):
            moved = change(robust, plain, name)
            line += [number(accuracy(plain, name)), number(accuracy(robust, name)), _moved(moved)]
        lines.append([*line, attack])
    if not lines:
        return None
    header = ["", "images per class", "runs", "clean: sre2l", "guard", "change"]
    header += ["robust: sre2l", "guard", "change", "attack"]
    return section(
        "What was found: GUARD against SRe2L",
        table(header, lines),
        note(
            "Accuracy of the student in percent; change seed by seed. A change stands in bold where it is"
            " more than two standard errors; all others may be chance. ",
            UNCERTAIN,
        ),
    )


def _moved(moved):
    if moved is None:
        return "-"
    shown, (middle, _, error) = number(moved, "+.2f"), moved
    return Cell(element("b", shown.shown) if abs(middle) > 2 * error else shown.shown, shown.order)


# ---- charts ----------------------------------------------------------------------------------------


def _series(row):
    return row["arm"] if row["kind"] == "arm" else OTHERS[row["kind"]]


def _places(rows):
    return dict.fromkeys(Place(row["scale"], row["dataset"], row["attack"]) for row in rows)


def _at(rows, place):
    return [row for row in rows if (row["scale"], row["dataset"], row["attack"]) == place]


def _sizes(rows):
    """images per class -> size of a mark, the larger the more."""
    counts = sorted({row["images per class"] for row in rows})
    return {count: 0.8 + 0.35 * position for position, count in enumerate(counts)}


def _point(row, size, x, y, told):
    colour = row["colour"] if row["kind"] == "arm" else GREY
    link = _link(row["runs"][0])
    return svg.Point(x, y, told, colour, MARKS[row["kind"]], link, _series(row), size)


def _caption(place, rows):
    counts = sorted({row["images per class"] for row in rows})
    told = ", ".join(map(str, counts))
    words = f"{told} image{'' if counts == [1] else 's'} per class"
    return [f"{place.dataset}, {_scale(place.scale)} ", element("small", f"{place.attack}, {words}")]


def _clean_against_robust(rows, others, source):
    """A chart for each data set, scale and attack; the published points in those of published size."""
    at_paper = [
        Place("paper", dataset, STRONGEST[0]) for dataset in dict.fromkeys(row["dataset"] for row in others)
    ]
    charts, drawn = [], []
    for place in dict.fromkeys([*_places(rows), *at_paper]):
        beside = [row for row in others if row["dataset"] == place.dataset] if place in at_paper else []
        here = [row for row in _at(rows, place) if accuracy(row, "clean") and accuracy(row, place.attack)]
        sizes = _sizes([*here, *beside])
        points = [_published_point(row, sizes, place.attack, source) for row in beside]
        for row in here:
            x, y = accuracy(row, "clean"), accuracy(row, place.attack)
            told = _told(row, _percent("clean", x), _percent(place.attack, y))
            points.append(_point(row, sizes[row["images per class"]], x, y, told))
        if points:
            names = "clean accuracy, %", f"accuracy under {place.attack}, %"
            label = f"clean against robust accuracy, {place.dataset}, {_scale(place.scale)}"
            drawn += points
            charts.append(
                svg.chart(_caption(place, [*here, *beside]), svg.scatter(points, names, label, True))
            )
    return section(
        "Clean against robust accuracy of the student",
        _legend(drawn),
        element("div", *charts, class_="charts"),
        note(
            "A larger mark has more images per class; on the dotted line an attack costs nothing. Each of our"
            " marks leads to its record, a diamond is a published number. Runs at CPU size have other"
            " networks, images and epochs than the published ones, which therefore stand in charts of their"
            " own. ",
            UNCERTAIN,
        ),
    )


def _published_point(row, sizes, attack, source):
    clean, robust = row["student"]["clean"], row["student"][attack]
    told = "\n".join(
        [
            f"published: {row['method']}, {_per_class(row['images per class'])}",
            f"clean {clean:.2f} %",
            f"{attack} {robust:.2f} %",
            f"{row['dataset']}, table {' and '.join(row['tables'])} of {source}",
        ]
    )
    series = row["arm"] or PUBLISHED
    colour = row["colour"] if row["arm"] else GREY
    size = sizes[row["images per class"]]
    return svg.Point((clean, None), (robust, None), told, colour, "diamond", "published.json", series, size)


def _legend(points):
    """A button for each series, which shows it alone. Of a series that was published and run, ours."""
    kinds = list(MARKS.values())
    held = {}
    for point in sorted(points, key=lambda point: kinds.index(point.kind)):
        held.setdefault(point.series, point)
    keys = []
    for name, point in held.items():
        shape = svg.key(point)
        keys.append(
            element("button", shape, name, class_="key", type="button", data_name=name, aria_pressed="false")
        )
    return element("p", *keys, class_="legend")


def _curvature(rows):
    """Whether a teacher of less curvature makes a more robust student."""
    charts, drawn = [], []
    for place in _places(rows):
        sizes, points = _sizes(_at(rows, place)), []
        for row in _at(rows, place):
            moved = average([run["gradient change"] for run in row["runs"]])
            robust = accuracy(row, place.attack)
            if row["kind"] != "arm" or not moved or not robust:
                continue
            told = f"gradient change {moved[0]:.3g}" + (f" ± {moved[1]:.2g}" if moved[1] is not None else "")
            told = _told(row, told, _percent(place.attack, robust))
            points.append(_point(row, sizes[row["images per class"]], moved, robust, told))
        if len(points) > 1:
            names = "gradient change of the teacher", f"student under {place.attack}, %"
            label = f"curvature against robust accuracy, {place.dataset}, {_scale(place.scale)}"
            drawn += points
            charts.append(svg.chart(_caption(place, _at(rows, place)), svg.scatter(points, names, label)))
    if not charts:
        return None
    return section(
        "Curvature of the teacher against robust accuracy of the student",
        _legend(drawn),
        element("div", *charts, class_="charts"),
        note("Gradient change per squared normalized-image unit: lower is less curved."),
    )


def _epsilon(rows):
    """Accuracy against epsilon, a line per arm, a chart for each size whose runs have such curves."""
    charts, drawn = [], []
    for size in dict.fromkeys(map(_size, rows)):
        lines = [
            _epsilon_line(row)
            for row in rows
            if _size(row) == size and row["kind"] == "arm" and all(run["curve"] for run in row["runs"])
        ]
        if lines:
            scale, dataset, count = size
            drawn += [point for line in lines for point in line.points]
            made = svg.lines(
                lines, ("epsilon, 1/255", "accuracy, %"), f"accuracy against epsilon, {dataset}", (0,)
            )
            caption = [f"{dataset}, {_scale(scale)} ", element("small", _per_class(count))]
            charts.append(svg.chart(caption, made))
    if not charts:
        return None
    title = "Accuracy of the student against epsilon"
    return section(title, _legend(drawn), element("div", *charts, class_="charts"), note(UNCERTAIN))


def _epsilon_line(row):
    """The mean over a row's runs at the epsilons that all of their curves have."""
    curves = [dict(zip(run["curve"]["epsilon"], run["curve"]["accuracy"])) for run in row["runs"]]
    images, attack = row["runs"][0]["curve"].get("images"), row["runs"][0]["curve"]["attack"]
    points = []
    for epsilon in sorted(set(curves[0]).intersection(*curves)):
        values = [curve[epsilon] for curve in curves]
        found = average(values, standard_error(values[0], images) if images else None)
        told = _told(row, f"{attack}, epsilon {epsilon * 255:.4g}/255", _percent("accuracy", found))
        points.append(_point(row, 0.7, (epsilon * 255, None), found, told))
    places = [(point.x[0], point.y[0]) for point in points]
    return svg.Line(places, points, row["colour"], row["arm"])


# ---- images and tables -----------------------------------------------------------------------------


def _distilled(results):
    pictures = []
    for path in sorted(results.glob(FIGURES)):
        picture = element("img", src=data_uri(path.read_bytes()), alt=path.stem, class_="strip")
        pictures.append(element("figure", element("figcaption", path.stem.replace("-", " ")), picture))
    return section("Distilled images", element("div", *pictures, class_="charts")) if pictures else None


def _runs(rows):
    """All rows in a table that can be sorted, and filtered by words."""
    lines = []
    for row in rows:
        attack, runs = row["attack"], row["runs"]
        links = [element("a", str(run["seed"]), href=_link(run), title=run["place"]) for run in runs]
        lines.append(
            [
                row["dataset"],
                _scale(row["scale"]),
                row["arm"],
                [part for link in links for part in (link, " ")],
                str(row["images per class"]),
                number(accuracy(row, "clean")),
                number(accuracy(row, attack)),
                attack,
                number(accuracy(row, "clean", "teacher")),
                number(accuracy(row, attack, "teacher")),
                number(average([run["gradient change"] for run in runs]), ".3g"),
            ]
        )
    header = ["data set", "size", "arm", "seeds", "images per class", "clean", "robust", "attack"]
    header += ["teacher: clean", "teacher: robust", "teacher: gradient change"]
    field = element(
        "input",
        type="search",
        class_="filter",
        placeholder="keep rows with these words, e.g. cifar10 guard",
        aria_label="filter the runs",
        data_table="runs",
    )
    made = table(header, lines, words=4, sortable=True, name="runs")
    settings = dict.fromkeys(row["setting"] for row in rows if row["kind"] == "arm")
    told = element("ul", *(element("li", setting) for setting in settings))
    return section("All runs", field, made, note(UNCERTAIN), details("How these runs were made", told))


def _published(source, attacks, others):
    lines = [
        [
            row["dataset"],
            row["method"],
            ", ".join(row["tables"]),
            str(row["images per class"]),
            *(f"{row['student'][attack]:.2f}" if attack in row["student"] else "-" for attack in attacks),
        ]
        for row in others
    ]
    header = ["data set", "method", "table", "images per class", *attacks]
    made = table(header, lines, words=3, sortable=True, name="published")
    return section("Published numbers", details(source, made))
