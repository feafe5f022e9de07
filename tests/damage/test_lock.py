"""One process at a time in a folder: who is refused, who waits, and what a killed process leaves."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import forked
import pytest
from conftest import ROOT, TOY, command, toy_student, write_folder

from guard.errors import UserError
from guard.networks import checkpoint
from guard.run import lock, records

HOLD = """
import sys, time
from guard.run import lock
with lock.held(sys.argv[1]):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that is in tmp_path/folder."""
    started = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path / "folder"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert started.stdout.readline() == "held\n"
    yield started
    started.kill()
    started.wait()


def test_the_second_process_is_refused_and_told_who_is_there(tmp_path, holder):
    with (
        pytest.raises(UserError, match=f"in use by process {holder.pid} on {os.uname().nodename};"),
        lock.held(tmp_path / "folder"),
    ):
        pytest.fail("was let in")


def test_a_killed_process_is_taken_over_and_its_half_written_files_are_cleared(tmp_path, holder):
    (tmp_path / "folder" / ".log.json.77.part").write_text("half")
    (tmp_path / "folder" / "log.json").write_text("whole")
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with lock.held(tmp_path / "folder"):
        assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == [".lock", "log.json"]
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == ["log.json"]


def test_tidying_removes_the_file_of_a_dead_process_and_leaves_that_of_a_living_one(tmp_path, holder):
    lock.tidy(tmp_path / "folder")
    assert (tmp_path / "folder" / ".lock").exists()
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    lock.tidy(tmp_path / "folder")
    lock.tidy(tmp_path / "folder")
    assert not list((tmp_path / "folder").iterdir())


def test_who_waits_comes_in_when_the_other_has_left(tmp_path, holder, capsys):
    killed = threading.Event()
    threading.Timer(0.5, lambda: (killed.set(), holder.kill())).start()
    with lock.held(tmp_path / "folder", wait=True):
        assert killed.is_set()
    holder.wait(5)
    printed = capsys.readouterr().err
    assert printed.startswith("note: ") and f"process {holder.pid}" in printed and printed.count("\n") == 1


def test_an_open_file_is_locked_in_use_or_gone(tmp_path):
    path = tmp_path / lock.FILE
    first, second = (os.open(path, os.O_RDWR | os.O_CREAT) for _ in range(2))
    assert lock._lock(first, path) is lock.Answer.LOCKED
    assert lock._lock(second, path) is lock.Answer.IN_USE
    path.unlink()
    os.close(first)
    assert lock._lock(second, path) is lock.Answer.GONE
    path.write_text("of the next one")
    assert lock._lock(second, path) is lock.Answer.GONE
    os.close(second)


def test_folders_that_nobody_wrote_to_do_not_stay(tmp_path):
    with lock.held(tmp_path / "a" / "b" / "c"):
        assert (tmp_path / "a" / "b" / "c").is_dir()
    assert list(tmp_path.iterdir()) == []
    with lock.held(tmp_path / "a" / "b" / "c"):
        (tmp_path / "a" / "kept").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "kept"]


def test_only_one_of_many_is_in_at_a_time(tmp_path):
    """Each adds to a file as nobody should who is not alone."""
    code = """
import sys, time
from pathlib import Path
from guard.run import lock
for _ in range(5):
    with lock.held(sys.argv[1], wait=True):
        path = Path(sys.argv[1]) / "count"
        count = int(path.read_text()) if path.exists() else 0
        time.sleep(0.01)
        path.write_text(str(count + 1))
