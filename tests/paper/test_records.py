"""The files of recorded runs: what is read, refused by name, and written."""

import json
import re
import resource
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from recorded import RESULTS, add, contents, empty, run, text_of
from spoiling import cut, flip

from guard.errors import UserError
from guard.paper import plan, records, runner, tables
from guard.run import storage


@pytest.fixture
def results(tmp_path):
    return empty(tmp_path)


def write(path, *objects):
    """A file of runs with these objects, each sealed, whatever they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(storage.sealed(each)) + "\n" for each in objects))


def of_run(record, **others):
    """The JSON object of a run."""
    return contents(
        record, **({"scale": "cpu", "dataset": "cifar10", "size": 10, "arm": "guard", "seed": 0} | others)
    )


# ---- files that are no records -------------------------------------------------------------------


def damage(held, case):
    if case == "format":
        return {**held, "format": "guard-cell-9"}
    if case == "no evaluation":
        del held["record"]["evaluate student"]
    if case == "unfinished":
        held["record"]["evaluate student"]["complete"] = False
    if case == "no percentage":
        held["record"]["evaluate student"]["attacks"]["clean"]["accuracy"] = float("nan")
    if case == "teacher":
        held["record"]["evaluate teacher"] = None
    if case == "settings":
        del held["record"]["pretrain"]["settings"]["model"]
    if case == "scale":
        held["scale"] = "paper"
    if case == "arm":
        held["arm"] = "sre2l"
    if case == "no command":
        del held["command"]
    if case == "teacher on no images":
        del held["record"]["evaluate teacher"]["images"]
    if case == "curve":
        held["curve"] = {"attack": "pgd100", "epsilon": [0.0], "accuracy": []}
    if case == "curve by no attack":
        held["curve"] = {"epsilon": [0.0], "accuracy": [40.0]}
    if case == "no device":
        del held["record"]["pretrain"]["environment"]
    if case == "no results":
        held["record"]["pretrain"]["results"] = None
    if case == "no images":
        del held["record"]["recover"]["images"]
    if case == "no key":
        held["record"]["evaluate student"]["key"] = None
    if case == "open quote":
        held["command"] += " '"
    if case == "no run.sh":
        held["command"] = "nfgsm-0"
    return held


CASES = {
    "format": "its format is 'guard-cell-9'",
    "no evaluation": "no entry 'evaluate student'",
    "unfinished": "is not finished",
    "no percentage": "student's accuracy under clean is no percentage",
    "teacher": "its teacher holds no attacks",
    "settings": "have no model",
    "scale": "its scale is 'paper' in the folder 'cpu'",
    "arm": "its arm is not 'guard'",
    "no command": "'command' is missing",
    "teacher on no images": "its teacher was evaluated on no images",
    "curve": "its curve is no list",
    "curve by no attack": "under an attack that it names",
    "no device": "'pretrain' names no device",
    "no results": "results of 'pretrain' are no object",
    "no images": "does not say how many images",
    "no key": "evaluation is no object",
    "open quote": "a quote that does not end",
    "no run.sh": "command is none of run.sh, 'nfgsm-0'",
}


@pytest.mark.parametrize("case", CASES)
def test_a_damaged_run_is_named(results, case):
    path = results / "cpu" / "main.jsonl"
    whole = of_run(run({"clean": 40.0}), seed=1)
    write(path, whole, damage(of_run(run({"clean": 40.0})), case))
    with pytest.raises(UserError, match=f"{path.name}, line 2.*{CASES[case]}"):
        tables.write(results)
    assert not (results / "TABLES.md").exists()


SPOILED = {
    "cut": lambda line: line[: len(line) // 2],
    "empty": lambda line: "",
    "another number": lambda line: line.replace('"accuracy": 40.0', '"accuracy": 90.0'),
    "without its fingerprint": lambda line: json.dumps(json.loads(line) | {"fingerprint": None}),
    "a list": lambda line: "[1, 2]",
    "an empty list": lambda line: "[]",
    "text": lambda line: "hello",
}


@pytest.mark.parametrize("case", SPOILED)
@pytest.mark.parametrize("reader", [text_of, lambda results: add(results, run({"clean": 1.0}), seed=7)])
def test_a_line_that_is_not_as_it_was_written_is_named(results, case, reader):
    """By whoever reads, and by whoever adds a run, who changes nothing then."""
    path = add(results, run({"clean": 40.0}))
    add(results, run({"clean": 41.0}), seed=1)
    first, second = path.read_text().splitlines()
    path.write_text(f"{second}\n{SPOILED[case](first)}\n")
    before = path.read_bytes()
    with pytest.raises(UserError, match=f"{path.name}, line 2"):
        reader(results)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "name",
    [
        "cpu/notes.txt",
        "stray.jsonl",
        "cpu/cifar10-ipc10-guard-seed0.png",
        "cpu/nosuchtable.jsonl",
        "gpu/main.jsonl",
        "cpu/torn.json",
        "cpu/main.jsonl",
    ],
)
def test_an_unknown_file_is_named(results, name):
    path = results / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text('{"format": "guard-ce')
    with pytest.raises(UserError, match=path.name):
        text_of(results)


def test_bytes_that_are_no_text_are_named(results):
    path = add(results, run({"clean": 40.0}))
    path.write_bytes(b"\xff" + path.read_bytes())
    with pytest.raises(UserError, match=path.name):
        text_of(results)


def test_an_evaluation_on_no_images_is_named(results):
    record = run({"clean": 40.0})
    record["evaluate student"]["images"] = 0
    write(results / "cpu" / "main.jsonl", of_run(record))
    with pytest.raises(UserError, match="evaluated on no images"):
        text_of(results)


@pytest.mark.parametrize("copy", ["main.jsonl", "swap.jsonl"])
def test_the_same_run_twice_is_an_error(results, copy):
    """In one file, and in those of two tables."""
    path = add(results, run({"clean": 40.0}))
    if copy == path.name:
        path.write_text(2 * path.read_text())
    else:
        shutil.copy(path, path.with_name(copy))
    with pytest.raises(UserError, match="same run, cifar10-ipc10-guard-seed0"):
        text_of(results)


# ---- reading and writing -------------------------------------------------------------------------


def test_a_run_is_read_as_it_was_added(results):
    record, curve = run({"clean": 40.0}), {"attack": "pgd100", "epsilon": [0.0], "accuracy": [40.0]}
    arm = "images guard, labels sre2l"
    add(results, record, images="guard", labels="sre2l", seed=3, curve=curve, table="swap")
    (found,) = records.read(results)
    assert (found.curve, found.arm, found.seed) == (curve, arm, 3)
    assert found.command.startswith("bash run.sh -d cifar10 ") and " -Y plain-3 " in found.command
    for stage, entry in record.items():
        assert {**found.record[stage], "settings": None} == {**entry, "settings": None}
        for name, value in entry.get("settings", {}).items():
            assert name == "labels" or found.record[stage]["settings"][name] == value
    assert found.name == "cifar10-ipc10-images-guard-labels-sre2l-seed3" and found.swapped
    assert found.place == f"{results / 'cpu' / 'swap.jsonl'}, line 1"


def test_runs_stand_in_order_and_once(results):
    for seed in (10, 2, 0):
        add(results, run({"clean": 40.0 + seed}), seed=seed)
    add(results, run({"clean": 30.0}), arm="sre2l", seed=5)
    add(results, run({"clean": 20.0}), size=1, seed=5, table="regularizers")
    add(results, run({"clean": 55.0}), seed=2, table="regularizers")  # again, for another table
    first, second = (results / "cpu" / f"{table}.jsonl" for table in ("main", "regularizers"))
    held = [json.loads(line) for line in first.read_text().splitlines()]
    assert [(each["arm"], each["seed"]) for each in held] == [
        ("sre2l", 5),
        ("guard", 0),
        ("guard", 2),
        ("guard", 10),
    ]
    assert held[2]["record"]["evaluate student"]["attacks"]["clean"]["accuracy"] == 55.0
    assert len(second.read_text().splitlines()) == 1
    assert [each.images_per_class for each in records.read(results)] == [1, 10, 10, 10, 10]


def test_other_runs_lines_stay_as_they_are(results):
    path = add(results, run({"clean": 40.0}))
    line = path.read_text()
    add(results, run({"clean": 41.0}), seed=1)
    assert path.read_text().startswith(line)


def test_runs_that_end_at_the_same_time_are_all_kept(results):
    with ThreadPoolExecutor(8) as pool:
        seeds = range(24)
        list(pool.map(lambda seed: add(results, run({"clean": 40.0}, seed=seed), seed=seed), seeds))
    assert [each.seed for each in records.read(results)] == list(seeds)
    assert [path.name for path in (results / "cpu").iterdir()] == ["main.jsonl"]


def test_a_run_that_cannot_be_written_leaves_the_file_as_it_was(results, monkeypatch):
    path = add(results, run({"clean": 40.0}))
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(storage.os, "replace", full)
    with pytest.raises(UserError, match="cannot write .*main.jsonl"):
        add(results, run({"clean": 41.0}), seed=1)
    assert path.read_bytes() == before and [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("size", [0, 100])
def test_on_a_full_disk_what_was_there_stays(results, size):
    path = add(results, run({"clean": 40.0}))
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with pytest.raises(UserError, match="cannot write .*main.jsonl"):
            add(results, run({"clean": 41.0}), seed=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before and [each.name for each in path.parent.iterdir()] == [path.name]


# ---- what run.sh left ----------------------------------------------------------------------------

LOG_DAMAGES = {
    "cut": cut,
    "emptied": lambda path: path.write_bytes(b""),
    "flipped": flip,
    "gone": Path.unlink,
}


@pytest.mark.parametrize("damage", LOG_DAMAGES)
def test_a_damaged_log_is_no_record(results, tmp_path, damage):
    """The run is listed as failed, with a line that names the file, and nothing is written."""
    planned = plan.runs_of("digits", "recipe")[0]
    own = runner.Runner("digits", "recipe", results, tmp_path / "runs", 1)
    log = own.folder(planned) / "log.json"
    log.parent.mkdir(parents=True)
    storage.write_sealed(run({"clean": 40.0}), log)
    LOG_DAMAGES[damage](log)
    said = own.do(planned, ["true"])
    assert said.startswith("error: ") and str(log) in said and "\n" not in said
    assert not list(results.glob("*/*.jsonl"))


def test_what_is_long_is_not_kept(results, tmp_path):
    words = ["bash", "run.sh", "--help"]  # ends well and does nothing
    planned = plan.runs_of("digits", "recipe")[0]
    own = runner.Runner("digits", "recipe", results, tmp_path / "runs", 1)
    entries = run({"clean": 40.0})
    entries["train"]["history"] = [{"epoch": 1}]
    entries["evaluate student"]["attacks"]["clean"]["broken"] = [3]
    own.folder(planned).mkdir(parents=True)
    storage.write_sealed(entries, own.folder(planned) / "log.json")
    assert own.do(planned, words) is None
    (found,) = records.read(results)
    assert "history" not in found.record["train"]
    assert found.record["evaluate student"]["attacks"]["clean"] == {"accuracy": 40.0}
    assert found.command == "bash run.sh --help"


def test_an_unfinished_evaluation_is_no_record(results, tmp_path):
    planned = plan.runs_of("digits", "recipe")[0]
    own = runner.Runner("digits", "recipe", results, tmp_path / "runs", 1)
    entries = run({"clean": 40.0})
    entries["evaluate student"]["complete"] = False
    own.folder(planned).mkdir(parents=True)
    storage.write_sealed(entries, own.folder(planned) / "log.json")
    assert "no finished evaluation" in own.do(planned, ["true"])


# ---- the committed records -----------------------------------------------------------------------


def test_no_record_names_a_folder_of_the_machine():
    """The folders of a run are below the repository, and those of the stages' commands are left out."""
    files = [*RESULTS.rglob("*.jsonl"), *RESULTS.glob("*.json")]
    absolute = re.compile(r"(?<![\w.])/(home|root|tmp|mnt|work|opt|Users|data)/")
    assert files and not [path.name for path in files if absolute.search(path.read_text())]
    environment = {"command": "python -m train --root /home/user/data", "device": "a machine"}
    entry = {"environment": environment, "attacks": {"mim": {"accuracy": 1.0, "broken": "x"}}, "history": [1]}
    entry["checkpoint"] = "/home/user/runs/teachers/1/checkpoint.pt"
    kept = {"environment": {"device": "a machine"}, "attacks": {"mim": {"accuracy": 1.0}}}
    assert records.trimmed_entry(entry) == kept


