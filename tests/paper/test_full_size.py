"""The tables and figures of the runs on all of CIFAR-10."""

import json
from types import SimpleNamespace

import numpy
import pytest
from recorded import RESULTS, add, contents, empty, gathered, run, text_of

from guard.distilled import label_format
from guard.distilled.soft_labels import LabelRecipe, draw_epoch
from guard.paper import (
    arms,
    commands,
    environment,
    figures,
    full_size,
    full_size_drawing,
    not_run,
    plan,
    records,
    settings,
    stored,
)
from guard.registry import STUDENT_LOSSES, StudentLoss
from guard.settings import Pretrain, Relabel, as_dict


@pytest.fixture
def results(tmp_path):
    return empty(tmp_path)


def whole(attacks, *, epsilon=1 / 255, loss="kl", **relabel):
    """A record with the settings that bytes are counted from: 20 images of 10 classes."""
    record = run(attacks, epsilon=epsilon)
    record["recover"] |= {"images": 20}
    record["recover"]["settings"]["images_per_class"] = 2
    record["relabel"]["settings"] = vars(Relabel(epochs=3, batch_size=4, **relabel)) | {"seed": 0}
    record["train"]["settings"] |= {"loss": loss}
    return record


@pytest.mark.parametrize(
    "relabel", [{}, {"label_format": "int8"}, {"top_classes": 2}, {"label_format": "int8", "top_classes": 2}]
)
def test_label_bytes_are_those_of_the_arrays_that_are_stored(relabel):
    record = whole({"clean": 50.0}, **relabel)
    recipe, found = LabelRecipe(**record["relabel"]["settings"]), 0
    for epoch in range(1, 4):
        rows = draw_epoch(recipe, 20, 32, 10, epoch)
        rows["logits"] = numpy.random.default_rng(0).normal(size=(20, 10))
        found += len(label_format.packed(rows, recipe, 32).tobytes())
    assert stored.label_bytes(record) == found
    assert stored.image_bytes(record) == 20 * 3 * 32 * 32
    hard = whole({}, loss="cross-entropy", **relabel)
    assert stored.label_bytes(hard) == 20
    hard["train"]["settings"] |= {"adversarial_share": 1.0, "views_against": "teacher"}
    assert stored.label_bytes(hard) == found  # whose gradients the labels have
    record["relabel"]["settings"]["of a later version"] = True
    assert stored.label_bytes(record) == found


