"""One network evaluated in several ways: what was found in one way is not lost to another."""

import shutil
from types import SimpleNamespace

import pytest
from conftest import command, toy_student

from guard.attacks import robustness
from guard.errors import UserError
from guard.networks import checkpoint
from guard.paper import records as paper_records
from guard.report import text
from guard.run import evaluations, records, storage
from train import evaluation, judging

NAME = "evaluate teacher"
AT_ONE, AT_TWO = ("--attacks", "pgd20", "--epsilon", "1/255"), ("--attacks", "pgd20", "--epsilon", "2/255")


@pytest.fixture
def evaluate(toy, tmp_path):
    """evaluate(flag, ...): evaluates the toy's teacher into tmp_path/log.json; its entry there."""
    log = tmp_path / "log.json"
    words = ["train.evaluate", "--checkpoint", toy / "teacher/checkpoint.pt", "--dataset", "toy"]

    def of(*flags, status=0):
        assert command(*words, "--root", toy, "--workers", 0, "--record", log, *flags) == status
        return records.read(log).get(NAME)

    return of


def attacked(capsys):
    """How many attacks were made since this was last asked."""
    printed = capsys.readouterr()
    return (printed.out + printed.err).count("attack pgd20: accuracy")


def test_a_network_evaluated_in_another_way_and_back_is_not_attacked_again(evaluate, tmp_path, capsys):
    first, second = evaluate(*AT_ONE), evaluate(*AT_TWO)
    assert (first["epsilon"], second["epsilon"]) == pytest.approx((1 / 255, 2 / 255))
    assert attacked(capsys) == 2
    assert evaluate(*AT_ONE) == first and evaluate(*AT_TWO) == second
    assert attacked(capsys) == 0
    assert evaluations.of(tmp_path / "log.json", NAME) == [second, first]


def test_it_says_nothing_of_an_evaluation_in_another_way_that_it_keeps(evaluate, capsys):
    evaluate(*AT_ONE), evaluate(*AT_TWO)
    assert "in place of" not in capsys.readouterr().err


def test_an_evaluation_stays_the_entry_until_one_in_another_way_has_found_something(
    evaluate, monkeypatch, capsys
):
    first = evaluate(*AT_ONE)

    def ended(*arguments, **named):
        raise UserError("ended before the first attack")

    monkeypatch.setattr(robustness, "evaluate", ended)
    assert evaluate(*AT_TWO, status=2) == first
    assert "ended before the first attack" in capsys.readouterr().err


def test_with_force_the_evaluation_in_the_other_way_stays(evaluate, tmp_path, capsys):
    evaluate(*AT_ONE), evaluate(*AT_TWO), attacked(capsys)
    evaluate(*AT_ONE, "--force")
    assert attacked(capsys) == 1
    assert [each["key"]["epsilon"] * 255 for each in evaluations.of(tmp_path / "log.json", NAME)] == [1, 2]


def test_an_evaluation_that_was_stopped_goes_on_after_another(evaluate, tmp_path, capsys):
    log = tmp_path / "log.json"
    first = evaluate("--attacks", "pgd20,fgsm", "--epsilon", "1/255")
    stopped = {"key": first["key"], "attacks": {"pgd20": first["attacks"]["pgd20"]}, "complete": False}
    records.update(log, NAME, stopped)
    evaluate(*AT_TWO), attacked(capsys)
    found = evaluate("--attacks", "pgd20,fgsm", "--epsilon", "1/255")
    assert attacked(capsys) == 0
    assert found["complete"] and found["attacks"] == {
        name: {**told, "seconds": found["attacks"][name]["seconds"]}
        for name, told in first["attacks"].items()
    }


def test_a_curve_takes_each_epsilon_from_the_evaluation_that_has_it(evaluate, tmp_path, capsys):
    for epsilon in ("1/255", "2/255", "4/255"):
        evaluate("--attacks", "pgd100", "--epsilon", epsilon)
    capsys.readouterr()
    evaluate("--epsilon", "0,1/255,2/255,8/255")
    printed = capsys.readouterr()
    assert (printed.out + printed.err).count("attack pgd100: accuracy") == 1  # 8/255
    accuracy = storage.read_sealed(tmp_path / "curve.json", "curve")["accuracy"]
    told = [each["attacks"]["pgd100"]["accuracy"] for each in evaluations.of(tmp_path / "log.json", NAME)]
    assert accuracy[1:3] == told[2:0:-1]


def test_what_is_known_of_another_network_gives_way(evaluate, tmp_path, capsys):
    log = tmp_path / "log.json"
    evaluate(*AT_ONE), evaluate(*AT_TWO)
    for entry in (entries := evaluations.of(log, NAME)):
        entry["key"]["fingerprint"] = "another network's"
    records.change(log, {NAME: entries[0], evaluations.OTHERS: {NAME: entries[1:], "evaluate network": [{}]}})
    attacked(capsys)
    third = evaluate(*AT_ONE)
    assert "in place of one with other epsilon, fingerprint" in capsys.readouterr().err
    assert evaluations.of(log, NAME) == [third]
    assert records.read(log)[evaluations.OTHERS] == {"evaluate network": [{}]}