"""
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, tmp_path / "folder"], cwd=ROOT, stderr=subprocess.DEVNULL
        )
        for _ in range(4)
    ]
    assert [process.wait(60) for process in started] == [0] * 4
    assert (tmp_path / "folder" / "count").read_text() == "20"


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="cannot write .*file/folder"),
        lock.held(tmp_path / "file" / "folder"),
    ):
        pytest.fail("was let in")


@pytest.mark.parametrize("stage", ["recover", "relabel", "train", "train.evaluate"])
def test_a_stage_in_a_folder_that_is_in_use_ends_at_once(stage, toy, tmp_path, holder, refused):
    teacher, folder = toy / "teacher/checkpoint.pt", tmp_path / "folder"
    words = {
        "recover": ["--teacher", teacher, "--output", folder, *TOY["recover"]],
        "relabel": [
            "--teacher",
            teacher,
            "--distilled",
            toy / "images",
            "--output",
            tmp_path / "labels",
            "--record",
            folder / "log.json",
            *TOY["relabel"],
        ],
        "train": [
            "--dataset",
            "toy",
            "--root",
            toy,
            "--teacher",
            teacher,
            "--distilled",
            toy / "images",
            "--labels",
            toy / "labels",
            "--output",
            folder,
            *TOY["train"],
        ],
        "train.evaluate": [
            "--dataset",
            "toy",
            "--root",
            toy,
            "--checkpoint",
            teacher,
            "--record",
            folder / "log.json",
            "--protocol",
            "quick",
        ],
    }
    assert f"process {holder.pid} on" in refused(stage, *words[stage])
    assert sorted(path.name for path in folder.iterdir()) == [".lock"] and not (tmp_path / "labels").exists()


def test_two_trainings_of_one_teacher_make_it_once(tmp_path):
    """Also the data cache that both want."""
    write_folder(tmp_path, size=20)
    words = [
        sys.executable,
        "-m",
        "pretrain",
        "--dataset",
        "toy",
        "--root",
        tmp_path,
        "--output",
        tmp_path / "t",
        *TOY["pretrain"],
    ]
    environment = {**os.environ, "GUARD_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [str(word) for word in words],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    printed = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], printed
    assert sum("is finished; --force" in out for out, _ in printed) == 1 and checkpoint.load(
        tmp_path / "t/checkpoint.pt"
    )
    assert not list((tmp_path / "cache").glob(".*"))


def run_sh(folder, *words, **options):
    return subprocess.Popen(
        ["bash", "run.sh", "-g", "-o", str(folder), "-u", "cpu", *words],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


def test_a_second_run_of_an_experiment_ends_at_once_and_is_told_who_is_there(tmp_path):
    first = run_sh(tmp_path, "-p", "--", "pretrain", "--epochs", "100000")
    try:
        while not list(tmp_path.rglob("24/.lock")):
            time.sleep(0.05)
        assert "epoch 1/" in next(line for line in first.stdout if "epoch 1/" in line)
        out, err = run_sh(tmp_path, "-p").communicate(timeout=60)
        assert out == "" and f"process {first.pid} on" in err and len(err.strip().splitlines()) == 1
        other = run_sh(tmp_path, "-x", "25")  # has no teacher yet, and is not kept out
        assert "there is no teacher" in other.communicate(timeout=60)[1]
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.communicate()


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="elsewhere a process does not learn of its parent's end"
)
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_a_stage_ends_with_its_killed_run(sent, tmp_path):
    """Else it would stay, where nobody looks for it, and hold the lock."""
    first = run_sh(tmp_path, "-p", "--", "pretrain", "--epochs", "100000")
    try:
        assert "epoch 1/" in next(line for line in first.stdout if "epoch 1/" in line)
        os.kill(first.pid, sent)
        first.communicate(timeout=30)  # to the end of what it prints, which a stage that lives holds open
        assert first.returncode == -sent
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(first.pid, signal.SIGKILL)


def test_two_records_of_one_shared_teacher_are_both_whole(toy, tmp_path):
    """Two students of one teacher, trained at the same time, evaluate it once."""
    shared = [
        sys.executable,
        "-m",
        "train",
        "--dataset",
        "toy",
        "--root",
        toy,
        "--teacher",
        tmp_path / "teacher/checkpoint.pt",
        "--distilled",
        toy / "images",
        "--labels",
        toy / "labels",
        *TOY["train"],
    ]
    (tmp_path / "teacher").mkdir()
    for name in ("checkpoint.pt", "log.json"):
        (tmp_path / "teacher" / name).write_bytes((toy / "teacher" / name).read_bytes())
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [str(word) for word in [*shared, "--seed", 0, "--output", tmp_path / name]],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
        )
        for name in "ab"
    ]
    assert [process.wait(120) for process in started] == [0, 0]
    evaluations = [
        records.read(tmp_path / name / "log.json")["evaluate teacher"] for name in ("teacher", "a", "b")
    ]
    assert evaluations[0] == evaluations[1] == evaluations[2] and evaluations[0]["complete"]
    assert set(records.read(tmp_path / "teacher/log.json")) == {"pretrain", "evaluate teacher"}


def test_who_is_in_a_folder_may_enter_it_again(tmp_path):
    with lock.held(tmp_path / "folder"):
        with lock.held(tmp_path / "folder", wait=True):
            assert (tmp_path / "folder" / lock.FILE).exists()
        assert (tmp_path / "folder" / lock.FILE).exists(), "who came first still holds it"
    assert not (tmp_path / "folder").exists()


def test_a_student_may_have_the_teachers_record(toy, tmp_path):
    """One folder and one log.json for all stages, as one who calls them by hand may have it."""
    shutil.copytree(toy / "teacher", tmp_path / "all")
    words = toy_student(toy, "--images", 1, "--epochs", 1, "--record", tmp_path / "all/log.json")
    words[words.index("--teacher") + 1] = tmp_path / "all/checkpoint.pt"
    assert forked.group([*words, "--output", tmp_path / "student"], tmp_path / "errors", 1) == [0]
    found = records.read(tmp_path / "all/log.json")
    assert {"pretrain", "train", "evaluate student", "evaluate teacher"} <= {*found}


def test_the_lock_says_which_command_holds_it(tmp_path):
    with lock.held(tmp_path):
        assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()
    assert command("guard.run.lock", tmp_path, os.open(tmp_path / ".lock", os.O_RDWR | os.O_CREAT), 7) == 0
    assert json.loads((tmp_path / ".lock").read_text())["process"] == 7
