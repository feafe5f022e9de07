"""results/reproduce.sh: which runs a table has, what they do, what is skipped, and what a failure does."""

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, command

from guard.bench import estimate, units
from guard.method import regularizers
from guard.paper import arms, commands, plan, records, reproduce, runner
from guard.settings import Pretrain
from recover import sre2l


def reproduce_sh(*words, cwd=ROOT):
    return subprocess.run(
        ["bash", ROOT / "results/reproduce.sh", *map(str, words)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def commands_of_every_run():
    """(run, words of its run.sh): of every arm, of every data set at every scale, and of a swap either way.
    Other runs have the flags of one and of the other.
    """
    seen, found = set(), []
    for table in plan.TABLES:
        for scale in plan.scales_of(table):
            runs = plan.runs_of(table, scale)
            assert len({run.name for run in runs}) == len(runs)
            for run in runs:
                swapped = table, run.images_from == plan.SWAPS.get(table)
                kinds = {("arm", swapped if run.swapped else run.arm), ("scale", scale, run.dataset)}
                if kinds <= seen:
                    continue
                seen |= kinds
                folders = {"root": "data/raw", "output": "runs"}
                found.append((run, commands.command_of(run, scale, **folders, protocol="both", images=5)))
    return found


def test_every_run_is_one_that_run_sh_accepts():
    def printed(words):
        place = words.index("--")
        return subprocess.run(
            [*words[:place], "-n", *words[place:]], cwd=ROOT, capture_output=True, text=True, check=False
        )

    todo = list(commands_of_every_run())
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for (run, _), done in zip(todo, pool.map(printed, [words for _, words in todo]), strict=True):
            assert done.returncode == 0, done.stderr
            lines = done.stdout.splitlines()
            first = "# teacher: " if run.swapped else "python -m pretrain"
            assert len(lines) == 4 and lines[0].startswith(first)
            makers = run.images_from, run.labels_from, run.labels_from
            for line, maker in zip(lines[1:], makers, strict=True):
                assert f"/{arms.ARMS[maker].teacher}-{run.seed}/checkpoint.pt" in line


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
        runs = {(run.dataset, run.images_per_class, run.images_from) for run in plan.runs_of(table, "paper")}
        for dataset, counts in published[table].items():
            if isinstance(counts, dict):
                wanted = {
                    (dataset, int(count), ours[arm])
                    for count, arms in counts.items()
                    for arm in arms
                    if arm in ours
                }
                assert wanted <= runs


def test_a_swap_takes_images_and_labels_from_different_teachers_after_both_are_there():
    runs = plan.runs_of("swap", "cpu", datasets=("digits",), arms=("sre2l", "guard"), seeds=(0, 1))
    assert [(run.images_from, run.labels_from, run.seed) for run in runs] == [
        ("sre2l", "sre2l", 0),
        ("guard", "guard", 0),
        ("sre2l", "sre2l", 1),
        ("guard", "guard", 1),
        ("guard", "sre2l", 0),
        ("sre2l", "guard", 0),
        ("guard", "sre2l", 1),
        ("sre2l", "guard", 1),
    ]
    words = commands.command_of(runs[4], "cpu", root="data/raw", output="runs")
    assert (
        "-p" not in words
        and "-C" not in words
        and words[words.index("-y") + 1] == "guard-0"
        and words[words.index("-Y") + 1] == "plain-0"
    )
    assert runs[4].name == "digits-ipc10-images-guard-labels-sre2l-seed0"


def test_the_command_of_a_record_is_the_same_on_every_machine():
    run = plan.runs_of("other-methods", "cpu", images_per_class=(1,), arms=("cda+guard",))[0]
    here, there = (
        commands.command_of(run, "cpu", root=root, output=output, device=device)
        for root, output, device in (("data/raw", "runs", None), ("/data", "/out", "cpu"))
    )
    assert here != there and commands.shown(here) == commands.shown(there)
    assert " -A -C " in commands.shown(here) and "-r" not in shlex.split(commands.shown(here))


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
def test_a_name_is_one_run_whichever_table_asks_for_it_and_no_other_runs(scale):
    """Else one table's record would stand in another, and a setting that is called varied would not be."""
    options = argparse.Namespace(
        protocol=None, images=None, root="data/raw", device=None, output=Path("runs")
    )
    runs_of, names_of = {}, {}
    for table in plan.TABLES:
        for run in plan.runs_of(table, scale) if scale in plan.scales_of(table) else ():
            what = meaning(reproduce.command(run, table, scale, options))
            runs_of.setdefault(run.name, set()).add(what)
            names_of.setdefault(what, set()).add(run.name)
    assert [name for name, runs in runs_of.items() if len(runs) > 1] == []
    assert [names for names in names_of.values() if len(names) > 1] == []


def test_a_command_is_the_same_where_it_asks_for_the_same():
    line = "bash run.sh -d digits -r data/raw -o runs -p -C -l 3 -- pretrain --epochs 3 train --images 9"
    words = shlex.split(line)
    assert commands.same(commands.shown(words), words)
    assert commands.same("bash run.sh -d digits -p -C -l 3 -- train --images 9 pretrain --epochs 3", words)
    later = "bash run.sh -d digits -p -C -l 3 -- pretrain --epochs 3 train --images 1 train --images 9"
    assert commands.same(later, words)  # of a flag that is given twice the last counts
    for other in (
        "bash run.sh -d digits -p -C -l 4 -- pretrain --epochs 3 train --images 9",
        "bash run.sh -d digits -C -l 3 -- pretrain --epochs 3 train --images 9",
        "bash run.sh -d digits -p -C -l 3 -- pretrain --epochs 3 train --images 9 train --images 1",
        "bash run.sh -d digits -p -C -l 3 -- relabel --epochs 3 train --images 9",
        "bash run.sh -d digits -p -C -l 3 -- relabel --teacher-mode train --epochs 3 train --images 9",
    ):
        assert not commands.same(other, words), other
    # Flags without a value stand before the name of the next stage.
    line = "bash run.sh -p -- pretrain --precision bf16 --channels-last relabel --precision bf16 --epochs 3"
    for changed in (("bf16 --channels-last", "fp32 --channels-last"), ("bf16 --epochs", "fp32 --epochs")):
        assert not commands.same(line.replace(*changed), shlex.split(line)), changed
    assert commands.same(line, shlex.split(line))
    line = "bash run.sh -p -- relabel --teacher-mode train train --images 9"
    assert commands.meaning(shlex.split(line))["train", "--images"] == "9"


@pytest.mark.parametrize("dataset", ["imagenette", "cifar10"])
def test_runs_at_cpu_size_attack_enough_images_for_two_points(dataset):
    classes = len(plan.SCALES["cpu"][dataset].classes.split(",")) if dataset == "imagenette" else 10
    held = [table for table in plan.TABLES if dataset in plan.TABLES[table] and table != "swap"]
    for table in (table for table in held if "cpu" in plan.scales_of(table)):
        run = plan.runs_of(table, "cpu", datasets=(dataset,))[0]
        words = commands.command_of(run, "cpu", root="data/raw", output="runs")
        images = classes * int(commands.last(words, "--images"))
        assert images >= plan.ENOUGH and 50 / images**0.5 <= 2


def test_the_recorded_runs_of_swap_and_variations_are_finished():
    """Their attacks did not change, so nobody need do them again; asked for on other images one is not."""
    held = {run.name: run for run in records.read(ROOT / "results") if run.scale == "cpu"}
    own = runner.Runner("swap", "cpu", ROOT / "results", Path("runs"), 1, recorded=held)
    options = argparse.Namespace(
        protocol=None, images=None, root="data/raw", device=None, output=Path("runs")
    )
    for table in ("swap", "variations"):
        for run in plan.runs_of(
            table, "cpu", datasets=("cifar10", "digits") if table == "swap" else ("cifar10",)
        ):
            assert own.finished(run, reproduce.command(run, table, "cpu", options))
    run = plan.runs_of("other-methods", "cpu")[0]
    words = reproduce.command(run, "other-methods", "cpu", options)
    assert own.finished(run, words) and not own.finished(run, [*words, "train", "--images", "64"])


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
        (["digits", "--scale", "paper"], "table digits has no runs at scale paper; it has at recipe"),
        (["overhead", "--scale", "recipe"], "at --scale paper or cpu"),
        (["overhead", "--scale", "full-cpu"], "at --scale paper or cpu"),
        (["digits", "-n", "--keep-estimate", "--arms", "guard"], "as planned; leave --arms out"),
        (["digits", "-n", "--keep-estimate", "--seeds", "0,1"], "as planned; leave --seeds out"),
        (["variations", "--scale", "cpu", "--dataset", "cifar10", "--arms", "guard-lambda-1"], "has no arm"),
        (["main", "--keep-estimate"], "add -n"),
    ],
)
def test_wrong_flags_are_one_line(flags, expected, refused):
    assert expected in refused("guard.paper.reproduce", *flags)


