"""Each stage alone, on explicit paths: what it makes, what it refuses, how it goes on."""

import dataclasses
import re
import shutil
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy
import pytest
import torch
from conftest import TOY, command, toy_student, write_folder
from PIL import Image

import guard
from guard import recipes, registry
from guard.data import pixel_cache
from guard.data.images import Packed
from guard.distilled import image_folder
from guard.errors import UserError
from guard.networks import checkpoint, models
from guard.networks.training import Training
from guard.run import records, storage
from guard.run.progress import Progress
from guard.run.stage import differences
from guard.settings import as_dict
from pretrain import teacher
from train import evaluation, student


def pretrain(root, output, *more):
    return ["pretrain", "--dataset", "toy", "--root", root, "--output", output, *TOY["pretrain"], *more]


def fingerprint(folder):
    return checkpoint.load(folder / "checkpoint.pt").fingerprint


def test_a_record_says_whether_the_code_is_the_commits_whatever_the_results_are(tmp_path):
    def git(*words):
        return subprocess.run(
            ["git", "-C", tmp_path, "-c", "user.name=x", "-c", "user.email=x@example.org", *words],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    assert records._commit(tmp_path) is None
    git("init")
    assert records._commit(tmp_path) is None
    (tmp_path / "results").mkdir()
    for name in ("code.py", "results/cell.json"):
        (tmp_path / name).write_text("1")
    git("add", ".")
    git("commit", "-m", "first")
    commit = git("rev-parse", "HEAD")[:12]
    assert records._commit(tmp_path) == commit
    (tmp_path / "results/cell.json").write_text("2")
    assert records._commit(tmp_path) == commit
    (tmp_path / "code.py").write_text("2")
    git("add", ".")
    assert records._commit(tmp_path) == f"{commit}-dirty"
    (tmp_path / "site-packages").mkdir()  # in another's repository it is not the code's commit
    assert records._commit(tmp_path / "site-packages") is None


def test_a_record_has_the_command_as_it_can_be_typed_again(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train", "--output", "my run", "--licence", "CC BY 4.0"])
    told = records.environment(torch.device("cpu"))["command"]
    assert told.endswith(" --output 'my run' --licence 'CC BY 4.0'") and told.startswith("python -m ")


# ---- what a stage makes --------------------------------------------------------------------------


def test_the_teachers_checkpoint_and_record_say_how_it_was_made(toy):
    teacher = checkpoint.load(toy / "teacher" / "checkpoint.pt", "teacher")
    record = records.read(toy / "teacher" / "log.json")["pretrain"]
    assert (
        teacher.classes == ["cat", "dog"]
        and teacher.settings == record["settings"]
        and teacher.results == record["results"]
    )
    assert {"gradient_change", "along_z", "largest_eigenvalue"} <= set(teacher.results["curvature"])
    assert (
        record["seed"] == 0 and len(record["history"]) == 2 and record["fingerprint"] == teacher.fingerprint
    )
    assert all(
        record["settings"][name] == value
        for name, value in as_dict(recipes.recipe("toy").pretrain).items()
        if name in ("learning_rate", "augmentation", "lambda")
    )


def test_same_seed_same_bits_and_another_seed_another_teacher(toy, tmp_path):
    assert command(*pretrain(toy, tmp_path / "same")) == 0
    assert command(*pretrain(toy, tmp_path / "other", "--seed", 1)) == 0
    assert fingerprint(tmp_path / "same") == fingerprint(toy / "teacher") != fingerprint(tmp_path / "other")


def test_neither_the_pixel_cache_nor_the_number_of_workers_changes_anything(tmp_path, monkeypatch):
    """The images have the network's size: what is resized is rounded to 8 bits on one of the ways."""
    write_folder(tmp_path, size=16)
    monkeypatch.setenv("GUARD_CACHE", str(tmp_path / "cache"))
    made = set()
    for largest, workers in ((0, 0), (0, 2), (10**9, 0)):
        monkeypatch.setattr(pixel_cache, "LARGEST", largest)
        output = tmp_path / f"{largest}-{workers}"
        assert command(*pretrain(tmp_path, output, "--augmentation", "pad-crop", "--workers", workers)) == 0
        made.add(fingerprint(output))
        assert bool(list((tmp_path / "cache").glob("*.npy"))) == bool(largest)
    assert len(made) == 1


@pytest.mark.parametrize(
    "flags",
    [
        ["--curvature"],
        ["--curvature", "--regularizer", "loss", "--loss-beta", "1"],
        ["--curvature", "--regularizer", "gradient-squared", "--lambda", "1"],
        ["--gradient-regularization", "--gradient-beta", "5"],
        ["--adversarial", "t"],
        ["--adversarial", "f", "--epsilon", "0.01"],
        ["--clip-grad-norm", "0.1"],
    ],
)
def test_each_kind_of_teacher_is_another_teacher(flags, toy, tmp_path):
    assert command(*pretrain(toy, tmp_path / "t", *flags)) == 0
    assert fingerprint(tmp_path / "t") != fingerprint(toy / "teacher")


def test_a_teacher_goes_on_after_its_last_epoch_with_the_same_bits(toy, tmp_path, monkeypatch, capsys):
    saved = Training.save_if_due

    def save_and_stop(self, *state):
        self.saved = -1e9
        saved(self, *state)
        raise KeyboardInterrupt

    monkeypatch.setattr(Training, "save_if_due", save_and_stop)
    assert command(*pretrain(toy, tmp_path / "t")) == 130
    assert "to go on" in capsys.readouterr().err and not (tmp_path / "t" / "checkpoint.pt").exists()
    monkeypatch.setattr(Training, "save_if_due", saved)
    assert command(*pretrain(toy, tmp_path / "t")) == 0
    assert "going on after epoch 1" in capsys.readouterr().out
    assert (
        fingerprint(tmp_path / "t") == fingerprint(toy / "teacher")
        and not (tmp_path / "t" / "resume.pt").exists()
    )


@pytest.mark.parametrize("last_saved", [-1e9, 1e9], ids=["after a state", "before the first state"])
def test_a_forced_teacher_goes_on_and_does_not_end_as_the_one_that_it_replaces(
    last_saved, toy, tmp_path, monkeypatch
):
    """A kill leaves the old checkpoint beside the new state; without --force again the new one goes on."""
    shutil.copytree(toy / "teacher", tmp_path / "t")
    saved = Training.save_if_due

    def save_and_stop(self, *state):
        self.saved = last_saved
        saved(self, *state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Training, "save_if_due", save_and_stop)
        assert command(*pretrain(toy, tmp_path / "t", "--seed", 1, "--force")) == 130
    assert fingerprint(tmp_path / "t") == fingerprint(toy / "teacher")
    assert command(*pretrain(toy, tmp_path / "t", "--seed", 1)) == 0
    assert command(*pretrain(toy, tmp_path / "whole", "--seed", 1)) == 0
    assert fingerprint(tmp_path / "t") == fingerprint(tmp_path / "whole") != fingerprint(toy / "teacher")
    assert not (tmp_path / "t" / "resume.pt").exists()


def test_a_finished_teacher_is_not_bothered_by_a_leftover_state(toy, tmp_path, capsys):
    """A kill may come between the checkpoint and the removal of the state, which may be damaged by now."""
    shutil.copytree(toy / "teacher", tmp_path / "t")
    (tmp_path / "t" / "resume.pt").write_bytes(b"no state")
    assert command(*pretrain(toy, tmp_path / "t")) == 0
    assert "is finished" in capsys.readouterr().out and not (tmp_path / "t" / "resume.pt").exists()


def test_the_time_of_work_before_a_lost_file_stays_in_the_record(toy, tmp_path):
    shutil.copytree(toy / "images", again := tmp_path / "images")
    words = ["recover", "--teacher", toy / "teacher/checkpoint.pt", "--output", again, *TOY["recover"]]
    storage.write_sealed({"recover": {"seconds": 1000.0}}, again / "log.json")
    (again / "cat" / "cat_1.png").unlink()
    assert command(*words) == 0
    assert records.read(again / "log.json")["recover"]["seconds"] > 1000


def test_recovery_goes_on_with_the_packs_that_are_missing(toy, tmp_path):
    shutil.copytree(toy / "images", again := tmp_path / "images")
    (again / "cat" / "cat_1.png").unlink()
    kept = (again / "cat" / "cat_0.png").stat().st_mtime_ns
    assert (
        command("recover", "--teacher", toy / "teacher/checkpoint.pt", "--output", again, *TOY["recover"])
        == 0
    )
    assert (again / "cat" / "cat_0.png").stat().st_mtime_ns == kept
    assert (again / "manifest.json").read_text() == (toy / "images" / "manifest.json").read_text()
    for path in (toy / "images").glob("*/*.png"):
        assert (again / path.relative_to(toy / "images")).read_bytes() == path.read_bytes()


def test_relabel_and_train_take_images_distilled_elsewhere(toy, tmp_path):
    for class_name in ("cat", "dog"):
        (tmp_path / "elsewhere" / class_name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (16, 16), (40 * number, 99, 200)).save(
                tmp_path / "elsewhere" / class_name / f"anything{number}.jpg"
            )
    teacher = ["--teacher", toy / "teacher/checkpoint.pt", "--distilled", tmp_path / "elsewhere"]
    assert command("relabel", *teacher, "--output", tmp_path / "labels", *TOY["relabel"]) == 0
    (tmp_path / "teacher").mkdir()
    shutil.copy(toy / "teacher/checkpoint.pt", tmp_path / "teacher")  # a checkpoint that came without its log
    teacher[1] = tmp_path / "teacher/checkpoint.pt"
    assert (
        command(
            "train",
            "--dataset",
            "toy",
            "--root",
            toy,
            *teacher,
            "--labels",
            tmp_path / "labels",
            "--output",
            tmp_path / "student",
            "--images",
            1,
            *TOY["train"],
        )
        == 0
    )
    record = records.read(tmp_path / "student" / "log.json")
    assert (
        "pretrain" not in record
        and "custom" not in record["evaluate student"]["protocols"][0]
        and record["evaluate student"]["images"] == 2
        and (tmp_path / "student" / "report.md").exists()
    )


def test_a_finished_stage_that_its_record_says_nothing_of_is_told(toy, tmp_path, capsys):
    shutil.copytree(toy / "teacher", tmp_path / "teacher")
    words = pretrain(toy, tmp_path / "teacher")
    for gone in (False, True):
        if gone:
            (tmp_path / "teacher/log.json").unlink()
        assert command(*words) == 0
        printed = capsys.readouterr()
        assert "is finished" in printed.out and ("says nothing of it" in printed.err) == gone


def test_how_often_a_student_is_measured_makes_no_other_student(toy, tmp_path, capsys):
    words = toy_student(toy, "--epochs", 2, "--output", tmp_path / "x")

    def measured(folder):
        history = storage.read_json(folder / "log.json", "record")["train"]["history"]
        return [row["epoch"] for row in history if "val accuracy" in row]

    assert command(*words, "--evaluate-every", 2) == 0
    made = fingerprint(tmp_path / "x")
    assert measured(tmp_path / "x") == [2]
    capsys.readouterr()
    assert command(*words) == 0
    assert "is finished" in capsys.readouterr().out
    assert command(*words, "--force") == 0
    assert measured(tmp_path / "x") == [1, 2] and fingerprint(tmp_path / "x") == made


@pytest.mark.parametrize("role", ["teacher", "student"])
def test_accuracy_on_few_images_of_val_is_of_these_and_changes_no_weights(role, toy, tmp_path, capsys):
    """One of each of the two classes; the accuracy that all of val has is told for all of it."""
    found = {}
    for count in (0, 1):
        folder = tmp_path / str(count)
        words = pretrain(toy, folder) if role == "teacher" else toy_student(toy, "--output", folder)
        assert command(*words, "--val-images", count) == 0
        made = checkpoint.load(folder / "checkpoint.pt")
        model, (pixels, labels) = made.build("cpu").eval(), guard.load_images("toy", toy, size=16)
        first = [labels.tolist().index(label) for label in (0, 1)] if count else range(len(labels))
        right = [int(model(pixels[[i]]).argmax(1)) == labels[i] for i in first]
        assert made.results["val accuracy"] == 100 * sum(right) / len(right)
        assert ("on val, the first 1 of each class" in capsys.readouterr().out) == bool(count)
        found[count] = made.state
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert command(*words, "--val-images", 0) == 0  # which does not make the finished one another
    assert "is finished" in capsys.readouterr().out


def test_evaluate_takes_any_checkpoint_and_keeps_what_is_done(toy, tmp_path, capsys):
    arguments = [
        "train.evaluate",
        "--checkpoint",
        toy / "teacher/checkpoint.pt",
        "--dataset",
        "toy",
        "--root",
        toy,
        "--record",
        tmp_path / "log.json",
        "--workers",
        0,
        "--protocol",
        "quick",
    ]
    assert command(*arguments, "--epsilon", "4/255") == 0
    printed = capsys.readouterr().out
    assert "pgd20" in printed and "clean" in printed
    first = records.read(tmp_path / "log.json")["evaluate teacher"]
    assert (
        first["complete"]
        and first["protocols"] == ["custom (quick at epsilon 4/255)"]
        and first["images"] == 12
    )
    assert command(*arguments, "--epsilon", "4/255") == 0
    assert records.read(tmp_path / "log.json")["evaluate teacher"]["attacks"] == first["attacks"]
    assert command(*arguments, "--epsilon", "8/255") == 0
    assert records.read(tmp_path / "log.json")["evaluate teacher"]["epsilon"] == pytest.approx(8 / 255)


def test_several_epsilons_draw_a_curve_that_says_whether_it_reaches_zero(toy, tmp_path, capsys):
    arguments = [
        "train.evaluate",
        "--checkpoint",
        toy / "teacher/checkpoint.pt",
        "--dataset",
        "toy",
        "--root",
        toy,
        "--record",
        tmp_path / "log.json",
        "--workers",
        0,
    ]
    assert command(*arguments, "--epsilon", "0,1,1/255") == 0
    curve = storage.read_sealed(tmp_path / "curve.json", "curve")
    assert curve["epsilon"] == pytest.approx([0, 1 / 255, 1]) and curve["accuracy"] == sorted(
        curve["accuracy"], reverse=True
    )
    assert curve["accuracy"][0] == checkpoint.load(toy / "teacher/checkpoint.pt").results["val accuracy"]
    assert curve["reaches_zero"] == (curve["accuracy"][-1] == 0)
    with Image.open(tmp_path / "curve.png") as picture:
        picture.load()
    printed = capsys.readouterr().out
    assert str(tmp_path / "curve.png") in printed and "zero" in printed


@pytest.mark.parametrize(
    "flags, attacked",
    [((), 1), (("--seed", 1), 2), (("--images", 1), 2), (("--force",), 2)],
    ids=["the same", "another seed", "other images", "force"],
)
def test_a_curve_takes_from_the_record_what_an_evaluation_found(flags, attacked, toy, tmp_path, capsys):
    words = ["train.evaluate", "--checkpoint", toy / "teacher/checkpoint.pt", "--dataset", "toy"]
    words += ["--root", toy, "--workers", 0, "--record"]
    assert command(*words, tmp_path / "log.json", "--attacks", "pgd100", "--epsilon", "1/255") == 0
    curve = [*flags, "--epsilon", "0,1/255,1"]
    assert command(*words, tmp_path / "from scratch" / "log.json", *curve) == 0
    capsys.readouterr()
    assert command(*words, tmp_path / "log.json", *curve) == 0
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count("attack pgd100: accuracy") == attacked
    taken, measured = (
        storage.read_sealed(tmp_path / folder / "curve.json", "curve") for folder in (".", "from scratch")
    )
    assert taken["accuracy"] == measured["accuracy"]


def test_evaluate_takes_a_plain_state_dict(toy, tmp_path):
    """The same network, as our checkpoint and as bare weights of a named architecture: the same images
    fall.
    """
    teacher = checkpoint.load(toy / "teacher/checkpoint.pt")
    torch.save(teacher.state, tmp_path / "weights.pt")
    shared = ["--dataset", "toy", "--root", toy, "--workers", 0, "--protocol", "quick", "--epsilon", "8/255"]
    assert (
        command(
            "train.evaluate",
            "--weights",
            tmp_path / "weights.pt",
            "--model",
            teacher.model,
            "--image-size",
            16,
            *shared,
            "--record",
            tmp_path / "bare.json",
        )
        == 0
    )
    assert (
        command(
            "train.evaluate",
            "--checkpoint",
            toy / "teacher/checkpoint.pt",
            *shared,
            "--record",
            tmp_path / "ours.json",
        )
        == 0
    )
    bare, ours = (
        records.read(tmp_path / "bare.json")["evaluate network"],
        records.read(tmp_path / "ours.json")["evaluate teacher"],
    )
    assert {name: found["broken"] for name, found in bare["attacks"].items()} == {
        name: found["broken"] for name, found in ours["attacks"].items()
    }


def test_a_record_keeps_its_own_evaluation_of_a_teacher_that_others_evaluate_meanwhile(
    toy, tmp_path, monkeypatch
):
    shutil.copytree(toy / "teacher", tmp_path / "teacher")
    log, evaluate = tmp_path / "teacher/log.json", evaluation.evaluate_network

    def others_come_between(network, *arguments, **named):
        found = evaluate(network, *arguments, **named)
        if network.role == "teacher":
            records.update(log, "evaluate teacher", {"epsilon": 1.0})
        return found

    monkeypatch.setattr(evaluation, "evaluate_network", others_come_between)
    words = ["--teacher", tmp_path / "teacher/checkpoint.pt", "--output", tmp_path / "student"]
    assert command(*toy_student(toy, *words, "--record", tmp_path / "log.json")) == 0
    entries = records.read(tmp_path / "log.json")
    assert records.read(log)["evaluate teacher"] == {"epsilon": 1.0}
    assert entries["evaluate teacher"]["epsilon"] == entries["evaluate student"]["epsilon"] != 1.0


def test_a_teacher_in_a_folder_that_cannot_be_written_is_evaluated_in_the_experiments_record(
    toy, tmp_path, monkeypatch
):
    shutil.copytree(toy / "teacher", tmp_path / "teacher")
    before = (tmp_path / "teacher/log.json").read_bytes()
    monkeypatch.setattr(evaluation.os, "access", lambda path, mode: False)
    words = ["--teacher", tmp_path / "teacher/checkpoint.pt", "--output", tmp_path / "student"]
    for _ in range(2):  # the second time nothing is left to do
        assert command(*toy_student(toy, *words, "--record", tmp_path / "log.json")) == 0
        entries = records.read(tmp_path / "log.json")
        assert entries["evaluate teacher"]["complete"] and "pretrain" in entries
        assert (tmp_path / "teacher/log.json").read_bytes() == before


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--weights", "nowhere.pt", "--model", "convnet-32"], "there is no file nowhere.pt"),
        (["--checkpoint", "x.pt", "--protocol", "standard", "--attacks", "fgsm"], "leave one out"),
    ],
)
def test_flags_of_an_evaluation_that_do_not_go_together(flags, told, refused):
    assert told in refused("train.evaluate", "--dataset", "digits", *flags)


