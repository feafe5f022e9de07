"""The doctor: it finds what is wrong with a device, and chooses what is fast and exact enough."""

import json
import subprocess

import pytest
import torch
from conftest import ROOT, command
from recorded_graph import recorded_graphs

from guard.attacks import robustness
from guard.bench import doctor, estimate, exactness, health
from guard.data import loading
from guard.method import regularizers, schedules
from guard.run import graphs
from recover import sre2l

CPU = torch.device("cpu")


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(exactness, "NETWORKS", ("convnet-32",))
    monkeypatch.setattr(health, "ATTACKED", 20)
    monkeypatch.setattr(health, "ATTACKS", ("pgd20",))
    monkeypatch.setattr(doctor, "CASES", {"cpu": (("digits", "convnet-32", 16, 20),)})
    monkeypatch.setattr(estimate, "seconds_of", lambda words, teachers, size: 60.0 * size.train)


def test_the_doctor_finds_this_machine_right_and_writes_what_it_saw(small, tmp_path, capsys):
    path = tmp_path / "doctor.json"
    words = ["guard.bench", "doctor", "--device", "cpu", "--repeats", 1, "--output", path]
    assert command(*words) == 0
    printed, found = capsys.readouterr().out, json.loads(path.read_text())
    assert "0 failed" in printed and "9469 minutes" in printed
    verdicts = {row["check"]: row["verdict"] for row in found["checks"]}
    assert verdicts["student, bf16, twice"] == "passed"
    assert verdicts["no memory for all images at once"] == "not here"
    assert {row["step"] for row in found["speeds"]} == set(doctor.STEPS)
    assert all(row["images per second"] > 0 and row["share of product rate"] > 0 for row in found["speeds"])
    assert list(found["chosen"]) == ["pretrain", "recover", "relabel", "train"]
    assert " ".join(doctor.flags_of(found["chosen"])) in printed


def test_a_device_that_is_not_right_ends_in_one_line(small, tmp_path, refused, monkeypatch):
    wrong = health.row("student, twice", "other bits", "the same bits", False)
    monkeypatch.setattr(health, "CHECKS", (lambda device: [wrong],))
    path = tmp_path / "doctor.json"
    words = ["guard.bench", "doctor", "--device", "cpu", "--repeats", 1, "--output", path]
    assert "does not compute what it should: student, twice" in refused(*words)
    assert json.loads(path.read_text())["checks"][0]["verdict"] == "FAILED"


def test_an_unwritable_place_is_told_before_the_work(refused, tmp_path):
    (tmp_path / "file").write_text("")
    assert "file" in refused("guard.bench", "doctor", "--output", tmp_path / "file" / "doctor.json")


# ---- a fault of each kind is found ---------------------------------------------------------------


def wrong_weights(there):
    def spoiled(name, device, dtype, **layout):
        model, *data = there(name, device, dtype, **layout)
        if dtype == torch.float32:
            with torch.no_grad():
                next(model.parameters())[0] *= 1.5
        return model, *data

    return spoiled


def no_penalty(penalty):
    """Which is a small part of the teacher's loss."""

    def spoiled(settings, network, x, *given):
        found = penalty(settings, network, x, *given)
        return found if x.dtype == torch.float64 else 0 * found

    return spoiled


def wrong_classes(objective):
    """Whose cross-entropy is a small part of the recovery's loss."""

    class Spoiled(objective):
        def __init__(self, *given):
            super().__init__(*given)
            if self.dtype == torch.float32:
                self.labels = (self.labels + 1) % exactness.CLASSES

    return Spoiled


def other_order(batches):
    def spoiled(epoch, workers, device):
        found = [*batches(epoch, workers, device)]
        return found[::-1] if workers else found

    return spoiled


def weaker(evaluate):
    calls = iter(range(100))

    def spoiled(*given, **settings):
        found = evaluate(*given, **settings)
        for attack in found["attacks"].values():
            attack["accuracy"] += 10 * (next(calls) % 4 > 1)
        return found

    return spoiled


def more_memory(recover_pack):
    def spoiled(*given, **settings):
        held = torch.ones(20_000_000)
        return recover_pack(*given, **settings), held

    return spoiled


FAULTS = {
    "against float64": (exactness.against_float64, exactness, "there", wrong_weights),
    "penalty": (exactness.against_float64, regularizers, "penalty", no_penalty),
    "classes of the recovery": (exactness.against_float64, sre2l, "Objective", wrong_classes),
    "workers": (health.workers, loading, "batches", other_order),
    "attacks": (health.attacked, robustness, "evaluate", weaker),
    "memory": (health.estimated_memory, sre2l, "recover_pack", more_memory),
}


ONE_TERM = {"penalty": "gradient-norm, penalty", "classes of the recovery": "recovery, cross-entropy"}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(name, small, monkeypatch):
    check, module, function, spoil = FAULTS[name]
    assert not doctor.failed(check(CPU))
    monkeypatch.setattr(module, function, spoil(getattr(module, function)))
    rows = list(check(CPU))
    assert doctor.failed(rows)
    if name in ONE_TERM:
        of_the_term = [row for row in rows if ONE_TERM[name] in row["check"]]
        assert not any(row["passed"] for row in of_the_term), "in bf16 too"
        assert all(row["passed"] for row in rows if row not in of_the_term)


def test_other_bits_are_found(monkeypatch):
    monkeypatch.setattr(health, "STAGES", {"teacher": lambda *_: [torch.rand(3)]})
    assert [row["found"] for row in doctor.failed(health.twice(CPU))] == ["other bits"] * 2