TINY = plan.Setting("digits", "-g -u cpu")


def test_a_failed_run_stops_no_other_and_finished_ones_are_skipped(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(plan.SCALES["cpu"], "digits", TINY)
    monkeypatch.setitem(arms.ARMS, "broken", arms.Arm("broken", "-l -1"))
    monkeypatch.setitem(plan.TABLES, "swap", {"digits": ((10,), ("broken", "sre2l"))})
    monkeypatch.setattr(runner.Runner, "folder", lambda self, run: self.output / "debug" / run.name)
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
        "--seeds",
        1,
        "--curve",
        "0,1/255",
    ]
    assert command(*words) == 2
    printed = capsys.readouterr()
    assert (
        "1 of 4 runs failed" not in printed.err
        and "3 of 4 runs failed" in printed.err
        and "--lambda" in printed.err
        and len(printed.err.strip().splitlines()) == 1
    )
    place = tmp_path / "results" / "cpu" / "swap.jsonl"
    assert [path for path in (tmp_path / "results").rglob("*") if path.is_file()] == [place]
    (line,) = place.read_text().splitlines()
    record = json.loads(line)
    assert (
        record["format"] == records.FORMAT
        and record["record"]["evaluate student"]["complete"]
        and record["command"].startswith("bash run.sh -d digits")
    )
    assert record["curve"]["epsilon"] == pytest.approx([0, 1 / 255]) and record["curve"]["images"] == 10
    assert record["curve"]["seed"] == record["record"]["evaluate student"]["seed"] == 1
    (run,) = records.read(tmp_path / "results")
    assert run.name == "digits-ipc10-sre2l-seed1"
    assert command(*words, "--arms", "sre2l") == 0
    assert "1 of 1 runs are finished" in capsys.readouterr().out


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
        "# 4 of 4 runs to do, about "
    )
    minutes = [float(line.split()[2]) for line in lines if line.startswith("# about")]
    assert len(minutes) == 4 and all(0.1 < each < 600 for each in minutes)  # beside other work, too
    assert (
        lines[0] == f"# in {ROOT}" and f" -o {tmp_path}/runs/cpu " in lines[1]
    )  # folders are those of the caller, the default ones the project's
    assert not list(tmp_path.iterdir())
    of_a_part = ["--scale", "cpu", "--dataset", "imagenette", "--root", tmp_path, "-n"]
    assert command("guard.paper.reproduce", "main", *of_a_part) == 0
    printed = capsys.readouterr().out
    assert "the data are not there" in printed
    unknown = printed.count("# no estimate")
    assert f"runs to do, no estimate of {unknown}; get the data first" in printed.splitlines()[-1]