def test_networks_that_were_not_attacked_alike_are_described_apart(tmp_path):
    from guard.report import pictures, text

    def attacked(images, epsilon):
        found = {"clean": {"accuracy": 90.0}, "pgd20": {"accuracy": 50.0}}
        return {"images": images, "epsilon": epsilon, "protocols": ["quick"], "attacks": found}

    alike = {"teacher": attacked(10, 1 / 255), "student": attacked(10, 1 / 255)}
    how = "10 validation images leave, epsilon 1/255, protocol quick"
    assert text.how_evaluated(alike) == f"Accuracy in percent ± the standard error that {how}."
    other = {**alike, "student": attacked(20, 12 / 255)}
    assert f"that teacher: {how}; student: 20 valid" in text.how_evaluated(other)
    titles = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures.plots, "save", lambda figure, path: titles.append(figure.axes[0].get_title()))
        for results in (alike, other):
            pictures.bars(results, tmp_path / "bars.png")
    assert titles[0] == "Accuracy under attack, epsilon 1/255"
    assert titles[1] == "Accuracy under attack, teacher epsilon 1/255, student epsilon 12/255"


def test_ratios_are_over_the_attacks_that_the_table_shows():
    """A teacher that others share has met more."""
    from guard.report import text

    student = {"attacks": {name: {"accuracy": value} for name, value in zip("cab", (80.0, 40.0, 20.0))}}
    student["attacks"]["clean"] = student["attacks"].pop("c")
    teacher = {"attacks": {**student["attacks"], "more": {"accuracy": 0.0}}}
    results = {
        name: {"worst_case": None, **held} for name, held in (("teacher", teacher), ("student", student))
    }
    ratio = 100 * (1 - (80 - 30) / (80 - 20))
    for name in results:
        assert f"{name}: RR {ratio:.2f} (0 for" in text.metrics_text(name, results)
    teacher["attacks"]["clean"] = {"accuracy": 0.0}
    lost = {name: {"accuracy": 0.0} for name in ("fgsm", "pgd20")}
    lost = {"clean": {"accuracy": 100 * (1 - 95 / 100)}, **lost}
    assert "I-RR 0.00" in text.metrics_text("x", {"x": {"attacks": lost, "worst_case": None}})
    assert "undefined, since it is right on no image" in text.metrics_text(
        "teacher", {"teacher": {**teacher, "worst_case": None}}
    )