def test_a_check_that_ends_in_an_error_has_failed(monkeypatch):
    def check(device):
        raise RuntimeError("an illegal memory access was encountered\nand more")

    monkeypatch.setattr(health, "CHECKS", (check,))
    (row,) = doctor.checks(CPU)
    assert row["found"] == "RuntimeError: an illegal memory access was encountered"
    assert doctor.verdict(row) == "FAILED"


def test_captured_steps_are_compared_with_single_operations(small, monkeypatch):
    """With the stand-in for CUDA graphs; a learning rate that a graph does not see is found."""
    monkeypatch.setattr(graphs, "captures", lambda mode, device: mode == "auto")
    with recorded_graphs():
        assert [row["passed"] for row in health.captured(CPU)] == [True] * 3

        def set_learning_rate(optimizer, learning_rate):
            for group in optimizer.param_groups:
                group["lr"] = torch.tensor(learning_rate)

        monkeypatch.setattr(schedules, "set_learning_rate", set_learning_rate)
        recovery, *_ = health.captured(CPU)
        assert not recovery["passed"]


# ---- the choice ----------------------------------------------------------------------------------


def timed(step, way, precision, case, seconds):
    rate = None if seconds is None else 1 / seconds
    return {
        "step": step,
        "way": way,
        "precision": precision,
        "channels_last": "last" in way,
        "graphs": "off" if "no graphs" in way else "auto",
        "case": case,
        "seconds": seconds,
        "images per second": rate,
    }


def test_the_fastest_way_that_is_exact_enough_on_all_networks_is_chosen():
    speeds = [
        timed("labels", "fp32", "fp32", "small", 4.0),
        timed("labels", "fp32", "fp32", "large", 4.0),
        timed("labels", "bf16, channels-last, no graphs", "bf16", "small", 2.0),
        timed("labels", "bf16, channels-last, no graphs", "bf16", "large", 1.0),
        timed("labels", "bf16, compiled", "bf16", "small", 1.0),
        timed("labels", "bf16, compiled", "bf16", "large", None),  # it has no memory for it
        timed("student", "fp32", "fp32", "small", 3.0),
        timed("student", "bf16", "bf16", "small", 1.0),
        timed("student", "tf32", "tf32", "small", 0.5),  # which nobody has checked
        {**timed("labels", "bf16, also compiled", "bf16", "small", 0.1), "compile": True},  # nor this
        {**timed("labels", "bf16, also compiled", "bf16", "large", 0.1), "compile": True},
    ]
    passed = {
        ("labels", "fp32"): [True],
        ("labels", "bf16"): [True, True],
        ("student", "fp32"): [True],
        ("student", "bf16"): [False, True],  # on one network it is too coarse
    }
    checks = [
        {**health.row("", "", "", each), "step": step, "precision": precision}
        for (step, precision), of_networks in passed.items()
        for each in of_networks
    ]
    choice = doctor.chosen(checks, speeds)
    assert choice == {
        "relabel": {"precision": "bf16", "channels_last": True, "graphs": "off"},
        "train": {"precision": "fp32", "channels_last": False, "graphs": "auto"},
    }
    assert [doctor.verdict(row) for row in checks[-2:]] == ["too coarse", "passed"]
    assert not doctor.failed(checks)
    compiled = {"step": "labels", "precision": "bf16", "compile": True}
    choice = doctor.chosen([*checks, {**health.row("", "", "", True), **compiled}], speeds)
    assert choice["relabel"] == {
        "precision": "bf16",
        "channels_last": False,
        "graphs": "auto",
        "compile": True,
    }


def test_on_a_gpu_the_compiled_steps_are_checked_too(small, monkeypatch):
    """A compiler that gets it wrong is found; here the compiled network is one that is not the network."""
    kinds = exactness.arithmetics_of
    assert [layout["compile"] for _, layout in kinds("labels", torch.device("cuda", 0))] == 3 * [False] + [
        True
    ]
    assert not any(layout["compile"] for _, layout in kinds("recovery", torch.device("cuda", 0)))

    def no_weights(module):
        for weight in module.parameters():
            torch.nn.init.zeros_(weight)

    compiled = ("bf16", {"channels_last": True, "compile": True})
    monkeypatch.setattr(exactness, "arithmetics_of", lambda step, device: [compiled])
    monkeypatch.setattr(exactness, "STEPS", {"labels": {"logits": exactness.logits}})
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: None)
    (row,) = exactness.against_float64(CPU)
    assert row["passed"] and row["compile"] and "bf16, compiled" in row["check"]
    monkeypatch.setattr(torch.nn.Module, "compile", no_weights)
    (row,) = exactness.against_float64(CPU)
    assert not row["passed"] and doctor.verdict(row) == "too coarse"


def test_run_sh_takes_the_flags_that_are_chosen():
    way = {"precision": "bf16", "channels_last": True, "graphs": "off", "compile": True}
    choice = dict.fromkeys(doctor.DECIDES, way) | {"recover": {**way, "compile": False}}
    choice["pretrain"] = {**way, "compile": False}
    words = ["bash", "run.sh", "-d", "digits", "-p", "-n", "--", *doctor.flags_of(choice)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        stage = line.split()[2]
        assert "--precision bf16" in line and ("--graphs off" in line) == (stage != "pretrain")


def test_every_way_of_a_gpu_is_tried():
    ways = doctor.ways_of("student", torch.device("cuda", 0))
    assert len(ways) == 13
    assert {"tf32", "bf16, channels-last, no graphs", "bf16, channels-last, compiled"} <= set(ways)
    assert len(doctor.ways_of("gradient-norm", torch.device("cuda", 0))) == 6