def test_experiments_of_one_teacher_by_two_protocols_share_its_evaluations(toy, tmp_path, capsys):
    shutil.copytree(toy / "teacher", tmp_path / "teacher")
    teacher, found = tmp_path / "teacher/checkpoint.pt", {}
    for name, epsilon in (("a", "1/255"), ("b", "2/255"), ("c", "1/255")):
        words = ["--teacher", teacher, "--output", tmp_path / name, "--attacks", "pgd20"]
        attacked(capsys)
        assert command(*toy_student(toy, *words, "--epsilon", epsilon)) == 0
        found[name] = records.read(tmp_path / name / "log.json")
        assert attacked(capsys) == (1 if name == "c" else 2)  # the student is new, the teacher is not
    assert found["a"][NAME] == found["c"][NAME] != found["b"][NAME]
    assert found["c"][NAME]["key"]["fingerprint"] == checkpoint.load(teacher).fingerprint


def test_what_waits_is_found_where_the_entry_itself_is_gone(evaluate, tmp_path, capsys):
    log = tmp_path / "log.json"
    first = evaluate(*AT_ONE)
    evaluate(*AT_TWO), attacked(capsys)
    records.change(log, {NAME: None})
    assert evaluate(*AT_ONE) == first and attacked(capsys) == 0


def test_of_two_with_the_same_key_the_entry_counts(evaluate, tmp_path):
    log = tmp_path / "log.json"
    first = evaluate(*AT_ONE)
    records.change(log, {evaluations.OTHERS: {NAME: [{**first, "complete": False}]}})
    assert evaluate(*AT_ONE) == first == records.read(log)[NAME]


def test_what_another_network_left_is_forgotten_with_what_waits(tmp_path):
    log, waiting = tmp_path / "log.json", {NAME: [{"key": 1}], "evaluate student": [{"key": 2}]}
    records.change(log, {NAME: {"key": 3}, "train": {"key": 4}, evaluations.OTHERS: waiting})
    evaluations.forget(log, ["pretrain", NAME])
    left = {evaluations.OTHERS: {"evaluate student": [{"key": 2}]}, "train": {"key": 4}}
    assert {name: entry for name, entry in records.read(log).items() if name != storage.SEAL} == left


def test_a_teacher_that_cannot_be_written_is_not_attacked_again_for_what_its_record_tells(
    toy, tmp_path, monkeypatch, capsys
):
    shutil.copytree(toy / "teacher", tmp_path / "teacher")
    teacher = tmp_path / "teacher/checkpoint.pt"
    words = ["--dataset", "toy", "--root", toy, "--workers", 0, "--record", tmp_path / "teacher/log.json"]
    for asked in (AT_ONE, AT_TWO):
        assert command("train.evaluate", "--checkpoint", teacher, *words, *asked) == 0
    monkeypatch.setattr(evaluation.os, "access", lambda path, mode: False)
    attacked(capsys)
    words = ["--teacher", teacher, "--output", tmp_path / "student", "--record", tmp_path / "log.json"]
    assert command(*toy_student(toy, *words, *AT_ONE)) == 0
    assert attacked(capsys) == 1  # the student
    assert records.read(tmp_path / "log.json")[NAME]["epsilon"] == pytest.approx(1 / 255)


def test_what_the_checks_say_is_told_and_that_all_passed_else():
    found = {"largest_change": 2 / 255, "accuracy": 50.0}
    fine = {"images": 10, "epsilon": 2 / 255, "protocols": ["quick"], "warnings": []}
    fine["attacks"] = {"clean": {"accuracy": 90.0, "largest_change": 0.0}, "pgd20": found}
    told = text.evaluation_text({"teacher": fine, "student": {**fine, "warnings": ["something is odd"]}})
    assert "teacher: all checks passed; largest change of a pixel 2/255." in told.splitlines()
    assert "student, warning: something is odd." in told.splitlines()
    assert "student: all checks" not in told
    curve = {"epsilon": [1.0], "accuracy": [0.0], "reaches_zero": True, "images": 10, "warnings": ["odd"]}
    assert text.curve_text(curve).endswith("reaches zero, as it must.\nWarning: odd.")


def test_a_judgement_tells_what_the_checks_say():
    found = {"accuracy": 50.0}
    results = [{"attacks": {"clean": found}, "epsilon": 0.01, "images": 10, "warnings": ["odd"]}] * 2
    row = judging._accuracies(results, ["clean"])
    assert row["warnings"] == ["odd"]  # of two seeds, once
    request = SimpleNamespace(
        seeds=range(2),
        random=False,
        of_images={"soft_labels": False},
        dataset="toy",
        recipe="dc",
        unlike_the_recipe={},
    )
    about = {"set": "mine", "network": "convnet", "views": "as set", "images per class": 1}
    assert judging._text([{**about, **row}], request).endswith("\n\nmine, convnet, as set, warning: odd.\n")


def test_a_run_is_recorded_without_the_other_evaluations_of_its_networks():
    entries = {"evaluate student": {"complete": True}, evaluations.OTHERS: {NAME: [{"key": {}}]}}
    assert paper_records.trimmed(entries) == {"evaluate student": {"complete": True}}
    with pytest.raises(UserError, match="no finished evaluation"):
        paper_records.trimmed({evaluations.OTHERS: {"evaluate student": [{"complete": True}]}})