def test_the_evaluation_of_weights_alone_is_no_experiment(tmp_path, refused):
    records.update(tmp_path / "log.json", "evaluate network", {"complete": True})
    assert "an evaluation of weights alone" in refused("guard.report", tmp_path)


def test_a_damaged_record_says_what_helps(toy, tmp_path, refused):
    (tmp_path / "log.json").write_text("{")
    words = toy_student(toy, "--output", tmp_path / "student", "--record", tmp_path / "log.json")
    assert "make again with --force what it told of" in refused(*words)


def test_labels_of_another_recipe_than_the_students_are_told(toy, tmp_path, capsys):
    teacher = ["--teacher", toy / "teacher/checkpoint.pt", "--distilled", toy / "images", *TOY["relabel"]]
    assert command("relabel", *teacher, "--recipe", "modern", "--output", tmp_path / "labels") == 0
    words = ["--labels", tmp_path / "labels", "--output", tmp_path / "student"]
    capsys.readouterr()
    assert command(*toy_student(toy, *words)) == 0
    assert (
        "have the views of recipe modern, the student has the settings of recipe paper"
        in capsys.readouterr().err
    )
    assert command(*toy_student(toy, *words, "--recipe", "modern", "--force")) == 0
    assert "the views of recipe" not in capsys.readouterr().err
    assert command(*toy_student(toy, "--output", tmp_path / "paper")) == 0
    assert "the views of recipe" not in capsys.readouterr().err


