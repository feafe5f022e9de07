"""The toy run of all four stages, as a user starts it: the first test."""

import subprocess
import time

from conftest import ROOT
from PIL import Image

from guard.run import records


def run_sh(*arguments):
    return subprocess.run(
        ["bash", "run.sh", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False
    )


def test_toy_run_of_all_stages(tmp_path):
    started = time.monotonic()
    done = run_sh("-g", "-p", "-C", "-o", tmp_path, "-u", "cpu")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 60
    assert "| teacher |" in done.stdout and "| student |" in done.stdout and "images.png" in done.stdout

    teacher, experiment = tmp_path / "debug/teachers/digits/convnet-32/1", tmp_path / "debug/24"
    entries = records.read(experiment / "log.json")
    assert set(entries) == {"pretrain", "recover", "relabel", "train", "evaluate teacher", "evaluate student"}
    assert {"pretrain", "evaluate teacher"} <= set(records.read(teacher / "log.json"))
    assert entries["pretrain"]["environment"]["command"].startswith("python -m pretrain --dataset digits")
    for entry in entries.values():
        assert {"torch", "device", "commit"} <= set(entry["environment"])
    assert len(list((experiment / "images").glob("*/*.png"))) == 20
    assert len(list((experiment / "labels").glob("epoch_*.npy"))) == 2
    for picture in ("images.png", "curves.png", "robustness.png"):
        with Image.open(experiment / picture) as image:
            assert min(image.size) > 100
    report = (experiment / "report.md").read_text()
    assert "pgd20" in report and "largest eigenvalue" in report and not list(tmp_path.rglob("*.part"))

    again = run_sh("-g", "-p", "-C", "-o", tmp_path, "-u", "cpu")
    assert again.returncode == 0 and again.stdout.count("finished") == 4
    other = run_sh("-g", "-p", "-o", tmp_path, "-u", "cpu")
    assert (
        other.returncode == 2
        and "other curvature" in other.stderr
        and len(other.stderr.strip().splitlines()) == 1
    )