def know_the_seconds(monkeypatch, pieces):
    """Has the estimate take these seconds of its pieces, instead of this machine's."""
    monkeypatch.setattr(units, "about", lambda steps, _: {name: pieces[name] for name in steps})
    for name in ("_teacher", "_recovery", "_condensation", "_rest"):
        monkeypatch.setattr(estimate, name, getattr(estimate, name).__wrapped__)


def test_an_estimate_counts_a_teacher_and_its_attacks_once_and_every_image_of_every_epoch(monkeypatch):
    pieces = {"steps": 0.5, "recover": 8.0, "relabel": 2.0, "student": 3.0, "forward": 0.2, "both": 0.7}
    know_the_seconds(monkeypatch, pieces)
    words = "bash run.sh -d digits -x 1 -y 1 -p -c 2 -i 30 -z 40 -- pretrain --epochs 7 train --attacks fgsm"
    teachers = set()
    first, second = (estimate.seconds_of(words.split(), teachers) for _ in range(2))
    assert teachers == {("digits", "convnet-32", "1"), ("digits", "convnet-32", "1", "evaluated")}
    epochs, batches = 7, 1442 / 64
    # the attack was timed on 100 images, however few are distilled, and meets 10 images of each class
    attacked = 0.5 * 100 * pieces["both"] / 100
    assert first - second == pytest.approx(epochs * batches * pieces["steps"] + attacked)
    # these pieces were timed on 20 images, 2 of each class
    distilled = 30 * pieces["recover"] + 40 * (pieces["relabel"] + pieces["student"])
    starts = 4 * 4.0
    assert second == pytest.approx(starts + distilled + attacked)


