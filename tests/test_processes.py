"""Two processes over gloo make what one makes: images, labels and evaluation bit for bit, networks to rounding."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, TOY

from guard import checkpoint, cli, records

WITHOUT_A_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="two processes would need two GPUs")


def two(*words, start=subprocess.run, mark="", **options):
    command = [sys.executable, "-m", "guard.launch", "2", *map(str, words)]
    return start(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", "MARK": mark}, **(options or {"capture_output": True, "check": False}), text=True)


@WITHOUT_A_GPU
def test_two_processes_make_what_one_makes(toy, tmp_path):
    teacher = ["--teacher", toy / "teacher/checkpoint.pt"]
    done = two("recover", *teacher, "--output", tmp_path / "images", *TOY["recover"])
    assert done.returncode == 0, done.stderr
    for path in (toy / "images").glob("*/*.png"):
        assert (tmp_path / "images" / path.relative_to(toy / "images")).read_bytes() == path.read_bytes()
    done = two("relabel", *teacher, "--distilled", toy / "images", "--output", tmp_path / "labels", *TOY["relabel"])
    assert done.returncode == 0, done.stderr
    for path in (toy / "labels").glob("*.npy"):
        assert (tmp_path / "labels" / path.name).read_bytes() == path.read_bytes()
    (tmp_path / "labels" / "epoch_0001.npy").unlink()
    again = two("relabel", *teacher, "--distilled", toy / "images", "--output", tmp_path / "labels", *TOY["relabel"])
    assert again.returncode == 0 and (tmp_path / "labels" / "epoch_0001.npy").read_bytes() == (toy / "labels" / "epoch_0001.npy").read_bytes()


@WITHOUT_A_GPU
def test_two_processes_train_one_teacher_and_evaluate_it(toy, tmp_path):
    done = two("pretrain", "--dataset", "toy", "--root", toy, "--output", tmp_path, *TOY["pretrain"], "--curvature", "--batch-size", 12, "--augmentation", "none")
    assert done.returncode == 0, done.stderr
    assert records.read(tmp_path / "log.json")["pretrain"]["environment"]["processes"] == 2
    assert all(tensor.isfinite().all() for tensor in checkpoint.load(tmp_path / "checkpoint.pt").state.values())
    shared = ["--dataset", "toy", "--root", toy, "--checkpoint", toy / "teacher/checkpoint.pt", "--workers", 0, "--protocol", "quick", "--epsilon", "8/255", "--attack-batch", 1]
    assert two("train.evaluate", *shared, "--record", tmp_path / "two.json").returncode == 0
    from conftest import command

    assert command("train.evaluate", *shared, "--record", tmp_path / "one.json") == 0
    one, both = (records.read(tmp_path / name)["evaluate teacher"]["attacks"] for name in ("one.json", "two.json"))
    assert {name: result["broken"] for name, result in one.items()} == {name: result["broken"] for name, result in both.items()}


def test_an_error_of_several_processes_is_one_line(toy, tmp_path):
    done = two("relabel", "--teacher", tmp_path / "none.pt", "--distilled", toy / "images", "--output", tmp_path / "labels", *TOY["relabel"])
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == [f"error: no checkpoint at {tmp_path / 'none.pt'}; train one first, or name another file"]


def long_training(toy, tmp_path):
    """A started training of two processes that would last for minutes, once it is in its first epochs."""
    words = ["pretrain", "--dataset", "toy", "--root", toy, "--output", tmp_path, *TOY["pretrain"], "--epochs", 100000]
    started = two(*words, start=subprocess.Popen, mark=str(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    assert "epoch 1/" in started.stdout.readline()
    return started


def processes_of(mark):
    """Process ids of the training processes that were started with this mark, by rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            variables = dict(entry.split("=", 1) for entry in (folder / "environ").read_text().split("\0") if "=" in entry)
            if variables.get("MARK") == str(mark) and "RANK" in variables:
                found[int(variables["RANK"])] = int(folder.name)
        except OSError:
            continue
    return found


@WITHOUT_A_GPU
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
def test_a_process_that_dies_ends_the_others_and_is_named(toy, tmp_path):
    started = long_training(toy, tmp_path)
    os.kill(processes_of(tmp_path)[1], signal.SIGKILL)
    _, printed = started.communicate(timeout=30)
    assert started.returncode == 137
    assert printed.strip() == "error: process 1 of 2 ended with signal 9, so the others were stopped; give the same command again to go on"
    assert not processes_of(tmp_path)


@WITHOUT_A_GPU
def test_an_interrupt_of_several_processes_is_one_line(toy, tmp_path):
    started = long_training(toy, tmp_path)
    os.killpg(started.pid, signal.SIGINT)
    _, printed = started.communicate(timeout=30)
    assert started.returncode == 130
    assert printed.strip() == cli.INTERRUPTED
