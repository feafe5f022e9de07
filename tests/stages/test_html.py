"""The pages to look at: what they hold, that nothing in them is loaded or run, and how they fail."""

import itertools
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import ROOT, command
from PIL import Image

from guard.report import html
from guard.report.page import from_markdown, markup, recorded, results, svg
from guard.run import records, storage

EVIL = "<script>alert(1)<|script>"  # a name of a folder cannot hold a slash
REPORT = "guard.report.__main__"
ENVIRONMENT = {"device": "x86_64 CPU", "torch": "2.11.0", "commit": "abc", "command": "python -m train"}


def evaluation(clean, pgd20, warnings=()):
    return {
        "protocols": ["quick"],
        "epsilon": 12 / 255,
        "images": 100,
        "attacks": {"clean": {"accuracy": clean}, "pgd20": {"accuracy": pgd20}},
        "worst_case": pgd20,
        "warnings": list(warnings),
        "complete": True,
        "environment": ENVIRONMENT,
    }


def stage(settings, **others):
    return {"settings": settings, "seed": 0, "seconds": 1.25, "environment": ENVIRONMENT, **others}


def history(losses):
    return [{"epoch": epoch, "loss": loss, "val accuracy": 50.0} for epoch, loss in enumerate(losses, 1)]


@pytest.fixture
def experiment(tmp_path):
    """A finished experiment of two classes, one of them with a name that is a script."""
    folder = tmp_path / "24"
    for name, colour in (("cat", 40), (EVIL, 200)):
        (folder / "images" / name).mkdir(parents=True)
        for number in range(3):
            image = Image.new("RGB", (8, 8), (colour, 50 * number, 0))
            image.save(folder / "images" / name / f"{number}.png")
    curvature = {"gradient_change": 0.26, "along_z": 0.2, "largest_eigenvalue": 0.22, "images": 256, "h": 1.5}
    entries = {
        "pretrain": stage(
            {"dataset": "digits", "model": "convnet-32", "note": f"</td>{EVIL}"},
            history=history([2.0, float("nan"), 1.0]),
            results={"curvature": curvature},
        ),
        "train": stage(
            {"model": "student-net"},
            history=history([3 / epoch for epoch in range(1, 400)]),
            fingerprint="that student",
        ),
        "evaluate teacher": evaluation(88.0, 43.0),
        "evaluate student": evaluation(71.0, 9.0, ["square is above <b>pgd</b>"]),
    }
    for name, entry in entries.items():
        records.update(folder / "log.json", name, entry)
    return folder