def test_images_distilled_elsewhere_take_the_order_of_the_teachers_classes(tmp_path):
    """Class folders are found by the alphabet; a data set of one's own may have another order."""
    write_folder(tmp_path, classes=("cat", "dog", "eel"), count=1, splits=["distilled"])
    held = image_folder.load_distilled(tmp_path / "toy" / "distilled")
    turned = held.in_order_of(["eel", "cat", "dog"])
    names = [turned.classes[label] for label in turned.labels]
    assert names == ["cat", "dog", "eel"] and tuple(turned.classes) == ("eel", "cat", "dog")
    assert torch.equal(turned.pixels, held.pixels)
    assert held.in_order_of(held.classes) is held and held.in_order_of(["cat", "dog"]) is held
    shares = torch.tensor([[0.7, 0.2, 0.1]] * 3)
    mixed = Packed(held.pixels, held.labels, held.classes, shares=shares).in_order_of(["eel", "cat", "dog"])
    assert torch.equal(mixed.shares, torch.tensor([[0.1, 0.7, 0.2]] * 3))


def test_a_finished_experiment_does_not_attack_its_teacher_again_whatever_others_did_with_it(toy, tmp_path):
    shutil.copytree(toy / "teacher", tmp_path / "teacher")
    words = ["--teacher", tmp_path / "teacher/checkpoint.pt", "--output"]
    for seed in (0, 1):
        assert command(*toy_student(toy, *words, tmp_path / f"student-{seed}", "--seed", seed)) == 0
    before = [(path, path.read_bytes()) for path in tmp_path.glob("*/log.json")]
    assert len(before) == 3
    assert command(*toy_student(toy, *words, tmp_path / "student-0", "--seed", 0)) == 0
    assert all(path.read_bytes() == held for path, held in before)


def test_a_record_tells_nothing_of_a_teacher_that_its_student_did_not_have(toy, tmp_path, capsys):
    """Of an earlier student of the same place; a new teacher comes without its record, or there is none."""
    output = tmp_path / "student"
    assert command(*toy_student(toy, "--output", output)) == 0
    words = ["pretrain", "--dataset", "toy", "--root", toy, "--output", tmp_path / "other", "--seed", 1]
    assert command(*words, *TOY["pretrain"]) == 0
    (tmp_path / "other" / "log.json").unlink()
    of_labels = records.read(toy / "labels/log.json")["relabel"]
    records.update(output / "log.json", "relabel", of_labels)
    other = tmp_path / "other" / "checkpoint.pt"
    again = ["--teacher", other, "--labels", "online", "--epochs", 2, "--output", output, "--force"]
    assert command(*toy_student(toy, *again)) == 0
    entries = records.read(output / "log.json")
    teacher = entries["train"]["settings"]["teacher"]
    assert entries["evaluate teacher"]["key"]["fingerprint"] == teacher != of_labels["teacher"]
    assert not {"pretrain", "relabel"} & {*entries}
    words = ["--dataset", "toy", "--root", toy, "--distilled", toy / "images", "--image-size", 16]
    words += ["--labels", "hard", "--epochs", 2, "--images", 1, "--output", output, "--force"]
    capsys.readouterr()
    assert command("train", *words, *TOY["train"]) == 0
    assert not {"pretrain", "relabel", "evaluate teacher"} & {*records.read(output / "log.json")}
    assert "| teacher" not in capsys.readouterr().out


def test_weights_at_a_data_sets_own_size_are_evaluated_with_the_stem_that_pretrain_gives_them(tmp_path):
    """The stems' weights have the same shapes, so a wrong one would not show."""
    write_folder(tmp_path, "tiny-imagenet", size=64, count=1)
    shape = recipes.resolve("tiny-imagenet", "pretrain", {"image_size": 64})
    recipe = recipes.recipe("tiny-imagenet")
    like = {"classes": 2, "image_size": 64, "mean": recipe.mean, "std": recipe.std}
    trained = models.build("resnet18", stem=shape.stem, **like).eval()
    torch.save(trained.network.state_dict(), tmp_path / "weights.pt")
    found = evaluation.checkpoint_of_weights(
        str(tmp_path / "weights.pt"), "resnet18", "tiny-imagenet", tmp_path, image_size=64, stem=None
    )
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(found.build()(pixels), trained(pixels))


# ---- weights from elsewhere ----------------------------------------------------------------------


