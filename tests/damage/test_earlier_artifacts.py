"""Artifacts of an earlier version are finished work, not other work, although settings came and went since.

data/artifacts.tar.xz holds a whole debug run (bash run.sh -g -p -C), an accuracy curve and an adversarial
teacher of the version before settings were renamed.
"""

import dataclasses
import tarfile
from pathlib import Path

import pytest
from conftest import ROOT, command

from guard import recipes, setting_fields, settings
from guard.distilled import soft_labels
from guard.paper import records
from guard.run import storage
from guard.run.stage import differences

TEACHER, RUN = Path("runs/debug/teachers/digits/convnet-32/1"), Path("runs/debug/24")
MADE = ["--teacher", TEACHER / "checkpoint.pt", "--record", RUN / "log.json", "--device", "cpu"]
LAMBDA = ["--lambda", 30]  # the digits' of that time
COMMANDS = {
    "pretrain": [
        "--output",
        TEACHER,
        "--curvature",
        *LAMBDA,
        "--epochs",
        2,
        "--images",
        2,
        "--device",
        "cpu",
    ],
    "recover": [*MADE, "--output", RUN / "images", "--iterations", 2, "--images-per-class", 2],
    "relabel": [*MADE, "--distilled", RUN / "images", "--output", RUN / "labels", "--epochs", 2],
    "train": [
        *[*MADE, "--distilled", RUN / "images", "--labels", RUN / "labels", "--output", RUN / "student"],
        *["--epochs", 2, "--images", 2, "--protocol", "quick"],
    ],
}
ADVERSARIAL = [
    *["--epochs", 1, "--images", 2, "--gradient-regularization", "--adversarial", "f", "--h", 0.03],
    *LAMBDA,
]
BETAS = ["--loss-beta", 0.5, "--gradient-beta", 0.5, "--trades-beta", 0.5, "--curvature-images", 2]


@pytest.fixture
def earlier(tmp_path, monkeypatch):
    """The artifacts, unpacked in the working folder: path -> bytes of each file."""
    monkeypatch.chdir(tmp_path)
    with tarfile.open(ROOT / "tests/data/artifacts.tar.xz") as archive:
        # Python 3.11 knows filters from its fourth patch on, and later versions ask for one.
        archive.extractall(**({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    return {path: path.read_bytes() for path in Path("runs").rglob("*") if path.is_file()}


@pytest.mark.parametrize("stage", COMMANDS)
def test_what_is_finished_stays_finished(stage, earlier, capsys):
    assert command(stage, "--dataset", "digits", *COMMANDS[stage]) == 0
    assert capsys.readouterr().out.count("is finished; --force") == 1
    assert {path: path.read_bytes() for path in earlier} == earlier


def test_a_curve_is_taken_as_it_is(earlier, capsys):
    words = ["--checkpoint", RUN / "student/checkpoint.pt", "--dataset", "digits", "--images", 2]
    assert command("train.evaluate", *words, "--epsilon", "0,4/255", "--device", "cpu") == 0
    assert "4/255" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in earlier} == earlier


def test_one_setting_that_became_several_still_counts(earlier, capsys, refused):
    words = ["pretrain", "--dataset", "digits", "--output", "runs/adversarial", "--device", "cpu"]
    assert command(*words, *ADVERSARIAL, *BETAS, "--epsilon", 0.03) == 0
    assert "is finished" in capsys.readouterr().out
    assert "other epsilon;" in refused(*words, *ADVERSARIAL, *BETAS, "--epsilon", 0.02)
    assert "other gradient_beta;" in refused(
        *words, *ADVERSARIAL, *BETAS, "--epsilon", 0.03, "--gradient-beta", 0.4
    )


def with_a_new_setting(monkeypatch, stage):
    """Adds the setting `novelty`, 0 as before, to a stage, as somebody who extends the project would."""
    old = settings.STAGES[stage]
    field = ("novelty", int, setting_fields.setting(0, "something new", low=0))
    new = dataclasses.make_dataclass(old.__name__, [field], bases=(old,), frozen=True)
    monkeypatch.setitem(settings.STAGES, stage, new)
    digits = recipes.RECIPES["digits"]
    base = new(**dataclasses.asdict(getattr(digits, stage)))
    monkeypatch.setitem(recipes.RECIPES, "digits", dataclasses.replace(digits, **{stage: base}))
    if stage == "relabel":
        of_labels = dataclasses.make_dataclass("LabelRecipe", [("seed", int, 0)], bases=(new,), frozen=True)
        for module in ("guard.distilled.soft_labels", "guard.distilled.label_store"):
            monkeypatch.setattr(f"{module}.LabelRecipe", of_labels)
    assert soft_labels.LabelRecipe


@pytest.mark.parametrize("stage", COMMANDS)
def test_a_new_setting_at_its_neutral_default_refuses_nothing(stage, earlier, monkeypatch, capsys, refused):
    with_a_new_setting(monkeypatch, stage)
    assert command(stage, "--dataset", "digits", *COMMANDS[stage]) == 0
    assert "is finished" in capsys.readouterr().out
    expected = "other novelty;"
    assert expected in refused(stage, "--dataset", "digits", *COMMANDS[stage], "--novelty", 1)
    assert {path: path.read_bytes() for path in earlier} == earlier


def test_a_setting_that_was_always_there_still_refuses(earlier):
    manifest = storage.read_sealed(RUN / "images/manifest.json", "manifest")
    other = {**manifest, "settings": {**manifest["settings"], "r_bn": 3.0}}
    assert differences("recover", manifest, manifest) == []
    assert differences("recover", manifest, other) == ["r_bn"]


def test_all_records_know_every_setting_of_today():
    """Also those that were written before there was one, so that they stand beside newer ones."""
    found = records.read(ROOT / "results")
    assert len(found) > 100
    for run in found:
        for stage in COMMANDS:
            known = set(settings.as_dict(settings.STAGES[stage]()))
            assert known <= set(run.record[stage]["settings"]), (run.place, stage)
        pretrain = run.record["pretrain"]["settings"]
        assert "beta" not in pretrain and pretrain["loss_beta"] == pretrain["gradient_beta"]
