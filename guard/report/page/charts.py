"""The charts of all recorded results.

Rows are as of guard.report.page.recorded, each with its 'attack', which stands for robustness at its size.
"""

from typing import NamedTuple

from guard.report.page import svg
from guard.report.page.markup import element, note, section
from guard.report.page.numbers import (
    STRONGEST,
    UNCERTAIN,
    accuracy,
    epsilon,
    link,
    per_class,
    percent,
    size,
    told,
)
from guard.report.page.recorded import scale_text
from guard.report.statistics import average, standard_error

# legend of the kinds of rows that share a colour, grey
TOGETHER = {
    "variation": "guard with one setting changed",
    "swapped": "images and labels of two teachers",
    "otherwise": "with other settings than planned",
}
NOT_OURS = "other published methods"
MARKS = {
    "arm": "disc",
    "variation": "ring",
    "swapped": "triangle",
    "otherwise": "square",
    "published": "diamond",
}
GREY = "#8a8a8a"
INK = "black"  # white on a dark page
PUBLISHED_EPSILON = "1/255"


class Place(NamedTuple):
    """What one chart of accuracies shows."""

    scale: str
    dataset: str
    attack: str
    epsilon: str  # within which, '1/255'

    def rows(self, rows):
        return [row for row in rows if _place(row) == self]


def _place(row):
    return Place(row["scale"], row["dataset"], row["attack"], epsilon(row))


def clean_against_robust(rows, others, source):
    """A chart for each place; the published points in those of published size."""
    published = [
        Place("paper", dataset, STRONGEST[0], PUBLISHED_EPSILON) for dataset in _each(others, "dataset")
    ]
    charts, drawn = [], []
    for place in dict.fromkeys([*_places(rows), *published]):
        here = [row for row in place.rows(rows) if accuracy(row, "clean") and accuracy(row, place.attack)]
        beside = [row for row in others if place in published and _published_at(row, place)]
        sizes = _sizes([*here, *beside])
        points = [_published_point(row, sizes, place.attack, source) for row in beside]
        for row in here:
            x, y = accuracy(row, "clean"), accuracy(row, place.attack)
            words = told(row, percent("clean", x), percent(place.attack, y))
            points.append(_point(row, sizes[row["images per class"]], x, y, words))
        if points:
            names = "clean accuracy, %", f"accuracy under {place.attack}, %"
            label = f"clean against robust accuracy, {place.dataset}, {scale_text(place.scale)}"
            made = svg.scatter(_in_order(points), names, label, equal=True)
            charts.append(svg.chart(_caption(place, sizes), made))
            drawn += points
    return _section(
        "Clean against robust accuracy of the student",
        drawn,
        charts,
        "A larger mark has more images per class; on the dotted line an attack costs nothing. A click on one"
        " of our marks leads to its record; a diamond is a published number. Runs at CPU size have other"
        " networks, images and epochs than the published ones, which therefore stand in charts of their own. "
        + UNCERTAIN,
    )


def curvature(rows):
    """Whether a teacher of less curvature makes a more robust student."""
    charts, drawn = [], []
    for place in _places(rows):
        here = [row for row in place.rows(rows) if row["kind"] == "arm" and accuracy(row, place.attack)]
        sizes, points = _sizes(here), []
        for row in here:
            change, robust = (
                average([run["gradient change"] for run in row["runs"]]),
                accuracy(row, place.attack),
            )
            if change:
                words = told(row, f"gradient change {change[0]:.3g}", percent(place.attack, robust))
                points.append(_point(row, sizes[row["images per class"]], change, robust, words))
        if len(points) > 1:
            names = "gradient change of the teacher", f"student under {place.attack}, %"
            label = f"curvature against robust accuracy, {place.dataset}, {scale_text(place.scale)}"
            charts.append(svg.chart(_caption(place, sizes), svg.scatter(_in_order(points), names, label)))
            drawn += points
    return _section(
        "Curvature of the teacher against robust accuracy of the student",
        drawn,
        charts,
        "Gradient change per squared normalized-image unit: a smaller one is a less curved loss. "
        + UNCERTAIN,
    )


