"""results/reproduce.sh: which cells a table has, what they run, what is skipped, and what a failure does."""

import argparse
import json
import os
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import ROOT, command
from PIL import Image

from guard.paper import plan, reproduce


def reproduce_sh(*words, cwd=ROOT):
    return subprocess.run(
        ["bash", ROOT / "results/reproduce.sh", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def commands_of_every_cell():
    """cell -> words of its run.sh, of every table and scale, one seed."""
    found = {}
    for table in plan.TABLES:
        for scale in plan.SCALES:
            cells = plan.cells_of(table, scale)
            assert len({cell.name for cell in cells}) == len(cells)
            for cell in cells:
                cell_of_kind = (
                    scale,
                    cell.dataset,
                    cell.images,
                    cell.labels,
                )  # other images per class change one number
                found.setdefault(
                    cell_of_kind,
                    (
                        cell,
                        plan.command_of(
                            cell, scale, root="data/raw", output="runs", protocol="both", images=5
                        ),
                    ),
                )
    return found.values()


def test_every_cell_is_a_run_that_run_sh_accepts():
    def printed(words):
        place = words.index("--")
        return subprocess.run(
            [*words[:place], "-n", *words[place:]], cwd=ROOT, capture_output=True, text=True, check=False
        )

    todo = list(commands_of_every_cell())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for (cell, _), done in zip(todo, pool.map(printed, [words for _, words in todo])):
            assert done.returncode == 0, done.stderr
            lines = done.stdout.splitlines()
            assert len(lines) == 4 and lines[0].startswith(
                "python -m pretrain" if cell.images == cell.labels else "# teacher: "
            )
            for line, maker in zip(lines[1:], (cell.images, cell.labels, cell.labels)):
                assert f"/{plan.ARMS[maker].teacher}-{cell.seed}/checkpoint.pt" in line


def test_the_paper_scale_has_every_published_number_that_is_ours_to_make():
    published = json.loads((ROOT / "results" / "published.json").read_text())["tables"]
    ours = {
        "guard": "guard",
        "sre2l": "sre2l",
        "sre2l+guard": "guard",
        "sre2l+adv": "adv-t",
        "cda": "cda",
        "cda+guard": "cda+guard",
        **{f"gr-{beta}": f"gr-{beta}" for beta in ("1e-4", "1e-3", "1e-2", "0.1", "1")},
    }
    for table in ("main", "adversarial-training", "gradient-regularization", "other-methods"):
        cells = {(cell.dataset, cell.images_per_class, cell.images) for cell in plan.cells_of(table, "paper")}
        for dataset, counts in published[table].items():
            if isinstance(counts, dict):
                wanted = {
                    (dataset, int(count), ours[arm])
                    for count, arms in counts.items()
                    for arm in arms
                    if arm in ours
                }
                assert wanted <= cells


def test_a_swap_takes_images_and_labels_from_different_teachers_after_both_are_there():
    cells = plan.cells_of("swap", "cpu", datasets=("digits",), arms=("sre2l", "guard"), seeds=(0, 1))
    assert [(cell.images, cell.labels, cell.seed) for cell in cells] == [
        ("sre2l", "sre2l", 0),
        ("guard", "guard", 0),
        ("sre2l", "sre2l", 1),
        ("guard", "guard", 1),
        ("guard", "sre2l", 0),
        ("sre2l", "guard", 0),
        ("guard", "sre2l", 1),
        ("sre2l", "guard", 1),
    ]
    words = plan.command_of(cells[4], "cpu", root="data/raw", output="runs")
    assert (
        "-p" not in words
        and "-C" not in words
        and words[words.index("-y") + 1] == "guard-0"
        and words[words.index("-Y") + 1] == "plain-0"
    )
    assert cells[4].name == "digits-ipc10-images-guard-labels-sre2l-seed0"


def test_the_command_of_a_record_is_the_same_on_every_machine():
    cell = plan.cells_of("other-methods", "cpu", images_per_class=(1,), arms=("cda+guard",))[0]
    here, there = (
        plan.command_of(cell, "cpu", root=root, output=output, device=device)
        for root, output, device in (("data/raw", "runs", None), ("/data", "/out", "cpu"))
    )
    assert here != there and reproduce.shown(here) == reproduce.shown(there)
    assert " -A -C " in reproduce.shown(here) and "-r" not in shlex.split(reproduce.shown(here))


def meaning(words):
    """(stage or '', flag) -> value of a run.sh command without its experiment id; the last of a flag
    counts.
    """
    found, stage, flag = {}, "", ""
    for word in words[2:]:
        if word in ("pretrain", "recover", "relabel", "train") and flag != "--teacher-mode":
            stage = word
        elif word.startswith("-"):
            flag = word
            found[stage, flag] = None
        else:
            found[stage, flag] = word
    return frozenset((key, value) for key, value in found.items() if key not in (("", "-x"), ("", "--")))


@pytest.mark.parametrize("scale", plan.SCALES)
def test_a_cell_is_one_run_whichever_table_asks_for_it_and_no_other_cells(scale):
    """Else one table's record would stand in another, and a setting that is called varied would not be."""
    options = argparse.Namespace(scale=scale, protocol=None, images=None, root="data/raw", device=None)
    runs_of, names_of = {}, {}
    for options.table in plan.TABLES:
        for cell in plan.cells_of(options.table, scale):
            run = meaning(reproduce._command(cell, options, "runs"))
            runs_of.setdefault(cell.name, set()).add(run)
            names_of.setdefault(run, set()).add(cell.name)
    assert [name for name, runs in runs_of.items() if len(runs) > 1] == []
    assert [names for names in names_of.values() if len(names) > 1] == []


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["nosuch"], "invalid choice"),
        (["main", "--arms", "guard,nosuch"], "no arm nosuch"),
        (["main", "--dataset", "digits"], "no data set digits"),
        (["main", "--curve", "0,1/0"], "'1/0' is no number"),
        (["main", "--curve", "0.1"], "a curve takes several"),
        (["overhead", "--seeds", "1", "--jobs", "2"], "--seeds, --jobs would do nothing"),
        (["main", "--seeds", "0,x"], "no whole number"),
        (["main", "--images-per-class", "0"], "at least 1"),
        (["main", "--jobs", "0"], "at least 1"),
    ],
)
def test_wrong_flags_are_one_line(flags, expected, refused):
    assert expected in refused("guard.paper.reproduce", *flags)