@pytest.mark.parametrize("label_format, beside", [("fp16", 105), ("int8", 37)])
def test_hard_labels_stand_beside_as_many_real_images_as_fit_in_the_same_bytes(label_format, beside):
    """Of 10 images per class with labels of 600 epochs; one more of each class does not fit."""
    arm = arms.ARMS[f"labels-hard-of-{beside}-real"]
    per_class, epochs = (int(commands.last(arm.flags.split(), flag)) for flag in ("-c", "-z"))
    record = whole({}, label_format=label_format)
    record["recover"] |= {"images": 100}
    record["recover"]["settings"]["images_per_class"] = 10
    record["relabel"]["settings"]["epochs"] = 600
    budget = stored.label_bytes(record) + stored.image_bytes(record)
    assert 10 * per_class * 3073 <= budget < 10 * (per_class + 1) * 3073
    steps = epochs * -(-10 * per_class // 50)  # in mini-batches of 50, recipe modern's
    assert steps == pytest.approx(600 * 2, rel=0.01)
    assert arms.ARMS[f"labels-hard-of-{beside}-real/adversarial"].flags == arm.flags


def test_what_is_said_of_all_of_cifar10_is_what_its_records_say(results):
    """Of a copy of the data that data.json knows as JPEG, attacked on as many images as they tell."""
    (jpeg,) = (known for known, copy in environment.copies(results).items() if copy == "CIFAR-10, JPEG copy")
    for seed, (data, said) in enumerate([(jpeg, True), ("f" * 64, False)]):
        record = run({"clean": 50.0, "pgd100": 40.0}, seed=seed)
        record["pretrain"]["settings"]["data"] = data
        add(results, record, scale="full-cpu", arm="random/plain", seed=seed, table="frontier")
        text = " ".join(text_of(results).split())
        assert ("All come from a JPEG copy of the data set." in text) == said
        assert "PGD is PGD100 on 100 test images" in text


def test_robust_accuracy_is_taken_at_its_epsilon_or_not_at_all(results):
    """Within 2/255 from the evaluation where that was its epsilon, from the curve otherwise."""
    curve = {"attack": "pgd100", "epsilon": [0.0, 1 / 255, 2 / 255], "accuracy": [60.0, 51.0, 42.0]}
    attacks = {"clean": 60.0, "pgd100": 50.0}
    add(results, whole(attacks), scale="full-cpu", arm="random/plain", curve=curve)
    add(results, whole(attacks, epsilon=2 / 255), scale="full-cpu", arm="random/nfgsm")
    add(results, whole(attacks), scale="full-cpu", arm="random/gr")
    found = {group.arm: group for group in gathered(results)}
    within = {arm: [full_size.robust(group, each / 255) for each in (1, 2)] for arm, group in found.items()}
    means = {arm: [each and each[0] for each in pair] for arm, pair in within.items()}
    assert means == {"random/plain": [50.0, 42.0], "random/nfgsm": [None, 50.0], "random/gr": [50.0, None]}
    # A curve of some seeds only is not of the runs that the row counts.
    add(results, whole(attacks), scale="full-cpu", arm="random/plain", seed=1)
    found = {group.arm: group for group in gathered(results)}
    assert len(found["random/plain"].runs) == 2 and full_size.robust(found["random/plain"], 2 / 255) is None


def test_the_tables_tell_images_teacher_views_and_bytes_beside_the_published_points(results):
    curve = {"attack": "pgd100", "epsilon": [2 / 255], "accuracy": [42.0], "images": 100}
    attacks = {"clean": 60.0, "pgd100": 50.0}
    for arm in ("rded/nfgsm", arms.BEST, "labels-int8"):
        record = whole(attacks)
        record["train"]["settings"]["adversarial_share"] = 0.0 if arm == "rded/nfgsm" else 1.0
        record["train"]["settings"]["view_epsilon"] = 2 / 255
        add(results, record, scale="full-cpu", arm=arm, curve=curve)
    add(results, whole({"clean": 70.0, "pgd100": 55.0}), scale="full-cpu", arm="goal-epochs-3000")
    text = text_of(results)
    cells = "- | 60.00 ± 4.90 | 50.00 ± 5.00 | 42.00 ± 4.94"
    for views in ("views", "adversarial views"):
        assert f"| rded | nfgsm | {views} | 1 | {cells} |" in text
    assert "| published: ROME, second-hand | - | - | - | 47.9 | - | - | 24.0 | - | - | - | - | - |" in text
    student = "views | 67 / 52 | 1 | - | 70.00 ± 4.58 | 55.00 ± 4.97 | - | - | - | "
    assert f"| 10 | goal-epochs-3000 | {student}" in text
    row = "| 10 | published: C2R, ICML 2026, in two other papers | perhaps adversarial | - | - | 48.3 |"
    assert f"{row} - | 28.5 to 29.1 |" in text
    planned = figures.planned(gathered(results))
    assert set(planned) == {"frontier-full-cpu-cifar10.png", "label-bytes-full-cpu-cifar10.png"}


def test_clean_accuracy_on_all_test_images_stands_beside_that_on_those_attacked(results, monkeypatch):
    """64 and 62 of 10,000 against 60 and 52 of 100; the figure and the changes take the former."""
    from guard.report import plots

    curve = {"attack": "pgd100", "epsilon": [2 / 255], "accuracy": [42.0], "images": 100}
    for arm, clean, on_all in ((arms.BEST, 60.0, 64.0), ("student-zeta-2", 52.0, 62.0)):
        record = whole({"clean": clean, "pgd100": 50.0})
        record["train"] |= {"results": {"val accuracy": on_all}}
        record["train"]["settings"] |= {
            "dataset": "cifar10",
            "adversarial_share": 1.0,
            "view_epsilon": 2 / 255,
        }
        record["pretrain"]["results"]["val accuracy"] = 90.0
        add(results, record, scale="full-cpu", arm=arm, curve=curve)
    text = text_of(results)
    student = "64.00 ± 0.48 | 60.00 ± 4.90 | 50.00 ± 5.00 | 42.00 ± 4.94"
    teacher = "90.00 ± 0.30 | 80.00 ± 4.00"
    assert f"| rded | nfgsm | adversarial views | 1 | {student} | 4 epochs, cosine | {teacher} |" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| student-zeta-2 |")]
    assert row.endswith("| -2.00 ± 0.68 | +0.00 ± 7.07 | +0.00 ± 6.98 | 1 | 3 kB |")
    drawn = SimpleNamespace()
    monkeypatch.setattr(plots, "save", lambda figure, path: setattr(drawn, path.stem, figure))
    figures.write(gathered(results), results / "figures")
    first, _ = getattr(drawn, "frontier-full-cpu-cifar10").axes
    assert [64.0, 50.0] in [
        line.get_xydata()[0].tolist() for line in first.get_lines() if len(line.get_xydata())
    ]


def test_the_frontier_shows_every_arm_and_every_published_point(results, monkeypatch):
    from guard.paper import published
    from guard.report import plots

    curve = {"attack": "pgd100", "epsilon": [2 / 255], "accuracy": [42.0], "images": 100}
    for number, arm in enumerate(arms.FRONTIER):
        record = whole({"clean": 40.0 + number, "pgd100": 30.0 + number})
        add(results, record, scale="full-cpu", arm=arm, curve=curve)
    drawn = SimpleNamespace()
    monkeypatch.setattr(plots, "save", lambda figure, path: setattr(drawn, path.stem, figure))
    figures.write(gathered(results), results / "figures", published.read(RESULTS)["frontier"])
    first, second = getattr(drawn, "frontier-full-cpu-cifar10").axes
    points = {
        tuple(line.get_xydata()[0])
        for line in first.get_lines()
        if line.get_marker() in ("o", "s", "^") and len(line.get_xydata())
    }
    assert points == {(40.0 + number, 30.0 + number) for number in range(len(arms.FRONTIER))}
    named = {text.get_text() for axes in (first, second) for text in axes.texts}
    assert named >= {"C2R", "ROME", "SRe2L", "SRe2L + GUARD, ResNet-18", "DATM, clean", "RDED, clean"}


def test_runs_at_another_size_than_planned_have_a_table_of_their_own_and_are_in_no_figure(results):
    curve = {"attack": "pgd100", "epsilon": [2 / 255], "accuracy": [42.0], "images": 100}
    for size, clean in ((10, 60.0), (20, 71.0)):
        record = whole({"clean": clean, "pgd100": 50.0})
        add(results, record, scale="full-cpu", arm="random/plain", size=size, curve=curve)
    text = text_of(results)
    assert "| 20 | random/plain | 1 | 71.00 ± 4.54 |" in text.split("### other runs, all of CIFAR-10")[1]
    (shown,) = full_size_drawing.of_the_frontier(gathered(results), None)
    assert shown.images_per_class == 10


def test_labels_of_other_teachers_than_planned_are_pale_and_named(results, monkeypatch):
    from guard.report import plots

    record = whole({"clean": 60.0, "pgd100": 50.0})
    add(results, record, scale="full-cpu", arm=arms.BEST)
    at = {"scale": "full-cpu", "dataset": "cifar10", "size": 10, "arm": "labels-int8", "seed": 0}
    other = contents(whole({"clean": 40.0, "pgd100": 50.0}), **at)
    other["command"] = other["command"].replace("--epochs 8", "--epochs 16")
    records.add(other, results, "label-bytes")
    rows_here = text_of(results).split("### label-bytes")[1].splitlines()
    assert sum(line.endswith("| 4 epochs, cosine |") for line in rows_here) == 2
    drawn = SimpleNamespace()
    monkeypatch.setattr(plots, "save", lambda figure, path: setattr(drawn, path.stem, figure))
    figures.write(gathered(results), results / "figures")
    figure = getattr(drawn, "label-bytes-full-cpu-cifar10")
    lines = [
        line for line in figure.axes[0].get_lines() if line.get_marker() == "o" and len(line.get_xdata())
    ]
    opacity = {line.get_ydata()[0]: line.get_alpha() for line in lines}
    assert opacity[40.0] == full_size_drawing.PALE < opacity[60.0]
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "pale: other settings than planned" in told


def test_marks_tell_hard_labels_and_adversarial_views_in_the_figure_of_bytes(results, monkeypatch):
    from guard.report import plots

    curve = {"attack": "pgd100", "epsilon": [2 / 255], "accuracy": [20.0], "images": 100}
    shown = {arms.BEST: ("kl", 1.0, "o"), "labels-hard-of-10-real": ("cross-entropy", 0.0, "x")}
    shown["labels-hard-of-10-real/adversarial"] = "cross-entropy", 1.0, "*"
    for number, (arm, (loss, share, _)) in enumerate(shown.items()):
        record = whole({"clean": 60.0 - number, "pgd100": 50.0 - number}, loss=loss)
        record["train"]["settings"] |= {"adversarial_share": share, "view_epsilon": 2 / 255}
        add(results, record, scale="full-cpu", arm=arm, curve=curve)
    drawn = SimpleNamespace()
    monkeypatch.setattr(plots, "save", lambda figure, path: setattr(drawn, path.stem, figure))
    figures.write(gathered(results), results / "figures")
    (axes,) = getattr(drawn, "label-bytes-full-cpu-cifar10").axes
    lines = [line for line in axes.get_lines() if len(line.get_xdata()) and line.get_marker() in "ox*"]
    found = {line.get_ydata()[0]: line.get_marker() for line in lines}
    assert [found[60.0 - number] for number in range(3)] == ["o", "x", "*"]
    first, _ = getattr(drawn, "frontier-full-cpu-cifar10").axes
    add(results, record, scale="full-cpu", arm="labels-hard-of-105-real", curve=curve)
    assert [group.arm for group in full_size_drawing.of_the_frontier(gathered(results), None)] == [*shown]
    assert "teacher: none, hard labels" in {line.get_label() for line in first.get_lines()}


@pytest.mark.parametrize(
    ("pretrain", "told"),
    [
        ({}, "nothing added"),
        ({"curvature": True}, "lambda 100, h 3"),
        ({"curvature": True, "curvature_statistics": "batch"}, "h 3, by statistics of the mini-batch"),
        ({"curvature": True, "curvature_every": 4}, "h 3, at one step of 4"),
        ({"gradient_regularization": True, "curvature_every": 4}, "beta 0.0001, at one step of 4"),
    ],
)
def test_what_is_not_as_published_of_a_penalty_is_told(pretrain, told):
    record = whole({})
    record["pretrain"]["settings"] |= as_dict(Pretrain(**pretrain))
    assert settings.regularized(record).endswith(told)


def test_accuracies_within_different_epsilons_stand_in_charts_of_their_own(results):
    from guard.report import html

    attacks = {"clean": 60.0, "pgd100": 50.0}
    add(results, whole(attacks), scale="full-cpu", arm=arms.BEST)
    add(results, whole(attacks, epsilon=2 / 255), scale="full-cpu", arm="goal-epochs-3000")
    page = html.write_results(results).read_text()
    assert all(page.count(f"<small>pgd100 within {epsilon}, 10 images") for epsilon in ("1/255", "2/255"))


def test_the_published_methods_and_curvature_on_trial_have_their_tables_and_figure(results, monkeypatch):
    from guard.report import plots

    attacks = {
        "clean": 60.0,
        "pgd100": 50.0,
        "square": 52.0,
        "autoattack-paper": 49.0,
        "cw": 55.0,
        "mim": 51.0,
    }
    for arm in ("sre2l/paper", "cda+guard/modern", "dc-100/dc", "guard-resnet18/paper"):
        add(results, whole(attacks), scale="full-cpu", arm=arm)
    for arm, change in (("random/plain", 90.0), ("random/guard", 8.0), ("curvature-h-6/guard", 7.0)):
        record = whole(attacks)
        record["pretrain"]["results"]["curvature"]["gradient_change"] = change
        record["evaluate teacher"]["epsilon"] = 1 / 255
        add(results, record, scale="full-cpu", arm=arm)
    for arm in ("curvature-lambda-1/nfgsm+guard", "curvature-batch/nfgsm+guard"):
        add(results, whole(attacks), scale="full-cpu", arm=arm)
    shown = [group.arm for group in full_size_drawing.of_the_frontier(gathered(results), None)]
    assert shown == ["random/plain", "random/guard", "curvature-batch/nfgsm+guard"]
    text = text_of(results)
    cells = "- | 60.00 ± 4.90 | 50.00 ± 5.00 | 52.00 ± 5.00 | 49.00 ± 5.00 | 55.00 ± 4.97 | 51.00 ± 5.00"
    for row in ("sre2l | paper", "cda+guard | modern", "dc-100 | dc", "guard-resnet18 | paper"):
        assert f"| {row} | 10 | 1 | {cells} |" in text
    theirs = json.loads((RESULTS / "published.json").read_text())["tables"]["other-methods"]["cifar10"]["10"]
    for name in ("sre2l", "cda+guard", "dc", "sre2l+guard"):
        values = [f"{theirs[name][attack]:.2f}" for attack in theirs[name]]
        assert [*theirs[name]] == ["clean", "pgd100", "square", "autoattack", "cw", "mim"]
        clean, *attacked = values
        assert f"| published: {name} | - | 10 | - | {clean} | - | {' | '.join(attacked)} | - | - |" in text
    assert text.count("| published: sre2l | - | 10 |") == 1 and "| published: cda | -" not in text
    student = "- | 60.00 ± 4.90 | 50.00 ± 5.00 | -"
    assert f"| curvature-h-6/guard | 1 | {student} | 4 epochs, cosine | 7.00e+00 |" in text
    drawn = SimpleNamespace()
    monkeypatch.setattr(plots, "save", lambda figure, path: setattr(drawn, path.stem, figure))
    figures.write(gathered(results), results / "figures")
    of_teachers, of_students = getattr(drawn, "curvature-full-cpu-cifar10").axes
    named = {text.get_text() for text in of_students.texts}
    assert named == {"", "h-6", "lambda-1", "batch"}  # the first has the recipe's, or none
    # the teacher of the last has no epsilon
    assert {text.get_text() for text in of_teachers.texts} == {"", "h-6"}


def test_both_recipes_of_the_same_images_and_labels_stand_under_each_other(results):
    """Each arm's command is that of the frontier's, with the paper's recipe in place of the scale's."""
    for arm, clean in (("sre2l/plain/paper", 30.0), ("sre2l/plain", 60.0)):
        add(results, whole({"clean": clean, "pgd100": 20.0}), scale="full-cpu", arm=arm)
    lines = text_of(results).split("### recipes")[1].splitlines()
    shown = [line.split(" | ")[:6] for line in lines if line.startswith("| sre2l")]
    modern, paper = (
        ["| sre2l", "plain", recipe, "1", "-", clean]
        for recipe, clean in (("modern", "60.00 ± 4.90"), ("paper", "30.00 ± 4.58"))
    )
    assert shown == [modern, paper]
    words = {
        run.arm: commands.command_of(run, "full-cpu", root="data/raw", output="runs")
        for run in plan.runs_of("recipes", "full-cpu")
    }
    assert len(words) == 2 * len(arms.BY_RECIPE)
    for arm in arms.BY_RECIPE:
        theirs, ours = (commands.meaning(words[name]) for name in (arm.removesuffix("/paper"), arm))
        differing = {name for name in ours | theirs if ours.get(name) != theirs.get(name)}
        assert differing == {("run.sh", "-R"), ("run.sh", "-x")}
        assert (ours["run.sh", "-R"], theirs["run.sh", "-R"]) == ("paper", "modern")


def test_what_was_not_run_as_planned_is_named_and_pale(results, monkeypatch):
    from guard.report import plots

    curve = {"attack": "pgd100", "epsilon": [2 / 255], "accuracy": [42.0], "images": 100}
    attacks = {"clean": 60.0, "pgd100": 50.0}
    add(results, whole(attacks), scale="full-cpu", arm="random/plain", curve=curve)
    other = contents(
        whole(attacks), scale="full-cpu", dataset="cifar10", size=10, arm="rded/guard", seed=0, curve=curve
    )
    other["command"] = other["command"].replace("--epochs 8", "--epochs 16")
    records.add(other, results, "frontier")
    text = text_of(results)
    assert "With other settings than the plan's: rded/guard.\n" in text
    drawn = SimpleNamespace()
    monkeypatch.setattr(plots, "save", lambda figure, path: setattr(drawn, path.stem, figure))
    figures.write(gathered(results), results / "figures")
    axes = getattr(drawn, "frontier-full-cpu-cifar10").axes[0]
    points = {line.get_marker(): line.get_alpha() for line in axes.get_lines() if line.get_xdata().size == 1}
    assert points["s"] < points["o"]


def test_a_table_whose_rows_were_computed_on_several_devices_names_them(results):
    """Runs of a CPU differ in their threads, which change nothing."""

    def run_on(device):
        record = whole({"clean": 60.0, "pgd100": 50.0})
        for entry in record.values():
            entry["environment"] = {**entry["environment"], "device": device}
        return record

    for arm, device in (("random/plain", "one GPU"), ("rded/plain", "a CPU, 1 threads")):
        add(results, run_on(device), scale="full-cpu", arm=arm)
    size = "at 2 images per class"
    told = f"Computed on one GPU: random/plain {size}; on a CPU: rded/plain {size}."
    assert told in text_of(results)
    add(results, run_on("a CPU, 1 threads"), scale="full-cpu", arm="random/plain", seed=1)
    add(results, run_on("one GPU"), scale="full-cpu", arm="rded/plain", seed=1)
    told = f"Computed on a CPU and one GPU: random/plain / rded/plain {size}."
    assert told in text_of(results)


def test_hard_labels_of_random_images_have_no_teacher(results, monkeypatch):
    """Though one was trained beside them; of labels that it made, or of its views, it is told."""
    monkeypatch.setitem(STUDENT_LOSSES, "own", StudentLoss("some:thing", "own", reads_teacher=False))
    shown = {arms.BEST: "kl", "labels-hard-of-10-real": "cross-entropy", "labels-hard-of-105-real": "own"}
    for arm, loss in shown.items():
        record = whole({"clean": 60.0, "pgd100": 50.0}, loss=loss)
        record["recover"]["settings"]["method"] = "random"
        add(results, record, scale="full-cpu", arm=arm)
    text = text_of(results).split("### label-bytes")[1].split("###")[0]
    of_hard = [line for line in text.splitlines() if line.startswith("| labels-hard")]
    assert len(of_hard) == 2 and all(line.endswith("| - |") for line in of_hard)
    assert text.count("; no teacher; images by random; student ") == 1  # of two that are alike
    assert "recovery: rded/nfgsm/adversarial: nothing added." in text
    against = {"adversarial_share": 1.0, "view_epsilon": 2 / 255, "views_against": "teacher"}
    record["train"]["settings"] |= against
    assert not stored.without_teacher(record)


@pytest.mark.parametrize("table, size", [("goal-50", 50), ("goal-1", 1)])
def test_goals_stand_beside_what_was_published_at_their_size(table, size, results):
    (name, *_) = plan.TABLES[table]["cifar10"][1]
    add(results, whole({"clean": 60.0, "pgd100": 50.0}), scale="full-cpu", arm=name, size=size)
    beside = [line for line in text_of(results).splitlines() if " | published: " in line]
    assert len(beside) == (2 if size == 50 else 0)
    assert all(line.startswith("| 50 | published: ") for line in beside)


@pytest.mark.parametrize(
    "train, told",
    [
        ({}, "temperature 30"),
        ({"loss": "mse"}, "mean squared error of logits"),
        ({"loss": "cross-entropy"}, "hard labels"),
        (
            {"loss": "kl+cross-entropy", "gradient_weight": 1000.0},
            "temperature 30, with cross-entropy, input gradients of weight 1000",
        ),
        (
            {"adversarial_share": 1.0, "view_epsilon": 2 / 255},
            "temperature 30, adversarial views within 2/255",
        ),
        (
            {"adversarial_share": 5 / 6, "view_epsilon": 1 / 255, "views_against": "teacher"},
            "temperature 30, adversarial views of share 0.8333 within 1/255, against the teacher",
        ),
    ],
)
def test_a_setting_tells_by_what_the_student_learned(train, told):
    record = whole({"clean": 60.0})
    record["pretrain"]["settings"] |= as_dict(Pretrain())
    record["train"]["settings"] |= train
    assert f", 3 epochs, {told}; evaluated on " in settings.described(record)


def test_the_tables_tell_what_the_checks_of_evaluations_said(results):
    record = whole({"clean": 60.0, "pgd100": 50.0})
    meaning = "the gradients mislead: they vanish"
    for network, one, other in (("teacher", 44, 43), ("student", 21, 20)):
        record[f"evaluate {network}"]["warnings"] = [f"pgd100 {one} is above square {other}: {meaning}"]
    curve = {"attack": "pgd100", "epsilon": [2 / 255], "accuracy": [42.0], "images": 100}
    curve["warnings"] = ["within 2/255: pgd100 left the valid pixels: do not use its number"]
    add(results, record, scale="full-cpu", arm="random/plain", curve=curve)
    text, place = text_of(results), "random/plain at 10 images per class, seed 0, "
    told = f"**Warning** of evaluations: {place}teacher: pgd100 44 is above square 43; {place}student:"
    assert f"{told} pgd100 21 is above square 20: {meaning}." in text
    told = f"**Warning** of evaluations: {place}student, within 2/255: pgd100 left the valid pixels: do not"
    assert f"{told} use its number." in text


def test_the_goals_tell_how_long_the_learning_rate_goes_down(results):
    record = whole({"clean": 60.0, "pgd100": 50.0}, epsilon=2 / 255)
    record["train"]["settings"]["zeta"] = 2.0
    add(results, record, scale="full-cpu", arm="goal-epochs-3000")
    row = "| views | 67 / 52 | 1 | - | 60.00 ± 4.90 | 50.00 ± 5.00 | - | - | - | - | 2 |"
    assert f"| 10 | goal-epochs-3000 {row}" in text_of(results)


def test_a_goal_that_met_fewer_attacks_than_planned_is_no_other_setting_and_says_what_it_lacks(results):
    """AutoAttack came into the plan when some seeds had been run: these keep their place, to be attacked."""
    parts = {"clean": 70.0, "pgd100": 56.0, "apgd-ce": 56.0, "apgd-dlr": 54.0}
    arm, size = "goal-random-epochs-3000", {"scale": "full-cpu", "dataset": "cifar10", "size": 10}
    for seed, found in ((0, parts), (1, {**parts, "autoattack": 53.0}), (2, {**parts, "autoattack": 51.0})):
        one = contents(whole(found, epsilon=2 / 255), arm=arm, seed=seed, **size)
        if seed == 0:
            one["command"] = one["command"].replace("apgd-dlr,autoattack", "apgd-dlr")
        records.add(one, results, "goal-10")
        lacking = not_run.lacking("goal-10", "full-cpu", gathered(results))
        assert (not_run.OTHERWISE in lacking) == (seed == 0)
        assert arm not in lacking[not_run.NOT_RUN]["cifar10"]
    text = text_of(results)
    assert "| 54.00 ± 0.00 | 52.00 ± 1.41 (2 of 3 runs) | " in text
    assert "With other settings than the plan's" not in text


def test_the_commands_of_the_published_methods_and_of_curvature():
    """DC with its own recipe is judged by hard labels; CDA, curvature and N-FGSM reach their stages."""
    words = {
        name: " ".join(commands.command_of(run, "full-cpu", root="data/raw", output="runs"))
        for table in ("methods", "methods-dc-1", "methods-dc-10", "methods-resnet18", "curvature")
        for run in plan.runs_of(table, "full-cpu")
        for name in [run.arm]
    }
    assert " -I dc " in words["dc/dc"]
    assert words["dc/dc"].index("-R modern") < words["dc/dc"].index("-R dc")  # the later one counts
    (run, *_) = plan.runs_of("methods", "full-cpu")
    asked = commands.command_of(run, "full-cpu", root="data", output="runs", protocol="quick")
    assert commands.meaning(asked)["train", "--attacks"] == "", "those that are named came in place of it"
    networks = {("dc/dc", 1): "1000", ("dc+guard/modern", 1): "1000", ("dc-100+guard/dc", 10): "100"}
    for (arm, images), count in networks.items():
        asked = {("run.sh", "-i"): count, ("run.sh", "-c"): str(images), ("run.sh", "-R"): arm.split("/")[1]}
        assert asked.items() <= commands.meaning(words[arm].split()).items()
    assert " -A -C " in words["cda+guard/paper"] and "--epochs 20" in words["cda+guard/paper"]
    by_the_paper = commands.meaning(words["guard-resnet18/paper"].split())
    asked = {("run.sh", "-m"): "resnet18", ("run.sh", "-e"): "resnet18", ("run.sh", "-R"): "paper"}
    asked |= {("run.sh", "-C"): None, ("pretrain", "--epochs"): "10"}
    assert asked.items() <= by_the_paper.items()
    bent = words["curvature-lambda-1000/nfgsm+guard"]
    assert " -v n -C -l 1000 " in bent and "-I random" in bent
    teachers = [line[line.index("-y ") :].split()[1] for line in words.values()]
    assert "--curvature-statistics batch" in words["curvature-batch/guard"]
    assert " -G -B 30 " in words["curvature-batch/gr"]
    assert "--curvature-statistics batch" in words["curvature-batch/gr"]
    assert (
        len(set(teachers)) == 2 + 2 + 5 + 13
    )  # of methods, those of ResNet-18, of the frontier, of the settings


def test_a_swap_at_full_size_has_its_own_plain_arm_and_a_second_epsilon(results):
    of_plain, of_nfgsm = "sre2l/plain", "sre2l/nfgsm"
    found = {
        (of_plain, of_plain): (60, 48, 30),
        (of_plain, of_nfgsm): (59, 52, 41),
        (of_nfgsm, of_plain): (61, 47, 31),
        (of_nfgsm, of_nfgsm): (58, 53, 44),
    }
    for (images, labels), (clean, pgd, further) in found.items():
        arm = images if images == labels else f"images {images}, labels {labels}"
        accuracy = [float(clean), float(pgd), float(further)]
        curve = {"attack": "pgd100", "epsilon": [0.0, 1 / 255, 2 / 255], "accuracy": accuracy, "images": 1000}
        record = whole({"clean": float(clean), "pgd20": float(pgd)})
        record["evaluate student"]["images"] = 1000
        place = {"scale": "full-cpu", "table": "images-or-labels", "curve": curve}
        add(results, record, arm=arm, images=images, labels=labels, **place)
    text = text_of(results).split("labels from another")[1]
    # images: (31 - 30 + 44 - 41) / 2 = 2, labels: (41 - 30 + 44 - 31) / 2 = 12; of one seed the standard
    # error of four shares of 1,000 images, sqrt(30 * 70 + 41 * 59 + 31 * 69 + 44 * 56) / sqrt(1000) / 2
    assert "| pgd100 at 2/255 | +2.00 ± 1.51 | +12.00 ± 1.51 | 1 |" in text
    assert "| pgd20 | " in text and "pgd20 at" not in text
    assert f"| images from {of_nfgsm} | labels from {of_nfgsm} |" in text
    (row,) = [line for line in text.splitlines() if line.startswith(f"| {of_nfgsm} |")]
    assert row.split(" | ")[4:7] == ["58.00 ± 1.56 [1]", "53.00 ± 1.58 [1]", "44.00 ± 1.57 [1]"]


def test_settings_of_the_student_are_compared_at_the_seeds_that_both_have(results):
    """The first arm has seeds 0 and 1, of 60 and 50 clean; the changed one seed 0 alone, of 58."""
    curve = {"attack": "pgd100", "epsilon": [0.0, 2 / 255], "images": 100}
    for arm, seed, clean in ((arms.BEST, 0, 60.0), (arms.BEST, 1, 50.0), ("student-zeta-2", 0, 58.0)):
        of_curve = {**curve, "accuracy": [clean, clean - 20]}
        record = whole({"clean": clean, "pgd100": clean - 10})
        record["train"]["settings"]["adversarial_share"] = 5 / 6 if arm == "student-zeta-2" else 1.0
        add(results, record, scale="full-cpu", arm=arm, seed=seed, curve=of_curve)
    (row,) = [line for line in text_of(results).splitlines() if line.startswith("| student-zeta-2 |")]
    assert "| train adversarial_share (1, 0.8333) |" in row
    changes = [cell.strip() for cell in row.split("|")][-6:-2]
    assert [cell.split(" ± ")[0] for cell in changes] == ["-2.00", "-2.00", "-2.00", "1"]
    of_both = ((60 * 40 + 58 * 42) / 100) ** 0.5
    assert changes[0].endswith(f" ± {of_both:.2f}")
