"""docs/extending.md: each of its six examples is one file and one row, and works as it stands there."""

import re
import shutil
import subprocess
import sys

import numpy
import pytest
from conftest import ROOT

from guard.run import records

PAGE = (ROOT / "docs/extending.md").read_text()
FILES = dict(re.findall(r"File `([^`]+)`:\n\n```python\n(.*?)```", PAGE, re.DOTALL))
ROWS = dict(re.findall(r"Row of `([^`]+)`:\n\n```python\n(.*?)```", PAGE, re.DOTALL))


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    """A copy of the project with the page's files and rows, and nothing else changed."""
    folder = tmp_path_factory.mktemp("scratch")
    for name in ("guard", "data", "pretrain", "recover", "relabel", "train", "results", "tests"):
        shutil.copytree(
            ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "raw", "runs")
        )
    for name, code in FILES.items():
        assert not (folder / name).exists()
        (folder / name).write_text(code)
    registry = (folder / "guard/registry.py").read_text()
    for table, row in ROWS.items():
        registry, count = re.subn(
            rf"(?m)^({table} = {{)$", lambda found, row=row: f"{found[1]}\n{row}", registry
        )
        assert count == 1, table
    (folder / "guard/registry.py").write_text(registry)
    return folder


def run(scratch, *words):
    """`python -m WORDS` in the scratch copy."""
    command = [sys.executable, "-m", *map(str, words)]
    return subprocess.run(command, cwd=scratch, capture_output=True, text=True, check=False)


def test_the_page_has_one_example_of_each_kind():
    assert set(ROWS) == {"ATTACKS", "MODELS", "REGULARIZERS", "DATA_SETS", "IMAGE_METHODS", "STUDENT_LOSSES"}
    assert len(FILES) == len(ROWS)


def test_all_six_work_in_one_experiment(scratch):
    draws = numpy.random.default_rng(0)
    arrays = {}
    for split in ("train", "val"):
        labels = numpy.arange(12) % 2
        noise = draws.integers(0, 100, (12, 16, 16, 3))
        arrays[f"{split}_images"] = (noise + 120 * labels.reshape(-1, 1, 1, 1)).astype(numpy.uint8)
        arrays[f"{split}_labels"] = labels
    numpy.savez(scratch / "lamps.npz", **arrays)
    data, teacher = ["--dataset", "lamps", "--root", "."], ["--teacher", "teacher/checkpoint.pt"]
    small = [
        "--model",
        "plain",
        "--image-size",
        16,
        "--augmentation",
        "none",
        "--epochs",
        3,
        "--batch-size",
        4,
    ]
    bent = ["--curvature", "--regularizer", "turning", "--lambda", 0.5, "--curvature-images", 0]
    labels = ["--labels", "online", "--epochs", 2, "--model", "plain", "--loss", "brier"]
    for words in (
        ["guard.data.find", "lamps", "--root", "."],
        ["pretrain", *data, "--output", "teacher", *small, *bent],
        [
            "recover",
            *data,
            *teacher,
            "--output",
            "run/images",
            "--method",
            "easiest",
            "--images-per-class",
            2,
        ],
        [
            "train",
            *data,
            *teacher,
            "--distilled",
            "run/images",
            *labels,
            "--output",
            "run",
            "--attacks",
            "noise",
        ],
    ):
        done = run(scratch, *words)
        assert done.returncode == 0, (words, done.stderr)
    record = records.read(scratch / "run/log.json")
    assert record["pretrain"]["settings"]["regularizer"] == "turning"
    assert record["train"]["settings"]["loss"] == "brier" and record["train"]["settings"]["model"] == "plain"
    assert set(record["evaluate student"]["attacks"]) == {"clean", "noise"}
    assert record["evaluate student"]["protocols"] == ["custom"]
    assert len(list((scratch / "run/images").glob("*/*.png"))) == 4


def test_the_attack_passes_the_tests_of_all(scratch):
    done = run(scratch, "pytest", "-p", "no:cacheprovider", "tests/math/test_attacks.py", "-k", "noise")
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout


def test_arrays_that_are_missing_are_named(scratch):
    numpy.savez(scratch / "short.npz", train_images=numpy.zeros((2, 16, 16, 3), "uint8"))
    code = (
        "from pathlib import Path; from guard.data import arrays;"
        " arrays.read(arrays.find('short', Path('.'), 'val'), 16)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=scratch, capture_output=True, text=True, check=False
    )
    assert "UserError: short.npz lacks val_images, val_labels; write it anew" in done.stderr


@pytest.mark.parametrize(
    ("module", "name"),
    [("pretrain", "turning"), ("recover", "easiest"), ("train", "brier")],
)
def test_the_flags_know_the_new_choice(module, name, scratch):
    assert name in run(scratch, module, "--help").stdout
    assert name not in run(ROOT, module, "--help").stdout
