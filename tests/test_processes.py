"""Two processes over gloo make what one makes: images, labels and evaluation bit for bit, networks to rounding."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, TOY

from guard import checkpoint, records


def two(*words):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)


@pytest.mark.skipif(torch.cuda.is_available(), reason="two processes would need two GPUs")
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


@pytest.mark.skipif(torch.cuda.is_available(), reason="two processes would need two GPUs")
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