def test_an_estimate_of_a_regularizer_at_some_steps_only_is_of_all_steps_alike(monkeypatch):
    timed = []

    def about(steps, _):
        timed.extend(steps.values())
        return {name: 8.0 for name in steps}

    monkeypatch.setattr(units, "about", about)
    settings = Pretrain(model="convnet-32", image_size=16, batch_size=2, curvature=True, curvature_every=4)
    assert estimate._teacher.__wrapped__(settings, "digits", 10, torch.device("cpu")) == 8.0 / 4
    done = []
    monkeypatch.setattr(regularizers, "penalty", lambda *_: done.append(1) or 0.0)
    timed[0]()
    assert len(done) == 1


def test_an_estimate_counts_labels_once_where_they_are_gone_through_again(monkeypatch):
    pieces = {"steps": 0.5, "recover": 8.0, "relabel": 2.0, "student": 3.0, "forward": 0.0, "both": 0.0}
    know_the_seconds(monkeypatch, pieces)
    words = "bash run.sh -d digits -x 1 -y 1 -c 2 -i 30 -z 40 -- train --attacks fgsm"
    once = estimate.seconds_of(words.split(), set())
    again = estimate.seconds_of([*words.split(), "--epochs", "100", "--reuse-labels"], set())
    assert again - once == pytest.approx(60 * pieces["student"])


def test_an_estimate_of_dc_counts_steps_and_epochs_on_every_network(monkeypatch):
    words = "bash run.sh -d digits -x 1 -y 1 -m convnet-in -e convnet-in -c 2 -I dc -i 30 -z 40 -- train"
    words += " --attacks fgsm recover --matchings 3 --network-epochs 5"
    alone = {"relabel": 0.0, "student": 0.0, "forward": 0.0, "both": 0.0}
    know_the_seconds(monkeypatch, alone | {"one step": 2.0, "two steps and an epoch": 4.7})
    of_two_classes = 3 * 2.0 + 2 * 5 * 0.7
    assert estimate.seconds_of(words.split(), set()) == pytest.approx(4 * 4.0 + 30 * of_two_classes * 10 / 2)


def test_an_estimate_counts_the_parts_of_a_sequence_of_attacks_once(monkeypatch):
    """AutoAttack is APGD, FAB and Square; where some of these are listed too, it does not run them again."""
    pieces = {"recover": 0.0, "relabel": 0.0, "student": 0.0, "forward": 0.01, "both": 0.03}
    know_the_seconds(monkeypatch, pieces)
    words = "bash run.sh -d digits -x 1 -y 1 -c 2 -- train --attacks"
    of_two_networks = 2 * 0.5 * 100 / 100  # of which half of the 100 images stand
    expected = 4 * 4.0 + of_two_networks * (5000 * 0.01 + (100 + 900 + 1800) * 0.03)
    for names in ("autoattack", "square,apgd-ce,apgd-dlr,autoattack"):
        assert estimate.seconds_of([*words.split(), names], set()) == pytest.approx(expected)


def test_an_estimate_does_not_repeat_what_takes_long(monkeypatch):
    """Nor does the first call count, in which things are set up."""
    clock, called = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def step(name, first, later):
        clock[0] += later if name in called else first
        called.append(name)

    steps = {"long": lambda: step("long", 9.0, 5.0), "short": lambda: step("short", 1.0, 0.5)}
    assert units.about(steps, torch.device("cpu")) == {"long": 5.0, "short": 0.5}
    assert called.count("long") == 2 and called.count("short") > 2


def test_an_estimate_counts_the_attacks_on_a_teacher_of_labels_once(monkeypatch):
    """Also where earlier calls trained the teachers and only runs with the labels of another are left."""
    pieces = {"recover": 0.0, "relabel": 0.0, "student": 0.0, "forward": 0.0, "both": 8.0}
    know_the_seconds(monkeypatch, pieces)
    teachers, words = set(), "bash run.sh -d digits -x 1 -y {} -Y {} -c 2 -- train --attacks fgsm"
    networks = [
        (estimate.seconds_of(words.format(*pair).split(), teachers) - 4 * 4.0) / (0.5 * 8.0)
        for pair in (("plain", "guard"), ("other", "guard"), ("guard", "plain"))
    ]
    assert networks == pytest.approx([2, 1, 2])


