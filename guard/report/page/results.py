"""The page of all recorded results: what was found, charts, tables."""

from pathlib import Path

from guard.report.page import charts, from_markdown, recorded
from guard.report.page.markup import data_uri, details, element, note, page, section, table
from guard.report.page.numbers import (
    UNCERTAIN,
    accuracy,
    epsilon,
    link,
    number,
    size,
    strongest,
)
from guard.report.page.recorded import scale_text
from guard.report.statistics import average

PICTURE = "docs/pictures/distilled.png"  # beside the folder of results


def page_of(results):
    """The page of the folder `results`. Raises UserError for records that are none."""
    results = Path(results)
    rows, found = recorded.rows(results)
    source, attacks, others = recorded.published(results)
    for row in rows:
        row["attack"] = strongest([other for other in rows if size(other) == size(row)])
    return page(
        "GUARD, results",
        _head(rows, others),
        _found(found),
        charts.clean_against_robust(rows, others, source),
        charts.curvature(rows),
        charts.by_epsilon(rows),
        _distilled(results),
        _runs(rows),
        _published(source, attacks, others),
    )


def _head(rows, others):
    runs = sum(len(row["runs"]) for row in rows)
    datasets = len({row["dataset"] for row in rows})
    counted = f"{runs} recorded runs on {datasets} data sets, {len(others)} published rows"
    full = element("a", "TABLES.md", href="TABLES.md")
    return element(
        "header",
        element("p", "GUARD", class_="eyebrow"),
        element("h1", "Results"),
        element("p", counted, " · the tables in full: ", full, class_="facts"),
    )


def _found(lines):
    """What guard.paper finds in the records, in its words."""
    heading, *rest = from_markdown.html_of(lines)
    return element("section", heading, *rest, class_="found")


def _distilled(results):
    """The picture of distilled images that README shows, where there is one."""
    path = results.resolve().parent / PICTURE
    if not path.exists():
        return None
    title = "an image of each class, real and distilled without and with GUARD"
    picture = element("img", src=data_uri(path.read_bytes()), alt=title, class_="strip")
    return section("Distilled images", element("figure", element("figcaption", title), picture))


def _runs(rows):
    """All rows in a table that can be sorted, and filtered by words."""
    if not rows:
        return section("All runs", note("No runs are recorded here yet."))
    header = ["data set", "size", "arm", "seeds", "images per class", "clean", "robust", "attack"]
    header += ["teacher: clean", "teacher: robust", "teacher: gradient change"]
    field = element(
        "input",
        type="search",
        class_="filter",
        placeholder="keep rows with these words: cifar10 guard",
        aria_label="filter the runs",
        data_table="runs",
    )
    made = table(header, [_run_line(row) for row in rows], words=(0, 1, 2, 3, 7), sortable=True, name="runs")
    settings = dict.fromkeys(row["setting"] for row in rows if row["kind"] in ("arm", "otherwise"))
    list_of_them = element("ul", *(element("li", setting) for setting in settings))
    return section(
        "All runs", field, made, note(UNCERTAIN), details("How these runs were made", list_of_them)
    )


def _run_line(row):
    attack, links = row["attack"], []
    for run in row["runs"]:
        links += [element("a", str(run["seed"]), href=link(run), title=run["place"]), " "]
    return [
        row["dataset"],
        scale_text(row["scale"]),
        row["arm"] + (", with other settings than planned" if row["kind"] == "otherwise" else ""),
        links,
        str(row["images per class"]),
        number(accuracy(row, "clean")),
        number(accuracy(row, attack)),
        f"{attack} within {epsilon(row)}",
        number(accuracy(row, "clean", "teacher")),
        number(accuracy(row, attack, "teacher")),
        number(average([run["gradient change"] for run in row["runs"]]), ".3g"),
    ]


def _published(source, attacks, others):
    lines = []
    for row in others:
        words = [row["dataset"], row["method"], ", ".join(row["tables"]), str(row["images per class"])]
        found = [row["student"].get(attack) for attack in attacks]
        lines.append([*words, *("-" if value is None else f"{value:.2f}" for value in found)])
    header = ["data set", "method", "table", "images per class", *attacks]
    made = table(header, lines, words=(0, 1, 2), sortable=True, name="published")
    return section("Published numbers", details(source, made))