WRAPPED = {
    "plain": lambda state: state,
    "under model": lambda state: {"model": state, "epoch": 3},
    "under state_dict, DataParallel": lambda state: {
        "state_dict": {f"module.{name}": tensor for name, tensor in state.items()}
    },
    "under net": lambda state: {"net": state},
    "beside a configuration under model": lambda state: {
        "model": {"name": "convnet", "width": 32},
        "state_dict": state,
    },
    "under model_state_dict, Lightning": lambda state: {
        "model_state_dict": {f"model.{name}": tensor for name, tensor in state.items()}
    },
    "compiled, in DataParallel": lambda state: {
        f"module._orig_mod.{name}": tensor for name, tensor in state.items()
    },
}


@pytest.mark.parametrize("case", WRAPPED)
def test_a_state_dict_becomes_a_teacher(case, toy, tmp_path):
    state = checkpoint.load(toy / "teacher/checkpoint.pt").state
    torch.save(WRAPPED[case](state), tmp_path / "weights.pt")
    assert command(*pretrain(toy, tmp_path / "adopted", "--weights", tmp_path / "weights.pt")) == 0
    adopted = checkpoint.load(tmp_path / "adopted/checkpoint.pt", "teacher")
    assert adopted.fingerprint == fingerprint(toy / "teacher")
    assert (
        adopted.results["val accuracy"]
        == checkpoint.load(toy / "teacher/checkpoint.pt").results["val accuracy"]
    )


def test_a_record_of_weights_from_elsewhere_says_on_how_many_images_they_were_measured(toy, tmp_path, capsys):
    """Weights that were adopted before it did are the same teacher."""
    torch.save(checkpoint.load(toy / "teacher/checkpoint.pt").state, tmp_path / "weights.pt")
    words = pretrain(toy, tmp_path / "adopted", "--weights", tmp_path / "weights.pt")
    assert command(*words, "--val-images", 1) == 0
    told = records.read(tmp_path / "adopted/log.json")["pretrain"]["settings"]
    assert told["val_images"] == 1 and told["curvature_images"] == 4
    capsys.readouterr()
    assert command(*words) == 0 and "is finished" in capsys.readouterr().out


def test_weights_are_measured_again_on_other_data(toy, tmp_path, refused):
    """A wrong order of classes shows in the accuracy, so one of other data is not left in its place."""
    torch.save(checkpoint.load(toy / "teacher/checkpoint.pt").state, tmp_path / "weights.pt")
    words = tmp_path / "adopted", "--weights", tmp_path / "weights.pt"
    assert command(*pretrain(toy, *words)) == 0
    shutil.copytree(toy / "toy", tmp_path / "data/toy")
    next((tmp_path / "data/toy/val").glob("*/*")).unlink()
    assert "made with other data" in refused(*pretrain(tmp_path / "data", *words))


def test_weights_that_an_earlier_version_adopted_are_those_of_their_data(toy, tmp_path, capsys):
    """It did not note the data."""
    torch.save(checkpoint.load(toy / "teacher/checkpoint.pt").state, tmp_path / "weights.pt")
    words = pretrain(toy, tmp_path / "adopted", "--weights", tmp_path / "weights.pt")
    assert command(*words) == 0
    made = checkpoint.load(path := tmp_path / "adopted/checkpoint.pt")
    made.settings.pop("data")
    made.save(path)
    capsys.readouterr()
    assert command(*words) == 0 and "is finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    "diverging, told",
    [
        (
            ["--batch-size", 64, "--learning-rate", 1e3, "--curvature-images", 2],
            "curvatures are no finite numbers at the end; lower --lambda",
        ),
        (["--batch-size", 2000, "--learning-rate", 1e30, "--curvature-images", 0], "logits are no finite"),
    ],
)
def test_a_teacher_that_its_last_step_ruined_is_not_kept(diverging, told, tmp_path, refused):
    """After that no loss is seen."""
    words = ["pretrain", "-d", "digits", "--epochs", 1, "--images", 13, "--clip-grad-norm", 0, *diverging]
    assert told in refused(*words, "--output", tmp_path / "out")
    assert not (tmp_path / "out/checkpoint.pt").exists()


def test_numbers_beyond_all_floats_are_refused(refused):
    assert "is out of range" in refused(
        "pretrain", "-d", "digits", "--output", "x", "--epochs", "1" + "0" * 400
    )


def test_weights_that_do_not_fit_are_named(toy, tmp_path, refused):
    state = checkpoint.load(toy / "teacher/checkpoint.pt").state
    torch.save(
        {"wrong": torch.zeros(1), **{name: tensor for name, tensor in state.items() if name != "0.weight"}},
        tmp_path / "weights.pt",
    )
    line = refused(*pretrain(toy, tmp_path / "out", "--weights", tmp_path / "weights.pt"))
    assert "missing 0.weight" in line and "unknown wrong" in line
    torch.save([1, 2], tmp_path / "list.pt")
    assert "no state_dict" in refused(*pretrain(toy, tmp_path / "out", "--weights", tmp_path / "list.pt"))
    assert "no weights of that name" in refused(
        *pretrain(toy, tmp_path / "out", "--weights", tmp_path / "nosuch.pt")
    )
    prefixed = {f"net.{name}": tensor for name, tensor in state.items()}
    torch.save(prefixed, tmp_path / "prefixed.pt")
    line = refused(*pretrain(toy, tmp_path / "out", "--weights", tmp_path / "prefixed.pt"))
    first = next(iter(state))
    assert f"missing {first}; unknown net.{first}" in line
    torch.save({"state_dict": state, "arguments": SimpleNamespace()}, tmp_path / "more.pt")
    line = refused(*pretrain(toy, tmp_path / "out", "--weights", tmp_path / "more.pt"))
    assert line.endswith("save the weights alone, by torch.save(model.state_dict(), FILE)")
    torch.save(state | {first: state[first] * torch.nan}, tmp_path / "nan.pt")
    line = refused(*pretrain(toy, tmp_path / "out", "--weights", tmp_path / "nan.pt"))
    assert f"not finite, in {first}" in line
    assert not (tmp_path / "out").exists()


def test_weights_of_another_normalization_are_taken_by_it(toy, tmp_path):
    """The network saw (x - 0.25) / 0.5; the recipe's mean and std would show it other images."""
    made = checkpoint.load(toy / "teacher/checkpoint.pt")
    own = dataclasses.replace(made, mean=[0.25, 0.25, 0.25], std=[0.5, 0.5, 0.5])
    torch.save(made.state, tmp_path / "weights.pt")
    given = ["--mean", "0.25,0.25,0.25", "--std", "0.5,0.5,0.5"]
    words = ["--weights", tmp_path / "weights.pt", *given]
    assert command(*pretrain(toy, tmp_path / "adopted", *words)) == 0
    pixels, _ = guard.load_images("toy", toy, size=16)
    adopted = checkpoint.load(tmp_path / "adopted/checkpoint.pt").build()
    assert torch.equal(adopted(pixels), own.build()(pixels))
    assert not torch.equal(adopted(pixels), made.build()(pixels))
    found = evaluation.checkpoint_of_weights(
        str(tmp_path / "weights.pt"), "convnet-32", "toy", toy, 16, None, mean=own.mean, std=own.std
    )
    assert torch.equal(found.build()(pixels), own.build()(pixels))