TINY = plan.Scale("digits", ("-g", "-u", "cpu"))


def test_a_failed_cell_stops_no_other_and_finished_ones_are_skipped(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(plan.SCALES["cpu"], "digits", TINY)
    monkeypatch.setitem(plan.ARMS, "broken", plan.Arm("broken", ("-l", "-1")))
    monkeypatch.setitem(plan.TABLES, "swap", {"digits": ((10,), ("broken", "sre2l"))})
    monkeypatch.setattr(reproduce.Run, "folder", lambda self, cell: self.output / "debug" / cell.name)
    words = [
        "guard.paper.reproduce",
        "swap",
        "--scale",
        "cpu",
        "--output",
        tmp_path / "runs",
        "--results",
        tmp_path / "results",
        "--jobs",
        2,
        "--images",
        1,
        "--curve",
        "0,1/255",
    ]
    assert command(*words) == 2
    printed = capsys.readouterr()
    assert (
        "1 of 4 cells failed" not in printed.err
        and "3 of 4 cells failed" in printed.err
        and "--lambda" in printed.err
        and len(printed.err.strip().splitlines()) == 1
    )
    place = tmp_path / "results/cells/cpu/digits-ipc10-sre2l-seed0"
    record = json.loads(place.with_suffix(".json").read_text())
    assert (
        record["format"] == plan.FORMAT
        and record["record"]["evaluate student"]["complete"]
        and record["command"].startswith("bash run.sh -d digits")
    )
    assert record["curve"]["epsilon"] == pytest.approx([0, 1 / 255]) and record["curve"]["images"] == 10
    with Image.open(place.with_suffix(".png")) as picture:
        assert picture.size == (160, 16)
    assert command(*words, "--arms", "sre2l") == 0
    assert "1 of 1 cells are finished" in capsys.readouterr().out


def test_the_dry_run_prints_commands_with_an_estimate_and_does_nothing(tmp_path, capsys):
    done = reproduce_sh(
        "swap",
        "--scale",
        "cpu",
        "--dataset",
        "digits",
        "--arms",
        "sre2l,guard",
        "-n",
        "--output",
        "runs",
        "--results",
        "results",
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.startswith("bash run.sh -d digits") for line in lines) == 4 and lines[-1].startswith(
        "# 4 of 4 cells to do, about "
    )
    minutes = [float(line.split()[2]) for line in lines if line.startswith("# about")]
    assert (
        len(minutes) == 4 and all(0.1 < each < 60 for each in minutes) and minutes[0] > minutes[2]
    )  # the first makes its teacher
    assert (
        f" -o {tmp_path}/runs/cpu " in lines[0]
    )  # folders are those of the caller, the default ones the project's
    assert not list(tmp_path.iterdir())
    assert command("guard.paper.reproduce", "main", "--dataset", "imagenet", "--root", tmp_path, "-n") == 0
    assert "the data are not there" in capsys.readouterr().out