def test_the_committed_runs_are_whole_and_attack_enough_images():
    """At CPU size the runs of single seeds leave a standard error of 5 points at most, on all of CIFAR-10 one
    of 2.
    """
    held = records.read(RESULTS)
    assert {each.scale for each in held} == {"recipe", "cpu", "full-cpu"}
    assert sum(each.scale != "full-cpu" for each in held) == 219
    of_full_size = [each for each in held if each.scale == "full-cpu"]
    assert all(each.record["evaluate student"]["images"] >= plan.ENOUGH for each in of_full_size)
    assert all(each.record["evaluate student"]["images"] >= 100 for each in held)
    of_digits = [each for each in held if each.scale == "recipe"]
    of_all_seeds = dict.fromkeys(plan.TABLES["digits"]["digits"][1], 5)
    of_fewer = {"random+guard": 4, "random+guard-batch": 1, "random+nfgsm": 4, "random+nfgsm+adversarial": 4}
    of_fewer |= {f"{labels}+adversarial": 3 for labels in ("sre2l", "guard", "nfgsm", "sre2l-hard")}
    of_fewer |= {"sre2l-hard": 3, "random+adversarial": 4, "random+guard+adversarial": 0}
    assert {(each.arm, each.seed) for each in of_digits} == {
        (arm, seed) for arm, runs in (of_all_seeds | of_fewer).items() for seed in range(runs)
    }
    assert all(each.record["evaluate student"]["images"] == 355 for each in of_digits)