def test_an_estimate_times_each_stage_in_its_own_layout_and_attacks_as_they_are_done(monkeypatch):
    """In another layout a step may take more than twice as long."""
    made, attacked, build = [], [], units.network

    def network(*given, **layout):
        made.append((layout.get("channels_last", False), layout.get("compile", False)))
        return build(*given, **layout)

    pieces = {"recover": 8.0, "relabel": 2.0, "student": 3.0, "forward": 0.0, "both": 0.0}
    know_the_seconds(monkeypatch, pieces)
    monkeypatch.setattr(units, "network", network)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: None)
    monkeypatch.setattr(estimate, "prepared", lambda model, pixels: attacked.append(model) or model)
    words = "bash run.sh -d digits -x 1 -y 1 -c 2 -i 30 -z 40 -- recover --channels-last"
    words += " relabel --channels-last --compile train --attacks fgsm"
    estimate.seconds_of(words.split(), set())
    labelling, to_attack, student, recovering = made
    assert recovering == (True, False) and labelling == (True, True) and len(attacked) == 1
    assert to_attack == student == (False, False)


@pytest.mark.parametrize("table", ["methods", "methods-dc-1", "methods-dc-10", "methods-resnet18"])
def test_every_arm_of_the_paper_has_an_estimate_though_no_data_are_there(table, tmp_path, monkeypatch):
    """The pieces are made at their true sizes, as they would be timed, and not run."""
    monkeypatch.setattr(units, "about", lambda steps, _: dict.fromkeys(steps, 1.0))
    of_arms = {run.arm: run for run in plan.runs_of(table, "full-cpu")}  # other sizes change one number
    for run in of_arms.values():
        words = commands.command_of(run, "full-cpu", root=tmp_path, output="runs")
        assert estimate.seconds_of(words, set()) > 0


def test_an_estimate_times_no_more_images_than_it_says_however_many_classes_there_are(tmp_path, monkeypatch):
    monkeypatch.setitem(estimate.SIZES, "cifar100", estimate.Size(5_000, 1_000, 1_000))
    pieces = {"steps": 0.0, "recover": 8.0, "relabel": 2.0, "student": 3.0, "forward": 0.0, "both": 0.0}
    know_the_seconds(monkeypatch, pieces)
    drawn, recovered, draw = [], [], units.random_images

    def about(steps, _):
        if "recover" in steps:
            steps["recover"]()
        return {name: pieces[name] for name in steps}

    def random_images(count, *given):
        drawn.append(count)
        return draw(count, *given)

    monkeypatch.setattr(units, "about", about)
    monkeypatch.setattr(units, "random_images", random_images)
    monkeypatch.setattr(sre2l, "recover_pack", lambda settings, model, pack, *_: recovered.extend(pack))
    words = f"bash run.sh -d cifar100 -r {tmp_path} -m convnet-32 -e convnet-32 -x 1 -y 1 -c 3 -i 20 -z 7"
    seconds = estimate.seconds_of([*words.split(), "--", "train", "--attacks", "fgsm"], set())
    assert set(drawn) == {estimate.MOST} and sum(len(problem.classes) for problem in recovered) == 100
    each = (20 * pieces["recover"] + 7 * (pieces["relabel"] + pieces["student"])) / 100
    assert seconds == pytest.approx(4 * 4.0 + 3_000 * each)


def test_an_estimate_is_kept_where_it_is_asked_for(tmp_path, capsys):
    words = ["digits", "--results", tmp_path, "-n"]
    assert command("guard.paper.reproduce", *words) == 0 and not list(tmp_path.iterdir())
    assert command("guard.paper.reproduce", *words, "--keep-estimate") == 0
    (entry,) = json.loads((tmp_path / "estimates.json").read_text())["estimates"].items()
    total = float(capsys.readouterr().out.splitlines()[-1].split()[-2])
    assert entry[0] == "recipe/digits" and entry[1]["device"]
    assert entry[1]["minutes"] == pytest.approx(total, abs=1)
    data = ["main", "--scale", "cpu", "--root", tmp_path, "--results", tmp_path, "-n"]
    assert command("guard.paper.reproduce", *data, "--keep-estimate") == 2
    assert "no estimate of all runs" in capsys.readouterr().err