def by_epsilon(rows):
    """Accuracy against epsilon, a line per arm, a chart for each size whose runs have such curves."""
    charts, drawn = [], []
    measured = [row for row in rows if row["kind"] == "arm" and all(run["curve"] for run in row["runs"])]
    for here in dict.fromkeys(map(size, measured)):
        scale, dataset, count = here
        lines = [_line(row) for row in measured if size(row) == here]
        label = f"accuracy against epsilon, {dataset}, {scale_text(scale)}"
        made = svg.lines(lines, ("epsilon, 1/255", "accuracy, %"), label, up=(0,))
        caption = [f"{dataset}, {scale_text(scale)} ", element("small", per_class([count]))]
        charts.append(svg.chart(caption, made))
        drawn += [point for line in lines for point in line.points]
    return _section("Accuracy of the student against epsilon", drawn, charts, UNCERTAIN)


def _line(row):
    """The mean over a row's runs at the epsilons that all of their curves have."""
    curves = [run["curve"] for run in row["runs"]]
    found = [dict(zip(curve["epsilon"], curve["accuracy"])) for curve in curves]
    images, points = curves[0].get("images"), []
    for within in sorted(set(found[0]).intersection(*found)):
        values = [accuracies[within] for accuracies in found]
        mean = average(values, standard_error(values[0], images) if images else None)
        name = f"{curves[0].get('attack', 'attack')} within {within * 255:.4g}/255:"
        points.append(_point(row, 0.7, (within * 255, None), mean, told(row, percent(name, mean))))
    places = [(point.x[0], point.y[0]) for point in points]
    return svg.Line(places, points, _colour(row), row["arm"])


# ---- parts -----------------------------------------------------------------------------------------


def _section(title, points, charts, explained):
    if not charts:
        return None
    return section(title, _legend(points), element("div", *charts, class_="charts"), note(explained))


def _each(rows, name):
    return dict.fromkeys(row[name] for row in rows)


def _places(rows):
    return dict.fromkeys(map(_place, rows))


def _sizes(rows):
    """images per class -> size of a mark: the more, the larger."""
    return {count: 0.8 + 0.35 * place for place, count in enumerate(sorted(_each(rows, "images per class")))}


def _caption(place, sizes):
    small = element("small", f"{place.attack} within {place.epsilon}, {per_class(sizes)}")
    return [f"{place.dataset}, {scale_text(place.scale)} ", small]


def _colour(row):
    """An arm's colour, lighter on a dark page; grey for what is no arm."""
    own = row["arm"] and row.get("kind", "arm") == "arm"
    colour = row["colour"] if own else GREY
    return "var(--ink)" if colour == INK else f"color-mix(in oklab, {colour} var(--seen), white)"


def _point(row, larger, x, y, words):
    own = row["kind"] == "arm"
    return svg.Point(
        x,
        y,
        words,
        colour=_colour(row),
        kind=MARKS[row["kind"]],
        link=link(row["runs"][0]),
        series=row["arm"] if own else TOGETHER[row["kind"]],
        size=larger,
    )


def _published_at(row, place):
    return row["dataset"] == place.dataset and {"clean", place.attack} <= set(row["student"])


def _published_point(row, sizes, attack, source):
    clean, robust = row["student"]["clean"], row["student"][attack]
    words = [
        f"published: {row['method']}, {per_class([row['images per class']])}",
        f"clean {clean:.2f} %",
        f"{attack} {robust:.2f} %",
        f"{row['dataset']}, {' and '.join(row['tables'])}; {source}",
    ]
    return svg.Point(
        (clean, None),
        (robust, None),
        "\n".join(words),
        colour=_colour(row),
        kind=MARKS["published"],
        link=row["link"],
        series=row["arm"] or NOT_OURS,
        size=sizes[row["images per class"]],
    )


def _in_order(points):
    """What is drawn last lies on top: arms above the others, small marks above large ones."""
    return sorted(points, key=lambda point: (point.kind == MARKS["arm"], -point.size))


def _legend(points):
    """A button for each series, which shows it alone; with the mark of ours where there is one."""
    kinds, first = list(MARKS.values()), {}
    for point in sorted(points, key=lambda point: kinds.index(point.kind)):
        first.setdefault(point.series, point)
    keys = [
        element(
            "button", svg.key(point), name, class_="key", type="button", data_name=name, aria_pressed="false"
        )
        for name, point in first.items()
    ]
    return element("p", *keys, class_="legend")