def test_weights_that_are_right_no_more_often_than_guessing_are_told(toy, tmp_path, capsys):
    state = checkpoint.load(toy / "teacher/checkpoint.pt").state
    torch.save({name: 0 * value for name, value in state.items()}, tmp_path / "weights.pt")
    assert command(*pretrain(toy, tmp_path / "out", "--weights", tmp_path / "weights.pt")) == 0
    assert "--mean, --std" in capsys.readouterr().err


@pytest.mark.parametrize(("accuracy", "told"), [(50.0, True), (60.0, True), (72.5, False), (100.0, False)])
def test_weights_that_are_better_than_guessing_are_not_told(
    accuracy, told, toy, tmp_path, capsys, monkeypatch
):
    """The standard error of one half of 60 images is 6.5 points."""
    write_folder(tmp_path, count=30)
    monkeypatch.setattr(teacher.Data, "accuracy", lambda *_: accuracy)
    torch.save(checkpoint.load(toy / "teacher/checkpoint.pt").state, tmp_path / "weights.pt")
    words = ["--weights", tmp_path / "weights.pt", "--curvature-images", 0]
    assert command(*pretrain(tmp_path, tmp_path / "out", *words)) == 0
    assert ("--mean, --std" in capsys.readouterr().err) == told


def test_the_recipes_own_normalization_is_no_other(toy, tmp_path, capsys):
    torch.save(checkpoint.load(toy / "teacher/checkpoint.pt").state, tmp_path / "weights.pt")
    words = pretrain(toy, tmp_path / "out", "--weights", tmp_path / "weights.pt")
    usual = ",".join(map(str, recipes.recipe("toy").mean))
    assert command(*words) == 0 == command(*words, "--mean", usual)
    assert "is finished" in capsys.readouterr().out


@pytest.mark.parametrize("given", ["0,0,0", "0.5,0.5,2"])
def test_a_deviation_is_above_zero(given, toy, tmp_path, capsys):
    assert command(*pretrain(toy, tmp_path / "out", "--weights", "w.pt", "--std", given)) == 2
    assert "--std" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["0.5", "0.5,0.5,2", "0.5,0.5,x"])
def test_a_normalization_is_three_shares(given, toy, tmp_path, capsys):
    assert command(*pretrain(toy, tmp_path / "out", "--weights", "w.pt", "--mean", given)) == 2
    assert "--mean" in capsys.readouterr().err
    assert command(*pretrain(toy, tmp_path / "out", "--mean", "0.5,0.5,0.5")) == 2
    assert "go with --weights" in capsys.readouterr().err


# ---- what a stage refuses ------------------------------------------------------------------------


def test_a_folder_of_other_images_is_left_alone(toy, refused):
    before = {path: path.read_bytes() for path in (toy / "images").rglob("*") if path.is_file()}
    line = refused(
        "recover",
        "--teacher",
        toy / "teacher/checkpoint.pt",
        "--output",
        toy / "images",
        *TOY["recover"],
        "--r-bn",
        3,
    )
    assert "images made with other r_bn;" in line
    assert before == {path: path.read_bytes() for path in (toy / "images").rglob("*") if path.is_file()}
    assert "files that no manifest speaks of" in refused(
        "recover", "--teacher", toy / "teacher/checkpoint.pt", "--output", toy / "toy" / "train"
    )


def test_a_teacher_with_other_settings_is_left_alone(toy, refused):
    before = (toy / "teacher/checkpoint.pt").read_bytes()
    assert "other momentum;" in refused(*pretrain(toy, toy / "teacher", "--momentum", "0.7"))
    assert (toy / "teacher/checkpoint.pt").read_bytes() == before


def test_what_a_teachers_loss_does_not_read_makes_it_no_other_teacher(toy, tmp_path, capsys, refused):
    unread = [
        "--lambda",
        7,
        "--h",
        2,
        "--loss-beta",
        2,
        "--gradient-beta",
        3,
        "--trades-beta",
        4,
        "--epsilon",
        "9/255",
    ]
    assert command(*pretrain(toy, tmp_path / "plain", "--no-curvature")) == 0
    before = fingerprint(tmp_path / "plain")
    again = pretrain(toy, tmp_path / "plain", "--no-curvature", "--curvature-every", 2, *unread)
    assert command(*again) == 0 and "is finished" in capsys.readouterr().out
    assert fingerprint(tmp_path / "plain") == before
    refusals = {
        "curvature": ["--curvature", *unread],
        "gradient_regularization": ["--gradient-regularization", *unread],
        "adversarial": ["--adversarial", "n", *unread],
    }
    for name, words in refusals.items():
        assert f"{name}" in refused(*pretrain(toy, tmp_path / "plain", "--no-curvature", *words))
    assert command(*pretrain(toy, tmp_path / "n", "--no-curvature", "--adversarial", "n")) == 0
    words = ["--no-curvature", "--adversarial", "n", "--epsilon", "9/255", "--lambda", 7]
    assert "other epsilon;" in refused(*pretrain(toy, tmp_path / "n", *words))


STUDENT = [
    "--views-against",
    "teacher",
    "--loss",
    "mse",
    "--momentum",
    0.3,
    "--schedule",
    "step",
    "--zeta",
    3,
]


@pytest.mark.parametrize(
    ("stage", "flags", "told"),
    [
        ("pretrain", ["--no-curvature", "--lambda", 7, "--h", 2], "--lambda, --h"),
        (
            "pretrain",
            ["--no-curvature", "--gradient-beta", 3, "--trades-beta", 3],
            "--gradient-beta, --trades-beta",
        ),
        # run.sh's -B gives all three, and one of them is read.
        ("pretrain", ["--adversarial", "t", "--gradient-beta", 3, "--trades-beta", 3], None),
        (
            "pretrain",
            ["--weights", "w.pt", "--curvature", "--h", 2],
            "--epochs, --batch-size, --curvature, --h, --precision",
        ),
        ("train", STUDENT, "--views-against, --momentum, --zeta"),
        ("train", ["--adversarial-share", 1, "--loss", "kl", "--temperature", 3], None),
    ],
)
def test_flags_that_nothing_reads_are_told(stage, flags, told, toy, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(checkpoint.load(toy / "teacher/checkpoint.pt").state, "w.pt")
    words = pretrain(toy, "t", *flags) if stage == "pretrain" else toy_student(toy, "--output", "s", *flags)
    capsys.readouterr()
    assert command(*words) == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if "not read" in line]
    assert [line.split(":")[1].strip() for line in notes] == ([told] if told else [])


def test_the_coefficient_of_a_regularizer_is_read_and_the_others_are_not(monkeypatch):
    """Also where it is the user's own, by its row."""
    own = registry.Regularizer("guard.method.regularizers:gradient_norm", "loss_beta")
    monkeypatch.setitem(registry.REGULARIZERS, "own", own)
    for name, unread in (("gradient-norm", "loss_beta"), ("loss", "lambda"), ("own", "lambda")):
        key = {"curvature": True, "regularizer": name, "lambda": 1.0, "loss_beta": 1.0}
        for changed in ("lambda", "loss_beta"):
            differing = differences("pretrain", key, {**key, changed: 2.0})
            assert differing == ([] if changed == unread else [changed]), name