class Document(HTMLParser):
    """What is in a page: its tags with their attributes, its text; complains of elements left open."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.open = [], "", []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in markup.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data + "\n"

    def all(self, tag, **attributes):
        return [held for name, held in self.tags if name == tag and attributes.items() <= held.items()]


def page_of(path):
    return Document(Path(path).read_text())


def needs_nothing_else(path):
    """Fails for a page that loads anything, or runs anything but its own script."""
    document, text = page_of(path), Path(path).read_text()
    assert len(document.all("script")) == 1 and not document.all("link") and not document.all("iframe")
    for _, attributes in document.tags:
        assert attributes.get("src", "data:").startswith("data:")
        assert not re.match(r"[a-z]*:|//", attributes.get("href", ""))
        assert not [name for name in attributes if name.startswith("on")]
    assert "url(" not in text and "@import" not in text and "fetch(" not in text
    (policy,) = document.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert policy["content"].startswith("default-src 'none'")


# ---- an experiment -----------------------------------------------------------------------------------


def test_the_page_of_an_experiment_opens_with_its_numbers(experiment, capsys):
    assert command(REPORT, experiment, "--html") == 0
    assert str(experiment / "report.html") in capsys.readouterr().out
    document = page_of(experiment / "report.html")
    words = document.text.split("Settings and environment")[0]
    assert words.index("Experiment 24") < words.index("71.0") < words.index("student: loss")
    for expected in ("± 4.5 %", "43.00 ± 4.95", "9.00 ± 2.86", "-62.00", "gradient change", "0.26"):
        assert expected in words, expected
    assert "student: square is above <b>pgd</b>." in words, "the warnings"
    assert document.all("a", href="log.json")
    assert len(document.all("img")) == 6 and len(document.all("details")) == 4
    titles = [held["title"] for _, held in document.tags if "title" in held]
    assert "student, pgd20: 9.00 ± 2.86 % of 100 validation images, epsilon 12/255" in titles


def test_a_long_training_has_its_whole_line_and_few_marks_and_skips_what_is_no_number(experiment):
    html.write_experiment(experiment)
    text = (experiment / "report.html").read_text()
    lines = [line.split() for line in re.findall(r'<polyline points="([^"]*)"', text)]
    assert [len(line) for line in lines] == [2, 3, 399, 399]
    assert text.count("student, epoch") <= 2 * 40 and "nan" not in text


def test_a_curve_is_shown_where_there_is_one(experiment):
    curve = {"attack": "pgd100", "epsilon": [0.0, 8 / 255], "accuracy": [70.0, 0.0], "reaches_zero": True}
    for network, shown in (("that student", True), ("an earlier one", False)):
        told = {**curve, "images": 100, "network": network}
        storage.write_sealed(told, experiment / "student" / "curve.json")
        html.write_experiment(experiment)
        text = (experiment / "report.html").read_text()
        assert ("epsilon 8/255: 0.00 ± 0.00 % of 100 images" in text) == shown
        assert ("reaches zero" in text) == shown


def test_names_of_strangers_are_text(experiment):
    html.write_experiment(experiment)
    text, document = (experiment / "report.html").read_text(), page_of(experiment / "report.html")
    assert EVIL in document.text, "as text"
    assert EVIL not in text and "<b>" not in text
    assert {f"{EVIL}, image 1", "cat, image 3"} <= {held["alt"] for held in document.all("img")}
    needs_nothing_else(experiment / "report.html")


def test_escaping():
    evil = "<script>alert(1)</script>\"'&"
    made = markup.element("p", evil, title=evil)
    assert "<script" not in made and made.count('"') == 2
    (tag,) = Document(made).all("p")
    assert tag["title"] == evil and Document(made).text.strip() == evil
    assert markup.element("i", markup.element("b", 1), None, [2, "<"]) == "<i><b>1</b>2&lt;</i>"
    assert "<script" not in markup.table([evil], [[evil], [markup.Cell(evil, evil)]])
    point = svg.Point((0, None), (1, None), evil, colour=evil, link=evil, series=evil)
    assert "<script" not in svg.scatter([point], (evil, evil), evil)


def test_large_images_are_made_smaller(experiment):
    for path in (experiment / "images").rglob("*.png"):
        Image.effect_noise((300, 300), 80).convert("RGB").save(path)
    html.write_experiment(experiment)
    assert (experiment / "report.html").stat().st_size < 6 * 100_000
    assert "shown at 128 pixels" in (experiment / "report.html").read_text()


def test_same_records_same_bytes(experiment, tmp_path):
    html.write_experiment(experiment)
    first = (experiment / "report.html").read_bytes()
    shutil.copytree(experiment, tmp_path / "copy" / "24")
    html.write_experiment(tmp_path / "copy" / "24")
    assert (tmp_path / "copy" / "24" / "report.html").read_bytes() == first
    # In a process of another hash seed sets have another order.
    code = "import sys; from guard.report.page import results; sys.stdout.write(results.page_of('results'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        check=True,
    )
    assert done.stdout.decode() == results.page_of(ROOT / "results")


def test_a_folder_with_a_name_of_any_bytes_has_a_page(experiment):
    named = experiment.rename(experiment.with_name("run-\udcff"))
    html.write_experiment(named)
    assert "Experiment run-" in (named / "report.html").read_text()
    assert command(REPORT, named) == 0
    assert (named / "report.md").read_text().startswith("# Experiment run-\\udcff\n")


@pytest.mark.parametrize("flags", [[], ["--html"]])
def test_a_report_of_images_from_elsewhere_has_all_but_them(experiment, flags, capsys):
    shutil.rmtree(experiment / "images")
    assert command(REPORT, experiment, *flags) == 0
    assert "71.00" in capsys.readouterr().out or "71.0 ± 4.5" in (experiment / "report.html").read_text()
    if not flags:
        written = (experiment / "report.md").read_text()
        assert "images.png" not in written and "robustness.png" in written


def test_what_cannot_be_shown_is_told_in_one_line(experiment, refused, monkeypatch):
    assert "no record at" in refused(REPORT, experiment.parent, "--html")
    (experiment / "report.html").mkdir()
    assert "cannot write" in refused(REPORT, experiment, "--html")
    records.update(experiment / "log.json", "evaluate teacher", {})
    records.update(experiment / "log.json", "evaluate student", {"complete": False})
    assert "has no evaluation yet" in refused(REPORT, experiment, "--html")


def test_the_report_in_markdown_opens_with_the_numbers_and_folds_the_settings_away(experiment):
    assert command(REPORT, experiment) == 0
    text = (experiment / "report.md").read_text()
    numbers_, settings = text.split("## Settings")
    assert "71.00 ± 4.54" in numbers_ and "robustness.png" in numbers_ and "largest eigenvalue" in numbers_
    assert settings.count("<details>") == settings.count("</details>") == 2
    assert "| model | student-net |" in settings and "<summary>train: " in settings


# ---- all results -------------------------------------------------------------------------------------


def row(arm, seeds=(0,), clean=60.0, robust=20.0, kind="arm", scale="paper", curve=None, epsilon=1 / 255):
    runs = [
        {
            "seed": seed,
            "file": f"{scale}/runs of {arm}.jsonl",
            "place": f"{scale}/runs of {arm}.jsonl, line {seed + 1}",
            "images": 400,
            "epsilon": epsilon,
            "student": {"clean": clean + seed, "pgd100": robust + seed},
            "teacher": {"clean": 90.0, "pgd100": 50.0},
            "gradient change": 0.5,
            "curve": curve,
        }
        for seed in seeds
    ]
    return {
        "scale": scale,
        "dataset": "imagenette",
        "images per class": 10,
        "arm": arm,
        "kind": kind,
        "colour": "#d62728",
        "setting": "as one does",
        "runs": runs,
    }


@pytest.fixture
def results_page(tmp_path, monkeypatch):
    """results_page(rows, found): the page of these rows, beside the published ones."""

    def write(rows, found=("## What was found\n",)):
        monkeypatch.setattr(recorded, "rows", lambda folder: (rows, list(found)))
        shutil.copy(ROOT / "results" / "published.json", tmp_path)
        return html.write_results(tmp_path)

    return write


def test_the_page_of_our_results_needs_nothing_else(tmp_path):
    path = tmp_path / "page.html"
    path.write_text(results.page_of(ROOT / "results"))
    needs_nothing_else(path)
    for held in page_of(path).all("a"):
        assert (ROOT / "results" / held["href"]).is_file(), "each link leads to a record"


def test_ours_stand_beside_the_published_points_and_lead_to_their_records(results_page):
    curve = {"attack": "pgd100", "epsilon": [0.0, 1 / 255], "accuracy": [60.0, 20.0], "images": 400}
    rows = [row("guard", (0, 1), curve=curve), row("sre2l", (0, 1), 58.0, 5.0), row("<i>", kind="variation")]
    path = results_page(rows)
    text, document = path.read_text(), page_of(path)
    needs_nothing_else(path)
    for expected in (
        (
            "guard, 10 images per class\nclean 60.50 ± 0.71 %\npgd100 20.50 ± 0.71 %\nimagenette, published"
            " size, epsilon 1/255, 400 validation images\nseeds 0, 1; record: paper/runs of"
            " guard.jsonl, line 1"
        ),
        "published: guard, 10 images per class\nclean 57.93 %\npgd100 23.87 %",
    ):
        assert expected in document.text
    chart = next(
        part for part in text.split("<figure>") if part.startswith("<figcaption>imagenette, published")
    )
    assert chart.count("mark disc") == 2 and chart.count("mark ring") == 1 and "mark diamond" in chart
    assert 'href="paper/runs%20of%20guard.jsonl"' in chart and 'href="published.json"' in chart
    assert "Accuracy of the student against epsilon" in text and "pgd100 within 1/255: 20.00" in text
    assert document.all("table", id="runs") and document.all("input", **{"data-table": "runs"})


def test_the_table_of_all_runs_says_within_which_epsilon_each_was_attacked(results_page):
    text = results_page([row("guard"), row("sre2l", epsilon=2 / 255)]).read_text()
    lines = text[text.index('id="runs"') :].split("<tr>")
    for arm, epsilon in (("guard", "1/255"), ("sre2l", "2/255")):
        assert f"<td>pgd100 within {epsilon}</td>" in next(
            line for line in lines if f"<td>{arm}</td>" in line
        )


def test_runs_of_other_settings_than_planned_stand_apart(results_page):
    text = results_page([row("guard"), row("cda", kind="otherwise")]).read_text()
    chart = next(
        part for part in text.split("<figure>") if part.startswith("<figcaption>imagenette, published")
    )
    assert chart.count("mark disc") == chart.count("mark square") == 1
    assert "<td>guard</td>" in text and "<td>cda, with other settings than planned</td>" in text


def test_what_was_found_stands_first(results_page):
    text = results_page([row("guard")], ["## What was found\n", "GUARD <helps>.\n"]).read_text()
    assert text.index("<h2>What was found</h2><p>GUARD &lt;helps&gt;.</p>") < text.index(
        "Clean against robust"
    )


def test_markdown_of_ours_becomes_html():
    lines = [
        "### Does it\n",
        "It does,",
        "often.\n",
        "| a | b |",
        "| --- | ---: |",
        "| <i> | 1 |",
        "",
        "- one",
        "- two",
    ]
    made = markup.markup(from_markdown.html_of(lines))
    assert made.startswith("<h3>Does it</h3><p>It does, often.</p><div")
    assert (
        '<td>&lt;i&gt;</td><td class="number">1</td>' in made and "<ul><li>one</li><li>two</li></ul>" in made
    )


def test_without_any_run_the_published_numbers_are_there(results_page):
    path = results_page([])
    needs_nothing_else(path)
    text = path.read_text()
    assert "No runs are recorded here yet" in text and "mark diamond" in text


def test_the_command_writes_the_page_of_results(results_page, tmp_path, capsys, refused):
    results_page([])
    assert f"no run is recorded in {tmp_path}" in refused(REPORT, "--html", "--results", tmp_path)
    shutil.copy(ROOT / "results" / "overhead.json", tmp_path)
    assert command(REPORT, "--html", "--results", tmp_path) == 0
    assert f"page: {tmp_path / 'report.html'}" in capsys.readouterr().out
    (tmp_path / "published.json").write_text("{}")
    assert "published" in refused(REPORT, "--html", "--results", tmp_path)
    assert "results/report.html" in (ROOT / ".gitignore").read_text().split(), "made on demand, not committed"


# ---- charts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (3.2, 97), (0.00043, 0.0043), (5, 5), (0, 0), (-3, 12), (99.9, 100)]
)
def test_ticks_are_few_and_round_and_reach_around_what_is_drawn(low, high):
    found = svg.ticks(low, high)
    steps = {f"{after - before:.6g}" for before, after in itertools.pairwise(found)}
    assert found[0] <= low + 1e-12 and found[-1] >= high - 1e-12 and 2 <= len(found) <= 8
    assert len(steps) == 1 and re.fullmatch(r"0*\.?0*[125]0*(\.0)?|[125]e-\d+", steps.pop())


def test_no_deviation_reaches_where_no_accuracy_can_be():
    points = [svg.Point((97.0, 8.0), (2.0, 5.0), "a"), svg.Point((50.0, None), (40.0, 1.0), "b")]
    ticks = re.findall(r">(-?\d+)</text>", svg.scatter(points, ("x", "y"), "label"))
    assert min(map(int, ticks)) == 0 and max(map(int, ticks)) == 100