def test_where_nothing_is_left_to_do_there_is_no_estimate_to_keep_and_no_error(tmp_path, monkeypatch, capsys):
    shutil.copytree(ROOT / "results" / "recipe", tmp_path / "recipe")
    monkeypatch.setitem(plan.TABLES, "digits", {"digits": ((10,), ("sre2l", "guard"))})
    words = ["digits", "--results", tmp_path, "-n", "--keep-estimate"]
    assert command("guard.paper.reproduce", *words) == 0
    assert "# 0 of 2 runs to do" in capsys.readouterr().out and not (tmp_path / "estimates.json").exists()


@pytest.mark.parametrize(("given", "jobs", "threads"), [("1", 1, 1), ("", 2, 3), ("none", 4, 1), ("0", 1, 6)])
def test_runs_share_the_cores_unless_the_caller_says_how_many_threads(given, jobs, threads, monkeypatch):
    """Two calls beside each other, each with a thread for every core, take many times as long."""
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert reproduce._threads(jobs) == threads


# ---- the runner ----------------------------------------------------------------------------------


def a_run(seed=0):
    return plan.runs_of("digits", "recipe", arms=("guard",), seeds=(seed,))[0]


@pytest.fixture
def driver(tmp_path, monkeypatch):
    """Runs whose run.sh and curve are shell words, of which nothing is recorded."""
    monkeypatch.setattr(runner.Runner, "_record", lambda self, run, words, with_curve: None)
    return runner.Runner("digits", "recipe", tmp_path / "results", tmp_path / "runs", 1)


@pytest.mark.parametrize(
    ("asked", "finished"),
    [
        ("0,1/255,2/255", True),
        ("2/255,0", True),
        ("0,0,1/255", True),
        ("0,1.5/255", True),
        ("0,4/255", False),
        (None, True),
    ],
)
def test_a_curve_that_holds_what_is_asked_for_is_not_drawn_again(asked, finished, tmp_path):
    words = ["bash", "run.sh", "-d", "digits"]
    at = [0.0, 1 / 255, 1.5 / 255, 2 / 255]
    found = SimpleNamespace(command="bash run.sh -d digits", curve={"epsilon": at})
    recorded = {a_run().name: found}
    own = runner.Runner("digits", "recipe", tmp_path, tmp_path, 1, curve=asked, recorded=recorded)
    assert own.finished(a_run(), words) == finished


def test_a_further_curve_keeps_the_epsilons_of_the_one_before(tmp_path):
    run = a_run()
    words = commands.command_of(run, "recipe", root="data", output="runs", images=7)
    found = SimpleNamespace(command=commands.shown(words), curve={"epsilon": [0.0, 2 / 255]})
    own = runner.Runner(
        "digits", "recipe", tmp_path, tmp_path, 1, curve="0,4/255", recorded={run.name: found}
    )
    drawn = own._curve_words(run, words, own._epsilons(run))
    assert (
        commands.last(drawn, "--epsilon") == f"0,4/255,{2 / 255}" and commands.last(drawn, "--images") == "7"
    )


def test_a_run_that_is_done_otherwise_than_recorded_has_the_epsilons_of_the_recorded_curve(
    driver, monkeypatch
):
    """Its record takes the place of that, and tables have columns of these epsilons."""
    run, called, kept = a_run(), [], []
    monkeypatch.setattr(runner.Runner, "_call", lambda self, words, file: called.append(words) or 0)
    monkeypatch.setattr(
        runner.Runner, "_record", lambda self, run, words, with_curve: kept.append(with_curve)
    )
    words = commands.command_of(run, "recipe", root="data", output="runs")
    driver.recorded[run.name] = SimpleNamespace(
        command=commands.shown(words) + " -- train --attacks pgd20", curve={"epsilon": [0.0, 2 / 255]}
    )
    assert not driver.finished(run, words) and driver.do(run, words) is None
    assert called[0] == words and commands.last(called[1], "--epsilon") == f"0.0,{2 / 255}" and kept == [True]
    driver.recorded.clear()
    driver.do(run, words)
    assert called[2:] == [words] and kept == [True, False]


def test_seeds_and_sizes_that_are_given_twice_are_one_run():
    runs = plan.runs_of("main", "paper", arms=("guard",), seeds=(5, 5), images_per_class=(10, 10))
    assert len({run.name for run in runs}) == len(runs) == 3  # of three data sets