def test_classes_that_differ_are_never_combined(toy, tmp_path, refused):
    write_folder(tmp_path, classes=("cat", "cow"))
    teacher = ["--teacher", toy / "teacher/checkpoint.pt"]
    assert "cow" in refused(
        "relabel", *teacher, "--distilled", tmp_path / "toy/train", "--output", tmp_path / "labels"
    )
    assert "classes" in refused(
        "train.evaluate",
        "--checkpoint",
        toy / "teacher/checkpoint.pt",
        "--dataset",
        "toy",
        "--root",
        tmp_path,
    )
    shutil.copytree(toy / "toy" / "val", tmp_path / "mixed" / "val")
    shutil.copytree(tmp_path / "toy" / "train", tmp_path / "mixed" / "train")
    assert "unknown: ['dog']" in refused(
        "pretrain", "--dataset", "mixed", "--root", tmp_path, "--output", tmp_path / "t", *TOY["pretrain"]
    )
    assert "pixels wide" in refused(
        "relabel", *teacher, "--distilled", toy / "toy/train", "--output", tmp_path / "labels"
    )


BAD_FLAGS = [
    ("pretrain", ["--dataset", "digits"], "--output"),
    ("pretrain", ["--output", "x"], "--dataset"),
    ("pretrain", ["--dataset", "digits", "--output", "x", "--model", "nosuch"], "no model 'nosuch'"),
    (
        "pretrain",
        ["--dataset", "digits", "--output", "x", "--image-size", "9", "--model", "vitb"],
        "9 pixels",
    ),
    ("pretrain", ["--dataset", "digits", "--output", "x", "--regularizer", "nosuch"], "invalid choice"),
    ("pretrain", ["--dataset", "digits", "--output", "x", "--epoch", "3"], "unrecognized arguments: --epoch"),
    ("pretrain", ["--dataset", "digits", "--output", "x", "--momentum", "1.5"], "below 1.0"),
    ("recover", ["--teacher", "x"], "--output"),
    ("recover", ["--teacher", "x", "--output", "y", "--image-format", "gif"], "invalid choice"),
    ("relabel", ["--teacher", "x", "--distilled", "y", "--output", "z", "--mix-alpha", "0"], "above 0"),
    (
        "train",
        [
            "--dataset",
            "digits",
            "--teacher",
            "x",
            "--distilled",
            "y",
            "--labels",
            "z",
            "--output",
            "o",
            "--mix",
            "none",
        ],
        "goes with --labels online",
    ),
    ("train.evaluate", ["--dataset", "digits", "--checkpoint", "x", "--epsilon", "-1/255"], "--epsilon"),
    ("train.evaluate", ["--dataset", "digits", "--checkpoint", "x", "--epsilon", "1/0"], "no number"),
    ("train.evaluate", ["--dataset", "digits", "--checkpoint", "x", "--protocol", "mine"], "invalid choice"),
    (
        "train.evaluate",
        ["--dataset", "digits", "--checkpoint", "x", "--epsilon", "1/255,2/255", "--attacks", "fgsm"],
        "PGD100",
    ),
    (
        "train.evaluate",
        ["--dataset", "digits", "--weights", "x", "--model", "convnet", "--image-size", "0"],
        "at least 8",
    ),
]


@pytest.mark.parametrize(("module", "flags", "expected"), BAD_FLAGS)
def test_bad_flags_are_named(module, flags, expected, tmp_path, refused):
    flags = [
        tmp_path / "out" if flag == "x" and "--output" in flags and module == "pretrain" else flag
        for flag in flags
    ]
    assert expected in refused(module, *flags)


# ---- help ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["pretrain", "recover", "relabel", "train", "train.evaluate"])
def test_help_gives_each_setting_its_default_for_the_family(module, capsys):
    def entries(*flags):
        capsys.readouterr()
        assert command(module, *flags, "--help") == 0
        blocks = [
            re.sub(r"\s+", " ", re.sub(r"-\n +", "-", block))
            for block in re.split(r"\n  (?=-)", capsys.readouterr().out)
        ]
        return {block.split()[0].rstrip(","): block for block in blocks if block.startswith("--")}

    general, cifar = entries(), entries("--dataset", "cifar10")
    stage = module.split(".")[-1]
    for name, value in as_dict(getattr(recipes.recipe("cifar10"), stage)).items():
        flag = f"--{name.replace('_', '-')}"
        shown = (
            {True: "on", False: "off"}[value]
            if isinstance(value, bool)
            else f"{value:.6g}"
            if isinstance(value, float)
            else str(value)
        )
        if name.endswith("epsilon"):
            shown = "1/255" if stage == "evaluate" else "2/255"
        assert f"[{shown}]" in cifar[flag] and flag in general
    if module == "recover":
        assert (
            "tiny-imagenet 1]" in general["--r-bn"]
            and "[0.01; " in general["--r-bn"]
            and ", iterations [" in general["--iterations"]
        )


def test_the_model_is_rebuilt_from_its_checkpoint_alone(toy):
    teacher = checkpoint.load(toy / "teacher/checkpoint.pt")
    model = teacher.build()
    assert not model.training and model(torch.rand(2, 3, 16, 16)).shape == (2, 2)
    with pytest.raises(UserError, match="not a teacher"):
        teacher.role = "student"
        teacher.save(toy / "student.pt")
        checkpoint.load(toy / "student.pt", "teacher")


def test_a_table_holds_the_attacks_that_all_its_networks_met():
    from guard.report import text

    teacher = {"attacks": {name: {"accuracy": 50.0} for name in ("clean", "pgd20", "pgd100")}}
    student = {"attacks": {name: {"accuracy": 40.0} for name in ("clean", "pgd20")}}
    table = text.accuracy_table({"teacher": teacher, "student": student}).splitlines()
    assert (
        [cell.strip() for cell in table[0].split("|")] == ["", "", "clean", "pgd20", ""]
        and len(table) == 4
        and "40.00" in table[3]
    )


def test_on_a_terminal_a_bar_shows_the_numbers(monkeypatch, capsys):
    """Also those that have a graph, as a loss has, and without a word of warning."""
    for stream in (sys.stdout, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with Progress("teacher", 2, "step") as progress:
            progress.step(loss=2 * torch.tensor(0.25, requires_grad=True), epoch=1)
            progress.step(loss=0.125)
            progress.line("only where there is no bar")
    printed = capsys.readouterr()
    assert "teacher: 100%" in printed.err and "loss=0.125" in printed.err and not printed.out


# ---- precision -----------------------------------------------------------------------------------


def test_in_bf16_every_stage_computes_nearly_the_same(toy, tmp_path):
    bf16 = ["--precision", "bf16"]
    assert command(*pretrain(toy, tmp_path / "teacher", "--curvature", *bf16)) == 0
    assert command(*pretrain(toy, tmp_path / "fp32", "--curvature")) == 0
    rough, exact = (checkpoint.load(tmp_path / name / "checkpoint.pt") for name in ("teacher", "fp32"))
    assert rough.settings["precision"] == "bf16" and {tensor.dtype for tensor in rough.state.values()} == {
        torch.float32,
        torch.int64,
    }
    assert rough.fingerprint != exact.fingerprint
    for name, tensor in exact.state.items():
        assert (rough.state[name] - tensor).abs().max() <= 0.05 * max(1, tensor.abs().max()), name

    teacher = ["--teacher", toy / "teacher/checkpoint.pt"]
    assert command("recover", *teacher, "--output", tmp_path / "images", *TOY["recover"], *bf16) == 0
    rough, exact = (
        torch.stack(
            [pixel_cache.read_image(path) for path in sorted((root / "images").glob("*/*.png"))]
        ).double()
        for root in (tmp_path, toy)
    )
    assert 0 < (rough - exact).abs().mean() < 8
    assert (
        command(
            "relabel",
            *teacher,
            "--distilled",
            toy / "images",
            "--output",
            tmp_path / "labels",
            *TOY["relabel"],
            *bf16,
        )
        == 0
    )
    rough, exact = (numpy.load(root / "labels/epoch_0000.npy") for root in (tmp_path, toy))
    assert 0 < abs(rough["logits"].astype(float) - exact["logits"]).max() < 0.1
    shared = [
        "train",
        "--dataset",
        "toy",
        "--root",
        toy,
        *teacher,
        "--distilled",
        toy / "images",
        *TOY["train"],
    ]
    assert command(*shared, "--labels", tmp_path / "labels", "--output", tmp_path / "student", *bf16) == 0
    assert command(*shared, "--labels", "online", "--epochs", 2, "--output", tmp_path / "online", *bf16) == 0
    stored, online = (checkpoint.load(tmp_path / name / "checkpoint.pt") for name in ("student", "online"))
    assert stored.settings["precision"] == "bf16" and stored.fingerprint == online.fingerprint
    assert not torch.is_autocast_enabled("cpu") and not torch.backends.cudnn.allow_tf32


def chain_with(toy, folder, *flags):
    """The networks of a toy teacher and student made with more flags, from the toy's images."""
    teacher = ["--teacher", toy / "teacher/checkpoint.pt"]
    assert command(*pretrain(toy, folder / "teacher", *flags)) == 0
    assert (
        command(
            "relabel",
            *teacher,
            "--distilled",
            toy / "images",
            "--output",
            folder / "labels",
            *TOY["relabel"],
            *flags,
        )
        == 0
    )
    made = ["--labels", folder / "labels", "--output", folder / "student"]
    assert command(*toy_student(toy, *made, *flags)) == 0
    return [checkpoint.load(folder / name / "checkpoint.pt").state for name in ("teacher", "student")]


def assert_nearly_equal(one, other):
    for states in zip(one, other):
        for name, tensor in states[0].items():
            assert tensor.is_contiguous()
            torch.testing.assert_close(
                tensor, states[1][name], rtol=0, atol=2e-3 * max(1, tensor.abs().max().item())
            )


def test_channels_last_is_another_layout_of_the_same_computation(toy, tmp_path):
    assert_nearly_equal(
        chain_with(toy, tmp_path / "last", "--channels-last"), chain_with(toy, tmp_path / "plain")
    )
    teacher = ["--teacher", toy / "teacher/checkpoint.pt"]
    assert (
        command("recover", *teacher, "--output", tmp_path / "images", *TOY["recover"], "--channels-last") == 0
    )
    found, expected = (
        torch.stack(
            [pixel_cache.read_image(path) for path in sorted((root / "images").glob("*/*.png"))]
        ).double()
        for root in (tmp_path, toy)
    )
    assert (found - expected).abs().mean() < 1


@pytest.mark.slow
def test_compiled_networks_compute_the_same(toy, tmp_path):
    assert_nearly_equal(
        chain_with(toy, tmp_path / "compiled", "--compile"), chain_with(toy, tmp_path / "plain")
    )


def test_the_curvature_of_a_compiled_teacher_is_measured(toy, tmp_path, monkeypatch):
    """By its weights, as a compiled network cannot be differentiated twice."""
    compile = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compile(self, backend="aot_eager"))
    found = []
    for more in ([], ["--compile"]):
        assert command(*pretrain(toy, tmp_path / f"teacher{len(found)}", *more)) == 0
        found.append(records.read(tmp_path / f"teacher{len(found)}" / "log.json")["pretrain"]["results"])
    assert found[0]["curvature"] == pytest.approx(found[1]["curvature"], rel=1e-3)


def test_curvature_is_measured_by_the_same_h_whatever_the_teacher_was_trained_with(toy, tmp_path):
    for h in (1, 3):
        assert command(*pretrain(toy, tmp_path / f"{h}", "--h", h)) == 0
    one, other = (records.read(tmp_path / name / "log.json")["pretrain"] for name in "13")
    assert one["settings"]["h"] != other["settings"]["h"]
    assert one["results"]["curvature"] == other["results"]["curvature"]  # neither was regularized by it


def test_compile_and_second_order_regularizers_are_not_combined(toy, tmp_path, refused):
    assert "--compile" in refused(*pretrain(toy, tmp_path / "x", "--curvature", "--compile"))
    assert "--compile" in refused(*pretrain(toy, tmp_path / "x", "--gradient-regularization", "--compile"))


def test_a_compiled_student_does_not_learn_from_input_gradients(toy, tmp_path, refused):
    words = toy_student(toy, "--output", tmp_path / "x", "--gradient-weight", 1)
    assert "--compile" in refused(*words, "--compile")
    assert "--input-gradients" in refused(*words)


def test_weights_by_name_are_evaluated_into_a_named_record(toy, tmp_path, refused, monkeypatch):
    """Not into whatever folder the command is called in."""
    monkeypatch.chdir(tmp_path)
    words = ["--dataset", "toy", "--root", toy, "--weights", "IMAGENET1K_V1", "--model", "resnet18"]
    assert "--record" in refused("train.evaluate", *words, "--check")
    assert not list(tmp_path.iterdir())
    assert command("train.evaluate", *words, "--record", tmp_path / "log.json", "--check") == 0


def test_a_student_that_its_last_step_has_ruined_is_refused(toy, tmp_path, refused, monkeypatch):
    def ruining(settings, model, *_):
        def step(*_):
            with torch.no_grad():
                [*model.parameters()][-1].fill_(torch.inf)
            return [torch.ones(())]

        return step

    monkeypatch.setattr(student, "training_step", ruining)
    line = refused(*toy_student(toy, "--output", tmp_path / "student", "--weight-average", 0))
    assert "the student's logits are no finite numbers at the end; lower --learning-rate" in line
    assert not (tmp_path / "student/checkpoint.pt").exists()