def test_a_run_whose_log_cannot_be_written_stops_no_other(driver, capsys):
    (driver.output / "logs" / f"{a_run().name}.log").mkdir(parents=True)
    failed = runner.do_all([(a_run(seed), ["true"]) for seed in (0, 1)], driver, 1)
    assert list(failed) == [a_run()] and failed[a_run()].startswith("error: ")
    assert "2/2" in capsys.readouterr().out


def test_a_log_of_any_bytes_is_read(driver):
    assert "status 3" in driver.do(a_run(), ["bash", "-c", r"printf 'error: \xff' && exit 3"])


def test_what_another_call_writes_into_a_log_stays_and_is_no_complaint_of_this_one(driver):
    assert "error: first" in driver.do(a_run(), ["bash", "-c", "echo error: first; exit 2"])
    assert driver.do(a_run(), ["bash", "-c", "echo second; exit 2"]).startswith("second")
    log = driver.output / "logs" / f"{a_run().name}.log"
    assert log.read_text().splitlines() == ["error: first", "second"]


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_that_ends_the_driver_ends_all_that_its_runs_have_started(ending, tmp_path):
    """A stage is a child of run.sh, which is one of the driver."""
    program = """
from pathlib import Path
import signal
from guard.paper import plan, runner
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup has its children ignore
own = runner.Runner("digits", "recipe", Path("results"), Path("runs"), 1)
run = plan.runs_of("digits", "recipe")[0]
runner.do_all([(run, ["bash", "-c", "sleep 300 & echo $! > child; wait"])], own, 1)
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    driver = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, env=environment)
    child = tmp_path / "child"
    try:
        wait_until(lambda: child.exists() and child.read_text().strip())
        driver.send_signal(ending)
        assert driver.wait(30) != 0
        wait_until(lambda: not alive(int(child.read_text())))
    finally:
        driver.kill()
        with contextlib.suppress(OSError, ValueError):
            os.kill(int(child.read_text()), signal.SIGKILL)


def wait_until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def alive(process):
    """Whether a process runs; one that nobody has asked for its status since it ended does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_folder_of_records_that_cannot_be_written_is_named_before_the_runs(tmp_path, refused):
    (tmp_path / "file").write_text("")
    words = ["digits", "--arms", "guard", "--output", tmp_path / "runs", "--results", tmp_path / "file"]
    assert "--results" in refused("guard.paper.reproduce", *words) and not (tmp_path / "runs").exists()


@pytest.mark.parametrize("flags", [["--protocol", "quick"], ["--images", 5]])
def test_other_attacks_come_in_place_of_no_record(flags, tmp_path, refused):
    words = ["digits", "--arms", "guard", "--seeds", 0, "--output", tmp_path, *flags]
    told = refused("guard.paper.reproduce", *words)
    assert "digits.jsonl, line" in told and "--results" in told and not list(tmp_path.iterdir())


def test_a_table_does_not_take_the_place_of_what_another_attacked_as_planned(tmp_path, refused):
    """Its runs of this size are swap's, too, which are attacked on more images."""
    words = ["regularizers", "--scale", "cpu", "--dataset", "cifar10", "--images-per-class", 10]
    told = refused("guard.paper.reproduce", *words, "--output", tmp_path)
    assert "swap.jsonl, line" in told and "with other attacks" in told and not list(tmp_path.iterdir())


def test_a_teacher_that_no_run_trains_is_missed_before_the_first(tmp_path, refused):
    words = ["swap", "--scale", "cpu", "--dataset", "digits", "--arms", "guard", "--results", tmp_path / "r"]
    told = refused("guard.paper.reproduce", *words, "--output", tmp_path / "runs")
    assert "needs the teacher" in told and "plain-0/checkpoint.pt" in told and "--arms" in told
    assert not (tmp_path / "runs").exists()


def test_the_callers_own_modules_are_none_of_ours(tmp_path):
    for name in ("train.py", "recover.py", "guard.py"):
        (tmp_path / name).write_text("raise SystemExit(7)")
    done = reproduce_sh("digits", "--arms", "guard", "--seeds", 0, cwd=tmp_path)
    assert done.returncode == 0 and "1 of 1 runs are finished" in done.stdout, done.stderr
    done = reproduce_sh("judge", "--distilled", "nowhere", "-d", "digits", "--output", "o", cwd=tmp_path)
    assert done.returncode == 2 and "there is nothing at" in done.stderr
    (tmp_path / "linked.sh").symlink_to(ROOT / "results/reproduce.sh")
    words = ["bash", "linked.sh", "--help"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and done.stdout.startswith("usage: ")
